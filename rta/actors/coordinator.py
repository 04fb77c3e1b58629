"""The coordinator: says who owns what, makes manifests, keeps the tables tidy, watches the aggregators.

A plain class; `rta.actors.remote` makes it an actor. Everything it knows is in the store: a new one takes a higher
generation, which fences the old one, and goes on. The work is in parts of its own: `committer` (manifests), `ownership`
(assignments), `housekeeper` (Delta tables, compaction, retention, sweep, audit, log trimming), `watch` (aggregators).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from rta.actors.committer import Committer
from rta.actors.crash import CrashPoints
from rta.actors.housekeeper import Housekeeper
from rta.actors.links import CATCHING_UP, Site
from rta.actors.log_watch import LogWatch
from rta.actors.messages import AggregatorStatus, Registration
from rta.actors.ownership import Ownership
from rta.actors.topics import SourceLog, Topics, check_all_there
from rta.actors.watch import Watch
from rta.errors import BadRequestError, FencedError, NotFoundError, RtaError, UnavailableError
from rta.events.schemas import Datasource
from rta.log.base import LogAdmin, LogReader
from rta.store.catalog import Catalog, CatalogState
from rta.store.commit import gaps, genesis, grown, next_manifest, resumed
from rta.store.lease import RENEW_S, Lease
from rta.store.manifests import ManifestLog
from rta.store.model import Manifest, Part
from rta.store.objects import ObjectStore
from rta.stream.watermark import combine

logger = logging.getLogger(__name__)
LOOK_S = 0.25
ASK_AGAIN_S = 1.0
"""How often topics are looked at that could not be read."""
SETTLE_S = 10.0
"""So long the owners of a datasource that was made or changed have to take it up."""
REPORTS_KEPT_MS = 15_000


@dataclass(frozen=True, slots=True)
class Outside:
    """What the coordinator reaches beyond the store.

    Args:
        open_log: Opens a log admin for one thread.
        ask: Asks an aggregator for its status within some seconds; None when it does not answer.
        kill: Ends an aggregator's process, so that it is started again.
        open_reader: Opens a log reader for one thread.
        log_stats: The figures of a log that counts for itself, plain JSON.
        die: Ends this process with a reason.
        open_source: Opens a reader of other producers' topics; None where there are none.
    """

    open_log: Callable[[], LogAdmin]
    ask: Callable[[str, float], AggregatorStatus | None]
    kill: Callable[[str, int], None]
    open_reader: Callable[[], LogReader]
    log_stats: Callable[[], dict[str, Any]]
    die: Callable[[str], None]
    open_source: Callable[[], SourceLog] | None = None


class Coordinator:
    """See the module. Public methods may be called from any thread and block."""

    def __init__(self, site: Site, store: ObjectStore, outside: Outside) -> None:
        self._site = site
        self._store = store
        self._outside = outside
        self._catalog = Catalog(store)
        self._lease = Lease(store, site.run, site.pid, site.url)
        self._lease.take()
        self._renewed = time.monotonic()
        self._topics = Topics(outside.open_log(), outside.open_source)
        self._ownership = Ownership(store, site.aggregators, site.run)
        self._committer = Committer(
            store, self._ownership.generation, CrashPoints(site), on_manifest=self._on_manifest, stand_down=outside.die
        )
        self._housekeeper = Housekeeper(store, outside.open_log, site, self._ownership)
        self._watch = Watch(site, outside.ask, outside.kill)
        self._watch.follow(self._ownership.fleet)
        self._log_watch = LogWatch(site, outside.open_reader, outside.log_stats, outside.open_source)
        self._datasources: dict[str, Datasource] = {}
        self._settling: dict[str, float] = {}
        self._was_ready = False
        self._catalog_version = -1
        self._waits: dict[str, str] = {}
        self._ask_again = 0.0
        self._spread = threading.Event()
        self._reconciling = threading.Lock()
        self._started_ms = _now_ms()
        self._reports: dict[str, tuple[int, Any]] = {}
        self._watermarks_ms: dict[str, int | None] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)

    def start(self) -> None:
        self._committer.start()
        self._housekeeper.start()
        self._watch.start()
        self._log_watch.start()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        for part in (self._watch, self._log_watch, self._housekeeper, self._committer):
            part.stop()
        self._thread.join(timeout=10)

    # -- calls from aggregators --------------------------------------------------------------------------------------

    def register(self, actor: str, pid: int) -> Registration:
        try:
            registration = self._ownership.register(actor)
        except FencedError as error:
            self._outside.die(str(error))
            raise UnavailableError("this coordinator has stood down", "register with its successor") from error
        self._spread.set()
        self._watch.registered(actor, pid, registration.generation)
        return registration

    def offer(self, part: Part) -> int:
        return self._committer.offer(part)

    def fleet(self) -> tuple[str, ...]:
        """The aggregators that are to run, for whoever starts and ends their processes."""
        return self._ownership.fleet

    # -- calls from the HTTP edge ------------------------------------------------------------------------------------

    def report(self, source: str, snapshot: Any) -> dict[str, str]:
        """Counters of an HTTP process, for `/metrics`; forgotten when it has been silent for a while.

        Returns:
            The datasources, by folder, that take no events now because the log is too far ahead, and the words for it.
        """
        now = _now_ms()
        kept = {s: r for s, r in self._reports.items() if now - r[0] < REPORTS_KEPT_MS}
        self._reports = {**kept, source: (now, snapshot)}
        return self._log_watch.full()

    def reconcile(self) -> int:
        """Bring log, manifests and assignment in line with the catalog now; the catalog's version."""
        with self._reconciling:
            state = self._catalog.read()
            for datasource, count in self._topics.grown(state.datasources.values()):
                logger.info("the topic of %s has %d partitions now", datasource.name, count)
                self._catalog.grow(datasource, count)
                state = self._catalog.read()
            news = state.version != self._catalog_version or self._spread.is_set()
            if news or (self._waits and time.monotonic() >= self._ask_again):
                self._spread.clear()
                try:
                    self._bring_in_line(state, news)
                except BaseException:
                    self._spread.set()
                    raise
                self._catalog_version = state.version
            return state.version

    def _bring_in_line(self, state: CatalogState, news: bool) -> None:
        """Without `news` only what waits is looked at: what is there already costs requests to find again."""
        self._ask_again = time.monotonic() + ASK_AGAIN_S
        datasources = list(state.datasources.values())
        for datasource in datasources:
            if news or datasource.folder in self._waits:
                self._ensure_or_wait(datasource)
        self._waits = {d.folder: self._waits[d.folder] for d in datasources if d.folder in self._waits}
        before, self._datasources = self._datasources, dict(state.datasources)
        changed = [d.folder for name, d in state.datasources.items() if before.get(name) != d]
        if self._was_ready:
            self._settling.update(dict.fromkeys(changed, time.monotonic() + SETTLE_S))
        self._ownership.assign({d.folder: d.partitions for d in datasources}, state.version)
        self._housekeeper.set_datasources(datasources, state.dropped)
        self._log_watch.follow(datasources)

    def scale(self, count: int) -> dict[str, Any]:
        """So many aggregators from now on. Raises BadRequestError."""
        most = max((d.partitions for d in self._datasources.values()), default=1)
        if not 1 <= count <= most:
            raise BadRequestError(
                f"{count} aggregators are asked for; there can be 1 to {most}, the most partitions that a datasource has",
                "partitions are fixed when a datasource is created",
            )
        before = self._ownership.fleet
        fleet = self._ownership.scale(count)
        self._watch.follow(fleet)
        self._spread.set()
        self.reconcile()
        return {"aggregators": list(fleet), "before": list(before), "assignment": self._ownership.number}

    def resume(self, name: str, accept_loss: bool) -> dict[str, Any]:
        """Go on behind what the log has lost of a datasource, if `accept_loss`; what that is, in any case.

        A topic that is gone is made again. Raises NotFoundError.
        """
        datasource = self._catalog.get(name)
        manifests = ManifestLog(self._store, datasource.folder)
        newest = manifests.newest()
        if newest is None:
            raise UnavailableError(f"datasource '{name}' has no manifest yet", "it is being created")
        with self._reconciling:
            states = self._topics.now(datasource)
        found = gaps(newest, states, _now_ms())
        if found and accept_loss:
            behind = resumed(newest, found, self._ownership.generation, _now_ms())
            if not manifests.put(behind).done:
                raise UnavailableError(f"'{name}' was committed to meanwhile", "ask again")
            self._log_watch.committed(behind)
            logger.warning("gaps in the log of %s were accepted: %s", name, found)
            self._housekeeper.notify()
        described = [{**msgspec.to_builtins(gap), "records": gap.records} for gap in found]
        return {"datasource": name, "gaps": described, "resumed": bool(found and accept_loss)}

    def _ensure_or_wait(self, datasource: Datasource) -> None:
        """Another producer's topic that can't be read holds up nobody else; it is looked at again."""
        try:
            self._ensure(datasource)
        except (NotFoundError, UnavailableError) as error:
            if datasource.source is None:
                raise
            if self._waits.get(datasource.folder) != error.message:
                logger.warning("%s waits for its topic: %s", datasource.name, error)
            self._waits[datasource.folder] = error.message
        else:
            self._waits.pop(datasource.folder, None)

    def _ensure(self, datasource: Datasource) -> None:
        """A topic and a first manifest, whichever of them is missing; for one that is there, a fence.

        The fence is an empty manifest: what a stalled predecessor still has in hand for this number comes too late.
        """
        manifests = ManifestLog(self._store, datasource.folder)
        newest = manifests.newest()
        if newest is not None:
            self._log_watch.committed(newest)
            if newest.coordinator < self._ownership.generation:
                fence = next_manifest(newest, [], self._ownership.generation, _now_ms())
                if manifests.put(fence).done:
                    self._log_watch.committed(fence)
            if len(newest.partitions) < datasource.partitions:
                self._grow(datasource, manifests)
            return
        partitions = self._topics.begin(datasource)
        first = genesis(datasource, partitions, self._ownership.generation, _now_ms())
        if manifests.put(first).done:
            self._log_watch.committed(first)
        else:
            logger.info("the first manifest of %s was there already", datasource.folder)

    def _grow(self, datasource: Datasource, manifests: ManifestLog) -> None:
        """Take partitions into the chain that another producer's topic has got. Raises UnavailableError, NotFoundError."""
        newest = manifests.newest()
        assert newest is not None
        states = self._topics.now(datasource)
        check_all_there(datasource, states)
        if not manifests.put(grown(newest, states, self._ownership.generation, _now_ms())).done:
            raise UnavailableError(f"'{datasource.name}' was committed to meanwhile", "it is tried again")

    def status(self) -> dict[str, Any]:
        """All that `/v1/status` shows, plain JSON."""
        datasources = list(self._datasources.values())
        found = {d.name: self._datasource_status(d) for d in datasources}
        self._watermarks_ms = {d.folder: found[d.name]["watermark_ms"] for d in datasources}
        return {
            "coordinator": {
                "generation": self._ownership.generation,
                "started_ms": self._started_ms,
                "manifests_put": self._committer.manifests_put,
                "manifest_put_ms": round(self._committer.put_ms_last, 3),
                "parts_refused": self._committer.parts_refused,
            },
            "assignment": self._ownership.number,
            "actors": self._watch.actors(),
            "datasources": found,
            "log": self._log_watch.stats(),
            "metrics": [snapshot for _, snapshot in self._reports.values()],
            "housekeeping": self._housekeeper.status(),
        }

    def _datasource_status(self, datasource: Datasource) -> dict[str, Any]:
        newest = self._committer.newest(datasource.folder)
        live = self._watch.datasource(datasource.folder, datasource.partitions)
        marks = {int(p): m for p, m in live["watermarks_ms"].items()}
        before_ms = self._watermarks_ms.get(datasource.folder)
        return {
            "folder": datasource.folder,
            "version": datasource.version,
            "partitions": datasource.partitions,
            "topic": datasource.topic,
            "waits_for": self._waits.get(datasource.folder),
            "manifest": None if newest is None else newest.number,
            "committed_ms": None if newest is None else newest.created_ms,
            "events_committed": 0 if newest is None else sum(e.folded - e.buffered for e in newest.partitions),
            "events_folded": 0 if newest is None else sum(e.folded for e in newest.partitions),
            "watermark_ms": combine(marks, live["idle"], datasource.partitions, before_ms),
            "filling": self._housekeeper.filling(datasource.folder),
            **live,
        }

    def ready(self) -> tuple[str, tuple[str, ...]]:
        """Why the system can't accept and answer, "" when it can; and what stands still without hindering the rest.

        Every partition of every datasource has an owner that has caught up with the log. One that was made or changed a moment
        ago does not make the whole system unready: its owners are on their way. Nor does one whose topic of other producers
        can't be read: nobody sends it events here, and it is answered from what it has.
        """
        if self._catalog_version < 0:
            return "the coordinator has not read the catalog yet", ()
        degraded = []
        for datasource in self._datasources.values():
            if time.monotonic() < self._settling.get(datasource.folder, 0.0):
                continue
            live = self._watch.datasource(datasource.folder, datasource.partitions)
            stopped = self._stopped(datasource, live)
            if stopped and datasource.source is not None:
                degraded.append(stopped)
                continue
            reason = stopped or _behind(datasource, live)
            if reason:
                return reason, ()
        self._was_ready = True
        return "", tuple(degraded)

    def _stopped(self, datasource: Datasource, live: Mapping[str, Any]) -> str:
        if datasource.folder in self._waits:
            return f"'{datasource.name}' waits for its topic: {self._waits[datasource.folder]}"
        return f"'{datasource.name}' has stopped: {live['alarms'][0]}" if live["alarms"] else ""

    def ledger(self, name: str | None, time_range_ms: tuple[int, int] | None) -> dict[str, Any]:
        """The ledger of one datasource, or the sum of all. Raises NotFoundError."""
        if name is not None:
            return self._ledger(self._catalog.get(name), time_range_ms)
        reports = {d.name: self._ledger(d, time_range_ms) for d in self._datasources.values()}
        return together(reports)

    def _ledger(self, datasource: Datasource, time_range_ms: tuple[int, int] | None) -> dict[str, Any]:
        ends = self._watch.datasource(datasource.folder, datasource.partitions)["log_ends"]
        report = self._housekeeper.ledger(datasource, time_range_ms, {int(p): end for p, end in ends.items()})
        return {**report, "pending_gaps": [asdict(gap) for gap in self._log_watch.gaps(datasource.folder)]}

    def removal(self, folder: str) -> dict[str, Any]:
        return self._housekeeper.removal(folder)

    # -- own work ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._renew()
                self.reconcile()
            except FencedError as error:
                self._outside.die(str(error))
                return
            except RtaError as error:
                logger.warning("reconciling with the catalog: %s", error)
            except Exception as error:
                logger.exception("reconciling failed")
                self._outside.die(f"reconciling: {type(error).__name__}: {error}")
                return
            self._stop.wait(LOOK_S)

    def _renew(self) -> None:
        """Raises FencedError when another system has taken the store over."""
        if time.monotonic() - self._renewed < RENEW_S:
            return
        if not self._lease.renew():
            raise FencedError(f"the store is used by another system: {self._lease.holder()}")
        self._renewed = time.monotonic()

    def _on_manifest(self, manifest: Manifest) -> None:
        self._log_watch.committed(manifest)
        self._housekeeper.notify()


def together(reports: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The ledgers of all datasources as one; the single ones stand under `datasources`."""
    counts = ("lost", "duplicated", "duplicates_dropped")
    through = [r["complete_through"] for r in reports.values() if r["complete_through"] is not None]
    stages = sorted({stage for r in reports.values() for stage in r["stages"]})
    return {
        **{name: sum(r[name] for r in reports.values()) for name in counts},
        "complete_through": min(through, default=None),
        "stages": {stage: sum(r["stages"].get(stage, 0) for r in reports.values()) for stage in stages},
        "mismatches": [{"datasource": n, **m} for n, r in reports.items() for m in r["mismatches"]],
        "pending_gaps": [{"datasource": n, **g} for n, r in reports.items() for g in r["pending_gaps"]],
        "datasources": dict(reports),
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _behind(datasource: Datasource, live: Mapping[str, Any]) -> str:
    if live["ownerless"]:
        return f"partitions {live['ownerless']} of '{datasource.name}' have no owner yet"
    return "" if live["caught_up"] else f"'{datasource.name}' {CATCHING_UP}"
