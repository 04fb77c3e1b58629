"""The loop of a shard: when epochs end, what goes on meanwhile, and that nothing is folded twice or left out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rta.actors.arrivals import OwnArrivals
from rta.actors.committer import Committer
from rta.actors.crash import CrashPoints
from rta.actors.links import Site
from rta.actors.load import LoadSpec
from rta.actors.messages import HotDelta, Registration
from rta.actors.shard import OVERFULL, Ports, Shard
from rta.errors import CorruptLogError, LogGapError, PartRefusedError, UnavailableError
from rta.events.batch import encode
from rta.log.base import Header, PartitionState, Record
from rta.store.catalog import Assignments
from rta.store.layout import table_file, within
from rta.store.model import Part
from rta.store.objects import LocalStore
from rta.stream.model import BatchArrived
from tests.store.world import World

EVENTS = 5
EVERY_S = 0.01
ACTOR = "agg-0"


class SteadyLog:
    """A record of `EVENTS` events every `EVERY_S`, in partition 0; partition 1 stays empty."""

    def __init__(self, world: World, records: int) -> None:
        payloads = [encode(world.rows(EVENTS)) for _ in range(records)]
        self._records = [Record(0, k, world.now_ms + k, Header(EVENTS, 0, 1, k, 0), p) for k, p in enumerate(payloads)]
        self._began = time.monotonic()
        self.away = False
        self.incarnation = "log0"
        self.start = 0
        self.damaged_at: int | None = None
        """Where a record can't be read."""
        self.gap = False
        """Whether the next fetch finds its offset below the log's start."""

    def _end(self) -> int:
        return min(len(self._records), int((time.monotonic() - self._began) / EVERY_S))

    def partitions(self, topic: str) -> dict[int, PartitionState]:
        self._check()
        end = max(self._end(), self.start)
        return {0: PartitionState(self.incarnation, self.start, end), 1: PartitionState("log1", 0, 0)}

    def fetch(self, topic: str, offsets: Mapping[int, int], bytes_max: int) -> list[Record]:
        self._check()
        if self.gap:
            self.gap = False
            raise LogGapError(f"partition 0 was asked for {offsets[0]}")
        if self.damaged_at is not None and offsets[0] <= self.damaged_at < self._end():
            if offsets[0] == self.damaged_at:
                raise CorruptLogError(f"offset {self.damaged_at} is damaged")
            return self._records[offsets[0] : self.damaged_at]
        return self._records[offsets[0] : self._end()]

    def wait(self, topic: str, offsets: Mapping[int, int], timeout_ms: int) -> bool:
        deadline = time.monotonic() + timeout_ms / 1000
        while time.monotonic() < deadline:
            if self._end() > offsets[0]:
                return True
            threading.Event().wait(EVERY_S)
        return False

    def _check(self) -> None:
        if self.away:
            raise UnavailableError("the log is away")

    def close(self) -> None:
        return


class Link:
    """The real committer, in this process; `before` runs first and may refuse or take its time."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self.before: Callable[[Part], None] = lambda part: None

    def register(self, actor: str, pid: int) -> Registration:
        raise AssertionError("a shard does not register")

    def offer(self, part: Part) -> int:
        self.before(part)
        return self._committer.offer(part)


class Bench:
    """A shard over a real store and the real committer."""

    def __init__(self, folder: Path, records: int, epoch_ms: int, epoch_events: int = 1_000_000) -> None:
        self.store = LocalStore(folder / "store")
        self.world = World(self.store)
        assert Assignments(self.store).put(self.world.assignment(actor=ACTOR)).done
        site = Site(
            store=str(folder / "store"),
            log_folder="",
            log_socket="",
            run_folder=str(folder),
            partitions=2,
            aggregators=(ACTOR,),
            epoch_ms=epoch_ms,
            epoch_events=epoch_events,
            dedup_memory_ids=1_000_000,
            query_time_ms=10_000,
            backlog_bytes_max=1 << 30,
            crash_at=None,
            pid=0,
        )
        self.deaths: list[str] = []
        self.committer = Committer(
            self.store,
            self.world.generation,
            CrashPoints(site),
            on_manifest=lambda manifest: None,
            stand_down=self.deaths.append,
        )
        self.link = Link(self.committer)
        self.log = SteadyLog(self.world, records)
        ports = Ports(self.store, self.log, self.link, self.deaths.append)
        self.shard = Shard(LoadSpec(ACTOR, 1, self.world.datasource, (0, 1)), site, ports)

    def delta(self) -> HotDelta | None:
        return self.shard.delta(None)

    def committed(self) -> int:
        return self.world.newest.partitions[0].to_offset

    def stored_ids(self) -> list[str]:
        names = [
            table_file(self.world.folder, file.table, file.path)
            for file in self.world.expected("events", self.world.newest.number)
        ]
        return [i for name in names for i in pq.read_table(self.store.uri(name)).column("id").to_pylist()]


@contextmanager
def running(folder: Path, records: int, epoch_ms: int, epoch_events: int = 1_000_000) -> Iterator[Bench]:
    bench = Bench(folder, records, epoch_ms, epoch_events)
    bench.committer.start()
    bench.shard.start()
    try:
        yield bench
    finally:
        bench.shard.stop(flush_s=10)
        bench.committer.stop()
    assert bench.deaths == []


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        threading.Event().wait(0.01)


def test_under_a_steady_load_an_epoch_ends_when_its_time_is_over_and_not_before(tmp_path: Path) -> None:
    with running(tmp_path, records=300, epoch_ms=500) as bench:
        wait_for(lambda: bench.shard.status().offsets.get(0) == 300, "everything is folded")
        assert 3 <= bench.shard.next_epoch <= 300 * EVERY_S / 0.5 + 2
    assert bench.committed() == 300
    assert sorted(bench.stored_ids()) == sorted(f"id{k}" for k in range(300 * EVENTS))


def test_an_epoch_ends_when_it_is_full(tmp_path: Path) -> None:
    with running(tmp_path, records=200, epoch_ms=60_000, epoch_events=200) as bench:
        wait_for(lambda: bench.committed() >= 160, "four epochs are committed")
        wait_for(lambda: bench.shard.status().offsets.get(0) == 200, "everything is folded")
    assert bench.committed() == 200


def test_the_fold_goes_on_while_a_commit_takes_its_time(tmp_path: Path) -> None:
    released = threading.Event()
    with running(tmp_path, records=300, epoch_ms=200) as bench:
        bench.link.before = lambda part: _wait(released)
        wait_for(lambda: bench.shard.status().offsets.get(0) == 300, "everything is folded though nothing is committed")
        assert bench.committed() == 0
        delta = bench.delta()
        assert delta is not None
        assert delta.reached[0] == 300
        assert sum(segment.rows for segment in delta.segments) == 300 * EVENTS
        released.set()
        wait_for(lambda: bench.committed() > 0, "the first part is committed")
    assert sorted(bench.stored_ids()) == sorted(f"id{k}" for k in range(300 * EVENTS))


def test_the_fold_waits_when_commits_do_not_keep_up(tmp_path: Path) -> None:
    released = threading.Event()
    epoch_events = 100
    with running(tmp_path, records=400, epoch_ms=60_000, epoch_events=epoch_events) as bench:
        bench.link.before = lambda part: _wait(released)
        wait_for(lambda: bench.log._end() == 400, "everything is in the log")
        # One is offered, three wait, one is cut, one has ended, and the open one may grow to twice its size.
        bound = (6 + OVERFULL) * epoch_events / EVENTS
        assert bench.shard.status().offsets[0] <= bound + 20
        released.set()
        wait_for(lambda: bench.shard.status().offsets.get(0) == 400, "everything is folded")
    assert sorted(bench.stored_ids()) == sorted(f"id{k}" for k in range(400 * EVENTS))


class OneByOne(OwnArrivals):
    """Every record is as much as fits into memory."""

    def batches(self, records: Sequence[Record]) -> Iterator[list[BatchArrived]]:
        for record in records:
            yield from super().batches([record])


def test_an_epoch_ends_while_a_fetch_is_folded_that_becomes_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rta.actors.load.arrivals_of", lambda datasource, incarnations, event_bytes: OneByOne(datasource)
    )
    epoch_events = 100
    sizes: list[int] = []
    bench = Bench(tmp_path, records=200, epoch_ms=60_000, epoch_events=epoch_events)
    bench.link.before = lambda part: sizes.append(sum(p.to_offset - p.from_offset for p in part.partitions))
    wait_for(lambda: bench.log._end() == 200, "everything is there for the first fetch")
    bench.committer.start()
    bench.shard.start()
    wait_for(lambda: bench.shard.status().offsets.get(0) == 200, "everything is folded")
    bench.shard.stop(flush_s=10)
    bench.committer.stop()
    assert bench.deaths == []
    assert max(sizes) <= OVERFULL * epoch_events / EVENTS + 1
    assert sorted(bench.stored_ids()) == sorted(f"id{k}" for k in range(200 * EVENTS))


def test_a_refused_part_throws_the_load_away_and_everything_is_folded_again_once(tmp_path: Path) -> None:
    refused: list[str] = []

    def refuse_the_second(part: Part) -> None:
        if part.epoch >= 1 and not refused:
            refused.append(part.id)
            raise PartRefusedError("for the test")

    with running(tmp_path, records=200, epoch_ms=200) as bench:
        bench.link.before = refuse_the_second
        wait_for(lambda: bool(bench.shard.reloads), "the load was thrown away")
        wait_for(lambda: bench.shard.status().offsets.get(0) == 200, "everything is folded")
    assert refused
    assert bench.committed() == 200
    assert sorted(bench.stored_ids()) == sorted(f"id{k}" for k in range(200 * EVENTS))


def test_stopping_without_time_leaves_the_open_epoch_to_the_next_load(tmp_path: Path) -> None:
    bench = Bench(tmp_path, records=50, epoch_ms=60_000)
    bench.committer.start()
    bench.shard.start()
    wait_for(lambda: bench.shard.status().offsets.get(0) == 50, "everything is folded")
    bench.shard.stop()
    assert bench.committed() == 0
    again = Shard(bench.shard.spec, bench.shard._site, bench.shard._ports, bench.shard.next_epoch)
    again.start()
    wait_for(lambda: again.status().offsets.get(0) == 50, "everything is folded again")
    again.stop(flush_s=10)
    bench.committer.stop()
    assert bench.committed() == 50
    assert sorted(bench.stored_ids()) == sorted(f"id{k}" for k in range(50 * EVENTS))


def test_a_reader_below_the_logs_start_loads_the_newest_manifest_and_stops_only_if_that_lies_below_too(
    tmp_path: Path,
) -> None:
    with running(tmp_path, records=200, epoch_ms=100) as bench:
        wait_for(lambda: bench.committed() > 0, "something is committed")
        bench.log.gap = True
        wait_for(lambda: bool(bench.shard.reloads), "the load was thrown away")
        wait_for(lambda: bench.committed() == 200, "everything is committed")
        assert bench.shard.alarm is None
        bench.log.start = 201
        bench.log.gap = True
        wait_for(lambda: bench.shard.alarm is not None, "the share stops with an alarm")
    assert sorted(bench.stored_ids()) == sorted(f"id{k}" for k in range(200 * EVENTS))


@pytest.mark.parametrize("partition", [0, 1])
def test_a_partition_that_was_read_to_its_end_is_known_as_such(tmp_path: Path, partition: int) -> None:
    with running(tmp_path, records=250, epoch_ms=60_000) as bench:
        wait_for(lambda: partition in bench.shard._read_through_ms, f"partition {partition} was seen at its end")
        if partition == 1:
            assert bench.log._end() < 250, "it is seen while the other partition is busy"


def _wait(released: threading.Event) -> None:
    assert released.wait(30)


def test_the_fold_keeps_what_it_has_while_the_log_is_away(tmp_path: Path) -> None:
    with running(tmp_path, records=300, epoch_ms=60_000) as bench:
        wait_for(lambda: bench.shard.status().offsets.get(0, 0) > 50, "something is folded")
        life = bench.delta()
        bench.log.away = True
        wait_for(lambda: not bench.shard.status().caught_up, "the shard has noticed")
        folded = bench.shard.status().offsets[0]
        bench.log.away = False
        wait_for(lambda: bench.shard.status().offsets.get(0) == 300, "everything is folded")
        after = bench.delta()
        assert life is not None
        assert after is not None
        assert after.load == life.load
        assert folded < 300
        assert bench.shard.reloads == []


def test_another_topic_under_the_same_name_stops_the_shard(tmp_path: Path) -> None:
    with running(tmp_path, records=300, epoch_ms=300) as bench:
        wait_for(lambda: bench.committed() > 0, "something is committed")
        bench.log.incarnation = "another"
        wait_for(lambda: bench.shard.alarm is not None, "the shard has stopped")
        assert "another" in str(bench.shard.alarm)
        committed = bench.committed()
        assert bench.delta() is None
    assert bench.committed() - committed <= 300


def test_a_damaged_state_stops_the_shard_with_its_name_and_nothing_else_until_it_is_put_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path, records=50, epoch_ms=100)
    bench.committer.start()
    bench.shard.start()
    wait_for(lambda: bench.committed() == 50, "everything is committed")
    bench.shard.stop()
    state = bench.world.newest.partitions[0].state
    assert state is not None
    key = within(bench.world.folder, state)
    whole = bench.store.get(key)
    bench.store.put(key, whole[: len(whole) // 2])
    again = Shard(bench.shard.spec, bench.shard._site, bench.shard._ports, bench.shard.next_epoch)
    again.start()
    wait_for(lambda: again.status().alarm is not None, "the share stops with an alarm")
    assert key in str(again.alarm)
    assert again.delta(None) is None
    bench.store.put(key, whole)
    wait_for(lambda: again.status().offsets.get(0) == 50, "it goes on")
    wait_for(lambda: again.alarm is None, "the alarm is over")
    again.stop(flush_s=10)
    bench.committer.stop()
    assert bench.deaths == []
    assert sorted(bench.stored_ids()) == sorted(f"id{k}" for k in range(50 * EVENTS))


def test_a_damaged_record_stops_the_share_after_what_is_in_front_of_it_and_ends_no_process(tmp_path: Path) -> None:
    with running(tmp_path, records=100, epoch_ms=60_000) as bench:
        bench.log.damaged_at = 60
        wait_for(lambda: bench.shard.alarm is not None, "the share has stopped")
        wait_for(lambda: bench.committed() == 60, "what is in front of it is committed")
        lives = bench.shard.lives
        wait_for(lambda: bench.shard.lives > lives, "it was tried again")
        assert "offset 60 is damaged" in str(bench.shard.alarm)
        assert bench.delta() is None
        bench.log.damaged_at = None
        wait_for(lambda: bench.shard.status().offsets.get(0) == 100, "it goes on")
        wait_for(lambda: bench.shard.alarm is None, "the alarm is over")
        assert not bench.deaths
    assert sorted(bench.stored_ids()) == sorted(f"id{k}" for k in range(100 * EVENTS))
