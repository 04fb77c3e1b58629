"""Extraction functions: what a dimension's values become."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from rta.druid.problems import InvalidInputError, UnsupportedError
from rta.events.schemas import TIME
from tests.druid.tables import COUNT, ask, events, table_of

ROWS = table_of(
    pl.DataFrame(
        {
            TIME: [1_442_021_400_000, 1_442_100_600_000, 1_442_107_800_000],
            "s": ["Wiki:Talk", "main", None],
            "n": [17, -3, 5],
            "day": ["2015-09-12", "2015-09-13", "x"],
            "m": [["a", "b"], ["b"], None],
        }
    )
)


def values(function: dict[str, Any], dimension: str = "s") -> list[Any]:
    spec = {"type": "extraction", "dimension": dimension, "outputName": "v", "extractionFn": function}
    found = events(ask(ROWS, queryType="groupBy", dimensions=[spec], aggregations=[COUNT]))
    return [row["v"] for row in found]


LOOKUP = {"type": "map", "map": {"main": "Main page"}}


@pytest.mark.parametrize(
    ("function", "dimension", "expected"),
    [
        ({"type": "regex", "expr": "^(\\w+):"}, "s", [None, "Wiki", "main"]),
        (
            {"type": "regex", "expr": "^(\\w+):", "replaceMissingValue": True, "replaceMissingValueWith": "?"},
            "s",
            ["?", "Wiki"],
        ),
        ({"type": "regex", "expr": "(\\w+):(\\w+)", "index": 2}, "s", [None, "Talk", "main"]),
        ({"type": "partial", "expr": "^W"}, "s", [None, "Wiki:Talk"]),
        ({"type": "searchQuery", "query": {"type": "insensitive_contains", "value": "MA"}}, "s", [None, "main"]),
        ({"type": "substring", "index": 1, "length": 2}, "s", [None, "ai", "ik"]),
        ({"type": "substring", "index": 4}, "s", [None, ":Talk"]),
        ({"type": "strlen"}, "s", [None, "4", "9"]),
        ({"type": "upper"}, "s", [None, "MAIN", "WIKI:TALK"]),
        ({"type": "lower"}, "s", [None, "main", "wiki:talk"]),
        ({"type": "stringFormat", "format": "[%s]"}, "s", ["[Wiki:Talk]", "[main]", "[null]"]),
        (
            {"type": "stringFormat", "format": "[%s]", "nullHandling": "returnNull"},
            "s",
            [None, "[Wiki:Talk]", "[main]"],
        ),
        ({"type": "lookup", "lookup": LOOKUP}, "s", [None, "Main page"]),
        ({"type": "lookup", "lookup": LOOKUP, "retainMissingValue": True}, "s", [None, "Main page", "Wiki:Talk"]),
        ({"type": "lookup", "lookup": LOOKUP, "replaceMissingValueWith": "?"}, "s", ["?", "Main page"]),
        (
            {"type": "cascade", "extractionFns": [{"type": "lower"}, {"type": "substring", "index": 0, "length": 1}]},
            "s",
            [None, "m", "w"],
        ),
        ({"type": "bucket", "size": 10}, "n", ["-10", "0", "10"]),
        ({"type": "bucket", "size": 10, "offset": 5}, "n", ["-5", "15", "5"]),
        ({"type": "identity"}, "n", ["-3", "17", "5"]),
        ({"type": "timeFormat", "format": "yyyy-MM-dd"}, TIME, ["2015-09-12", "2015-09-13"]),
        (
            {"type": "timeFormat", "format": "EEEE HH", "timeZone": "Asia/Kolkata"},
            TIME,
            ["Saturday 07", "Sunday 05", "Sunday 07"],
        ),
        ({"type": "timeFormat", "granularity": "day"}, TIME, ["2015-09-12T00:00:00.000Z", "2015-09-13T00:00:00.000Z"]),
        ({"type": "timeFormat", "granularity": "day", "asMillis": True}, TIME, ["1442016000000", "1442102400000"]),
        ({"type": "time", "timeFormat": "yyyy-MM-dd", "resultFormat": "dd.MM."}, "day", [None, "12.09.", "13.09."]),
        ({"type": "upper"}, "m", [None, "A", "B"]),
    ],
    ids=str,
)
def test_a_function_of_values(function: dict[str, Any], dimension: str, expected: list[Any]) -> None:
    assert values(function, dimension) == expected


@pytest.mark.parametrize(
    ("function", "error", "names"),
    [
        ({"type": "javascript", "function": "x"}, UnsupportedError, "javascript"),
        ({"type": "registeredLookup", "lookup": "x"}, UnsupportedError, "registeredLookup"),
        ({"type": "lookup", "lookup": {"type": "namespace"}}, UnsupportedError, "namespace"),
        ({"type": "timeFormat", "format": "G"}, UnsupportedError, "G"),
        ({"type": "timeFormat", "format": "EEEE", "locale": "fr"}, UnsupportedError, "fr"),
        ({"type": "stringFormat", "format": "%d"}, UnsupportedError, "%d"),
        ({"type": "substring", "index": -1}, InvalidInputError, "-1"),
        ({"type": "regex", "expr": "("}, InvalidInputError, "regular expression"),
    ],
)
def test_what_is_no_function_is_refused(function: dict[str, Any], error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        values(function)
