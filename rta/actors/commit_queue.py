"""Ended epochs on their way into a manifest: cut them, write the files, offer the part, believe only the manifest.

Two threads per load, strictly in order: one cuts and writes, one offers. The fold goes on meanwhile. At most
`WAITING_MAX` written epochs wait; beyond that the fold waits, so that memory is bounded and the log's backlog limit does
the rest. An aggregator lets go of a part only when it has read the part's id in
a manifest; a part that is refused, or a manifest that names another part for one of its partitions, ends the load.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from rta.actors.crash import FILES_WRITTEN, CrashPoints
from rta.actors.links import CoordinatorLink
from rta.actors.load import Load, LoadSpec, part_named
from rta.errors import FencedError, PartRefusedError, RtaError, UnavailableError
from rta.store import layout
from rta.store.commit import sealed
from rta.store.manifests import ManifestLog
from rta.store.model import FileRef, LedgerLine, Manifest, Part, PartitionPart, RunRef
from rta.store.objects import ObjectStore
from rta.store.parquet import write_table_file
from rta.store.runs import write_runs, write_state
from rta.stream.epoch import EndedEpoch
from rta.stream.model import EpochCut, MinuteCounts, PartitionCut

logger = logging.getLogger(__name__)
WAITING_MAX = 3
RETRY_S = 0.25
_Item = TypeVar("_Item")
T = TypeVar("T")


class EpochEnded(NamedTuple):
    """An epoch of a load by its number."""

    epoch: int
    ended: EndedEpoch


class _Written(NamedTuple):
    """A cut whose files are durable; `runs` says where its id runs are, in their order."""

    epoch: int
    cut: EpochCut
    runs: tuple[RunRef, ...]
    files: tuple[FileRef, ...]
    state: str


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told: `lost(reason)` ends the load, `committed(epoch)` may let go of the epoch's segment."""

    lost: Callable[[str], None]
    committed: Callable[[int], None]
    failed: Callable[[BaseException], None]


@dataclass(frozen=True, slots=True)
class CommitPorts:
    """What the queue works with."""

    store: ObjectStore
    link: CoordinatorLink
    crash: CrashPoints


class _StoppedError(Exception):
    """The queue was stopped while it waited."""


class CommitQueue:
    """See the module. `put` and `runs` are for the fold's thread; the rest of the work happens in the queue's own."""

    def __init__(self, load: Load, spec: LoadSpec, ports: CommitPorts, listener: Listener) -> None:
        self._spec = spec
        self._store = ports.store
        self._link = ports.link
        self._listener = listener
        self._crash = ports.crash
        self._manifests = ManifestLog(ports.store, spec.datasource.folder)
        self._based_on = dict(load.based_on)
        self._incarnations = load.incarnations
        self._newest = load.manifest
        self._ended: queue.Queue[EpochEnded] = queue.Queue(1)
        self._runs: queue.Queue[tuple[RunRef, ...]] = queue.Queue()
        self._written: queue.Queue[_Written] = queue.Queue(WAITING_MAX)
        self._stop = threading.Event()
        self._pending = 0
        name = spec.datasource.name
        self._threads = (
            threading.Thread(target=self._each, args=(self._ended, self._write), name=f"cut-{name}", daemon=True),
            threading.Thread(target=self._each, args=(self._written, self._commit), name=f"commit-{name}", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        return self._pending

    def put(self, ended: EpochEnded, stopped: Callable[[], bool]) -> None:
        """Hand an epoch over; blocks while `WAITING_MAX` wait, until `stopped()` says that nobody wants it any more."""
        self._pending += 1
        self._put(self._ended, ended, stopped)

    def runs(self, timeout_s: float = 0.0) -> tuple[RunRef, ...] | None:
        """Where the id runs of the last epoch that was put were written; None as long as they are not."""
        try:
            return self._runs.get(timeout=timeout_s) if timeout_s else self._runs.get_nowait()
        except queue.Empty:
            return None

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything handed over is in a manifest; False when the time was too short."""
        deadline = time.monotonic() + timeout_s
        while self._pending and time.monotonic() < deadline and all(t.is_alive() for t in self._threads):
            self._stop.wait(0.02)
        return not self._pending

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if threading.current_thread() is not thread:
                thread.join(timeout=10)

    def _put(self, into: queue.Queue[_Item], item: _Item, stopped: Callable[[], bool]) -> None:
        while not (self._stop.is_set() or stopped()):
            try:
                into.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def _each(self, source: queue.Queue[_Item], work: Callable[[_Item], None]) -> None:
        """The life of a thread: one item after the other, until one fails."""
        while not self._stop.is_set():
            try:
                item = source.get(timeout=0.2)
            except queue.Empty:
                continue
            try:
                work(item)
            except _StoppedError:
                return
            except (PartRefusedError, FencedError) as error:
                self._listener.lost(str(error))
                return
            except BaseException as error:  # noqa: BLE001 - told to the shard, which ends the process with the reason
                self._listener.failed(error)
                return

    def _patiently(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do it again until the store is there: what was folded is worth the wait. Raises _StoppedError."""
        said = ""
        while not self._stop.is_set():
            try:
                return work(*arguments)
            except UnavailableError as error:
                if error.message != said:
                    logger.warning("%s of %s waits: %s", self._spec.actor, self._spec.datasource.name, error)
                said = error.message
            self._stop.wait(RETRY_S)
        raise _StoppedError

    def _write(self, item: EpochEnded) -> None:
        """Cut and write; the id runs first, because the fold's next epoch waits for them."""
        spec, store, folder = self._spec, self._store, self._spec.datasource.folder
        epoch, ended = item
        runs_path = layout.run_path(spec.actor, spec.generation, epoch)
        runs = self._patiently(write_runs, store, folder, runs_path, ended.run_writes)
        self._runs.put(runs)
        cut = ended.cut()
        names = (layout.parquet_name(spec.actor, spec.generation, epoch, k) for k in range(len(cut.writes)))
        files = [
            self._patiently(write_table_file, store, folder, w, name) for w, name in zip(cut.writes, names, strict=True)
        ]
        state = layout.state_path(spec.actor, spec.generation, epoch)
        self._patiently(write_state, store, folder, state, cut.state)
        self._put(self._written, _Written(epoch, cut, runs, tuple(files), state), lambda: False)

    def _commit(self, written: _Written) -> None:
        part = self._part(written)
        self._crash.reach(FILES_WRITTEN)
        while not self._stop.is_set():
            manifest = self._patiently(self._taken, part)
            if manifest is None:
                hint = self._offer(part)
                if hint is None:
                    self._stop.wait(RETRY_S)
                    continue
                manifest = self._patiently(self._taken, part)
            if manifest is not None:
                self._newest = manifest.number
                self._based_on.update({p.partition: part.id for p in part.partitions})
                self._listener.committed(written.epoch)
                self._pending -= 1
                return

    def _offer(self, part: Part) -> int | None:
        """None: no answer, it may or may not be in a manifest."""
        try:
            return self._link.offer(part)
        except PartRefusedError:
            if self._patiently(self._taken, part) is not None:
                return self._newest
            raise
        except RtaError as error:
            if error.retry_after_s is None:
                raise
            logger.info("part %s of %s is not committed yet: %s", part.id, part.datasource, error)
            return None

    def _taken(self, part: Part) -> Manifest | None:
        """The newest manifest if it names our part; None if it still names what the part is based on.

        Raises PartRefusedError for anything else: somebody else folded one of our partitions.
        """
        newest = self._manifests.newest()
        if newest is None:
            return None
        self._newest = newest.number
        named = {p.partition: part_named(newest, p.partition) for p in part.partitions}
        if all(name == part.id for name in named.values()):
            return newest
        if all(named[p.partition] == p.based_on for p in part.partitions):
            return None
        strange = next(p.partition for p in part.partitions if named[p.partition] not in (part.id, p.based_on))
        raise PartRefusedError(
            f"manifest {newest.number} of '{part.datasource}' names part '{named[strange]}' for partition {strange}"
        )

    def _part(self, written: _Written) -> Part:
        cut, spec = written.cut, self._spec
        return sealed(
            Part(
                id="",
                datasource=spec.datasource.folder,
                actor=spec.actor,
                generation=spec.generation,
                epoch=written.epoch,
                definition_version=spec.datasource.version,
                partitions=tuple(self._piece(p, written) for p in cut.partitions),
                files=written.files,
                state=written.state,
                ledger=tuple(_line(counts) for counts in cut.ledger),
            )
        )

    def _piece(self, cut: PartitionCut, written: _Written) -> PartitionPart:
        kept = [key for key in cut.kept_runs if isinstance(key, RunRef)]
        writes = zip(written.runs, written.cut.run_writes, strict=True)
        new = [ref for ref, write in writes if write.partition == cut.partition]
        return PartitionPart(
            partition=cut.partition,
            log_incarnation=self._incarnations[cut.partition],
            from_offset=cut.from_offset,
            to_offset=cut.to_offset,
            based_on=self._based_on[cut.partition],
            watermark_ms=cut.watermark_ms,
            append_time_ms=cut.append_time_ms,
            runs=tuple(kept + new),
            buffered=cut.buffered,
            buffered_sum=cut.buffered_sum,
        )


def _line(counts: MinuteCounts) -> LedgerLine:
    return LedgerLine(
        partition=counts.partition,
        minute_ms=counts.minute_ms,
        logged=counts.logged,
        logged_sum=counts.logged_sum,
        folded=counts.folded,
        folded_sum=counts.folded_sum,
        dropped=counts.dropped,
        dropped_sum=counts.dropped_sum,
        rejected=counts.rejected,
        rejected_sum=counts.rejected_sum,
    )
