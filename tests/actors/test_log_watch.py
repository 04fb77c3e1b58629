"""What the coordinator knows of the log without asking it: backlog, gaps, reach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rta.actors.links import Site
from rta.actors.log_watch import LogWatch, PendingGap
from rta.errors import NotFoundError, UnavailableError
from rta.log.base import Header, PartitionState, Record
from rta.log.kafka.settings import KafkaSettings
from rta.store.commit import genesis
from tests.actors.test_aggregator import made_up_site
from tests.events.made_records import reading
from tests.events.test_records import PLAIN
from tests.store.memory import MemoryStore
from tests.store.world import World

SIZE = 1000
LIMIT = 50 * SIZE


class MadeUpLog:
    """A log of records of one size, of which only the states are said."""

    def __init__(self) -> None:
        self.states: dict[int, PartitionState] | None = None
        self.away = False
        self.fetches = 0

    def partitions(self, topic: str) -> dict[int, PartitionState]:
        if self.away:
            raise UnavailableError("no broker answers", "are the brokers up?")
        if self.states is None:
            raise NotFoundError(f"there is no topic '{topic}'")
        return self.states

    def fetch(self, topic: str, offsets: Mapping[int, int], bytes_max: int) -> list[Record]:
        self.fetches += 1
        header = Header(1, 2, 3, 4, 5)
        return [Record(p, o + k, 0, header, bytes(SIZE)) for p, o in offsets.items() for k in range(5)]

    def wait(self, topic: str, offsets: Mapping[int, int], timeout_ms: int) -> bool:
        return False

    def close(self) -> None:
        return


class Bench:
    """A watch over a datasource with some committed manifests, driven by hand."""

    def __init__(self, folder: Path) -> None:
        self.world = World(MemoryStore())
        self.world.epochs(2, rows=20)
        self.log = MadeUpLog()
        self.watch = LogWatch(kafka_site(folder), lambda: self.log, dict)
        self.watch.follow([self.world.datasource])
        self.folder = self.world.datasource.folder
        self.commit()

    def commit(self) -> None:
        """The log is as the newest manifest has it, and the watch knows that manifest."""
        newest = self.world.newest
        self.log.states = {
            e.partition: PartitionState(e.log_incarnation, e.to_offset, e.to_offset) for e in newest.partitions
        }
        self.watch.committed(newest)

    def change(self, partition: int, **values: Any) -> None:
        assert self.log.states is not None
        self.log.states = {**self.log.states, partition: self.log.states[partition]._replace(**values)}

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.watch.look(self.log)

    @property
    def committed(self) -> dict[int, int]:
        return {e.partition: e.to_offset for e in self.world.newest.partitions}


def kafka_site(folder: Path) -> Site:
    kafka = KafkaSettings(servers=("a:1",))
    return msgspec.structs.replace(made_up_site(folder), kafka=kafka, backlog_bytes_max=LIMIT)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_backlog_is_what_lies_beyond_the_manifest_times_the_size_of_some_of_it(bench: Bench) -> None:
    bench.look()
    assert bench.watch.stats()["topics"][bench.folder] == {"backlog_records": 0, "backlog_bytes": 0}
    bench.change(0, end=bench.committed[0] + 30)
    bench.change(1, end=bench.committed[1] + 20)
    bench.look()
    assert bench.watch.stats()["topics"][bench.folder] == {"backlog_records": 50, "backlog_bytes": 50 * SIZE}
    assert bench.watch.full() == {}
    bench.change(1, end=bench.committed[1] + 21)
    bench.look(3)
    assert "51000 bytes behind (51 records), limit 50000 bytes" in bench.watch.full()[bench.folder]
    assert bench.log.fetches == 1, "sizes are looked at now and then, not at every look"
    bench.change(1, end=bench.committed[1])
    bench.look()
    assert bench.watch.full() == {}


def test_what_is_below_the_manifest_and_not_yet_trimmed_is_no_backlog(bench: Bench) -> None:
    """A broker that was killed may have forgotten for a while how far a partition was trimmed."""
    bench.change(0, start=0, end=bench.committed[0] + 1)
    bench.look()
    assert bench.watch.stats()["topics"][bench.folder]["backlog_records"] == 1


def test_a_log_that_lost_records_is_a_pending_gap_until_a_manifest_goes_on_behind_it(bench: Bench) -> None:
    at = bench.committed[0]
    incarnation = bench.world.newest.partitions[0].log_incarnation
    bench.change(0, start=at + 7, end=at + 9)
    bench.look(2)
    assert bench.watch.gaps(bench.folder) == (PendingGap(0, incarnation, at, incarnation, at + 7, 7),)
    bench.commit()
    bench.look(2)
    assert bench.watch.gaps(bench.folder) == ()


def test_a_log_that_was_trimmed_by_a_manifest_we_are_not_told_of_yet_is_no_gap(bench: Bench) -> None:
    bench.change(0, start=bench.committed[0] + 5, end=bench.committed[0] + 5)
    bench.look()
    assert bench.watch.gaps(bench.folder) == ()
    bench.world.epochs(1, rows=20)
    bench.commit()
    bench.look(2)
    assert bench.watch.gaps(bench.folder) == ()


def test_a_topic_that_is_gone_is_a_gap_of_unknown_length_in_every_partition(bench: Bench) -> None:
    bench.log.states = None
    bench.look(2)
    found = bench.watch.gaps(bench.folder)
    assert [(gap.partition, gap.from_offset) for gap in found] == sorted(bench.committed.items())
    assert {(gap.to_incarnation, gap.to_offset, gap.records) for gap in found} == {(None, None, None)}


def test_while_the_brokers_are_away_the_reason_is_said_and_what_was_seen_last_holds(bench: Bench) -> None:
    bench.change(0, end=bench.committed[0] + 60)
    bench.look()
    bench.log.away = True
    bench.look()
    stats = bench.watch.stats()
    assert (stats["alive"], "no broker answers" in stats["reason"]) == (False, True)
    assert bench.folder in bench.watch.full()
    bench.log.away = False
    bench.look()
    assert bench.watch.stats()["alive"]


def test_a_topic_of_other_producers_that_can_not_be_read_keeps_nobody_from_being_looked_at(bench: Bench) -> None:
    foreign = MadeUpLog()
    foreign.away = True
    source = reading(PLAIN)
    watch = LogWatch(bench.watch._site, lambda: bench.log, dict, lambda: foreign)
    watch.follow([source, bench.world.datasource])
    partitions = {p: PartitionState("x", 0, 0) for p in range(source.partitions)}
    watch.committed(genesis(source, partitions, 1, 0))
    watch.committed(bench.world.newest)
    bench.change(0, end=bench.committed[0] + 60)
    watch.look(bench.log)
    assert bench.folder in watch.full()
    assert "no broker answers" in watch.stats()["reason"]
    bench.change(0, end=bench.committed[0])
    watch.look(bench.log)
    assert watch.full() == {}


def test_a_datasource_that_was_dropped_is_forgotten(bench: Bench) -> None:
    bench.change(0, end=bench.committed[0] + 60)
    bench.look()
    bench.watch.follow([])
    bench.look()
    assert bench.watch.full() == {}
    assert bench.watch.stats()["topics"] == {}


def test_the_embedded_log_counts_for_itself(tmp_path: Path) -> None:
    watch = LogWatch(made_up_site(tmp_path), MadeUpLog, lambda: {"kind": "embedded", "alive": True})
    assert watch.stats() == {"kind": "embedded", "alive": True}
