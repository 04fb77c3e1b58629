"""Who keeps the house: the newest coordinator, and nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from rta.actors.housekeeper import Housekeeper
from rta.actors.ownership import Ownership
from rta.log.base import PartitionState
from rta.store.audit import read_audit
from tests.actors.test_aggregator import made_up_site
from tests.store.memory import MemoryStore
from tests.store.world import World


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
