"""One segment: a SQLite file with the records of a topic from one offset on, and what can be asked of it.

Owns the schema, the connections' settings, the statements and the reading of SQLite's errors. Which segments exist,
where offsets go on and when a new file begins is `rta.log.embedded.storage`'s.

Files are in WAL mode with `synchronous=FULL`: a commit returns when the write-ahead log has been fsynced, and readers
see it only then. Commits never pay for moving pages into the file (`wal_autocheckpoint=0`); a thread does that later.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import crc32c
import msgspec

from rta.errors import CorruptFileError, LogFullError, RtaError, UnavailableError
from rta.log.base import Header, Record

_SCHEMA = """
CREATE TABLE record (
    offset INTEGER PRIMARY KEY AUTOINCREMENT, partition INTEGER NOT NULL, append_time_ms INTEGER NOT NULL,
    bytes INTEGER NOT NULL, checksum INTEGER NOT NULL, header BLOB NOT NULL, payload BLOB NOT NULL
);
CREATE INDEX record_by_partition ON record (partition, offset, bytes);
"""
_INSERT = (
    "INSERT INTO record (offset, partition, append_time_ms, bytes, checksum, header, payload)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_PLAN = "SELECT offset, bytes FROM record WHERE partition = ? AND offset >= ? ORDER BY offset LIMIT ?"
_READ = (
    "SELECT offset, append_time_ms, checksum, header, payload FROM record"
    " WHERE partition = ? AND offset BETWEEN ? AND ? ORDER BY offset"
)
_END = "SELECT max(offset) FROM record WHERE partition = ?"
_BYTES_BELOW = "SELECT coalesce(sum(bytes), 0) FROM record WHERE partition = ? AND offset < ?"
_TOTALS = "SELECT partition, max(offset), sum(bytes) FROM record GROUP BY partition"
_NEWEST = "SELECT offset, append_time_ms FROM record ORDER BY offset DESC LIMIT 1"
_BUSY_TIMEOUT_S = 5.0
_WRITER_CACHE_KIB = 8 * 1024
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})
FULL_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
COMPANIONS = ("", "-wal", "-shm")
Row = tuple[int, int, int, int, int, bytes, memoryview]
"""offset, partition, append_time_ms, bytes, checksum, header, payload."""

header_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(Header)


class Totals(NamedTuple):
    """What a segment holds: its newest offset and append time (None when empty), and per partition end and bytes."""

    newest: tuple[int, int] | None
    partitions: dict[int, tuple[int, int]]


class Cut(NamedTuple):
    """What one fetch took from one segment. `drained` when nothing that was asked for is left in it."""

    records: list[Record]
    bytes: int
    drained: bool


def storage_error(error: sqlite3.Error | OSError, path: Path, doing: str) -> RtaError:
    """What a failure of SQLite or of the disk means to whoever asked."""
    if isinstance(error, OSError):
        if error.errno in FULL_ERRNO:
            return LogFullError(f"{doing} '{path}': {error.strerror}", hint="make room on the disk", retry_after_s=5)
        return UnavailableError(f"{doing} '{path}': {error}")
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    primary = extended & 0xFF
    if primary in _CORRUPT:
        return CorruptFileError(f"{doing} '{path}': {error}", hint="restore the file or drop the topic")
    if primary in _FULL or extended in _FULL:
        return LogFullError(f"{doing} '{path}': {error}", hint="make room on the disk", retry_after_s=5)
    return UnavailableError(f"{doing} '{path}': {error}")


def create_segment(path: Path, page_bytes: int) -> None:
    """Make an empty segment, durably but for its name. Raises RtaError."""
    for companion in COMPANIONS:
        Path(f"{path}{companion}").unlink(missing_ok=True)
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute(f"PRAGMA page_size = {page_bytes}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        raise storage_error(error, path, "could not make log file") from error


def open_for_writing(path: Path) -> sqlite3.Connection:
    """The one writing connection; it may be handed to another thread, never shared. Raises RtaError."""
    try:
        connection = sqlite3.connect(
            _uri(path, "rw"), uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise storage_error(error, path, "could not open log file") from error
    return connection


def open_for_reading(path: Path, *, sealed: bool) -> sqlite3.Connection | None:
    """A connection that can't write; None when the file is not there (any more). Raises RtaError.

    A sealed file without a write-ahead log never changes again. It is read as what it is, without locks and without
    the shared memory file that SQLite would have to make, so that a full disk can still be read.
    """
    mode = "ro&immutable=1" if sealed and log_file_bytes(path) == 0 else "ro"
    try:
        return sqlite3.connect(_uri(path, mode), uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
    except sqlite3.Error as error:
        if not path.exists():
            return None
        raise storage_error(error, path, "could not open log file") from error


def log_file_bytes(path: Path) -> int:
    """Size of a segment's write-ahead log; 0 when it has none."""
    try:
        return Path(f"{path}-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def insert(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """All rows in one durable transaction. Raises sqlite3.Error; then the caller gives the connection up."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_INSERT, rows)
    connection.execute("COMMIT")


def totals(connection: sqlite3.Connection) -> Totals:
    """Raises sqlite3.Error. Cost: one pass over the index, about 0.1 µs a record."""
    newest = connection.execute(_NEWEST).fetchone()
    by_partition = {number: (last + 1, size) for number, last, size in connection.execute(_TOTALS)}
    return Totals(newest, by_partition)


def bytes_below(connection: sqlite3.Connection, partition: int, offset: int) -> int:
    """Bytes of the partition's records in this segment below the offset. Raises sqlite3.Error."""
    size: int = connection.execute(_BYTES_BELOW, (partition, offset)).fetchone()[0]
    return size


def ends(connection: sqlite3.Connection, known: Sequence[int]) -> list[int]:
    """Per partition the offset after its last record here, at least the known one. Raises sqlite3.Error."""
    found = [connection.execute(_END, (number,)).fetchone()[0] for number in range(len(known))]
    return [before if last is None else max(before, last + 1) for last, before in zip(found, known, strict=True)]


def checkpoint(connection: sqlite3.Connection, mode: str) -> bool:
    """Move pages from the write-ahead log into the file; True when none are left. Raises sqlite3.Error."""
    busy, in_log, moved = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    return busy == 0 and in_log == moved


def read(
    connection: sqlite3.Connection, path: Path, wanted: Mapping[int, int], room: int, rows_max: int, first: bool
) -> Cut:
    """Take records at and beyond the wanted offsets, oldest first over all partitions, until `room` bytes are full.

    Args:
        rows_max: At most this many records of each partition.
        first: Nothing has been taken before: take one record even when it is larger than the room.

    Raises:
        sqlite3.Error: for `storage_error`.
        CorruptFileError: a payload does not have its checksum.
    """
    connection.execute("BEGIN")
    try:
        planned: list[tuple[int, int, int]] = []
        drained = True
        for number, offset in wanted.items():
            rows = connection.execute(_PLAN, (number, offset, rows_max)).fetchall()
            drained = drained and len(rows) < rows_max
            planned += [(at, size, number) for at, size in rows]
        planned.sort()
        used, count = 0, 0
        spans: dict[int, tuple[int, int]] = {}
        for at, size, number in planned:
            if used + size > room and not (first and count == 0):
                break
            used, count = used + size, count + 1
            spans[number] = (spans[number][0] if number in spans else at, at)
        records = [record for number, span in spans.items() for record in _load(connection, path, number, span)]
    finally:
        connection.execute("COMMIT")
    if len(records) != count:
        raise CorruptFileError(f"log file '{path}' has {len(records)} of {count} records that its index names")
    return Cut(records, used, drained and count == len(planned))


def _load(connection: sqlite3.Connection, path: Path, number: int, span: tuple[int, int]) -> list[Record]:
    records = []
    for offset, append_time_ms, checksum, header, payload in connection.execute(_READ, (number, *span)):
        if crc32c.crc32c(payload) != checksum:
            raise CorruptFileError(
                f"record {offset} of partition {number} in log file '{path}' does not have its checksum",
                hint="restore the file or drop the topic",
            )
        records.append(Record(number, offset, append_time_ms, _header_decoder.decode(header), payload))
    return records


def remove(path: Path) -> None:
    """Delete a segment and its companions; what is gone already is no error. Raises OSError."""
    for companion in COMPANIONS:
        Path(f"{path}{companion}").unlink(missing_ok=True)


def disk_bytes(path: Path) -> int:
    """What a segment and its companions take on the disk."""
    total = 0
    for companion in COMPANIONS:
        try:
            total += Path(f"{path}{companion}").stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total
