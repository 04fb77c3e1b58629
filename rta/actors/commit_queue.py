"""Ended epochs on their way into a manifest: write the files, offer the part, believe only the manifest.

One thread per load, strictly in order. At most `WAITING_MAX` epochs wait; beyond that the fold waits, so that memory is
bounded and the log's backlog limit does the rest. An aggregator lets go of a part only when it has read the part's id in
a manifest; a part that is refused, or a manifest that names another part for one of its partitions, ends the load.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rta.actors.crash import FILES_WRITTEN, CrashPoints
from rta.actors.links import CoordinatorLink
from rta.actors.load import Load, LoadSpec, part_named
from rta.errors import FencedError, PartRefusedError, RtaError
from rta.store import layout
from rta.store.commit import sealed
from rta.store.manifests import ManifestLog
from rta.store.model import LedgerLine, Manifest, Part, PartitionPart, RunRef
from rta.store.objects import ObjectStore
from rta.store.parquet import write_table_file
from rta.store.runs import write_state
from rta.stream.model import EpochCut, MinuteCounts, PartitionCut

logger = logging.getLogger(__name__)
WAITING_MAX = 3
RETRY_S = 0.25


class EpochEnded(NamedTuple):
    """`runs` says where the cut's id runs were written, in their order."""

    epoch: int
    cut: EpochCut
    runs: tuple[RunRef, ...]


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


class CommitQueue:
    """See the module. `put` is for the fold's thread; the rest of the work happens in the queue's own."""

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
        self._waiting: queue.Queue[EpochEnded] = queue.Queue(WAITING_MAX)
        self._stop = threading.Event()
        self._pending = 0
        self._thread = threading.Thread(target=self._run, name=f"commit-{spec.datasource.name}", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        return self._pending

    def put(self, ended: EpochEnded, stopped: Callable[[], bool]) -> None:
        """Hand an epoch over; blocks while `WAITING_MAX` wait, until `stopped()` says that nobody wants it any more."""
        self._pending += 1
        while not (self._stop.is_set() or stopped()):
            try:
                self._waiting.put(ended, timeout=0.2)
                return
            except queue.Full:
                continue

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything handed over is in a manifest; False when the time was too short."""
        deadline = time.monotonic() + timeout_s
        while self._pending and time.monotonic() < deadline and self._thread.is_alive():
            self._stop.wait(0.02)
        return not self._pending

    def stop(self) -> None:
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                ended = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            try:
                self._commit(ended)
            except (PartRefusedError, FencedError) as error:
                self._listener.lost(str(error))
                return
            except BaseException as error:  # noqa: BLE001 - told to the shard, which ends the process with the reason
                self._listener.failed(error)
                return
            self._pending -= 1

    def _commit(self, ended: EpochEnded) -> None:
        part = self._write(ended)
        self._crash.reach(FILES_WRITTEN)
        while not self._stop.is_set():
            manifest = self._taken(part)
            if manifest is None:
                hint = self._offer(part)
                if hint is None:
                    self._stop.wait(RETRY_S)
                    continue
                manifest = self._taken(part)
            if manifest is not None:
                self._newest = manifest.number
                self._based_on.update({p.partition: part.id for p in part.partitions})
                self._listener.committed(ended.epoch)
                return

    def _offer(self, part: Part) -> int | None:
        """None: no answer, it may or may not be in a manifest."""
        try:
            return self._link.offer(part)
        except PartRefusedError:
            if self._taken(part) is not None:
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

    def _write(self, ended: EpochEnded) -> Part:
        cut, spec = ended.cut, self._spec
        folder = spec.datasource.folder
        names = (layout.parquet_name(spec.actor, spec.generation, ended.epoch, k) for k in range(len(cut.writes)))
        files = [write_table_file(self._store, folder, w, name) for w, name in zip(cut.writes, names, strict=True)]
        state = layout.state_path(spec.actor, spec.generation, ended.epoch)
        write_state(self._store, folder, state, cut.state)
        return sealed(
            Part(
                id="",
                datasource=folder,
                actor=spec.actor,
                generation=spec.generation,
                epoch=ended.epoch,
                definition_version=spec.datasource.version,
                partitions=tuple(self._piece(p, ended) for p in cut.partitions),
                files=tuple(files),
                state=state,
                ledger=tuple(_line(counts) for counts in cut.ledger),
            )
        )

    def _piece(self, cut: PartitionCut, ended: EpochEnded) -> PartitionPart:
        kept = [key for key in cut.kept_runs if isinstance(key, RunRef)]
        writes = zip(ended.runs, ended.cut.run_writes, strict=True)
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
    )
