"""What a coordinator does when it is not the newest any more, when the store fails it, and while a topic is not there."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from rta.actors.coordinator import Coordinator, Outside
from rta.actors.ownership import Ownership
from rta.errors import UnavailableError
from rta.log.base import PartitionState
from rta.store import layout
from rta.store.catalog import Catalog
from rta.store.objects import ObjectStore
from tests.actors.test_aggregator import made_up_site
from tests.actors.test_housekeeper import NoLog
from tests.actors.test_log_watch import MadeUpLog
from tests.actors.test_topics import Source
from tests.store.memory import FaultyStore, MemoryStore
from tests.store.world import DOCUMENT


class MadeLog(NoLog):
    """Topics are there when they are wanted."""

    def create(self, topic: str, partitions: int) -> dict[int, PartitionState]:
        return {number: PartitionState(f"{topic}-{number}", 0, 0) for number in range(partitions)}


class CountingStore(MemoryStore):
    """Counts what is asked of it below a folder."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def get(self, key: str) -> bytes:
        self.asked.append(key)
        return super().get(key)

    def exists(self, key: str) -> bool:
        self.asked.append(key)
        return super().exists(key)

    def below(self, folder: str) -> int:
        return sum(key.startswith(folder) for key in self.asked)


def coordinating(folder: Path, store: ObjectStore, source: Source | None = None) -> Coordinator:
    """One whose threads do not run."""
    deaths: list[str] = []
    outside = Outside(
        open_log=MadeLog,
        ask=lambda actor, timeout_s: None,
        kill=lambda actor, pid: None,
        open_reader=MadeUpLog,
        log_stats=dict,
        die=deaths.append,
        open_source=None if source is None else lambda: source,
    )
    site = msgspec.structs.replace(made_up_site(folder), aggregators=("aggregator-0",))
    return Coordinator(site, store, outside)


def test_an_aggregator_that_joins_gets_its_share_though_the_store_failed_first(tmp_path: Path) -> None:
    inner, failing = MemoryStore(), [False]

    def plan(operation: str, key: str) -> str | None:
        return "before" if failing[0] and key.startswith(layout.ASSIGNMENT) and operation != "get" else None

    folder = Catalog(inner).create(DOCUMENT, 2).folder
    coordinator = coordinating(tmp_path, FaultyStore(inner, plan))  # type: ignore[arg-type]  # plan's texts are the faults
    coordinator.reconcile()
    coordinator.scale(2)
    coordinator.register("aggregator-1", 1)
    failing[0] = True
    with pytest.raises(UnavailableError):
        coordinator.reconcile()
    failing[0] = False
    coordinator.reconcile()
    assert len(coordinator._ownership.current.actors["aggregator-1"].partitions[folder]) == 1


def test_while_a_topic_is_not_there_it_alone_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source = CountingStore(), Source()
    own = Catalog(store).create(DOCUMENT, 2)
    foreign = {"name": "theirs", "time": "t", "source": {"kafka": {"topic": "theirs"}}}
    theirs = Catalog(store).create(foreign, 2)
    coordinator = coordinating(tmp_path, store, source)
    version = coordinator.reconcile()
    before = store.below(own.folder), store.below(theirs.folder)
    assert coordinator.reconcile() == version
    assert (store.below(own.folder), store.below(theirs.folder)) == before, "not at every look"
    assert "no topic 'theirs'" in coordinator._waits[theirs.folder]
    monkeypatch.setattr("rta.actors.coordinator.ASK_AGAIN_S", 0.0)
    coordinator._ask_again = 0.0
    source.topics = {"theirs": 2}
    coordinator.reconcile()
    assert coordinator._waits == {}
    assert store.below(own.folder) == before[0]
    assert store.below(theirs.folder) > before[1]


def test_a_superseded_coordinator_stands_down_when_an_aggregator_registers(tmp_path: Path) -> None:
    """Nothing else may tell it for as long as nobody can offer a part: aggregators came and went for ever."""
    store, deaths = MemoryStore(), list[str]()
    outside = Outside(
        open_log=NoLog,
        ask=lambda actor, timeout_s: None,
        kill=lambda actor, pid: None,
        open_reader=MadeUpLog,
        log_stats=dict,
        die=deaths.append,
    )
    coordinator = Coordinator(made_up_site(tmp_path), store, outside)
    assert coordinator.register("agg-0", 1).generation == 1
    Ownership(store, ("agg-0",))
    with pytest.raises(UnavailableError, match="stood down"):
        coordinator.register("agg-0", 2)
    assert len(deaths) == 1
