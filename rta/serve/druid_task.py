"""A native query of Druid's as a task for a scan worker: files and hot rows in, the answer's JSON out.

Runs in `rta.serve.scan_worker`'s process, small queries without files in the replica itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from rta.druid.periods import Interval
from rta.druid.query import NativeQuery, parse_query
from rta.druid.reads import names_read, stored_columns
from rta.druid.run import run
from rta.druid.table import Table, raw_table, rollup_table
from rta.events.schemas import Datasource, Rollup
from rta.query.shape import shape_of
from rta.serve.scan_protocol import Reads, named_failures
from rta.store.parquet import check_files, scan_files

if TYPE_CHECKING:
    from rta.store.model import FileRef
    from rta.store.objects import ObjectStore


COLUMNS_ABOUT = 4


@dataclass(frozen=True, slots=True)
class TableRead:
    """A table that a query names, and the rows of it that the query can be about.

    Args:
        name: As the query calls it.
        rollup: None for a table of single rows, which `table` names.
        hot: Rows beyond the files as an Arrow IPC stream; none where it is empty.
        bounds: First and last time of all that the table holds; the first after the last when that is nothing.
    """

    name: str
    datasource: Datasource
    rollup: Rollup | None
    table: str
    files: tuple[FileRef, ...]
    hot: bytes
    bounds: Interval | None


@dataclass(frozen=True, slots=True)
class DruidTask:
    """A query for a worker; a `rta.serve.scan_protocol.Task`. The query travels as the document that it was read from."""

    document: Mapping[str, Any]
    store: ObjectStore
    reads: tuple[TableRead, ...]
    time_limit_s: float

    @property
    def cells(self) -> int:
        """A query names a handful of columns; which of them the files have is found out when it runs."""
        return sum(file.rows * COLUMNS_ABOUT for read in self.reads for file in read.files)

    @property
    def code(self) -> str:
        return "druid"

    def load(self) -> None:
        """The sketches, and the reader of JSON paths with what it compiles."""
        import datasketches  # noqa: F401  # only so that it is there

        from rta.query.paths import values_at

        values_at(pl.Series(['{"a":{"b":1}}']), ("a", "b"))

    def run(self) -> bytes:
        """The answer. Raises InvalidInputError, UnsupportedError, CorruptFileError, OutOfMemoryError, UnavailableError."""
        reads = [Reads(r.datasource.folder, r.files) for r in self.reads]
        return named_failures(self.store, reads, "answering a native query", self._answer)

    def _answer(self) -> bytes:
        query = parse_query(self.document)
        return run(query, {read.name: _table(read, query, self.store) for read in self.reads})


def schema_of(read: TableRead) -> pa.Schema:
    if read.rollup is not None:
        return read.datasource.rollup_schema(read.rollup)
    return shape_of(read.datasource, read.table).schema


def _table(read: TableRead, query: NativeQuery, store: ObjectStore) -> Table:
    schema = schema_of(read)
    empty = pl.from_arrow(schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    names = stored_columns(_named(empty.lazy(), read), names_read(query))
    wanted = pa.schema([schema.field(name) for name in names])
    parts: list[pl.LazyFrame] = []
    if read.files:
        check_files(store, read.datasource.folder, read.files, names)
        parts.append(scan_files(store, read.datasource.folder, read.files, wanted))
    if read.hot:
        hot = pl.from_arrow(pa.ipc.open_stream(read.hot).read_all())
        assert isinstance(hot, pl.DataFrame)
        parts.append(hot.lazy().select(pl.col(name).cast(empty.schema[name]) for name in names))
    frame = pl.concat(parts) if parts else empty.lazy().select(names)
    return _named(frame, read)


def _named(frame: pl.LazyFrame, read: TableRead) -> Table:
    if read.rollup is not None:
        return rollup_table(frame, read.datasource, read.rollup, read.bounds)
    return raw_table(frame, shape_of(read.datasource, read.table), read.bounds)
