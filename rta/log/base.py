"""What rta asks of a log, whichever it is: the embedded one or Kafka.

A topic belongs to one incarnation of one datasource (`Datasource.folder` is its name) and has P partitions. A record
holds many events of one partition, as one Arrow IPC stream in one LZ4 frame, and a header for the ledger. Offsets count records;
within a partition they only grow and may have gaps. `tests/contract/test_log.py` holds every implementation to this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec


class Header(msgspec.Struct, frozen=True, array_like=True):
    """The ledger's stamp on a record, written by the edge.

    `id_sum` is the sum modulo 2^64 of the low halves of the events' identities (`rta.events.keys`). `edge` names the
    process that wrote it and `sequence` counts that process's records of this topic and partition from 0.
    """

    events: int
    id_sum: int
    edge: int
    sequence: int
    definition_version: int


class Outgoing(NamedTuple):
    """A record on its way into the log."""

    partition: int
    header: Header
    payload: bytes


class Record(NamedTuple):
    """A record as it was read. `append_time_ms` never goes back within a partition."""

    partition: int
    offset: int
    append_time_ms: int
    header: Header
    payload: bytes


class PartitionState(NamedTuple):
    """`start` is the first offset that can be read, `end` the one that the next record gets at the earliest."""

    incarnation: str
    start: int
    end: int


class LogReader(Protocol):
    """Blocking; one per thread."""

    def partitions(self, topic: str) -> dict[int, PartitionState]:
        """All partitions of a topic. Raises NotFoundError for an unknown topic, UnavailableError when out of reach."""
        ...

    def fetch(self, topic: str, offsets: Mapping[int, int], bytes_max: int) -> list[Record]:
        """Records at and beyond the offsets, ascending within each partition, of about `bytes_max` in all.

        Never waits for new records. Raises LogGapError when an offset lies below a partition's start.
        """
        ...

    def wait(self, topic: str, offsets: Mapping[int, int], timeout_ms: int) -> bool:
        """Block until some partition's end lies beyond its offset here, or the time is over. True if one does."""
        ...

    def close(self) -> None: ...


class LogWriter(Protocol):
    """For asyncio; many appends may be under way at once and are coalesced."""

    async def append(self, topic: str, records: Sequence[Outgoing]) -> dict[int, int]:
        """Append all records, durably, and answer with each touched partition's end beyond them.

        Returns only when they would survive a power cut. Raises LogFullError when there is no room and UnavailableError
        when it is out of reach: in both cases some of the records may be in the log.
        """
        ...

    async def close(self) -> None: ...


class LogAdmin(Protocol):
    """Blocking; for the coordinator and the control endpoints."""

    def create(self, topic: str, partitions: int) -> dict[int, PartitionState]:
        """Make a topic; one that is there already is left as it is."""
        ...

    def drop(self, topic: str) -> None:
        """Remove a topic and its records; an unknown one is no error."""
        ...

    def topics(self) -> list[str]: ...

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Records below the offsets will not be asked for again; space comes back at the log's convenience."""
        ...

    def close(self) -> None: ...
