"""A query replica: the project's views, asked again and again, each answer compared with the log."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from rta.actors.messages import Cursor, HotDelta, RowsRequest
from rta.errors import CorruptFileError, NotFoundError, UnavailableError, ViewGoneError
from rta.events.schemas import EVENTS, TIME
from rta.serve.views import FolderViews, Pools, ReplicaView
from rta.store.catalog import Catalog
from rta.store.model import FileRef
from rta.store.parquet import read_one
from tests.sim import shop
from tests.sim.kernel import Process, ViolationError
from tests.sim.names import Names
from tests.sim.oracle import ZERO, Total, agree, agree_ids
from tests.sim.store import SimStore
from tests.sim.world import QUERY_MS, World

RAW_SHARE = 0.3
NAMED_EVERY = 2
"""One of so many answers is looked at for the names of its parts too."""
HELD_SHARE = 0.25
"""So many answers come from the view of the answer before."""
PROTECTED_MS = 2 * QUERY_MS
"""So long after its manifest was read a view may be counted on: less than the sweep's grace."""


class Inline(Executor):
    """Runs what it is given at once, in the thread that gives it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it is the future's
            future.set_exception(error)
        return future


class SimPeers:
    """The aggregators, as this replica reaches them."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def names(self) -> Sequence[str]:
        return self._world.names

    async def delta(self, actor: str, cursors: Mapping[str, Cursor | None], timeout_s: float) -> list[HotDelta]:
        return self._call(actor, lambda it: it.delta(cursors))

    async def rows(self, actor: str, folder: str, load: str, requests: Sequence[RowsRequest]) -> bytes:
        return self._call(actor, lambda it: it.rows(folder, load, requests))

    def _call(self, actor: str, ask: Callable[[Any], Any]) -> Any:
        there = self._world.aggregators.get(actor)
        if there is None:
            raise UnavailableError(f"'{actor}' is not there")
        return self._world.call(self._process, there.process, lambda: ask(there.aggregator))


class Contents:
    """What the files hold, each read once: they never change. Who reads one looks first whether it is there."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._totals: dict[str, Total] = {}
        self._ids: dict[str, Counter[str]] = {}
        self.names = Names()

    def total(self, store: SimStore, file: FileRef) -> Total:
        found = self._totals.get(file.path)
        if found is None:
            found = self._totals[file.path] = total_of(read_one(store, self._world.folder, file))
        elif not store.exists(f"{self._world.folder}/tables/{file.table}/{file.path}"):
            raise CorruptFileError(f"'{file.path}' is not there")
        return found

    def recent(self, store: SimStore, file: FileRef, from_ms: int) -> Total:
        """The same of the buckets of a time or a later one."""
        if file.time_min_ms >= from_ms or file.time_max_ms < from_ms:
            return self.total(store, file) if file.time_min_ms >= from_ms else ZERO
        rows = read_one(store, self._world.folder, file)
        return total_of(rows.filter(pc.greater_equal(rows.column(TIME).cast(pa.int64()), from_ms)))

    def ids(self, store: SimStore, file: FileRef) -> Counter[str]:
        found = self._ids.get(file.path)
        if found is None:
            found = self._ids[file.path] = ids_of(read_one(store, self._world.folder, file))
        elif not store.exists(f"{self._world.folder}/tables/{file.table}/{file.path}"):
            raise CorruptFileError(f"'{file.path}' is not there")
        return found


def total_of(rows: pa.Table) -> Total:
    """Of rollup rows."""
    if not rows.num_rows:
        return ZERO
    return Total(int(pc.sum(rows.column("views")).as_py()), int(pc.sum(rows.column("total")).as_py()))


def frame_total(frame: pl.DataFrame | None) -> Total:
    """The same of a frame, or of none."""
    return ZERO if frame is None else Total(int(frame["views"].sum()), int(frame["total"].sum()))


def ids_of(rows: pa.Table) -> Counter[str]:
    """Of raw rows."""
    users, ids = rows.column("user").to_pylist(), rows.column("id").to_pylist()
    return Counter(f"{user}/{name}" for user, name in zip(users, ids, strict=True))


class Replica:
    """Asks until its process ends. `reached` is the last view that was found right."""

    def __init__(self, world: World, contents: Contents) -> None:
        self.process = world.process("replica")
        self.reached: dict[int, int] = {}
        self.manifest = -1
        self.answers = 0
        self._view: ReplicaView | None = None
        self._world = world
        self._contents = contents
        self._store = SimStore(world.disk, self.process)
        self._catalog = Catalog(self._store)
        self._asked_ms = (world.kernel.now_ms, world.kernel.now_ms)
        self._read_ms: dict[int, float] = {}
        """Per manifest a time before it was read here."""
        peers = SimPeers(world, self.process)
        self._views = FolderViews(self._store, shop.datasource(), peers, Pools(Inline(), Inline()))  # type: ignore[arg-type]  # any executor does

    def run(self) -> None:
        loop = asyncio.new_event_loop()
        try:
            while True:
                self._world.kernel.sleep(self._world.kernel.rng.choice((0.001, 0.2, 0.7)))
                try:
                    self._ask(loop)
                except ViewGoneError:
                    self._view = None
                    loop.run_until_complete(self._renew())
                except UnavailableError:
                    continue
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.close()

    async def _renew(self) -> None:
        try:
            await self._views.renew()
        except UnavailableError:
            return

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        sim = self._world.kernel
        if self._view is not None and sim.rng.random() < HELD_SHARE:
            self._check(loop, self._view)
            return
        self._asked_ms = (self._asked_ms[1], sim.now_ms)
        datasource = self._catalog.read().datasources[shop.datasource().name]
        view = loop.run_until_complete(self._views.fresh(datasource, 0))
        for number in self._views._adopted:
            self._read_ms.setdefault(number, self._asked_ms[0])
        offsets = {p: offset for p, (_, offset) in view.offsets.items()}
        back = [p for p, offset in self.reached.items() if offsets.get(p, -1) < offset]
        if back or view.manifest < self.manifest:
            raise ViolationError(f"back: partitions {back} went from {self.reached} to {offsets}")
        self._check(loop, view)
        self.reached, self.manifest, self._view = offsets, view.manifest, view
        self.answers += 1

    def _check(self, loop: asyncio.AbstractEventLoop, view: ReplicaView) -> None:
        """Answer from a view, which may be some time old, and look into the log whether it is right."""
        sim = self._world.kernel
        offsets = {p: offset for p, (_, offset) in view.offsets.items()}
        where = f"the answer at manifest {view.manifest}, offsets {sorted(offsets.items())}"
        try:
            agree(where, self._total(view), self._world.oracle.prefix(offsets))
            self._check_later(view, offsets)
            if self.answers % NAMED_EVERY == 0:
                self._contents.names.rollup(view)
            if sim.rng.random() < RAW_SHARE:
                agree_ids(where, self._ids(loop, view), self._world.oracle.ids(offsets))
        except (CorruptFileError, NotFoundError) as error:
            if sim.now_ms - self._read_ms[view.manifest] <= PROTECTED_MS:
                raise ViolationError(f"swept: {where} can't be given: {error}") from error
            raise ViewGoneError(str(error)) from error

    def _check_later(self, view: ReplicaView, offsets: Mapping[int, int]) -> None:
        """A rollup that was added has everything from when on it says; the whole of it can be asked once it is filled."""
        rollup = view.datasource.rollup(shop.LATER)
        from_ms = None if rollup is None else view.filled_from(rollup)
        if rollup is None or from_ms is None:
            return
        found = ZERO
        for frame in view.partials(rollup.name):
            found += frame_total(frame.filter(pl.col(TIME).dt.epoch("ms") >= from_ms))
        for file in view.files(rollup.table):
            found += self._contents.recent(self._store, file, from_ms)
        where = f"'{rollup.table}' from {from_ms} on, at manifest {view.manifest}, offsets {sorted(offsets.items())}"
        agree(where, found, self._world.oracle.recent(offsets, from_ms))

    def _total(self, view: ReplicaView) -> Total:
        rollup = shop.datasource().rollups[0]
        found = ZERO
        for frame in view.partials(rollup.name):
            found += frame_total(frame)
        for file in view.files(rollup.table):
            found += self._contents.total(self._store, file)
        return found

    def _ids(self, loop: asyncio.AbstractEventLoop, view: ReplicaView) -> Counter[str]:
        rows = loop.run_until_complete(view.rows(EVENTS))
        if self.answers % NAMED_EVERY == 0:
            self._contents.names.raw(view, rows)
        found = ids_of(rows)
        for file in view.files(EVENTS):
            found.update(self._contents.ids(self._store, file))
        return found
