"""Compaction: many small files of one table and date become one, with the same rows in all.

Owns the choice of files (by size class, so that a row is rewritten a logarithmic number of times), the rewriting,
the proof that nothing was lost or doubled, and one Delta commit without a data change. A crash at any point leaves the
table as it was or as it is meant to be. Raw and rejected rows are put into the order of time; rollup rows of one key are
merged by a function that the caller gives. Deletes nothing: what is no longer named is the sweep's.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from rta.errors import CorruptFileError, InvariantError
from rta.events.keys import id_sum, identities_of
from rta.events.schemas import EVENTS, REJECTED, TIME, Datasource
from rta.store import jobs, layout
from rta.store.delta_log import DeltaLog, NewCommit, TableState
from rta.store.model import FileRef
from rta.store.objects import ObjectStore
from rta.store.parquet import read_one, write_table_file
from rta.store.tables import table_schemas
from rta.stream.columns import fit
from rta.stream.model import TableWrite

Merge = Callable[[list[pl.DataFrame]], pl.DataFrame]
FILES_MIN = 8
FILES_MAX = 64
ROWS_MAX = 500_000
"""Rows of an output: with 25 columns about 250 MB while it is written."""
REJECTED_ROWS_MAX = 10_000
"""The same of rejected events, which may have 64 KiB each: 650 MB at the worst, usually some megabytes."""
CLASS_FACTOR = 4
CLASS_ROWS = 1000
DAY_MS = 86_400_000
ARRIVAL_SPANS = 8
"""Spans of arrival in a retention: merging lets a row stay for an eighth longer at most."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What one compaction did."""

    table: str
    date: str
    inputs: int
    output: FileRef


def choose_files(
    files: Sequence[FileRef], files_min: int = FILES_MIN, kept_ms: int | None = None, rows_max: int = ROWS_MAX
) -> tuple[FileRef, ...]:
    """Files of one date and size class that are worth merging, the smallest class first; none when all is well.

    At most `files_min - 1` files of each class stay, so a date keeps a few dozen files however many arrive.

    Args:
        kept_ms: The table's retention, which also counts from when rows were written. Files are then merged only with
            those of the same eighth of it, or old rows would stay for as long as late ones keep coming to their date.
        rows_max: Of an output; a file with half as many is left alone.
    """
    span_ms = max(DAY_MS, -(-kept_ms // ARRIVAL_SPANS)) if kept_ms is not None else None
    classes: dict[tuple[int, str, int], list[FileRef]] = {}
    for file in files:
        if file.rows < rows_max // 2:
            arrival = 0 if span_ms is None else (file.written_ms or 0) // span_ms
            classes.setdefault((_size_class(file), file.date, arrival), []).append(file)
    for _, members in sorted(classes.items()):
        if len(members) < files_min:
            continue
        chosen: list[FileRef] = []
        rows = 0
        for file in sorted(members, key=lambda member: (member.time_min_ms, member.path))[:FILES_MAX]:
            if chosen and rows + file.rows > rows_max:
                break
            chosen.append(file)
            rows += file.rows
        if len(chosen) > 1:
            return tuple(chosen)
    return ()


def _size_class(file: FileRef) -> int:
    size, rows = 0, CLASS_ROWS
    while file.rows >= rows:
        size, rows = size + 1, rows * CLASS_FACTOR
    return size


class Compactor:
    """Compacts the tables of one datasource; one per thread. `generation` is the coordinator's."""

    def __init__(
        self, store: ObjectStore, datasource: Datasource, generation: int, merges: Mapping[str, Merge] | None = None
    ) -> None:
        """`merges` gives, per rollup table, what merges its rows by key; `rta.stream.rollups` does where it is None."""
        self._store = store
        self._datasource = datasource
        self._folder = datasource.folder
        self._generation = generation
        self._schemas = table_schemas(datasource)
        self._merges = default_merges(datasource) if merges is None else merges

    def compact(self, log: DeltaLog, inputs: Sequence[FileRef], now_ms: int) -> Compacted | None:
        """Merge files of one table and date. None when somebody else has rewritten one of them meanwhile.

        Raises:
            CorruptFileError: an input can't be read, or has other rows than were committed.
            InvariantError: the output would not hold what the inputs hold; nothing was committed.
        """
        started = time.monotonic()
        name = layout.parquet_name(layout.COMPACTION, self._generation, uuid.uuid4().int >> 66, 0)
        date = inputs[0].date
        key = layout.table_file(self._folder, log.table, layout.dated(date, name))
        job = jobs.register(self._store, self._folder, (key,), now_ms)
        output = self._write(log.table, inputs, name)
        paths = [file.path for file in inputs]

        def build(state: TableState) -> NewCommit | None:
            elapsed_ms = int((time.monotonic() - started) * 1000)
            if now_ms + elapsed_ms >= job.lease_until_ms or any(path not in state.files for path in paths):
                return None
            if not self._store.exists(key):
                return None
            return NewCommit("OPTIMIZE", now_ms, add=(output,), remove=tuple(inputs), data_change=False)

        if not log.commit(build):
            return None
        jobs.finish(self._store, self._folder, job)
        return Compacted(log.table, date, len(inputs), output)

    def _write(self, table: str, inputs: Sequence[FileRef], name: str) -> FileRef:
        parts = [self._read(file) for file in inputs]
        schema = self._schemas.get(table) or pa.unify_schemas([part.schema for part in parts])
        parts = [fit(part, schema) for part in parts]
        merge = self._merges.get(table)
        merged = pa.concat_tables(parts) if merge is None else self._merged(parts, merge, schema)
        ref = TableWrite(
            table=table,
            date=inputs[0].date,
            rows=merged,
            time_min_ms=min(file.time_min_ms for file in inputs),
            time_max_ms=max(file.time_max_ms for file in inputs),
        )
        expected = [sum(column) for column in zip(*(self._proof(table, part) for part in parts), strict=True)]
        del parts, merged
        written_ms = max((file.written_ms for file in inputs if file.written_ms is not None), default=None)
        output = msgspec.structs.replace(write_table_file(self._store, self._folder, ref, name), written_ms=written_ms)
        found = list(self._proof(table, fit(self._read(output), schema)))
        if [value % (1 << 64) for value in expected] != [value % (1 << 64) for value in found]:
            raise InvariantError(
                f"compacting {len(inputs)} files of table '{table}' of '{self._folder}' from {inputs[0].date}: they "
                f"hold {expected}, the output '{name}' holds {found}"
            )
        return output

    def _merged(self, parts: Sequence[pa.Table], merge: Merge, schema: pa.Schema) -> pa.Table:
        frames = [frame for part in parts if isinstance(frame := pl.from_arrow(part), pl.DataFrame)]
        return fit(merge(frames).to_arrow(compat_level=pl.CompatLevel.oldest()), schema)

    def _read(self, file: FileRef) -> pa.Table:
        rows = read_one(self._store, self._folder, file)
        if rows.num_rows != file.rows:
            key = layout.table_file(self._folder, file.table, file.path)
            raise CorruptFileError(
                f"compacting: the file '{key}' has {rows.num_rows} rows, {file.rows} were committed",
                "restore it from a backup",
            )
        return rows

    def _proof(self, table: str, rows: pa.Table) -> tuple[int, ...]:
        """Numbers that merging must not change, each a sum over the files."""
        if table == EVENTS:
            return rows.num_rows, id_sum(identities_of(rows, self._datasource))
        if table == REJECTED:
            return rows.num_rows, pc.sum(rows.column("offset"), min_count=0).as_py()
        rollup = next((rollup for rollup in self._datasource.rollups if rollup.table == table), None)
        if rollup is None:
            return (rows.num_rows,)
        counts = [rollup.count.name, *(metric.n for metric in rollup.metrics if metric.n in rows.column_names)]
        return tuple(pc.sum(rows.column(name), min_count=0).as_py() for name in counts)


def default_merges(datasource: Datasource) -> dict[str, Merge]:
    """Rollup rows of one key are merged as the fold merges them; rejected rows stand in the order of their offsets."""
    from rta.stream.rollups import merge_partials

    def merge_of(name: str) -> Merge:
        rollup = datasource.rollup(name)
        assert rollup is not None
        return lambda parts: merge_partials(parts, rollup, datasource).sort(TIME)

    merges: dict[str, Merge] = {rollup.table: merge_of(rollup.name) for rollup in datasource.rollups}
    merges[REJECTED] = lambda parts: pl.concat(parts).sort("partition", "offset", nulls_last=True)
    return merges
