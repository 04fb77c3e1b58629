"""128-bit hashes of many strings at once: MurmurHash3 x64-128 (Appleby 2011) with a seed of 128 bits. For numba.

The hash is part of the storage format: identities in id runs and partitions in the log depend on it. It never changes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rta.events.simd import Bytes, inlined, kernel, load_word

Words = npt.NDArray[np.uint64]

_C1 = np.uint64(0x87C37B91114253D5)
_C2 = np.uint64(0x4CF5AD432745937F)
_N1 = np.uint64(0x52DCE729)
_N2 = np.uint64(0x38495AB5)
_M1 = np.uint64(0xFF51AFD7ED558CCD)
_M2 = np.uint64(0xC4CEB9FE1A85EC53)
_FIVE = np.uint64(5)
_THIRTY_THREE = np.uint64(33)
_EIGHT = np.uint64(8)


@inlined
def rotate(x: np.uint64, bits: int) -> np.uint64:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@inlined
def finish(x: np.uint64) -> np.uint64:
    """Spread every bit of `x` over all 64."""
    x = (x ^ (x >> _THIRTY_THREE)) * _M1
    x = (x ^ (x >> _THIRTY_THREE)) * _M2
    return x ^ (x >> _THIRTY_THREE)


@inlined
def tail_word(data: Bytes, pos: int, count: int) -> np.uint64:
    """Up to 8 bytes as an integer, without looking at the byte behind them."""
    word = np.uint64(0)
    for i in range(count):
        word |= np.uint64(data[pos + i]) << (_EIGHT * np.uint64(i))
    return word


@inlined
def hash_pair(k1: np.uint64, k2: np.uint64, h1: np.uint64, h2: np.uint64) -> tuple[np.uint64, np.uint64]:
    """One full block of 16 bytes."""
    h1 ^= rotate(k1 * _C1, 31) * _C2
    h1 = (rotate(h1, 27) + h2) * _FIVE + _N1
    h2 ^= rotate(k2 * _C2, 33) * _C1
    h2 = (rotate(h2, 31) + h1) * _FIVE + _N2
    return h1, h2


@inlined
def hash_end(h1: np.uint64, h2: np.uint64, length: int) -> tuple[np.uint64, np.uint64]:
    h1 ^= np.uint64(length)
    h2 ^= np.uint64(length)
    h1 += h2
    h2 += h1
    h1 = finish(h1)
    h2 = finish(h2)
    h1 += h2
    h2 += h1
    return h1, h2


@kernel
def hash_bytes(data: Bytes, start: int, length: int, h1: np.uint64, h2: np.uint64) -> tuple[np.uint64, np.uint64]:
    """High and low half of the hash of `length` bytes, seeded with (h1, h2)."""
    pos = start
    for _ in range(length >> 4):
        h1, h2 = hash_pair(load_word(data, pos), load_word(data, pos + 8), h1, h2)
        pos += 16
    left = length & 15
    if left > 8:
        h2 ^= rotate(tail_word(data, pos + 8, left - 8) * _C2, 33) * _C1
    if left > 0:
        h1 ^= rotate(tail_word(data, pos, min(left, 8)) * _C1, 31) * _C2
    return hash_end(h1, h2, length)


@kernel
def hash_strings(
    offsets: npt.NDArray[np.int32], data: Bytes, wanted: npt.NDArray[np.uint8], seeds: Words, out: Words
) -> None:
    """Hash the wanted strings of an Arrow array into `out`; others keep what is there. Shapes (n, 2)."""
    for i in range(len(wanted)):
        if wanted[i]:
            start = np.int64(offsets[i])
            length = np.int64(offsets[i + 1]) - start
            out[i, 0], out[i, 1] = hash_bytes(data, start, length, seeds[i, 0], seeds[i, 1])


@kernel
def hash_pairs(pairs: Words, seeds: Words, out: Words) -> None:
    """Hash pairs of words, each as 16 bytes."""
    for i in range(len(pairs)):
        h1, h2 = hash_pair(pairs[i, 0], pairs[i, 1], seeds[i, 0], seeds[i, 1])
        out[i, 0], out[i, 1] = hash_end(h1, h2, 16)


@kernel
def hash_words(words: Words, out: npt.NDArray[np.int64]) -> None:
    """64 bits of each word."""
    for i in range(len(words)):
        out[i] = np.int64(finish(words[i] + _C1))
