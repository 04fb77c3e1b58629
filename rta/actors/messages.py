"""What actors and query replicas say to each other. Frames travel as Arrow IPC streams, everything else as msgspec.

A **load** is one life of one aggregator's fold of one datasource: it begins at a manifest and ends with the process or with
a reload. A **segment** is what one epoch of one load adds; it is made of **chunks**, one per fold, and is immutable once
the epoch ended. Segments carry what their own offsets add, never an aggregator's current buckets (protocol.md, rule 11).
"""

from __future__ import annotations

import msgspec

from rta.events.schemas import EVENTS


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """How far a replica has read a load: everything before chunk `chunk` of epoch `epoch`."""

    load: str
    epoch: int
    chunk: int


class SegmentDelta(msgspec.Struct, frozen=True, kw_only=True):
    """Chunks `[first_chunk, next_chunk)` of one epoch, merged into one partial per rollup.

    `from_offsets` is where the epoch began, for every partition of the load; `to_offsets` where chunk `next_chunk - 1` ends.
    `rows_ms` is the first and the last event time of the raw rows, None without rows.
    """

    epoch: int
    first_chunk: int
    next_chunk: int
    closed: bool
    from_offsets: dict[int, int]
    to_offsets: dict[int, int]
    partials: dict[str, bytes]
    rows: int
    rows_ms: tuple[int, int] | None
    rejected: int = 0


class HotDelta(msgspec.Struct, frozen=True, kw_only=True):
    """An aggregator's answer for one datasource: what came since the cursor.

    `reached` is the offset that comes next, per partition, from just before the segments were taken: they, with what is
    committed, hold everything below it. `reset` says that the cursor was of another load: forget nothing yet, but this
    is a new load from its beginning.
    """

    folder: str
    actor: str
    load: str
    generation: int
    reset: bool
    incarnations: dict[int, str]
    watermarks_ms: dict[int, int | None]
    idle: frozenset[int]
    reached: dict[int, int]
    segments: tuple[SegmentDelta, ...]
    caught_up: bool
    version: int = 0
    """Of the definition that the load folds with."""


class RowsRequest(msgspec.Struct, frozen=True, array_like=True):
    """Single rows of chunks `[first_chunk, next_chunk)` of one epoch of a load: raw ones, or those of table `rejected`."""

    epoch: int
    first_chunk: int
    next_chunk: int
    table: str = EVENTS


class Registration(msgspec.Struct, frozen=True):
    """The coordinator's answer to an aggregator that has just started: its generation in the assignment `number`."""

    generation: int
    number: int


class ShardStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One datasource on one aggregator, for `/v1/status`."""

    folder: str
    load: str
    epoch: int
    events: int
    duplicates: int
    pending_parts: int
    offsets: dict[int, int]
    log_ends: dict[int, int]
    lag_ms: int
    watermarks_ms: dict[int, int | None]
    idle: frozenset[int]
    caught_up: bool
    alarm: str | None


class AggregatorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One aggregator, for `/v1/status`."""

    actor: str
    pid: int
    generation: int
    started_ms: int
    reloads: int
    last_reload: str | None
    shards: tuple[ShardStatus, ...]
