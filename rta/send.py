"""`rta send`: a file or a stream of events into a datasource, once, however often it is run.

Owns reading (JSON array, `{"events": [...]}`, NDJSON; plain, gzip or zstd, told by their first bytes), cutting into
requests, and the names of the requests: `Idempotency-Key` is a hash of everything up to the end of the request and its
number, so that the same content gives the same keys, from a file or from a pipe, packed or not. Sends several
requests at a time. Does not look into the events: the server judges them.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from gzip import BadGzipFile, GzipFile
from pathlib import Path
from typing import IO, cast

import msgspec
import zstandard
from typing_extensions import Buffer

from rta.client import Client, Receipt, Refused, merge_positions
from rta.errors import BadRequestError

BATCH_EVENTS = 2_000
BATCH_BYTES = 4 << 20
LINE_BYTES_MAX = 8 << 20
"""Above any event that a server takes by default; a longer line is no NDJSON."""
DOCUMENT_BYTES_MAX = 1 << 30
"""A JSON array is held in memory as a whole; NDJSON of any size is streamed."""
IN_FLIGHT = 4
READ_BYTES = 256 << 10
REFUSED_KEPT = 20
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LATER = {b"PAR1": "Parquet", b"ARRO": "Arrow"}
Progress = Callable[[int, int], None]
"""Called with (bytes read of the file, events acknowledged)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A request's worth of events. `first` is the number of its first event in the file, from 0."""

    key: str
    first: int
    body: bytes
    read_bytes: int


@dataclass(slots=True)
class Report:
    """What became of all events sent so far. `refused` has the first few, numbered from 0 through the whole file."""

    total: int = 0
    successful: int = 0
    failed: int = 0
    position: str | None = None
    refused: list[Refused] = field(default_factory=list)

    def add(self, first: int, receipt: Receipt) -> None:
        self.total += receipt.total
        self.successful += receipt.successful
        self.failed += receipt.failed
        self.position = merge_positions((self.position, receipt.position))
        room = REFUSED_KEPT - len(self.refused)
        for row in receipt.refused[: max(0, room)]:
            self.refused.append(Refused(first + row.index, row.reason, row.detail, row.event_id))


def send_file(client: Client, source: str, datasource: str, progress: Progress | None = None) -> Report:
    """Send a file, or standard input for "-", and return when all of it is acknowledged.

    Raises:
        BadRequestError: it can't be read as events.
        UnavailableError: the server stayed away; run again, what is in counts once.
    """
    name = "standard input" if source == "-" else source
    try:
        if source == "-":
            return _send_all(client, batches(cast(io.BufferedReader, sys.stdin.buffer), name), datasource, progress)
        with Path(source).open("rb") as stream:
            return _send_all(client, batches(stream, name), datasource, progress)
    except OSError as error:
        if isinstance(error, BadGzipFile):
            raise BadRequestError(f"reading {name}: damaged gzip: {error}", "make the file again") from error
        raise BadRequestError(f"'{source}' can't be read: {error.strerror}", "name a file, or - for a pipe") from error


def _send_all(client: Client, cut: Iterator[Batch], datasource: str, progress: Progress | None) -> Report:
    report = Report()
    waiting: deque[tuple[Batch, Future[Receipt]]] = deque()

    def settle() -> None:
        batch, future = waiting.popleft()
        report.add(batch.first, future.result())
        if progress is not None:
            progress(batch.read_bytes, report.successful)

    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="send") as pool:
        try:
            for batch in cut:
                if len(waiting) == IN_FLIGHT:
                    settle()
                waiting.append((batch, pool.submit(client.send, batch.body, datasource, batch.key)))
            while waiting:
                settle()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return report


def batches(stream: io.BufferedReader, name: str) -> Iterator[Batch]:
    """Cut a stream into requests. The same content always gives the same requests with the same keys."""
    counted = _Counted(stream)
    lines = _lines(_unpacked(io.BufferedReader(counted, 1 << 20), name), name)
    digest = hashlib.blake2b(digest_size=16)
    first = 0
    for number in itertools.count():
        chunk: list[bytes] = []
        held_bytes = 0
        for line in lines:
            chunk.append(line)
            held_bytes += len(line)
            if len(chunk) == BATCH_EVENTS or held_bytes >= BATCH_BYTES:
                break
        if not chunk:
            return
        body = b"".join(chunk)
        digest.update(body)
        yield Batch(f"{digest.hexdigest()}:{number}", first, body, counted.read_bytes)
        first += len(chunk)


class _Counted(io.RawIOBase):
    """Counts what is read of a stream, before it is unpacked, for the progress bar."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer)
        data = self._stream.read1(len(target))
        target[: len(data)] = data
        self.read_bytes += len(data)
        return len(data)


class _Zstd(io.RawIOBase):
    """Unpacks frame after frame; unlike the library's own reader it notices when the last one is cut off."""

    def __init__(self, packed: io.BufferedReader) -> None:
        self._packed = packed
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._started = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            data = data or self._packed.read1(READ_BYTES)
            if not data:
                if self._started and not self._frame.eof:
                    raise EOFError("the last frame is incomplete")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._started = True
            self._ready = memoryview(self._frame.decompress(data))
        target = memoryview(buffer)
        taken = self._ready[: len(target)]
        target[: len(taken)] = taken
        self._ready = self._ready[len(taken) :]
        return len(taken)


def _unpacked(stream: io.BufferedReader, name: str) -> io.BufferedReader:
    magic = stream.peek(4)[:4]
    if magic in LATER:
        raise BadRequestError(f"{name} is {LATER[magic]}, which 'rta send' can't read yet", "write it as NDJSON")
    if magic.startswith(GZIP_MAGIC):
        return io.BufferedReader(cast(io.RawIOBase, GzipFile(fileobj=stream)), 1 << 20)
    if magic == ZSTD_MAGIC:
        return io.BufferedReader(_Zstd(stream), 1 << 20)
    return stream


def _lines(stream: io.BufferedReader, name: str) -> Iterator[bytes]:
    """The events as lines of JSON, each with its newline; empty lines are left out."""
    try:
        yield from _events(stream, name)
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        raise BadRequestError(
            f"reading {name}: its compressed data ends early or is damaged: {error}",
            "what came before it was sent; make the file again and run the same command",
        ) from error


def _events(stream: io.BufferedReader, name: str) -> Iterator[bytes]:
    head = _first_line(stream)
    start = head.lstrip()[:1]
    if start == b"[" or (start == b"{" and not _is_document(head)):
        text = head + stream.read(DOCUMENT_BYTES_MAX)
        if len(text) >= DOCUMENT_BYTES_MAX:
            raise BadRequestError(f"{name} is one JSON document of more than 1 GiB", "write one event per line")
        whole = _of_document(text)
        if whole is not None:
            yield from whole
            return
        if start == b"[":
            raise BadRequestError(f"{name} begins as a JSON array but is none", "is it complete?")
        stream, head = io.BufferedReader(cast(io.RawIOBase, io.BytesIO(text))), b""
    elif start not in (b"{", b""):
        raise BadRequestError(
            f"{name} begins with '{head[:20].decode(errors='replace').strip()}', which is no JSON object",
            "'rta send' reads NDJSON and JSON arrays, plain, gzip or zstd; CSV comes with a later version",
        )
    elif start == b"{" and not stream.peek(1):
        yield from _of_document(head) or ()
        return
    yield from _ndjson(head, stream, name)


def _first_line(stream: IO[bytes]) -> bytes:
    for line in iter(lambda: stream.readline(DOCUMENT_BYTES_MAX), b""):
        if not line.isspace():
            return line.removeprefix(b"\xef\xbb\xbf")
    return b""


def _ndjson(head: bytes, stream: IO[bytes], name: str) -> Iterator[bytes]:
    for line in itertools.chain((head,), iter(lambda: stream.readline(LINE_BYTES_MAX), b"")):
        if len(line) == LINE_BYTES_MAX:
            raise BadRequestError(f"{name} has a line of more than 8 MiB", "write one event per line")
        if line and not line.isspace():
            yield line if line.endswith(b"\n") else line + b"\n"


def _is_document(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


class _Wrapped(msgspec.Struct):
    events: list[msgspec.Raw]


def _of_document(text: bytes) -> list[bytes] | None:
    """The events of an array, of `{"events": [...]}` or of one object over several lines; None if it is no document."""
    try:
        if text.lstrip()[:1] == b"[":
            rows = msgspec.json.decode(text, type=list[msgspec.Raw])
        elif _is_document(text):
            rows = _wrapped_events(text)
        else:
            return None
    except (msgspec.DecodeError, RecursionError):
        return None
    return [_one_line(bytes(row)) for row in rows]


def _wrapped_events(text: bytes) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(text, type=_Wrapped).events
    except msgspec.ValidationError:
        return [msgspec.Raw(text)]


def _one_line(event: bytes) -> bytes:
    """JSON strings hold no raw newline, so that newlines in valid JSON are only layout."""
    return event.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n" if b"\n" in event else event + b"\n"


def explain(report: Report) -> list[str]:
    """The refused events as lines of text, one each, numbered from 1 as an editor does."""
    lines = [f"event {row.index + 1}: {row.reason}: {row.detail}" for row in report.refused]
    more = report.failed - len(report.refused)
    return [*lines, f"and {more} more"] if more > 0 else lines
