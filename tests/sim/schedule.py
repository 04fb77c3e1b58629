"""One schedule: a client, faults in an order that the seed decides, then calm, and the account at the end.

Every seed also decides which kinds of faults there are and how many, so that rare combinations are met in some seeds
undisturbed by everything else. Sizes and intervals of the project are made small, so that a few tens of events meet
several epochs, projections, compactions, sweeps and archived manifests.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from rta.actors import committer, housekeeper, load
from rta.events.schemas import EVENTS, Datasource
from rta.store import fill, layout, maintain, manifests, sweep, tables, versions
from rta.store.audit import read_audit
from rta.store.catalog import Catalog
from rta.store.delta_log import DeltaLog
from rta.store.ledger import read_ledger
from rta.store.maintain import MaintenancePlan
from rta.store.manifests import ManifestLog
from rta.store.model import Manifest
from rta.store.runs import load_state
from rta.store.versions import TableVersions
from rta.stream.model import FoldLimits
from rta.stream.saved import state_rows
from tests.sim import shop
from tests.sim.kernel import Kernel, Process, ViolationError, installed
from tests.sim.oracle import ZERO, Total, agree, agree_ids
from tests.sim.reader import Contents, Replica, frame_total, ids_of
from tests.sim.store import SimStore
from tests.sim.world import World

SETTLE_S = 300.0
REQUESTS_MIN, REQUESTS_MAX = 4, 14
SMALL: tuple[tuple[ModuleType, str, Any], ...] = (
    (committer, "OFFER_S", 2.0),
    (housekeeper, "PROJECT_S", 0.7),
    (housekeeper, "PROJECT_MANIFESTS", 4),
    (housekeeper, "VIEW_HELD_MS", 2_000),
    (
        housekeeper,
        "MaintenancePlan",
        partial(MaintenancePlan, sweep_every_ms=1_500, retention_every_ms=3_000, archive_after=4, compact_files_min=3),
    ),
    (housekeeper, "REDEFINE_S", 1.0),
    (housekeeper, "FILL_FAILED_S", 0.5),
    (fill, "STEP_ROWS", 6),
    (versions, "LOOK_S", 0.3),
    (load, "FoldLimits", partial(FoldLimits, wait_epochs_max=2)),
    (maintain, "CHECKPOINT_VERSIONS", 4),
    (manifests, "BLOCK", 6),
    (sweep, "RECENT", 2),
    (tables, "FLOOR_EVERY", 4),
)
FAULTS = (
    "crash_aggregator",
    "replace_aggregator",
    "pause_aggregator",
    "crash_coordinator",
    "replace_coordinator",
    "pause_coordinator",
    "stall_put",
    "rescale",
    "redefine",
    "clock",
    "crash_replica",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`violation` is None when all was well. `trace` is the same for the same schedule."""

    seed: int
    violation: str | None
    trace: int
    steps: int
    manifests: int
    answers: int


def run_schedule(seed: int, rule: AbstractContextManager[object] | None = None) -> Outcome:
    """Run the schedule of a seed, with a rule broken if one is given."""
    sim = Kernel(seed)
    with installed(sim), _small(), rule or nullcontext():
        schedule = Schedule(sim)
        violation: str | None = None
        try:
            schedule.run()
        except AssertionError as error:
            violation = str(error) or type(error).__name__
        except Exception as error:  # noqa: BLE001 - whatever a process met that it should not
            violation = "".join(traceback.format_exception(error))
        finally:
            sim.violation = None
            sim.end()
        newest = ManifestLog(schedule.world.disk.objects, schedule.world.folder).newest() if violation is None else None
        number = -1 if newest is None else newest.number
        return Outcome(seed, violation, sim.trace, sim.steps, number, schedule.answers)


@contextmanager
def _small() -> Iterator[None]:
    before = [(module, name, vars(module)[name]) for module, name, _ in SMALL]
    try:
        for module, name, value in SMALL:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


class Schedule:
    """See the module."""

    def __init__(self, sim: Kernel) -> None:
        self.sim = sim
        self.world = World.of(sim)
        self.world.disk.before_delete = self._deleting
        self.world.disk.before_put_if_absent = self._putting
        self.contents = Contents(self.world)
        self.replicas: list[Replica] = []
        self.answers = 0
        self._client_done = False
        self._chaos_done = False
        self._stalls = 0
        self._redefined: Datasource | None = None
        rng = sim.rng
        self._faults = [fault for fault in FAULTS if rng.random() < 0.5]
        self._faults_left = rng.choice((0, 2, 4, 8)) if self._faults else 0
        self.world.disk.faults = rng.choice((0.0, 0.0, 0.02, 0.08))
        self.world.network.lost_calls = rng.choice((0.0, 0.05, 0.2))
        self.world.network.lost_answers = rng.choice((0.0, 0.05, 0.3))
        self.world.network.repeated = rng.choice((0.0, 0.1, 0.4))
        sim.whim = rng.choice((0.0, 0.01, 0.05))

    def run(self) -> None:
        sim, world = self.sim, self.world
        world.start_coordinator(sim.rng.choice((("a",), ("a", "b"), ("a", "b"))))
        for name in world.names:
            world.start_aggregator(name)
        self._start_replica()
        sim.spawn("supervisor", world.process("supervisor"), world.supervise)
        sim.spawn("client", world.process("client"), self._client)
        sim.spawn("chaos", world.process("chaos"), self._chaos)
        sim.wait(lambda: self._client_done and self._chaos_done)
        self._calm()
        patience_ms = sim.now_ms + SETTLE_S * 1000
        while not self._settled():
            if sim.now_ms > patience_ms:
                raise ViolationError(f"stuck: {self._why()}")
            sim.sleep(0.2)
        self._account()

    def _calm(self) -> None:
        """No more faults; whoever stood still goes on."""
        world = self.world
        self._stalls = 0
        world.disk.faults = 0.0
        world.network.lost_calls = world.network.lost_answers = world.network.repeated = 0.0
        self.sim.whim = 0.0
        for process in world.processes:
            process.paused = False
        self._start_replica()

    # -- the client ----------------------------------------------------------------------------------------------------

    def _client(self) -> None:
        """Requests one after the other; what was not acknowledged is sent again, as is some that was."""
        rng = self.sim.rng
        count = rng.randint(REQUESTS_MIN, REQUESTS_MAX)
        sent: list[shop.Request] = []
        for number in range(count):
            self.sim.sleep(rng.choice((0.0, 0.01, 0.1, 0.5)))
            asked = shop.request(number, rng.random() < 0.3)
            while not self._send(asked):
                self.sim.sleep(0.05)
            sent.append(asked)
            if rng.random() < 0.25:
                self._send(rng.choice(sent[-4:]))
        self._client_done = True

    def _send(self, asked: shop.Request) -> bool:
        """Whether it was acknowledged. If not, some of its records may be in the log, or all of them."""
        rng = self.sim.rng
        lost = rng.random() < 0.15
        for outgoing, events in asked.records:
            if lost and rng.random() < 0.5:
                continue
            self.sim.point()
            self.world.log.append(outgoing)
            self.world.oracle.contents[outgoing.partition].append(events)
        self.sim.point()
        if not lost:
            self.world.oracle.acknowledged.update(event.who for _, events in asked.records for event in events)
        return not lost

    # -- faults --------------------------------------------------------------------------------------------------------

    def _chaos(self) -> None:
        rng = self.sim.rng
        for _ in range(self._faults_left):
            self.sim.sleep(rng.choice((0.05, 0.3, 1.0, 2.0)))
            getattr(self, f"_{rng.choice(self._faults)}")()
        self.sim.sleep(rng.choice((0.0, 1.0)))
        self._chaos_done = True

    def _aggregator(self) -> tuple[str, Process] | None:
        there = [(name, it.process) for name, it in sorted(self.world.aggregators.items()) if it.process.alive]
        return self.sim.rng.choice(there) if there else None

    def _crash_aggregator(self) -> None:
        found = self._aggregator()
        if found is not None:
            self.sim.kill(found[1])

    def _replace_aggregator(self) -> None:
        """The one before goes on, or stands still for a while and then goes on."""
        found = self._aggregator()
        if found is not None:
            if self.sim.rng.random() < 0.5:
                self._pause(found[1])
            self.world.start_aggregator(found[0])

    def _pause_aggregator(self) -> None:
        found = self._aggregator()
        if found is not None:
            self._pause(found[1])

    def _pause(self, process: Process) -> None:
        process.paused = True
        seconds = self.sim.rng.choice((0.1, 1.0, 5.0, 20.0))

        def go_on() -> None:
            self.sim.sleep(seconds)
            process.paused = False

        self.sim.spawn("resume", self.world.process("resume"), go_on)

    def _crash_coordinator(self) -> None:
        self.sim.kill(self.world.coordinators[-1].process)

    def _replace_coordinator(self) -> None:
        if self.sim.rng.random() < 0.5:
            self._pause_coordinator()
        self.world.start_coordinator()

    def _pause_coordinator(self) -> None:
        self._pause(self.world.coordinators[-1].process)

    def _stall_put(self) -> None:
        """The next manifest's put arrives late, after another coordinator has taken over."""
        self._stalls += 1

    def _putting(self, key: str, by: Process) -> None:
        if self._stalls and "/manifests/" in key and by is self.world.coordinators[-1].process:
            self._stalls -= 1
            self._pause(by)
            self.world.start_coordinator()

    def _rescale(self) -> None:
        names = self.sim.rng.choice((("a",), ("b",), ("a", "b"), ("b", "a"), ("a", "b", "c")))
        if self.sim.rng.random() < 0.7:
            self.sim.kill(self.world.coordinators[-1].process)
        self.world.start_coordinator(names)

    def _redefine(self) -> None:
        """One more rollup; a second time it goes away again, maybe before it is filled, and a third time it comes back."""
        there = Catalog(self.world.disk.objects)
        name = shop.datasource().name
        removing = there.get(name).rollup(shop.LATER) is not None
        self._redefined = there.update(name, shop.DOCUMENT if removing else shop.REDEFINED)

    def _clock(self) -> None:
        self.sim.now_ms += self.sim.rng.choice((3_000, 9_000, 40_000))

    def _crash_replica(self) -> None:
        if self.replicas:
            self.sim.kill(self.replicas.pop().process)
        self._start_replica()

    def _start_replica(self) -> None:
        replica = Replica(self.world, self.contents)
        self.replicas.append(replica)
        self.sim.spawn("replica", replica.process, replica.run)

    # -- what must hold at every moment ----------------------------------------------------------------------------

    def _deleting(self, key: str, by: Process) -> None:
        """A file that the newest manifest needs is never deleted."""
        folder, objects = self.world.folder, self.world.disk.objects
        newest = ManifestLog(objects, folder).newest()
        if newest is None or "/_delta_log/" in key or "/jobs/" in key:
            return
        if key in self._named(newest, key):
            raise ViolationError(f"swept: {by.name} deletes '{key}', which manifest {newest.number} needs")

    def _named(self, newest: Manifest, key: str) -> set[str]:
        folder, objects = self.world.folder, self.world.disk.objects
        if "/tables/" in key:
            table = key.split("/tables/")[1].split("/")[0]
            versions = TableVersions(objects, folder, ManifestLog(objects, folder))
            return {layout.table_file(folder, table, file.path) for file in versions.files_at(table, newest.number)}
        states = {layout.within(folder, e.state) for e in newest.partitions if e.state is not None}
        return states | {layout.within(folder, run.path) for e in newest.partitions for run in e.runs}

    # -- the end -------------------------------------------------------------------------------------------------------

    def _settled(self) -> bool:
        newest = ManifestLog(self.world.disk.objects, self.world.folder).newest()
        if newest is None or {e.partition: e.to_offset for e in newest.partitions} != self.world.log.ends():
            return False
        keeping = self.world.coordinators[-1].coordinator
        if keeping is None or read_audit(self.world.disk.objects, shop.datasource()).through != newest.number:
            return False
        houses = keeping._housekeeper.status().values()
        if self._redefined is not None and newest.definition_version < self._redefined.version:
            return False
        if any(house["projected"] != newest.number or house["failure"] is not None for house in houses):
            return False
        if any(it["done"] < 1 for it in keeping._housekeeper.filling(self.world.folder).values()):
            return False
        return all(replica.reached == self.world.log.ends() for replica in self.replicas)

    def _why(self) -> str:
        newest = ManifestLog(self.world.disk.objects, self.world.folder).newest()
        at = None if newest is None else {e.partition: e.to_offset for e in newest.partitions}
        shards = [
            (name, shard.alarm, shard.reloads[-2:])
            for name, it in self.world.aggregators.items()
            for shard in it.aggregator._shards.values()
        ]
        views = [replica.reached for replica in self.replicas]
        kept = self.world.coordinators[-1].coordinator
        house = None if kept is None else kept._housekeeper.status()
        number = -1 if newest is None else newest.number
        audited = read_audit(self.world.disk.objects, shop.datasource()).through
        return (
            f"log {self.world.log.ends()}, manifest {number} {at}, audited {audited}, views {views}, shards {shards}, "
            f"house {house}, deaths {self.world.deaths[-3:]}"
        )

    def _account(self) -> None:
        """Tables, saved state and ledger against the log."""
        world = self.world
        objects, folder = world.disk.objects, world.folder
        self.answers = sum(replica.answers for replica in self.replicas)
        store = SimStore(world.disk, self.sim.driver.process)
        newest = ManifestLog(objects, folder).newest()
        assert newest is not None
        datasource = self._redefined or shop.datasource()
        rows = []
        datasource = Catalog(objects).get(datasource.name)
        later = ZERO
        for entry in newest.partitions:
            if entry.state is not None:
                state = state_rows(load_state(store, folder, entry.state), (entry.partition,), datasource)
                rows.append(ids_of(state.rows))
                later += frame_total(state.partials.get(shop.LATER))
        ids = sum(rows, Counter[str]())
        for file in DeltaLog(objects, folder, EVENTS).refresh().files.values():
            ids.update(self.contents.ids(store, file))
        if datasource.rollup(shop.LATER) is not None:
            self._account_later(datasource, later, store)
        ends = world.log.ends()
        agree_ids("the raw table", ids, world.oracle.ids(ends))
        missing = sorted(world.oracle.acknowledged - set(ids))
        if missing:
            raise ViolationError(f"lost: {missing[:6]} were acknowledged and are in no table")
        report = read_ledger(objects, shop.datasource()).report(None, ends)
        if report["lost"] or report["duplicated"]:
            raise ViolationError(f"ledger: lost {report['lost']}, duplicated {report['duplicated']}: {report}")

    def _account_later(self, datasource: Datasource, waiting: Total, store: SimStore) -> None:
        """The rollup that was added has been filled: it holds everything, once."""
        objects, folder = self.world.disk.objects, self.world.folder
        rollup = datasource.rollup(shop.LATER)
        assert rollup is not None
        found = waiting
        for file in DeltaLog(objects, folder, rollup.table).refresh().files.values():
            found += self.contents.total(store, file)
        agree(
            f"'{rollup.table}', added with version {rollup.since}",
            found,
            self.world.oracle.prefix(self.world.log.ends()),
        )
