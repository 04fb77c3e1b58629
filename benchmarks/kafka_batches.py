"""Kafka's record batches of version 2, made fast: what a Java producer would have sent for many records at once.

Owns the framing and LZ4's, nothing of what the records hold. LZ4 frames have independent blocks of 64 KiB, the only ones
that Kafka's own clients take.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

HEAD = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and last timestamp, producer's id,
epoch and sequence, count."""
BEFORE_LENGTH, BEFORE_CRC, BEFORE_ATTRIBUTES = 12, 17, 21
LZ4 = 3
LZ4_HEAD = bytes.fromhex("04224d18604082")
"""Version 1, independent blocks of 64 KiB at most, no checksums; the last byte is the header's own."""
LZ4_BLOCK = 64 << 10
LZ4_AS_IT_IS = 1 << 31
RECORD_OVERHEAD = 32
Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


def texts(values: pa.Array) -> tuple[Bytes, Numbers]:
    """The bytes of an array of strings or binaries, and where each begins; the last number is the end."""
    flat = values.cast(pa.large_binary())
    _, offsets, data = flat.buffers()
    bounds = np.frombuffer(offsets, np.int64)[flat.offset : flat.offset + len(flat) + 1]
    return np.frombuffer(data, np.uint8), bounds


def batch(keys: pa.Array | None, values: pa.Array, times_ms: Numbers, lz4: bool = True) -> bytes:
    """One batch of all the records, without a producer's id, its first offset 0: the broker gives the real one.

    Args:
        keys: Strings; None for records without a key.
        values: Strings or binaries.
        times_ms: Each record's `CreateTime`.
    """
    data, bounds = texts(values)
    key_data, key_bounds = texts(keys) if keys is not None else (np.empty(0, np.uint8), np.empty(0, np.int64))
    size = int(bounds[-1] - bounds[0]) + len(values) * RECORD_OVERHEAD
    size += int(key_bounds[-1] - key_bounds[0]) if keys is not None else 0
    out = np.empty(size, np.uint8)
    written = _frame(out, data, bounds, key_data, key_bounds, times_ms - times_ms[0])
    body = out[:written].tobytes()
    if lz4:
        body = lz4_frame(body)
    first, last, count = int(times_ms[0]), int(times_ms.max()), len(values)
    attributes = LZ4 if lz4 else 0
    head = HEAD.pack(0, HEAD.size - 12 + len(body), -1, 2, 0, attributes, count - 1, first, last, -1, -1, -1, count)
    checksum = crc32c.crc32c(body, crc32c.crc32c(head[BEFORE_ATTRIBUTES:]))
    return head[:BEFORE_CRC] + struct.pack(">I", checksum) + head[BEFORE_ATTRIBUTES:] + body


def lz4_frame(data: bytes) -> bytes:
    codec = pa.Codec("lz4_raw")
    parts = [LZ4_HEAD]
    for at in range(0, len(data), LZ4_BLOCK):
        block = data[at : at + LZ4_BLOCK]
        packed = codec.compress(block, asbytes=True)
        smaller = len(packed) < len(block)
        parts.append(struct.pack("<I", len(packed) if smaller else len(block) | LZ4_AS_IT_IS))
        parts.append(packed if smaller else block)
    return b"".join([*parts, bytes(4)])


def batches_of(path: Path) -> Iterator[bytes]:
    """The batches of a file, one behind the other as in a broker's segment."""
    data = path.read_bytes()
    at = 0
    while at < len(data):
        end = at + BEFORE_LENGTH + int.from_bytes(data[at + 8 : at + BEFORE_LENGTH], "big")
        yield data[at:end]
        at = end


def records_in(batches: Sequence[bytes]) -> int:
    return sum(int.from_bytes(each[HEAD.size - 4 : HEAD.size], "big") for each in batches)


@njit(cache=True)
def _size(value: int) -> int:
    """Bytes of a number as a zigzag varint."""
    left = np.uint64((value << 1) ^ (value >> 63))
    size = 1
    while left >= 128:
        left >>= np.uint64(7)
        size += 1
    return size


@njit(cache=True)
def _put(out: Bytes, at: int, value: int) -> int:
    """Write a zigzag varint; the place behind it."""
    left = np.uint64((value << 1) ^ (value >> 63))
    while left >= 128:
        out[at] = np.uint8((left & np.uint64(127)) | np.uint64(128))
        left >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(left)
    return at + 1


@njit(cache=True)
def _frame(out: Bytes, data: Bytes, bounds: Numbers, keys: Bytes, key_bounds: Numbers, deltas: Numbers) -> int:
    """Write all records; how many bytes they took. No `key_bounds`: no keys."""
    at = 0
    for i in range(len(deltas)):
        value_size = bounds[i + 1] - bounds[i]
        key_size = key_bounds[i + 1] - key_bounds[i] if len(key_bounds) else -1
        size = 1 + _size(deltas[i]) + _size(i) + _size(key_size) + max(0, key_size) + _size(value_size) + value_size + 1
        at = _put(out, at, size)
        out[at] = 0
        at = _put(out, at + 1, deltas[i])
        at = _put(out, at, i)
        at = _put(out, at, key_size)
        if key_size > 0:
            out[at : at + key_size] = keys[key_bounds[i] : key_bounds[i + 1]]
            at += key_size
        at = _put(out, at, value_size)
        out[at : at + value_size] = data[bounds[i] : bounds[i + 1]]
        at += value_size
        out[at] = 0
        at += 1
    return at
