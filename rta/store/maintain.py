"""Housekeeping of one datasource's tables, a bounded piece at a time.

Owns what is due when: compaction, retention, checkpoints and old commits of the Delta logs, the sweep, the archive of
old manifests, and removing a datasource that was deleted. Everything is a function of what the store holds and of
`now_ms`; the coordinator calls `step` between epochs. Compacts and expires only what every derived table and the audit
have covered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rta.errors import NotFoundError
from rta.events.schemas import EVENTS, REJECTED, Datasource, Grain
from rta.store import jobs
from rta.store.compact import REJECTED_ROWS_MAX, ROWS_MAX, Compactor, Merge, choose_files
from rta.store.delta_log import DeltaLog, NewCommit, TableState
from rta.store.expired import note_expired, read_expired
from rta.store.manifests import ManifestLog
from rta.store.model import Assignment, FileRef
from rta.store.objects import ObjectStore
from rta.store.sweep import AREAS, Sweep
from rta.store.tables import DeltaProjection, table_schemas

CHECKPOINT_VERSIONS = 64
EXPIRED_FILES_MAX = 1000
LOG_KEPT_MS = 86_400_000
UNFINISHED_MS = 86_400_000
DROP_MAX = 2000
EXPIRED_INFO = "rtaExpiredRows"
SESSIONS = "sessions"


@dataclass(frozen=True, slots=True)
class MaintenancePlan:
    """How often and how far.

    Args:
        grace_ms: The longest query plus the longest that a replica may hold a view.
        sweep_every_ms: One round of the sweep over all areas begins this long after the last.
        retention_every_ms: The same for retention, checkpoints and the archive.
        archive_after: Manifests this far behind the newest may move into the archive.
        compact_files_min: From so many files of a date and size class on they are merged.
    """

    grace_ms: int = 600_000
    sweep_every_ms: int = 60_000
    retention_every_ms: int = 60_000
    archive_after: int = 10_000
    compact_files_min: int = 8


@dataclass(slots=True)
class MaintenanceReport:
    """What one step did: `kind` is "compact", "expire", "checkpoint", "sweep", "archive" or "idle"."""

    kind: str = "idle"
    table: str = ""
    files_in: int = 0
    files_out: int = 0
    rows: int = 0
    bytes: int = 0
    deleted: list[str] = field(default_factory=list)


class Maintenance:
    """Maintains one datasource; one per thread, by the coordinator of this generation. See the module."""

    def __init__(
        self,
        store: ObjectStore,
        datasource: Datasource,
        projection: DeltaProjection,
        generation: int,
        plan: MaintenancePlan | None = None,
        merges: Mapping[str, Merge] | None = None,
    ) -> None:
        self._store = store
        self._datasource = datasource
        self._folder = datasource.folder
        self._projection = projection
        self._plan = plan or MaintenancePlan()
        self._generation = generation
        self._merges = merges
        self._compactor = Compactor(store, datasource, generation, merges)
        self._sweep = Sweep(store, self._folder, generation, self._plan.grace_ms)
        self._manifests = ManifestLog(store, self._folder)
        self._pending: list[tuple[str, str]] = []
        self._swept_ms: int | None = None
        self._tidied_ms: int | None = None

    def step(
        self, now_ms: int, assignment: Assignment, covered: int, pinned: frozenset[str] = frozenset()
    ) -> MaintenanceReport:
        """Do the most urgent bounded piece of work; "idle" when nothing is due.

        Args:
            assignment: The newest.
            covered: Every derived table and the audit have covered the manifests through this one.
            pinned: Keys that the sweep leaves alone.

        Raises:
            CorruptFileError, InvariantError: nothing was changed; the message names what is broken.
        """
        for table in self.tables():
            compacted = self._compact(table, covered, now_ms)
            if compacted is not None:
                return compacted
        if not self._pending:
            self._plan_round(now_ms)
        while self._pending:
            kind, what = self._pending.pop(0)
            if kind == "sweep":
                swept = self._sweep.step(what, assignment, now_ms, pinned)
                if swept.deleted:
                    return MaintenanceReport("sweep", what, deleted=swept.deleted)
                continue
            report = self._do(kind, what, covered, now_ms)
            if report is not None:
                return report
        return MaintenanceReport()

    def redefine(self, datasource: Datasource) -> None:
        """The definition has a new version."""
        self._datasource = datasource
        self._compactor = Compactor(self._store, datasource, self._generation, self._merges)

    def tables(self) -> list[str]:
        """Every table that may have files."""
        return sorted({*self._projection.tables(), *self._datasource.gone_tables, REJECTED, SESSIONS})

    def expired(self) -> dict[str, int]:
        """Rows that retention has removed so far, per table: the ledger's entry."""
        return {table: entry.rows for table, entry in read_expired(self._store, self._folder).items()}

    def _plan_round(self, now_ms: int) -> None:
        plan = self._plan
        if self._tidied_ms is None or now_ms - self._tidied_ms >= plan.retention_every_ms:
            self._tidied_ms = now_ms
            self._pending += [(kind, table) for table in self.tables() for kind in ("expire", "checkpoint")]
            self._pending.append(("archive", ""))
        if self._swept_ms is None or now_ms - self._swept_ms >= plan.sweep_every_ms:
            self._swept_ms = now_ms
            self._pending += [("sweep", area) for area in (*AREAS, *self.tables())]
            self._pending.append(("unfinished", ""))

    def _do(self, kind: str, what: str, covered: int, now_ms: int) -> MaintenanceReport | None:
        match kind:
            case "expire":
                return self._expire(what, covered, now_ms)
            case "checkpoint":
                return self._checkpoint(what, now_ms)
            case "archive":
                moved = self._archive()
                return MaintenanceReport("archive", files_in=moved) if moved else None
            case _:
                self._store.discard_unfinished(now_ms - UNFINISHED_MS)
                jobs.discard_dead(self._store, self._folder, now_ms - self._plan.grace_ms)
                return None

    def _covered_files(self, table: str, covered: int) -> list[FileRef]:
        """Files that are in the newest Delta version and were in it when `covered` was."""
        log = self._projection.log(table)
        state = log.refresh()
        if state.version < 0:
            return []
        try:
            _, known = log.files_at(self._folder, covered)
        except NotFoundError:
            return []
        return [file for path, file in state.files.items() if path in known]

    def _compact(self, table: str, covered: int, now_ms: int) -> MaintenanceReport | None:
        kept_ms = retention_ms(self._datasource, table)
        files = self._covered_files(table, covered)
        rows_max = REJECTED_ROWS_MAX if table == REJECTED else ROWS_MAX
        inputs = choose_files(files, self._plan.compact_files_min, kept_ms, rows_max)
        if not inputs:
            return None
        done = self._compactor.compact(self._projection.log(table), inputs, now_ms)
        if done is None:
            return None
        return MaintenanceReport(
            "compact", table, files_in=done.inputs, files_out=1, rows=done.output.rows, bytes=done.output.bytes
        )

    def _expire(self, table: str, covered: int, now_ms: int) -> MaintenanceReport | None:
        """Take files of whole dates that have left the table's retention out of the Delta table, and count the rows.

        A file also stays for the retention's length after its newest row was written: history that is loaded today is
        not gone tomorrow because it is old. Being rewritten by compaction does not count as written.
        """
        log = self._projection.log(table)
        if log.refresh().version < 0:
            return None
        self._count_expired(log)
        if table in self._datasource.gone_tables:
            return self._empty(log, covered, now_ms)
        kept_ms = retention_ms(self._datasource, table)
        if kept_ms is None:
            return None
        oldest = datetime.fromtimestamp((now_ms - kept_ms) / 1000, UTC).date().isoformat()
        dated = [file for file in self._covered_files(table, covered) if file.date < oldest]
        return self._remove(log, [file for file in dated if (file.written_ms or 0) < now_ms - kept_ms], now_ms)

    def _empty(self, log: DeltaLog, covered: int, now_ms: int) -> MaintenanceReport | None:
        """Take all files out of the table of a rollup that was removed, once no part with more of them can come."""
        removed = self._datasource.gone_tables[log.table]
        if covered < 0 or self._manifests.get(covered).definition_version < removed:
            return None
        return self._remove(log, list(log.state.files.values()), now_ms)

    def _remove(self, log: DeltaLog, files: list[FileRef], now_ms: int) -> MaintenanceReport | None:
        old = files[:EXPIRED_FILES_MAX]
        if not old:
            return None

        def build(state: TableState) -> NewCommit | None:
            there = tuple(file for file in old if file.path in state.files)
            info = {EXPIRED_INFO: sum(file.rows for file in there)}
            return NewCommit("DELETE", now_ms, remove=there, info=info) if there else None

        if not log.commit(build):
            return None
        self._count_expired(log)
        return MaintenanceReport("expire", log.table, files_in=len(old), rows=sum(file.rows for file in old))

    def _count_expired(self, log: DeltaLog) -> None:
        """Add what the table's own commits say; each commit once, whatever crashed in between."""
        fresh = [(commit.version, int(commit.info.get(EXPIRED_INFO, 0))) for commit in log.history]
        note_expired(self._store, self._folder, log.table, fresh)

    def _checkpoint(self, table: str, now_ms: int) -> MaintenanceReport | None:
        log = self._projection.log(table)
        state = log.refresh()
        if state.version < 0 or state.version - log.checkpoint_version() < CHECKPOINT_VERSIONS:
            return None
        self._count_expired(log)
        log.write_checkpoint(now_ms)
        return MaintenanceReport("checkpoint", table, deleted=log.clean(now_ms - LOG_KEPT_MS))

    def _archive(self) -> int:
        newest = self._manifests.newest()
        return 0 if newest is None else self._manifests.archive(newest.number - self._plan.archive_after)


def retention_ms(datasource: Datasource, table: str) -> int | None:
    """How long a table keeps its rows; None when nothing is said of it."""
    kept = datasource.retention
    fixed: dict[str, int | None] = {EVENTS: kept.events_ms, REJECTED: kept.rejected_ms, SESSIONS: kept.sessions_ms}
    if table in fixed:
        return fixed[table]
    grain = next((rollup.granularity for rollup in datasource.rollups if rollup.table == table), None)
    return None if grain is None else kept.rollups_ms.get(Grain(grain))


def removal(store: ObjectStore, datasource: Datasource) -> dict[str, Any]:
    """What deleting the datasource would remove, per table: rows, files, bytes of the tables as projected."""
    found: dict[str, Any] = {}
    for table in sorted({*table_schemas(datasource), REJECTED, SESSIONS}):
        files = DeltaLog(store, datasource.folder, table).refresh().files.values()
        if files or table in table_schemas(datasource):
            found[table] = {
                "rows": sum(file.rows for file in files),
                "files": len(files),
                "bytes": sum(file.bytes for file in files),
            }
    return found


def drop_datasource(store: ObjectStore, folder: str, limit: int = DROP_MAX) -> bool:
    """Remove up to `limit` objects of a datasource that the catalog no longer has. True when nothing is left.

    The caller waits until no query can be reading it any more.
    """
    for count, info in enumerate(store.list(folder)):
        if count == limit:
            return False
        store.delete(info.key)
    return True
