"""What may stand in a question, and what is said to what may not."""

from __future__ import annotations

from typing import Any

import pytest

from rta.errors import InvalidQueryError
from rta.query.fields import join_path, parse_path
from rta.query.model import And, Compare, Granularity, Metric, Op, Or, Order, QueryMetricType, Unit
from rta.query.parse import parse_query

COUNT = {"name": "n", "type": "count"}
PRICE = {"name": "p", "type": "quantile", "field": "price", "q": 0.95}
DEEP: dict[str, Any] = {"field": "a", "value": 1}
for _ in range(64):
    DEEP = {"not": DEEP}


def asked(**more: Any) -> dict[str, Any]:
    return {"datasource": "events", "metrics": [COUNT], **more}


def raw(**more: Any) -> dict[str, Any]:
    return {"datasource": "events", "select": ["*"], **more}


def made(kind: str, **more: Any) -> dict[str, Any]:
    """A question with a derived metric `m` beside a count, a unique count and a top."""
    others = [COUNT, {"name": "u", "type": "unique_count", "field": "a"}, {"name": "t", "type": "top", "field": "a"}]
    return asked(metrics=[*others, {"name": "m", "type": kind, **more}], granularity="hour")


def sets(**more: Any) -> dict[str, Any]:
    return asked(metrics=[{"type": "theta", "field": "a", **more}])


def journey(**more: Any) -> dict[str, Any]:
    return asked(metrics=[{"type": "funnel", "field": "u", "window": "1h", "steps": [{}, {}], **more}])


def test_derived_metrics_come_behind_what_they_are_made_of() -> None:
    ratio = {"name": "r", "type": "ratio", "of": ["d", {"type": "sum", "field": "price"}]}
    query = parse_query(asked(metrics=[ratio, COUNT, {"name": "d", "type": "delta", "of": "n"}], granularity="hour"))
    assert [d.name for d in query.derived] == ["d", "r"]
    assert [m.name for m in query.metrics] == ["r.of.1", "n"]
    assert query.columns == ("r", "n", "d")


def test_the_question_of_the_documentation_is_read_whole() -> None:
    query = parse_query(
        {
            "datasource": "events",
            "time_range": "2026-01-01T00:00:00Z/2026-01-02T00:00:00Z",
            "granularity": "hour",
            "metrics": [COUNT, PRICE, {"type": "percentile", "percentile": 95, "field": "price"}],
            "filters": {"event_type": "page_view", "country": ["US", "VN", None]},
            "group_by": ["country", 'custom_properties."a.b"'],
            "order_by": "-p",
            "limit": 100,
        }
    )
    assert query.metrics[1] == Metric("p", QueryMetricType.QUANTILE, "price", 0.95)
    assert query.metrics[2] == Metric("percentile_price", QueryMetricType.QUANTILE, "price", 0.95)
    country = Or((Compare("country", Op.IN, ("US", "VN")), Compare("country", Op.IS_NULL, (True,))))
    assert query.where == And((Compare("event_type", Op.EQ, ("page_view",)), country))
    assert query.order_by == (Order("p", descending=True),)
    assert query.granularity == Granularity(Unit.MS, 3_600_000)
    assert (query.limit, query.max_staleness_ms, query.table) == (100, 10, "events")


def test_raw_rows_are_newest_first_unless_asked_otherwise() -> None:
    assert parse_query(raw()).order_by == (Order("time", descending=True),)
    assert parse_query(raw(order_by=["added", "-time"])).order_by == (Order("added"), Order("time", descending=True))


def test_filters_and_where_are_both_applied() -> None:
    query = parse_query(asked(filters={"a": 1}, where={"field": "b", "op": "gt", "value": 2}))
    assert query.where == And((Compare("a", Op.EQ, (1,)), Compare("b", Op.GT, (2,))))


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("a", ("a",)),
        ("a.b.c", ("a", "b", "c")),
        ('custom."a.b"', ("custom", "a.b")),
        ('"x""y".z', ('x"y', "z")),
        ('""', ("",)),
    ],
)
def test_a_path_with_quotes_is_split_and_joined_again(text: str, keys: tuple[str, ...]) -> None:
    assert parse_path(text) == keys
    assert parse_path(join_path(keys) or '""') == keys


@pytest.mark.parametrize(
    ("document", "said", "hint"),
    [
        ([], "JSON object", ""),
        ({"metrics": [COUNT]}, "no 'datasource'", "add"),
        ({"datasource": 1, "metrics": [COUNT]}, "'datasource' is 1", "text"),
        ({"datasource": "events"}, "asks for nothing", "metrics"),
        (asked(metrics=[]), "asks for nothing", ""),
        (asked(metrics="count"), "'metrics' is 'count'", "list"),
        (asked(metrics=[COUNT] * 101), "101 entries", "100"),
        (asked(metrics=["count"]), "metric 1 is 'count'", "type"),
        (asked(metrics=[COUNT, COUNT]), "two metrics are called 'n'", "own 'name'"),
        (asked(metrics=[{"type": "cnt"}]), "type 'cnt'", "did you mean 'count'?"),
        (asked(metrics=[{"type": "sum"}]), "no 'field'", "field"),
        (asked(metrics=[{"type": "sum", "field": "a", "colour": 1}]), "'colour'", "valid"),
        (asked(metrics=[{"type": "sum", "field": "a", "q": 0.5}]), "has 'q'", "quantile"),
        (asked(metrics=[{"type": "count", "k": 3}]), "has 'k'", "top"),
        (asked(metrics=[{"type": "quantile", "field": "a"}]), "no 'q'", "0.95"),
        (asked(metrics=[{"type": "percentile", "field": "a"}]), "no 'percentile'", "100"),
        (asked(metrics=[{"type": "quantile", "field": "a", "q": 95}]), "'q' 95", "0 to 1"),
        (asked(metrics=[{"type": "percentile", "field": "a", "percentile": 101}]), "101", "0 to 100"),
        (asked(metrics=[{"type": "quantile", "field": "a", "q": 0.1, "percentile": 10}]), "both", "one of them"),
        (asked(metrics=[{"type": "top", "field": "a", "k": 0}]), "'k' 0", "1 to 1,000"),
        (asked(metrics=[{"type": "unique_count", "field": "a", "exact": "yes"}]), "'exact' 'yes'", "true or false"),
        (asked(metrics=[{"type": "count", "name": "n" * 257}]), "257 characters", "256"),
        (made("rate"), "'of' None", "one metric, by name"),
        (made("rate", of="m"), "made of each other: m → m", "metric of the events"),
        (made("rate", of="nn"), "made of 'nn'", "did you mean 'n'?"),
        (made("rate", of="n", per="week"), "'per' 'week'", "second"),
        (made("rate", of={"type": "avg", "field": "a"}), "avg, which does not add up", "count or a sum"),
        (made("cumulative", of="u"), "unique_count, which does not add up", "count or a sum"),
        (made("delta", of="t"), "a top, which is no number", "use a metric"),
        (made("moving_avg", of="n"), "'window' None", "2 to 10,000"),
        (made("moving_avg", of="n", window=1), "'window' 1", "2 to 10,000"),
        (made("delta", of=["n", "u"]), "'of' ['n', 'u']", "one metric"),
        (made("ratio", of=["n"]), "'of' ['n']", "two metrics"),
        (made("ratio", of=["n", 2]), "contains 2", "write one"),
        (made("arithmetic", of=["n", 2]), "'op' None", "add, subtract"),
        (made("arithmetic", of=["n", 2], op="power"), "'op' 'power'", "valid"),
        (made("ratio", of=["n", "n"], window=2), "has 'window'", "moving_avg"),
        (made("ratio", of=["n", "n"], field="a"), "has 'field'", "count"),
        ({**made("delta", of="n"), "granularity": None}, "delta over time", "granularity"),
        (
            asked(metrics=[{"name": "a", "type": "delta", "of": "b"}, {"name": "b", "type": "delta", "of": "a"}]),
            "a → b → a",
            "",
        ),
        (asked(compare="yesterday"), "'compare' is 'yesterday'", "P7D"),
        (asked(compare="P0D"), "'compare' is 'P0D'", "previous"),
        (raw(compare="previous"), "'compare' has a meaning only with 'metrics'", ""),
        (asked(metrics=[{"type": "count", "filter": {}}]), "'filter'", "did you mean 'filters'?"),
        (asked(metrics=[{"type": "count", "filters": []}]), "'filters' is []", ""),
        (
            asked(metrics=[{"type": "top", "field": "a", "by": {"type": "top", "field": "b"}}]),
            "the type 'top'",
            "rank by",
        ),
        (asked(metrics=[{"type": "top", "field": "a", "by": "n"}]), "is 'n'", "sum"),
        (sets(op="xor", of=[{}, {}]), "'op' 'xor'", "union"),
        (sets(op="union", of=[{}]), "'of' [{}]", "at least 2 sets"),
        (sets(op="not", of=[]), "'of' []", "at least 1 set"),
        (sets(op="union", of=[{}, {"field": "b"}]), "sets of 'a' and of 'b'", "one field"),
        (sets(op="union", of=[{}, {"filter": 1}]), "unknown key 'filter'", "filters"),
        (
            sets(op="union", of=[{}, {"op": "not", "of": [{}], "filters": {"a": 1}}]),
            "'op' and a filter",
            "filter the sets",
        ),
        (sets(op="union", of=[{}] * 33), "too many sets", "32"),
        (journey(steps=None), "'steps' None", "write"),
        (journey(steps=[{}]), "has 1 steps", "2 to 32"),
        (journey(steps=[{}] * 33), "has 33 steps", "2 to 32"),
        (journey(steps=[{"name": "a"}, {"name": "a"}]), "two steps called 'a'", "own 'name'"),
        (journey(steps=[{}, {"filter": {}}]), "step 2", "filters"),
        (journey(window=None), "'window' None", "1h"),
        (journey(window="0s"), "'window' '0s'", "1h"),
        (journey(window="P1M"), "'window' 'P1M'", "7d"),
        (journey(window="11y"), "'window' '11y'", "10 years"),
        (journey(field=None), "no 'field'", "name the field"),
        (asked(metrics=[COUNT, *journey()["metrics"]]), "rows of its own", "alone"),
        (asked(metrics=[{"type": "retention", "field": "u", "period": "all"}]), "'period' 'all'", "week"),
        (asked(metrics=[{"type": "retention", "field": "u", "periods": 0}]), "'periods' 0", "1 to 366"),
        (asked(metrics=[{"type": "retention", "field": "u", "cohort": {"a": 1}}]), "unknown key 'a'", "filters"),
        (asked(metrics=[{"type": "retention", "field": "u"}], granularity="day"), "'period'", "granularity"),
        (asked(metrics=[{"type": "retention", "field": "u"}], compare="previous"), "can't be compared", "cohorts"),
        (asked(groupby=["a"]), "unknown key 'groupby'", "did you mean 'group_by'?"),
        (asked(select=["*"]), "both 'metrics' and 'select'", "one of them"),
        (asked(next="abc"), "'next' has a meaning only with 'select'", ""),
        (raw(group_by=["a"]), "'group_by' has a meaning only with 'metrics'", ""),
        (raw(select=[]), "'select' is empty", "*"),
        (raw(select=["a", "a"]), "'a' twice", ""),
        (raw(next="a", page="b"), "both 'next' and 'page'", "next"),
        (asked(table="event"), "'table' is 'event'", "did you mean 'events'?"),
        (asked(granularity="fortnight"), "'granularity' is 'fortnight'", "PT15M"),
        (asked(granularity="P1M1D"), "'granularity'", ""),
        (asked(granularity="PT0S"), "'granularity'", ""),
        (asked(granularity="P200Y"), "longer than 100 years", "all"),
        (asked(granularity=5), "'granularity' is 5", ""),
        (asked(timezone="Mars/Olympus"), "'timezone' is 'Mars/Olympus'", "Europe/Berlin"),
        (asked(timezone="../../etc/passwd"), "'timezone'", ""),
        (asked(time_range="2026-01-01T00:00:00/2026-01-02T00:00:00Z"), "no zone", "Z"),
        (asked(time_range="2026-01-02T00:00:00Z/2026-01-01T00:00:00Z"), "ends before it starts", "earlier"),
        (asked(time_range="yesteryear"), "'time_range' is 'yesteryear'", "today"),
        (asked(time_range="last 15 parsecs"), "'time_range'", "last 15m"),
        (asked(time_range="last 0m"), "empty", ""),
        (asked(time_range="2026-13-01/P1D"), "not a time", "2026-01-01T00:00:00Z"),
        (asked(time_range="P1D/P1D"), "two periods", ""),
        (asked(time_range=5), "'time_range' is 5", ""),
        (asked(filters=[]), "'filters' is []", ""),
        (asked(filters={"a": []}), "empty list", "at least one"),
        (asked(filters={"a": list(range(10_001))}), "10,001 values", "10,000"),
        (asked(filters={"a": {"b": 1}}), "value {'b': 1}", "text, a number"),
        (asked(filters={"a": float("nan")}), "nan", ""),
        (asked(filters={"a": 2**63}), str(2**63), ""),
        (asked(filters={"a": "x" * 65_537}), "65,537 characters", ""),
        (asked(filters={"": 1}), "field ''", ""),
        (asked(filters={"a..b": 1}), "empty key", '""'),
        (asked(filters={'a."b': 1}), "never ends", ""),
        (asked(filters={'"a"b': 1}), "behind a quote", ""),
        (asked(filters={".".join("a" * 33): 1}), "33 keys", "32"),
        (asked(where=[]), "part of 'where' is []", "and"),
        (asked(where={"and": []}), "'and' is []", "at least one"),
        (asked(where={"and": [DEEP], "or": [DEEP]}), "['and', 'or']", "stand alone"),
        (asked(where=DEEP), "deeper than 64", "flatter"),
        (asked(where={"or": [{"field": "a", "value": 1}] * 10_001}), "more than 10,000 parts", "in"),
        (asked(where={"field": "a", "op": "=", "value": 1}), "op '='", "valid"),
        (asked(where={"field": "a", "op": "like", "value": 1}), "value 1", "text"),
        (asked(where={"field": "a", "op": "regex", "value": "x" * 1_001}), "1,001 characters", "1,000"),
        (asked(where={"field": "a", "op": "eq"}), "has no value", "is_null"),
        (asked(where={"field": "a", "op": "in", "value": 1}), "'in' on 'a'", "list"),
        (asked(where={"field": "a", "op": "is_null", "value": 1}), "'is_null' on 'a'", "true or false"),
        (asked(where={"feild": "a", "value": 1}), "'feild'", "did you mean 'field'?"),
        (asked(where={"op": "eq", "value": 1}), "field None", ""),
        (asked(group_by=[1]), "contains 1", "texts"),
        (asked(group_by=["a"] * 33), "33 entries", "32"),
        (asked(group_by={"a": 1}), "'group_by' is {'a': 1}", "list"),
        (asked(order_by="-"), "contains '-'", ""),
        (asked(order_by=["n", "-n"]), "twice", ""),
        (asked(limit=0), "'limit' is 0", "1 to 100,000"),
        (asked(limit=100_001), "'limit' is 100001", "100,000"),
        (asked(limit=1.5), "'limit' is 1.5", "whole"),
        (asked(limit=True), "'limit' is True", "whole"),
        (asked(max_staleness_ms=-1), "'max_staleness_ms' is -1", "0"),
        (asked(after=5), "'after' is 5", "text"),
    ],
)
def test_a_malformed_question_is_refused_with_what_and_why(document: Any, said: str, hint: str) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        parse_query(document)
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint
