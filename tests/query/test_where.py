"""Conditions, against an evaluator of three-valued logic written out in plain Python."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.errors import InvalidQueryError
from rta.events.schemas import (
    REST,
    TIME,
    Column,
    ColumnType,
    Datasource,
    Grain,
    MetricSpec,
    MetricType,
    Retention,
    Rollup,
)
from rta.query.execute import run_rollup
from rta.query.parse import parse_query
from rta.query.planner import Plan, plan
from rta.query.raw import run_raw
from rta.stream.rollups import finest_partials

TYPES = {"s": "string", "n": "long", "x": "double", "b": "boolean", "t": "timestamp", "tags": "string[]", "j": "json"}
ROWS: list[dict[str, Any]] = [
    {"s": "apple", "n": 1, "x": 0.5, "b": True, "t": 1_000, "tags": ["red", "round"], "p": 1},
    {"s": "a_b%c", "n": -5, "x": None, "b": False, "t": 2_000, "tags": [], "p": "1"},
    {"s": "Äpfel\nmehr", "n": 2**62, "x": 1e300, "b": None, "t": None, "tags": None, "p": True},
    {"s": None, "n": None, "x": -0.0, "b": True, "t": 0, "tags": ["green"], "p": None},
    {"s": "", "n": 0, "x": 0.0, "b": None, "t": -1_000, "tags": ["red"], "p": {"deep": [1]}},
    {"s": "banana", "n": 7, "x": 7.0, "b": False, "t": 1_500, "tags": ["green", "red"], "p": 2.5},
]


def datasource() -> Datasource:
    columns = tuple(Column(n, ColumnType(t), (n,)) for n, t in TYPES.items())
    rollup = Rollup("all", Grain.MINUTE, ("s", "n", "x", "b", "t"), (MetricSpec("rows", MetricType.COUNT),))
    return Datasource(
        name="d",
        incarnation="1",
        version=1,
        partitions=1,
        time_path=("time",),
        keys=("s",),
        id="s",
        columns=columns,
        rollups=(rollup,),
        retention=Retention(events_ms=10**14, rollups_ms=dict.fromkeys(Grain, 10**14)),
    )


def frame() -> pl.DataFrame:
    empty = pl.DataFrame(datasource().raw_schema().empty_table())
    data: dict[str, list[Any]] = {n: [r[n] for r in ROWS] for n in TYPES if n != "j"}
    data[TIME] = [60_000] * len(ROWS)
    data["j"] = [None] * len(ROWS)
    data[REST] = [json.dumps({"p": r["p"], "e": {"a.b": r["n"]}}) for r in ROWS]
    return pl.DataFrame(
        {
            c: pl.Series(data[c], dtype=pl.Int64 if d == pl.Datetime("ms", "UTC") else d).cast(d)
            for c, d in empty.schema.items()
        }
    )


def asked(condition: dict[str, Any], raw: bool) -> Plan:
    metrics = [{"type": "count", "name": "n"}]
    if raw:
        metrics.append({"type": "count", "field": "p", "name": "p"})
    document = {"datasource": "d", "metrics": metrics, "where": condition}
    return plan(parse_query(document), datasource(), 0)


def counted(condition: dict[str, Any], raw: bool) -> int:
    rows = frame()
    planned = asked(condition, raw)
    assert (planned.rollup is None) is raw
    if raw:
        return int(run_raw(planned, [rows]).frame["n"][0])
    partial = finest_partials(
        rows.to_arrow(compat_level=pl.CompatLevel.oldest()), datasource().rollups[0], datasource()
    )
    return int(run_rollup(planned, [partial]).frame["n"][0])


def truth(condition: dict[str, Any], row: dict[str, Any]) -> bool | None:
    if "not" in condition:
        inner = truth(condition["not"], row)
        return None if inner is None else not inner
    if "and" in condition or "or" in condition:
        decisive = "or" in condition
        parts = [truth(c, row) for c in condition["or" if decisive else "and"]]
        return decisive if decisive in parts else (None if None in parts else not decisive)
    value, wanted = row[condition["field"]], condition["value"]
    if condition["op"] == "is_null":
        return (value is None) is wanted
    if value is None:
        return None
    like = {"%": "(?s:.*)", "_": "(?s:.)"}
    tests: dict[str, Callable[[], Any]] = {
        "eq": lambda: value == wanted,
        "ne": lambda: value != wanted,
        "lt": lambda: value < wanted,
        "lte": lambda: value <= wanted,
        "gt": lambda: value > wanted,
        "gte": lambda: value >= wanted,
        "in": lambda: value in wanted,
        "like": lambda: re.fullmatch("".join(like.get(c) or re.escape(c) for c in wanted), value) is not None,
        "regex": lambda: re.search(wanted, value) is not None,
    }
    return bool(tests[condition["op"]]())


def values_of(field: str) -> list[Any]:
    return [r[field] for r in ROWS if r[field] is not None]


def leaves() -> st.SearchStrategy[dict[str, Any]]:
    ordered = st.sampled_from(["eq", "ne", "lt", "lte", "gt", "gte"])
    made = [st.builds(lambda f, v: {"field": f, "op": "is_null", "value": v}, st.sampled_from("snxbt"), st.booleans())]
    for field in "snxt":
        others: dict[str, list[Any]] = {"s": ["aq"], "n": [3, 0.5], "x": [2, 0.5], "t": [7]}
        some = st.sampled_from([*values_of(field), *others[field]])
        if field == "t":
            some = st.sampled_from(values_of(field))
        made.append(st.builds(lambda op, v, f=field: {"field": f, "op": op, "value": v}, ordered, some))
        made.append(
            st.builds(lambda v, f=field: {"field": f, "op": "in", "value": v}, st.lists(some, min_size=1, max_size=3))
        )
    made.append(
        st.builds(lambda op, v: {"field": "b", "op": op, "value": v}, st.sampled_from(["eq", "ne"]), st.booleans())
    )
    likes = st.sampled_from(["a%", "%an%", "_", "", "%", "a_b%c", "%\nm_hr"])
    made.append(st.builds(lambda v: {"field": "s", "op": "like", "value": v}, likes))
    made.append(
        st.builds(lambda v: {"field": "s", "op": "regex", "value": v}, st.sampled_from(["an", "^a", "[a-c]$", "^$"]))
    )
    return st.one_of(made)


def trees() -> st.SearchStrategy[dict[str, Any]]:
    return st.recursive(
        leaves(),
        lambda inner: st.one_of(
            st.builds(lambda parts: {"and": parts}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(lambda parts: {"or": parts}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(lambda part: {"not": part}, inner),
        ),
        max_leaves=5,
    )


@settings(max_examples=150, deadline=None)
@given(trees(), st.booleans())
def test_a_condition_takes_the_rows_for_which_it_is_true(condition: dict[str, Any], raw: bool) -> None:
    assert counted(condition, raw) == sum(truth(condition, row) is True for row in ROWS)


@pytest.mark.parametrize("raw", [False, True])
def test_ne_and_not_leave_out_rows_without_the_field(raw: bool) -> None:
    assert counted({"field": "s", "op": "ne", "value": "apple"}, raw) == 4
    assert counted({"not": {"field": "s", "op": "eq", "value": "apple"}}, raw) == 4
    assert counted({"not": {"field": "s", "op": "is_null"}}, raw) == 5


def test_like_takes_escaped_signs_as_they_are() -> None:
    assert counted({"field": "s", "op": "like", "value": "a\\_b\\%c"}, raw=True) == 1
    assert counted({"field": "s", "op": "like", "value": "a\\%"}, raw=True) == 0


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ({"field": "tags", "value": "red"}, 3),
        ({"field": "tags", "op": "ne", "value": "red"}, 2),
        ({"field": "tags", "op": "in", "value": ["round", "green"]}, 3),
        ({"field": "tags", "op": "like", "value": "r%"}, 3),
        ({"field": "tags", "op": "is_null"}, 1),
        ({"field": "p", "value": 1}, 1),
        ({"field": "p", "value": "1"}, 2),
        ({"field": "p", "value": True}, 1),
        ({"field": "p", "op": "ne", "value": 1}, 4),
        ({"field": "p", "op": "gte", "value": 1}, 2),
        ({"field": "p", "op": "in", "value": [1, "1", True]}, 3),
        ({"field": "p", "op": "is_null"}, 1),
        ({"field": "p.deep", "op": "is_null", "value": False}, 1),
        ({"field": 'e."a.b"', "op": "lt", "value": 2}, 3),
        ({"field": "time", "value": "1970-01-01T00:01:00Z"}, 6),
        ({"field": "t", "op": "gt", "value": "1970-01-01T00:00:01Z"}, 2),
    ],
)
def test_lists_and_paths_are_compared_as_documented(condition: dict[str, Any], rows: int) -> None:
    assert counted(condition, raw=True) == rows


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ({"field": "s", "value": 1}, "'s' is string and compared with 1"),
        ({"field": "n", "value": "1"}, "'n' is long and compared with '1'"),
        ({"field": "x", "value": True}, "'x' is double and compared with True"),
        ({"field": "b", "value": "true"}, "'b' is boolean and compared with 'true'"),
        ({"field": "b", "op": "lt", "value": True}, "'lt' on 'b', which is boolean"),
        ({"field": "n", "op": "like", "value": "1%"}, "'like' on 'n', which is long"),
        ({"field": "tags", "op": "gt", "value": "a"}, "'gt' on 'tags', which is string[]"),
        ({"field": "j", "value": "a"}, "'eq' on 'j', which holds JSON"),
        ({"field": "t", "value": "noon"}, "'noon' is not a time"),
        ({"field": "t", "value": 1.5}, "a time is compared with 1.5"),
        ({"field": "p", "op": "lt", "value": True}, "truth value"),
        ({"field": "s", "op": "regex", "value": "("}, "the regex on 's' is malformed"),
    ],
)
def test_a_comparison_that_a_type_does_not_have_is_refused(condition: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        asked(condition, raw=False)
    assert said in caught.value.message
    assert caught.value.hint
