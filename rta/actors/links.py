"""What an aggregator asks of its coordinator, and what both are built from. Specs only: they travel to other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from rta.actors.messages import Registration
from rta.log.kafka.settings import KafkaSettings
from rta.store.model import Part
from rta.store.redis_settings import RedisSettings

CATCHING_UP = "is catching up with the log"
"""In the reason why a system is not ready, when nothing but time is missing."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Where a system lives and how it is tuned: all that an actor needs to open its own connections."""

    store: str
    log_folder: str
    log_socket: str
    kafka: KafkaSettings | None = None
    """None is the embedded log, in `log_folder`."""
    redis: RedisSettings | None = None
    """What HTTP processes share quotas and answers through."""
    run_folder: str
    partitions: int
    aggregators: tuple[str, ...]
    """Those that take part from the start on; `rta scale` changes that while it runs (`rta.actors.ownership`)."""
    epoch_ms: int
    epoch_events: int
    dedup_memory_ids: int
    query_time_ms: int
    event_bytes: int = 1 << 20
    """What one event of a topic of other producers may have."""
    backlog_bytes_max: int
    crash_at: str | None
    run: str = ""
    """A name of this start of the system, which no other start has."""
    url: str = ""
    """Where it serves."""
    pid: int
    """The process that holds the system up; everything ends with it."""

    @property
    def reasons(self) -> Path:
        """Folder of the last words of processes that ended on an error."""
        return Path(self.run_folder) / "reasons"

    @property
    def lives(self) -> Path:
        """How often each aggregator of this run was started, and why."""
        return Path(self.run_folder) / "lives.json"


class CoordinatorLink(Protocol):
    """Blocking calls to the coordinator. UnavailableError: it may or may not have done it."""

    def register(self, actor: str, pid: int) -> Registration:
        """Announce a new life of this aggregator; everything of its older ones is fenced from here on."""
        ...

    def offer(self, part: Part) -> int:
        """Ask for the part to be put into a manifest; the manifest's number.

        The number is a hint: the aggregator believes only what it reads in the manifest. Raises PartRefusedError.
        """
        ...
