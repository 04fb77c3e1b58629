"""The documents of the commit protocol: parts, manifests, assignments. Plain data, stored as JSON.

The rules that they obey are `rta.store.commit`'s. A loader ignores fields that it does not know, so that an older
version reads what a newer one of the same format wrote.
"""

from __future__ import annotations

import hashlib

import msgspec

STORE_FORMAT = 1
"""Format of everything in a store; grows when an older rta would misread what this one writes."""
GENESIS = "genesis"
"""The part that the first manifest names for every partition: nothing has been folded yet."""


class FileRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """One Parquet file of a table. `path` is relative to the table's folder; times are event time or bucket, in ms.

    `written_ms` is when the newest of its rows was committed first: a rewritten file keeps that of its inputs, so that
    rewriting renews nothing. None in parts and manifests, where the manifest's `created_ms` says it.
    """

    table: str
    path: str
    date: str
    rows: int
    bytes: int
    time_min_ms: int
    time_max_ms: int
    written_ms: int | None = None


class RunRef(msgspec.Struct, frozen=True):
    """A slice of an id run file: 16-byte identities of one partition and one step, sorted, from row `first` on.

    Args:
        crc: CRC-32C of the slice's bytes; None in manifests of before it was kept. One flipped bit in an identity would count
            a repetition twice.
    """

    path: str
    step: int
    first: int
    count: int
    crc: int | None = None


class LedgerLine(msgspec.Struct, frozen=True):
    """What one partition did with the records that were appended in one minute. Sums are modulo 2^64.

    logged = folded + dropped + rejected holds within a line; folded rows are committed, or wait in the saved state.
    """

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


class PartitionPart(msgspec.Struct, frozen=True, kw_only=True):
    """What a part says of one partition. `based_on` is the part on whose state it was folded."""

    partition: int
    log_incarnation: str
    from_offset: int
    to_offset: int
    based_on: str
    watermark_ms: int | None
    append_time_ms: int
    runs: tuple[RunRef, ...]
    buffered: int
    """Raw rows that wait in the state, not yet in a file; their hashes' sum is `buffered_sum`."""
    buffered_sum: int


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one aggregator hands over for one epoch of one datasource."""

    id: str
    datasource: str
    """`Datasource.folder`."""
    actor: str
    generation: int
    epoch: int
    definition_version: int
    partitions: tuple[PartitionPart, ...]
    files: tuple[FileRef, ...]
    state: str
    """Path of the saved state of all its partitions, relative to the datasource's folder."""
    ledger: tuple[LedgerLine, ...]


class PartitionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest says of one partition; carried over from the previous manifest when no part touched it."""

    partition: int
    log_incarnation: str
    from_offset: int
    to_offset: int
    part: str
    """Id of the part that left `state`."""
    state: str | None
    watermark_ms: int | None = None
    append_time_ms: int = 0
    runs: tuple[RunRef, ...] = ()
    buffered: int = 0
    buffered_sum: int = 0
    logged: int = 0
    logged_sum: int = 0
    folded: int = 0
    folded_sum: int = 0
    dropped: int = 0
    dropped_sum: int = 0
    rejected: int = 0
    rejected_sum: int = 0
    """The eight counts are totals since the partition's beginning."""


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a partition's log that was lost, and that somebody has accepted as lost.

    `records` is how many offsets it spans; None where another log, `to_incarnation`, stands under the same name, so that
    nobody knows how far the old one went.
    """

    partition: int
    from_incarnation: str
    from_offset: int
    to_incarnation: str
    to_offset: int
    accepted_ms: int

    @property
    def records(self) -> int | None:
        same = self.from_incarnation == self.to_incarnation
        return abs(self.to_offset - self.from_offset) if same else None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Epoch manifest `number` of a datasource: the commit point."""

    number: int
    datasource: str
    previous: str
    definition_version: int
    coordinator: int
    """The coordinator's generation."""
    created_ms: int
    partitions: tuple[PartitionEntry, ...]
    parts: tuple[str, ...]
    """Ids of the parts that this manifest took."""
    files: tuple[FileRef, ...]
    ledger: tuple[LedgerLine, ...]
    gaps: tuple[Gap, ...] = ()
    """What of the log was given up with this manifest, and never by itself."""
    format: int = 1

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @property
    def commit_id(self) -> str:
        return commit_id(self.encode())


class ActorAssignment(msgspec.Struct, frozen=True):
    """`generation` grows with every start of the actor; `partitions` maps a datasource's folder to its partitions."""

    generation: int
    partitions: dict[str, tuple[int, ...]]


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Who owns what. A newer number fences everything that acts on an older one.

    `fleet` names the aggregators that take part, `run` the start of the system that it was decided in: the settings
    decide anew at the next one.
    """

    number: int
    coordinator: int
    actors: dict[str, ActorAssignment]
    created_ms: int
    run: str = ""
    fleet: tuple[str, ...] = ()
    format: int = 1


def commit_id(content: bytes) -> str:
    """The content's name: equal bytes are the same commit."""
    return hashlib.sha256(content).hexdigest()[:32]
