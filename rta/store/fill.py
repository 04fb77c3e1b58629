"""Rollups that were added at run time: filled from history, a bounded piece at a time.

Owns rule 17 of the commit protocol. The aggregators fold such a rollup from the first manifest of its version on; the
manifest before it is the boundary, and what the raw table holds at it, with the raw rows that its saved states still
buffer, is the rollup's history. A plan names those files once and for all, in steps: first what the states buffer, then
day by day, the newest first. A step is folded as the stream folds and committed to the rollup's Delta table in one commit
with its number, so that it takes effect once, whoever does it and whatever dies. That commit also says from which event
time on the rollup now has everything, so that a reader of the table at any version knows what it may be asked.

The files of a plan never change; they may be compacted or expire meanwhile, and are kept from the sweep (`pinned`) until
their step is done. When what is to be done and how fast is the housekeeper's.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from rta.errors import CorruptFileError, NotFoundError
from rta.events.schemas import EVENTS, GRAIN_MS, TIME, UNKNOWN, Datasource, Rollup
from rta.query.time import TIME_MS_MIN
from rta.store import jobs, layout
from rta.store.delta_log import DeltaLog, NewCommit, TableState
from rta.store.maintain import retention_ms
from rta.store.manifests import ManifestLog
from rta.store.model import FileRef, Manifest
from rta.store.objects import ObjectStore
from rta.store.parquet import read_one, write_table_file
from rta.store.runs import load_state, naming_state
from rta.store.tables import definition
from rta.store.versions import FILL_DONE, FILL_REACH, TableVersions
from rta.stream.columns import Columns, fit, numbers
from rta.stream.filing import DAY_MS, date_text, split_by_day
from rta.stream.model import TableWrite
from rta.stream.rollups import build_partials, merge_tables
from rta.stream.saved import decode_state, state_rows

FILL_STEPS = "rtaFillSteps"
"""Delta app transaction of a rollup's table: how many steps are done."""
STEP_ROWS = 250_000
"""Raw rows of one step: some 0.3 s of work, and less than 100 MB."""
STEP_FILES = 64


class StateSlice(msgspec.Struct, frozen=True):
    """The partitions of a saved state that the boundary names it for."""

    path: str
    partitions: tuple[int, ...]


class Step(msgspec.Struct, frozen=True):
    """What is folded together. When it is done, the rollup is complete for event times from `from_ms` on."""

    from_ms: int
    files: tuple[FileRef, ...] = ()
    states: tuple[StateSlice, ...] = ()

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


class FillPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What filling a rollup takes. Made once, by whoever is first; never changed.

    `from_ms` is what the rollup is complete from before any step: no event through the boundary is as young. Where there
    is no history to read, there are no steps, and it stays so: `partial`.
    """

    table: str
    since: int
    boundary: int
    created_ms: int
    """When the boundary was put: the raw rows that it buffers were written in its time."""
    from_ms: int
    partial: bool
    steps: tuple[Step, ...]

    @property
    def rows(self) -> int:
        return sum(step.rows for step in self.steps)


def first_manifest(manifests: ManifestLog, newest: Manifest, version: int) -> int:
    """The number of the first manifest of this version of the definitions or a later one. Cost: log2 of the chain in gets."""
    low, high = -1, newest.number
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if manifests.get(middle).definition_version >= version else (middle, high)
    return high


def plan_fill(
    store: ObjectStore, datasource: Datasource, rollup: Rollup, manifests: ManifestLog, now_ms: int
) -> FillPlan | None:
    """What filling the rollup takes, as the store has it now; None while nobody has folded with its version.

    Must be asked before anything that lies beyond the boundary is compacted with what lies below it.

    Raises:
        CorruptFileError: a state that the boundary names can't be read.
    """
    newest = manifests.newest()
    if newest is None or newest.definition_version < rollup.since:
        return None
    boundary = first_manifest(manifests, newest, rollup.since) - 1
    made = FillPlan(
        table=rollup.table,
        since=rollup.since,
        boundary=boundary,
        created_ms=0,
        from_ms=TIME_MS_MIN,
        partial=False,
        steps=(),
    )
    if boundary < 0:
        return made
    before = manifests.get(boundary)
    states = _states(before)
    from_ms = _front_ms(store, datasource, states, GRAIN_MS[rollup.granularity])
    made = msgspec.structs.replace(made, created_ms=before.created_ms, from_ms=from_ms)
    if from_ms == TIME_MS_MIN:
        return made
    if datasource.retention.events_ms is None:
        return msgspec.structs.replace(made, partial=True)
    try:
        found = TableVersions(store, datasource.folder, manifests).files_at(EVENTS, boundary)
    except NotFoundError:
        # The table's log no longer reaches back: it was added by an rta that did not fill, and long ago.
        return msgspec.structs.replace(made, partial=True)
    kept_ms = retention_ms(datasource, rollup.table)
    files = [_dated(file, before.created_ms) for file in found]
    files = [file for file in files if kept_ms is None or _is_kept(file, now_ms - kept_ms)]
    steps = _steps(files, states, from_ms)
    return msgspec.structs.replace(made, steps=steps, from_ms=from_ms if steps else TIME_MS_MIN)


def _states(manifest: Manifest) -> tuple[StateSlice, ...]:
    by_path: dict[str, list[int]] = {}
    for entry in manifest.partitions:
        if entry.state is not None:
            by_path.setdefault(entry.state, []).append(entry.partition)
    return tuple(StateSlice(path, tuple(partitions)) for path, partitions in by_path.items())


def _front_ms(store: ObjectStore, datasource: Datasource, states: Sequence[StateSlice], grain_ms: int) -> int:
    """The first bucket that begins after every event that was counted; `TIME_MS_MIN` when none was."""
    seen: list[int] = []
    for each in states:
        data = load_state(store, datasource.folder, each.path)
        with naming_state(datasource.folder, each.path):
            saved = decode_state(data)
        times = (saved[p].event_time_max_ms for p in each.partitions if p in saved)
        seen += [t for t in times if t is not None]
    return (max(seen) // grain_ms + 1) * grain_ms if seen else TIME_MS_MIN


def _dated(file: FileRef, written_ms: int) -> FileRef:
    return file if file.written_ms is not None else msgspec.structs.replace(file, written_ms=written_ms)


def _is_kept(file: FileRef, oldest_ms: int) -> bool:
    """As retention counts, by event time and by when it was written: the rollup would still hold its rows."""
    oldest = datetime.fromtimestamp(oldest_ms / 1000, UTC).date().isoformat()
    return file.date >= oldest or (file.written_ms or 0) >= oldest_ms


def _steps(files: Sequence[FileRef], states: tuple[StateSlice, ...], from_ms: int) -> tuple[Step, ...]:
    """Buffered rows first, then the files, the newest date first; each says from when on it makes the rollup complete."""
    groups: list[list[FileRef]] = []
    for file in sorted(files, key=lambda f: (f.date, f.time_min_ms, f.path), reverse=True):
        last = groups[-1] if groups else []
        full = sum(f.rows for f in last) + file.rows > STEP_ROWS or len(last) >= STEP_FILES
        if not last or last[0].date != file.date or full:
            groups.append([])
        groups[-1].append(file)
    made = [Step(0, states=states)] if states else []
    made += [Step(0, tuple(group)) for group in groups]
    ends = [_end_of(step.files[0].date) for step in made if step.files]
    reached = [min(from_ms, end) for end in ends] + [TIME_MS_MIN]
    if not states:
        reached = reached[1:]
    return tuple(msgspec.structs.replace(step, from_ms=at) for step, at in zip(made, reached, strict=True))


def _end_of(date: str) -> int:
    return (int(np.datetime64(date, "D").astype(np.int64)) + 1) * DAY_MS


class Fill:
    """One rollup's fill on its way."""

    def __init__(self, rollup: Rollup, plan: FillPlan) -> None:
        self.rollup = rollup
        self.plan = plan
        self.done = -1
        """Steps that are done; -1 before the table says from when on it is complete."""
        self.from_ms: int | None = None

    @property
    def finished(self) -> bool:
        return self.done == len(self.plan.steps)

    def note(self, state: TableState) -> None:
        self.done = state.txns.get(FILL_STEPS, -1)
        reach = state.txns.get(FILL_REACH)
        self.from_ms = None if reach is None else -reach

    def status(self) -> dict[str, Any]:
        """Plain JSON."""
        steps = self.plan.steps
        rows, steps_done = sum(step.rows for step in steps[: max(0, self.done)]), max(0, self.done)
        share = rows / self.plan.rows if self.plan.rows else float(self.finished)
        return {
            "done": 1.0 if self.finished else round(min(share, 0.999), 3),
            "complete_from_ms": self.from_ms,
            "rows": rows,
            "rows_total": self.plan.rows,
            "steps": steps_done,
            "steps_total": len(steps),
            "partial": self.plan.partial,
        }


class Fills:
    """The fills of one datasource. One per thread, by the coordinator of this generation.

    `step` is given the tables' logs by whoever keeps them.
    """

    def __init__(self, store: ObjectStore, datasource: Datasource, generation: int) -> None:
        self._store = store
        self._datasource = datasource
        self._folder = datasource.folder
        self._generation = generation
        self._fills: dict[str, Fill] = {}

    def redefine(self, datasource: Datasource) -> None:
        """The definition has a new version: a rollup that went away is filled no more."""
        self._datasource = datasource
        tables = {rollup.table for rollup in self._later()}
        self._fills = {table: fill for table, fill in self._fills.items() if table in tables}

    def _later(self) -> list[Rollup]:
        return [rollup for rollup in self._datasource.later_rollups if rollup.since != UNKNOWN]

    def status(self) -> dict[str, dict[str, Any]]:
        """By the rollups' names; those that can't begin yet included."""
        waiting = {"done": 0.0, "complete_from_ms": None, "partial": False}
        fills = ((rollup, self._fills.get(rollup.table)) for rollup in self._later())
        return {rollup.name: waiting if fill is None else fill.status() for rollup, fill in fills}

    @property
    def awaited_version(self) -> int:
        """The version of the definitions with which somebody must have folded before every fill can begin."""
        return max((r.since for r in self._later() if r.table not in self._fills), default=0)

    def begin(self, manifests: ManifestLog, open_log: Callable[[str], DeltaLog]) -> None:
        """Take up every fill that can begin. Before anything is compacted or swept: see `plan_fill`."""
        for rollup in self._later():
            if rollup.table in self._fills:
                continue
            now_ms = time.time_ns() // 1_000_000
            plan = self._stored(rollup) or plan_fill(self._store, self._datasource, rollup, manifests, now_ms)
            if plan is None:
                continue
            self._store.put_if_absent(layout.fill(self._folder, rollup.table), msgspec.json.encode(plan))
            agreed = self._stored(rollup)
            assert agreed is not None  # nobody deletes a plan
            fill = Fill(rollup, agreed)
            fill.note(open_log(rollup.table).refresh())
            self._fills[rollup.table] = fill

    def _stored(self, rollup: Rollup) -> FillPlan | None:
        key = layout.fill(self._folder, rollup.table)
        try:
            return msgspec.json.decode(self._store.get(key), type=FillPlan)
        except NotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise CorruptFileError(f"reading the plan '{key}': {error}", "restore it from a backup") from error

    def pinned(self) -> frozenset[str]:
        """Keys of what is still to be read: the sweep leaves them alone."""
        found: set[str] = set()
        for fill in self._fills.values():
            for step in fill.plan.steps[max(0, fill.done) :]:
                found.update(layout.table_file(self._folder, EVENTS, file.path) for file in step.files)
                found.update(layout.within(self._folder, each.path) for each in step.states)
        return frozenset(found)

    def step(self, open_log: Callable[[str], DeltaLog]) -> str | None:
        """Do the next step of a fill, the oldest rollup first; its table, None when nothing is left to do.

        Raises:
            CorruptFileError: a raw file or a state can't be read. Nothing was committed.
        """
        for fill in self._fills.values():
            if not fill.finished:
                self._advance(fill, open_log(fill.rollup.table))
                return fill.rollup.table
        return None

    def _advance(self, fill: Fill, log: DeltaLog) -> None:
        fill.note(log.refresh())
        if fill.finished:
            return
        if fill.done < 0:
            self._commit(fill, log, (), fill.plan.from_ms, lambda: -1)
        else:
            self._commit_step(fill, log, fill.plan.steps[fill.done])
        fill.note(log.state)

    def _commit_step(self, fill: Fill, log: DeltaLog, step: Step) -> None:
        writes = self._writes(fill, step)
        names = [
            layout.parquet_name(layout.FILL, self._generation, uuid.uuid4().int >> 66, k) for k in range(len(writes))
        ]
        keys = [
            layout.table_file(self._folder, log.table, layout.dated(w.date, name))
            for w, name in zip(writes, names, strict=True)
        ]
        started = time.monotonic()
        job = jobs.register(self._store, self._folder, tuple(keys), time.time_ns() // 1_000_000)
        written_ms = max((file.written_ms or 0 for file in step.files), default=fill.plan.created_ms)
        outputs = tuple(
            msgspec.structs.replace(write_table_file(self._store, self._folder, w, name), written_ms=written_ms)
            for w, name in zip(writes, names, strict=True)
        )

        def overdue_ms() -> int:
            return int((time.monotonic() - started) * 1000) - jobs.LEASE_MS

        if self._commit(fill, log, outputs, step.from_ms, overdue_ms):
            jobs.finish(self._store, self._folder, job)

    def _commit(
        self, fill: Fill, log: DeltaLog, outputs: tuple[FileRef, ...], from_ms: int, overdue_ms: Callable[[], int]
    ) -> bool:
        """Commit a step's files with its number; once, and only on the steps before it."""
        done, last = fill.done, fill.done + 1 == len(fill.plan.steps)
        schema = self._datasource.rollup_schema(fill.rollup)
        name = layout.table(self._folder, log.table)
        keys = [layout.table_file(self._folder, log.table, file.path) for file in outputs]

        def build(state: TableState) -> NewCommit | None:
            if state.txns.get(FILL_STEPS, -1) != done or overdue_ms() >= 0:
                return None
            if not all(self._store.exists(key) for key in keys):
                return None
            now_ms = time.time_ns() // 1_000_000
            txns = ((FILL_STEPS, done + 1), (FILL_REACH, -from_ms), *((FILL_DONE, 1),) * last)
            commit = NewCommit("WRITE", now_ms, txns=txns, add=outputs)
            return replace(commit, definition=definition(state, schema, name, now_ms))

        return log.commit(build)

    def _writes(self, fill: Fill, step: Step) -> list[TableWrite]:
        """What the step's rows come to, one write per date."""
        rollup, datasource = fill.rollup, self._datasource
        parts = [
            build_partials(Columns(rows), rollup, datasource) for rows in self._rows(rollup, step) if rows.num_rows
        ]
        if not parts:
            return []
        merged = merge_tables(parts, rollup, datasource)
        days = numbers(merged.column(TIME).combine_chunks()) // DAY_MS
        writes = []
        for day, rows in split_by_day(merged, days, np.unique(days).tolist()).items():
            times = numbers(rows.column(TIME).combine_chunks())
            writes.append(TableWrite(rollup.table, date_text(day), rows, int(times.min()), int(times.max())))
        return writes

    def _rows(self, rollup: Rollup, step: Step) -> Iterator[pa.Table]:
        """The raw rows of a step, with the columns that the rollup needs. Raises CorruptFileError."""
        raw = self._datasource.raw_schema()
        fields = [m.field for m in rollup.metrics if m.field is not None]
        schema = pa.schema([raw.field(name) for name in dict.fromkeys((TIME, *rollup.dimensions, *fields))])
        for each in step.states:
            data = load_state(self._store, self._folder, each.path)
            with naming_state(self._folder, each.path):
                rows = state_rows(data, each.partitions, self._datasource).rows
            yield fit(rows, schema).combine_chunks()
        for file in step.files:
            rows = read_one(self._store, self._folder, file, schema.names)
            if rows.num_rows != file.rows:
                key = layout.table_file(self._folder, file.table, file.path)
                raise CorruptFileError(
                    f"filling '{rollup.name}': the file '{key}' has {rows.num_rows} rows, {file.rows} were committed",
                    "restore it from a backup",
                )
            yield fit(rows, schema).combine_chunks()
