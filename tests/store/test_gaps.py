"""What a log has lost is found by comparing it with the newest manifest; going on behind it is a manifest of its own."""

from __future__ import annotations

import pytest

from rta.errors import ConflictError, FencedError, PartRefusedError
from rta.log.base import PartitionState
from rta.store.audit import Audit
from rta.store.commit import check_part, gaps, grown, resumed
from rta.store.ledger import read_ledger
from rta.store.model import Manifest
from tests.store.memory import MemoryStore
from tests.store.world import World


@pytest.fixture
def world() -> World:
    made = World(MemoryStore())
    made.epochs(2, rows=20)
    return made


def ends(manifest: Manifest) -> dict[int, PartitionState]:
    """A log that goes on exactly where the manifest ends."""
    return {e.partition: PartitionState(e.log_incarnation, 0, e.to_offset) for e in manifest.partitions}


def test_a_log_that_goes_on_has_no_gap(world: World) -> None:
    newest = world.newest
    assert gaps(newest, ends(newest), 1) == ()
    longer = {p: s._replace(start=s.end, end=s.end + 100) for p, s in ends(newest).items()}
    assert gaps(newest, longer, 1) == ()


def test_a_log_that_begins_behind_ends_before_or_is_another_one_has_a_gap(world: World) -> None:
    newest = world.newest
    states, at = ends(newest), {e.partition: e.to_offset for e in newest.partitions}
    [overtaken] = gaps(newest, {**states, 0: states[0]._replace(start=at[0] + 7, end=at[0] + 9)}, 5)
    assert (overtaken.partition, overtaken.from_offset, overtaken.to_offset) == (0, at[0], at[0] + 7)
    assert (overtaken.records, overtaken.accepted_ms) == (7, 5)
    [shorter] = gaps(newest, {**states, 1: states[1]._replace(end=at[1] - 1)}, 5)
    assert (shorter.to_offset, shorter.records) == (at[1] - 1, 1)
    [other] = gaps(newest, {**states, 1: PartitionState("other", 3, 50)}, 5)
    assert (other.to_incarnation, other.to_offset, other.records) == ("other", 3, None)


def test_the_manifest_behind_a_gap_keeps_the_state_and_refuses_what_was_folded_before_it(world: World) -> None:
    newest = world.newest
    late = world.part(20)
    found = gaps(newest, {**ends(newest), 0: PartitionState("other", 0, 4)}, 5)
    following = resumed(newest, found, world.generation, 6)
    entry, before = following.partitions[0], newest.partitions[0]
    assert (following.number, following.previous, following.gaps) == (newest.number + 1, newest.commit_id, found)
    assert (entry.log_incarnation, entry.from_offset, entry.to_offset) == ("other", 0, 0)
    assert (entry.part, entry.state, entry.runs, entry.folded) == (
        before.part,
        before.state,
        before.runs,
        before.folded,
    )
    assert following.partitions[1].to_offset == newest.partitions[1].to_offset
    with pytest.raises(PartRefusedError, match="is of log"):
        check_part(late, following, world.assignment())


def test_an_older_coordinator_accepts_nothing(world: World) -> None:
    newest = world.newest
    found = gaps(newest, {**ends(newest), 0: PartitionState("other", 0, 4)}, 5)
    with pytest.raises(FencedError):
        resumed(newest, found, world.generation - 1, 6)


def test_the_ledger_keeps_the_gap_and_calls_nothing_else_lost(world: World) -> None:
    newest = world.newest
    found = gaps(newest, {**ends(newest), 0: PartitionState("other", 0, 4)}, 5)
    assert world.manifests.put(resumed(newest, found, world.generation, 6)).done
    Audit(world.store, world.datasource).advance(world.manifests, newest.number + 1)
    report = read_ledger(world.store, world.datasource).report()
    assert (report["lost"], report["duplicated"], report["mismatches"]) == (0, 0, [])
    assert [(gap["partition"], gap["records"]) for gap in report["gaps"]] == [(0, None)]


def test_partitions_that_the_log_has_got_begin_where_they_begin(world: World) -> None:
    newest = world.newest
    more = {**ends(newest), 7: PartitionState("log7", 3, 9)}
    following = grown(newest, more, world.generation, 5)
    assert following.number == newest.number + 1
    assert [e.partition for e in following.partitions] == [0, 1, 7]
    assert [(e.to_offset, e.part) for e in following.partitions[:2]] == [
        (e.to_offset, e.part) for e in newest.partitions
    ]
    added = following.partitions[2]
    assert (added.log_incarnation, added.from_offset, added.to_offset, added.state) == ("log7", 3, 3, None)


def test_a_log_with_fewer_partitions_can_not_be_gone_on_with(world: World) -> None:
    states = ends(world.newest)
    del states[1]
    with pytest.raises(ConflictError, match="has no partition 1 any more") as caught:
        gaps(world.newest, states, 5)
    assert "at least 2 partitions" in str(caught.value.hint)
