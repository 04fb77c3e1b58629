"""The inner loops of duplicate detection: a hash table of identities, a filter, search in a sorted run, sorting.

Arrays in, arrays out; what a step means and when an identity is forgotten is `rta.stream.dedup`'s. Identities are
hashes already, so their bits are used as they are: a slot is the high half scaled to the table's size. That keeps the
table in the order of the identities, which makes growing it one sequential pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from rta.stream.grouping import Flags, Ints, Longs
from rta.stream.model import Identities

FREE = np.int32(-1)
"""Step of a slot that holds nothing."""


@njit(cache=True, nogil=True)
def _slot(high: Any, capacity: int) -> Any:
    return np.int64(((high >> np.uint64(32)) * np.uint64(capacity)) >> np.uint64(32))


@njit(cache=True, nogil=True)
def admit(
    table: Identities, table_steps: Ints, ids: Identities, steps: Longs, refused: Flags, window: int
) -> tuple[Flags, int]:
    """Put identities into the table, each with its step, unless the table holds them inside their window.

    Args:
        table: (capacity, 2), with room for all of `ids`.
        table_steps: Per slot, the step, or FREE.
        ids: (n, 2), in the order in which they count.
        steps: Per identity; an entry of an older step than this less `window` is taken over.
        refused: Identities known from elsewhere; they are left out. Empty when there are none.
        window: Steps.

    Returns:
        Which identities are new, and how many slots were filled.
    """
    capacity = len(table_steps)
    new = np.zeros(len(ids), np.bool_)
    filled = 0
    for i in range(len(ids)):
        if len(refused) and refused[i]:
            continue
        high, low = ids[i, 0], ids[i, 1]
        at = _slot(high, capacity)
        while True:
            step = table_steps[at]
            if step == FREE:
                table[at, 0] = high
                table[at, 1] = low
                table_steps[at] = steps[i]
                new[i] = True
                filled += 1
                break
            if table[at, 0] == high and table[at, 1] == low:
                if step < steps[i] - window:
                    table_steps[at] = steps[i]
                    new[i] = True
                break
            at += 1
            if at == capacity:
                at = 0
    return new, filled


@njit(cache=True, nogil=True)
def move(old: Identities, old_steps: Ints, table: Identities, table_steps: Ints, oldest: int) -> int:
    """Copy the entries of step `oldest` and younger into an empty table; how many those are."""
    capacity = len(table_steps)
    moved = 0
    for i in range(len(old_steps)):
        if old_steps[i] == FREE or old_steps[i] < oldest:
            continue
        at = _slot(old[i, 0], capacity)
        while table_steps[at] != FREE:
            at += 1
            if at == capacity:
                at = 0
        table[at, 0] = old[i, 0]
        table[at, 1] = old[i, 1]
        table_steps[at] = old_steps[i]
        moved += 1
    return moved


@njit(cache=True, nogil=True)
def live_entries(table_steps: Ints, oldest: int) -> int:
    n = 0
    for step in table_steps:
        if step != FREE and step >= oldest:
            n += 1
    return n


@njit(cache=True, nogil=True)
def _filter_mask(low: Any) -> Any:
    one = np.uint64(1)
    six = np.uint64(63)
    return (
        (one << (low & six))
        | (one << ((low >> np.uint64(6)) & six))
        | (one << ((low >> np.uint64(12)) & six))
        | (one << ((low >> np.uint64(18)) & six))
    )


@njit(cache=True, nogil=True)
def filter_add(words: npt.NDArray[np.uint64], ids: Identities) -> None:
    """Mark identities in a Bloom filter of 64-bit blocks: one word and four bits each."""
    for i in range(len(ids)):
        words[_slot(ids[i, 0], len(words))] |= _filter_mask(ids[i, 1])


@njit(cache=True, nogil=True)
def filter_maybe(words: npt.NDArray[np.uint64], ids: Identities) -> Flags:
    """Which identities may have been added; never misses one that was."""
    out = np.zeros(len(ids), np.bool_)
    for i in range(len(ids)):
        mask = _filter_mask(ids[i, 1])
        out[i] = (words[_slot(ids[i, 0], len(words))] & mask) == mask
    return out


@njit(cache=True, nogil=True)
def search_run(run: Identities, ids: Identities, found: Flags, wanted: Flags) -> None:
    """Mark in `found` which of the wanted identities the sorted run holds."""
    for i in range(len(ids)):
        if found[i] or not wanted[i]:
            continue
        high, low = ids[i, 0], ids[i, 1]
        a, b = 0, len(run)
        while a < b:
            m = (a + b) >> 1
            if run[m, 0] < high or (run[m, 0] == high and run[m, 1] < low):
                a = m + 1
            else:
                b = m
        found[i] = a < len(run) and run[a, 0] == high and run[a, 1] == low


@njit(cache=True, nogil=True)
def _order_equal_highs(ids: Identities) -> None:
    for i in range(1, len(ids)):
        j = i
        while j > 0 and ids[j - 1, 0] == ids[j, 0] and ids[j - 1, 1] > ids[j, 1]:
            low = ids[j, 1]
            ids[j, 1] = ids[j - 1, 1]
            ids[j - 1, 1] = low
            j -= 1


def sorted_identities(ids: Identities) -> Identities:
    """A copy sorted by (high, low)."""
    out: Identities = ids[np.argsort(ids[:, 0])]
    _order_equal_highs(out)
    return out


@njit(cache=True, nogil=True)
def sums_by_record(low: npt.NDArray[np.uint64], new: Flags, ends: Longs) -> npt.NDArray[np.uint64]:
    """Per record: folded, their sum, dropped, their sum. `ends` are the rows at which the records end."""
    out = np.zeros((len(ends), 4), np.uint64)
    a = 0
    for r in range(len(ends)):
        for i in range(a, ends[r]):
            k = 0 if new[i] else 2
            out[r, k] += np.uint64(1)
            out[r, k + 1] += low[i]
        a = ends[r]
    return out
