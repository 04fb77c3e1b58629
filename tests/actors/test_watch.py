"""The lives of aggregators: counted, with reasons, also by a coordinator that takes over."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rta.actors.links import Site
from rta.actors.messages import AggregatorStatus, ShardStatus
from rta.actors.watch import WITHOUT_A_WORD, Watch


def site(folder: Path, pid: int) -> Site:
    return Site(
        store="",
        log_folder="",
        log_socket="",
        run_folder=str(folder),
        partitions=2,
        aggregators=("a", "b"),
        epoch_ms=1,
        epoch_events=1,
        dedup_memory_ids=1,
        query_time_ms=1,
        backlog_bytes_max=1,
        crash_at=None,
        pid=pid,
    )


def watch(folder: Path, pid: int) -> Watch:
    return Watch(site(folder, pid), ask=lambda name, timeout_s: None, kill=lambda name, pid: None)


def test_restarts_and_reasons_outlive_the_coordinator_but_not_the_run(tmp_path: Path) -> None:
    first = watch(tmp_path, pid=7)
    first.registered("a", 100, 1)
    first.registered("b", 101, 2)
    first.registered("b", 102, 3)
    (tmp_path / "reasons").mkdir()
    (tmp_path / "reasons" / "a.txt").write_text("out of cheese\n")
    first.registered("a", 103, 4)
    second = watch(tmp_path, pid=7).actors()
    assert [(second[n]["restarts"], second[n]["reason"]) for n in "ab"] == [(1, "out of cheese"), (1, WITHOUT_A_WORD)]
    assert second["a"]["started_ms"] == first.actors()["a"]["started_ms"]
    later = watch(tmp_path, pid=8).actors()
    assert [(later[n]["restarts"], later[n]["reason"]) for n in "ab"] == [(0, None), (0, None)]


def test_a_broken_record_of_lives_is_no_reason_to_stay_away(tmp_path: Path) -> None:
    (tmp_path / "lives.json").write_text('{"pid": 7, "aggreg')
    assert watch(tmp_path, pid=7).actors()["a"]["restarts"] == 0


def test_an_aggregator_is_taken_in_when_its_lives_cannot_be_written_down(tmp_path: Path) -> None:
    (tmp_path / "lives.new").mkdir()
    first = watch(tmp_path, pid=7)
    first.registered("a", 100, 1)
    first.registered("a", 101, 2)
    assert first.actors()["a"]["restarts"] == 1


def test_the_alarm_of_a_share_that_could_not_begin_is_told(tmp_path: Path) -> None:
    stopped = ShardStatus(
        folder="f",
        load="",
        epoch=0,
        events=0,
        duplicates=0,
        pending_parts=0,
        offsets={},
        log_ends={},
        lag_ms=0,
        watermarks_ms={},
        idle=frozenset(),
        caught_up=False,
        alarm="the state is broken",
    )
    answer = AggregatorStatus(
        actor="a", pid=100, generation=1, started_ms=0, reloads=0, last_reload=None, shards=(stopped,)
    )
    looking = Watch(site(tmp_path, 7), ask=lambda name, timeout_s: answer, kill=lambda name, pid: None)
    looking.registered("a", 100, 1)
    looking.start()
    waiting, deadline = threading.Event(), time.monotonic() + 20
    while not looking.datasource("f", 2)["alarms"] and time.monotonic() < deadline:
        waiting.wait(0.02)
    looking.stop()
    told = looking.datasource("f", 2)
    assert told["alarms"][0] == "the state is broken"
    assert told["ownerless"] == [0, 1]
