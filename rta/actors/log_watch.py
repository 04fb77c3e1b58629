"""Watches the log from the coordinator: can it be reached, how far is it ahead of what is committed, what has it lost.

Looks about once a second and keeps what it saw, so that neither a request for the status nor one that brings events ever
waits for a broker. Compares the log with the newest manifests, which it is told of; reads nothing from the store. Decides
nothing: the owners of the partitions stop by themselves, and events are refused at the edge.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from rta.actors.links import Site
from rta.errors import NotFoundError, RtaError
from rta.events.schemas import Datasource
from rta.log.base import LogReader, PartitionState
from rta.log.kafka.settings import RECORD_BYTES_MAX
from rta.store.commit import gaps
from rta.store.model import Manifest

logger = logging.getLogger(__name__)
LOOK_S = 1.0
SHARE = 0.1
"""Of a core, at most: with many datasources a round takes longer, and so does the pause after it."""
SAMPLE_S = 5.0
SAMPLE_BYTES = 1 << 20
MESSAGE_MAX = 500


@dataclass(frozen=True, slots=True)
class PendingGap:
    """What a partition's log lacks and nobody has accepted as lost. None: not known, because there is no such log any more,
    or another one."""

    partition: int
    from_incarnation: str
    from_offset: int
    to_incarnation: str | None
    to_offset: int | None
    records: int | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the log holds of a datasource beyond what is committed. `bytes` are the records times the mean of some of them."""

    records: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Sample:
    """Mean size of the records that wait, and when that was looked at."""

    mean_bytes: float
    taken_at: float


class LogWatch:
    """See the module. Everything but `look` may be called from any thread.

    Args:
        open_reader: Makes the reader of the watch's thread, for rta's own topics.
        open_source: Likewise, for those of other producers; asked when there is one.
        own_stats: What a log that counts for itself says: the embedded one refuses what is too much by itself.
    """

    def __init__(
        self,
        site: Site,
        open_reader: Callable[[], LogReader],
        own_stats: Callable[[], dict[str, Any]],
        open_source: Callable[[], LogReader] | None = None,
    ) -> None:
        self._site = site
        self._open_reader = open_reader
        self._open_source = open_source
        self._source: LogReader | None = None
        self._own_stats = own_stats
        self._datasources: tuple[Datasource, ...] = ()
        self._newest: dict[str, Manifest] = {}
        self._samples: dict[str, _Sample] = {}
        self._backlogs: dict[str, Backlog] = {}
        self._seen: dict[str, tuple[int, tuple[PendingGap, ...]]] = {}
        self._gaps: dict[str, tuple[PendingGap, ...]] = {}
        self._reason: str | None = "it has not been looked at yet"
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def follow(self, datasources: Sequence[Datasource]) -> None:
        """Look at these from now on, and at no others."""
        folders = {datasource.folder for datasource in datasources}
        with self._lock:
            self._datasources = tuple(datasources)
            self._newest = {folder: m for folder, m in self._newest.items() if folder in folders}

    def committed(self, manifest: Manifest) -> None:
        """There is this manifest; older ones than what is known change nothing."""
        with self._lock:
            known = self._newest.get(manifest.datasource)
            if known is None or known.number < manifest.number:
                self._newest[manifest.datasource] = manifest

    # -- looking -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        reader = self._open_reader()
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            began = time.thread_time()
            try:
                self.look(reader)
            except Exception as error:
                logger.exception("looking at the log failed")
                self._reason = f"{type(error).__name__}: {error}"[:MESSAGE_MAX]
            pause_s = max(LOOK_S, (time.thread_time() - began) / SHARE)
        reader.close()
        if self._source is not None:
            self._source.close()

    def look(self, reader: LogReader) -> None:
        """One round over all datasources. What can't be reached keeps what was seen last."""
        reason = None
        with self._lock:
            looked_at = [(d, self._newest.get(d.folder)) for d in self._datasources]
        for datasource, newest in looked_at:
            if newest is None:
                continue
            try:
                self._look(self._reader_of(datasource, reader), datasource, newest)
            except RtaError as error:
                reason = str(error)[:MESSAGE_MAX]
                if datasource.source is None:
                    break  # the same brokers would keep the round waiting for each of the others
        self._forget({datasource.folder for datasource, _ in looked_at})
        self._reason = reason

    def _reader_of(self, datasource: Datasource, own: LogReader) -> LogReader:
        if datasource.source is None or self._open_source is None:
            return own
        if self._source is None:
            self._source = self._open_source()
        return self._source

    def _forget(self, folders: set[str]) -> None:
        """Keep what is known of these folders only. Other threads read: dicts are exchanged, not changed."""
        self._samples = {f: known for f, known in self._samples.items() if f in folders}
        self._backlogs = {f: known for f, known in self._backlogs.items() if f in folders}
        self._seen = {f: known for f, known in self._seen.items() if f in folders}
        self._gaps = {f: known for f, known in self._gaps.items() if f in folders}

    def _look(self, reader: LogReader, datasource: Datasource, newest: Manifest) -> None:
        folder = datasource.folder
        try:
            states = reader.partitions(datasource.topic)
        except NotFoundError:
            states = {}
        self._note_gaps(folder, newest, _pending(newest, states))
        self._backlogs = {**self._backlogs, folder: self._backlog(reader, datasource, newest, states)}

    def _note_gaps(self, folder: str, newest: Manifest, found: tuple[PendingGap, ...]) -> None:
        """Only what is there at two looks beside the same manifest: between the commit of a newer one and our being told of it
        the log is trimmed beyond what we know."""
        before = self._seen.get(folder)
        self._seen[folder] = (newest.number, found)
        same = before is not None and before[0] == newest.number
        starts = {gap.partition for gap in before[1]} if same and before is not None else set()
        self._gaps = {**self._gaps, folder: tuple(gap for gap in found if gap.partition in starts)}

    def _backlog(
        self, reader: LogReader, datasource: Datasource, newest: Manifest, states: Mapping[int, PartitionState]
    ) -> Backlog:
        if self._site.kafka is None:
            return Backlog()
        behind: dict[int, tuple[int, int]] = {}
        for entry in newest.partitions:
            state = states.get(entry.partition)
            if state is not None and state.incarnation == entry.log_incarnation:
                first = max(state.start, entry.to_offset)
                behind[entry.partition] = (first, max(0, state.end - first))
        records = sum(count for _, count in behind.values())
        if datasource.source is not None:
            return Backlog(records)  # whoever writes it can't be refused
        return Backlog(records, round(records * self._mean_bytes(reader, datasource.folder, behind, records)))

    def _mean_bytes(self, reader: LogReader, folder: str, behind: Mapping[int, tuple[int, int]], records: int) -> float:
        """Of those that wait in the partition that is furthest behind, out of the middle; looked at now and then."""
        known = self._samples.get(folder)
        now = time.monotonic()
        too_few = records * RECORD_BYTES_MAX <= self._site.backlog_bytes_max and known is not None
        if not records or too_few or (known is not None and now - known.taken_at < SAMPLE_S):
            return 0.0 if known is None else known.mean_bytes
        partition = max(behind, key=lambda p: behind[p][1])
        first, count = behind[partition]
        found = reader.fetch(folder, {partition: first + count // 2}, SAMPLE_BYTES)
        if not found:
            return 0.0 if known is None else known.mean_bytes
        mean_bytes = sum(len(record.payload) for record in found) / len(found)
        self._samples[folder] = _Sample(mean_bytes, now)
        return mean_bytes

    # -- what was seen -----------------------------------------------------------------------------------------------

    def full(self) -> dict[str, str]:
        """The datasources, by folder, whose events are to be refused until the aggregators have caught up, and why."""
        limit = self._site.backlog_bytes_max
        return {
            folder: f"topic '{folder}' is about {seen.bytes} bytes behind ({seen.records} records), limit {limit} bytes"
            for folder, seen in self._backlogs.items()
            if seen.bytes > limit
        }

    def gaps(self, folder: str) -> tuple[PendingGap, ...]:
        return self._gaps.get(folder, ())

    def stats(self) -> dict[str, Any]:
        """What `/v1/status` says of the log."""
        if self._site.kafka is None:
            return self._own_stats()
        seen: dict[str, Any] = {"kind": "kafka", "alive": self._reason is None}
        if self._reason is not None:
            seen["reason"] = self._reason
        topics = {f: {"backlog_records": b.records, "backlog_bytes": b.bytes} for f, b in self._backlogs.items()}
        return {**seen, "servers": list(self._site.kafka.servers), "topics": topics}


def _pending(newest: Manifest, states: Mapping[int, PartitionState]) -> tuple[PendingGap, ...]:
    """Where the log does not go on as the manifest ends, also where there is no log."""
    there = msgspec.structs.replace(newest, partitions=tuple(e for e in newest.partitions if e.partition in states))
    found = [
        PendingGap(gap.partition, gap.from_incarnation, gap.from_offset, gap.to_incarnation, gap.to_offset, gap.records)
        for gap in gaps(there, states, 0)
    ]
    gone = [
        PendingGap(entry.partition, entry.log_incarnation, entry.to_offset, None, None, None)
        for entry in newest.partitions
        if entry.partition not in states
    ]
    return tuple(sorted([*found, *gone], key=lambda gap: gap.partition))
