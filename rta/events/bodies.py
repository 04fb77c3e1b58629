"""What arrives in one request, before anything is decoded: content type, encoding, limits.

Owns unpacking under a limit and the choice of the reader. Knows nothing of events.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum

import zstandard

from rta.errors import BadRequestError, TooLargeError, UnsupportedMediaError

_ZSTD_WINDOW_BYTES = 1 << 27
_ZSTD_EXPANSION_MAX = 1 << 15
"""A block of 4 bytes can stand for 128 KiB, and none for more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request: bytes as sent, unpacked, of one event; how many events.

    `exact_events` of them may need the exact decoder, which takes some 10 µs for each; beyond, the body is refused as a
    whole. Measured without that bound: 1,000,000 wrong events in 5 MB took 18 s of CPU.
    """

    body_bytes: int = 16 << 20
    unpacked_bytes: int = 64 << 20
    event_bytes: int = 1 << 20
    events: int = 1_000_000
    exact_events: int = 100_000


@dataclass(frozen=True, slots=True)
class Body:
    """One request's body and the headers that say how to read it."""

    data: bytes
    content_type: str | None = None
    content_encoding: str | None = None
    idempotency_key: str | None = None
    generate_ids: bool = False


class Format(StrEnum):
    """How a body is read: as lines of JSON, as whatever JSON it turns out to be, as an Arrow IPC stream."""

    LINES = "lines"
    JSON = "json"
    ARROW = "arrow"


_FORMATS = {
    None: Format.JSON,
    "": Format.JSON,
    "application/json": Format.JSON,
    "text/json": Format.JSON,
    "text/plain": Format.JSON,
    "application/x-ndjson": Format.LINES,
    "application/ndjson": Format.LINES,
    "application/jsonl": Format.LINES,
    "application/x-jsonlines": Format.LINES,
    "application/vnd.apache.arrow.stream": Format.ARROW,
}


def format_of(body: Body) -> Format:
    """The reader that the content type asks for.

    Raises:
        UnsupportedMediaError: nobody knows that type, or its charset is not UTF-8.
    """
    content_type = body.content_type
    if content_type in _FORMATS:
        return _FORMATS[content_type]
    assert content_type is not None
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in {"utf-8", "utf8", "us-ascii", "ascii"}:
            raise UnsupportedMediaError(f"reading the body: charset '{value[:64]}' is not known", "send UTF-8")
    if kind not in _FORMATS:
        raise UnsupportedMediaError(
            f"reading the body: content type '{content_type[:128]}' is not known",
            "send application/json, application/x-ndjson or application/vnd.apache.arrow.stream",
        )
    return _FORMATS[kind]


def unpack(body: Body, limits: Limits) -> bytes:
    """The body's bytes without their content encoding.

    Raises:
        TooLargeError: more bytes than allowed, as sent or unpacked; no more than the limit is ever unpacked.
        BadRequestError: truncated or damaged.
        UnsupportedMediaError: an encoding that is neither gzip nor zstd nor identity.
    """
    if len(body.data) > limits.body_bytes:
        raise TooLargeError(
            f"reading the body: it has {len(body.data):,} bytes, at most {limits.body_bytes:,} are taken",
            "send it in several requests",
        )
    encoding = (body.content_encoding or "").strip().lower()
    match encoding:
        case "" | "identity":
            if len(body.data) > limits.unpacked_bytes:
                raise _bomb(limits)
            return body.data
        case "gzip" | "x-gzip":
            return _gunzip(body.data, limits)
        case "zstd":
            return _unzstd(body.data, limits)
        case _:
            raise UnsupportedMediaError(
                f"reading the body: content encoding '{encoding[:64]}' is not known", "send gzip, zstd or neither"
            )


def _gunzip(data: bytes, limits: Limits) -> bytes:
    """All members of a gzip file."""
    parts: list[bytes] = []
    room = limits.unpacked_bytes
    left = data
    while left:
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(left, room + 1)
        except zlib.error as error:
            raise BadRequestError(f"unpacking the gzip body: {error}", "send it again, whole") from error
        room -= len(part)
        if room < 0:
            raise _bomb(limits)
        if not member.eof:
            raise BadRequestError("unpacking the gzip body: it ends too early", "send it again, whole")
        parts.append(part)
        left = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _unzstd(data: bytes, limits: Limits) -> bytes:
    """All frames of a zstd body.

    One call to the library unpacks all of its input, so it gets only as much as can't exceed the room that is left
    (by no more than 2 MiB at the very end).
    """
    parts: list[bytes] = []
    room = limits.unpacked_bytes
    at = 0
    while at < len(data):
        frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()
        while not frame.eof:
            piece = data[at : at + max(64, room // _ZSTD_EXPANSION_MAX)]
            if not piece:
                raise BadRequestError("unpacking the zstd body: it ends too early", "send it again, whole")
            try:
                part = frame.decompress(piece)
            except zstandard.ZstdError as error:
                raise BadRequestError(f"unpacking the zstd body: {error}", "send it again, whole") from error
            room -= len(part)
            if room < 0:
                raise _bomb(limits)
            parts.append(part)
            at += len(piece) - len(frame.unused_data)
    return b"".join(parts)


def _bomb(limits: Limits) -> TooLargeError:
    return TooLargeError(
        f"unpacking the body: it has more than {limits.unpacked_bytes:,} bytes unpacked", "send it in several requests"
    )
