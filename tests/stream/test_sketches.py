"""Estimates: exact from items, within their stated bounds from sketches."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rta.stream.sketches import (
    HLL_RELATIVE_ERROR,
    KLL_RANK_ERROR,
    TOP_ERROR,
    frequent_of,
    hll_of,
    kll_of,
    quantile,
    read_frequent,
    top,
    uniques,
)

ITEMS = pl.List(pl.Float64)
RNG = np.random.default_rng(7)


def column(*rows: list[float] | None) -> pl.Series:
    return pl.Series("items", rows, ITEMS)


def sketch_column(*rows: bytes | None) -> pl.Series:
    return pl.Series("sketch", rows, pl.Binary)


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_of_items_is_the_first_value_that_the_share_does_not_exceed(values: list[float], q: float) -> None:
    values.sort()
    expected = values[max(math.ceil(q * len(values)) - 1, 0)]
    assert quantile(column(values), sketch_column(None), q).to_list() == [expected]


def test_a_row_without_values_has_no_quantile_and_no_uniques() -> None:
    assert quantile(column([], None), sketch_column(None, None), 0.5).to_list() == [None, None]
    assert uniques(pl.Series([[]], dtype=pl.List(pl.Int64)), sketch_column(None)).to_list() == [0.0]


@pytest.mark.parametrize("q", [0.01, 0.5, 0.95, 0.999])
def test_a_quantile_of_a_sketch_is_within_its_rank_error(q: float) -> None:
    values = RNG.permutation(50_000).astype(float)
    data = kll_of(values[:20_000], [kll_of(values[20_000:])])
    found = quantile(column([1.0, 2.0], None), sketch_column(None, data), q).to_list()
    assert found[0] in (1.0, 2.0)
    # Twice the 99 % bound: KLL tosses coins.
    assert abs(found[1] / 50_000 - q) <= 2 * KLL_RANK_ERROR


def test_uniques_of_a_sketch_are_within_four_standard_deviations() -> None:
    hashes = RNG.integers(-(2**63), 2**63 - 1, 30_000)
    data = hll_of(hashes[:20_000], [hll_of(hashes[10_000:])])
    found = uniques(pl.Series([[1, 2, 3], None], dtype=pl.List(pl.Int64)), sketch_column(None, data)).to_list()
    assert found[0] == 3.0
    assert abs(found[1] - 30_000) <= 4 * HLL_RELATIVE_ERROR * 30_000


def test_uniques_do_not_depend_on_the_order_of_merging() -> None:
    parts = [hll_of(RNG.integers(0, 2**62, 5_000)) for _ in range(4)]
    none = np.zeros(0, np.int64)
    estimates = [
        uniques(pl.Series([None], dtype=pl.List(pl.Int64)), sketch_column(hll_of(none, order)))[0]
        for order in (parts, parts[::-1])
    ]
    assert estimates[0] == pytest.approx(estimates[1], rel=1e-9)


def test_heavy_hitters_of_a_sketch_are_within_their_error() -> None:
    counts = [100_000 // (i + 1) for i in range(20_000)]
    names = [f"page{i}" for i in range(20_000)]
    data = frequent_of(names[5_000:], counts[5_000:], [frequent_of(names[:5_000], counts[:5_000])])
    total = sum(counts)
    assert read_frequent(data).total_weight == total
    items = pl.Series([None], dtype=pl.List(pl.Struct({"value": pl.String, "count": pl.Int64})))
    found = top(items, sketch_column(data), 10).to_list()[0]
    assert [f["value"] for f in found[:5]] == names[:5]
    for f in found:
        assert abs(f["count"] - counts[names.index(f["value"])]) <= TOP_ERROR * total


def test_top_of_items_is_exact_and_ordered() -> None:
    rows = [[{"value": "b", "count": 2}, {"value": "a", "count": 2}, {"value": "c", "count": 9}], []]
    items = pl.Series(rows, dtype=pl.List(pl.Struct({"value": pl.String, "count": pl.Int64})))
    found = top(items, sketch_column(None, None), 2).to_list()
    assert found == [[{"value": "c", "count": 9}, {"value": "a", "count": 2}], []]
