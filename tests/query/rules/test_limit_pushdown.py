"""A page of raw rows reads one row more than it shows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.query.rules.pairs import Pair, changed

PAIRS: list[Pair] = [
    ({"select": ["*"], "limit": 20}, {"rows_max": None}, {"rows_max": 21}),
    ({"table": "rejected", "select": ["reason"], "limit": 1}, {"rows_max": None}, {"rows_max": 2}),
    ({"group_by": ["channel"], "limit": 20}, {}, {}),
]


@pytest.mark.parametrize(("document", "before", "after"), PAIRS)
def test_pairs(document: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> None:
    assert changed("limit pushdown", document) == (before, after)
