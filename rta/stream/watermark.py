"""How far event time is believed to be complete: in a partition, and in a datasource.

A partition's watermark is the largest event time seen, but never beyond append time, less the allowed lateness. It
depends on that partition's records alone and never goes back. A partition without records closes nothing.

A datasource's watermark is the least of its partitions', leaving out those that are idle: without input for `idle_after`
of the datasource, though the log was read to its end. It is said in answers and in the status, and decides nothing: what
is folded or written must not depend on other partitions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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

    def is_idle(self, read_through_ms: int | None, idle_after_ms: int) -> bool:
        """Whether the log held nothing for this partition for `idle_after_ms` up to the time that it is known through.

        Args:
            read_through_ms: Everything appended before this time has been taken; None when that is not known of any
                time. A partition that lags behind its log is not idle, however old the last record that it took.
        """
        return read_through_ms is not None and self.append_time_ms + idle_after_ms <= read_through_ms


def combine(
    watermarks_ms: Mapping[int, int | None], idle: Collection[int], partitions: int, before_ms: int | None
) -> int | None:
    """The watermark of a datasource, in ms.

    Args:
        watermarks_ms: Of each partition that is known.
        idle: Partitions that hold nobody up.
        partitions: How many the datasource has; one that is neither known nor idle leaves the watermark where it was.
        before_ms: What it was when last asked. It never goes back, also when an idle partition wakes up with old events.

    Returns:
        The least over the partitions that are not idle, the greatest of all when every one is idle; None before the
        first event.
    """
    active = [watermarks_ms.get(p) for p in range(partitions) if p not in idle]
    known = [m for m in active if m is not None]
    if len(known) < len(active):
        return before_ms
    reached = min(known) if known else max((m for m in watermarks_ms.values() if m is not None), default=None)
    return max((m for m in (reached, before_ms) if m is not None), default=None)
