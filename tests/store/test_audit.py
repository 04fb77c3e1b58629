"""The ledger finds what is lost or doubled, by counting the files themselves."""

from __future__ import annotations

import msgspec
import pytest

from rta.errors import CorruptFileError
from rta.store import layout
from rta.store.audit import Audit, AuditState, read_audit
from rta.store.manifests import ManifestLog
from rta.store.model import LedgerLine, Part
from rta.store.objects import ObjectStore
from tests.store.memory import FaultyStore, MemoryStore
from tests.store.test_maintain import EVENTS, House
from tests.store.world import World, altered, shop


@pytest.fixture
def world() -> World:
    return World(MemoryStore())


def audited(world: World) -> AuditState:
    audit = Audit(world.store, world.datasource)
    while audit.through < world.newest.number:
        audit.advance(world.manifests, world.newest.number)
    return audit.state


def with_line(part: Part, **changes: int) -> Part:
    line = msgspec.structs.replace(part.ledger[0], **changes)
    return altered(part, ledger=(line, *part.ledger[1:]))


def test_true_manifests_have_nothing_lost_and_nothing_twice(world: World) -> None:
    world.epochs(5, rows=40, days=(0, 1))
    report = Audit(world.store, world.datasource).ledger()
    assert report["stages"]["committed"] == 0
    state = audited(world)
    assert (state.committed, state.lost, state.duplicated, state.mismatches) == (400, 0, 0, [])
    report = Audit(world.store, world.datasource).ledger()
    assert report["stages"] == {"accepted": 400, "logged": 400, "folded": 400, "committed": 400}
    assert (report["lost"], report["duplicated"], report["mismatches"]) == (0, 0, [])


def test_rows_that_no_file_holds_are_lost(world: World) -> None:
    part = world.part(40)
    world.commit(altered(part, files=tuple(file for file in part.files if file.table != EVENTS)))
    state = audited(world)
    assert (state.lost, state.duplicated) == (40, 0)
    report = Audit(world.store, world.datasource).ledger()
    assert report["lost"] == 40
    assert {entry["stage"] for entry in report["mismatches"]} == {"committed"}
    assert sum(entry["expected"] - entry["found"] for entry in report["mismatches"]) == 40


def test_rows_that_two_files_hold_are_duplicated(world: World) -> None:
    part = world.part(40)
    again = world.store.get(layout.table_file(world.folder, EVENTS, part.files[0].path))
    path = part.files[0].path.replace("-0.parquet", "-9.parquet")
    world.store.put(layout.table_file(world.folder, EVENTS, path), again)
    world.commit(altered(part, files=(*part.files, msgspec.structs.replace(part.files[0], path=path))))
    state = audited(world)
    assert (state.lost, state.duplicated) == (0, 40)


def test_another_event_in_the_place_of_one_is_both(world: World) -> None:
    part = world.part(40)
    wrong = world.write(EVENTS, world.rows(40), 0, 8)
    world.commit(altered(part, files=(wrong, *part.files[1:])))
    state = audited(world)
    assert state.committed == 40
    assert state.lost >= 1
    assert state.duplicated >= 1


def test_dropped_and_buffered_events_are_accounted_for(world: World) -> None:
    part = world.part(40)
    line = part.ledger[0]
    world.commit(
        with_line(part, logged=line.logged + 3, logged_sum=(line.logged_sum + 30) % 2**64, dropped=3, dropped_sum=30)
    )
    state = audited(world)
    assert (state.lost, state.duplicated) == (0, 0)
    waiting = world.part(0)
    lines = tuple(LedgerLine(number, 0, 5, 50, 5, 50, 0, 0) for number in (0, 1))
    pieces = tuple(msgspec.structs.replace(piece, buffered=5, buffered_sum=50) for piece in waiting.partitions)
    world.commit(altered(waiting, ledger=lines, partitions=pieces))
    state = audited(world)
    assert (state.lost, state.duplicated) == (0, 0)
    report = Audit(world.store, world.datasource).ledger()
    assert report["buffered"] == 10
    assert report["duplicates_dropped"] == 3
    assert report["stages"]["logged"] == 53 == report["stages"]["committed"] + 10 + 3


def without_raw_rows(world: World) -> None:
    part = world.part(40)
    world.commit(altered(part, files=tuple(file for file in part.files if file.table != EVENTS)))


def test_nothing_is_lost_where_the_raw_table_was_given_up(world: World) -> None:
    world.epochs(2, rows=10)
    audit = Audit(world.store, world.datasource)
    audit.advance(world.manifests, world.newest.number)
    world.datasource = shop(version=1, retention={"events": None})
    audit.redefine(world.datasource)
    without_raw_rows(world)
    audit.advance(world.manifests, world.newest.number)
    without_raw_rows(world)
    state = audited(world)
    assert (state.lost, state.duplicated, state.mismatches) == (0, 0, [])
    report = Audit(world.store, world.datasource).ledger()
    assert (report["lost"], report["stages"]["folded"], report["stages"]["committed"]) == (0, 100, 100)


def test_line_that_does_not_add_up_is_a_mismatch_of_its_minute(world: World) -> None:
    part = world.part(40)
    line = part.ledger[0]
    world.commit(with_line(part, logged=line.logged + 2))
    state = audited(world)
    assert [(found.stage, found.minute_ms, found.partition) for found in state.mismatches] == [
        ("folded", line.minute_ms, line.partition)
    ]
    assert state.lost == 2


def test_audit_goes_on_after_a_restart_and_counts_no_file_twice(world: World) -> None:
    world.epochs(3, rows=10)
    audited(world)
    world.epochs(3, rows=10)
    assert audited(world).committed == 60
    assert audited(world).committed == 60


def test_compaction_and_retention_change_nothing_in_the_ledger() -> None:
    house = House()
    world = house.world
    world.epochs(6, rows=10)
    house.project()
    audited(world)
    house.work(world.now_ms + 11 * 86_400_000)
    world.epochs(2, rows=10)
    house.project()
    state = audited(world)
    assert (state.committed, state.lost, state.duplicated) == (80, 0, 0)
    assert Audit(world.store, world.datasource).ledger()["expired"] == {EVENTS: 60}


def test_unreadable_file_stops_the_audit_before_its_manifest(world: World) -> None:
    world.epochs(1, rows=10)
    manifest = world.commit(world.part(10))
    key = layout.table_file(world.folder, EVENTS, manifest.files[0].path)
    content = world.store.get(key)
    world.store.put(key, content[:100])
    audit = Audit(world.store, world.datasource)
    with pytest.raises(CorruptFileError, match=manifest.files[0].path):
        audit.advance(world.manifests, 2)
    world.store.put(key, content)
    assert audited(world).committed == 20
    with_retry = audit.advance(world.manifests, 2)
    assert (with_retry.committed, with_retry.lost) == (20, 0)


def test_range_of_minutes_counts_only_its_lines(world: World) -> None:
    for _ in range(4):
        world.epochs(1, rows=10)
        world.now_ms += 60_000
    audited(world)
    start = world.manifests.get(2).ledger[0].minute_ms
    report = Audit(world.store, world.datasource).ledger((start, start + 120_000))
    assert report["stages"] == {"accepted": 20, "logged": 20, "folded": 20, "committed": 20}
    assert report["lost"] == 0
    nothing = Audit(world.store, world.datasource).ledger((0, 60_000))
    assert nothing["stages"]["logged"] == 0


def test_without_a_raw_table_nothing_is_counted_and_nothing_is_lost() -> None:
    world = World(MemoryStore(), shop(retention={"events": None}))
    part = world.part(10)
    world.commit(altered(part, files=tuple(file for file in part.files if file.table != EVENTS)))
    state = audited(world)
    assert (state.lost, state.counted) == (0, False)
    assert Audit(world.store, world.datasource).ledger()["stages"]["committed"] == 10


def test_complete_through_is_held_back_by_a_partition_with_unread_records(world: World) -> None:
    world.epochs(1, rows=10)
    world.now_ms += 5000
    world.commit(world.part(10, partitions=[0]))
    audited(world)
    behind = Audit(world.store, world.datasource).ledger(log_ends={0: 20, 1: 15})
    read = Audit(world.store, world.datasource).ledger(log_ends={0: 20, 1: 10})
    assert behind["complete_through"] == "2026-01-01T00:00:00.000Z"
    assert read["complete_through"] == "2026-01-01T00:00:06.000Z"


def test_audit_reads_a_bounded_number_of_manifests_at_once(world: World) -> None:
    world.epochs(5, rows=1)
    store: ObjectStore = world.store
    audit = Audit(store, world.datasource)
    assert audit.advance(ManifestLog(store, world.folder), 5, limit=2).through == 1
    assert audit.advance(ManifestLog(store, world.folder), 5, limit=2).through == 3


def test_an_audit_that_could_not_be_written_down_is_made_again(world: World) -> None:
    """Else compaction would take files that a successor of this coordinator has to count."""
    world.epochs(3, rows=5)
    fails = [True]
    store = FaultyStore(world.store, lambda operation, key: "before" if operation == "put" and fails[0] else None)
    audit = Audit(store, world.datasource)
    with pytest.raises(OSError, match="audit"):
        audit.advance(world.manifests, world.newest.number)
    assert audit.through == -1
    fails[0] = False
    audit.advance(world.manifests, world.newest.number)
    state = read_audit(world.store, world.datasource)
    assert (state.through, state.committed, state.lost, state.duplicated) == (3, 15, 0, 0)


def test_an_older_count_of_a_predecessor_takes_nothing_back(world: World) -> None:
    """It stood still in front of its write, and goes on for a moment while its successor is at work."""
    world.epochs(2, rows=10)
    stalled, successor = (Audit(world.store, world.datasource, generation) for generation in (3, 4))
    stalled.advance(world.manifests, world.newest.number)
    world.epochs(3, rows=10)
    successor.advance(world.manifests, world.newest.number)
    stalled._write_down(stalled.state)
    assert stalled.through < world.newest.number
    assert read_audit(world.store, world.datasource).through == world.newest.number
    third = Audit(world.store, world.datasource, 5)
    assert third.through == world.newest.number
    world.epochs(1, rows=10)
    third.advance(world.manifests, world.newest.number)
    assert [info.key for info in world.store.list(layout.audits(world.folder))] == [layout.audit(world.folder, 5)]
