"""Counting and ranking the plain items of many rollup rows where they lie, by codes that each block keeps of them.

Distinct values are marked in one bit field per group, by codes that all blocks of a table share. A quantile is found in two
passes: a histogram of the upper 16 bits of the values' order, and the values of the one bin in which the rank lies. Both are
exact. Gathering the items per group first, as `rta.query.combine` does where groups are many or items are few, costs 3-8 times as
much. Kernels release the GIL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from rta.query.block import Block

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]
BINS = 1 << 16
ITEMS_PER_GROUP_MIN = 8_000
"""With fewer items than this the histogram's empty bins cost more than they save."""
HISTOGRAM_GROUPS_MAX = 256
"""64 MiB of bins."""
BITS_BYTES_MAX = 16 << 20


class Places(NamedTuple):
    """Rows of one block and their groups: rows `first + i` if `every`, else `rows[i]`, of group `of_row[i]`."""

    first: int
    every: bool
    rows: Longs
    of_row: Ints


class Part(NamedTuple):
    """The selected rows of one block."""

    block: Block
    places: Places


def parts_of(slices: Sequence[tuple[Block, int, int]], rows: Longs | None, of_row: Ints) -> Iterator[Part]:
    """The selected rows block by block.

    Args:
        slices: Block, first row, end row.
        rows: Positions within the joined slices, ascending; None for all.
        of_row: The group of each of them.
    """
    base = 0
    for block, first, end in slices:
        size = end - first
        if rows is None:
            yield Part(block, Places(first, True, np.zeros(0, np.int64), of_row[base : base + size]))
        else:
            low, high = np.searchsorted(rows, (base, base + size)).tolist()
            yield Part(block, Places(0, False, rows[low:high] - (base - first), of_row[low:high]))
        base += size


def count_distinct_coded(parts: Sequence[Part], items: str, groups: int, total: int) -> Longs | None:
    """How many distinct values each group has; None where bit fields would be too large, or a block has no codes."""
    codes = [part.block.item_codes(items) for part in parts]
    words = max((known.size for known in codes if known is not None), default=0) // 64 + 1
    if any(known is None for known in codes) or groups * words * 8 > min(max(16 * total, 65_536), BITS_BYTES_MAX):
        return None
    bits = np.zeros((groups, words), np.uint64)
    counts = np.zeros(groups, np.int64)
    for part, known in zip(parts, codes, strict=True):
        assert known is not None
        _mark(part.block.lists(items).offsets, known.codes, part.places, bits, counts)
    return counts


@njit(cache=True, nogil=True)
def _mark(offsets: Ints, codes: Ints, places: Places, bits: Any, counts: Longs) -> None:
    for i in range(len(places.of_row)):
        row = places.first + i if places.every else places.rows[i]
        g = places.of_row[i]
        found = 0
        for k in range(offsets[row], offsets[row + 1]):
            code = codes[k]
            word = code >> 6
            bit = np.uint64(1) << np.uint64(code & 63)
            before = bits[g, word]
            found += (before & bit) == 0
            bits[g, word] = before | bit
        counts[g] += found


def ranks_coded(
    parts: Sequence[Part], items: str, groups: int, total: int, q: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]] | None:
    """Per group the smallest value that at least the share q does not exceed, and whether there is one; None where groups are
    too many for a histogram each, or items too few."""
    if groups > HISTOGRAM_GROUPS_MAX or total < groups * ITEMS_PER_GROUP_MIN:
        return None
    bins = np.zeros((groups, BINS), np.uint32)
    columns = [(part.block.lists(items), part.block.item_bins(items), part.places) for part in parts]
    for lists, of_item, places in columns:
        _histogram(lists.offsets, of_item, places, bins)
    sizes, target, below = _targets(bins, q)
    begins = np.zeros(groups + 1, np.int64)
    np.cumsum(bins[np.arange(groups), target], out=begins[1:])
    kept, at = np.empty(begins[-1], np.float64), begins[:-1].copy()
    for lists, of_item, places in columns:
        _collect((lists.offsets, of_item, lists.values), places, target, kept, at)
    there = sizes > 0
    out = np.zeros(groups, np.float64)
    for group in np.flatnonzero(there).tolist():
        inside = kept[begins[group] : begins[group + 1]]
        rank = max(int(np.ceil(sizes[group] * q)) - 1, 0) - int(below[group])
        inside.partition(rank)
        out[group] = inside[rank]
    return out, there


@njit(cache=True, nogil=True)
def _histogram(offsets: Ints, of_item: Any, places: Places, bins: Any) -> None:
    for i in range(len(places.of_row)):
        row = places.first + i if places.every else places.rows[i]
        g = places.of_row[i]
        for k in range(offsets[row], offsets[row + 1]):
            bins[g, of_item[k]] += np.uint32(1)


@njit(cache=True, nogil=True)
def _targets(bins: Any, q: float) -> tuple[Longs, Longs, Longs]:
    """Per group how many items it has, the bin in which the rank lies, and how many items are in bins before that."""
    groups = len(bins)
    sizes, target, below = np.zeros(groups, np.int64), np.zeros(groups, np.int64), np.zeros(groups, np.int64)
    coarse = np.zeros(256, np.int64)
    for g in range(groups):
        for c in range(256):
            total = np.int64(0)
            for b in range(256 * c, 256 * c + 256):
                total += bins[g, b]
            coarse[c] = total
        sizes[g] = coarse.sum()
        rank = max(np.int64(np.ceil(sizes[g] * q)) - 1, 0)
        passed = np.int64(0)
        c = 0
        while c < 255 and passed + coarse[c] <= rank:
            passed += coarse[c]
            c += 1
        b = 256 * c
        while b < 65535 and passed + bins[g, b] <= rank:
            passed += bins[g, b]
            b += 1
        target[g] = b
        below[g] = passed
    return sizes, target, below


@njit(cache=True, nogil=True)
def _collect(column: Any, places: Places, target: Longs, kept: Any, at: Longs) -> None:
    """Put the values of each group's bin where `at` says, and move that on. `column`: offsets, bins, values."""
    offsets, of_item, values = column
    for i in range(len(places.of_row)):
        row = places.first + i if places.every else places.rows[i]
        g = places.of_row[i]
        wanted = target[g]
        place = at[g]
        for k in range(offsets[row], offsets[row + 1]):
            if of_item[k] == wanted:
                kept[place] = values[k]
                place += 1
        at[g] = place
