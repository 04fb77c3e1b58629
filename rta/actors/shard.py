"""One aggregator's share of one datasource: a loop that reads the log, folds, and ends epochs.

Owns the lives of its load: fold, hot segments, commit queue. When a part is refused, or a manifest holds anything but our
own part, the whole load is thrown away and the newest manifest is loaded (protocol.md, rule 6): `from` never moves by
itself. A gap between the newest manifest and the log stops the share with an alarm (rule 15); anything unexpected ends the
process, which starts again from the manifest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import polars as pl

from rta.actors.commit_queue import CommitPorts, CommitQueue, EpochEnded, Listener
from rta.actors.crash import CrashPoints
from rta.actors.links import CoordinatorLink, Site
from rta.actors.load import GAP_HINT, Load, LoadSpec, check_incarnation, id_runs, load_newest, log_states
from rta.actors.messages import Cursor, HotDelta, RowsRequest, ShardStatus
from rta.actors.segments import HotSegments
from rta.errors import CorruptFileError, LogGapError, NotFoundError, RtaError, UnavailableError
from rta.events.batch import encode
from rta.log.base import LogReader, Record
from rta.store.model import RunRef
from rta.store.objects import ObjectStore
from rta.stream.fold import Fold
from rta.stream.rollups import merge_partials

logger = logging.getLogger(__name__)
FETCH_BYTES = 8 << 20
WAIT_MS = 250
STEP_S_MIN = 0.005
"""Least time between two folds: small arrivals gather, so that a fold's fixed cost is paid at most 200 times a second."""
REST_S_MAX = 0.02
SMALL_BYTES = 1 << 20
"""After a fold of less the loop rests as long as it worked: what arrives one by one would take a whole core."""
LOOK_S = 1.0
ALARM_LOOK_S = 1.0
RESCUE_S = 10.0
AWAY_S = 0.25
"""Pause between two tries while the log is out of reach."""
CHUNKS_MAX = 4096
RAW_BYTES = 64 << 20
"""Raw rows in memory that end an epoch as early as its events do: they are held once more while they are written."""
REJECTED_BYTES = 32 << 20
"""Rejected rows, which hold whole events, end an epoch as early as its events do."""
OVERFULL = 2
"""An epoch may grow to so many times its usual size while the one before is still being written."""
RELOADS_KEPT = 20
END_S = 30.0


@dataclass(frozen=True, slots=True)
class Ports:
    """What a shard works with; the reader is its own."""

    store: ObjectStore
    reader: LogReader
    link: CoordinatorLink
    die: Callable[[str], None]


@dataclass(slots=True)
class _Life:
    """One load and what grew out of it. `runs` names the id runs of the last epoch as long as the fold awaits them."""

    name: str
    load: Load
    segments: HotSegments
    queue: CommitQueue
    awaits_runs: bool = False
    runs: tuple[RunRef, ...] | None = None


class Shard:
    """Runs in a thread of its own between `start` and `stop`; the questions may be asked from any thread."""

    def __init__(self, spec: LoadSpec, site: Site, ports: Ports, first_epoch: int = 0, lives: int = 0) -> None:
        """`first_epoch` and `lives` go on from the share that this one follows: names of files and loads never recur."""
        self.spec = spec
        self._site = site
        self._ports = ports
        self._commit_ports = CommitPorts(ports.store, ports.link, CrashPoints(site))
        self._stop = threading.Event()
        self._flush_s = 0.0
        self._reload_reason: str | None = None
        self.lives = lives
        self.next_epoch = first_epoch
        self.reloads: list[str] = []
        self.alarm: str | None = None
        self._life: _Life | None = None
        self._log_ends: dict[int, int] = {}
        self._read_through_ms: dict[int, int] = {}
        self._looked_at = 0.0
        self._caught_up = False
        self._away = ""
        self._events = 0
        self._duplicates = 0
        self._behind_since_ms: int | None = None
        self._thread = threading.Thread(target=self._run, name=f"shard-{spec.datasource.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, flush_s: float = 0.0) -> bool:
        """End the loop. With `flush_s` the open epoch is ended and offered first, for at most that long.

        Returns:
            Whether it has ended; one that has not may still write files under the names of its next epoch.
        """
        self._flush_s = flush_s
        self._stop.set()
        self._thread.join(timeout=END_S + flush_s)
        return not self._thread.is_alive()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """The whole life of the thread; the log's reader belongs to it."""
        try:
            self._live_on()
            if self._life is not None:
                self._finish(self._life)
        except BaseException as error:  # noqa: BLE001 - a polars panic is no Exception; the process starts again
            self._die(error)
        finally:
            self._ports.reader.close()

    def _finish(self, life: _Life) -> None:
        if self._flush_s and self.alarm is None and self._stop.is_set():
            self._end_epoch(life)
            life.queue.drain(self._flush_s)
        life.queue.stop()

    def _live_on(self) -> None:
        while not self._stop.is_set():
            try:
                self._live(self._begin())
            except (LogGapError, CorruptFileError) as error:
                # Only a person can go on from here (`rta resume`, a backup); other datasources are not to suffer from it.
                if self.alarm is None:
                    logger.error("%s stopped: %s", self.spec.datasource.name, error)
                    self._rescue(self._life)
                self.alarm = str(error)
                self._stop.wait(ALARM_LOOK_S)
            except RtaError as error:
                if error.retry_after_s is None:
                    raise
                self._note(str(error))
                self._stop.wait(0.25)

    def _rescue(self, life: _Life | None) -> None:
        """Commit what has been folded of a log that can't be read on: it was read when it was there."""
        if life is None or self._reload_reason is not None:
            return
        with suppress(LogGapError):
            self._end_epoch(life)
        life.queue.drain(RESCUE_S)

    def _begin(self) -> _Life:
        if self._life is not None:
            self._life.queue.stop()
        self._reload_reason = None
        began = time.monotonic()
        load = load_newest(self._ports.store, self.spec, self._ports.reader, self._site)
        self.lives += 1
        listener = Listener(lost=self._lost, committed=self._committed, failed=self._die)
        life = _Life(
            name=f"{self.spec.actor}.{self.spec.generation}.{self.lives}",
            load=load,
            segments=HotSegments(load.offsets, self._merge, self.next_epoch),
            queue=CommitQueue(load, self.spec, self._commit_ports, listener),
        )
        self._log_ends = self._ends(load)
        logger.info(
            "%s of %s begins at manifest %d, loaded in %.0f ms, %d records behind",
            self.spec.actor,
            self.spec.datasource.name,
            load.manifest,
            (time.monotonic() - began) * 1000,
            sum(max(0, self._log_ends.get(p, 0) - offset) for p, offset in load.offsets.items()),
        )
        self._read_through_ms = {}
        self._caught_up = self._at_end(load.offsets)
        self._life = life
        return life

    def _live(self, life: _Life) -> None:
        """Until the load is thrown away or the shard stops."""
        offsets = dict(life.load.offsets)
        epoch_began = time.monotonic()
        while not self._stop.is_set() and self._reload_reason is None:
            began = time.monotonic()
            try:
                records = self._arrived(offsets)
            except LogGapError as error:
                # Others committed what this load was still to fold, and it was trimmed: their manifest says where to go on.
                self._rescue(life)
                self._lost(str(error))
                continue
            if records:
                arrived = time.monotonic()
                self._fold(life, records)
                offsets.update({r.partition: r.offset + 1 for r in records})
                self._look_for_ends(life, offsets, began)
                self._take_runs(life, 0.0)
                self._stop.wait(_rest_s(records, time.monotonic() - arrived))
            self.alarm = None
            if not life.segments.open.chunks:
                epoch_began = time.monotonic()
            elif self._due(life, time.monotonic() - epoch_began) and (
                self._take_runs(life, 0.0) or self._overfull(life)
            ):
                self._end_epoch(life)
                epoch_began = time.monotonic()
        if self._reload_reason is not None:
            self._note(self._reload_reason)

    def _merge(self, rollup: str, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        datasource = self.spec.datasource
        spec = datasource.rollup(rollup)
        if spec is None:
            raise NotFoundError(f"datasource '{datasource.name}' has no rollup '{rollup}'")
        return merge_partials(frames, spec, datasource)

    def _arrived(self, offsets: dict[int, int]) -> list[Record]:
        """What comes next; nothing while the log is out of reach. The fold waits for it, and keeps what it has."""
        try:
            return self._next_records(offsets)
        except UnavailableError as error:
            self._out_of_reach(error)
            self._stop.wait(AWAY_S)
            return []
        except NotFoundError as error:
            raise LogGapError(
                f"the topic of '{self.spec.datasource.name}' is gone: {error.message}", GAP_HINT
            ) from error

    def _out_of_reach(self, error: UnavailableError) -> None:
        self._caught_up = False
        if error.message != self._away:
            logger.warning("%s of %s waits: %s", self.spec.actor, self.spec.datasource.name, error)
        self._away = error.message

    def _next_records(self, offsets: dict[int, int]) -> list[Record]:
        topic = self.spec.datasource.topic
        reader = self._ports.reader
        began_ms = _now_ms()
        records = reader.fetch(topic, offsets, FETCH_BYTES)
        if not records:
            self._behind_since_ms = None
            self._caught_up = True
            self._read_through_ms = dict.fromkeys(offsets, began_ms)
            if reader.wait(topic, offsets, WAIT_MS):
                records = reader.fetch(topic, offsets, FETCH_BYTES)
        if records:
            self._behind_since_ms = min(r.append_time_ms for r in records)
        return records

    def _look_for_ends(self, life: _Life, offsets: dict[int, int], now: float) -> None:
        """While other partitions are busy, see now and then which ones have been read to their end."""
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        began_ms = _now_ms()
        if not self._see_ends(life):
            return
        ends = self._log_ends
        through = {p: began_ms for p, offset in offsets.items() if offset >= ends.get(p, offset + 1)}
        self._read_through_ms = {**self._read_through_ms, **through}

    def _fold(self, life: _Life, records: Sequence[Record]) -> None:
        """Fold what a fetch brought; the rest of it is left when this load ends on the way.

        What is packed well becomes many times what was fetched, so epochs may have to end in between.
        """
        for batches in life.load.arrivals.batches(records):
            increment = life.load.fold.fold(batches)
            life.segments.append(increment)
            self._events += increment.rows.num_rows
            self._duplicates += increment.duplicates
            if self._filled(life) >= 1 and (self._take_runs(life, 0.0) or self._overfull(life)):
                self._end_epoch(life)
            if self._stop.is_set() or self._reload_reason is not None:
                return

    def _due(self, life: _Life, age_s: float) -> bool:
        full = self._filled(life) >= 1 or len(life.segments.open.chunks) >= CHUNKS_MAX
        return full or age_s * 1000 >= self._site.epoch_ms

    def _overfull(self, life: _Life) -> bool:
        """The fold has to wait for what it ended before: the commits do not keep up."""
        return self._filled(life) >= OVERFULL

    def _filled(self, life: _Life) -> float:
        """How full the open epoch is; 1 is its usual size."""
        fold: Fold = life.load.fold
        return max(
            fold.events_in_epoch / self._site.epoch_events,
            fold.bytes_in_epoch / RAW_BYTES,
            fold.rejected_bytes_in_epoch / REJECTED_BYTES,
        )

    def _end_epoch(self, life: _Life) -> None:
        if not life.segments.open.chunks:
            return
        began = time.monotonic()
        while not self._take_runs(life, WAIT_MS / 1000):
            late = self._stop.is_set() and time.monotonic() - began > self._flush_s
            if late or self._reload_reason is not None:
                return
        ended = life.load.fold.end_epoch()
        epoch = life.segments.close_epoch()
        self.next_epoch = epoch + 1
        life.awaits_runs = True
        life.queue.put(EpochEnded(epoch, ended), lambda: self._reload_reason is not None)
        life.segments.forget(_now_ms(), 2 * self._site.query_time_ms)
        self._see_ends(life)

    def _take_runs(self, life: _Life, timeout_s: float) -> bool:
        """Hand the written id runs of the last epoch to the fold; false when they are not there yet."""
        if not life.awaits_runs:
            return True
        life.runs = life.runs or life.queue.runs(timeout_s)
        if life.runs is None:
            return False
        store, folder = self._ports.store, self.spec.datasource.folder
        try:
            written = id_runs(store, folder, life.runs)
        except UnavailableError as error:
            self._out_of_reach(error)
            self._stop.wait(timeout_s)
            return False
        life.load.fold.runs_written(written)
        life.awaits_runs, life.runs = False, None
        return True

    def _ends(self, load: Load) -> dict[int, int]:
        """Where the log ends now. Raises LogGapError when the topic is not the one that was loaded."""
        states = log_states(self._ports.reader, self.spec.datasource)
        for partition, incarnation in load.incarnations.items():
            check_incarnation(self.spec.datasource.name, partition, incarnation, states.get(partition))
        return {p: states[p].end for p in self.spec.partitions if p in states}

    def _see_ends(self, life: _Life) -> bool:
        """Look where the log ends by now; false when it can't be reached."""
        try:
            self._log_ends = self._ends(life.load)
        except UnavailableError as error:
            self._out_of_reach(error)
            return False
        return True

    def _at_end(self, offsets: dict[int, int]) -> bool:
        return all(offset >= self._log_ends.get(p, 0) for p, offset in offsets.items())

    # -- what the commit queue says ----------------------------------------------------------------------------------

    def _lost(self, reason: str) -> None:
        self._reload_reason = reason

    def _committed(self, epoch: int) -> None:
        if self._life is not None:
            self._life.segments.committed(epoch, _now_ms())

    def _die(self, error: BaseException) -> None:
        logger.error("%s of %s failed", self.spec.actor, self.spec.datasource.name, exc_info=error)
        self._ports.die(f"{self.spec.datasource.name}: {type(error).__name__}: {error}")

    def _note(self, reason: str) -> None:
        logger.warning("%s of %s loads again: %s", self.spec.actor, self.spec.datasource.name, reason)
        self.reloads = [*self.reloads, reason][-RELOADS_KEPT:]

    # -- questions from other threads --------------------------------------------------------------------------------

    def delta(self, cursor: Cursor | None) -> HotDelta | None:
        """What came since the cursor; None while nothing is loaded."""
        life = self._life
        if life is None or self.alarm is not None:
            return None
        same = cursor is not None and cursor.load == life.name
        return HotDelta(
            folder=self.spec.datasource.folder,
            actor=self.spec.actor,
            load=life.name,
            generation=self.spec.generation,
            reset=not same,
            incarnations=life.load.incarnations,
            watermarks_ms=dict(life.load.fold.watermarks_ms),
            idle=life.load.fold.idle(self._read_through_ms),
            reached=life.segments.reached,
            segments=life.segments.since(cursor if same else None),
            caught_up=self._caught_up,
            version=self.spec.datasource.version,
        )

    def rows(self, load: str, requests: Sequence[RowsRequest]) -> bytes:
        """Raw rows of hot chunks as one Arrow IPC stream. Raises NotFoundError when they are gone."""
        life = self._life
        if life is None or load != life.name:
            raise NotFoundError(f"load '{load}' is over", "take a newer view")
        return encode(life.segments.rows(requests))

    def status(self) -> ShardStatus:
        life = self._life
        offsets = dict(life.load.fold.offsets) if life is not None else {}
        behind = self._behind_since_ms
        return ShardStatus(
            folder=self.spec.datasource.folder,
            load=life.name if life is not None else "",
            epoch=self.next_epoch,
            events=self._events,
            duplicates=self._duplicates,
            pending_parts=life.queue.pending if life is not None else 0,
            offsets=offsets,
            log_ends=self._log_ends,
            lag_ms=max(0, _now_ms() - behind) if behind is not None else 0,
            watermarks_ms=dict(life.load.fold.watermarks_ms) if life is not None else {},
            idle=life.load.fold.idle(self._read_through_ms) if life is not None else frozenset(),
            caught_up=self._caught_up,
            alarm=self.alarm,
        )


def _rest_s(records: Sequence[Record], worked_s: float) -> float:
    """How long to let arrivals gather after a fold."""
    small = sum(len(record.payload) for record in records) < SMALL_BYTES
    return max(STEP_S_MIN - worked_s, min(worked_s, REST_S_MAX) if small else 0.0, 0.0)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
