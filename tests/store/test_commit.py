"""Rules 4-8 and 18: what a manifest may take and what it says. Each refusal is one that would lose or double events."""

from __future__ import annotations

import msgspec
import pytest

from rta.errors import FencedError, InvariantError, PartRefusedError
from rta.events.schemas import Datasource
from rta.store.commit import check_part, choose, genesis, next_manifest
from rta.store.manifests import ManifestLog
from rta.store.model import ActorAssignment, Assignment, Part
from rta.store.objects import ObjectStore
from tests.store.memory import MemoryStore
from tests.store.world import World, altered, altered_piece, shop


@pytest.fixture
def world() -> World:
    return World(MemoryStore())


def refused(world: World, part: Part, match: str, assignment: Assignment | None = None) -> None:
    with pytest.raises(PartRefusedError, match=match):
        check_part(part, world.newest, assignment or world.assignment())


def test_part_that_continues_the_manifest_is_taken(world: World) -> None:
    world.commit(world.part(5))
    part = world.part(5)
    check_part(part, world.newest, world.assignment())
    manifest = world.commit(part)
    assert [entry.from_offset for entry in manifest.partitions] == [10, 10]
    assert [entry.to_offset for entry in manifest.partitions] == [20, 20]
    assert {entry.part for entry in manifest.partitions} == {part.id}


def test_part_from_another_offset_is_refused(world: World) -> None:
    world.commit(world.part(5))
    for offset in (9, 11):
        refused(world, altered_piece(world.part(5), from_offset=offset), f"begins at {offset}.*ends at 10")


def test_part_folded_on_another_state_is_refused_though_its_offsets_fit(world: World) -> None:
    refused(world, altered_piece(world.part(5), based_on="another"), "folded on the state of part 'another'")


def test_part_of_another_log_incarnation_is_refused(world: World) -> None:
    refused(world, altered_piece(world.part(5), log_incarnation="again"), "of log 'again'")


def test_part_that_goes_backwards_is_refused(world: World) -> None:
    world.commit(world.part(5))
    refused(world, altered_piece(world.part(5), to_offset=9), "before its begin 10")


def test_part_with_one_bad_partition_is_refused_whole(world: World) -> None:
    part = world.part(5)
    bad = msgspec.structs.replace(part.partitions[1], from_offset=3)
    refused(world, altered(part, partitions=(part.partitions[0], bad)), "partition 1 begins at 3")


def test_part_of_older_definitions_is_refused() -> None:
    world = World(MemoryStore(), shop(version=4))
    refused(world, altered(world.part(5), definition_version=3), "version 3.*version 4")


def test_part_of_a_replaced_actor_is_refused(world: World) -> None:
    refused(world, world.part(5), "names generation 2", world.assignment(generation=2))


def test_part_of_an_actor_without_assignment_is_refused(world: World) -> None:
    refused(world, world.part(5), "does not name the actor", world.assignment(actor="agg-1"))


def test_part_of_a_partition_that_moved_is_refused(world: World) -> None:
    moved = Assignment(
        number=1,
        coordinator=1,
        actors={
            "agg-0": ActorAssignment(1, {world.folder: (0,)}),
            "agg-1": ActorAssignment(1, {world.folder: (1,)}),
        },
        created_ms=0,
    )
    refused(world, world.part(5), r"partitions \[1\] to another actor", moved)


def test_part_whose_id_is_not_its_content_is_refused(world: World) -> None:
    refused(world, msgspec.structs.replace(world.part(5), epoch=99), "not the hash")


def test_part_of_another_datasource_is_refused(world: World) -> None:
    refused(world, altered(world.part(5), datasource="other.life"), "for 'other.life'")


def test_part_that_names_a_partition_twice_or_none_is_refused(world: World) -> None:
    part = world.part(5)
    refused(world, altered(part, partitions=(part.partitions[0], part.partitions[0])), "once")
    refused(world, altered(part, partitions=()), "once")


def test_part_of_an_unknown_partition_is_refused(world: World) -> None:
    owned = Assignment(
        number=1, coordinator=1, actors={"agg-0": ActorAssignment(1, {world.folder: (0, 1, 7)})}, created_ms=0
    )
    refused(world, altered_piece(world.part(5), partition=7), "partition 7 is not in manifest 0", owned)


def test_part_with_files_of_another_epoch_is_refused(world: World) -> None:
    first = world.part(5)
    refused(world, altered(world.part(5), files=first.files), "another actor, generation or epoch")
    refused(world, altered(world.part(5), state=first.state), "another actor, generation or epoch")


def test_ledger_of_a_foreign_partition_is_refused(world: World) -> None:
    part = world.part(5)
    refused(world, altered(part, partitions=part.partitions[:1]), r"partitions \[1\] that it does not name")


def test_manifest_names_every_partition_and_carries_over(world: World) -> None:
    first = world.commit(world.part(5))
    second = world.commit(world.part(5, partitions=[1]))
    untouched, touched = second.partitions
    assert untouched == msgspec.structs.replace(first.partitions[0], from_offset=10)
    assert (untouched.to_offset, touched.from_offset, touched.to_offset) == (10, 10, 20)
    assert untouched.state == first.partitions[0].state
    assert untouched.logged == first.partitions[0].logged > 0


def test_totals_add_up_over_manifests(world: World) -> None:
    for _ in range(3):
        world.commit(world.part(7))
    newest = world.newest
    assert sum(entry.logged for entry in newest.partitions) == 21
    lines = [line for manifest in world.manifests.read(0, 3) for line in manifest.ledger if line.partition == 0]
    assert newest.partitions[0].folded_sum == sum(line.folded_sum for line in lines) % (1 << 64)


def test_disjoint_parts_go_into_one_manifest(world: World) -> None:
    both = [world.part(5, partitions=[number]) for number in (0, 1)]
    manifest = world.commit(*both)
    assert set(manifest.parts) == {part.id for part in both}
    assert len(manifest.files) == 4


def test_consecutive_parts_of_an_actor_take_a_manifest_each(world: World) -> None:
    first = world.part(5)
    after = next_manifest(world.newest, [first], 1, 0)
    second = world.part(5, previous=after)
    choice = choose([second, first], world.newest, world.assignment())
    assert (choice.taken, choice.waiting, choice.refused) == ((first,), (second,), {})
    world.commit(first)
    assert choose([second], world.newest, world.assignment()).taken == (second,)


def test_successor_of_a_refused_part_is_refused_with_it(world: World) -> None:
    stale = altered_piece(world.part(5), from_offset=3)
    after = next_manifest(world.newest, [stale], 1, 0)
    second = world.part(5, previous=after)
    choice = choose([stale, second], world.newest, world.assignment())
    assert set(choice.refused) == {stale.id, second.id}


def test_competing_parts_of_one_partition_are_not_both_taken(world: World) -> None:
    parts = [world.part(5), world.part(5)]
    choice = choose(parts, world.newest, world.assignment())
    assert len(choice.taken) == 1
    world.commit(*choice.taken)
    refused(world, choice.waiting[0], "begins at 0")


def test_manifest_holds_one_version_of_the_definitions_the_older_first(world: World) -> None:
    old = world.part(5, partitions=[0])
    new = altered(world.part(5, partitions=[1]), definition_version=1)
    choice = choose([new, old], world.newest, world.assignment())
    assert (choice.taken, choice.waiting) == ((old,), (new,))
    with pytest.raises(InvariantError, match="versions"):
        next_manifest(world.newest, [old, new], 1, 0)


def test_version_of_the_definitions_never_goes_back(world: World) -> None:
    manifest = next_manifest(world.newest, [altered(world.part(5), definition_version=3)], 1, 0)
    assert manifest.definition_version == 3
    assert next_manifest(manifest, [], 1, 0).definition_version == 3


def test_older_coordinator_is_fenced(world: World) -> None:
    fence = next_manifest(world.newest, [], 2, 0)
    assert world.manifests.put(fence).done
    with pytest.raises(FencedError, match="generation 2, ours is 1"):
        next_manifest(world.newest, [], 1, 0)


def test_fence_makes_a_stalled_put_of_the_predecessor_lose(world: World) -> None:
    stalled = next_manifest(world.newest, [world.part(5)], 1, 0)
    assert world.manifests.put(next_manifest(world.newest, [], 2, 0)).done
    outcome = ManifestLog(world.store, world.folder).put(stalled)
    assert not outcome.done
    assert world.newest.coordinator == 2


def test_genesis_needs_every_partition() -> None:
    datasource: Datasource = shop()
    with pytest.raises(InvariantError, match="its definition says 2"):
        genesis(datasource, {}, 1, 0)


def test_manifest_that_does_not_follow_is_not_put(world: World) -> None:
    manifest = next_manifest(world.newest, [], 1, 0)
    with pytest.raises(InvariantError, match="follows"):
        world.manifests.put(msgspec.structs.replace(manifest, previous="x"))


def test_newest_is_seen_by_others_and_old_ones_stay_readable(world: World) -> None:
    other = ManifestLog(world.store, world.folder)
    assert other.newest() == world.newest
    world.epochs(3, rows=1)
    assert other.newest() == world.newest
    assert [manifest.number for manifest in other.read(0, 3)] == [0, 1, 2, 3]


def test_archived_manifests_keep_their_number_and_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rta.store.manifests.BLOCK", 4)
    world = World(MemoryStore())
    world.epochs(9, rows=1)
    before = list(world.manifests.read(0, 9))
    assert world.manifests.archive(3) == 0
    assert world.manifests.archive(9) == 4
    assert world.manifests.archive(9) == 4
    assert world.manifests.archive(9) == 0
    fresh = ManifestLog(world.store, world.folder)
    assert list(fresh.read(0, 9)) == before
    assert not fresh.put(msgspec.structs.replace(before[2], created_ms=77)).done


def test_archive_goes_on_after_a_crash_between_its_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rta.store.manifests.BLOCK", 4)
    store = MemoryStore()
    world = World(store)
    world.epochs(9, rows=1)
    whole = dict(store.objects)
    world.manifests.archive(9)
    changed = [key for key in store.objects if whole.get(key) != store.objects[key]]
    for kept in range(len(changed) + 1):
        order = sorted(changed, key=lambda key: "/archive/" not in key)
        partly: ObjectStore = MemoryStore()
        for key, content in {**whole, **{key: store.objects[key] for key in order[:kept]}}.items():
            partly.put(key, content)
        log = ManifestLog(partly, world.folder)
        while log.archive(9):
            pass
        assert list(ManifestLog(partly, world.folder).read(0, 9)) == list(world.manifests.read(0, 9))
