"""Who keeps the house: the newest coordinator, and nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from rta.actors import housekeeper
from rta.actors.housekeeper import Housekeeper
from rta.actors.ownership import Ownership
from rta.errors import CorruptFileError
from rta.events.schemas import REJECTED_SCHEMA, Datasource
from rta.log.base import PartitionState
from rta.store import fill
from rta.store.audit import read_audit
from rta.stream.model import SavedPartition
from rta.stream.saved import StateRows
from tests.actors.test_aggregator import made_up_site
from tests.store.memory import MemoryStore
from tests.store.world import START_MS, World, shop

NONE = REJECTED_SCHEMA.empty_table()


class NoLog:
    """A log that only remembers what it was trimmed to."""

    def __init__(self) -> None:
        self.trimmed: list[dict[int, int]] = []

    def create(self, topic: str, partitions: int) -> dict[int, PartitionState]:
        return {}

    def drop(self, topic: str) -> None:
        return

    def topics(self) -> list[str]:
        return []

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        self.trimmed.append(dict(offsets))

    def close(self) -> None:
        return


@pytest.mark.parametrize("superseded", [False, True])
def test_a_coordinator_that_finds_a_newer_ones_manifest_keeps_no_house(tmp_path: Path, superseded: bool) -> None:
    """It would write over what its successor noted, and audit files that the successor has compacted."""
    store, log = MemoryStore(), NoLog()
    ownership = Ownership(store, ("a",))
    world = World(store, generation=ownership.generation)
    world.commit(world.part(3), generation=ownership.generation + int(superseded))
    keeper = Housekeeper(store, lambda: log, made_up_site(tmp_path), ownership)
    keeper.set_datasources([world.datasource], [])
    keeper._round(log, last=False)
    assert read_audit(store, world.datasource).through == (-1 if superseded else 1)
    assert len(log.trimmed) == (0 if superseded else 1)


def redefined_world(store: MemoryStore, generation: int) -> tuple[World, Datasource]:
    """Some events, and a definition with one more rollup that nobody has folded with."""
    world = World(store, shop(retention={"rollups": {"minute": "10000d"}}), generation=generation)
    world.commit(world.part(3))
    rollup = msgspec.structs.replace(world.datasource.rollups[0], name="later", since=4)
    return world, msgspec.structs.replace(world.datasource, version=4, rollups=(*world.datasource.rollups, rollup))


def test_where_nothing_comes_in_an_empty_manifest_begins_a_new_definition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollup that was added to a datasource at rest is filled all the same."""
    monkeypatch.setattr(housekeeper, "REDEFINE_S", 0.0)
    monkeypatch.setattr(
        fill, "decode_state", lambda _: {0: SavedPartition({}, pa.table({}), event_time_max_ms=START_MS)}
    )
    store, log = MemoryStore(), NoLog()
    ownership = Ownership(store, ("a",))
    world, wider = redefined_world(store, ownership.generation)
    nothing = StateRows({}, world.datasource.raw_schema().empty_table(), NONE)
    monkeypatch.setattr(fill, "state_rows", lambda *_: nothing)
    keeper = Housekeeper(store, lambda: log, made_up_site(tmp_path), ownership)
    keeper.set_datasources([wider], [])
    monkeypatch.setattr(housekeeper, "FILL_REST", 0.0)
    for _ in range(6):
        keeper._round(log, last=False)
    assert (world.newest.number, world.newest.definition_version, world.newest.parts) == (2, 4, ())
    found = keeper.filling(world.folder)["later"]
    assert (found["done"], found["rows"], found["failure"]) == (1.0, 3, None)


def test_a_fill_that_fails_holds_up_nothing_else_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeper, "REDEFINE_S", 0.0)
    monkeypatch.setattr(
        fill, "decode_state", lambda _: {0: SavedPartition({}, pa.table({}), event_time_max_ms=START_MS)}
    )

    def broken(*_: object) -> StateRows:
        raise CorruptFileError("reading the state: it is broken")

    monkeypatch.setattr(fill, "state_rows", broken)
    monkeypatch.setattr(housekeeper, "FILL_REST", 0.0)
    store, log = MemoryStore(), NoLog()
    ownership = Ownership(store, ("a",))
    world, wider = redefined_world(store, ownership.generation)
    keeper = Housekeeper(store, lambda: log, made_up_site(tmp_path), ownership)
    keeper.set_datasources([wider], [])
    for _ in range(6):
        keeper._round(log, last=False)
    assert "it is broken" in keeper.filling(world.folder)["later"]["failure"]
    assert read_audit(store, world.datasource).through == world.newest.number == 2
    assert keeper.status()["shop"]["failure"] is None
