"""What a statement reads: of which views, which tables, in which times, and the rows of them that lie beyond the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from rta.events.schemas import TIME, TIMESTAMP
from rta.query.answer import format_time
from rta.query.sql.ranges import ALL_TIME, Constants, time_range
from rta.query.sql.statement import Statement, is_catalog
from rta.query.sql.tables import SqlTable, TableName, table_name, table_of, unqualified
from rta.serve.ports import View
from rta.serve.scan_task import Finished, rows_stream
from rta.serve.sql_answer import Answered, Form, rendered
from rta.serve.sql_engine import TableRead
from rta.store.model import FileRef
from rta.store.parquet import within_range


@dataclass(frozen=True, slots=True)
class Source:
    """A table of the statement: how it is called there, and what it reads of a view in which range."""

    table: SqlTable
    view: View
    paths: tuple[tuple[str, ...], ...]
    range_ms: tuple[int, int]
    files: tuple[FileRef, ...]
    parts: tuple[str, ...]
    wanted: tuple[str, ...]

    @property
    def described(self) -> dict[str, Any]:
        """For EXPLAIN."""
        return {
            "table": self.table.name,
            "stored": self.table.stored,
            "time_range": f"{format_time(self.range_ms[0])}/{format_time(self.range_ms[1])}",
            "files": len(self.files),
            "rows": sum(file.rows for file in self.files),
            "bytes": sum(file.bytes for file in self.files),
            "hot": bool(self.parts),
            "columns": list(self.wanted),
        }

    async def read(self) -> TableRead:
        """All of it for the engine. Raises ViewGoneError."""
        table, hot = self.table, b""
        if self.parts:
            if table.rollup is not None:
                rows = _of_partials(self.view.partials(table.rollup.name), table.schema)
            else:
                rows = (await self.view.rows(table.stored)).select(table.schema.names)
            rows = _in_range(rows, self.range_ms)
            hot = rows_stream(rows) if rows.num_rows else b""
        return TableRead(table, self.paths, self.files, hot, self.wanted)


@dataclass
class _Names:
    """The tables that a statement names: per datasource and part, as which paths and at which places in the tree."""

    paths: dict[TableName, set[tuple[str, ...]]] = field(default_factory=dict)
    nodes: dict[TableName, list[exp.Table]] = field(default_factory=dict)


def sources(statement: Statement, views: Mapping[str, View], constants: Constants) -> tuple[Source, ...]:
    """What a statement reads, a table once however often it is named.

    Args:
        views: By the name of their datasource.

    Raises:
        NotFoundError: there is no such table.
        ViewGoneError: a view names what is no longer known.
    """
    names = _named_tables(statement)
    found: dict[str, Source] = {}
    for name, paths in names.paths.items():
        view = views[name.datasource]
        table = table_of(view.datasource, name.part)
        ranges = [time_range(node, constants) for node in names.nodes[name]]
        before = found.get(table.name)  # the same table in other letters
        if before is not None:
            ranges, paths = [*ranges, before.range_ms], paths | set(before.paths)
        span = min(start for start, _ in ranges), max(end for _, end in ranges)
        found[table.name] = Source(
            table=table,
            view=view,
            paths=tuple(sorted(paths)),
            range_ms=span,
            files=tuple(within_range(view.files(table.stored), span)),
            parts=tuple(view.parts(table.stored, *span)),
            wanted=_wanted(table, statement),
        )
    return tuple(found.values())


def explained(described: Sequence[Mapping[str, Any]], form: Form) -> Finished:
    """The answer of EXPLAIN, one row per table."""
    rows = [{name: row[name] for name in _EXPLAINED.names} for row in described]
    answer = Answered(pa.Table.from_pylist(rows, schema=_EXPLAINED), frozenset(), False)
    return Finished(rendered(answer, form), {}, False, None, len(rows))


def _named_tables(statement: Statement) -> _Names:
    names = _Names()
    for ref in statement.tables:
        if is_catalog(ref.path):
            continue
        name = table_name(ref.path)
        names.paths.setdefault(name, set()).add(unqualified(ref.path))
        names.nodes.setdefault(name, []).append(ref.node)
    return names


def _wanted(table: SqlTable, statement: Statement) -> tuple[str, ...]:
    """The stored columns that the statement can read."""
    if statement.names is None or table.rollup is not None:
        return tuple(table.schema.names)
    return tuple(name for name in table.schema.names if name.lower() in statement.names)


def _of_partials(frames: Sequence[pl.DataFrame], schema: pa.Schema) -> pa.Table:
    if not frames:
        return schema.empty_table()
    rows: pa.Table = pl.concat([f.select(schema.names) for f in frames]).to_arrow(compat_level=pl.CompatLevel.oldest())
    return rows.cast(schema)


def _in_range(rows: pa.Table, range_ms: tuple[int, int]) -> pa.Table:
    if range_ms == ALL_TIME:
        return rows
    times = rows.column(TIME)
    start, end = (pa.scalar(bound, pa.int64()).cast(TIMESTAMP) for bound in range_ms)
    return rows.filter(pc.and_(pc.greater_equal(times, start), pc.less(times, end)))


_EXPLAINED = pa.schema(
    [
        ("table", pa.string()),
        ("stored", pa.string()),
        ("time_range", pa.string()),
        ("files", pa.int64()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("hot", pa.bool_()),
        ("columns", pa.list_(pa.string())),
    ]
)
