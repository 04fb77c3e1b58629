"""What a table of SQL is: a datasource's raw or rejected events, or one of its rollups; its columns under their own names.

A rollup has one row per bucket and values of its dimensions, with those metrics that are plain numbers. Sketches (uniques,
quantiles, tops) are no columns: SQL could not add them up. They answer APPROX_COUNT_DISTINCT and APPROX_QUANTILE on the raw
table (`rta.query.sql.rollups`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from rta.errors import InvalidQueryError, NotFoundError
from rta.events.schemas import (
    DATASOURCE_NAME,
    EVENTS,
    ID_HI,
    ID_LO,
    REJECTED,
    REJECTED_SCHEMA,
    TIME,
    Datasource,
    MetricType,
    Rollup,
)

SHOWN_TYPES: dict[pa.DataType, str] = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("ms", tz="UTC"): "TIMESTAMPTZ",
    pa.list_(pa.string()): "VARCHAR[]",
}


class Merge(StrEnum):
    """How a column of rollup rows of one bucket and dimensions comes together."""

    KEY = "key"
    SUM = "sum"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class SqlColumn:
    """A column as SQL shows it. `counted` names the stored column that says how many values a sum is of."""

    name: str
    type: pa.DataType
    merge: Merge = Merge.KEY
    counted: str | None = None

    @property
    def shown_type(self) -> str:
        return SHOWN_TYPES[self.type]


@dataclass(frozen=True, slots=True)
class SqlTable:
    """A table of a datasource.

    Args:
        rollup: None for single rows, raw or rejected.
        stored: The stored table's name.
        schema: What is read of it.
        columns: What is shown, in this order.
    """

    datasource: Datasource
    rollup: Rollup | None
    stored: str
    schema: pa.Schema
    columns: tuple[SqlColumn, ...]

    @property
    def name(self) -> str:
        if self.rollup is not None:
            return f"{self.datasource.name}.{self.rollup.name}"
        return self.datasource.name if self.stored == EVENTS else f"{self.datasource.name}.{self.stored}"


@dataclass(frozen=True, slots=True)
class TableName:
    """A table's name taken apart: `part` is empty for raw events."""

    datasource: str
    part: str

    @property
    def text(self) -> str:
        return f"{self.datasource}.{self.part}" if self.part else self.datasource


def unqualified(path: Sequence[str]) -> tuple[str, ...]:
    """A path without the names of the catalog and the schema that everything is in."""
    names = tuple(path)
    while len(names) > 1 and names[0].lower() in ("memory", "main"):
        names = names[1:]
    return names


def table_name(path: Sequence[str]) -> TableName:
    """The datasource and the part of it that a path in a statement means. Raises InvalidQueryError."""
    joined = ".".join(unqualified(path))
    datasource, _, part = joined.partition(".")
    if DATASOURCE_NAME.fullmatch(datasource.lower()) is None or len(joined) > 256 or "/" in joined:
        raise InvalidQueryError(
            f"'{joined[:64]}' is no table's name; files can't be read here",
            'write a datasource, or "datasource.rollup"',
        )
    return TableName(datasource.lower(), part)


def table_of(datasource: Datasource, part: str) -> SqlTable:
    """A datasource's table.

    Raises:
        NotFoundError: it has no such table, or keeps nothing in it.
    """
    found = next((t for t in _tables(datasource, [part])), None)
    if found is None:
        names = [t.name for t in tables_of(datasource)]
        wanted = f"{datasource.name}.{part}" if part else datasource.name
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
        hint = f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(names)}"
        raise NotFoundError(f"datasource '{datasource.name}' has no table '{wanted[:100]}'", hint)
    return found


def tables_of(datasource: Datasource) -> list[SqlTable]:
    """All of a datasource's tables."""
    return list(_tables(datasource, ["", REJECTED, *(r.name for r in datasource.rollups)]))


def _tables(datasource: Datasource, parts: Iterable[str]) -> Iterable[SqlTable]:
    kept = datasource.retention
    for part in parts:
        rollup = datasource.rollup(part) or _only_like(datasource, part)
        if rollup is not None:
            yield _rollup_table(datasource, rollup)
        elif part in ("", EVENTS) and kept.events_ms is not None:
            yield _row_table(datasource, EVENTS, datasource.raw_schema())
        elif part.lower() == REJECTED and kept.rejected_ms is not None:
            yield _row_table(datasource, REJECTED, REJECTED_SCHEMA)


def _only_like(datasource: Datasource, part: str) -> Rollup | None:
    """The one rollup of this name in other letters: names in SQL are alike in upper and lower case."""
    found = [r for r in datasource.rollups if r.name.lower() == part.lower()]
    return found[0] if len(found) == 1 else None


def _row_table(datasource: Datasource, table: str, stored: pa.Schema) -> SqlTable:
    schema = pa.schema([f for f in stored if f.name not in (ID_HI, ID_LO)])
    return SqlTable(datasource, None, table, schema, tuple(SqlColumn(f.name, f.type) for f in schema))


def _rollup_table(datasource: Datasource, rollup: Rollup) -> SqlTable:
    stored = datasource.rollup_schema(rollup)
    columns = [SqlColumn(name, stored.field(name).type) for name in (TIME, *rollup.dimensions)]
    read = [c.name for c in columns]
    for metric in rollup.metrics:
        merge = _MERGES.get(metric.type)
        if merge is None:
            continue
        counted = metric.n if metric.type is MetricType.SUM else None
        columns.append(SqlColumn(metric.name, stored.field(metric.name).type, merge, counted))
        read += [metric.name] + ([counted] if counted else [])
    return SqlTable(datasource, rollup, rollup.table, pa.schema([stored.field(n) for n in read]), tuple(columns))


_MERGES = {
    MetricType.COUNT: Merge.SUM,
    MetricType.SUM: Merge.SUM,
    MetricType.MIN: Merge.MIN,
    MetricType.MAX: Merge.MAX,
}
