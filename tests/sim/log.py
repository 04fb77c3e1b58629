"""The simulated log: records in memory, appended whole or in part, read in pieces that the seed chooses, trimmed at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rta.errors import LogGapError, NotFoundError
from rta.log.base import Outgoing, PartitionState, Record
from tests.sim.kernel import Kernel, Process

PIECE_MAX = 4


@dataclass(slots=True)
class SimLog:
    """One topic. Nothing that was appended is forgotten here, so that the oracle can look; `starts` says what is trimmed."""

    kernel: Kernel
    partitions: int
    records: list[list[Record]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.records = [[] for _ in range(self.partitions)]
        self.starts = [0] * self.partitions

    def append(self, outgoing: Outgoing) -> int:
        """Its offset."""
        mine = self.records[outgoing.partition]
        before_ms = mine[-1].append_time_ms if mine else 0
        now_ms = max(before_ms, int(self.kernel.now_ms))
        mine.append(Record(outgoing.partition, len(mine), now_ms, outgoing.header, outgoing.payload))
        return len(mine) - 1

    def ends(self) -> dict[int, int]:
        return {number: len(records) for number, records in enumerate(self.records)}

    def states(self) -> dict[int, PartitionState]:
        return {n: PartitionState(f"log{n}", self.starts[n], end) for n, end in self.ends().items()}


class SimReader:
    """A `LogReader` of one process."""

    def __init__(self, log: SimLog, process: Process) -> None:
        self._log = log
        self._process = process

    def partitions(self, topic: str) -> dict[int, PartitionState]:
        self._log.kernel.point(self._process)
        return self._log.states()

    def fetch(self, topic: str, offsets: Mapping[int, int], bytes_max: int) -> list[Record]:
        self._log.kernel.point(self._process)
        found: list[Record] = []
        for number, offset in sorted(offsets.items()):
            if offset < self._log.starts[number]:
                raise LogGapError(f"partition {number} was asked for {offset} and starts at {self._log.starts[number]}")
            piece = self._log.kernel.rng.randint(1, PIECE_MAX)
            found += self._log.records[number][offset : offset + piece]
        return found

    def wait(self, topic: str, offsets: Mapping[int, int], timeout_ms: int) -> bool:
        there = [(self._log.records[number], offset) for number, offset in offsets.items()]

        def has_grown() -> bool:
            for records, offset in there:  # noqa: SIM110 - asked at every step of a schedule: half the time of any()
                if len(records) > offset:
                    return True
            return False

        return self._log.kernel.wait(has_grown, timeout_ms / 1000)

    def close(self) -> None:
        return


class SimAdmin:
    """A `LogAdmin` of one process."""

    def __init__(self, log: SimLog, process: Process) -> None:
        self._log = log
        self._process = process
        self._topics: list[str] = []

    def create(self, topic: str, partitions: int) -> dict[int, PartitionState]:
        self._log.kernel.point(self._process)
        if partitions != self._log.partitions:
            raise NotFoundError(f"the simulated topic has {self._log.partitions} partitions, not {partitions}")
        self._topics.append(topic)
        return self._log.states()

    def drop(self, topic: str) -> None:
        raise AssertionError("no datasource is dropped in a schedule")

    def topics(self) -> list[str]:
        return list(self._topics)

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        self._log.kernel.point(self._process)
        for number, offset in offsets.items():
            self._log.starts[number] = max(self._log.starts[number], offset)

    def close(self) -> None:
        return
