"""Partial rows: right against a plain oracle, and lawful: they add in any order and any grouping."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.errors import CorruptFileError, InvalidDatasourceError
from rta.events.schemas import Column, ColumnType, Grain, MetricSpec, MetricType, Rollup
from rta.stream import sketches
from rta.stream.grouping import LONG_MAX, LONG_MIN
from rta.stream.rollups import check_rollups, finest_partials, from_polars, merge_partials
from tests.stream.shop import (
    BY_PAGE,
    EVENTS,
    METRICS,
    START,
    TOTAL,
    Event,
    canonical,
    datasource,
    folded_at_once,
    table_of,
)

SOURCE = datasource()


def partial(events: list[Event], rollup: Rollup = BY_PAGE) -> pl.DataFrame:
    return finest_partials(table_of(events), rollup, SOURCE)


def oracle(events: list[Event]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """BY_PAGE in plain Python."""
    groups: dict[tuple[Any, ...], list[Event]] = {}
    for e in events:
        groups.setdefault(((START + e.time) // 60_000 * 60_000, e.page, e.robot), []).append(e)
    out = {}
    for key, members in groups.items():
        sizes = [e.size for e in members if e.size is not None]
        prices = [e.price for e in members if e.price is not None]
        real = sorted(p for p in prices if not math.isnan(p))
        out[key] = {
            "events": len(members),
            "size_sum": sum(sizes),
            "size_sum__n": len(sizes),
            "price_sum": sum(prices),
            "price_sum__n": len(prices),
            "size_min": min(sizes, default=None),
            "price_max": max(real, default=None),
            "price__items": real,
            "users": len({e.user for e in members if e.user is not None}),
            "pages": Counter(e.page for e in members if e.page is not None),
        }
    return out


@settings(max_examples=150)
@given(st.lists(EVENTS, max_size=60))
def test_partials_of_raw_rows_equal_a_plain_oracle(events: list[Event]) -> None:
    found = {}
    for row in partial(events).to_dicts():
        key = (int(row["__time"].timestamp() * 1000), row["page"], row["robot"])
        row["users"] = len(row["users__items"])
        row["pages"] = Counter({p["value"]: p["count"] for p in row["pages__items"]})
        found[key] = row
    expected = oracle(events)
    assert found.keys() == expected.keys()
    for key, metrics in expected.items():
        for name, value in metrics.items():
            same = found[key][name] == value or (
                isinstance(value, float) and math.isnan(value) and math.isnan(found[key][name])
            )
            assert same, (key, name, found[key][name], value)


@settings(max_examples=100)
@given(st.lists(EVENTS, max_size=60), st.lists(st.integers(0, 3), min_size=60, max_size=60), st.randoms())
def test_any_split_merged_in_any_order_equals_the_whole(events: list[Event], parts_of: list[int], random: Any) -> None:
    events = [e._replace(price=None) if e.price is not None and not math.isfinite(e.price) else e for e in events]
    for rollup in (BY_PAGE, TOTAL):
        parts = [partial([e for e, p in zip(events, parts_of, strict=False) if p == k], rollup) for k in range(4)]
        whole = folded_at_once(events, rollup, SOURCE)
        random.shuffle(parts)
        assert canonical(merge_partials(parts, rollup, SOURCE), rollup) == whole
        left = merge_partials(parts[:2], rollup, SOURCE)
        right = merge_partials(parts[2:], rollup, SOURCE)
        assert canonical(merge_partials([right, left], rollup, SOURCE), rollup) == whole


@settings(max_examples=60)
@given(st.lists(EVENTS, min_size=1, max_size=80), st.lists(st.integers(0, 2), min_size=80, max_size=80))
def test_items_end_at_the_same_count_however_they_came_together(events: list[Event], parts_of: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketches, "ITEMS_MAX", 4)
        parts = [partial([e for e, p in zip(events, parts_of, strict=False) if p == k], TOTAL) for k in range(3)]
        merged = merge_partials([merge_partials(parts[:2], TOTAL, SOURCE), parts[2]], TOTAL, SOURCE).to_dicts()[0]
        whole = partial(events, TOTAL).to_dicts()[0]
        for metric in METRICS[5:]:
            assert (merged[metric.items] is None) != (merged[metric.sketch] is None)
            assert (merged[metric.sketch] is None) == (whole[metric.sketch] is None)
        assert merged["events"] == whole["events"] == len(events)
        prices = [e.price for e in events if e.price is not None and not math.isnan(e.price)]
        assert (merged["price__sketch"] is not None) == (len(prices) > 4)
        if merged["price__sketch"] is not None:
            sketch = sketches.read_kll(merged["price__sketch"])
            assert (sketch.n, sketch.get_min_value(), sketch.get_max_value()) == (len(prices), min(prices), max(prices))
        if merged["pages__sketch"] is not None:
            assert sketches.read_frequent(merged["pages__sketch"]).total_weight == sum(
                e.page is not None for e in events
            )


def test_a_merge_of_sketches_never_loses_a_value() -> None:
    parts = [partial([Event(0, str(i), user=f"u{k}-{i}", price=float(i)) for i in range(3000)]) for k in range(3)]
    row = merge_partials(parts, BY_PAGE, SOURCE).to_dicts()[0]
    assert row["price__items"] is None
    assert sketches.read_kll(row["price__sketch"]).n == 9000
    assert abs(sketches.read_hll(row["users__sketch"]).get_estimate() - 9000) < 3 * sketches.HLL_RELATIVE_ERROR * 9000
    assert row["events"] == 9000


def test_items_join_a_sketch_in_either_order() -> None:
    many = partial([Event(0, str(i), user=f"u{i}", page=f"p{i % 1500}", price=float(i)) for i in range(3000)], TOTAL)
    few = partial([Event(0, str(i), user=f"v{i}", page="p1", price=-1.0) for i in range(10)], TOTAL)
    for parts in ([many, few], [few, many]):
        row = merge_partials(parts, TOTAL, SOURCE).to_dicts()[0]
        assert sketches.read_kll(row["price__sketch"]).n == 3010
        assert sketches.read_kll(row["price__sketch"]).get_min_value() == -1.0
        assert abs(sketches.read_hll(row["users__sketch"]).get_estimate() - 3010) < 200
        assert sketches.read_frequent(row["pages__sketch"]).get_estimate("p1") == 12


def test_a_sum_of_longs_stays_at_the_bound_instead_of_wrapping() -> None:
    high = partial([Event(0, "1", size=int(LONG_MAX) - 1), Event(0, "2", size=5), Event(0, "3", size=-7)])
    assert high["size_sum"].to_list() == [LONG_MAX]
    low = partial([Event(0, "1", size=int(LONG_MIN) + 1), Event(0, "2", size=-5)])
    assert merge_partials([low, partial([Event(0, "4", size=9)])], BY_PAGE, SOURCE)["size_sum"].to_list() == [LONG_MIN]


def test_an_empty_input_has_the_schema_and_no_rows() -> None:
    schema = pl.from_arrow(SOURCE.rollup_schema(BY_PAGE).empty_table())
    assert isinstance(schema, pl.DataFrame)
    assert partial([]).schema == schema.schema
    assert merge_partials([], BY_PAGE, SOURCE).schema == schema.schema
    assert merge_partials([partial([]), partial([])], BY_PAGE, SOURCE).height == 0


def test_frames_keep_the_schema_through_a_merge() -> None:
    frame = partial([Event(0, "1"), Event(70_000, "2", page=None, price=None, user=None, size=None)])
    merged = merge_partials([frame, frame], BY_PAGE, SOURCE)
    assert merged.schema == frame.schema
    assert from_polars(merged).num_rows == 2


def test_a_column_that_older_rows_lack_counts_as_null() -> None:
    rows = table_of([Event(0, "1"), Event(0, "2")]).drop_columns(["price", "robot"])
    row = finest_partials(rows, BY_PAGE, SOURCE).to_dicts()[0]
    assert (row["robot"], row["price_sum"], row["price_sum__n"], row["price__items"]) == (None, 0.0, 0, [])


def test_a_metric_that_older_partials_lack_counts_as_nothing() -> None:
    old = partial([Event(0, "1")]).drop("price__items", "price__sketch", "pages__items", "pages__sketch", "size_sum")
    row = merge_partials([old, partial([Event(0, "2", price=3.0, size=4)])], BY_PAGE, SOURCE).to_dicts()[0]
    assert (row["events"], row["price__items"], row["size_sum"]) == (2, [3.0], 4)


def test_dimensions_of_every_type_group_by_value() -> None:
    kinds: dict[str, tuple[ColumnType, list[Any]]] = {
        "double": (ColumnType.DOUBLE, [0.0, -0.0, math.nan, math.nan, None]),
        "long": (ColumnType.LONG, [0, 0, 1, None, None]),
        "strings": (ColumnType.STRINGS, [["a"], ["a"], ["a", "b"], [], None]),
        "time": (ColumnType.TIMESTAMP, [5, 5, 0, None, None]),
        "flag": (ColumnType.BOOLEAN, [True, True, False, None, None]),
    }
    counts = {"double": [1, 2, 2], "long": [1, 2, 2], "strings": [1, 1, 1, 2], "time": [1, 2, 2], "flag": [1, 2, 2]}
    for name, (kind, values) in kinds.items():
        rollup = Rollup("r", Grain.MINUTE, (name,), (MetricSpec("events", MetricType.COUNT),))
        source = datasource((rollup,), columns=(Column(name, kind, (name,)),))
        schema = source.raw_schema()
        rows = pa.table(
            [
                pa.array([START] * 5, pa.int64()).cast(schema.field(0).type),
                pa.array(values, schema.field(1).type),
                pa.nulls(5, pa.string()),
            ],
            schema=schema,
        )
        frame = finest_partials(rows, rollup, source)
        assert sorted(frame["events"].to_list()) == counts[name], name
        again = merge_partials([frame, frame], rollup, source)
        assert sorted(again["events"].to_list()) == [2 * c for c in counts[name]], name


@settings(max_examples=100)
@given(
    st.lists(st.one_of(st.none(), st.text("a\0é", max_size=4), st.text("ab\0", min_size=45, max_size=50)), max_size=30)
)
def test_text_dimensions_group_by_every_byte_also_zeros_and_long_ones(pages: list[str | None]) -> None:
    frame = partial([Event(0, str(i), page=page) for i, page in enumerate(pages)])
    assert dict(zip(frame["page"].to_list(), frame["events"].to_list(), strict=True)) == Counter(pages)


def test_text_that_differs_in_a_trailing_zero_is_another_value() -> None:
    for length in (0, 1, 6, 7, 8, 15, 46, 47, 48):
        pages = ["a" * length, "a" * length + "\0", None]
        assert partial([Event(0, str(i), page=page) for i, page in enumerate(pages)])["events"].to_list() == [1, 1, 1]


def test_a_merge_takes_buckets_that_a_reader_made_coarser() -> None:
    frame = partial([Event(0, "1"), Event(61_000, "2"), Event(130_000, "3")])
    hours = frame.with_columns(pl.col("__time").dt.truncate("1h"))
    assert merge_partials([hours], BY_PAGE, SOURCE)["events"].to_list() == [3]


def test_a_sketch_that_is_garbage_names_its_metric() -> None:
    frame = partial([Event(0, "1")])
    bad = frame.with_columns(
        pl.lit(b"\x01\x02").alias("price__sketch"), pl.lit(None, pl.List(pl.Float64)).alias("price__items")
    )
    with pytest.raises(CorruptFileError, match="quantile sketch of 2 bytes"):
        merge_partials([bad, frame], BY_PAGE, SOURCE)


@pytest.mark.parametrize("kind", [MetricType.SUM, MetricType.QUANTILE, MetricType.MIN])
def test_a_metric_over_text_is_refused_with_the_types_that_it_takes(kind: MetricType) -> None:
    rollup = Rollup("r", Grain.MINUTE, (), (METRICS[0], MetricSpec("m", kind, "page")))
    with pytest.raises(InvalidDatasourceError, match="column of type double, long"):
        check_rollups(datasource((rollup,)))
