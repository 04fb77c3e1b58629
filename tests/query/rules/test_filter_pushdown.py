"""Conditions on stored columns are tested as they are read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.query.rules.pairs import Pair, changed

FRENCH = {"field": "channel", "op": "eq", "value": "#fr.wikipedia"}
ODD = {"field": "odd", "op": "eq", "value": True}
PAIRS: list[Pair] = [
    ({}, {}, {}),
    (
        {"where": FRENCH},
        {"where": "channel eq '#fr.wikipedia'", "pushed": None},
        {"where": None, "pushed": "channel eq '#fr.wikipedia'"},
    ),
    (
        {"where": {"and": [ODD, FRENCH]}},
        {"where": "(odd eq True and channel eq '#fr.wikipedia')", "pushed": None},
        {"where": "odd eq True", "pushed": "channel eq '#fr.wikipedia'"},
    ),
    ({"where": {"or": [ODD, FRENCH]}}, {}, {}),
    (
        {"select": ["page"], "filters": {"channel": [f"c{i}" for i in range(12)]}},
        {"where": "channel in " + ", ".join(f"'c{i}'" for i in range(10)) + ", … 12 values", "pushed": None},
        {"where": None, "pushed": "channel in " + ", ".join(f"'c{i}'" for i in range(10)) + ", … 12 values"},
    ),
]


@pytest.mark.parametrize(("document", "before", "after"), PAIRS)
def test_pairs(document: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> None:
    assert changed("filter pushdown", document) == (before, after)
