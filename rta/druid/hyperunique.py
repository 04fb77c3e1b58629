"""Druid's own HyperLogLog, behind `hyperUnique` and `cardinality`: 2,048 registers of 4 bits above a shared offset.

Values are hashed by MurmurHash3 x64-128 with seed 0; the last two bytes choose the register, the first eight give the
place of the first set bit (Flajolet et al. 2007). A sketch is kept as its 2,048 registers, one byte each.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import mmh3
import numpy as np
import numpy.typing as npt

REGISTERS = 2_048
RANGE = 15
"""A register holds at most so much above the offset; of what is beyond only the largest is kept."""
_ALPHA = 0.7213 / (1 + 1.079 / REGISTERS)
_LOW = 5 * REGISTERS / 2
_HIGH = 2.0**64 / 30
Registers = npt.NDArray[np.uint8]
NULL_TEXT = "\0"


def empty() -> Registers:
    return np.zeros(REGISTERS, np.uint8)


def of_hashes(hashes: Iterable[bytes]) -> Registers:
    """Registers of values by their 16-byte hashes."""
    out = empty()
    joined = b"".join(hashes)
    if not joined:
        return out
    found = np.frombuffer(joined, np.uint8).reshape(-1, 16)
    bucket = ((found[:, 14].astype(np.int64) << 8) | found[:, 15]) & (REGISTERS - 1)
    np.maximum.at(out, bucket, _places(found[:, :8]))
    return out


def _places(words: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Place of the first set bit, counted from 1, byte by byte from the first."""
    first = (words != 0).argmax(axis=1)
    byte = words[np.arange(len(words)), first].astype(np.int64)
    bits = 8 - np.floor(np.log2(np.maximum(byte, 1))).astype(np.int64)
    return np.where(byte == 0, 64, first * 8 + bits).astype(np.uint8)


def merged(parts: Sequence[bytes]) -> Registers:
    out = empty()
    for part in parts:
        np.maximum(out, np.frombuffer(part, np.uint8), out=out)
    return out


def estimate(registers: Registers) -> float:
    """How many distinct values went in; few are counted by the registers that are empty."""
    offset = int(registers.min())
    beyond = registers > offset + RANGE
    kept = registers.astype(np.float64)
    if beyond.sum() > 1:
        kept[beyond & (registers != registers.max())] = offset + RANGE
    total = float(np.exp2(-kept).sum())
    zeros = int((registers == offset).sum()) if offset == 0 else 0
    raw = _ALPHA * REGISTERS * REGISTERS / total
    if raw <= _LOW:
        return raw if zeros == 0 else REGISTERS * math.log(REGISTERS / zeros)
    if raw > _HIGH:
        return -(2.0**64) * math.log(1 - raw / 2.0**64)
    return raw


def text_hash(text: str) -> bytes:
    """As `cardinality` hashes texts: their UTF-16 units."""
    return mmh3.hash_bytes(text.encode("utf-16-le", "surrogatepass"), 0, True)


def utf8_hash(text: str) -> bytes:
    """As `hyperUnique` hashes what comes in."""
    return mmh3.hash_bytes(text.encode(), 0, True)


def number_hash(value: float) -> bytes:
    return mmh3.hash_bytes(struct.pack("<q" if isinstance(value, int) else "<d", value), 0, True)


def row_hash(row: Sequence[Any]) -> bytes:
    """As `cardinality` by row hashes several values together."""
    out = []
    for value in row:
        if value is None:
            out.append(b"")
        elif isinstance(value, list):
            out.append(_several(value))
        elif isinstance(value, int | float):
            out.append(struct.pack("<q" if isinstance(value, int) else "<d", value))
        else:
            out.append(value.encode("utf-16-le", "surrogatepass"))
    return mmh3.hash_bytes(b"\0".join(out), 0, True)


def _several(values: Sequence[str | None]) -> bytes:
    """Sorted, so that the order of several values in a row does not matter; nulls alone are nothing."""
    if len(values) == 1 or not any(v is not None for v in values):
        return (values[0] or "").encode("utf-16-le") if values else b""
    return "\1".join(sorted(NULL_TEXT if v is None else v for v in values)).encode("utf-16-le")
