"""The coordinator's slow work, one datasource after the other in a thread of its own.

Per datasource and round: roll the Delta tables forward, audit what the manifests committed, a bounded piece of compaction,
retention and sweep, trim the log below the newest manifest read back from the store (protocol.md, rule 15), and a
step of filling a rollup that was added, with pauses so that it takes a third of a core at most. Nothing here is on the
way of an event, and no failure here deletes anything: it is noted in the status and tried again. Whoever finds that a
newer coordinator has put a manifest does nothing any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from rta.actors.crash import BEFORE_PROJECTION, CrashPoints
from rta.actors.links import Site
from rta.actors.ownership import Ownership
from rta.errors import NotFoundError, RtaError
from rta.events.schemas import Datasource
from rta.log.base import LogAdmin
from rta.store.audit import Audit
from rta.store.catalog import Catalog, Dropped
from rta.store.commit import redefined
from rta.store.fill import Fills
from rta.store.maintain import Maintenance, MaintenancePlan, drop_datasource, removal
from rta.store.manifests import ManifestLog
from rta.store.model import Manifest
from rta.store.objects import ObjectStore
from rta.store.tables import DeltaProjection

logger = logging.getLogger(__name__)
ROUND_S = 1.0
PROJECT_S = 5.0
"""The Delta tables follow the manifests at most this late, many manifests in one commit when there are many."""
PROJECT_MANIFESTS = 20
PIECES_MAX = 8
REDEFINE_S = 5.0
"""So long the aggregators have to hand over an epoch of a new definition before an empty manifest says that it holds."""
FILL_REST = 2.0
"""A step of a fill is followed by a pause of so many times its length: what comes in goes first."""
FILL_FAILED_S = 30.0
"""After a step that failed."""
VIEW_HELD_MS = 30_000
"""Longest that a replica may answer from one view without a refresh."""


@dataclass(slots=True)
class _House:
    """What is kept of one datasource between rounds."""

    datasource: Datasource
    manifests: ManifestLog
    projection: DeltaProjection
    maintenance: Maintenance
    audit: Audit
    fills: Fills
    fill_at: float = 0.0
    fill_failure: str | None = None
    redefined_at: float | None = None
    projected: int = -1
    projected_at: float = 0.0
    trimmed: dict[int, int] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None


class Housekeeper:
    """See the module. `ledger`, `removal` and `status` may be called from any thread."""

    def __init__(self, store: ObjectStore, open_log: Callable[[], LogAdmin], site: Site, ownership: Ownership) -> None:
        self._store = store
        self._ownership = ownership
        self._open_log = open_log
        self._site = site
        self._crash = CrashPoints(site)
        self._houses: dict[str, _House] = {}
        self._dropped: list[Dropped] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after one last round, so that the tables of a stopped system hold everything that is committed."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=30)

    def notify(self) -> None:
        """There is a new manifest."""
        self._wake.set()

    def set_datasources(self, datasources: Sequence[Datasource], dropped: Sequence[Dropped]) -> None:
        with self._lock:
            houses = {}
            for datasource in datasources:
                known = self._houses.get(datasource.folder)
                if known is None:
                    known = self._open(datasource)
                elif known.datasource != datasource:
                    known.datasource = datasource
                    known.projection.redefine(datasource)
                    known.maintenance.redefine(datasource)
                    known.audit.redefine(datasource)
                    known.fills.redefine(datasource)
                    known.redefined_at = time.monotonic()
                houses[datasource.folder] = known
            self._houses = houses
            self._dropped = list(dropped)
        self._wake.set()

    def _open(self, datasource: Datasource) -> _House:
        folder = datasource.folder
        manifests = ManifestLog(self._store, folder)
        projection = DeltaProjection(self._store, folder, datasource)
        plan = MaintenancePlan(grace_ms=self._grace_ms)
        maintenance = Maintenance(self._store, datasource, projection, self._ownership.generation, plan)
        audit = Audit(self._store, datasource, self._ownership.generation)
        fills = Fills(self._store, datasource, self._ownership.generation)
        return _House(datasource, manifests, projection, maintenance, audit, fills)

    def _run(self) -> None:
        log = self._open_log()
        while not self._stop.is_set():
            self._wake.wait(ROUND_S)
            self._wake.clear()
            self._round(log, last=False)
        self._round(log, last=True)
        log.close()

    def _round(self, log: LogAdmin, last: bool) -> None:
        with self._lock:
            houses, dropped = list(self._houses.values()), list(self._dropped)
        for house in houses:
            try:
                self._keep(house, log, last)
                house.failure = None
            except RtaError as error:
                self._failed(house, str(error))
            except BaseException as error:
                logger.exception("keeping the house of %s", house.datasource.name)
                self._failed(house, f"{type(error).__name__}: {error}")
        for entry in dropped:
            self._purge(entry, log)

    @staticmethod
    def _failed(house: _House, reason: str) -> None:
        if house.failure != reason:
            logger.error("keeping the house of %s: %s", house.datasource.name, reason)
        house.failure = reason

    def _keep(self, house: _House, log: LogAdmin, last: bool) -> None:
        newest = house.manifests.newest()
        if newest is None or newest.coordinator > self._ownership.generation:
            return
        now_ms = time.time_ns() // 1_000_000
        house.audit.advance(house.manifests, newest.number)
        behind = newest.number - house.projected
        if behind and (last or behind >= PROJECT_MANIFESTS or time.monotonic() - house.projected_at >= PROJECT_S):
            self._crash.reach(BEFORE_PROJECTION)
            house.projection.advance(house.manifests, newest.number, now_ms)
            house.projected, house.projected_at = newest.number, time.monotonic()
        # Of a newer definition than this round knows there may be rollups whose history must not be compacted yet.
        known = newest.definition_version <= house.datasource.version
        if not last and known:
            house.fills.begin(house.manifests, house.projection.log)
            covered = min(house.projected, house.audit.through, newest.number)
            self._maintain(house, now_ms, covered)
        self._trim(house, newest, log)
        if not last and known:
            self._redefine(house, newest, now_ms)
            self._fill(house)

    def _maintain(self, house: _House, now_ms: int, covered: int) -> None:
        """As many bounded pieces as are due, up to a limit, so that the other datasources get their turn."""
        for _ in range(PIECES_MAX):
            report = house.maintenance.step(now_ms, self._ownership.current, covered, house.fills.pinned())
            if report.kind == "idle" or self._stop.is_set():
                return
            house.report = {**house.report, f"last_{report.kind}": msgspec.to_builtins(report)}

    def _redefine(self, house: _House, newest: Manifest, now_ms: int) -> None:
        """Where nothing comes in, no part of the new version comes either: an empty manifest stands for it."""
        awaited = max([house.fills.awaited_version, *house.datasource.gone_tables.values()])
        if newest.definition_version >= awaited:
            return
        if house.redefined_at is None:
            house.redefined_at = time.monotonic()
        if time.monotonic() - house.redefined_at >= REDEFINE_S:
            house.redefined_at = time.monotonic()
            version = house.datasource.version
            house.manifests.put(redefined(newest, version, self._ownership.generation, now_ms))

    def _fill(self, house: _House) -> None:
        """The next step of a rollup that is filled from history, when it is due. What fails holds up nothing else."""
        began = time.monotonic()
        if began < house.fill_at or self._stop.is_set():
            return
        try:
            worked = house.fills.step(house.projection.log)
            house.fill_failure = None
        except RtaError as error:
            if house.fill_failure != error.message:
                logger.error("filling a rollup of %s: %s", house.datasource.name, error)
            house.fill_failure = error.message
            house.fill_at = time.monotonic() + FILL_FAILED_S
            return
        if worked is not None:
            took = time.monotonic() - began
            house.fill_at = time.monotonic() + FILL_REST * took

    @staticmethod
    def _trim(house: _House, newest: Manifest, log: LogAdmin) -> None:
        """`newest` was read from the store: what lies below its `to` is in files that it names."""
        if house.datasource.source is not None:
            return  # other people's topic
        offsets = {e.partition: e.to_offset for e in newest.partitions}
        if offsets != house.trimmed:
            log.trim(house.datasource.folder, offsets)
            house.trimmed = offsets

    def _purge(self, entry: Dropped, log: LogAdmin) -> None:
        try:
            log.drop(entry.folder)
            if time.time_ns() // 1_000_000 - entry.dropped_ms < self._grace_ms:
                return
            if drop_datasource(self._store, entry.folder):
                Catalog(self._store).purged(entry.folder)
                with self._lock:
                    self._dropped = [d for d in self._dropped if d.folder != entry.folder]
        except RtaError as error:
            logger.error("removing what is left of %s: %s", entry.folder, error)

    @property
    def _grace_ms(self) -> int:
        """The longest query, twice: a replica refreshes its view before every query."""
        return 2 * self._site.query_time_ms + VIEW_HELD_MS

    # -- questions ---------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        return {
            house.datasource.name: {
                "projected": house.projected,
                "failure": house.failure,
                **house.report,
            }
            for house in self._houses.values()
        }

    def filling(self, folder: str) -> dict[str, dict[str, Any]]:
        """How far the rollups are that were added later, by name."""
        house = self._houses.get(folder)
        if house is None:
            return {}
        return {name: {**fill, "failure": house.fill_failure} for name, fill in house.fills.status().items()}

    def ledger(
        self, datasource: Datasource, time_range_ms: tuple[int, int] | None, log_ends: Mapping[int, int]
    ) -> dict[str, Any]:
        return self._house(datasource.folder).audit.ledger(time_range_ms, dict(log_ends))

    def removal(self, folder: str) -> dict[str, Any]:
        return removal(self._store, self._house(folder).datasource)

    def _house(self, folder: str) -> _House:
        house = self._houses.get(folder)
        if house is None:
            raise NotFoundError(f"nothing is known of '{folder}' yet", "ask again in a moment")
        return house
