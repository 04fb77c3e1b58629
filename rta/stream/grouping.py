"""Grouping rows by their keys and gathering values by group: the inner loops of every rollup.

Owns the numba kernels: arrays in, arrays out. Knows nothing of rollups, Arrow or partitions. All kernels are
single-threaded and release the GIL. A `valid` array of length 0 means that every value is there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]
"""int64 or float64."""

ALL_VALID: Flags = np.zeros(0, np.bool_)
LONG_MAX = np.int64(2**63 - 1)
LONG_MIN = np.int64(-(2**63))


class Groups(NamedTuple):
    """Which group each row is in, and per group the first row that is in it. Groups are numbered as they appear."""

    of_row: Ints
    first_row: Longs

    @property
    def number(self) -> int:
        """How many groups there are."""
        return len(self.first_row)


class Lists(NamedTuple):
    """One list of values per group: `values[offsets[g]:offsets[g + 1]]`."""

    offsets: Ints
    values: Numbers


def readable(values: Numbers) -> Numbers:
    """The same values in the one shape that the kernels are compiled for: contiguous, aligned, read-only."""
    if not (values.flags.c_contiguous and values.flags.aligned):
        values = np.array(values, order="C")
    view = values.view()
    view.flags.writeable = False
    return view


def group_rows(keys: list[Longs], rows: int) -> Groups:
    """Number the distinct combinations of the keys, each of shape (rows,) or (rows, words)."""
    matrix = np.empty((rows, sum(key.shape[1] if key.ndim == 2 else 1 for key in keys)), np.int64)
    at = 0
    for key in keys:
        width = key.shape[1] if key.ndim == 2 else 1
        matrix[:, at : at + width] = key.reshape(rows, width)
        at += width
    return Groups(*_group_rows(matrix))


@njit(cache=True, nogil=True)
def _group_rows(keys: Longs) -> tuple[Ints, Longs]:
    n, width = keys.shape
    of_row = np.empty(n, np.int32)
    first = np.empty(64, np.int64)
    hashes = np.empty(64, np.uint64)
    size = 256
    table = np.full(size, -1, np.int32)
    groups = 0
    for i in range(n):
        h = np.uint64(0x9E3779B97F4A7C15)
        for j in range(width):
            h = (h ^ np.uint64(keys[i, j])) * np.uint64(0xD6E8FEB86659FD93)
            h ^= h >> np.uint64(32)
        slot = np.int64(h) & (size - 1)
        while True:
            g = table[slot]
            if g < 0:
                if groups == len(first):
                    first = np.concatenate((first, np.empty(groups, np.int64)))
                    hashes = np.concatenate((hashes, np.empty(groups, np.uint64)))
                first[groups] = i
                hashes[groups] = h
                table[slot] = groups
                of_row[i] = groups
                groups += 1
                if groups * 2 > size:
                    size *= 4
                    table = np.full(size, -1, np.int32)
                    for k in range(groups):
                        place = np.int64(hashes[k]) & (size - 1)
                        while table[place] >= 0:
                            place = (place + 1) & (size - 1)
                        table[place] = k
                break
            if hashes[g] == h:
                same = True
                f = first[g]
                for j in range(width):
                    if keys[f, j] != keys[i, j]:
                        same = False
                        break
                if same:
                    of_row[i] = g
                    break
            slot = (slot + 1) & (size - 1)
    return of_row, first[:groups].copy()


@njit(cache=True, nogil=True)
def text_words(offsets: Ints, data: npt.NDArray[np.uint8], valid: Flags, words: int) -> npt.NDArray[np.uint64]:
    """Strings of at most 8 * words - 1 bytes as that many integers: the bytes, and in the last one length + 1.

    A null is all zeros. Two rows are equal exactly when the strings are.
    """
    out = np.zeros((len(offsets) - 1, words), np.uint64)
    for i in range(len(out)):
        if len(valid) and not valid[i]:
            continue
        first = offsets[i]
        length = offsets[i + 1] - first
        for k in range(length):
            out[i, k >> 3] |= np.uint64(data[first + k]) << np.uint64((k & 7) << 3)
        out[i, words - 1] |= np.uint64(length + 1) << np.uint64(56)
    return out


@njit(cache=True, nogil=True)
def count_by_group(valid: Flags, of_row: Ints, groups: int) -> Longs:
    """Rows of each group; only the valid ones where `valid` says so."""
    out = np.zeros(groups, np.int64)
    if len(valid) == 0:
        for g in of_row:
            out[g] += 1
    else:
        for i in range(len(of_row)):
            if valid[i]:
                out[of_row[i]] += 1
    return out


@njit(cache=True, nogil=True)
def sum_longs(values: Longs, valid: Flags, of_row: Ints, groups: int) -> Longs:
    """Sums that stay at the bound of int64 once they have reached it, instead of wrapping around."""
    out = np.zeros(groups, np.int64)
    every = len(valid) == 0
    for i in range(len(of_row)):
        if every or valid[i]:
            g = of_row[i]
            a = out[g]
            b = values[i]
            if a in (LONG_MAX, LONG_MIN):
                continue
            if b in (LONG_MAX, LONG_MIN):
                out[g] = b
            elif b > 0 and a > LONG_MAX - b:
                out[g] = LONG_MAX
            elif b < 0 and a < LONG_MIN - b:
                out[g] = LONG_MIN
            else:
                out[g] = a + b
    return out


@njit(cache=True, nogil=True)
def sum_doubles(values: Numbers, valid: Flags, of_row: Ints, groups: int) -> Numbers:
    out = np.zeros(groups, np.float64)
    every = len(valid) == 0
    for i in range(len(of_row)):
        if every or valid[i]:
            out[of_row[i]] += values[i]
    return out


@njit(cache=True, nogil=True)
def extreme_by_group(values: Numbers, valid: Flags, of_row: Ints, groups: int, largest: bool) -> tuple[Numbers, Flags]:
    """The smallest or largest valid value of each group, and whether there is one. A NaN counts as no value."""
    out = np.zeros(groups, values.dtype)
    found = np.zeros(groups, np.bool_)
    every = len(valid) == 0
    for i in range(len(of_row)):
        v = values[i]
        if (every or valid[i]) and v == v:
            g = of_row[i]
            if not found[g] or (v > out[g] if largest else v < out[g]):
                out[g] = v
                found[g] = True
    return out, found


@njit(cache=True, nogil=True)
def _gather_values(values: Numbers, valid: Flags, of_row: Ints, groups: int) -> tuple[Ints, Numbers]:
    offsets = np.zeros(groups + 1, np.int32)
    every = len(valid) == 0
    for i in range(len(of_row)):
        if every or valid[i]:
            offsets[of_row[i] + 1] += 1
    for g in range(groups):
        offsets[g + 1] += offsets[g]
    out = np.empty(offsets[groups], values.dtype)
    place = offsets[:groups].copy()
    for i in range(len(of_row)):
        if every or valid[i]:
            g = of_row[i]
            out[place[g]] = values[i]
            place[g] += 1
    return offsets, out


@njit(cache=True, nogil=True)
def _gather_lists(starts: Ints, ends: Ints, values: Numbers, of_row: Ints, groups: int) -> tuple[Ints, Numbers]:
    offsets = np.zeros(groups + 1, np.int32)
    for i in range(len(of_row)):
        offsets[of_row[i] + 1] += ends[i] - starts[i]
    for g in range(groups):
        offsets[g + 1] += offsets[g]
    out = np.empty(offsets[groups], values.dtype)
    place = offsets[:groups].copy()
    for i in range(len(of_row)):
        g = of_row[i]
        at = place[g]
        for k in range(starts[i], ends[i]):
            out[at] = values[k]
            at += 1
        place[g] = at
    return offsets, out


@njit(cache=True, nogil=True)
def _sort_lists(offsets: Ints, values: Numbers, longest: int) -> None:
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        if b - a < 2 or b - a > longest:
            continue
        if b - a > 24:
            values[a:b].sort()
            continue
        for i in range(a + 1, b):
            v = values[i]
            j = i - 1
            while j >= a and values[j] > v:
                values[j + 1] = values[j]
                j -= 1
            values[j + 1] = v


@njit(cache=True, nogil=True)
def _distinct_lists(offsets: Ints, values: Numbers) -> tuple[Ints, Numbers]:
    out = np.empty(len(offsets), np.int32)
    out[0] = 0
    at = 0
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        for k in range(a, b):
            if k == a or values[k] != values[k - 1]:
                values[at] = values[k]
                at += 1
        out[g + 1] = at
    return out, values[:at].copy()


@njit(cache=True, nogil=True)
def _without_lists(offsets: Ints, values: Numbers, dropped: Flags) -> tuple[Ints, Numbers]:
    out = np.empty(len(offsets), np.int32)
    out[0] = 0
    kept = np.empty(len(values), values.dtype)
    at = 0
    for g in range(len(offsets) - 1):
        if not dropped[g]:
            for k in range(offsets[g], offsets[g + 1]):
                kept[at] = values[k]
                at += 1
        out[g + 1] = at
    return out, kept[:at].copy()


def gather_values(values: Numbers, valid: Flags, groups: Groups) -> Lists:
    """The valid values of each group, in the order of the rows."""
    return Lists(*_gather_values(values, valid, groups.of_row, groups.number))


def gather_lists(starts: Ints, ends: Ints, values: Numbers, groups: Groups) -> Lists:
    """The rows' lists joined per group; row i has `values[starts[i]:ends[i]]`."""
    return Lists(*_gather_lists(starts, ends, values, groups.of_row, groups.number))


def sort_lists(lists: Lists, longest: int = 2**31 - 1) -> Lists:
    """Sort each list in place; those of more than `longest` values are left as they are."""
    _sort_lists(lists.offsets, lists.values, longest)
    return lists


def distinct_lists(lists: Lists) -> Lists:
    """Each list sorted, without its repetitions. Uses up its input."""
    return Lists(*_distinct_lists(lists.offsets, sort_lists(lists).values))


def without_lists(lists: Lists, dropped: Flags) -> Lists:
    """The same, with the marked lists empty."""
    return Lists(*_without_lists(lists.offsets, lists.values, dropped))
