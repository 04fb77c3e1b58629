"""A rollup that was added later and filled from history is the rollup that was there from the start."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.errors import CorruptFileError
from rta.events.schemas import TIME, Datasource, Grain, Retention, Rollup
from rta.log.base import PartitionState
from rta.query.time import TIME_MS_MIN
from rta.store import fill, layout
from rta.store.commit import genesis, redefined
from rta.store.fill import Fills
from rta.store.maintain import Maintenance, MaintenancePlan
from rta.store.manifests import ManifestLog
from rta.store.model import Assignment, Manifest, PartitionEntry
from rta.store.objects import ObjectStore
from rta.store.parquet import read_one, write_table_file
from rta.store.runs import write_state
from rta.store.tables import DeltaProjection
from rta.store.versions import TableVersions
from rta.stream.model import EpochCut, FoldLimits
from rta.stream.rollups import merge_partials
from rta.stream.saved import state_rows
from tests.store.memory import CrashError, Fault, FaultyStore, MemoryStore, Operation
from tests.stream.shop import (
    BY_PAGE,
    DAY,
    EVENTS,
    HOUR,
    MINUTE,
    START,
    TOTAL,
    Arrival,
    Event,
    Shell,
    canonical,
    datasource,
    first_occurrences,
    folded_at_once,
    no_raw,
    records,
    to_frame,
)

ADDED = 7
"""The version of the definition that adds the rollup."""
LATER = msgspec.structs.replace(BY_PAGE, since=ADDED)
LONG = 100 * 365 * DAY
KEPT = Retention(rollups_ms=dict.fromkeys(Grain, LONG))
FIRST = msgspec.structs.replace(TOTAL, metrics=TOTAL.metrics[:1])
BEFORE = datasource(rollups=(FIRST,), retention=KEPT)
AFTER = datasource(rollups=(FIRST, LATER), version=ADDED, retention=KEPT)
EAGER = FoldLimits(deferred_rows=1, file_rows_min=3, wait_epochs_max=1)
LAZY = FoldLimits(deferred_rows=10, file_rows_min=1000)
TIDY = MaintenancePlan(grace_ms=0, sweep_every_ms=0, retention_every_ms=0, compact_files_min=2)


class World:
    """One actor's fold whose epochs become manifests, and a coordinator's tables behind them."""

    def __init__(self, limits: FoldLimits = EAGER, before: Datasource = BEFORE, after: Datasource = AFTER) -> None:
        self.store = MemoryStore()
        self.before, self.after = before, after
        self.shell = Shell(before, limits=limits)
        self.folder = before.folder
        self.manifests = ManifestLog(self.store, self.folder)
        states = {p: PartitionState("log", 0, 0) for p in range(before.partitions)}
        assert self.manifests.put(genesis(before, states, 1, START)).done
        self.projection = DeltaProjection(self.store, self.folder, after)
        self.arrivals: list[Arrival] = []
        self.now_ms = START + DAY

    @property
    def newest(self) -> Manifest:
        newest = self.manifests.newest()
        assert newest is not None
        return newest

    def arrive(self, *arrivals: Arrival) -> None:
        self.arrivals += arrivals
        if arrivals:
            self.shell.take(*records(arrivals, self.shell.source, self.shell.fold.offsets))

    def commit(self) -> None:
        """End the epoch; its files and its manifest."""
        cut = self.shell.cut()
        epoch = len(self.shell.cuts)
        names = (layout.parquet_name("a", 1, epoch, k) for k in range(len(cut.writes)))
        files = [write_table_file(self.store, self.folder, w, n) for w, n in zip(cut.writes, names, strict=True)]
        state = layout.state_path("a", 1, epoch)
        write_state(self.store, self.folder, state, cut.state)
        self.now_ms += 1000
        made = redefined(self.newest, self.shell.source.version, 1, self.now_ms)
        made = msgspec.structs.replace(made, partitions=_entries(cut, state), parts=(f"{epoch}",), files=tuple(files))
        assert self.manifests.put(made).done
        self.projection.advance(self.manifests, made.number, self.now_ms)

    def add_rollup(self) -> None:
        """The actor takes the new definition: its next epoch is the first of it."""
        self.commit()
        self.shell.restart(self.after)

    def fills(self, store: ObjectStore | None = None) -> Fills:
        made = Fills(store or self.store, self.after, 1)
        made.begin(ManifestLog(store or self.store, self.folder), self.logs(store))
        return made

    def logs(self, store: ObjectStore | None = None) -> Callable[[str], Any]:
        return DeltaProjection(store, self.folder, self.after).log if store else self.projection.log

    def fill(self) -> Fills:
        made = self.fills()
        while made.step(self.projection.log) is not None:
            self.check_recent()
        return made

    def filled_from(self, rollup: Rollup = LATER) -> int | None:
        return TableVersions(self.store, self.folder, self.manifests).filled_from(rollup.table, self.newest.number)[0]

    def frame(self, rollup: Rollup = LATER) -> pl.DataFrame:
        """What a reader sees of it now: files, saved state, and what was folded since."""
        files = TableVersions(self.store, self.folder, self.manifests).files_at(rollup.table, self.newest.number)
        parts = [to_frame(read_one(self.store, self.folder, file)) for file in files]
        parts.append(state_rows(self.shell.cuts[-1].state, None, self.after).partials[rollup.name])
        hot = self.shell.increments[self.committed :]
        parts += [increment.partials[rollup.name] for increment in hot if rollup.name in increment.partials]
        return merge_partials(parts, rollup, self.after)

    def copy(self) -> World:
        """The same in a store of its own; for looking at, not for folding on."""
        made = copy.copy(self)
        made.store = MemoryStore()
        for key, data in self.store.objects.items():
            made.store.put(key, data)
        made.manifests = ManifestLog(made.store, made.folder)
        made.projection = DeltaProjection(made.store, made.folder, made.after)
        return made

    committed = 0
    """Increments that manifests hold."""

    def check(self, rollup: Rollup = LATER) -> None:
        counted = first_occurrences(self.arrivals)
        assert canonical(self.frame(rollup), rollup) == folded_at_once(counted, rollup, self.after)

    def check_recent(self, rollup: Rollup = LATER) -> None:
        """From when on it says that it is complete, it is."""
        from_ms = self.filled_from(rollup)
        if from_ms is None:
            return
        recent = [e for e in first_occurrences(self.arrivals) if START + e.time >= from_ms]
        found = self.frame(rollup).filter(pl.col(TIME).dt.epoch("ms") >= from_ms)
        assert canonical(found, rollup) == folded_at_once(recent, rollup, self.after)


def _entries(cut: EpochCut, state: str) -> tuple[PartitionEntry, ...]:
    return tuple(
        PartitionEntry(
            partition=p.partition,
            log_incarnation="log",
            from_offset=p.from_offset,
            to_offset=p.to_offset,
            part="x",
            state=state,
            buffered=p.buffered,
        )
        for p in cut.partitions
    )


DAYS = st.builds(lambda event, day: event._replace(time=event.time + day * DAY), EVENTS, st.integers(0, 2))
FINITE = DAYS.map(lambda e: e if e.price is None or math.isfinite(e.price) else e._replace(price=None))
ARRIVALS = st.lists(
    st.builds(
        Arrival,
        partition=st.integers(0, 3),
        append=st.just(3 * DAY),
        events=st.lists(FINITE, min_size=1, max_size=6).map(tuple),
    ),
    max_size=5,
)


@settings(max_examples=30, deadline=None)
@given(ARRIVALS, ARRIVALS, ARRIVALS, st.booleans(), st.integers(1, 9))
def test_filled_from_history_and_stream_is_folded_from_the_start(
    history: list[Arrival], stream: list[Arrival], hot: list[Arrival], eager: bool, step_rows: int
) -> None:
    """Late and repeated events before and after the moment it was added, those that wait in a state, and hot ones."""
    world = World(EAGER if eager else LAZY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fill, "STEP_ROWS", step_rows)
        for arrival in history:
            world.arrive(arrival)
            if len(arrival.events) % 2:
                world.commit()
        world.add_rollup()
        world.arrive(*stream)
        world.commit()
        world.committed = len(world.shell.increments)
        world.arrive(*hot)
        made = world.fill()
    world.check()
    assert world.filled_from() == TIME_MS_MIN
    assert made.status()[LATER.name]["done"] == 1.0
    assert made.pinned() == frozenset()


def three_days(limits: FoldLimits = EAGER, **definition: Any) -> World:
    """Ten events of each of three days, a late one in the state, the rollup added, and more."""
    before = msgspec.structs.replace(BEFORE, **definition)
    world = World(limits, before, msgspec.structs.replace(AFTER, **definition))
    for day in range(3):
        events = [Event(day * DAY + i * MINUTE, f"{day}-{i}", page="x" if i % 2 else "y") for i in range(10)]
        world.arrive(Arrival(day % 2, day * DAY + HOUR, tuple(events)))
        world.commit()
    world.arrive(Arrival(0, 3 * DAY, (Event(MINUTE, "late", page="z"),)))
    world.add_rollup()
    world.arrive(Arrival(1, 3 * DAY, (Event(2 * DAY + MINUTE, "new"), Event(MINUTE, "later"))))
    world.commit()
    world.committed = len(world.shell.increments)
    return world


def test_it_is_complete_for_the_newest_days_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill, "STEP_ROWS", 10)
    world = three_days()
    assert world.filled_from() is None
    made = world.fills()
    reached = []
    while made.step(world.projection.log) is not None:
        reached.append(world.filled_from())
        world.check_recent()
    first = START + 2 * DAY + 10 * MINUTE
    assert reached == [first, first, START + 2 * DAY, START + DAY, TIME_MS_MIN]
    status = made.status()["by_page"]
    assert (status["rows"], status["steps"], status["steps_total"]) == (30, 4, 4)
    world.check()


MUTATIONS = 24


@pytest.mark.parametrize("fault", ["crash_before", "crash_after"])
def test_a_crash_at_any_step_neither_loses_nor_doubles(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill, "STEP_ROWS", 10)
    crashed = 0
    begun = three_days()
    for at in range(MUTATIONS):
        world = begun.copy()
        count = 0

        def plan(operation: Operation, _: str, at: int = at) -> Fault | None:
            nonlocal count
            count += operation != "get"
            return fault if operation != "get" and count == at + 1 else None

        store = FaultyStore(world.store, plan)
        try:
            made = world.fills(store)
            while made.step(world.logs(store)) is not None:
                pass
        except CrashError:
            crashed += 1
        world.projection = DeltaProjection(world.store, world.folder, world.after)
        world.fill()
        world.check()
    assert 10 < crashed < MUTATIONS, "the crash points do not reach over the whole fill"


def test_two_coordinators_do_each_step_once_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever one does, the other does the same just before it."""
    monkeypatch.setattr(fill, "STEP_ROWS", 10)
    world = three_days()
    other = world.fills()

    def plan(operation: Operation, key: str) -> Fault | None:
        if operation == "put_if_absent" and "_delta_log" in key:
            other.step(world.projection.log)
        return None

    store = FaultyStore(world.store, plan)
    made = world.fills(store)
    logs = world.logs(store)
    for _ in range(20):
        if made.step(logs) is None:
            break
    world.fill()
    world.check()


def test_compaction_and_sweep_leave_it_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill, "STEP_ROWS", 3)
    world = World(EAGER)
    for i in range(12):
        world.arrive(Arrival(i % 4, HOUR, tuple(Event(i * MINUTE + k, f"{i}-{k}") for k in range(3))))
        world.commit()
    world.add_rollup()
    world.commit()
    world.committed = len(world.shell.increments)
    made = world.fills()
    made.step(world.projection.log)
    keeping = Maintenance(world.store, world.after, world.projection, 1, TIDY)
    nobody = Assignment(number=0, coordinator=1, actors={}, created_ms=0)

    def keep(seconds: range, pinned: frozenset[str]) -> list[str]:
        reports = [keeping.step(world.now_ms + s * 1000, nobody, world.newest.number, pinned) for s in seconds]
        return [key for report in reports for key in report.deleted if "/tables/events/" in key]

    folded = set(keep(range(30), made.pinned()))
    assert not folded & made.pinned()
    while made.step(world.projection.log) is not None:
        pass
    world.check()
    assert keep(range(30, 60), made.pinned()), "nothing was compacted: the fill was in no danger"


def test_without_raw_events_it_is_complete_from_its_first_whole_bucket_on() -> None:
    world = three_days(retention=no_raw())
    world.fill()
    first = START + 2 * DAY + 10 * MINUTE
    assert world.filled_from() == first
    world.arrive(Arrival(0, 3 * DAY, (Event(2 * DAY + 11 * MINUTE, "fresh"),)))
    world.check_recent()
    assert world.fills().status()["by_page"]["partial"]


def test_what_its_own_retention_has_forgotten_is_not_brought_back() -> None:
    kept = Retention(rollups_ms={Grain.MINUTE: 2 * DAY, Grain.HOUR: 365 * DAY, Grain.DAY: 365 * DAY})
    world = three_days(retention=kept)
    for days, dates in ((2, ["2026-01-01", "2026-01-02", "2026-01-03"]), (3, ["2026-01-02", "2026-01-03"])):
        plan = fill.plan_fill(world.store, world.after, LATER, world.manifests, START + days * DAY + HOUR)
        assert plan is not None
        assert sorted({file.date for step in plan.steps for file in step.files}) == dates


def finish(made: Fills, world: World) -> None:
    while made.step(world.projection.log) is not None:
        pass


def test_a_file_that_cannot_be_read_stops_it_and_is_named() -> None:
    world = three_days()
    made = world.fills()
    raw = sorted(key for key in world.store.objects if "/tables/events/date=2026-01-02" in key)
    world.store.put(raw[0], b"broken")
    with pytest.raises(CorruptFileError, match="date=2026-01-02"):
        finish(made, world)
    assert made.status()["by_page"]["done"] < 1


def test_nothing_begins_before_a_manifest_of_its_version() -> None:
    world = World()
    world.arrive(Arrival(0, HOUR, (Event(0, "a"),)))
    world.add_rollup()
    made = world.fills()
    assert (made.step(world.projection.log), made.awaited_version) == (None, ADDED)
    assert made.status()["by_page"] == {"done": 0.0, "complete_from_ms": None, "partial": False}
    assert world.manifests.put(redefined(world.newest, ADDED, 1, world.now_ms)).done
    world.fill()
    world.check()
