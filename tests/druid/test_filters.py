"""Filters: which rows each of them takes, and which its negation; nulls belong to neither."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from rta.druid.problems import InvalidInputError, UnsupportedError
from rta.events.schemas import TIME
from tests.druid.tables import ask, table_of

ROWS = pl.DataFrame(
    {
        TIME: [0, 3_600_000, 7_200_000, 86_400_000, 90_000_000, 172_800_000],
        "id": [0, 1, 2, 3, 4, 5],
        "s": ["apple", "Banana", "", None, "10", "9"],
        "r": ["apple", "banana", "x", None, "10", "8"],
        "n": [1, 2, 10, None, -5, 2],
        "d": [1.0, 2.5, None, 4.0, -1.0, 2.0],
        "m": [["a", "b"], ["b"], [], None, ["c", None], ["a"]],
    },
    schema_overrides={"m": pl.List(pl.String)},
)
TABLE = table_of(ROWS)
EVERY = {0, 1, 2, 3, 4, 5}


def ids(condition: dict[str, Any], **more: Any) -> set[int]:
    found = ask(TABLE, queryType="scan", columns=["id"], filter=condition, **more)
    return {row["id"] for part in found for row in part["events"]}


def selector(dimension: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"type": "selector", "dimension": dimension, "value": value, **more}


def bound(dimension: str, **more: Any) -> dict[str, Any]:
    return {"type": "bound", "dimension": dimension, **more}


CASES: list[tuple[dict[str, Any], set[int], set[int]]] = [
    # the filter, what it takes, what its negation takes
    (selector("s", "apple"), {0}, {1, 2, 4, 5}),
    (selector("s", ""), {2}, {0, 1, 4, 5}),
    (selector("s", None), {3}, {0, 1, 2, 4, 5}),
    (selector("nothing", None), EVERY, set()),
    (selector("nothing", "x"), set(), set()),
    (selector("n", "2"), {1, 5}, {0, 2, 4}),
    (selector("n", 2.0), {1, 5}, {0, 2, 4}),
    (selector("n", "two"), set(), {0, 1, 2, 4, 5}),
    (selector("d", "2.5"), {1}, {0, 3, 4, 5}),
    (selector("m", "a"), {0, 5}, {1}),
    (selector("m", None), {2, 3, 4}, {0, 1, 5}),
    (selector("s", "APPLE", extractionFn={"type": "upper"}), {0}, {1, 2, 4, 5}),
    ({"type": "in", "dimension": "s", "values": ["apple", "9"]}, {0, 5}, {1, 2, 4}),
    ({"type": "in", "dimension": "s", "values": ["apple", None]}, {0, 3}, {1, 2, 4, 5}),
    ({"type": "in", "dimension": "n", "values": ["1", 10]}, {0, 2}, {1, 4, 5}),
    ({"type": "in", "dimension": "s", "values": []}, set(), {0, 1, 2, 4, 5}),
    (bound("s", lower="a"), {0}, {1, 2, 4, 5}),
    (bound("s", upper="a"), {1, 2, 3, 4, 5}, {0}),
    (bound("s", lower="10", upper="9"), {4, 5}, {0, 1, 2}),
    (bound("s", lower="10", upper="9", lowerStrict=True, upperStrict=True), set(), {0, 1, 2, 4, 5}),
    (bound("s", lower="9", ordering="numeric"), {4, 5}, {0, 1, 2}),
    (bound("s", upper="9", ordering="numeric"), {0, 1, 2, 3, 5}, {4}),
    (bound("s", lower="9", ordering="alphanumeric"), {0, 1, 4, 5}, {2}),
    (bound("s", lower="ab", ordering="strlen"), {0, 1}, {2, 4, 5}),
    (bound("n", lower="2", ordering="numeric"), {1, 2, 5}, {0, 4}),
    (bound("n", lower="2"), {1, 5}, {0, 2, 4}),
    (bound("n", lower="-10", upper="1", ordering="numeric"), {0, 4}, {1, 2, 5}),
    (bound("s", lower="1", upper="99", alphaNumeric=True), {4, 5}, {0, 1, 2}),
    ({"type": "like", "dimension": "s", "pattern": "%an%"}, {1}, {0, 2, 4, 5}),
    ({"type": "like", "dimension": "s", "pattern": "_0"}, {4}, {0, 1, 2, 5}),
    ({"type": "like", "dimension": "s", "pattern": "a\\%%", "escape": "\\"}, set(), {0, 1, 2, 4, 5}),
    ({"type": "regex", "dimension": "s", "pattern": "[pn]"}, {0, 1}, {2, 4, 5}),
    ({"type": "search", "dimension": "s", "query": {"type": "insensitive_contains", "value": "AN"}}, {1}, {0, 2, 4, 5}),
    (
        {"type": "search", "dimension": "s", "query": {"type": "contains", "value": "AN", "caseSensitive": "false"}},
        {1},
        {0, 2, 4, 5},
    ),
    (
        {"type": "search", "dimension": "s", "query": {"type": "fragment", "values": ["b", "n"]}},
        {1},
        {0, 2, 4, 5},
    ),
    ({"type": "interval", "dimension": TIME, "intervals": ["1970-01-01T01/PT2H"]}, {1, 2}, {0, 3, 4, 5}),
    ({"type": "null", "column": "n"}, {3}, {0, 1, 2, 4, 5}),
    ({"type": "null", "column": "m"}, {2, 3}, {0, 1, 4, 5}),
    ({"type": "equals", "column": "s", "matchValueType": "STRING", "matchValue": "9"}, {5}, {0, 1, 2, 4}),
    ({"type": "equals", "column": "n", "matchValueType": "LONG", "matchValue": 10}, {2}, {0, 1, 4, 5}),
    ({"type": "equals", "column": "d", "matchValueType": "DOUBLE", "matchValue": 2.5}, {1}, {0, 3, 4, 5}),
    ({"type": "inType", "column": "n", "matchValueType": "LONG", "sortedValues": [1, 2]}, {0, 1, 5}, {2, 4}),
    ({"type": "range", "column": "n", "matchValueType": "LONG", "lower": 1, "upper": 10}, {0, 1, 2, 5}, {4}),
    (
        {
            "type": "range",
            "column": "n",
            "matchValueType": "LONG",
            "lower": 1,
            "lowerOpen": True,
            "upper": 10,
            "upperOpen": True,
        },
        {1, 5},
        {0, 2, 4},
    ),
    ({"type": "range", "column": "s", "matchValueType": "STRING", "upper": "a"}, {1, 2, 4, 5}, {0}),
    ({"type": "range", "column": "d", "matchValueType": "DOUBLE", "lower": 2.0}, {1, 3, 5}, {0, 4}),
    ({"type": "columnComparison", "dimensions": ["s", "r"]}, {0, 3, 4}, {1, 2, 5}),
    (
        {
            "type": "columnComparison",
            "dimensions": ["r", {"type": "extraction", "dimension": "s", "extractionFn": {"type": "lower"}}],
        },
        {0, 1, 3, 4},
        {2, 5},
    ),
    ({"type": "expression", "expression": "n > 1 && d < 3"}, {1, 5}, {0, 3, 4}),
    ({"type": "expression", "expression": "s == 'apple' || isnull(s)"}, {0, 3}, {1, 2, 4, 5}),
    (
        {"type": "arrayContainsElement", "column": "m", "elementMatchValueType": "STRING", "elementMatchValue": "b"},
        {0, 1},
        {5},
    ),
    ({"type": "true"}, EVERY, set()),
    ({"type": "false"}, set(), EVERY),
    ({"type": "and", "fields": [selector("n", 2), selector("s", "9")]}, {5}, {0, 1, 2, 4}),
    ({"type": "or", "fields": [selector("n", 2), selector("s", None)]}, {1, 3, 5}, {0, 2, 4}),
    ({"type": "not", "field": selector("n", 2)}, {0, 2, 4}, {1, 5}),
]


@pytest.mark.parametrize(("condition", "taken", "refused"), CASES, ids=[str(c)[:90] for c, _, _ in CASES])
def test_a_filter_and_its_negation(condition: dict[str, Any], taken: set[int], refused: set[int]) -> None:
    assert ids(condition) == taken
    assert ids({"type": "not", "field": condition}) == refused


def test_virtual_columns_are_filtered_by() -> None:
    double = {"type": "expression", "name": "twice", "expression": "n * 2", "outputType": "LONG"}
    assert ids(selector("twice", 4), virtualColumns=[double]) == {1, 5}


@pytest.mark.parametrize(
    ("condition", "error"),
    [
        ({"type": "javascript", "dimension": "s", "function": "x"}, UnsupportedError),
        ({"type": "spatial", "dimension": "s"}, UnsupportedError),
        ({"type": "regex", "dimension": "s", "pattern": "("}, InvalidInputError),
        ({"type": "regex", "dimension": "s", "pattern": "(?=a)"}, UnsupportedError),
        ({"type": "selector"}, InvalidInputError),
        ({"type": "in", "dimension": "s", "values": "x"}, InvalidInputError),
        ({"type": "equals", "column": "s", "matchValueType": "STRING"}, InvalidInputError),
        ({"dimension": "s", "value": "x"}, InvalidInputError),
        ({"type": "expression", "expression": "n >"}, InvalidInputError),
        ({"type": "expression", "expression": "bloom_filter_test(n, 'x')"}, UnsupportedError),
    ],
)
def test_what_can_not_be_filtered_by_is_refused(condition: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ids(condition)
