"""Conditions on the event time narrow the range."""

from __future__ import annotations

from typing import Any

import pytest

from tests.query.rules.pairs import Pair, changed

ALL_TIME = "0001-01-01T00:00:00.000Z/9999-12-31T23:59:59.999Z"
DAY = "2015-09-12T00:00:00.000Z/2015-09-13T00:00:00.000Z"


def since(text: str, op: str = "gte") -> dict[str, Any]:
    return {"field": "time", "op": op, "value": text}


FRENCH = {"field": "channel", "op": "eq", "value": "#fr.wikipedia"}
PAIRS: list[Pair] = [
    (
        {"where": since("2015-09-12T00:00:00Z")},
        {"time_range": ALL_TIME, "where": "time gte '2015-09-12T00:00:00Z'"},
        {"time_range": "2015-09-12T00:00:00.000Z/9999-12-31T23:59:59.999Z", "where": None},
    ),
    (
        {"where": {"and": [since("2015-09-12T00:00:00Z"), FRENCH, since("2015-09-13T00:00:00Z", "lt")]}},
        {
            "time_range": ALL_TIME,
            "where": "(time gte '2015-09-12T00:00:00Z' and channel eq '#fr.wikipedia' and time lt '2015-09-13T00:00:00Z')",
        },
        {"time_range": DAY, "where": "channel eq '#fr.wikipedia'"},
    ),
    (
        {"time_range": DAY, "where": {"and": [{"and": [since("2015-09-12T06:00:00Z", "eq")]}]}},
        {"time_range": DAY, "where": "((time eq '2015-09-12T06:00:00Z'))"},
        {"time_range": "2015-09-12T06:00:00.000Z/2015-09-12T06:00:00.001Z", "where": None},
    ),
    (
        {"time_range": DAY, "where": {"not": {"not": {"field": "__time", "op": "lte", "value": 1_442_016_059_999}}}},
        {"time_range": DAY, "where": "not not __time lte 1442016059999"},
        {"time_range": "2015-09-12T00:00:00.000Z/2015-09-12T00:01:00.000Z", "where": None},
    ),
    (
        {"time_range": DAY, "where": since("2016-01-01T00:00:00Z", "gt")},
        {"time_range": DAY, "where": "time gt '2016-01-01T00:00:00Z'"},
        {"time_range": "2015-09-13T00:00:00.000Z/2015-09-13T00:00:00.000Z", "where": None},
    ),
    ({"where": {"or": [since("2015-09-12T00:00:00Z"), FRENCH]}}, {}, {}),
    ({"where": {"not": since("2015-09-12T00:00:00Z")}}, {}, {}),
    ({"where": FRENCH}, {}, {}),
]


@pytest.mark.parametrize(("document", "before", "after"), PAIRS)
def test_pairs(document: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> None:
    assert changed("time pruning", document) == (before, after)
