"""Rows that are folded but in no file yet, by partition: rollup rows, raw rows and rejected ones.

Owns when partial rows are merged on the way, so that memory and the work of a cut stay small. Does not decide what is
written; `rta.stream.epoch` does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rta.events.schemas import REJECTED_SCHEMA, Datasource, Rollup
from rta.stream.columns import Columns
from rta.stream.grouping import Ints
from rta.stream.rollups import build_partials, merge_tables, partial_schema

MERGE_ROWS = 200_000
"""Rows added since the last merge that make a merge worth its while; never fewer than there were after it."""


class Accepted(NamedTuple):
    """Rows that were not duplicates, ordered by partition, with each one's partition."""

    columns: Columns
    partition: Ints


class UnwrittenRollup:
    """Partial rows of one rollup, by partition."""

    def __init__(self, rollup: Rollup, datasource: Datasource) -> None:
        self.rollup = rollup
        self._datasource = datasource
        self._merged = partial_schema(rollup, datasource, by_partition=True).empty_table()
        self._added: list[pa.Table] = []
        self._added_rows = 0

    def add(self, rows: pa.Table) -> None:
        """Take in partial rows by partition."""
        if rows.num_rows:
            self._added.append(rows)
            self._added_rows += rows.num_rows
        if self._added_rows > max(MERGE_ROWS, self._merged.num_rows):
            self.merged()

    def merged(self) -> pa.Table:
        """All of them, one row per (partition, bucket, dimensions)."""
        if self._added:
            self._merged = merge_tables([self._merged, *self._added], self.rollup, self._datasource, by_partition=True)
            self._added, self._added_rows = [], 0
        return self._merged

    def replace(self, rows: pa.Table) -> None:
        """What is left after a cut."""
        self._merged, self._added, self._added_rows = rows, [], 0


class UnwrittenRows:
    """Raw or rejected rows and each one's partition."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._tables: list[pa.Table] = []
        self._partitions: list[Ints] = []

    def add(self, rows: pa.Table, partition: Ints) -> None:
        if rows.num_rows:
            self._tables.append(rows)
            self._partitions.append(partition)

    def all(self) -> tuple[pa.Table, Ints]:
        if not self._tables:
            return self.schema.empty_table(), np.zeros(0, np.int32)
        return pa.concat_tables(self._tables), np.concatenate(self._partitions)

    def replace(self, rows: pa.Table, partition: Ints) -> None:
        """What is left after a cut."""
        self._tables, self._partitions = [], []
        self.add(rows, partition)


class Unwritten:
    """What is in no file yet, of all tables of a datasource."""

    def __init__(self, datasource: Datasource) -> None:
        self._datasource = datasource
        self.rollups = {r.name: UnwrittenRollup(r, datasource) for r in datasource.rollups}
        keeps_raw = datasource.retention.events_ms is not None
        self.raw = UnwrittenRows(datasource.raw_schema()) if keeps_raw else None
        """None where no raw rows are kept."""
        keeps_rejected = datasource.retention.rejected_ms is not None
        self.rejected = UnwrittenRows(REJECTED_SCHEMA) if keeps_rejected else None
        """None where no rejected rows are kept."""
        self._deferred: list[Accepted] = []
        self._deferred_rows = 0

    def defer(self, accepted: Accepted, rows_max: int) -> None:
        """Rollups of rows that are too few for a pass by partition of their own: they wait until there are `rows_max`."""
        if not self.rollups:
            return
        self._deferred.append(accepted)
        self._deferred_rows += accepted.columns.rows
        if self._deferred_rows >= rows_max:
            self.settle()

    def settle(self) -> None:
        """Fold what was deferred."""
        if not self._deferred:
            return
        columns = Columns(pa.concat_tables([a.columns.table for a in self._deferred]).combine_chunks())
        partition = np.concatenate([a.partition for a in self._deferred])
        self._deferred, self._deferred_rows = [], 0
        for unwritten in self.rollups.values():
            unwritten.add(build_partials(columns, unwritten.rollup, self._datasource, partition))

    def absorb(self, older: Unwritten) -> None:
        """Take over what an earlier epoch left."""
        for name, unwritten in self.rollups.items():
            unwritten.add(older.rollups[name].merged())
        if self.raw is not None and older.raw is not None:
            self.raw.add(*older.raw.all())
        if self.rejected is not None and older.rejected is not None:
            self.rejected.add(*older.rejected.all())
