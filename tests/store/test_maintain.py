"""Compaction keeps every row, retention says what it took, and the sweep never takes what somebody may still need."""

from __future__ import annotations

import contextlib

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.errors import CorruptFileError, InvariantError
from rta.events.keys import id_sum, identities_of
from rta.store import jobs, layout
from rta.store.compact import Compactor, choose_files
from rta.store.maintain import Maintenance, MaintenancePlan, MaintenanceReport, drop_datasource, removal
from rta.store.model import FileRef, Part, RunRef
from rta.store.objects import ObjectStore
from rta.store.parquet import read_one
from rta.store.runs import write_runs
from rta.store.sweep import RECENT, Sweep
from rta.store.tables import DeltaProjection
from rta.stream.model import RunWrite
from tests.store.memory import CrashError, Fault, FaultyStore, MemoryStore, Operation
from tests.store.world import DAY_MS, START_MS, World, altered_piece

EVENTS = "events"
ROLLUP = "rollup_traffic_minute"
GRACE_MS = 1000


class House:
    """A world with its maintenance. `work` runs steps until nothing is due."""

    def __init__(self, store: ObjectStore | None = None) -> None:
        self.world = World(store or MemoryStore())
        self.projection = DeltaProjection(self.world.store, self.world.folder, self.world.datasource)
        plan = MaintenancePlan(grace_ms=GRACE_MS, sweep_every_ms=0, retention_every_ms=0, compact_files_min=3)
        self.maintenance = Maintenance(self.world.store, self.world.datasource, self.projection, 1, plan)

    def project(self) -> None:
        self.projection.advance(self.world.manifests, self.world.newest.number, self.world.now_ms)

    def work(self, now_ms: int | None = None, covered: int | None = None) -> list[MaintenanceReport]:
        done: list[MaintenanceReport] = []
        at_ms = self.world.now_ms if now_ms is None else now_ms
        through = self.world.newest.number if covered is None else covered
        for _ in range(100):
            report = self.maintenance.step(at_ms, self.world.assignment(), through)
            if report.kind == "idle":
                return done
            done.append(report)
        raise AssertionError(f"never idle: {done}")

    def files(self, table: str) -> list[FileRef]:
        return list(self.projection.log(table).refresh().files.values())

    def rows(self, table: str) -> pa.Table:
        parts = [read_one(self.world.store, self.world.folder, file) for file in self.files(table)]
        return pa.concat_tables(parts)

    def keys(self, table: str) -> set[str]:
        log = layout.delta_log(self.world.folder, table)
        listed = self.world.store.list(layout.table(self.world.folder, table))
        return {info.key for info in listed if not info.key.startswith(log)}


def test_compaction_keeps_rows_and_sums_and_puts_them_in_order_of_time() -> None:
    house = House()
    house.world.epochs(9, rows=10)
    house.project()
    before = house.rows(EVENTS)
    house.work()
    after = house.rows(EVENTS)
    assert len(house.files(EVENTS)) < 3
    assert sorted(after["id"].to_pylist()) == sorted(before["id"].to_pylist())
    datasource = house.world.datasource
    assert id_sum(identities_of(after, datasource)) == id_sum(identities_of(before, datasource))
    for file in house.files(EVENTS):
        times = read_one(house.world.store, house.world.folder, file)["__time"].to_pylist()
        assert times == sorted(times)


def test_compaction_merges_rollup_rows_by_key() -> None:
    house = House()
    house.world.epochs(4, rows=30)
    house.project()
    before = pl.DataFrame(house.rows(ROLLUP))
    house.work()
    after = pl.DataFrame(house.rows(ROLLUP))
    assert after.height < before.height
    key = ["__time", "page"]
    assert after.select(key).is_unique().all()
    summed = before.group_by(key).agg(pl.col("views").sum(), pl.col("revenue").sum()).sort(key)
    assert after.select(summed.columns).sort(key).equals(summed)


def test_compaction_mixes_no_dates() -> None:
    house = House()
    house.world.epochs(4, rows=5, days=(0, 1))
    house.project()
    house.work()
    assert sorted(file.date for file in house.files(EVENTS)) == ["2026-01-01", "2026-01-02"]


def test_compaction_takes_only_what_is_projected_and_covered() -> None:
    house = House()
    house.world.epochs(6, rows=5)
    house.projection.advance(house.world.manifests, 4, 0)
    assert house.work(covered=-1) == []
    house.work(covered=6)
    assert sum(file.rows for file in house.files(EVENTS)) == 20
    house.project()
    assert sum(file.rows for file in house.files(EVENTS)) == 30


def test_merge_that_loses_a_row_is_not_committed() -> None:
    house = House()
    house.world.epochs(3, rows=30)
    house.project()
    before = house.files(ROLLUP)
    loses = Compactor(house.world.store, house.world.datasource, 1, {ROLLUP: lambda parts: pl.concat(parts)[1:]})
    with pytest.raises(InvariantError, match=ROLLUP):
        loses.compact(house.projection.log(ROLLUP), before, 0)
    assert house.files(ROLLUP) == before


def test_input_with_other_rows_than_committed_is_named() -> None:
    house = House()
    house.world.epochs(3, rows=5)
    house.project()
    broken, other, _ = house.files(EVENTS)
    world = house.world
    key = layout.table_file(world.folder, EVENTS, broken.path)
    world.store.put(key, world.store.get(layout.table_file(world.folder, EVENTS, other.path))[:50])
    with pytest.raises(CorruptFileError, match=broken.path.rpartition("/")[2]):
        house.work()
    assert len(house.files(EVENTS)) == 3


def test_of_two_compactions_of_the_same_files_one_gives_up() -> None:
    house = House()
    house.world.epochs(3, rows=5)
    house.project()
    files = house.files(EVENTS)
    other = DeltaProjection(house.world.store, house.world.folder, house.world.datasource)
    other.log(EVENTS).refresh()
    compactor = Compactor(house.world.store, house.world.datasource, 1)
    assert compactor.compact(house.projection.log(EVENTS), files, 0) is not None
    assert compactor.compact(other.log(EVENTS), files, 0) is None
    assert sum(file.rows for file in house.files(EVENTS)) == 15


@pytest.mark.parametrize("fault", ["crash_before", "crash_after"])
@pytest.mark.parametrize("step", range(6))
def test_compaction_that_dies_at_any_step_leaves_the_rows_and_no_litter(step: int, fault: Fault) -> None:
    house = House()
    world = house.world
    world.epochs(3, rows=5)
    house.project()
    left = step

    def plan(operation: Operation, _: str) -> Fault | None:
        nonlocal left
        if operation == "get":
            return None
        left -= 1
        return fault if left < 0 else None

    dying = FaultyStore(world.store, plan)
    log = DeltaProjection(dying, world.folder, world.datasource).log(EVENTS)
    with contextlib.suppress(CrashError):
        Compactor(dying, world.datasource, 1).compact(log, house.files(EVENTS), world.now_ms)
    assert sorted(house.rows(EVENTS)["id"].to_pylist()) == sorted(f"id{i}" for i in range(15))
    later_ms = world.now_ms + jobs.LEASE_MS + 1
    house.work(later_ms, covered=-1)
    house.work(later_ms + GRACE_MS + 1, covered=-1)
    assert house.keys(EVENTS) == {layout.table_file(world.folder, EVENTS, file.path) for file in house.files(EVENTS)}
    assert list(jobs.registered(world.store, world.folder)) == []


def test_compaction_is_not_committed_after_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    house.world.epochs(3, rows=5)
    house.project()
    ticks = iter([0.0, jobs.LEASE_MS / 1000 + 1])
    monkeypatch.setattr("rta.store.compact.time.monotonic", lambda: next(ticks))
    compactor = Compactor(house.world.store, house.world.datasource, 1)
    assert compactor.compact(house.projection.log(EVENTS), house.files(EVENTS), 0) is None
    assert len(house.files(EVENTS)) == 3


def test_files_per_date_stay_few_however_many_arrive() -> None:
    files: list[FileRef] = []
    rewritten = 0
    for arrival in range(2000):
        files.append(FileRef(EVENTS, f"{arrival}", "2026-01-01", 2000, 1, arrival, arrival))
        while chosen := choose_files(files):
            rewritten += sum(file.rows for file in chosen)
            kept = [file for file in files if file not in chosen]
            merged = FileRef(EVENTS, f"c{arrival}", "2026-01-01", sum(f.rows for f in chosen), 1, arrival, arrival)
            files = [*kept, merged]
        assert len(files) < 60
    assert rewritten < 6 * 2000 * 2000


def test_retention_takes_whole_dates_and_says_how_many_rows() -> None:
    house = House()
    house.world.epochs(2, rows=5, days=(0, 1, 2))
    house.project()
    assert house.maintenance.expired() == {}
    now_ms = START_MS + 12 * DAY_MS
    reports = [report for report in house.work(now_ms) if report.kind == "expire"]
    assert {(report.table, report.rows) for report in reports} == {(EVENTS, 20)}
    assert {file.date for file in house.files(EVENTS)} == {"2026-01-03"}
    assert {file.date for file in house.files(ROLLUP)} == {"2026-01-01", "2026-01-02", "2026-01-03"}
    assert house.maintenance.expired() == {EVENTS: 20}
    house.work(now_ms)
    assert house.maintenance.expired() == {EVENTS: 20}


def test_history_that_is_loaded_late_stays_for_the_retention_after_its_arrival() -> None:
    house = House()
    house.world.now_ms = START_MS + 100 * DAY_MS
    house.world.epochs(1, rows=5)
    house.project()
    house.work(house.world.now_ms + 9 * DAY_MS)
    assert len(house.files(EVENTS)) == 1
    house.work(house.world.now_ms + 10 * DAY_MS + 1)
    assert house.files(EVENTS) == []
    assert house.maintenance.expired()[EVENTS] == 5


def test_compaction_and_checkpoints_do_not_renew_the_time_of_arrival() -> None:
    house = House()
    written_ms = house.world.now_ms
    for _ in range(70):
        house.world.epochs(1, rows=1)
        house.project()
        house.work(written_ms + 8 * DAY_MS)
    assert any(path.rpartition("/")[2].startswith("compact-") for path in (f.path for f in house.files(EVENTS)))
    assert all((file.written_ms or 0) <= house.world.now_ms for file in house.files(EVENTS))
    assert house.world.store.exists(f"{layout.delta_log(house.world.folder, EVENTS)}/_last_checkpoint")
    fresh = DeltaProjection(house.world.store, house.world.folder, house.world.datasource).log(EVENTS).refresh()
    assert {file.path: file.written_ms for file in fresh.files.values()} == {
        file.path: file.written_ms for file in house.files(EVENTS)
    }
    house.work(house.world.now_ms + 11 * DAY_MS)
    assert house.files(EVENTS) == []


def test_late_rows_of_an_old_date_do_not_keep_the_older_ones() -> None:
    house = House()
    for day in range(30):
        house.world.now_ms = START_MS + day * DAY_MS
        house.world.epochs(3, rows=1)
        house.project()
        house.work()
    kept = [int(text.removeprefix("id")) // 3 for text in house.rows(EVENTS)["id"].to_pylist()]
    first_day = 30 - 1 - 10 - 2
    assert min(kept) >= first_day, "days of arrival; the retention is 10 days, an eighth of it 1.25"
    assert set(range(30 - 10, 30)) <= set(kept)


def test_retention_that_dies_before_counting_is_counted_once_later() -> None:
    house = House()
    house.world.epochs(1, rows=5)
    house.project()
    inner = house.world.store
    dying = FaultyStore(inner, lambda op, key: "crash_before" if (op, key[-12:]) == ("put", "expired.json") else None)
    projection = DeltaProjection(dying, house.world.folder, house.world.datasource)
    plan = MaintenancePlan(sweep_every_ms=0, retention_every_ms=0)
    now_ms = START_MS + 40 * DAY_MS
    maintenance = Maintenance(dying, house.world.datasource, projection, 1, plan)
    with pytest.raises(CrashError):
        maintenance.step(now_ms, house.world.assignment(), 1)
    assert house.files(EVENTS) == []
    house.work(now_ms)
    assert house.maintenance.expired()[EVENTS] == 5


def test_sweep_takes_what_compaction_left_after_the_grace_and_not_before() -> None:
    house = House()
    house.world.epochs(4, rows=5)
    house.project()
    before = house.keys(EVENTS)
    house.work()
    now_ms = house.world.now_ms
    house.work(now_ms + GRACE_MS)
    assert before < house.keys(EVENTS)
    house.work(now_ms + GRACE_MS + 1)
    assert len(house.keys(EVENTS)) == len(house.files(EVENTS)) == 1


def test_sweep_leaves_a_part_that_may_still_be_offered() -> None:
    house = House()
    world = house.world
    world.epochs(1, rows=5)
    waiting = world.part(5)
    newcomer = world.part(5, who=("agg-0", 2))
    for at_ms in (0, 10**9):
        house.work(world.now_ms + at_ms)
    named = {file.path for part in (waiting, newcomer) for file in part.files}
    there = {info.key for info in world.store.list(world.folder)}
    assert {layout.table_file(world.folder, f.table, f.path) for p in (waiting, newcomer) for f in p.files} <= there
    assert layout.within(world.folder, waiting.state) in there
    assert named


def test_sweep_takes_the_part_of_a_generation_that_is_over() -> None:
    house = House()
    world = house.world
    orphan = world.part(5)
    sweep = Sweep(world.store, world.folder, 1, GRACE_MS)
    for at_ms in (0, GRACE_MS + 1):
        reports = [sweep.step(area, world.assignment(generation=2), world.now_ms + at_ms) for area in (EVENTS, "state")]
    deleted = [key for report in reports for key in report.deleted]
    assert layout.within(world.folder, orphan.state) in deleted
    assert layout.table_file(world.folder, EVENTS, orphan.files[0].path) in deleted


def test_sweep_remembers_across_restarts_since_when_a_file_has_been_unnamed() -> None:
    house = House()
    world = house.world
    world.part(5)
    for at_ms in (0, GRACE_MS + 1):
        sweep = Sweep(world.store, world.folder, 1, GRACE_MS)
        report = sweep.step(EVENTS, world.assignment(generation=2), world.now_ms + at_ms)
    assert len(report.deleted) == 1


def test_sweep_by_anybody_but_the_writer_of_the_newest_manifest_takes_nothing() -> None:
    house = House()
    world = house.world
    world.part(5)
    sweep = Sweep(world.store, world.folder, 2, GRACE_MS)
    named = msgspec.structs.replace(world.assignment(generation=2), coordinator=2)
    for at_ms in (0, 10**9):
        assert sweep.step(EVENTS, named, world.now_ms + at_ms).deleted == []
    world.commit(generation=2)
    for at_ms in (0, 10**9):
        assert sweep.step(EVENTS, world.assignment(generation=2), world.now_ms + at_ms).deleted == []
    for at_ms in (0, 10**9):
        deleted = sweep.step(EVENTS, named, world.now_ms + at_ms).deleted
    assert len(deleted) == 1


def test_old_states_go_when_no_recent_manifest_names_them() -> None:
    house = House()
    world = house.world
    world.epochs(20, rows=0)
    house.project()
    for at_ms in (0, GRACE_MS + 1):
        house.work(world.now_ms + at_ms)
    states = {info.key for info in world.store.list(f"{world.folder}/state")}
    assert layout.within(world.folder, world.newest.partitions[0].state or "") in states
    assert 1 <= len(states) <= 10


def test_id_runs_that_were_merged_stay_as_long_as_a_recent_manifest_names_them() -> None:
    house = House()
    world = house.world

    def epoch(*kept: RunRef, writes: int = 0) -> tuple[RunRef, ...]:
        part = world.part(0)
        path = layout.run_path("agg-0", 1, world.epoch)
        ordered = [RunWrite(0, 7, np.zeros((3, 2), np.uint64))] * writes
        refs = (*kept, *write_runs(world.store, world.folder, path, ordered))
        world.commit(altered_piece(part, runs=refs))
        return refs

    def swept() -> set[str]:
        for _ in range(2):
            house.work(world.now_ms)
            world.now_ms += GRACE_MS + 1
        return {info.key for info in world.store.list(f"{world.folder}/runs")}

    apart = epoch(*epoch(writes=1), writes=1)
    merged = epoch(writes=1)
    old = {layout.within(world.folder, ref.path) for ref in apart}
    new = {layout.within(world.folder, ref.path) for ref in merged}
    for _ in range(RECENT - 1):
        assert swept() == old | new
        epoch(*merged)
    assert swept() == old | new
    epoch(*merged)
    assert swept() == new


MOVES = st.lists(
    st.sampled_from(["write", "offer", "project", "work", "work", "restart", "wait", "register", "zombie"]), max_size=30
)


class Moves:
    """A house in which anything happens in any order. What must be there is checked after each move."""

    def __init__(self) -> None:
        self.house = House()
        self.world = self.house.world
        self.generation = 1
        self.waiting: list[Part] = []
        self.outputs: list[tuple[str, int]] = []

    def write(self) -> None:
        self.waiting = [self.world.part(3, who=("agg-0", self.generation))]

    def offer(self) -> None:
        if self.waiting:
            self.world.commit(*self.waiting)
            self.waiting = []

    def project(self) -> None:
        self.house.project()

    def work(self) -> None:
        for _ in range(3):
            assignment = self.world.assignment(self.generation)
            self.house.maintenance.step(self.world.now_ms, assignment, self.world.newest.number)

    def restart(self) -> None:
        self.generation += 1
        self.waiting = []

    def wait(self) -> None:
        self.world.now_ms += GRACE_MS + 1

    def register(self) -> None:
        name = f"date=2026-01-01/compact-1-{len(self.outputs)}-0.parquet"
        key = layout.table_file(self.world.folder, EVENTS, name)
        job = jobs.register(self.world.store, self.world.folder, (key,), self.world.now_ms, 5000)
        self.world.store.put(key, b"x")
        self.outputs.append((key, job.lease_until_ms))

    def zombie(self) -> None:
        self.world.part(3, who=("agg-0", max(1, self.generation - 1)))

    def assert_all_there(self) -> None:
        world = self.world
        needed = [key for key, until_ms in self.outputs if world.now_ms <= until_ms]
        for table in (EVENTS, ROLLUP):
            live = self.house.files(table) + unprojected(self.house, table)
            needed += [layout.table_file(world.folder, table, file.path) for file in live]
        for part in self.waiting:
            needed += [layout.table_file(world.folder, file.table, file.path) for file in part.files]
            needed.append(layout.within(world.folder, part.state))
        needed += [layout.within(world.folder, entry.state) for entry in world.newest.partitions if entry.state]
        assert [key for key in needed if not world.store.exists(key)] == []


@settings(max_examples=60, deadline=None)
@given(MOVES)
def test_sweep_never_takes_a_file_that_is_or_can_be_named(moves: list[str]) -> None:
    state = Moves()
    for move in moves:
        getattr(state, move)()
        state.assert_all_there()


def unprojected(house: House, table: str) -> list[FileRef]:
    done = house.projection.log(table).refresh().txns.get(house.world.folder, -1)
    manifests = house.world.manifests.read(done + 1, house.world.newest.number)
    return [file for manifest in manifests for file in manifest.files if file.table == table]


def test_log_is_checkpointed_and_cleaned_and_opening_stays_quick() -> None:
    house = House()
    world = house.world
    for _ in range(130):
        world.epochs(1, rows=1)
        house.project()
        house.work(world.now_ms + 2 * DAY_MS)
    log = layout.delta_log(world.folder, EVENTS)
    commits = [info.key for info in world.store.list(log) if info.key.endswith(".json")]
    assert len(commits) < 140
    assert world.store.exists(f"{log}/_last_checkpoint")
    fresh = DeltaProjection(world.store, world.folder, world.datasource).log(EVENTS).refresh()
    assert sum(file.rows for file in fresh.files.values()) == 130


def test_dropped_datasource_leaves_nothing_and_says_before_what_will_go() -> None:
    house = House()
    world = house.world
    world.epochs(2, rows=5)
    house.project()
    world.store.put("other.life2/manifests/1.json", b"x")
    said = removal(world.store, world.datasource)
    assert said[EVENTS]["rows"] == 10
    assert said[EVENTS]["files"] == 2
    while not drop_datasource(world.store, world.folder, limit=3):
        pass
    assert [info.key for info in world.store.list("")] == ["other.life2/manifests/1.json"]
