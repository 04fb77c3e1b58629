"""Estimates over lists and sketches of several rollup rows: quantiles, distinct counts, heavy hitters per group.

Plain items of all rows of a group are joined in one pass and answered exactly, however many there are, up to
`ITEMS_MAX_AT_ONCE` per question; what comes as sketches, or beyond that, is merged as sketches and answered within
their bounds. Both follow `rta.stream.sketches`, whose definitions of a quantile and of the bounds hold here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from rta.query.block import Block
from rta.query.coded import Part, count_distinct_coded, parts_of, ranks_coded
from rta.stream import sketches as sk
from rta.stream.grouping import Groups, Lists, gather_lists, readable

Longs = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Parts = dict[int, list[bytes]]
Bound = dict[str, float] | None
ITEMS_MAX_AT_ONCE = 1 << 24
"""Items that one question joins at once: 128 MiB."""
QUANTILE_BOUND = {"rank_error": sk.KLL_RANK_ERROR, "confidence": 0.99}
UNIQUE_BOUND = {"relative_error": round(2 * sk.HLL_RELATIVE_ERROR, 4), "confidence": 0.95}
TOP_BOUND = {"share_error": sk.TOP_ERROR, "confidence": 1.0}
_TOP_TYPE = pl.List(pl.Struct({"value": pl.String, "count": pl.Int64}))


class Selected(NamedTuple):
    """The rows that a question reads of one sketched metric.

    Args:
        slices: Block, first row, end row.
        items, sketch: The metric's columns.
        rows: Positions within the joined slices, ascending; None for all.
        groups: The group of each of them.
    """

    slices: Sequence[tuple[Block, int, int]]
    items: str
    sketch: str
    rows: Longs | None
    groups: Groups


def quantiles(selected: Selected, q: float) -> tuple[pl.Series, Bound]:
    """The q-quantile of each group, float64; null where a group has no value."""
    coded = _plain(selected)
    found = (
        None
        if coded is None
        else ranks_coded(coded, selected.items, selected.groups.number, _total(coded, selected), q)
    )
    if found is not None:
        return _nullable(*found), None
    lists, parts = joined(selected, sk.kll_of)
    values, there = _select_ranks(lists.offsets, lists.values, q)
    for group, sketches in parts.items():
        items = lists.values[lists.offsets[group] : lists.offsets[group + 1]]
        sketch = sk.read_kll(sk.kll_of(items, sketches))
        there[group] = not sketch.is_empty()
        values[group] = sketch.get_quantile(q, True) if there[group] else 0.0
    return _nullable(values, there), QUANTILE_BOUND if parts else None


def _nullable(values: npt.NDArray[np.float64], there: npt.NDArray[np.bool_]) -> pl.Series:
    series = pl.Series(values)
    return series if there.all() else series.zip_with(pl.Series(there), pl.Series([None], dtype=pl.Float64))


def _plain(selected: Selected) -> list[Part] | None:
    """The selected rows by block, if none of the slices has a sketch: then their items are all there is."""
    for block, first, end in selected.slices:
        low, high = np.searchsorted(block.sketches(selected.sketch)[0], (first, end)).tolist()
        if high > low:
            return None
    return list(parts_of(selected.slices, selected.rows, selected.groups.of_row))


def _total(parts: Sequence[Part], selected: Selected) -> int:
    """About how many items the selected rows have, from the share of rows that are selected."""
    total = 0
    for part, (block, first, end) in zip(parts, selected.slices, strict=True):
        offsets = block.lists(selected.items).offsets
        total += int(offsets[end] - offsets[first]) * len(part.places.of_row) // max(end - first, 1)
    return total


def uniques(selected: Selected) -> tuple[pl.Series, Bound]:
    """How many distinct values each group saw, int64."""
    coded = _plain(selected)
    if coded is not None:
        found = count_distinct_coded(coded, selected.items, selected.groups.number, _total(coded, selected))
        if found is not None:
            return pl.Series(found), None
    lists, parts = joined(selected, sk.hll_of)
    counts = count_distinct(lists.offsets, lists.values)
    for group, sketches in parts.items():
        items = lists.values[lists.offsets[group] : lists.offsets[group + 1]]
        counts[group] = round(sk.read_hll(sk.hll_of(np.unique(items), sketches)).get_estimate())
    return pl.Series(counts), UNIQUE_BOUND if parts else None


def tops(selected: Selected, k: int) -> tuple[pl.Series, Bound]:
    """The k most frequent values of each group with their counts, most frequent first, ties by value."""
    columns = [
        block.frame.get_column(selected.items).slice(first, end - first) for block, first, end in selected.slices
    ]
    rows: list[list[dict[str, Any]]] = [[] for _ in range(selected.groups.number)]
    parts = _sketches(selected)
    if columns:
        items = pl.concat(columns)
        items = items if selected.rows is None else items.gather(selected.rows)
        counted = (
            pl.DataFrame({"group": selected.groups.of_row, "item": items})
            .explode("item", empty_as_null=False, keep_nulls=False)
            .unnest("item")
            .group_by("group", "value")
            .agg(pl.col("count").sum())
        )
        ranked = counted.sort(["count", "value"], descending=[True, False])
        if not parts:
            ranked = ranked.group_by("group", maintain_order=True).head(k)
        for (group,), found in ranked.partition_by("group", as_dict=True).items():
            rows[int(group)] = found.select("value", "count").to_dicts()
    for group, sketches in parts.items():
        rows[group] = _frequent(rows[group], sketches)
    return pl.Series([r[:k] for r in rows], dtype=_TOP_TYPE), TOP_BOUND if parts else None


def _frequent(items: list[dict[str, Any]], sketches: list[bytes]) -> list[dict[str, Any]]:
    merged = sk.frequent_of([i["value"] for i in items], [i["count"] for i in items], sketches)
    found = sk.top(pl.Series([None], dtype=_TOP_TYPE), pl.Series([merged]), 1 << sk.TOP_LG_SIZE)
    return list(found.to_list()[0])


def joined(selected: Selected, sketch_of: Callable[..., bytes]) -> tuple[Lists, Parts]:
    """Per group the items of its rows, and the sketches that have to be merged with them.

    More items than fit at once become sketches, batch by batch.
    """
    parts = _sketches(selected)
    starts, ends, values = _spans(selected)
    total = int((ends - starts).sum())
    if total <= ITEMS_MAX_AT_ONCE:
        return gather_lists(starts.astype(np.int32), ends.astype(np.int32), values, selected.groups), parts
    batch = np.cumsum(ends - starts) // ITEMS_MAX_AT_ONCE
    for number in np.unique(batch):
        rows = np.flatnonzero(batch == number)
        base = int(starts[rows[0]])
        groups = Groups(selected.groups.of_row[rows], selected.groups.first_row)
        spans = [(at[rows] - base).astype(np.int32) for at in (starts, ends)]
        lists = gather_lists(spans[0], spans[1], readable(values[base:]), groups)
        for group in np.flatnonzero(np.diff(lists.offsets)).tolist():
            items = lists.values[lists.offsets[group] : lists.offsets[group + 1]]
            parts.setdefault(group, []).append(sketch_of(np.unique(items) if sketch_of is not sk.kll_of else items))
    empty = Lists(np.zeros(selected.groups.number + 1, np.int32), values[:0].copy())
    return empty, parts


def _spans(selected: Selected) -> tuple[Longs, Longs, npt.NDArray[Any]]:
    """Where the items of each selected row lie in one array of values. Joins nothing if there is one block."""
    starts, ends, values, base = [], [], [], 0
    for block, first, end in selected.slices:
        offsets, items = block.lists(selected.items)
        low, high = int(offsets[first]), int(offsets[end])
        bounds = offsets[first : end + 1].astype(np.int64) + (base - low)
        starts.append(bounds[:-1])
        ends.append(bounds[1:])
        values.append(items[low:high])
        base += high - low
    if not starts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), readable(np.zeros(0, np.float64))
    start, end_of = (s[0] if len(s) == 1 else np.concatenate(s) for s in (starts, ends))
    joined = readable(values[0] if len(values) == 1 else np.concatenate(values))
    if selected.rows is None:
        return start, end_of, joined
    return start[selected.rows], end_of[selected.rows], joined


def _sketches(selected: Selected) -> Parts:
    """Per group the sketches of its rows."""
    parts: Parts = {}
    base = 0
    for block, first, end in selected.slices:
        rows, data = block.sketches(selected.sketch)
        low, high = np.searchsorted(rows, (first, end)).tolist()
        for row, sketch in zip(rows[low:high].tolist(), data[low:high], strict=True):
            place = row - first + base
            if selected.rows is not None:
                found = int(np.searchsorted(selected.rows, place))
                if found == len(selected.rows) or selected.rows[found] != place:
                    continue
                place = found
            parts.setdefault(int(selected.groups.of_row[place]), []).append(sketch)
        base += end - first
    return parts


def _select_ranks(
    offsets: Codes, values: npt.NDArray[Any], q: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Per list the smallest value that at least the share q does not exceed. Reorders the lists."""
    count = len(offsets) - 1
    out = np.zeros(count, np.float64)
    there = np.zeros(count, np.bool_)
    sizes = np.diff(offsets)
    small = sizes <= _SMALL_LIST
    _small_ranks(offsets, values, q, out, there)
    for group in np.flatnonzero(~small).tolist():
        items = values[offsets[group] : offsets[group + 1]]
        rank = max(int(np.ceil(len(items) * q)) - 1, 0)
        kept, below = _bracketed(items, rank)
        if not below <= rank < below + len(kept):
            kept, below = items, 0
        kept.partition(rank - below)
        out[group] = kept[rank - below]
        there[group] = True
    return out, there


@njit(cache=True, nogil=True)
def _bracketed(values: Any, rank: int) -> tuple[Any, int]:
    """Values around the rank, by a sample of them, and how many lie below these (Floyd and Rivest 1975).

    The sample's places come from a fixed sequence, so that equal lists are treated alike. Rarely (one in 100,000) the
    rank is not among what is kept, and the caller looks at all values.
    """
    n = len(values)
    sample = np.empty(1024, np.float64)
    state = np.uint64(0x9E3779B97F4A7C15)
    for i in range(1024):
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        sample[i] = values[np.int64((state >> np.uint64(33)) % np.uint64(n))]
    sample.sort()
    share = rank / n
    spread = 4.5 * np.sqrt(share * (1.0 - share) * 1024.0) + 2.0
    first, last = np.int64(np.floor(share * 1024.0 - spread)), np.int64(np.ceil(share * 1024.0 + spread))
    low = sample[first] if first >= 0 else -np.inf
    high = sample[last] if last < 1024 else np.inf
    kept = np.empty(n, np.float64)
    count = 0
    below = 0
    for i in range(n):
        v = values[i]
        below += v < low
        if v >= low and v <= high:
            kept[count] = v
            count += 1
    return kept[:count], below


_SMALL_LIST = 512
"""Up to here a list is sorted by the kernel; above, a sample and one pass leave a tenth of it to select from."""


@njit(cache=True, nogil=True)
def _small_ranks(offsets: Codes, values: Any, q: float, out: Any, there: Any) -> None:
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        n = b - a
        if n == 0 or n > 512:
            continue
        if n > 32:
            values[a:b].sort()
        else:
            for i in range(a + 1, b):
                v = values[i]
                j = i - 1
                while j >= a and values[j] > v:
                    values[j + 1] = values[j]
                    j -= 1
                values[j + 1] = v
        out[g] = values[a + max(np.int64(np.ceil(n * q)) - 1, 0)]
        there[g] = True


def count_distinct(offsets: Codes, values: Longs) -> Longs:
    """How many distinct values each list has. The values are hashes: their low bits are taken as random. ~3 ns each."""
    longest = int(np.diff(offsets).max(initial=0))
    table = np.zeros(1 << max(int(longest * 2 - 1).bit_length(), 4), np.int64)
    out: Longs = _count_distinct(offsets, values.astype(np.int64, copy=False), table)
    return out


@njit(cache=True, nogil=True)
def _count_distinct(offsets: Codes, values: Longs, table: Longs) -> Longs:
    out = np.zeros(len(offsets) - 1, np.int64)
    ahead = np.int64(0)
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        size = 16
        while size < 2 * (b - a):
            size *= 2
        mask = size - 1
        table[:size] = 0
        zero = 0
        found = 0
        for i in range(a, b):
            if i + 16 < b:
                ahead ^= table[values[i + 16] & mask]
            v = values[i]
            if v == 0:
                zero = 1
                continue
            slot = v & mask
            known = table[slot]
            while known != 0 and known != v:
                slot = (slot + 1) & mask
                known = table[slot]
            found += known == 0
            table[slot] = v
        out[g] = found + zero
    # What was read ahead only to be in the cache must be used, or the compiler leaves it out.
    table[0] = ahead
    return out
