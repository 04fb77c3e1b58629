"""The reading side of the embedded log: `EmbeddedReader`, straight from the files, beside the writer.

Reads only. A transaction lasts as long as one look at one file, so that checkpoints are never held up. The topic's
document is read before and after: whatever was deleted in between lay below the floors that the second look sees, so an
offset at or above them has missed nothing. Only `wait` asks the server, and looks at the files while it is away.
"""

from __future__ import annotations

import sqlite3
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from rta.errors import CorruptFileError, LogGapError, NotFoundError, UnavailableError
from rta.log.base import PartitionState, Record
from rta.log.embedded import segments, wire
from rta.log.embedded.channel import Channel
from rta.log.embedded.topic import (
    DOCUMENT,
    TopicDocument,
    check_topic_name,
    decode_document,
    read_raw_document,
)

_ATTEMPTS_MAX = 100
_OPEN_FILES_MAX = 8
_POLL_S = 0.02
_GRACE_S = 0.25
_ROWS_MIN = 16
_ROWS_MAX = 65536


class _FileGoneError(Exception):
    """A file is not there. Deleted since the document was looked at, or else lost."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path


class _View:
    """A topic as one look at its document shows it."""

    def __init__(self, folder: Path, raw: bytes, document: TopicDocument) -> None:
        self.raw = raw
        self.document = document
        self.paths = [folder / document.file_name(segment) for segment in document.segments]


class EmbeddedReader:
    """A `LogReader`. One per thread.

    Args:
        folder: The server's folder.
        socket_path: The server's socket.
    """

    def __init__(self, folder: Path, socket_path: Path) -> None:
        self._folder = folder
        self._channel = Channel(socket_path)
        self._views: dict[str, _View] = {}
        self._open: OrderedDict[Path, sqlite3.Connection] = OrderedDict()
        self._record_bytes = 16 * 1024.0

    def partitions(self, topic: str) -> dict[int, PartitionState]:
        """See `LogReader`. Raises also CorruptFileError."""
        for _ in range(_ATTEMPTS_MAX):
            view = self._look(topic)
            try:
                ends = self._ends(view)
            except _FileGoneError as error:
                self._check_changed(view, error)
                continue
            if self._look(topic).raw == view.raw:
                return view.document.states(ends)
        raise _restless(topic)

    def fetch(self, topic: str, offsets: Mapping[int, int], bytes_max: int) -> list[Record]:
        """See `LogReader`. Raises also NotFoundError and CorruptFileError."""
        for _ in range(_ATTEMPTS_MAX):
            view = self._look(topic)
            _check_floors(view.document, offsets)
            try:
                records = self._read(view, offsets, bytes_max)
            except _FileGoneError as error:
                self._check_changed(view, error)
                continue
            except CorruptFileError:
                if self._look(topic).raw == view.raw:
                    raise
                continue
            after = self._look(topic)
            if after.document.id == view.document.id:
                if after is not view:
                    _check_floors(after.document, offsets)
                return records
        raise _restless(topic)

    def wait(self, topic: str, offsets: Mapping[int, int], timeout_ms: int) -> bool:
        """See `LogReader`. While the server is away the files are looked at every 20 ms."""
        deadline_s = time.monotonic() + timeout_ms / 1000
        request_offsets = dict(offsets)
        while True:
            left_s = deadline_s - time.monotonic()
            request = wire.Wait(self._channel.next_id(), topic, request_offsets, max(0, int(left_s * 1000)))
            try:
                answer = self._channel.call(request, max(0.0, left_s) + _GRACE_S)
            except UnavailableError:
                if self._has_grown(topic, offsets):
                    return True
            else:
                return isinstance(answer, wire.Waited) and answer.ready
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(_POLL_S, left_s))

    def close(self) -> None:
        self._channel.close()
        for connection in self._open.values():
            connection.close()
        self._open.clear()
        self._views.clear()

    def _has_grown(self, topic: str, offsets: Mapping[int, int]) -> bool:
        states = self.partitions(topic)
        self._views[topic].document.check_partitions(offsets)
        return any(states[number].end > offset for number, offset in offsets.items())

    def _look(self, topic: str) -> _View:
        """The topic as it is now. Files that it no longer has are let go of, so that their space comes back."""
        check_topic_name(topic)
        folder = self._folder / topic
        if not self._folder.is_dir():
            raise UnavailableError(f"there is no log in '{self._folder}'", hint="start its server")
        known = self._views.get(topic)
        try:
            raw = read_raw_document(folder, topic)
        except NotFoundError:
            for path in known.paths if known is not None else ():
                self._let_go(path)
            raise
        if known is not None and known.raw == raw:
            return known
        view = _View(folder, raw, decode_document(raw, folder / DOCUMENT))
        if known is not None:
            for path in set(known.paths) - set(view.paths):
                self._let_go(path)
        self._views[topic] = view
        return view

    def _check_changed(self, view: _View, error: _FileGoneError) -> None:
        """Raises CorruptFileError when the topic still has the file that is gone."""
        if self._look(view.document.topic).raw == view.raw:
            raise CorruptFileError(
                f"log file '{error.path}' is missing", hint="restore the file or drop the topic"
            ) from error

    def _connection(self, path: Path, *, sealed: bool) -> sqlite3.Connection:
        connection = self._open.get(path)
        if connection is None:
            connection = segments.open_for_reading(path, sealed=sealed)
            if connection is None:
                raise _FileGoneError(path)
            self._open[path] = connection
            while len(self._open) > _OPEN_FILES_MAX:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return connection

    def _let_go(self, path: Path) -> None:
        connection = self._open.pop(path, None)
        if connection is not None:
            connection.close()

    def _ends(self, view: _View) -> list[int]:
        path = view.paths[-1]
        try:
            return segments.ends(self._connection(path, sealed=False), view.document.segments[-1].ends)
        except sqlite3.Error as error:
            raise self._read_failed(error, path) from error

    def _read(self, view: _View, offsets: Mapping[int, int], bytes_max: int) -> list[Record]:
        records: list[Record] = []
        room = bytes_max
        for index, path in enumerate(view.paths):
            wanted = {n: at for n, at in offsets.items() if view.document.may_hold(index, n, at)}
            if not wanted:
                continue
            sealed = index + 1 < len(view.paths)
            rows_max = self._rows_max(room, len(wanted))
            try:
                connection = self._connection(path, sealed=sealed)
                cut = segments.read(connection, path, wanted, room, rows_max, not records)
            except sqlite3.Error as error:
                raise self._read_failed(error, path) from error
            if cut.drained and sealed:
                _check_complete(view, index, wanted, cut.records)
            records += cut.records
            room -= cut.bytes
            if not cut.drained or room <= 0:
                break
        if records:
            self._record_bytes += 0.1 * ((bytes_max - room) / len(records) - self._record_bytes)
        return records

    def _rows_max(self, room: int, partitions: int) -> int:
        """Twice what should fit, judged by the records seen so far."""
        expected = int(2 * room / (max(1.0, self._record_bytes) * partitions))
        return min(_ROWS_MAX, max(_ROWS_MIN, expected))

    def _read_failed(self, error: sqlite3.Error, path: Path) -> Exception:
        self._let_go(path)
        if not path.exists():
            return _FileGoneError(path)
        return segments.storage_error(error, path, "could not read log file")


def _check_floors(document: TopicDocument, offsets: Mapping[int, int]) -> None:
    document.check_partitions(offsets)
    for number, offset in offsets.items():
        start = document.partitions[number].floor
        if offset < start:
            raise LogGapError(
                f"partition {number} of topic '{document.topic}' was asked for offset {offset} and starts at {start}",
                hint="load the newest manifest; its offsets are never trimmed",
            )


def _check_complete(view: _View, index: int, wanted: Mapping[int, int], records: list[Record]) -> None:
    """A finished file that was read to its end must have reached the ends that its successor began with."""
    last = {record.partition: record.offset for record in records}
    following = view.document.segments[index + 1]
    for number in wanted:
        if last.get(number, -1) + 1 != following.ends[number]:
            raise CorruptFileError(
                f"log file '{view.paths[index]}' lacks records of partition {number} before {following.ends[number]}",
                hint="restore the file or drop the topic",
            )


def _restless(topic: str) -> UnavailableError:
    return UnavailableError(f"topic '{topic}' changed {_ATTEMPTS_MAX} times while it was being read")
