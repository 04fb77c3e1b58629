"""The rollups that hold what a question asks for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.query.rules.pairs import Pair, changed

ALL = ["daily", "hourly", "edits"]
PAIRS: list[Pair] = [
    ({}, {"candidates": []}, {"candidates": ALL}),
    ({"group_by": ["channel"]}, {"candidates": []}, {"candidates": ALL}),
    ({"filters": {"isRobot": True}}, {"candidates": []}, {"candidates": ["hourly", "edits"]}),
    ({"filters": {"isNew": True}}, {"candidates": []}, {"candidates": ["edits"]}),
    (
        {"metrics": [{"type": "quantile", "field": "delta", "q": 0.5}]},
        {"candidates": []},
        {"candidates": ["hourly", "edits"]},
    ),
    (
        {"metrics": [{"type": "unique_count", "field": "channel", "exact": True}]},
        {"candidates": []},
        {"candidates": ALL},
    ),
    ({"metrics": [{"type": "unique_count", "field": "user", "exact": True}]}, {}, {}),
    ({"metrics": [{"type": "min", "field": "added"}]}, {}, {}),
    ({"group_by": ["user"]}, {}, {}),
    ({"group_by": ["some.thing"]}, {}, {}),
    ({"select": ["*"]}, {}, {}),
    ({"table": "rejected"}, {}, {}),
]


@pytest.mark.parametrize(("document", "before", "after"), PAIRS)
def test_pairs(document: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> None:
    assert changed("rollup choice", document) == (before, after)
