"""Which table answers: the coarsest that is exact, and what is said of the others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rta.errors import InvalidQueryError
from rta.events.schemas import Grain, Retention
from rta.query.parse import parse_query
from rta.query.planner import Plan, Stock, explain, plan
from rta.query.time import TIME_MS_MIN
from tests.query import wikipedia
from tests.query.wikipedia import NOW_MS, planned

COUNT = {"name": "n", "type": "count"}
DAY_MS = 86_400_000


def asked(**more: Any) -> Plan:
    return planned({"metrics": [COUNT], **more})


@pytest.mark.parametrize(
    ("document", "table"),
    [
        ({}, "rollup_daily_day"),
        ({"group_by": ["channel"], "granularity": "week"}, "rollup_daily_day"),
        ({"granularity": "hour"}, "rollup_hourly_hour"),
        ({"granularity": "day", "timezone": "Europe/Berlin"}, "rollup_hourly_hour"),
        ({"granularity": "day", "timezone": "Asia/Kolkata"}, "rollup_edits_minute"),
        ({"granularity": "second"}, "events"),
        ({"granularity": "PT90S"}, "events"),
        ({"filters": {"isRobot": True}}, "rollup_hourly_hour"),
        ({"where": {"not": {"field": "countryName", "op": "is_null"}}}, "rollup_edits_minute"),
        ({"filters": {"user": "A"}}, "events"),
        ({"where": {"field": "time", "op": "gt", "value": 0}}, "rollup_hourly_hour"),
        ({"where": {"not": {"field": "time", "op": "gt", "value": 0}}}, "events"),
        ({"group_by": ["page"]}, "events"),
        ({"group_by": ["some.thing"]}, "events"),
        ({"time_range": "2015-09-12T00:00:00Z/2015-09-13T00:00:00Z"}, "rollup_daily_day"),
        ({"time_range": "2015-09-12T01:00:00Z/2015-09-13T00:00:00Z"}, "rollup_hourly_hour"),
        ({"time_range": "2015-09-12T01:00:00Z/2015-09-12T02:01:00Z"}, "rollup_edits_minute"),
        ({"time_range": "2015-09-12T01:00:00.001Z/2015-09-13T00:00:00Z"}, "rollup_edits_minute"),
        ({"time_range": "2015-09-12T01:00:30Z/2015-09-12T01:02:00Z"}, "rollup_edits_minute"),
        ({"time_range": "2015-09-12T01:00:01Z/2015-09-12T01:02:00Z"}, "rollup_edits_minute"),
        ({"time_range": "2015-09-12T01:00:30Z/2015-09-12T01:02:30Z"}, "rollup_edits_minute"),
        ({"time_range": "2015-09-12T01:00:29Z/2015-09-12T01:01:59Z"}, "events"),
        ({"time_range": "last 15m"}, "rollup_edits_minute"),
        ({"time_range": "today"}, "rollup_daily_day"),
        ({"metrics": [{"type": "sum", "field": "added"}]}, "rollup_daily_day"),
        ({"metrics": [{"type": "count", "field": "added"}]}, "rollup_daily_day"),
        ({"metrics": [{"type": "avg", "field": "deleted"}]}, "rollup_hourly_hour"),
        ({"metrics": [{"type": "quantile", "field": "delta", "q": 0.5}]}, "rollup_hourly_hour"),
        ({"metrics": [{"type": "quantile", "field": "delta", "q": 0.5, "exact": True}]}, "events"),
        ({"metrics": [{"type": "quantile", "field": "added", "q": 0.5}]}, "events"),
        ({"metrics": [{"type": "unique_count", "field": "user"}]}, "rollup_hourly_hour"),
        ({"metrics": [{"type": "unique_count", "field": "user", "exact": True}]}, "events"),
        ({"metrics": [{"type": "unique_count", "field": "channel", "exact": True}]}, "rollup_daily_day"),
        ({"metrics": [{"type": "top", "field": "page"}]}, "rollup_hourly_hour"),
        ({"metrics": [{"type": "min", "field": "added"}]}, "events"),
    ],
)
def test_the_coarsest_exact_table_is_chosen(document: dict[str, Any], table: str) -> None:
    assert planned({"metrics": [COUNT], **document}).table == table


def test_raw_rows_come_from_the_raw_table() -> None:
    assert planned({"select": ["*"]}).table == "events"


def test_a_rollup_does_not_answer_for_what_it_has_forgotten() -> None:
    retention = Retention(events_ms=365 * DAY_MS, rollups_ms=dict.fromkeys(Grain, 30 * DAY_MS))
    source = msgspec.structs.replace(wikipedia.datasource(), retention=retention)
    query = parse_query({"datasource": "wikipedia", "metrics": [COUNT], "time_range": "last 60d"})
    assert plan(query, source, NOW_MS).table == "events"
    assert plan(query, source, NOW_MS, Stock(oldest_ms=NOW_MS - 29 * DAY_MS)).table == "rollup_edits_minute"
    recent = parse_query({"datasource": "wikipedia", "metrics": [COUNT], "time_range": "last 20d"})
    assert plan(recent, source, NOW_MS).table == "rollup_edits_minute"


def test_without_raw_events_what_no_rollup_answers_is_refused() -> None:
    retention = Retention(events_ms=None)
    source = msgspec.structs.replace(wikipedia.datasource(), retention=retention)
    query = parse_query({"datasource": "wikipedia", "metrics": [COUNT], "group_by": ["user"]})
    with pytest.raises(InvalidQueryError, match="keeps no raw events and no rollup answers"):
        plan(query, source, NOW_MS)


def test_explain_says_why_each_other_table_was_not_taken() -> None:
    found = explain(asked(granularity="hour", filters={"isNew": True}))
    assert found["table"] == "rollup_edits_minute"
    reasons = {c["table"]: c["reason"] for c in found["considered"]}
    assert reasons["rollup_daily_day"] == "'isNew' is not among its dimensions"
    assert reasons["events"] == "'rollup_edits_minute' answers it"


def test_equal_questions_have_equal_keys_and_others_do_not() -> None:
    minutes = "2015-09-12T23:45:00Z/2015-09-13T00:01:00Z"
    again = [asked(time_range="last 15m"), asked(time_range=minutes)]
    assert again[0].key == again[1].key
    others: list[dict[str, Any]] = [
        {},
        {"limit": 5},
        {"filters": {"channel": "a"}},
        {"group_by": ["channel"]},
        {"timezone": "Asia/Tokyo"},
    ]
    assert len({asked(**o).key for o in others}) == len(others)
    changed = msgspec.structs.replace(wikipedia.datasource(), version=2)
    query = parse_query({"datasource": "wikipedia", "metrics": [COUNT]})
    assert plan(query, changed, NOW_MS).key != asked().key


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"metrics": [{"type": "sum", "field": "page"}]}, "the sum of 'page', which is string"),
        ({"metrics": [{"type": "max", "field": "isNew"}]}, "the max of 'isNew', which is boolean"),
        ({"metrics": [COUNT], "group_by": ["time"]}, "'group_by' names 'time'"),
        ({"metrics": [COUNT], "group_by": ["n"]}, "two columns of the answer are called 'n'"),
        ({"metrics": [{"type": "count", "name": "time"}], "granularity": "day"}, "called 'time'"),
        ({"metrics": [COUNT], "order_by": "-m"}, "'order_by' names 'm'"),
        ({"metrics": [{"type": "top", "field": "page", "name": "t"}], "order_by": "t"}, "a list of values"),
        ({"select": ["*"], "order_by": "nothing.here"}, "can't be ordered by 'nothing.here'"),
        ({"metrics": [COUNT], "table": "sessions"}, "has no table 'sessions'"),
    ],
)
def test_what_the_datasource_does_not_have_is_refused(document: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        planned(document)
    assert said in caught.value.message
    assert caught.value.hint


FIRST_DAY = 1_442_016_000_000
"""2015-09-12."""


def added_later(filled: dict[str, int | None], since: int = 5, raw: bool = True, **more: Any) -> Plan:
    """The daily rollup was added with version `since`."""
    first = asked(**more)
    rollups = tuple(
        msgspec.structs.replace(r, since=since if r.name == "daily" else 0) for r in first.datasource.rollups
    )
    if not raw:
        rollups = tuple(r for r in rollups if r.name == "daily")
    kept = first.datasource.retention if raw else msgspec.structs.replace(first.datasource.retention, events_ms=None)
    later = msgspec.structs.replace(first.datasource, rollups=rollups, retention=kept)
    return plan(first.query, later, NOW_MS, Stock(filled=filled))


@pytest.mark.parametrize(
    ("filled", "since", "table", "said"),
    [
        ({}, 5, "rollup_hourly_hour", "nothing is known to be complete"),
        ({"daily": None}, 5, "rollup_hourly_hour", "nothing is known to be complete"),
        ({"daily": FIRST_DAY + DAY_MS}, 5, "rollup_hourly_hour", "complete from 2015-09-13T00:00:00.000Z on so far"),
        ({"daily": FIRST_DAY}, 5, "rollup_daily_day", ""),
        ({"daily": TIME_MS_MIN}, 5, "rollup_daily_day", ""),
        ({"daily": TIME_MS_MIN}, -1, "rollup_hourly_hour", "remove it and add it again"),
    ],
)
def test_a_rollup_that_was_added_later_answers_for_what_is_filled(
    filled: dict[str, int | None], since: int, table: str, said: str
) -> None:
    found = added_later(filled, since, time_range="2015-09-12T00:00:00Z/2015-09-13T00:00:00Z")
    assert found.table == table
    assert said in next(c.reason for c in found.considered if c.table == "rollup_daily_day")


def test_without_raw_events_a_question_before_it_says_so() -> None:
    with pytest.raises(InvalidQueryError, match="complete from 2015-09-13T00:00:00\\.000Z on: there are no raw events"):
        added_later({"daily": FIRST_DAY + DAY_MS}, raw=False, time_range="2015-09-12T00:00:00Z/2015-09-13T00:00:00Z")
    later = "2015-09-13T00:00:00Z/2015-09-14T00:00:00Z"
    assert added_later({"daily": FIRST_DAY + DAY_MS}, raw=False, time_range=later).table == "rollup_daily_day"
