"""The lives of aggregators: counted, with reasons, also by a coordinator that takes over."""

from __future__ import annotations

from pathlib import Path

from rta.actors.links import Site
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
