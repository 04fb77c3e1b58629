"""What travels over the log server's socket: frames, requests, answers, errors.

A frame is two little-endian u32 (control bytes, body bytes), a msgpack control part and a body. Only appends have a
body: their payloads end to end. Requests carry an id that the answer repeats, so that many can be under way at once and
answers may come in another order. Both sides run the same version of rta: there is no negotiation.
"""

from __future__ import annotations

import asyncio
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import msgspec

from rta.errors import (
    BadRequestError,
    ConflictError,
    CorruptFileError,
    InvariantError,
    LogFullError,
    LogGapError,
    NotFoundError,
    RtaError,
    StoreFormatError,
    TooLargeError,
    UnavailableError,
)
from rta.log.embedded.settings import FRAME_BYTES_MAX

PREFIX = struct.Struct("<II")
_SCRATCH_BYTES = 256 * 1024


class Append(msgspec.Struct, frozen=True, array_like=True, tag="append"):
    """Parallel lists, one entry a record. `headers` are msgpack already; the body holds the payloads."""

    id: int
    topic: str
    partitions: list[int]
    headers: list[bytes]
    checksums: list[int]
    sizes: list[int]


class Wait(msgspec.Struct, frozen=True, array_like=True, tag="wait"):
    id: int
    topic: str
    offsets: dict[int, int]
    timeout_ms: int


class Create(msgspec.Struct, frozen=True, array_like=True, tag="create"):
    id: int
    topic: str
    partitions: int


class Drop(msgspec.Struct, frozen=True, array_like=True, tag="drop"):
    id: int
    topic: str


class Topics(msgspec.Struct, frozen=True, array_like=True, tag="topics"):
    id: int


class Trim(msgspec.Struct, frozen=True, array_like=True, tag="trim"):
    id: int
    topic: str
    offsets: dict[int, int]


class Stats(msgspec.Struct, frozen=True, array_like=True, tag="stats"):
    id: int


Call = Create | Drop | Topics | Trim | Stats
Request = Append | Wait | Call


class TopicStats(msgspec.Struct, frozen=True):
    """`bytes` is what the topic takes on the disk, `backlog_bytes` what its readers have not let go of yet."""

    partitions: int
    segments: int
    bytes: int
    backlog_bytes: int
    end: int


class LogStats(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a log server. Totals count from its start; rates are over the last ten seconds or so.

    `broken` names topics that can't be opened, and why.
    """

    topics: dict[str, TopicStats]
    broken: dict[str, str]
    uptime_s: float
    appended_records: int
    appended_bytes: int
    refused_appends: int
    appended_records_per_s: float
    appended_bytes_per_s: float
    commits: int
    commit_ms_last: float
    commit_ms_max: float
    queue_bytes: int
    waiting_readers: int
    disk_free_bytes: int


class Appended(msgspec.Struct, frozen=True, array_like=True, tag="appended"):
    id: int
    ends: dict[int, int]


class Waited(msgspec.Struct, frozen=True, array_like=True, tag="waited"):
    id: int
    ready: bool


class Created(msgspec.Struct, frozen=True, array_like=True, tag="created"):
    """Per partition its incarnation, start and end."""

    id: int
    states: dict[int, tuple[str, int, int]]


class Named(msgspec.Struct, frozen=True, array_like=True, tag="named"):
    id: int
    topics: list[str]


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    id: int


class Measured(msgspec.Struct, frozen=True, array_like=True, tag="measured"):
    id: int
    stats: LogStats


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    id: int
    code: str
    message: str
    hint: str
    retry_after_s: int | None


Answer = Appended | Waited | Created | Named | Done | Measured | Failed

_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(Request)
_answer_decoder = msgspec.msgpack.Decoder(Answer)
_ERRORS: dict[str, type[RtaError]] = {
    error.code: error
    for error in (
        BadRequestError,
        ConflictError,
        CorruptFileError,
        LogFullError,
        LogGapError,
        NotFoundError,
        StoreFormatError,
        TooLargeError,
        UnavailableError,
    )
}


def encode(message: Request | Answer, body_bytes: int = 0) -> bytes:
    """Prefix and control part of a frame; the caller sends the body after it. Raises TooLargeError."""
    control = _encoder.encode(message)
    if len(control) + body_bytes > FRAME_BYTES_MAX:
        raise TooLargeError(
            f"a log request of {len(control) + body_bytes} bytes is larger than {FRAME_BYTES_MAX} bytes",
            hint="append fewer or smaller records at once",
        )
    return PREFIX.pack(len(control), body_bytes) + control


def decode_request(control: memoryview | bytes) -> Request:
    """Raises msgspec.DecodeError."""
    return _request_decoder.decode(control)


def decode_answer(control: memoryview | bytes) -> Answer:
    """Raises msgspec.DecodeError."""
    return _answer_decoder.decode(control)


def failed(request_id: int, error: RtaError) -> Failed:
    """An error as an answer."""
    return Failed(request_id, error.code, error.message, error.hint, error.retry_after_s)


def to_error(answer: Failed) -> RtaError:
    """The error that an answer carries, for the caller to raise."""
    kind = _ERRORS.get(answer.code, InvariantError)
    return kind(answer.message, answer.hint, answer.retry_after_s)


class FrameProtocol(asyncio.BufferedProtocol, ABC):
    """Cuts a byte stream into frames and hands each to `frame_received`.

    Small frames are parsed out of one reused buffer. A frame that is not complete yet gets a buffer of exactly its
    size, which the socket then fills directly: a large payload is copied once, by the kernel.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._scratch = bytearray(_SCRATCH_BYTES)
        self._filled = 0
        self._frame: bytearray | None = None
        self._frame_filled = 0

    @abstractmethod
    def frame_received(self, control: memoryview, body: memoryview) -> None:
        """One whole frame. The views stay valid for as long as they are held."""

    def frame_refused(self, frame_bytes: int) -> None:
        """The other side announced a frame beyond the limit; the connection is being closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked by class: uvloop's transports are none of asyncio's, though they do all that theirs do.
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._frame is not None:
            return memoryview(self._frame)[self._frame_filled :]
        return memoryview(self._scratch)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._frame is None:
            self._filled += nbytes
            self._parse_scratch()
            return
        self._frame_filled += nbytes
        if self._frame_filled == len(self._frame):
            frame, self._frame = memoryview(self._frame), None
            self._hand_over(frame)

    def _parse_scratch(self) -> None:
        position, filled = 0, self._filled
        self._filled = 0
        view = memoryview(self._scratch)
        while filled - position >= PREFIX.size:
            control_bytes, body_bytes = PREFIX.unpack_from(view, position)
            frame_bytes = PREFIX.size + control_bytes + body_bytes
            if frame_bytes - PREFIX.size > FRAME_BYTES_MAX:
                self.frame_refused(frame_bytes)
                if self.transport is not None:
                    self.transport.abort()
                return
            here = view[position : min(position + frame_bytes, filled)]
            position += len(here)
            if len(here) < frame_bytes:
                self._frame = bytearray(frame_bytes)
                self._frame[: len(here)] = here
                self._frame_filled = len(here)
            else:
                self._hand_over(memoryview(bytes(here)))
        self._filled = filled - position
        self._scratch[: self._filled] = self._scratch[position:filled]

    def _hand_over(self, frame: memoryview) -> None:
        body_at = PREFIX.size + PREFIX.unpack_from(frame)[0]
        self.frame_received(frame[PREFIX.size : body_at], frame[body_at:])


def slices(body: memoryview, sizes: Sequence[int]) -> list[memoryview] | None:
    """The payloads that lie end to end in a body; None when the sizes do not add up to it."""
    if sum(sizes) != len(body) or any(size < 0 for size in sizes):
        return None
    views, position = [], 0
    for size in sizes:
        views.append(body[position : position + size])
        position += size
    return views
