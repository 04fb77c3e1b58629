"""Hot views in a query replica: refreshes them from the aggregators, one refresh of a datasource at a time.

Whoever finds the view too old waits for the refresh that began after he came; cost grows with refreshes, not with
queries. What may be published is decided in `rta.serve.hot`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import polars as pl
import pyarrow as pa

from rta.actors.messages import Cursor, HotDelta, RowsRequest
from rta.errors import BadRequestError, NotFoundError, TimeLimitError, UnavailableError, ViewGoneError
from rta.events.batch import read_as
from rta.events.schemas import EVENTS, REJECTED, UNKNOWN, Datasource, Rollup
from rta.query.position import Position
from rta.query.shape import shape_of
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN
from rta.serve.hot import HotState, Moment, SegmentUse
from rta.serve.ports import NotAtHandError, View
from rta.serve.spans import RAW, Times, TimesByTable, times_of_frame, times_of_rows, within
from rta.serve.tables import Tables
from rta.store.manifests import ManifestLog
from rta.store.model import FileRef, Manifest
from rta.store.objects import ObjectStore
from rta.store.runs import load_state, naming_state
from rta.stream.columns import fit
from rta.stream.rollups import merge_partials
from rta.stream.saved import StateRows, state_rows
from rta.stream.watermark import combine

logger = logging.getLogger(__name__)
DELTA_S = 1.0
DOWN_S = 0.5
AFTER_PAUSE_S = 0.002

LOOK_S = 0.1
"""How often a newer manifest is looked for while the one that is known still shows everything."""

AHEAD_SHARE = 0.6
"""After this share of the staleness that a question allows, the next view is begun beside the answers from this one."""

StateKey = tuple[str, tuple[int, ...], int]
"""Path, partitions, version of the definition."""


class Peers(Protocol):
    """The aggregators, as a replica reaches them. Both calls raise UnavailableError when one does not answer in time."""

    def names(self) -> Sequence[str]: ...

    async def delta(self, actor: str, cursors: Mapping[str, Cursor | None], timeout_s: float) -> list[HotDelta]: ...

    async def rows(self, actor: str, folder: str, load: str, requests: Sequence[RowsRequest]) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Adopted:
    """A manifest with what its states hold, in the columns and rollups of a version of the definition."""

    manifest: Manifest
    version: int
    by_key: Mapping[StateKey, StateRows]
    times: Mapping[StateKey, TimesByTable]

    @property
    def states(self) -> tuple[StateRows, ...]:
        return tuple(self.by_key.values())


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One moment of one datasource; see `rta.serve.ports.View`."""

    datasource: Datasource
    moment: Moment
    states: tuple[StateRows, ...]
    state_times: Mapping[StateKey, TimesByTable]
    watermark_ms: int | None
    missing: tuple[int, ...]
    owner: FolderViews
    never_waits: bool = False
    """Whether it is read in the event loop."""

    @property
    def manifest(self) -> int:
        return self.moment.manifest.number

    @property
    def offsets(self) -> Mapping[int, tuple[str, int]]:
        incarnations = {e.partition: e.log_incarnation for e in self.moment.manifest.partitions}
        return {p: (incarnations[p], offset) for p, offset in self.moment.offsets.items()}

    @property
    def version(self) -> str:
        return Position(self.datasource.folder, self.offsets).encode()

    @property
    def complete(self) -> bool:
        return not self.missing

    def files(self, table: str) -> Sequence[FileRef]:
        found = self.owner.tables.files_at_hand(table, self.manifest)
        if found is not None:
            return found
        if self.never_waits:
            raise NotAtHandError
        try:
            return self.owner.tables.files_at(table, self.manifest)
        except NotFoundError as error:
            raise ViewGoneError(f"the files of '{table}' at manifest {self.manifest}: {error}") from error

    def filled_from(self, rollup: Rollup) -> int | None:
        """In a manifest of an older version its rows are missing, and in segments that were folded with one."""
        moment = self.moment
        if rollup.since == 0:
            return TIME_MS_MIN
        if rollup.since == UNKNOWN or moment.manifest.definition_version < rollup.since:
            return None
        if any(use.version < rollup.since for use in moment.uses):
            return None
        known = self.owner.tables.filled_at_hand(rollup.table, self.manifest)
        if known is not None:
            return known.from_ms
        if self.never_waits:
            raise NotAtHandError
        try:
            return self.owner.tables.filled_from(rollup.table, self.manifest)
        except NotFoundError as error:
            raise ViewGoneError(f"the files of '{rollup.table}' at manifest {self.manifest}: {error}") from error

    def partials(self, rollup: str) -> Sequence[pl.DataFrame]:
        frames = [state.partials[rollup] for state in self.states if rollup in state.partials]
        frames += [frame for use in self.moment.uses for frame in use.partials.get(rollup, ())]
        return [frame for frame in frames if frame.height]

    def parts(self, table: str, start_ms: int, end_ms: int) -> Sequence[str]:
        if table == REJECTED:
            return self._rejected_parts()
        name = next((r.name for r in self.datasource.rollups if r.table == table), RAW)
        states = [_named(key) for key, t in self.state_times.items() if within(t.get(name), start_ms, end_ms)]
        uses = [use.part(name, start_ms, end_ms) for use in self.moment.uses]
        return sorted([*states, *(part for part in uses if part is not None)])

    def hot_times(self, table: str) -> Times | None:
        if table == REJECTED:
            return (TIME_MS_MIN, TIME_MS_MAX) if self._rejected_parts() else None
        name = next((r.name for r in self.datasource.rollups if r.table == table), RAW)
        times = [t[name] for t in self.state_times.values() if name in t]
        times += [(span.start_ms, span.end_ms - 1) for use in self.moment.uses for span in use.spans.get(name, ())]
        return (min(t[0] for t in times), max(t[1] for t in times)) if times else None

    def _rejected_parts(self) -> Sequence[str]:
        """Of any time: of the first so many rejected rows of a segment it does not matter in which chunks they came."""
        pairs = zip(self.state_times, self.states, strict=True)
        states = [_named(key) for key, state in pairs if state.rejected.num_rows]
        uses = [f"{use.load} {use.epoch} {use.rejected}" for use in self.moment.uses if use.rejected]
        return sorted([*states, *uses])

    async def rows(self, table: str) -> pa.Table:
        schema = shape_of(self.datasource, table).schema
        uses = [use for use in self.moment.uses if table == EVENTS or use.rejected]
        hot = await asyncio.gather(*(self.owner.hot_rows(use, table, schema) for use in uses))
        tables = [state.rejected if table == REJECTED else state.rows for state in self.states] + list(hot)
        return pa.concat_tables([schema.empty_table(), *(fit(t, schema) for t in tables if t.num_rows)])


class Pools(NamedTuple):
    """One thread that puts views together, and one that reads manifests and states for them."""

    views: ThreadPoolExecutor
    reading: ThreadPoolExecutor


class FolderViews:
    """The views of one datasource in this replica."""

    def __init__(self, store: ObjectStore, datasource: Datasource, peers: Peers, pools: Pools) -> None:
        self._store = store
        self._folder = datasource.folder
        self.datasource = datasource
        self._peers = peers
        self._pool, self._reading = pools
        self._manifests = ManifestLog(store, datasource.folder)
        self.tables = Tables(store, datasource.folder)
        self._state = HotState(self._merge)
        self._adopted: dict[int, Adopted] = {}
        self._adopting: asyncio.Task[None] | None = None
        self._looked = -math.inf
        self._rows: dict[tuple[str, int, str, int], pa.Table] = {}
        self._down: dict[str, float] = {}
        self._view: ReplicaView | None = None
        self._began = -1.0
        self._running: asyncio.Task[None] | None = None
        self._running_began = -1.0
        self._next: asyncio.Task[None] | None = None

    async def renew(self) -> None:
        """Forget what was known of the tables' files, and begin from the newest manifest."""
        self.tables = Tables(self._store, self._folder)
        await self._adopt()
        self._began = -math.inf

    def at_once(self, datasource: Datasource, staleness_ms: int) -> ReplicaView | None:
        """The view, if it is young enough. Once half of that time is over the next one is begun, so that few have to wait."""
        age_ms = (time.monotonic() - self._began) * 1000
        if self._view is None or age_ms > staleness_ms or self._view.datasource is not datasource:
            return None
        if age_ms > staleness_ms * AHEAD_SHARE and (self._running is None or self._running.done()):
            self._running = asyncio.create_task(self._refresh())
            self._running.add_done_callback(_note_failure)
        return self._view

    async def fresh(self, datasource: Datasource, staleness_ms: int) -> ReplicaView:
        """A view that began to be taken at most `staleness_ms` before this call, or after it."""
        self.datasource = datasource
        oldest = time.monotonic() - staleness_ms / 1000
        if self._view is None or self._began < oldest:
            await self._refresh_since(oldest)
        assert self._view is not None
        if self._view.datasource is not datasource:
            await self._refresh_since(time.monotonic())
        return self._view

    async def _refresh_since(self, oldest: float) -> None:
        """Join the refresh under way if it began late enough, else the one after it; everybody shares."""
        running = self._running
        if running is not None and not running.done():
            if self._running_began >= oldest:
                await asyncio.shield(running)
                return
            if self._next is None or self._next.done():
                self._next = asyncio.create_task(self._after(running))
            await asyncio.shield(self._next)
            return
        self._running = asyncio.create_task(self._refresh())
        await asyncio.shield(self._running)

    async def _after(self, running: asyncio.Task[None]) -> None:
        await asyncio.wait([running])
        self._running = asyncio.create_task(self._refresh())
        await self._running

    async def _refresh(self) -> None:
        began = self._running_began = time.monotonic()
        cursors = self._state.cursors()
        names = self._peers.names()
        asked = [n for n in names if self._down.get(n, 0.0) <= began]
        answers = await asyncio.gather(*(self._ask(name, cursors.get(name)) for name in asked))
        live = [name for name, answer in zip(asked, answers, strict=True) if answer is not None]
        deltas = [delta for answer in answers if answer is not None for delta in answer]
        loop = asyncio.get_running_loop()
        view = await loop.run_in_executor(self._pool, self._take, deltas, live)
        if view is None:
            await self._adopt()
            view = await loop.run_in_executor(self._pool, self._publish, live)
        elif began - self._looked >= LOOK_S:
            self._adopt_soon()
        self._view = view
        self._began = began

    def _adopt_soon(self) -> asyncio.Task[None]:
        """Look for a newer manifest and read its states beside the refreshes, which go on with the one before."""
        if self._adopting is None or self._adopting.done():
            self._adopting = asyncio.create_task(self._look())
            self._adopting.add_done_callback(_note_failure)
        return self._adopting

    async def _adopt(self) -> None:
        """The same, from now on and waited for."""
        under_way = self._adopting
        if under_way is not None and not under_way.done():
            await asyncio.wait([under_way])
        await asyncio.shield(self._adopt_soon())

    async def _look(self) -> None:
        self._looked = time.monotonic()
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._reading, self._read_newest)
        shown = -1 if self._state.moment is None else self._state.moment.manifest.number
        self._adopted = {n: a for n, a in self._adopted.items() if n >= shown} | {found.manifest.number: found}

    async def _ask(self, name: str, cursor: Cursor | None) -> list[HotDelta] | None:
        try:
            return await self._peers.delta(name, {self._folder: cursor}, DELTA_S)
        except UnavailableError:
            self._down[name] = time.monotonic() + DOWN_S
            return None

    def _take(self, deltas: Sequence[HotDelta], live: Sequence[str]) -> ReplicaView | None:
        """A view of what is known here; None if a newer manifest has to be read to show all that was said just now.

        Segments first, then the manifest: nothing can be missing between them. In a thread of the pool.
        """
        for delta in deltas:
            self._state.apply(delta)
        if not self._adopted or self._adopted[max(self._adopted)].version != self.datasource.version:
            return None
        view = self._publish(live)
        return view if self._state.reaches(deltas) else None

    def _publish(self, live: Sequence[str]) -> ReplicaView:
        adopted = self._adopted
        moment = self._state.publish(adopted[max(adopted)].manifest)
        partitions = frozenset(e.partition for e in moment.manifest.partitions)
        missing = partitions - self._state.caught_up(live)
        alive = {(u.load, u.epoch) for u in moment.uses}
        self._rows = {key: table for key, table in self._rows.items() if key[:2] in alive}
        before = None if self._view is None else self._view.watermark_ms
        marks, idle = self._state.watermarks_ms(), self._state.idle(live)
        return ReplicaView(
            datasource=self.datasource,
            moment=moment,
            states=adopted[moment.manifest.number].states,
            state_times=adopted[moment.manifest.number].times,
            watermark_ms=combine(marks, idle, len(partitions), before),
            missing=tuple(sorted(missing)),
            owner=self,
        )

    def _read_newest(self) -> Adopted:
        """The newest manifest with its states, in the thread that reads them.

        States are open buckets and rows that wait, each of just the partitions that name it.
        """
        datasource, newest = self.datasource, self._manifests.newest()
        if newest is None:
            raise UnavailableError(f"datasource '{datasource.name}' has no manifest yet", "it is being created")
        wanted: dict[str, list[int]] = {}
        for entry in newest.partitions:
            if entry.state is not None:
                wanted.setdefault(entry.state, []).append(entry.partition)
        known = {key: state for adopted in self._adopted.values() for key, state in adopted.by_key.items()}
        seen = {key: times for adopted in self._adopted.values() for key, times in adopted.times.items()}
        found: dict[StateKey, StateRows] = {}
        for path, partitions in wanted.items():
            key = (path, tuple(partitions), datasource.version)
            found[key] = known.get(key) or self._read_state(path, partitions, datasource)
        times = {key: seen.get(key) or _times(state) for key, state in found.items()}
        return Adopted(newest, datasource.version, found, times)

    def _read_state(self, path: str, partitions: Sequence[int], datasource: Datasource) -> StateRows:
        data = load_state(self._store, self._folder, path)
        with naming_state(self._folder, path):
            return state_rows(data, partitions, datasource)

    def _merge(self, name: str, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        rollup = self.datasource.rollup(name)
        return pl.concat(frames) if rollup is None else merge_partials(frames, rollup, self.datasource)

    async def hot_rows(self, use: SegmentUse, table: str, schema: pa.Schema) -> pa.Table:
        """Rows of a segment as far as a view uses it, of one table and in its schema; fetched once."""
        key = (use.load, use.epoch, table, use.next_chunk)
        rows = self._rows.get(key)
        if rows is None:
            known = max((k for k in self._rows if k[:3] == key[:3] and k[3] < key[3]), default=None)
            # Held from here on: another question may take its place while this one waits.
            before, first = (None, 0) if known is None else (self._rows[known], known[3])
            wanted = [RowsRequest(use.epoch, first, use.next_chunk, table)]
            try:
                data = await self._peers.rows(use.actor, self._folder, use.load, wanted)
            except NotFoundError as error:
                raise ViewGoneError(f"hot rows of epoch {use.epoch} of '{use.actor}': {error}") from error
            rows = read_as(data, schema, self.datasource.name)
            if known is not None and before is not None:
                self._rows.pop(known, None)
                rows = pa.concat_tables([fit(before, schema), rows])
            self._rows[key] = rows
        return rows


class HotViews:
    """All datasources' views of this replica; implements `rta.serve.ports.Views`."""

    def __init__(self, store: ObjectStore, peers: Peers) -> None:
        self._store = store
        self._peers = peers
        self._pools = Pools(
            ThreadPoolExecutor(1, thread_name_prefix="views"), ThreadPoolExecutor(1, thread_name_prefix="manifests")
        )
        self._folders: dict[str, FolderViews] = {}

    async def at(self, datasource: Datasource, staleness_ms: int, after: Position | None, timeout_s: float) -> View:
        views = self._folders.get(datasource.folder)
        if views is None:
            views = self._folders[datasource.folder] = FolderViews(self._store, datasource, self._peers, self._pools)
        if after is not None and after.folder != datasource.folder:
            raise BadRequestError(
                f"'after' is a position in '{after.folder}', not in '{datasource.folder}'",
                "the datasource was made again, or the position belongs to another one",
            )
        deadline = time.monotonic() + timeout_s
        view = await self._within(views.fresh(datasource, staleness_ms), deadline)
        while after is not None:
            behind = _behind(view, after)
            if not behind:
                break
            if time.monotonic() > deadline:
                ownerless = sorted(set(behind) & set(view.missing))
                raise TimeLimitError(
                    f"partitions {behind} of '{datasource.name}' have not reached 'after' within {timeout_s:.1f} s"
                    + (f"; partitions {ownerless} have no live owner" if ownerless else ""),
                    "ask again; see /v1/status for the lag",
                )
            await asyncio.sleep(AFTER_PAUSE_S)
            view = await self._within(views.fresh(datasource, 0), deadline)
        return view

    def at_once(self, datasource: Datasource, staleness_ms: int, after: Position | None) -> View | None:
        views = self._folders.get(datasource.folder)
        view = None if views is None else views.at_once(datasource, staleness_ms)
        if view is None or (after is not None and (after.folder != datasource.folder or _behind(view, after))):
            return None
        return replace(view, never_waits=True)

    async def renew(self, view: View) -> None:
        await self._folders[view.datasource.folder].renew()

    @staticmethod
    async def _within(coroutine: Coroutine[None, None, ReplicaView], deadline: float) -> ReplicaView:
        try:
            async with asyncio.timeout(max(0.001, deadline - time.monotonic())):
                return await coroutine
        except TimeoutError:
            raise TimeLimitError("the view was not refreshed in time", "ask again; see /v1/status") from None


def _named(key: StateKey) -> str:
    path, partitions, version = key
    return f"{path} {partitions} {version}"


def _times(state: StateRows) -> TimesByTable:
    found: dict[str | None, Times | None] = {name: times_of_frame(frame) for name, frame in state.partials.items()}
    found[RAW] = times_of_rows(state.rows)
    return {table: times for table, times in found.items() if times is not None}


def _note_failure(task: asyncio.Task[None]) -> None:
    """Whoever waits for the task gets its error; where nobody does, the next refresh that needs it tries again."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("a newer manifest was not taken in: %s", error)


def _behind(view: ReplicaView, after: Position) -> list[int]:
    """Partitions of the position that the view has not reached. Raises BadRequestError for another incarnation."""
    behind = []
    offsets = view.offsets
    for partition, (incarnation, offset) in after.offsets.items():
        known = offsets.get(partition)
        if known is None or known[0] != incarnation:
            raise BadRequestError(
                f"'after' names incarnation '{incarnation}' of partition {partition}, the log's is "
                f"'{known[0] if known else None}'",
                "the log was replaced since; drop the position",
            )
        if known[1] < offset:
            behind.append(partition)
    return sorted(behind)
