"""What goes into the fold and what comes out of it. Columns in, columns and instructions out.

Frames of rollup rows ("partials") are `Datasource.rollup_schema(rollup)`; where this module says "by partition" they
have one more column, `__partition` (int32). Raw rows are `Datasource.raw_schema()` Arrow tables, rejected ones
`REJECTED_SCHEMA`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rta.events.schemas import REJECTED_SCHEMA, Datasource

PARTITION = "__partition"
Identities = npt.NDArray[np.uint64]
"""Shape (n, 2): high and low half of each event's 128-bit identity."""


@dataclass(frozen=True, slots=True)
class FoldLimits:
    """Bounds of one fold: one datasource on one actor. None of them changes an answer.

    Args:
        dedup_memory_ids: Identities in memory, 29-43 bytes each; beyond it the oldest are looked up in their runs.
            Those of the epoch under way are in no run yet and stay in memory beyond it.
        file_rows_min: A date with fewer rows waits for company, unless it is the date that a partition is at.
        wait_epochs_max: But no longer than so many epochs.
        waiting_files_max: So many files at most are written in one epoch just because their rows have waited enough.
        waiting_rows: Rows of all tables that may wait together; beyond it the largest dates are written.
        waiting_bytes: The same in bytes of memory.
        open_rows: Rows of open buckets; beyond it they are written before they close, and later ones add to them.
        deferred_rows: Rows that may be taken in before they are folded into the state by partition.
    """

    dedup_memory_ids: int = 20_000_000
    file_rows_min: int = 2_000
    wait_epochs_max: int = 20
    waiting_files_max: int = 64
    waiting_rows: int = 200_000
    waiting_bytes: int = 64 * 1024 * 1024
    open_rows: int = 2_000_000
    deferred_rows: int = 20_000


@dataclass(frozen=True, slots=True)
class BatchArrived:
    """What one record of the log holds, or several that follow each other, decoded.

    Args:
        offset: Of the last record.
        events: All that the records hold, the rejected ones included; `id_sum` is the sum over all of them.
        rows: The good ones, in the raw schema of the definition that the edge used.
        rejected: The others, in `REJECTED_SCHEMA`; None for none. They never stop a partition.
        rejected_sum: Their part of `id_sum`.
    """

    partition: int
    offset: int
    append_time_ms: int
    events: int
    id_sum: int
    rows: pa.Table
    rejected: pa.Table | None = None
    rejected_sum: int = 0


@dataclass(frozen=True, slots=True)
class IdRun:
    """Identities of one step that are on disk already: sorted by (hi, lo), memory-mapped by the shell.

    `key` is whatever the shell needs to name the run again in the next part; the fold hands it back untouched.
    """

    step: int
    identities: Identities
    key: object


@dataclass(frozen=True, slots=True)
class PartitionLoaded:
    """What a manifest says of a partition, read into memory. `state` is that partition's part of the saved state."""

    partition: int
    offset: int
    append_time_ms: int
    watermark_ms: int | None
    state: SavedPartition | None
    runs: tuple[IdRun, ...]


@dataclass(frozen=True, slots=True)
class SavedPartition:
    """One partition out of a saved state.

    Args:
        open: Per rollup table (`Rollup.table`), its open buckets and its buffered late rows, in the rollup's schema.
        rows: Raw rows that wait for company before they become a file.
        extra: What a newer version may have added; carried, not understood.
        event_time_max_ms: The largest event time counted so far; the watermark goes on from it.
        waited: Per (table, date) with rows that wait, how many epochs they have.
        rejected: Rejected rows that wait for company before they become a file.
    """

    open: Mapping[str, pl.DataFrame]
    rows: pa.Table
    extra: Mapping[str, bytes] = field(default_factory=dict)
    event_time_max_ms: int | None = None
    waited: Mapping[tuple[str, str], int] = field(default_factory=dict)
    rejected: pa.Table = field(default_factory=REJECTED_SCHEMA.empty_table)


@dataclass(frozen=True, slots=True)
class Increment:
    """What a set of batches adds, and nothing else: a chunk of a hot segment.

    Args:
        to_offsets: Per touched partition the offset after the last record.
        rows: The raw rows that were not duplicates.
        partials: Per rollup, what these rows add, merged over the partitions, without `__partition`.
        duplicates: Events dropped.
        rejected: The rejected rows, none where the datasource keeps none.
    """

    to_offsets: Mapping[int, int]
    rows: pa.Table
    partials: Mapping[str, pl.DataFrame]
    duplicates: int
    rejected: pa.Table = field(default_factory=REJECTED_SCHEMA.empty_table)


@dataclass(frozen=True, slots=True)
class TableWrite:
    """Rows of one table and one date (UTC, `YYYY-MM-DD`) that are to become one file."""

    table: str
    date: str
    rows: pa.Table
    time_min_ms: int
    time_max_ms: int


@dataclass(frozen=True, slots=True)
class RunWrite:
    """New identities of one partition and step, sorted, that are to become a slice of the epoch's run file."""

    partition: int
    step: int
    identities: Identities


@dataclass(frozen=True, slots=True)
class MinuteCounts:
    """One ledger line of a partition, by the minute of append time. Sums are modulo 2^64."""

    partition: int
    minute_ms: int
    logged: int
    logged_sum: int
    folded: int
    folded_sum: int
    dropped: int
    dropped_sum: int
    rejected: int = 0
    rejected_sum: int = 0


@dataclass(frozen=True, slots=True)
class PartitionCut:
    """Where one partition stands at the end of an epoch. `kept_runs` are the keys of older runs that still count."""

    partition: int
    from_offset: int
    to_offset: int
    watermark_ms: int | None
    append_time_ms: int
    kept_runs: tuple[object, ...]
    buffered: int
    buffered_sum: int


@dataclass(frozen=True, slots=True)
class EpochCut:
    """The instructions at the end of an epoch: write these, then offer the part.

    Args:
        writes: Files to write: raw rows, closed buckets, revisions, rejected rows; at most one per table and date.
        state: The saved state of all partitions, encoded (`rta.stream.saved`).
        run_writes: In the order of the run file's slices.
    """

    partitions: tuple[PartitionCut, ...]
    writes: tuple[TableWrite, ...]
    state: bytes
    run_writes: tuple[RunWrite, ...]
    ledger: tuple[MinuteCounts, ...]


__all__ = [
    "PARTITION",
    "BatchArrived",
    "Datasource",
    "EpochCut",
    "FoldLimits",
    "IdRun",
    "Identities",
    "Increment",
    "MinuteCounts",
    "PartitionCut",
    "PartitionLoaded",
    "RunWrite",
    "SavedPartition",
    "TableWrite",
]
