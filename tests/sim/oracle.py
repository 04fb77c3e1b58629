"""What must be true, computed from the log alone and without the project's fold.

The rule of duplicates is written down here a second time: identity is (key, id); an event is counted unless the same one
was counted at most 48 steps of log time before, a step being a 48th of the window, rounded up. Every answer at a view
must be what the records below the view's offsets come to; at the end every acknowledged event is in the tables once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.sim.kernel import ViolationError
from tests.sim.log import SimLog

STEPS = 48


class Event(NamedTuple):
    """One that was sent; `key` and `id` together are who it is."""

    key: str
    id: str
    value: int
    time_ms: int

    @property
    def who(self) -> str:
        return f"{self.key}/{self.id}"


@dataclass(frozen=True, slots=True)
class Total:
    """Of some events: how many, and the sum of their values."""

    count: int
    value: int

    def __add__(self, other: Total) -> Total:
        return Total(self.count + other.count, self.value + other.value)

    def __sub__(self, other: Total) -> Total:
        return Total(self.count - other.count, self.value - other.value)


ZERO = Total(0, 0)


@dataclass(slots=True)
class _Partition:
    """Totals below each offset, and what each record added."""

    totals: list[Total] = field(default_factory=lambda: [ZERO])
    counted: list[list[Event]] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Oracle:
    """`contents` says what is in each record: per partition a list by offset."""

    log: SimLog
    window_ms: int
    contents: list[list[tuple[Event, ...]]] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    _partitions: list[_Partition] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.contents = [[] for _ in range(self.log.partitions)]
        self._partitions = [_Partition() for _ in range(self.log.partitions)]

    def prefix(self, offsets: Mapping[int, int]) -> Total:
        """What the records below the offsets come to."""
        total = ZERO
        for number, offset in offsets.items():
            total += self._through(number, offset).totals[offset]
        return total

    def ids(self, offsets: Mapping[int, int]) -> Counter[str]:
        """Who is counted below the offsets, and how often."""
        found: Counter[str] = Counter()
        for number, offset in offsets.items():
            for events in self._through(number, offset).counted[:offset]:
                found.update(event.who for event in events)
        return found

    def recent(self, offsets: Mapping[int, int], from_ms: int) -> Total:
        """What the events of a time or a later one come to."""
        counted = [es for number, offset in offsets.items() for es in self._through(number, offset).counted[:offset]]
        values = [event.value for events in counted for event in events if event.time_ms >= from_ms]
        return Total(len(values), sum(values))

    def _through(self, number: int, offset: int) -> _Partition:
        mine = self._partitions[number]
        step_ms = -(-self.window_ms // STEPS)
        if offset > len(self.log.records[number]):
            raise ViolationError(f"offset {offset} of partition {number} lies beyond its log")
        while len(mine.counted) < offset:
            at = len(mine.counted)
            step = self.log.records[number][at].append_time_ms // step_ms
            new = []
            for event in self.contents[number][at]:
                if step - mine.steps.get(event.who, -1_000_000_000) > STEPS:
                    mine.steps[event.who] = step
                    new.append(event)
            mine.counted.append(new)
            mine.totals.append(mine.totals[-1] + Total(len(new), sum(event.value for event in new)))
        return mine


def agree(what: str, found: Total, expected: Total) -> None:
    if found == expected:
        return
    kind = "lost" if found.count < expected.count else "doubled" if found.count > expected.count else "changed"
    raise ViolationError(
        f"{kind}: {what} has {found.count} events with sum {found.value}, the log says {expected.count} with "
        f"{expected.value}"
    )


def agree_ids(what: str, found: Counter[str], expected: Counter[str]) -> None:
    if found == expected:
        return
    lost, extra = sorted((expected - found).elements()), sorted((found - expected).elements())
    kind = "lost" if lost else "doubled"
    raise ViolationError(f"{kind}: {what} lacks {lost[:6]} and has {extra[:6]} besides")
