"""Aggregates that do not fit a number: quantiles, distinct counts, heavy hitters.

Owns when plain items become a DataSketches sketch, how the two merge, and what is estimated from either. A row holds
items or a sketch, never both; it holds items exactly as long as there are at most `ITEMS_MAX` of them, however they
came together, so every estimate from items is exact and does not depend on the order of merging. Knows of no tables.

- quantile: every value, sorted; then KLL (k = 200). KLL compacts by the toss of a coin, so two sketches of the same
  values may differ within their bound.
- uniques: distinct 64-bit hashes, sorted; then HLL (lgK = 12, 8 bits) of the hashes.
- theta: distinct 64-bit hashes, sorted; then a theta sketch (lgK = 12) of the hashes, which can be intersected too.
- top: distinct values with exact counts, in no order; then a frequent-strings sketch (2^12 entries).

Cost: a vectorised update of 30 M values/s for KLL, 25 M/s for HLL; 3-7 µs to read, merge and write one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rta.errors import CorruptFileError
from rta.events.schemas import ITEMS_MAX
from rta.stream.grouping import Lists, without_lists

KLL_K = 200
KLL_RANK_ERROR = 0.0133
"""Normalized rank error of a quantile at k = 200, with 99 % confidence (`get_normalized_rank_error(200, False)`)."""
HLL_LG_K = 12
HLL_RELATIVE_ERROR = 0.0163
"""One standard deviation of the relative error of a union at lgK = 12 (1.04 / sqrt(4096))."""
THETA_LG_K = 12
THETA_RELATIVE_ERROR = 0.0156
"""One standard deviation of the relative error of a union at lgK = 12 (1 / sqrt(4096))."""
TOP_LG_SIZE = 12
TOP_ERROR = 3.5 / 2**TOP_LG_SIZE
"""A count from a frequent-strings sketch is at most this share of all counts too high or too low."""

Sketches = dict[int, list[bytes]]
"""Per group, the sketches that its rows bring along."""


def finish_quantiles(lists: Lists, sketches: Sketches) -> tuple[pa.Array, pa.Array]:
    """Items and sketch columns of a quantile metric; the lists are sorted up to `ITEMS_MAX` values."""
    return _finish(lists, sketches, kll_of)


def finish_uniques(lists: Lists, sketches: Sketches) -> tuple[pa.Array, pa.Array]:
    """Items and sketch columns of a unique_count metric; the lists are distinct."""
    return _finish(lists, sketches, hll_of)


def finish_theta(lists: Lists, sketches: Sketches) -> tuple[pa.Array, pa.Array]:
    """Items and sketch columns of a theta metric; the lists are distinct."""
    return _finish(lists, sketches, theta_of)


def finish_top(
    values: pa.Array, lists: Lists, counts: npt.NDArray[np.int64], sketches: Sketches
) -> tuple[pa.Array, pa.Array]:
    """Items and sketch columns of a top metric.

    Args:
        values: Distinct values, which `lists.values` points into by position.
        lists: Per group, positions in `values` and `counts`.
        counts: How often each was seen, by position.
        sketches: Per group, sketches to merge in.
    """

    def sketch(items: npt.NDArray[Any], parts: Sequence[bytes]) -> bytes:
        return frequent_of(values.take(pa.array(items)).to_pylist(), counts[items].tolist(), parts)

    lists, mask, column = _split(lists, sketches, sketch)
    order = pa.array(lists.values)
    items = pa.StructArray.from_arrays([values.take(order), pa.array(counts[lists.values])], fields=_TOP_FIELDS)
    return pa.ListArray.from_arrays(pa.array(lists.offsets), items, mask=mask), column


_TOP_FIELDS = [pa.field("value", pa.string()), pa.field("count", pa.int64())]


def _finish(lists: Lists, sketches: Sketches, make: Any) -> tuple[pa.Array, pa.Array]:
    lists, mask, column = _split(lists, sketches, make)
    return pa.ListArray.from_arrays(pa.array(lists.offsets), pa.array(lists.values), mask=mask), column


def _split(lists: Lists, sketches: Sketches, make: Any) -> tuple[Lists, pa.Array | None, pa.Array]:
    """Turn groups that are too long, or already have sketches, into sketches; the others keep their items."""
    count = len(lists.offsets) - 1
    large = np.diff(lists.offsets) > ITEMS_MAX
    if not sketches and not large.any():
        return lists, None, pa.nulls(count, pa.binary())
    if sketches:
        large[list(sketches)] = True
    column: list[bytes | None] = [None] * count
    for group in np.flatnonzero(large).tolist():
        items = lists.values[lists.offsets[group] : lists.offsets[group + 1]]
        column[group] = make(items, sketches.get(group, ()))
    return without_lists(lists, large), pa.array(large), pa.array(column, pa.binary())


def kll_of(items: npt.NDArray[np.float64], parts: Sequence[bytes] = ()) -> bytes:
    """One KLL sketch of the items and of the sketches in `parts`."""
    from datasketches import kll_doubles_sketch

    sketch = kll_doubles_sketch(KLL_K)
    if len(items):
        sketch.update(np.ascontiguousarray(items, np.float64))
    for part in parts:
        sketch.merge(read_kll(part))
    return bytes(sketch.serialize())


def hll_of(items: npt.NDArray[np.int64], parts: Sequence[bytes] = ()) -> bytes:
    """One HLL sketch of the hashes in `items` and of the sketches in `parts`."""
    from datasketches import HLL_8, hll_sketch, hll_union

    sketch = hll_sketch(HLL_LG_K, HLL_8)
    # The binding updates one value at a time; 40 ns each, and each distinct hash of a row comes once per batch.
    deque(map(sketch.update, items.tolist()), 0)
    if parts:
        union = hll_union(HLL_LG_K)
        for part in parts:
            union.update(read_hll(part))
        union.update(sketch)
        sketch = union.get_result(HLL_8)
    return bytes(sketch.serialize_compact())


def theta_of(items: npt.NDArray[np.int64], parts: Sequence[bytes] = ()) -> bytes:
    """One theta sketch of the hashes in `items` and of the sketches in `parts`. 32 KiB when it is full."""
    from datasketches import theta_union, update_theta_sketch

    sketch = update_theta_sketch(THETA_LG_K)
    deque(map(sketch.update, items.tolist()), 0)
    union = theta_union(THETA_LG_K)
    for part in parts:
        union.update(read_theta(part))
    union.update(sketch)
    return bytes(union.get_result().serialize())


def frequent_of(values: Sequence[str], counts: Sequence[int], parts: Sequence[bytes] = ()) -> bytes:
    """One frequent-strings sketch of the counted values and of the sketches in `parts`."""
    from datasketches import frequent_strings_sketch

    sketch = frequent_strings_sketch(TOP_LG_SIZE)
    for part in parts:
        sketch.merge(read_frequent(part))
    deque(map(sketch.update, values, counts), 0)
    return bytes(sketch.serialize())


def read_kll(data: bytes) -> Any:
    from datasketches import kll_doubles_sketch

    return _read(kll_doubles_sketch, data, "quantile")


def read_hll(data: bytes) -> Any:
    from datasketches import hll_sketch

    return _read(hll_sketch, data, "unique_count")


def read_theta(data: bytes) -> Any:
    from datasketches import compact_theta_sketch

    return _read(compact_theta_sketch, data, "theta")


def read_frequent(data: bytes) -> Any:
    from datasketches import frequent_strings_sketch

    return _read(frequent_strings_sketch, data, "top")


def _read(kind: Any, data: bytes, metric: str) -> Any:
    try:
        return kind.deserialize(data)
    except Exception as error:  # the binding raises whatever C++ threw
        raise CorruptFileError(f"reading a {metric} sketch of {len(data)} bytes: {error}") from error


def quantile(items: pl.Series, sketch: pl.Series, q: float) -> pl.Series:
    """The q-quantile of each row: the smallest value that at least the share q of the values does not exceed.

    Args:
        items: list<double>, sorted, null where there is a sketch.
        sketch: KLL bytes, null where there are items.
        q: From 0 to 1.

    Returns:
        float64, null where a row has no values. Exact from items; from a sketch the rank is off by at most
        `KLL_RANK_ERROR` (99 %). The same definition as KLL's inclusive quantile and polars' "equiprobable".
    """
    lengths = items.list.len()
    place = (lengths.cast(pl.Float64) * q).ceil().cast(pl.Int64).fill_null(0) - 1
    out = items.list.get(place.clip(lower_bound=0), null_on_oob=True).cast(pl.Float64)
    estimates = [(i, read_kll(data).get_quantile(q, True)) for i, data in _sketched(sketch)]
    return _with(out, estimates)


def uniques(items: pl.Series, sketch: pl.Series) -> pl.Series:
    """How many distinct values each row saw; float64, exact from items, else within `HLL_RELATIVE_ERROR` (68 %)."""
    out = items.list.len().cast(pl.Float64)
    return _with(out, [(i, read_hll(data).get_estimate()) for i, data in _sketched(sketch)])


def top(items: pl.Series, sketch: pl.Series, limit: int) -> pl.Series:
    """The `limit` most frequent values of each row with their counts: list<struct{value, count}>, most frequent first.

    Equal counts are ordered by value. Counts from a sketch are estimates, off by at most `TOP_ERROR` of all counts.
    """
    from datasketches import frequent_items_error_type

    rows: list[list[dict[str, Any]]] = []
    for row, data in zip(items.to_list(), sketch.to_list(), strict=True):
        if data is None:
            pairs = [(p["value"], p["count"]) for p in row or []]
        else:
            found = read_frequent(data).get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES)
            pairs = [(f[0], f[1]) for f in found]
        pairs.sort(key=lambda p: (-p[1], p[0]))
        rows.append([{"value": v, "count": c} for v, c in pairs[:limit]])
    return pl.Series(items.name, rows, pl.List(pl.Struct({"value": pl.String, "count": pl.Int64})))


def _sketched(sketch: pl.Series) -> list[tuple[int, bytes]]:
    if sketch.null_count() == len(sketch):
        return []
    return [(i, data) for i, data in enumerate(sketch.to_list()) if data is not None]


def _with(out: pl.Series, estimates: Sequence[tuple[int, float]]) -> pl.Series:
    if not estimates:
        return out
    values = [v if math.isfinite(v) or not math.isnan(v) else None for _, v in estimates]
    return out.scatter([i for i, _ in estimates], values)
