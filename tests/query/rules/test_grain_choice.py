"""Coarse inside, finer at the edges, raw at the ends; as far as the tables are there and keep their rows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rta.errors import InvalidQueryError
from rta.events.schemas import Grain, Retention
from rta.query.parse import parse_query
from rta.query.plan import Plan, Stock
from rta.query.planner import explain, plan
from rta.query.time import TIME_MS_MIN
from tests.query import wikipedia
from tests.query.rules.pairs import COUNT, changed
from tests.query.wikipedia import NOW_MS

DAY_MS = 86_400_000
HOUR, DAY, MINUTE = "rollup_edits_hour", "rollup_edits_day", "rollup_edits_minute"
ALL_THERE = Stock(derived={HOUR: TIME_MS_MIN, DAY: TIME_MS_MIN})
BY_PAGE = {"group_by": ["metroCode"]}
"""Only the rollup `edits` has it."""


def cut(document: dict[str, Any], stock: Stock = ALL_THERE) -> list[tuple[str, str]]:
    _, after = changed("grain choice", {**BY_PAGE, **document}, stock)
    return [(part["table"], short(part["time_range"])) for part in after["parts"]]


def short(time_range: str) -> str:
    return time_range.replace("2015-09-", "").replace(":00.000Z", "")


@pytest.mark.parametrize(
    ("time_range", "expected"),
    [
        ("2015-09-10T00:00:00Z/2015-09-12T00:00:00Z", [(DAY, "10T00:00/12T00:00")]),
        (
            "2015-09-09T22:58:00Z/2015-09-12T01:01:00Z",
            [
                (MINUTE, "09T22:58/09T23:00"),
                (HOUR, "09T23:00/10T00:00"),
                (DAY, "10T00:00/12T00:00"),
                (HOUR, "12T00:00/12T01:00"),
                (MINUTE, "12T01:00/12T01:01"),
            ],
        ),
        (
            "2015-09-10T05:59:30Z/2015-09-10T07:00:30Z",
            [
                ("events", "10T05:59:30.000Z/10T06:00"),
                (HOUR, "10T06:00/10T07:00"),
                ("events", "10T07:00/10T07:00:30.000Z"),
            ],
        ),
        ("2015-09-10T05:00:00Z/2015-09-10T05:59:00Z", [(MINUTE, "10T05:00/10T05:59")]),
        ("2015-09-10T05:00:10Z/2015-09-10T05:00:50Z", [("events", "10T05:00:10.000Z/10T05:00:50.000Z")]),
        (
            "2015-09-10T05:00:59Z/2015-09-10T05:02:30Z",
            [
                ("events", "10T05:00:59.000Z/10T05:01"),
                (MINUTE, "10T05:01/10T05:02"),
                ("events", "10T05:02/10T05:02:30.000Z"),
            ],
        ),
    ],
)
def test_a_range_is_cut_where_the_grains_fit(time_range: str, expected: list[tuple[str, str]]) -> None:
    assert cut({"time_range": time_range}) == expected


@pytest.mark.parametrize(
    ("step", "zone", "tables"),
    [
        ("all", "UTC", [DAY]),
        ("day", "UTC", [DAY]),
        ("hour", "UTC", [HOUR]),
        ("5m", "UTC", [MINUTE]),
        ("day", "Europe/Berlin", [HOUR]),
        ("week", "Asia/Kolkata", [MINUTE]),
        ("second", "UTC", ["events"]),
    ],
)
def test_a_grain_must_not_blur_the_steps(step: str, zone: str, tables: list[str]) -> None:
    asked = {"granularity": step, "timezone": zone, "time_range": "2015-09-10T00:00:00Z/2015-09-12T00:00:00Z"}
    assert [table for table, _ in cut(asked)] == tables


def test_what_is_not_built_is_not_used_and_said() -> None:
    stock = Stock(derived={HOUR: TIME_MS_MIN})
    asked = {**BY_PAGE, "time_range": "2015-09-10T00:00:00Z/2015-09-12T00:00:00Z"}
    assert [table for table, _ in cut(asked, stock)] == [HOUR]
    found = explain(wikipedia.planned({**COUNT, **asked}, stock=stock))
    reasons = {c["table"]: (c["chosen"], c["reason"]) for c in found["considered"]}
    assert reasons[DAY] == (False, "it is not built yet")
    assert reasons[HOUR] == (True, "the coarsest rollup that answers exactly")
    assert reasons[MINUTE] == (False, "no whole minute of the time range is left for it")
    assert reasons["events"] == (False, f"'{MINUTE}' answers it")


def test_a_derived_table_answers_only_for_what_it_was_built_from() -> None:
    since = Stock(derived={HOUR: NOW_MS - 2 * DAY_MS, DAY: NOW_MS - 2 * DAY_MS})
    found = cut({"time_range": "2015-09-10T00:00:00Z/2015-09-12T00:00:00Z"}, since)
    assert found == [(MINUTE, "10T00:00/11T00:00"), (DAY, "11T00:00/12T00:00")]


def kept(minute: int, hour: int, day: int, raw: int | None) -> Any:
    rollups = {Grain.MINUTE: minute * DAY_MS, Grain.HOUR: hour * DAY_MS, Grain.DAY: day * DAY_MS}
    retention = Retention(events_ms=None if raw is None else raw * DAY_MS, rollups_ms=rollups)
    return msgspec.structs.replace(wikipedia.datasource(), retention=retention)


def ask(source: Any, time_range: str, stock: Stock = ALL_THERE) -> Plan:
    document = {"datasource": "wikipedia", **COUNT, **BY_PAGE, "time_range": time_range}
    return plan(parse_query(document), source, NOW_MS, stock)


def tables(planned: Plan) -> list[tuple[str, int]]:
    """Each part's table and length in minutes."""
    return [(p.table, (p.end_ms - p.start_ms) // 60_000) for p in planned.parts]


def test_coarser_tables_answer_for_what_finer_ones_have_forgotten() -> None:
    source = kept(minute=3, hour=6, day=100, raw=3)
    planned = ask(source, "2015-09-02T22:00:00Z/2015-09-12T22:59:00Z")
    assert tables(planned) == [(DAY, 9 * 1440), (HOUR, 22 * 60), (MINUTE, 59)]
    assert planned.forgotten == ((NOW_MS - 10 * DAY_MS - 2 * 3_600_000, NOW_MS - 10 * DAY_MS),)


def test_raw_events_answer_where_they_keep_longer_than_the_rollup() -> None:
    source = kept(minute=3, hour=3, day=3, raw=100)
    planned = ask(source, "2015-09-02T00:00:00Z/2015-09-12T00:00:00Z")
    assert (planned.tables, planned.rollup) == (("events",), None)
    assert next(c.reason for c in planned.considered if c.table == MINUTE).startswith("it keeps 3 days")
    young = Stock(oldest_ms=NOW_MS - 2 * DAY_MS, derived=ALL_THERE.derived)
    assert ask(source, "2015-09-02T00:00:00Z/2015-09-12T00:00:00Z", young).tables == (DAY,)


def test_without_raw_events_ragged_ends_are_refused_and_what_is_forgotten_is_named() -> None:
    source = kept(minute=3, hour=6, day=6, raw=None)
    with pytest.raises(InvalidQueryError, match="does not start and end at a whole minute"):
        ask(source, "2015-09-11T00:00:30Z/2015-09-12T00:00:00Z")
    planned = ask(source, "2015-09-08T22:30:00Z/2015-09-12T00:00:00Z")
    assert tables(planned) == [(HOUR, 60), (DAY, 3 * 1440)]
    assert planned.forgotten == ((NOW_MS - 4 * DAY_MS - 90 * 60_000, NOW_MS - 4 * DAY_MS - 60 * 60_000),)


def test_an_empty_range_reads_nothing() -> None:
    where = {"field": "time", "op": "gt", "value": "2016-01-01T00:00:00Z"}
    planned = wikipedia.planned({**COUNT, "where": where, "time_range": "2015-09-10T00:00:00Z/2015-09-12T00:00:00Z"})
    assert planned.parts == ()
    assert planned.table == "rollup_daily_day"
