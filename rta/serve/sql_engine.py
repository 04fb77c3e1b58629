"""The SQL engine: DuckDB without files, network or settings beyond the tables it is given.

Owns how tables are laid before the engine: Parquet files and the hot rows beyond them as one view, null for columns that a file
is too old to have, rollup rows merged to one per bucket and dimensions. Runs in a scan worker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from rta.query.sql.tables import SHOWN_TYPES, Merge, SqlColumn, SqlTable
from rta.serve.sql_files import add_files, engine_folders, engine_path
from rta.store.layout import table_file

if TYPE_CHECKING:
    import duckdb

    from rta.store.model import FileRef
    from rta.store.objects import ObjectStore

MEMORY_SHARE = 0.8
"""Of what a question may use: the engine stops by itself, and says so, before the process has to end."""
_SHUT = {
    "temp_directory": "",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",
}
_LONG_NAMES = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}


@dataclass(frozen=True, slots=True)
class TableRead:
    """A table of a statement, and what it is made of.

    Args:
        paths: How the statement calls it, each a tuple of one or two names.
        files: Of its stored table, in the range of the statement.
        hot: Rows beyond them as an Arrow IPC stream; empty where there are none.
        wanted: The stored columns that the statement can read.
    """

    table: SqlTable
    paths: tuple[tuple[str, ...], ...]
    files: tuple[FileRef, ...] = ()
    hot: bytes = b""
    wanted: tuple[str, ...] = ()


class Engine:
    """One DuckDB, shut: it reaches the store's files and nothing else, and its settings are locked.

    It is kept between statements (starting one costs 16 ms, and what it knows of files stays known); each runs in a transaction
    that is rolled back, so that nothing of a statement or its tables is left for the next one. One thread at a time.

    Args:
        memory_bytes: What a statement may use.
    """

    def __init__(self, store: ObjectStore, memory_bytes: int) -> None:
        import duckdb

        limits = {
            "memory_limit": f"{int(memory_bytes * MEMORY_SHARE) // 1024} KiB",
            "threads": str(pl.thread_pool_size()),
        }
        self._store = store
        self._connection = duckdb.connect(":memory:", config={**_SHUT, **limits})
        add_files(self._connection, store)
        for statement in (
            "SET TimeZone = 'UTC'",
            f"SET allowed_directories = [{', '.join(map(_text, engine_folders(store)))}]",
            "SET validate_external_file_cache = 'NO_VALIDATION'",  # files never change
            "SET enable_external_access = false",
            "SET lock_configuration = true",
        ):
            self._connection.execute(statement)

    @contextmanager
    def holding(
        self, reads: Sequence[TableRead], catalog: Sequence[SqlTable] = ()
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """The engine with these tables, and no others.

        Args:
            catalog: Tables that are there by name and columns only, for statements that ask which there are.
        """
        connection = self._connection
        connection.execute("BEGIN TRANSACTION")
        try:
            for read in reads:
                self._lay(read)
            _lay_catalog(connection, catalog, {read.table.name.lower() for read in reads})
            yield connection
        finally:
            connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()

    def _lay(self, read: TableRead) -> None:
        table, connection = read.table, self._connection
        whole = self._rows(read)
        if table.rollup is None:
            shown = whole.project(", ".join(_name(c.name) for c in table.columns))
        else:
            keys = [_name(c.name) for c in table.columns if c.merge is Merge.KEY]
            metrics = [_merged(c) for c in table.columns if c.merge is not Merge.KEY]
            shown = whole.aggregate(", ".join((*keys, *metrics)), ", ".join(keys))
        shown.create_view(table.name)
        for path in read.paths:
            if path == (table.name,):
                continue
            if len(path) > 1:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_name(path[0])}")
            connection.execute(f"CREATE VIEW {'.'.join(map(_name, path))} AS FROM main.{_name(table.name)}")

    def _rows(self, read: TableRead) -> duckdb.DuckDBPyRelation:
        """All rows of a table, those in files and those beyond them."""
        schema, connection = read.table.schema, self._connection
        parts = []
        if read.files:
            folder = read.table.datasource.folder
            paths = [engine_path(self._store, table_file(folder, file.table, file.path)) for file in read.files]
            source = f"read_parquet([{', '.join(map(_text, paths))}], union_by_name = true, hive_partitioning = false)"
            files = connection.sql(f"FROM {source}")
            there = dict(zip(files.columns, map(str, files.types), strict=True))
            parts.append(files.project(", ".join(_stored(field, there) for field in schema)))
        if read.hot:
            rows = pa.ipc.open_stream(read.hot).read_all()
            parts.append(connection.from_arrow(rows.select(schema.names)))
        if not parts:
            parts.append(connection.sql(f"SELECT {', '.join(map(_absent, schema))} WHERE false"))
        return parts[0].union(parts[1]) if len(parts) > 1 else parts[0]


def _lay_catalog(connection: duckdb.DuckDBPyConnection, tables: Sequence[SqlTable], laid: Collection[str]) -> None:
    taken = set(laid)
    for table in tables:
        if table.name.lower() in taken:
            continue
        taken.add(table.name.lower())
        columns = ", ".join(f"{_name(c.name)} {c.shown_type}" for c in table.columns)
        connection.execute(f"CREATE TABLE main.{_name(table.name)} ({columns})")


def _stored(field: pa.Field, there: dict[str, str]) -> str:
    """A column of files under its name and in its type; null where none of them has it."""
    if field.name not in there:
        return _absent(field)
    wanted = SHOWN_TYPES[field.type]
    if there[field.name] in (wanted, _LONG_NAMES.get(wanted)):
        return _name(field.name)
    return f"CAST({_name(field.name)} AS {wanted}) AS {_name(field.name)}"


def _absent(field: pa.Field) -> str:
    return f"CAST(NULL AS {SHOWN_TYPES[field.type]}) AS {_name(field.name)}"


def _merged(column: SqlColumn) -> str:
    """A metric of rollup rows of one bucket and dimensions, whatever parts they lie in."""
    name = _name(column.name)
    found = f"{column.merge}({name})"
    if column.merge is Merge.SUM and column.type == pa.int64():
        # As everywhere in rta, sums of whole numbers stay at the bounds of 64 bits.
        found = f"CAST(least(greatest({found}, {-(2**63)}), {2**63 - 1}) AS BIGINT)"
    if column.counted is not None:
        found = f"CASE WHEN sum({_name(column.counted)}) > 0 THEN {found} END"
    return f"{found} AS {name}"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
