"""The processes of a schedule: coordinators, aggregators, replicas, each the project's own, and what connects them.

Calls between processes may find nobody, may take effect and lose their answer, and an offered part may be delivered
once more, later, to whichever coordinator was meant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from rta.actors.aggregator import Aggregator
from rta.actors.coordinator import Coordinator, Outside
from rta.actors.links import Site
from rta.actors.messages import Registration
from rta.actors.watch import Watch
from rta.errors import RtaError, UnavailableError
from rta.store.catalog import Catalog
from rta.store.model import Part
from tests.sim import shop
from tests.sim.kernel import HaltError, Kernel, Process
from tests.sim.log import SimAdmin, SimLog, SimReader
from tests.sim.oracle import Oracle
from tests.sim.store import Disk, SimStore

QUERY_MS = 2_000
CALL_S = 1.0
T = TypeVar("T")


class SilentWatch(Watch):
    """Who is alive is the supervisor's business here."""

    def registered(self, actor: str, pid: int, generation: int) -> None:
        return


@dataclass(slots=True)
class CoordinatorProcess:
    process: Process
    names: tuple[str, ...]
    coordinator: Coordinator | None = None

    def begin(self, world: World) -> None:
        store = SimStore(world.disk, self.process)
        outside = Outside(
            open_log=lambda: SimAdmin(world.log, self.process),
            ask=lambda actor, timeout_s: None,
            kill=lambda actor, pid: None,
            open_reader=lambda: SimReader(world.log, self.process),
            log_stats=dict,
            die=lambda reason: world.died(self.process, reason),
        )
        site = world.site(self.names)
        try:
            made = Coordinator(site, store, outside)
            made._watch = SilentWatch(site, outside.ask, outside.kill)
            made.reconcile()
        except RtaError as error:
            world.died(self.process, str(error))
            return
        self.coordinator = made
        made._committer.start()
        made._housekeeper.start()
        made._run()


@dataclass(slots=True)
class AggregatorProcess:
    process: Process
    aggregator: Aggregator


@dataclass(slots=True)
class Network:
    """Shares of calls that go wrong."""

    lost_calls: float = 0.0
    lost_answers: float = 0.0
    repeated: float = 0.0


@dataclass
class World:
    """Everything of one schedule."""

    kernel: Kernel
    disk: Disk
    log: SimLog
    oracle: Oracle
    network: Network = field(default_factory=Network)
    names: tuple[str, ...] = ("a", "b")
    coordinators: list[CoordinatorProcess] = field(default_factory=list)
    aggregators: dict[str, AggregatorProcess] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    calm: bool = False

    @classmethod
    def of(cls, kernel: Kernel) -> World:
        log = SimLog(kernel, shop.PARTITIONS)
        world = cls(kernel, Disk(kernel), log, Oracle(log, shop.WINDOW_MS))
        Catalog(world.disk.objects).create(shop.DOCUMENT, shop.PARTITIONS, "sim")
        return world

    @property
    def folder(self) -> str:
        return shop.datasource().folder

    def site(self, names: tuple[str, ...]) -> Site:
        return Site(
            store="",
            log_folder="",
            log_socket="",
            run_folder="/nonexistent",
            partitions=shop.PARTITIONS,
            aggregators=names,
            epoch_ms=400,
            epoch_events=8,
            dedup_memory_ids=6,
            query_time_ms=QUERY_MS,
            backlog_bytes_max=1 << 30,
            crash_at=None,
            pid=0,
        )

    # -- lives ---------------------------------------------------------------------------------------------------------

    def process(self, name: str) -> Process:
        made = Process(f"{name}#{len(self.processes)}")
        self.processes.append(made)
        return made

    def died(self, process: Process, reason: str) -> None:
        if process.alive:
            self.deaths.append(f"{process.name}: {reason}")
            self.kernel.kill(process)

    def start_coordinator(self, names: tuple[str, ...] | None = None) -> None:
        """A new one, which fences the one before; that one is left as it is."""
        self.names = names or self.names
        made = CoordinatorProcess(self.process("coordinator"), self.names)
        self.coordinators.append(made)
        self.kernel.spawn("main", made.process, lambda: made.begin(self))

    def start_aggregator(self, name: str) -> None:
        """A new process of this name; the one before is left as it is."""
        process = self.process(name)
        store = SimStore(self.disk, process)

        def begin() -> None:
            made = Aggregator(
                name,
                self.site(self.names),
                store,
                lambda _: SimReader(self.log, process),
                Link(self, process),
                lambda reason: self.died(process, reason),
            )
            self.aggregators[name] = AggregatorProcess(process, made)
            made._run()

        self.aggregators.pop(name, None)
        self.kernel.spawn("main", process, begin)

    def supervise(self) -> None:
        """Start again what is gone."""
        while True:
            self.kernel.sleep(0.5)
            if not self.coordinators[-1].process.alive:
                self.start_coordinator()
            for name in self.names:
                there = self.aggregators.get(name)
                starting = any(p.alive and p.name.startswith(f"{name}#") for p in self.processes)
                if (there is not None and not there.process.alive) or (there is None and not starting):
                    self.start_aggregator(name)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def call(self, caller: Process, callee: Process, run: Callable[[], T]) -> T:
        """A call from one process to another. UnavailableError: it may or may not have been done."""
        sim, network = self.kernel, self.network
        sim.point(caller)
        gone = not callee.alive or sim.rng.random() < network.lost_calls
        if not gone and callee.paused:
            gone = not sim.wait(lambda: not callee.paused, CALL_S)
        if gone or not callee.alive:
            raise UnavailableError(f"'{callee.name}' does not answer")
        try:
            answer = run()
        except HaltError as error:
            if error.process is not callee or not caller.alive:
                raise
            raise UnavailableError(f"'{callee.name}' ended") from None
        sim.point(caller)
        if sim.rng.random() < network.lost_answers:
            raise UnavailableError(f"the answer of '{callee.name}' was lost")
        return answer


class Link:
    """An aggregator's way to the coordinator: the newest, now and then one before it that still lives."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def _coordinator(self) -> tuple[Process, Coordinator]:
        rng = self._world.kernel.rng
        ready = [c for c in self._world.coordinators if c.coordinator is not None and c.process.alive]
        if not ready:
            raise UnavailableError("there is no coordinator")
        chosen = rng.choice(ready) if rng.random() < self._world.network.repeated else ready[-1]
        assert chosen.coordinator is not None
        return chosen.process, chosen.coordinator

    def register(self, actor: str, pid: int) -> Registration:
        process, coordinator = self._coordinator()
        return self._world.call(self._process, process, lambda: coordinator.register(actor, pid))

    def offer(self, part: Part) -> int:
        process, coordinator = self._coordinator()
        if self._world.kernel.rng.random() < self._world.network.repeated:
            self._repeat(process, coordinator, part)
        return self._world.call(self._process, process, lambda: coordinator.offer(part))

    def _repeat(self, process: Process, coordinator: Coordinator, part: Part) -> None:
        """The same message arrives once more, some time later."""
        world = self._world
        sender = world.process("network")

        def deliver() -> None:
            world.kernel.sleep(world.kernel.rng.choice((0.01, 0.5, 3.0, 20.0)))
            try:
                world.call(sender, process, lambda: coordinator.offer(part))
            except RtaError:
                return

        world.kernel.spawn("late", sender, deliver)
