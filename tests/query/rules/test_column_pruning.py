"""Only the columns that the answer follows from are read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.query.rules.pairs import changed


@pytest.mark.parametrize(
    ("document", "columns"),
    [
        ({}, ["__time", "n"]),
        ({"group_by": ["channel"], "filters": {"isRobot": False}}, ["__time", "channel", "isRobot", "n"]),
        ({"metrics": [{"type": "sum", "field": "added"}]}, ["__time", "added", "added__n", "n"]),
        ({"metrics": [{"type": "count", "field": "added"}]}, ["__time", "added__n", "n"]),
        ({"metrics": [{"type": "max", "field": "delta"}]}, ["__time", "high", "n"]),
        (
            {"metrics": [{"type": "quantile", "field": "delta", "q": 0.5}]},
            ["__time", "delta__items", "delta__sketch", "n"],
        ),
        ({"group_by": ["user"], "metrics": [{"type": "sum", "field": "added"}]}, ["__time", "user", "added"]),
        ({"select": ["page", "extra.price"]}, ["__time", "page", "__rest"]),
        ({"where": {"field": "time", "op": "gte", "value": "2015-09-12T00:00:00Z"}}, ["__time", "n"]),
    ],
)
def test_pairs(document: dict[str, Any], columns: list[str]) -> None:
    assert changed("column pruning", document) == ({"columns": []}, {"columns": columns})
