"""The topics on the disk as their one writer sees them: appending, rolling, trimming. Blocking; for one thread.

Owns what the documents do not hold: the next offset, the partitions' ends, the backlog. All of it is read back from the
files when a topic is opened, and again after any failure, so that memory is never ahead of the disk. Requests,
coalescing and answers are `rta.log.embedded.committer`'s.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from rta.errors import InvariantError, LogFullError, LogGapError, RtaError
from rta.log.base import PartitionState
from rta.log.embedded import segments
from rta.log.embedded.checkpoints import Checkpoints
from rta.log.embedded.settings import EmbeddedSettings
from rta.log.embedded.topic import SegmentEntry, TopicDocument, read_document, sync_folder, write_document
from rta.log.embedded.wire import TopicStats

_COMMIT_PAGES = 4
"""Pages that a small commit writes besides its payload: a leaf, an index leaf, the sequence."""


class Entry(NamedTuple):
    """A record that waits for its offset."""

    partition: int
    header: bytes
    checksum: int
    payload: memoryview


@dataclass(frozen=True, slots=True)
class StorageContext:
    """What every topic needs from its surroundings. `clock` gives wall time in ms, `disk_free` bytes under a folder."""

    settings: EmbeddedSettings
    checkpoints: Checkpoints
    clock: Callable[[], int]
    disk_free: Callable[[Path], int]
    reserve: Reserve


class Reserve:
    """A file that gives its room back when the disk is full, so that trimming can still write its document."""

    def __init__(self, path: Path, size: int = 1024 * 1024) -> None:
        self._path, self._size = path, size

    def keep(self) -> None:
        """Take the room (again), if there is room to take."""
        if self._path.exists():
            return
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._size)
        except OSError:
            self._path.unlink(missing_ok=True)

    def release(self) -> None:
        self._path.unlink(missing_ok=True)


class _Active(NamedTuple):
    path: Path
    connection: sqlite3.Connection


class TopicStorage:
    """One topic, open for writing. Every method raises RtaError, and leaves the topic usable or to be opened again."""

    def __init__(self, folder: Path, document: TopicDocument, context: StorageContext) -> None:
        self.folder = folder
        self.document = document
        self.ends: list[int] = list(document.segments[-1].ends)
        self._context = context
        self._active: _Active | None = None
        self._next = 0
        self._append_time_ms = 0
        self._bytes: list[int] = []
        self._segment_bytes = 0
        self._log_bytes = 0
        self._eased: threading.Event | None = None
        self._current = True
        self._open()
        self._seal_leftovers()

    def _seal_leftovers(self) -> None:
        """Older files that a crash left with a write-ahead log."""
        for entry in self.document.segments[:-1]:
            path = self.folder / self.document.file_name(entry)
            if segments.log_file_bytes(path):
                self._context.checkpoints.seal(path, self._open_file(path))

    def _open_file(self, path: Path) -> sqlite3.Connection:
        try:
            return segments.open_for_writing(path)
        except LogFullError:
            # SQLite needs a little shared memory file even for a look.
            self._context.reserve.release()
            return segments.open_for_writing(path)

    def _open(self) -> _Active:
        """Read back from the newest file where the topic stands."""
        entry = self.document.segments[-1]
        path = self.folder / self.document.file_name(entry)
        connection = self._open_file(path)
        try:
            found = segments.totals(connection)
        except sqlite3.Error as error:
            connection.close()
            raise segments.storage_error(error, path, "could not read log file") from error
        newest_offset, newest_ms = found.newest or (entry.first - 1, 0)
        ends, sizes = list(entry.ends), list(entry.bytes)
        for number, (end, size) in found.partitions.items():
            ends[number] = end
            sizes[number] += size
        self._next = newest_offset + 1
        self._append_time_ms = max(entry.append_time_ms, newest_ms)
        self._segment_bytes = sum(sizes) - sum(entry.bytes)
        self._log_bytes = segments.log_file_bytes(path)
        self._eased = None
        self._bytes, self.ends = sizes, ends
        self._active = _Active(path, connection)
        return self._active

    @property
    def backlog_bytes(self) -> int:
        """Bytes above the floors."""
        return sum(self._bytes) - sum(entry.floor_bytes for entry in self.document.partitions)

    def states(self) -> dict[int, PartitionState]:
        return self.document.states(self.ends)

    def check_room(self, size: int) -> None:
        """Raises LogFullError when `size` more bytes would go beyond a limit."""
        settings = self._context.settings
        backlog = self.backlog_bytes
        if backlog + size > settings.backlog_bytes_max:
            raise LogFullError(
                f"topic '{self.document.topic}' is {backlog} bytes behind, limit {settings.backlog_bytes_max} bytes",
                hint="wait until what reads it has caught up",
                retry_after_s=2,
            )
        free = self._context.disk_free(self.folder)
        if free - size < settings.disk_free_bytes_min:
            raise LogFullError(
                f"the disk under '{self.folder}' has {free} bytes free, the log leaves {settings.disk_free_bytes_min}",
                hint="make room on the disk or lower 'disk_free_bytes_min'",
                retry_after_s=5,
            )

    def append(self, batches: Sequence[Sequence[Entry]]) -> list[dict[int, int]]:
        """All batches in one durable transaction; per batch the ends of its partitions beyond it."""
        active = self._writable()
        now_ms = max(self._context.clock(), self._append_time_ms)
        offset, added = self._next, 0
        rows: list[segments.Row] = []
        answers = []
        for batch in batches:
            touched: dict[int, int] = {}
            for entry in batch:
                size = len(entry.payload) + len(entry.header)
                rows.append((offset, entry.partition, now_ms, size, entry.checksum, entry.header, entry.payload))
                offset += 1
                added += size
                touched[entry.partition] = offset
            answers.append(touched)
        try:
            segments.insert(active.connection, rows)
        except (sqlite3.Error, OSError) as error:
            self._give_up()
            raise segments.storage_error(error, active.path, "could not append to log file") from error
        self._next, self._append_time_ms = offset, now_ms
        self._count(rows, added, answers)
        return answers

    def _count(self, rows: Sequence[segments.Row], added: int, answers: Sequence[Mapping[int, int]]) -> None:
        for row in rows:
            self._bytes[row[1]] += row[3]
        for touched in answers:
            for number, end in touched.items():
                self.ends[number] = end
        self._segment_bytes += added
        self._log_bytes += added + _COMMIT_PAGES * self._context.settings.page_bytes

    def _writable(self) -> _Active:
        self._ensure_current()
        active = self._active or self._open()
        if self._segment_bytes >= self._context.settings.segment_bytes:
            active = self._roll(active)
        elif self._log_bytes >= self._context.settings.checkpoint_bytes:
            self._ease(active)
        return active

    def _ease(self, active: _Active) -> None:
        """Have the write-ahead log emptied: the bulk in the background, the rest here, so that it starts over."""
        if self._eased is None:
            self._eased = self._context.checkpoints.ease(active.path)
            return
        if not self._eased.is_set():
            return
        self._eased = None
        try:
            emptied = segments.checkpoint(active.connection, "PASSIVE")
        except sqlite3.Error as error:
            self._give_up()
            raise segments.storage_error(error, active.path, "could not checkpoint log file") from error
        self._log_bytes = 0 if emptied else self._context.settings.checkpoint_bytes // 2

    def _roll(self, active: _Active) -> _Active:
        """Begin a new file. The document names it before anything is written to it."""
        entry = SegmentEntry(self._next, self._append_time_ms, list(self.ends), list(self._bytes))
        path = self.folder / self.document.file_name(entry)
        segments.create_segment(path, self._context.settings.page_bytes)
        connection = segments.open_for_writing(path)
        try:
            self._drop_trimmed(msgspec.structs.replace(self.document, segments=[*self.document.segments, entry]))
        except RtaError:
            connection.close()
            raise
        self._active = _Active(path, connection)
        self._segment_bytes = self._log_bytes = 0
        self._eased = None
        self._context.checkpoints.seal(active.path, active.connection)
        return self._active

    def trim(self, offsets: Mapping[int, int]) -> None:
        """Raise floors, durably, then delete the files that lie wholly below all of them."""
        self._ensure_current()
        if self._active is None:
            self._open()
        floors = self._checked_floors(offsets)
        if not floors:
            return
        partitions = list(self.document.partitions)
        for number, floor in floors.items():
            entry = partitions[number]
            below = self._bytes_below(number, floor)
            partitions[number] = msgspec.structs.replace(entry, floor=floor, floor_bytes=below)
        self._drop_trimmed(msgspec.structs.replace(self.document, partitions=partitions))

    def _checked_floors(self, offsets: Mapping[int, int]) -> dict[int, int]:
        self.document.check_partitions(offsets)
        for number, floor in offsets.items():
            if floor > self.ends[number]:
                raise LogGapError(
                    f"can't trim partition {number} of topic '{self.document.topic}' below {floor}: "
                    f"its records end at {self.ends[number]}",
                    hint="the offset belongs to another log or another incarnation of the topic",
                )
        return {n: floor for n, floor in offsets.items() if floor > self.document.partitions[n].floor}

    def _bytes_below(self, partition: int, floor: int) -> int:
        """All bytes that the partition ever had below the floor."""
        if floor >= self.ends[partition]:
            return self._bytes[partition]
        index = max(i for i, entry in enumerate(self.document.segments) if i == 0 or entry.first <= floor)
        entry = self.document.segments[index]
        path = self.folder / self.document.file_name(entry)
        connection = segments.open_for_reading(path, sealed=entry is not self.document.segments[-1])
        if connection is None:
            raise InvariantError(f"log file '{path}' is named by its topic's document and not there")
        try:
            return entry.bytes[partition] + segments.bytes_below(connection, partition, floor)
        except sqlite3.Error as error:
            raise segments.storage_error(error, path, "could not read log file") from error
        finally:
            connection.close()

    def _replace(self, document: TopicDocument) -> None:
        """Make a document the topic's, durably, or leave the topic to be read back from the disk."""
        self._current = False
        try:
            try:
                write_document(self.folder, document)
            except OSError as error:
                if error.errno not in segments.FULL_ERRNO:
                    raise
                self._context.reserve.release()
                write_document(self.folder, document)
        except OSError as error:
            self._give_up()
            raise segments.storage_error(error, self.folder, "could not write the document of topic") from error
        self.document = document
        self._current = True

    def _ensure_current(self) -> None:
        """After a document could not be written: which one stands is known only by reading it durably back."""
        if self._current:
            return
        try:
            sync_folder(self.folder)
        except OSError as error:
            raise segments.storage_error(error, self.folder, "could not sync the folder of topic") from error
        self.document = read_document(self.folder, self.document.topic)
        self._current = True

    def _drop_trimmed(self, document: TopicDocument) -> None:
        """Make the document the topic's without the files that lie below every floor, then delete those."""
        count = document.deletable()
        self._replace(msgspec.structs.replace(document, segments=document.segments[count:]))
        if count:
            for entry in document.segments[:count]:
                segments.remove(self.folder / document.file_name(entry))
            self.sweep()
            self._context.reserve.keep()

    def sweep(self) -> None:
        """Remove files that the document does not name: left by a crash, or by a reader that came late."""
        named = {self.document.file_name(entry) for entry in self.document.segments}
        for path in self.folder.iterdir():
            if ".db" in path.name and path.name.partition(".db")[0] + ".db" not in named:
                path.unlink(missing_ok=True)

    def stats(self) -> TopicStats:
        paths = [self.folder / self.document.file_name(entry) for entry in self.document.segments]
        return TopicStats(
            partitions=len(self.document.partitions),
            segments=len(paths),
            bytes=sum(map(segments.disk_bytes, paths)),
            backlog_bytes=self.backlog_bytes,
            end=self._next,
        )

    def _give_up(self) -> None:
        """After a failure: forget what memory says, the next append reads it back."""
        active, self._active = self._active, None
        if active is not None:
            active.connection.close()

    def close(self, *, finish: bool) -> None:
        """Let go of the file. `finish` moves its pages in first, so that no write-ahead log is left behind."""
        if self._active is None:
            return
        active, self._active = self._active, None
        if finish:
            self._context.checkpoints.seal(active.path, active.connection)
        else:
            active.connection.close()
