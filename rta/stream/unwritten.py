"""Rows that are folded but in no file yet, by partition: rollup rows and raw rows.

Owns when partial rows are merged on the way, so that memory and the work of a cut stay small. Does not decide what is
written; `rta.stream.epoch` does.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rta.events.schemas import Datasource, Rollup
from rta.stream.grouping import Ints
from rta.stream.rollups import merge_tables, partial_schema

MERGE_ROWS = 200_000
"""Rows added since the last merge that make a merge worth its while; never fewer than there were after it."""


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
    """Raw rows and each one's partition."""

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
