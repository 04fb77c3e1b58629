"""Record batches of format 2, made byte by byte, so that they can be what no client writes: with holes, lies and all codecs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cramjam
import crc32c

Header = tuple[bytes, bytes | None]
NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
XERIAL = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
XERIAL_BLOCK = 32 << 10
APPEND_TIME, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20
COMMIT, ABORT = 1, 0
NOW_MS = 1_767_225_600_000


@dataclass(frozen=True)
class Made:
    """A record. `delta` is its offset behind the batch's first one, `later_ms` its time behind the batch's first one."""

    delta: int
    value: bytes | None
    key: bytes | None = None
    headers: tuple[Header, ...] = ()
    later_ms: int = 0


@dataclass(frozen=True)
class Batch:
    """What a batch's header says besides what follows from its records."""

    base: int
    records: tuple[Made, ...]
    codec: int = NONE
    attributes: int = 0
    producer: int = -1
    last_delta: int | None = None
    base_ms: int = NOW_MS
    max_ms: int | None = None
    count: int | None = None
    java_snappy: bool = False


def varint(value: int) -> bytes:
    raw = (value << 1) ^ (value >> 63)
    out = bytearray()
    while raw > 0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    return bytes([*out, raw])


def sized(content: bytes | None) -> bytes:
    return varint(-1) if content is None else varint(len(content)) + content


def record(made: Made) -> bytes:
    body = b"\0" + varint(made.later_ms) + varint(made.delta) + sized(made.key) + sized(made.value)
    body += varint(len(made.headers)) + b"".join(sized(name) + sized(value) for name, value in made.headers)
    return varint(len(body)) + body


def xerial(content: bytes) -> bytes:
    blocks = [content[at : at + XERIAL_BLOCK] for at in range(0, len(content), XERIAL_BLOCK)]
    packed = [bytes(cramjam.snappy.compress_raw(block)) for block in blocks]
    return XERIAL + b"".join(len(block).to_bytes(4, "big") + block for block in packed)


PACKERS: dict[int, Callable[[bytes], bytes]] = {
    NONE: bytes,
    GZIP: lambda content: bytes(cramjam.gzip.compress(content)),
    SNAPPY: lambda content: bytes(cramjam.snappy.compress_raw(content)),
    LZ4: lambda content: bytes(cramjam.lz4.compress(content)),
    ZSTD: lambda content: bytes(cramjam.zstd.compress(content)),
}


def framed(batch: Batch, content: bytes) -> bytes:
    """A batch around the content as it is, with a checksum that is right."""
    last = batch.last_delta if batch.last_delta is not None else max((r.delta for r in batch.records), default=0)
    latest = batch.max_ms
    if latest is None:
        latest = batch.base_ms + max((r.later_ms for r in batch.records), default=0)
    count = len(batch.records) if batch.count is None else batch.count
    behind = struct.pack(
        ">hiqqqhii", batch.attributes | batch.codec, last, batch.base_ms, latest, batch.producer, 0, 0, count
    )
    behind += content
    return struct.pack(">qiibI", batch.base, len(behind) + 9, 0, 2, crc32c.crc32c(behind)) + behind


def packed(batch: Batch) -> bytes:
    content = b"".join(map(record, batch.records))
    return framed(batch, (xerial if batch.java_snappy else PACKERS[batch.codec])(content))


def data(base: int, *values: bytes, producer: int = -1) -> Batch:
    """A plain batch; of a transaction where there is a producer."""
    records = tuple(Made(delta, value) for delta, value in enumerate(values))
    return Batch(base, records, attributes=TRANSACTIONAL if producer >= 0 else 0, producer=producer)


def marker(base: int, producer: int, kind: int) -> Batch:
    """The end of a transaction."""
    key = struct.pack(">hh", 0, kind)
    value = struct.pack(">hi", 0, 0)
    return Batch(base, (Made(0, value, key),), attributes=TRANSACTIONAL | CONTROL, producer=producer)


def joined(batches: Sequence[Batch]) -> bytes:
    return b"".join(map(packed, batches))


def moved(batch: Batch, base: int) -> Batch:
    return replace(batch, base=base)
