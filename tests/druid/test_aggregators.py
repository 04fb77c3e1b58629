"""Aggregators and post-aggregators: their values, their types in JSON, and what they are of nothing."""

from __future__ import annotations

import base64
import math
from typing import Any

import polars as pl
import pytest
from datasketches import compact_theta_sketch, hll_sketch, quantiles_doubles_sketch

from rta.druid import hyperunique
from rta.druid.problems import InvalidInputError, UnsupportedError
from rta.events.schemas import TIME
from tests.druid.tables import COUNT, ask, events, table_of, total

ROWS = pl.DataFrame(
    {
        TIME: [0, 1_000, 2_000, 3_000, 4_000],
        "g": ["x", "x", "y", "y", "y"],
        "s": ["b", None, "a", "a", "12"],
        "n": [1, None, 3, 4, -2],
        "d": [1.9, 1.9, -1.9, None, 0.5],
        "m": [["p", "q"], ["q"], None, [], ["r"]],
        "t2": [50, 40, 30, 20, 10],
    },
    schema_overrides={"m": pl.List(pl.String)},
)
TABLE = table_of(ROWS)
NONE = {"type": "selector", "dimension": "g", "value": "nobody"}


def field(kind: str, name: str = "v", field_name: str = "n", **more: Any) -> dict[str, Any]:
    return {"type": kind, "name": name, "fieldName": field_name, **more}


def access(name: str) -> dict[str, Any]:
    return {"type": "fieldAccess", "name": name, "fieldName": name}


def constant(value: float) -> dict[str, Any]:
    return {"type": "constant", "name": "c", "value": value}


def same(found: Any, expected: Any) -> bool:
    """Equal in value and in type: 1 and 1.0 differ in JSON."""
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize(
    ("aggregator", "expected", "of_nothing"),
    [
        (COUNT | {"name": "v"}, 5, 0),
        (field("count"), 5, 0),
        (field("longSum"), 6, None),
        (field("doubleSum"), 6.0, None),
        (field("floatSum"), 6.0, None),
        (field("longSum", field_name="d"), 1, None),
        (field("doubleSum", field_name="d"), 2.4, None),
        (field("longSum", field_name="s"), 12, None),
        (field("longSum", field_name="nothing"), None, None),
        (field("longMin"), -2, None),
        (field("longMax"), 4, None),
        (field("doubleMin"), -2.0, None),
        (field("doubleMax", field_name="d"), 1.9, None),
        (field("max", field_name="d"), 1.9, None),
        (field("doubleMean"), 1.5, None),
        ({"type": "longSum", "name": "v", "expression": "n * 2"}, 12, None),
        ({"type": "doubleSum", "name": "v", "expression": "1.5"}, 7.5, None),
        ({"type": "longSum", "name": "v", "expression": "1"}, 5, None),
        (field("longFirst"), 1, None),
        (field("longLast"), -2, None),
        (field("longFirst", timeColumn="t2"), -2, None),
        (field("doubleLast", field_name="d"), 0.5, None),
        (field("stringFirst", field_name="s"), "b", None),
        (field("stringLast", field_name="s"), "12", None),
        (field("stringLast", field_name="s", maxStringBytes=1), "1", None),
        (field("stringAny", field_name="s"), "b", None),
        (field("longAny"), 1, None),
        (field("hyperUnique", field_name="s"), 3.0021994137521975, 0.0),
        (field("hyperUnique", field_name="s", round=True), 3, 0),
        ({"type": "cardinality", "name": "v", "fields": ["s"]}, 3.0021994137521975, 0.0),
        ({"type": "cardinality", "name": "v", "fieldNames": ["m"], "round": True}, 3, 0),
        ({"type": "cardinality", "name": "v", "fields": ["s", "g"], "round": True}, 5, 0),
        ({"type": "cardinality", "name": "v", "fields": ["s", "g"], "byRow": True, "round": True}, 4, 0),
        ({"type": "cardinality", "name": "v", "fields": ["nothing"], "round": True}, 0, 0),
        (field("HLLSketchBuild", field_name="s", round=True), 3, 0),
        (field("HLLSketchMerge", field_name="n", round=True), 4, 0),
        (field("thetaSketch", field_name="m"), 3.0, 0.0),
        (field("quantilesDoublesSketch", field_name="d"), 4, 0),
        (
            {
                "type": "filtered",
                "filter": {"type": "selector", "dimension": "g", "value": "y"},
                "aggregator": field("longSum"),
            },
            5,
            None,
        ),
        (
            {"type": "filtered", "name": "v", "filter": {"type": "true"}, "aggregator": {"type": "count", "name": ""}},
            5,
            0,
        ),
    ],
    ids=str,
)
def test_an_aggregator_over_rows_and_over_none(aggregator: dict[str, Any], expected: Any, of_nothing: Any) -> None:
    found = total(TABLE, aggregator)["v"]
    assert same(found, expected) or (isinstance(expected, float) and math.isclose(found, expected, rel_tol=1e-9))
    assert same(total(TABLE, aggregator, filter=NONE)["v"], of_nothing)


def test_the_first_value_is_null_if_the_earliest_row_has_none() -> None:
    later = {"type": "bound", "dimension": TIME, "lower": "1000", "ordering": "numeric"}
    assert total(TABLE, field("stringFirst", field_name="s"), filter=later) == {"v": None}


def test_aggregates_are_made_per_group() -> None:
    aggregators = [
        field("stringLast", "last", "s"),
        field("hyperUnique", "unique", "s"),
        {
            "type": "filtered",
            "filter": {"type": "selector", "dimension": "s", "value": "a"},
            "aggregator": {"type": "count", "name": "as"},
        },
    ]
    assert events(ask(TABLE, queryType="groupBy", dimensions=["g"], aggregations=aggregators)) == [
        {"g": "x", "last": None, "unique": 1.0002442201269182, "as": 0},
        {"g": "y", "last": "12", "unique": 2.000977198748901, "as": 2},
    ]


POSTS: list[tuple[dict[str, Any], Any]] = [
    ({"type": "arithmetic", "fn": "+", "fields": [access("n"), constant(1)]}, 7.0),
    ({"type": "arithmetic", "fn": "-", "fields": [access("n"), constant(1), constant(2)]}, 3.0),
    ({"type": "arithmetic", "fn": "*", "fields": [access("n"), constant(1.5)]}, 9.0),
    ({"type": "arithmetic", "fn": "/", "fields": [access("n"), constant(4)]}, 1.5),
    ({"type": "arithmetic", "fn": "/", "fields": [access("n"), constant(0)]}, 0.0),
    ({"type": "arithmetic", "fn": "quotient", "fields": [access("n"), constant(0)]}, "Infinity"),
    ({"type": "arithmetic", "fn": "pow", "fields": [access("n"), constant(2)]}, 36.0),
    ({"type": "arithmetic", "fn": "+", "fields": [access("none"), constant(1)]}, None),
    ({"type": "arithmetic", "fn": "/", "fields": [access("none"), constant(0)]}, None),
    ({"type": "constant", "value": 3}, 3),
    ({"type": "constant", "value": 3.0}, 3.0),
    ({"type": "fieldAccess", "fieldName": "n"}, 6),
    ({"type": "finalizingFieldAccess", "fieldName": "theta"}, 3.0),
    ({"type": "expression", "expression": "n / 4"}, 1),
    ({"type": "expression", "expression": "n / 4.0"}, 1.5),
    ({"type": "expression", "expression": "hu + 1"}, 4.0021994137521975),
    ({"type": "expression", "expression": "concat('n=', n)"}, "n=6"),
    ({"type": "hyperUniqueCardinality", "fieldName": "hu"}, 3.0021994137521975),
    ({"type": "doubleGreatest", "fields": [access("n"), constant(7)]}, 7.0),
    ({"type": "longLeast", "fields": [access("n"), constant(7)]}, 6),
    ({"type": "HLLSketchEstimate", "field": access("hll"), "round": True}, 3),
    (
        {
            "type": "HLLSketchEstimate",
            "field": {"type": "HLLSketchUnion", "fields": [access("hll"), access("hll")]},
            "round": True,
        },
        3,
    ),
    ({"type": "thetaSketchEstimate", "field": access("theta")}, 3.0),
    (
        {
            "type": "thetaSketchEstimate",
            "field": {"type": "thetaSketchSetOp", "func": "INTERSECT", "fields": [access("theta"), access("theta_y")]},
        },
        2.0,
    ),
    (
        {
            "type": "thetaSketchEstimate",
            "field": {"type": "thetaSketchSetOp", "func": "NOT", "fields": [access("theta"), access("theta_y")]},
        },
        1.0,
    ),
    ({"type": "quantilesDoublesSketchToQuantile", "field": access("q"), "fraction": 0.5}, 0.5),
    ({"type": "quantilesDoublesSketchToQuantiles", "field": access("q"), "fractions": [0, 1]}, [-1.9, 1.9]),
    ({"type": "quantilesDoublesSketchToRank", "field": access("q"), "value": 0.5}, 0.5),
    ({"type": "quantilesDoublesSketchToHistogram", "field": access("q"), "splitPoints": [0, 1]}, [1.0, 1.0, 2.0]),
    ({"type": "quantilesDoublesSketchToCDF", "field": access("q"), "splitPoints": [0, 1]}, [0.25, 0.5, 1.0]),
    ({"type": "quantilesDoublesSketchToQuantile", "field": access("q0"), "fraction": 0.5}, "NaN"),
]


@pytest.mark.parametrize(("post", "expected"), POSTS, ids=[str(p)[:100] for p, _ in POSTS])
def test_a_post_aggregator(post: dict[str, Any], expected: Any) -> None:
    aggregators = [
        field("longSum", "n"),
        field("longSum", "none", "nothing"),
        field("hyperUnique", "hu", "s"),
        field("HLLSketchBuild", "hll", "s"),
        field("thetaSketch", "theta", "s"),
        {
            "type": "filtered",
            "filter": {"type": "selector", "dimension": "g", "value": "y"},
            "aggregator": field("thetaSketch", "theta_y", "s"),
        },
        field("quantilesDoublesSketch", "q", "d"),
        {"type": "filtered", "filter": {"type": "false"}, "aggregator": field("quantilesDoublesSketch", "q0", "d")},
    ]
    assert same(total(TABLE, *aggregators, postAggregations=[{**post, "name": "p"}])["p"], expected)


def test_sketches_are_shown_as_druids_bytes_where_they_are_not_finalised() -> None:
    aggregators = [
        field("HLLSketchBuild", "hll", "s"),
        field("thetaSketch", "theta", "s", shouldFinalize=False),
        field("quantilesDoublesSketch", "q", "d"),
    ]
    found = total(TABLE, *aggregators, context={"finalize": False})
    assert hll_sketch.deserialize(base64.b64decode(found["hll"])).get_estimate() == pytest.approx(3)
    assert compact_theta_sketch.deserialize(base64.b64decode(found["theta"])).get_estimate() == 3
    assert quantiles_doubles_sketch.deserialize(base64.b64decode(found["q"])).n == 4
    assert total(TABLE, *aggregators)["theta"] == found["theta"]
    shown = total(TABLE, aggregators[0], postAggregations=[access("hll") | {"name": "bytes"}])
    assert hll_sketch.deserialize(base64.b64decode(shown["bytes"])).get_estimate() == pytest.approx(3)


def test_an_hll_sketch_of_texts_is_the_one_that_druid_builds() -> None:
    """Druid hashes a text's UTF-16 units: the coupons of "a" and "b" in a list, as DataSketches writes them."""
    by_units = hll_sketch(12)
    by_units.update("a\0")
    found = total(
        TABLE,
        field("HLLSketchBuild", "v", "s"),
        filter={"type": "selector", "dimension": "s", "value": "a"},
        context={"finalize": False},
    )
    coupon = base64.b64decode(found["v"])[8:12]
    assert coupon == bytes(by_units.serialize_compact())[8:12]


def test_many_distinct_values_are_estimated_within_the_bound() -> None:
    hashes = [hyperunique.text_hash(f"value {i}") for i in range(100_000)]
    found = hyperunique.estimate(hyperunique.of_hashes(hashes))
    assert found == pytest.approx(100_000, rel=4 * 1.04 / math.sqrt(2_048))
    parts = [hyperunique.of_hashes(hashes[i::4]).tobytes() for i in range(4)]
    assert hyperunique.estimate(hyperunique.merged(parts)) == found


@pytest.mark.parametrize(
    ("aggregator", "error", "names"),
    [
        (field("javascript"), UnsupportedError, "javascript"),
        (field("approxHistogram"), UnsupportedError, "approxHistogram"),
        (field("stringSum"), UnsupportedError, "stringSum"),
        (field("longMean"), UnsupportedError, "longMean"),
        ({"type": "longSum", "name": "v"}, InvalidInputError, "fieldName"),
        ({"type": "count"}, InvalidInputError, "name"),
        (field("HLLSketchBuild", lgK=30), InvalidInputError, "lgK"),
        (field("thetaSketch", size=1000), InvalidInputError, "size"),
        (field("thetaSketch", errorBoundsStdDev=1), UnsupportedError, "errorBoundsStdDev"),
        (field("longSum", field_name="m"), InvalidInputError, "m"),
    ],
)
def test_what_is_no_aggregator_is_refused(aggregator: dict[str, Any], error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        total(TABLE, aggregator)


@pytest.mark.parametrize(
    ("post", "error", "names"),
    [
        ({"type": "javascript"}, UnsupportedError, "javascript"),
        ({"type": "arithmetic", "fn": "%", "fields": [constant(1)]}, InvalidInputError, "%"),
        ({"type": "fieldAccess", "fieldName": "other"}, InvalidInputError, "other"),
        ({"type": "thetaSketchEstimate", "field": access("rows")}, InvalidInputError, "p"),
        ({"type": "expression", "expression": "lookup(rows, 'x')"}, UnsupportedError, "lookup"),
    ],
)
def test_what_is_no_post_aggregator_is_refused(post: dict[str, Any], error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        total(TABLE, COUNT, postAggregations=[{**post, "name": "p"}])
