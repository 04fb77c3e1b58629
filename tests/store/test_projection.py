"""The Delta tables hold what the manifests say, whatever crashed, and no more."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from rta.errors import CorruptFileError, InvariantError, StoreFormatError, UnavailableError
from rta.store import layout
from rta.store.delta_log import DeltaLog, NewCommit
from rta.store.objects import LocalStore
from rta.store.tables import DeltaProjection, read_floor
from tests.store.memory import CrashError, Fault, FaultyStore, MemoryStore, Operation
from tests.store.world import World, as_named, shop

TABLES = ("events", "rollup_traffic_minute")


def projection(world: World, store: object | None = None) -> DeltaProjection:
    return DeltaProjection(world.store if store is None else store, world.folder, world.datasource)  # type: ignore[arg-type]  # any store of the tests


def assert_projected(world: World, number: int) -> None:
    for table in TABLES:
        log = DeltaLog(world.store, world.folder, table)
        assert sorted(log.refresh().files) == sorted(file.path for file in world.expected(table, number))


def test_tables_are_readable_by_other_programs(tmp_path: Path) -> None:
    world = World(LocalStore(tmp_path))
    world.epochs(3, rows=20, days=(0, 1))
    projection(world).advance(world.manifests, 3, world.now_ms)
    uri = world.store.uri(layout.table(world.folder, "events"))
    frame = pl.scan_delta(uri).collect()
    assert frame.height == frame["id"].n_unique() == 120
    assert frame["date"].unique().sort().cast(pl.String).to_list() == ["2026-01-01", "2026-01-02"]
    assert frame.schema["__time"] == pl.Datetime("us", "UTC")
    table = DeltaTable(uri)
    assert table.transaction_version(world.folder) == 3
    assert sum(table.get_add_actions(flatten=True).column("num_records").to_pylist()) == 120


def test_many_manifests_go_into_one_commit_when_behind() -> None:
    world = World(MemoryStore())
    world.epochs(9, rows=3)
    keeper = projection(world)
    assert keeper.advance(world.manifests, 9, 0) == len(TABLES)
    assert keeper.advance(world.manifests, 9, 0) == 0
    assert DeltaLog(world.store, world.folder, "events").refresh().txns == {world.folder: 9}
    assert_projected(world, 9)


def test_table_without_new_files_gets_no_commit() -> None:
    world = World(MemoryStore())
    world.epochs(1, rows=3)
    world.epochs(2, rows=0)
    assert projection(world).advance(world.manifests, 3, 0) == len(TABLES)
    assert projection(world).advance(world.manifests, 3, 0) == 0


def test_two_projections_do_the_work_once_between_them() -> None:
    world = World(MemoryStore())
    one, two = projection(world), projection(world)
    for number in range(1, 9):
        world.epochs(1, rows=3)
        (one if number % 3 else two).advance(world.manifests, number, 0)
        if number % 2:
            two.advance(world.manifests, number, 0)
            one.advance(world.manifests, number - 1, 0)
    assert_projected(world, 8)
    assert DeltaLog(world.store, world.folder, "events").refresh().txns == {world.folder: 8}


@pytest.mark.parametrize("fault", ["crash_before", "crash_after"])
@pytest.mark.parametrize("step", range(8))
def test_projection_goes_on_after_a_crash_at_any_step(step: int, fault: Fault) -> None:
    world = World(MemoryStore())
    left = step

    def plan(operation: Operation, _: str) -> Fault | None:
        nonlocal left
        if operation == "get":
            return None
        left -= 1
        return fault if left < 0 else None

    dying = projection(world, FaultyStore(world.store, plan))
    try:
        for number in range(1, 4):
            world.epochs(1, rows=3)
            dying.advance(world.manifests, number, 0)
    except CrashError:
        pass
    world.epochs(2, rows=3)
    number = world.newest.number
    projection(world).advance(world.manifests, number, 0)
    assert_projected(world, number)
    projection(world).advance(world.manifests, number, 0)
    assert_projected(world, number)


@pytest.mark.parametrize("fault", ["before", "after"])
def test_lost_answer_of_a_commit_is_not_taken_for_a_conflict(fault: Fault) -> None:
    world = World(MemoryStore())
    world.epochs(2, rows=3)
    faults: list[Fault | None] = [fault] * 2
    store = FaultyStore(world.store, lambda op, _: faults.pop() if op == "put_if_absent" and faults else None)
    assert projection(world, store).advance(world.manifests, 2, 0) == len(TABLES)
    assert_projected(world, 2)


def test_store_that_stays_away_leaves_the_tables_right() -> None:
    world = World(MemoryStore())
    world.epochs(2, rows=3)
    store = FaultyStore(world.store, lambda op, key: "after" if op != "put" and "_delta_log" in key else None)
    with pytest.raises((UnavailableError, OSError)):
        projection(world, store).advance(world.manifests, 2, 0)
    projection(world).advance(world.manifests, 2, 0)
    assert_projected(world, 2)


def test_stale_projection_cannot_take_a_table_back() -> None:
    world = World(MemoryStore())
    world.epochs(2, rows=3)
    stale = projection(world)
    stale.advance(world.manifests, 1, 0)
    world.epochs(3, rows=3)
    projection(world).advance(world.manifests, 5, 0)
    assert stale.advance(world.manifests, 2, 0) == 0
    assert_projected(world, 5)


def test_missing_file_is_named_and_nothing_is_committed_to_its_table() -> None:
    world = World(MemoryStore())
    manifest = world.commit(world.part(3))
    gone = next(file for file in manifest.files if file.table == "events")
    content = world.store.get(layout.table_file(world.folder, "events", gone.path))
    world.store.delete(layout.table_file(world.folder, "events", gone.path))
    with pytest.raises(CorruptFileError, match=gone.path.rpartition("/")[2]):
        projection(world).advance(world.manifests, 1, 0)
    assert DeltaLog(world.store, world.folder, "events").refresh().version == -1
    assert DeltaLog(world.store, world.folder, TABLES[1]).refresh().version == 0
    world.store.put(layout.table_file(world.folder, "events", gone.path), content[:-1])
    with pytest.raises(CorruptFileError, match="bytes, its manifest says"):
        projection(world).advance(world.manifests, 1, 0)
    world.store.put(layout.table_file(world.folder, "events", gone.path), content)
    projection(world).advance(world.manifests, 1, 0)
    assert_projected(world, 1)


def test_new_columns_are_added_and_null_in_older_files(tmp_path: Path) -> None:
    world = World(LocalStore(tmp_path))
    world.epochs(1, rows=3)
    keeper = projection(world)
    keeper.advance(world.manifests, 1, 0)
    columns = {"user": "string", "id": "string", "page": "string", "price": "double", "coupon": "string"}
    world.datasource = shop(version=1, columns=columns)
    keeper.redefine(world.datasource)
    world.epochs(1, rows=3)
    keeper.advance(world.manifests, 2, 0)
    frame = pl.scan_delta(world.store.uri(layout.table(world.folder, "events"))).collect()
    assert frame.shape[0] == 6
    assert frame["coupon"].null_count() == 6
    assert DeltaTable(world.store.uri(layout.table(world.folder, "events"))).schema().fields[-1].name == "coupon"


def test_column_cannot_change_its_type() -> None:
    world = World(MemoryStore())
    world.epochs(1, rows=3)
    keeper = projection(world)
    keeper.advance(world.manifests, 1, 0)
    world.epochs(1, rows=3)
    columns = {"user": "string", "id": "string", "page": "string", "price": "long"}
    keeper.redefine(shop(version=1, columns=columns))
    with pytest.raises(InvariantError, match="'price'"):
        keeper.advance(world.manifests, 2, 0)


def test_table_unknown_to_the_definition_gets_the_columns_of_its_files() -> None:
    world = World(MemoryStore())
    part = world.part(2)
    times = pa.array([world.now_ms], pa.timestamp("ms", tz="UTC"))
    rows = pa.table({"__time": times, "reason": pa.array(["too_old"])})
    sessions = world.write("sessions", rows, 0, 9)
    from tests.store.world import altered

    world.commit(altered(part, files=(*part.files, sessions)))
    projection(world).advance(world.manifests, 1, 0)
    state = DeltaLog(world.store, world.folder, "sessions").refresh()
    assert [column["name"] for column in state.columns()] == ["__time", "reason", "date"]


def test_floor_spares_the_manifests_before_it() -> None:
    world = World(MemoryStore())
    world.epochs(70, rows=0)
    projection(world).advance(world.manifests, 70, 0)
    assert read_floor(world.store, world.folder) == 70
    world.epochs(1, rows=3)
    reads: list[int] = []
    log = world.manifests
    read = log.read
    log.read = lambda first, last: (reads.append(first), read(first, last))[1]  # type: ignore[method-assign,func-returns-value]  # counts
    projection(world).advance(log, 71, 0)
    assert reads == [71]


def test_checkpoint_stands_for_the_commits_before_it(tmp_path: Path) -> None:
    world = World(LocalStore(tmp_path))
    keeper = projection(world)
    for number in range(1, 6):
        world.epochs(1, rows=3)
        keeper.advance(world.manifests, number, 1000)
    assert keeper.log("events").write_checkpoint(2000) == 4
    for version in range(5):
        world.store.delete(f"{layout.delta_log(world.folder, 'events')}/{version:020d}.json")
    world.epochs(1, rows=3)
    projection(world).advance(world.manifests, 6, 3000)
    assert_projected(world, 6)
    uri = world.store.uri(layout.table(world.folder, "events"))
    assert pl.scan_delta(uri).collect().height == 18
    assert DeltaTable(uri).transaction_version(world.folder) == 6


def test_checkpoints_of_other_programs_are_read(tmp_path: Path) -> None:
    world = World(LocalStore(tmp_path))
    world.epochs(3, rows=3)
    projection(world).advance(world.manifests, 3, 1000)
    uri = world.store.uri(layout.table(world.folder, "events"))
    DeltaTable(uri).create_checkpoint()
    world.store.delete(f"{layout.delta_log(world.folder, 'events')}/{0:020d}.json")
    log = DeltaLog(world.store, world.folder, "events")
    files = list(log.refresh().files.values())
    assert sorted(as_named(files), key=lambda file: file.path) == world.expected("events", 3)
    assert {file.written_ms for file in files} == {m.created_ms for m in world.manifests.read(1, 3)}
    assert log.state.txns == {world.folder: 3}
    world.epochs(1, rows=3)
    projection(world).advance(world.manifests, 4, 2000)
    assert pl.scan_delta(uri).collect().height == 12


def test_commits_of_other_programs_are_followed(tmp_path: Path) -> None:
    world = World(LocalStore(tmp_path))
    keeper = projection(world)
    world.epochs(2, rows=5)
    keeper.advance(world.manifests, 2, 1000)
    uri = world.store.uri(layout.table(world.folder, "events"))
    DeltaTable(uri).delete("id = 'id3'")
    world.epochs(1, rows=5)
    keeper.advance(world.manifests, 3, 2000)
    frame = pl.scan_delta(uri).collect()
    assert sorted(frame["id"]) == sorted(f"id{i}" for i in range(15) if i != 3)


def test_table_that_needs_a_newer_writer_is_not_written() -> None:
    world = World(MemoryStore())
    world.epochs(1, rows=3)
    projection(world).advance(world.manifests, 1, 0)
    key = f"{layout.delta_log(world.folder, 'events')}/{1:020d}.json"
    world.store.put(key, b'{"protocol":{"minReaderVersion":3,"minWriterVersion":7}}\n')
    world.epochs(1, rows=3)
    with pytest.raises(StoreFormatError, match="writer version 7"):
        projection(world).advance(world.manifests, 2, 0)


def test_a_commit_is_built_again_from_what_the_faster_one_left() -> None:
    world = World(MemoryStore())
    world.epochs(1, rows=3)
    projection(world).advance(world.manifests, 1, 0)
    log, other = (DeltaLog(world.store, world.folder, "events") for _ in range(2))
    asked: list[int] = []

    def build(state: object) -> NewCommit | None:
        asked.append(log.state.version)
        if len(asked) == 1:
            other.commit(lambda _: NewCommit("WRITE", 0, txns=(("other", 1),)))
        return NewCommit("WRITE", 0, txns=(("ours", 1),))

    assert log.commit(build)
    assert asked == [0, 1]
    assert log.state.txns == {world.folder: 1, "other": 1, "ours": 1}
