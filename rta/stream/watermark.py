"""How far a partition's event time is believed to be complete.

The watermark is the largest event time seen, but never beyond append time, less the allowed lateness. It belongs to one
partition, depends on its records alone and never goes back. A partition without records closes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Watermark:
    """Times in ms; None before the first counted event."""

    lateness_ms: int
    event_time_max_ms: int | None = None
    append_time_ms: int = 0
    now_ms: int | None = None
    """The watermark itself."""

    def appended(self, append_time_ms: int) -> int:
        """Take a record's append time; an earlier one than before counts as the one before. Returns what counts."""
        self.append_time_ms = max(self.append_time_ms, append_time_ms)
        return self.append_time_ms

    def advance(self, event_time_max_ms: int | None) -> None:
        """Take the largest event time of the events counted since, and close what can be closed."""
        seen = [t for t in (self.event_time_max_ms, event_time_max_ms) if t is not None]
        if not seen:
            return
        self.event_time_max_ms = max(seen)
        reached = min(self.event_time_max_ms, self.append_time_ms) - self.lateness_ms
        self.now_ms = reached if self.now_ms is None else max(self.now_ms, reached)

    @property
    def front_ms(self) -> int | None:
        """The time the partition is at: its newest event that is not in the future."""
        return None if self.event_time_max_ms is None else min(self.event_time_max_ms, self.append_time_ms)
