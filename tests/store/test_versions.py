"""Rule 13: the files of a table at a manifest hold exactly the rows of the manifests, however it was rewritten."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.errors import NotFoundError
from rta.store import layout
from rta.store.compact import Compactor
from rta.store.manifests import ManifestLog
from rta.store.model import FileRef
from rta.store.parquet import read_one
from rta.store.tables import DeltaProjection
from rta.store.versions import TableVersions
from tests.store.memory import MemoryStore
from tests.store.world import World, as_named

EVENTS = "events"


def versions(world: World) -> TableVersions:
    return TableVersions(world.store, world.folder, ManifestLog(world.store, world.folder))


def ids_of(world: World, files: Sequence[FileRef]) -> list[str]:
    found: list[str] = []
    for file in files:
        found += read_one(world.store, world.folder, file, ["id"]).column("id").to_pylist()
    return sorted(found)


def compact_all(world: World, keeper: DeltaProjection) -> None:
    log = keeper.log(EVENTS)
    files = sorted(log.refresh().files.values(), key=lambda file: file.path)
    if len(files) > 1:
        assert Compactor(world.store, world.datasource, 1).compact(log, files, world.now_ms) is not None


STEPS = st.lists(st.sampled_from(["commit", "commit", "project", "compact", "checkpoint", "look"]), max_size=20)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_files_at_every_manifest_hold_what_the_manifests_say(steps: list[str]) -> None:
    world = World(MemoryStore())
    keeper = DeltaProjection(world.store, world.folder, world.datasource)
    following = versions(world)
    for step in steps:
        newest = world.newest.number
        match step:
            case "commit":
                world.epochs(1, rows=2)
            case "project":
                keeper.advance(world.manifests, newest, 0)
            case "compact":
                compact_all(world, keeper)
            case "checkpoint":
                if keeper.log(EVENTS).refresh().version >= 0:
                    keeper.log(EVENTS).write_checkpoint(0)
            case _:
                expected = ids_of(world, world.expected(EVENTS, newest))
                assert ids_of(world, following.files_at(EVENTS, newest)) == expected
    starting = versions(world)
    for number in reversed(range(world.newest.number + 1)):
        expected = ids_of(world, world.expected(EVENTS, number))
        for reader in (following, starting, versions(world)):
            assert ids_of(world, reader.files_at(EVENTS, number)) == expected


def test_table_that_has_passed_the_view_is_read_at_the_earlier_version() -> None:
    world = World(MemoryStore())
    keeper = DeltaProjection(world.store, world.folder, world.datasource)
    world.epochs(3, rows=2)
    keeper.advance(world.manifests, 3, 0)
    world.epochs(3, rows=2)
    keeper.advance(world.manifests, 6, 0)
    compact_all(world, keeper)
    reader = versions(world)
    assert as_named(reader.files_at(EVENTS, 4)) == world.expected(EVENTS, 4)
    assert len(reader.files_at(EVENTS, 6)) == 1


def test_view_beyond_the_table_takes_the_newer_version_when_it_comes() -> None:
    world = World(MemoryStore())
    keeper = DeltaProjection(world.store, world.folder, world.datasource)
    reader = versions(world)
    world.epochs(4, rows=2)
    assert len(reader.files_at(EVENTS, 4)) == 4
    keeper.advance(world.manifests, 4, 0)
    compact_all(world, keeper)
    world.epochs(1, rows=2)
    assert len(reader.files_at(EVENTS, 5)) == 2


def test_compaction_is_seen_with_the_next_manifest() -> None:
    world = World(MemoryStore())
    keeper = DeltaProjection(world.store, world.folder, world.datasource)
    reader = versions(world)
    world.epochs(4, rows=2)
    keeper.advance(world.manifests, 4, 0)
    assert len(reader.files_at(EVENTS, 4)) == 4
    compact_all(world, keeper)
    world.epochs(1, rows=2)
    assert len(reader.files_at(EVENTS, 5)) == 2


def test_a_new_manifest_costs_no_listing_and_few_gets() -> None:
    world = World(MemoryStore())
    keeper = DeltaProjection(world.store, world.folder, world.datasource)
    world.epochs(30, rows=1)
    keeper.advance(world.manifests, 30, 0)
    reader = versions(world)
    reader.files_at(EVENTS, 30)
    world.epochs(1, rows=1)
    gets: list[str] = []
    get = world.store.get

    def counted(key: str) -> bytes:
        gets.append(key)
        return get(key)

    world.store.get = counted  # type: ignore[method-assign]  # counts what is read
    world.store.list = lambda prefix: pytest.fail(f"listed {prefix}")  # type: ignore[method-assign]  # none is allowed
    assert len(reader.files_at(EVENTS, 31)) == 31
    assert len(gets) == 2
    assert len(reader.files_at(EVENTS, 31)) == 31
    assert len(gets) == 2


def test_reader_that_was_away_while_commits_were_cleaned_finds_the_table_again() -> None:
    world = World(MemoryStore())
    keeper = DeltaProjection(world.store, world.folder, world.datasource)
    world.epochs(2, rows=1)
    keeper.advance(world.manifests, 2, 0)
    reader = versions(world)
    assert len(reader.files_at(EVENTS, 2)) == 2
    for _ in range(5):
        world.epochs(15, rows=1)
        keeper.advance(world.manifests, world.newest.number, 0)
    compact_all(world, keeper)
    keeper.log(EVENTS).write_checkpoint(0)
    log = layout.delta_log(world.folder, EVENTS)
    for version in range(keeper.log(EVENTS).state.version):
        world.store.delete(f"{log}/{version:020d}.json")
    assert len(reader.files_at(EVENTS, world.newest.number)) == 1
    with pytest.raises(NotFoundError, match="begins later"):
        versions(world).files_at(EVENTS, 1)


def test_sparse_table_after_a_restart_reads_only_manifests_beyond_the_floor() -> None:
    world = World(MemoryStore())
    keeper = DeltaProjection(world.store, world.folder, world.datasource)
    world.epochs(1, rows=1)
    world.epochs(70, rows=0)
    keeper.advance(world.manifests, 71, 0)
    read: list[int] = []
    log = ManifestLog(world.store, world.folder)
    get = log.get
    log.get = lambda number: (read.append(number), get(number))[1]  # type: ignore[method-assign,func-returns-value]  # counts
    assert len(TableVersions(world.store, world.folder, log).files_at(EVENTS, 71)) == 1
    assert read == []
