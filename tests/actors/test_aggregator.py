"""What an aggregator does when the assignment changes under it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from rta.actors import aggregator, shard
from rta.actors.aggregator import Aggregator
from rta.actors.links import Site
from rta.errors import InvariantError
from rta.store.catalog import Catalog
from rta.store.model import ActorAssignment
from tests.actors.test_shard import ACTOR, Bench
from tests.store.world import DOCUMENT


def made_up_site(run_folder: Path) -> Site:
    """Nothing ends an epoch but its end."""
    return Site(
        store="",
        log_folder="",
        log_socket="",
        run_folder=str(run_folder),
        partitions=2,
        aggregators=(ACTOR,),
        epoch_ms=60_000,
        epoch_events=1_000_000,
        dedup_memory_ids=1_000_000,
        query_time_ms=10_000,
        backlog_bytes_max=1 << 30,
        crash_at=None,
        pid=0,
    )


def test_a_share_that_follows_another_has_a_load_of_its_own_name(tmp_path: Path) -> None:
    """Replicas know a load by its name: with one name for two they would add up what belongs to different shares."""
    bench = Bench(tmp_path, records=0, epoch_ms=60_000)
    folder = Catalog(bench.store).create(DOCUMENT, 2, "life1").folder
    deaths: list[str] = []
    made = Aggregator(ACTOR, made_up_site(tmp_path), bench.store, lambda _: bench.log, bench.link, deaths.append)
    names = []
    for partitions in ((0, 1), (0,), (0, 1)):
        made._take(ActorAssignment(0, {folder: partitions}))
        deadline = time.monotonic() + 30
        while not (load := made.status().shards[0].load):
            assert time.monotonic() < deadline, f"no load: {deaths}"
            threading.Event().wait(0.01)
        names.append(load)
    made._end([folder], 0.0)
    assert len(set(names)) == 3, names


def test_a_share_that_does_not_end_is_not_followed_by_one_with_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would write the files of the same epoch; a new process has a new generation."""
    bench = Bench(tmp_path, records=0, epoch_ms=60_000)
    folder = Catalog(bench.store).create(DOCUMENT, 2, "life1").folder
    stalled, released = threading.Event(), threading.Event()

    def wait(topic: str, offsets: Mapping[int, int], timeout_ms: int) -> bool:
        stalled.set()
        return released.wait(30)

    monkeypatch.setattr(bench.log, "wait", wait)
    monkeypatch.setattr(shard, "END_S", 0.1)
    monkeypatch.setattr(aggregator, "FLUSH_S", 0.1)
    made = Aggregator(ACTOR, made_up_site(tmp_path), bench.store, lambda _: bench.log, bench.link, list[str]().append)
    made._take(ActorAssignment(0, {folder: (0, 1)}))
    assert stalled.wait(30)
    with pytest.raises(InvariantError, match="did not end"):
        made._take(ActorAssignment(0, {folder: (0,)}))
    assert made.status().shards == ()
    released.set()
