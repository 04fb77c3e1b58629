"""Rows beyond the files are looked for where some can be."""

from __future__ import annotations

from typing import Any

import pytest

from rta.query.plan import Stock
from tests.query.rules.pairs import changed

HOUR = "2015-09-12T00:00:00Z/2015-09-12T01:00:00Z"
RAGGED = "2015-09-12T00:00:30Z/2015-09-12T01:00:00Z"
MIDNIGHT_MS = 1_442_016_000_000
HOURLY, EDITS = "rollup_hourly_hour", "rollup_edits_minute"


@pytest.mark.parametrize(
    ("document", "hot", "after"),
    [
        ({"time_range": HOUR}, None, "2015-09-12T00:00:00.000Z/2015-09-12T01:00:00.000Z"),
        ({"time_range": HOUR}, {}, None),
        ({"time_range": HOUR}, {HOURLY: (MIDNIGHT_MS - 5, MIDNIGHT_MS - 1)}, None),
        ({"time_range": HOUR}, {HOURLY: (MIDNIGHT_MS + 3_600_000, MIDNIGHT_MS + 3_600_000)}, None),
        (
            {"time_range": HOUR},
            {HOURLY: (MIDNIGHT_MS - 5, MIDNIGHT_MS + 59_999)},
            "2015-09-12T00:00:00.000Z/2015-09-12T00:01:00.000Z",
        ),
        ({"time_range": HOUR}, {"events": (MIDNIGHT_MS, MIDNIGHT_MS + 59_999)}, None),
        (
            {"time_range": RAGGED},
            {"events": (MIDNIGHT_MS, MIDNIGHT_MS + 59_999)},
            "2015-09-12T00:00:30.000Z/2015-09-12T00:01:00.000Z",
        ),
        (
            {"time_range": RAGGED},
            {EDITS: (MIDNIGHT_MS + 120_000, MIDNIGHT_MS + 9_999_999), "events": (MIDNIGHT_MS, MIDNIGHT_MS + 120_001)},
            "2015-09-12T00:00:30.000Z/2015-09-12T01:00:00.000Z",
        ),
    ],
)
def test_pairs(document: dict[str, Any], hot: dict[str, tuple[int, int]] | None, after: str | None) -> None:
    found = changed("hot/cold split", document, Stock(hot=hot))
    assert found == (({}, {}) if after is None else ({"hot": None}, {"hot": after}))
