"""The limits of the embedded log, passed in explicitly. Nothing here reads the environment or a file."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rta.errors import ConfigError

MIB = 1024 * 1024
FRAME_BYTES_MAX = 64 * MIB
"""Largest request or answer on the socket, payloads included; both sides refuse more."""
PARTITIONS_MAX = 4096
PAGE_BYTES = (4096, 8192, 16384, 32768, 65536)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedSettings:
    """Limits of one log server.

    Args:
        segment_bytes: A topic starts a new file after about this many bytes, so that trimming gives space back.
        checkpoint_bytes: Write-ahead log that may gather before its pages are moved into the file, in the background.
        page_bytes: SQLite's page size of new files.
        commit_bytes_max: Waiting appends that share one transaction.
        queue_bytes_max: Appends received but not committed; beyond it the server stops reading from its writers.
        backlog_bytes_max: Bytes of one topic above its floors; beyond it appends are refused with LogFullError.
        disk_free_bytes_min: The log leaves this much of the disk to others; below it appends are refused.
        lock_wait_s: How long to wait for another writer of the folder to go away.
    """

    segment_bytes: int = 64 * MIB
    checkpoint_bytes: int = 16 * MIB
    page_bytes: int = 8192
    commit_bytes_max: int = 32 * MIB
    queue_bytes_max: int = 256 * MIB
    backlog_bytes_max: int = 4096 * MIB
    disk_free_bytes_min: int = 256 * MIB
    lock_wait_s: float = 0.0

    def __post_init__(self) -> None:
        may_be_zero = ("disk_free_bytes_min", "lock_wait_s")
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and field.name not in may_be_zero):
                raise ConfigError(f"log setting '{field.name}' is {value}", hint="give a positive number")
        if self.page_bytes not in PAGE_BYTES:
            raise ConfigError(
                f"log setting 'page_bytes' is {self.page_bytes}", hint=f"use one of {', '.join(map(str, PAGE_BYTES))}"
            )
