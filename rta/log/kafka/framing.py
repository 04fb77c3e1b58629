"""Kafka's record batches, format 2, as arrays: which batches a fetch brought, and where each record's parts lie. For numba.

Owns the layout of batch headers and records (Apache Kafka, "Message Format"). Nothing is copied and nothing decoded: a record
is eight numbers, and the byte behind its value is set to 0, so that a reader of values needs no lengths. Does not check sums,
unpack or choose among transactions; `rta.log.kafka.batches` does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rta.events.records import (
    HEADER_COUNT,
    HEADERS,
    KEY,
    KEY_BYTES,
    OFFSET,
    TIME_MS,
)
from rta.events.simd import Bytes, as_int, inlined, kernel

Longs = npt.NDArray[np.int64]
HEADER_BYTES = 61
CRC_FROM = 21
"""A batch's checksum covers everything from here on."""
MAGIC = 2
_MAGIC_AT = 16
BATCH_FIELDS = 10
START, END, BASE_OFFSET, LAST_OFFSET, ATTRIBUTES, BASE_MS, MAX_MS, PRODUCER, COUNT, CRC = range(BATCH_FIELDS)
"""Columns of what `walk_batches` finds, one row per batch."""
COMPRESSION = 0x07
APPEND_TIME, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20
"""Bits of the attributes."""
OLD_FORMAT = -2
"""`walk_batches`: a batch is of a format before Kafka 0.11."""
DISORDER = -3
"""`walk_batches`: a batch ends before it begins, or begins before the one in front of it ends."""
RECORD_BYTES_MIN = 7
SPAN_FIELDS = 8
_VARINT_BYTES_MAX = 10


@inlined
def big_endian(buf: Bytes, at: int, size: int) -> int:
    """The signed number of so many bytes."""
    value = as_int(np.int8(buf[at]))
    for i in range(1, size):
        value = (value << 8) | as_int(buf[at + i])
    return value


@kernel
def walk_batches(buf: Bytes, end: int, wanted: int, found: Longs) -> int:
    """Note the whole batches among `end` bytes; the last one of an answer may be cut off.

    Returns how many there are, or more than there is room for in `found` when there is not enough. In front of a batch of an
    older format: how many, if they reach the `wanted` offset (the next answer begins with the old one), else `OLD_FORMAT`.
    `DISORDER` refuses all of them: which offset is the wrong one can't be told.
    """
    at = 0
    count = 0
    last = as_int(-1)
    while at + _MAGIC_AT < end:
        if buf[at + _MAGIC_AT] != MAGIC:
            return count if last >= wanted else OLD_FORMAT
        if at + HEADER_BYTES > end:
            break
        stop = at + 12 + big_endian(buf, at + 8, 4)
        if stop < at + HEADER_BYTES:
            return DISORDER
        if stop > end:
            break
        base = big_endian(buf, at, 8)
        if base <= last or big_endian(buf, at + 23, 4) < 0:
            return DISORDER
        last = base + big_endian(buf, at + 23, 4)
        if count < found.shape[0]:
            found[count, START] = at
            found[count, END] = stop
            found[count, BASE_OFFSET] = base
            found[count, LAST_OFFSET] = last
            found[count, ATTRIBUTES] = big_endian(buf, at + 21, 2)
            found[count, BASE_MS] = big_endian(buf, at + 27, 8)
            found[count, MAX_MS] = big_endian(buf, at + 35, 8)
            found[count, PRODUCER] = big_endian(buf, at + 43, 8)
            found[count, COUNT] = big_endian(buf, at + 57, 4)
            found[count, CRC] = big_endian(buf, at + 17, 4) & 0xFFFFFFFF
        count += 1
        at = stop
    return count


@inlined
def varint(buf: Bytes, at: int) -> tuple[int, int]:
    """The zigzag number at `at`, and where it ends; an end of -1 where it is too long to be one."""
    raw = np.uint64(0)
    for i in range(_VARINT_BYTES_MAX):
        byte = np.uint64(buf[at + i])
        raw |= (byte & np.uint64(0x7F)) << np.uint64(7 * i)
        if byte < np.uint64(0x80):
            value = as_int(raw >> np.uint64(1)) ^ -as_int(raw & np.uint64(1))
            return value, at + i + 1
    return as_int(0), as_int(-1)


@inlined
def walk_headers(buf: Bytes, at: int, end: int, count: int) -> int:
    """Behind the last header; -1 where they do not fit into their record."""
    for _ in range(count):
        length, at = varint(buf, at)
        if at < 0 or length < 0 or length > end - at:
            return as_int(-1)
        length, at = varint(buf, at + length)
        if at < 0 or length > end - at:
            return as_int(-1)
        at += max(length, 0)
    return at


@kernel
def walk_record(buf: Bytes, at: int, end: int, base: tuple[int, int], fields: Longs, row: int) -> int:
    """Note the record at `at`; where it ends, or -1 where its parts do not fit into each other.

    `base` are its batch's first offset and timestamp. Reads at most `PADDING` bytes behind `end`.
    """
    length, at = varint(buf, at)
    if at < 0 or length < 0 or length > end - at:
        return as_int(-1)
    stop = at + length
    delta_ms, at = varint(buf, at + 1)
    if at < 0:
        return as_int(-1)
    delta, at = varint(buf, at)
    if at < 0 or at > stop:
        return as_int(-1)
    fields[OFFSET, row] = base[0] + delta
    fields[TIME_MS, row] = base[1] + delta_ms
    for part in range(2):
        size, at = varint(buf, at)
        if at < 0 or at > stop or size > stop - at:
            return as_int(-1)
        fields[KEY - 2 * part, row] = at
        fields[KEY_BYTES - 2 * part, row] = max(size, -1)
        at += max(size, 0)
    behind_value = at
    count, at = varint(buf, at)
    if at < 0 or count < 0 or walk_headers(buf, at, stop, count) != stop:
        return as_int(-1)
    fields[HEADERS, row] = at
    fields[HEADER_COUNT, row] = count
    buf[behind_value] = 0
    return stop


@kernel
def walk_records(buf: Bytes, spans: Longs, first_offset: int, fields: Longs) -> int:
    """Note the records of all batches, from `first_offset` on.

    Args:
        spans: Per batch: begin and end of its records in `buf`, how many, base offset, base timestamp, the time at which
            it was appended, or -1 where producers' times count, its last offset; and room for how many records there are
            up to its end.

    Returns how many records there are, or `~batch` where a batch is not what it says: its records' lengths do not fit, or
    their offsets do not rise from its first one to its last one.
    """
    row = 0
    for i in range(spans.shape[0]):
        at, end = spans[i, 0], spans[i, 1]
        least = spans[i, 3]
        for _ in range(spans[i, 2]):
            if row >= fields.shape[1]:
                return ~i
            at = walk_record(buf, at, end, (spans[i, 3], spans[i, 4]), fields, row)
            if at < 0 or not least <= fields[OFFSET, row] <= spans[i, 6]:
                return ~i
            least = fields[OFFSET, row] + 1
            if spans[i, 5] >= 0:
                fields[TIME_MS, row] = spans[i, 5]
            if fields[OFFSET, row] >= first_offset:
                row += 1
        if at != end:
            return ~i
        spans[i, 7] = row
    return row
