"""Metrics made of metrics: over the steps of time, of each row, ranked, and beside the period before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rta.errors import InvalidQueryError, OutOfMemoryError
from rta.query import axis, compose
from rta.query.compare import earlier_range
from rta.query.parse import parse_query
from rta.query.periods import absolute_range
from tests.query.test_sets import VISITS
from tests.query.visits import DAY, HOUR, NOW, SPRING, Visit, Visits, between, iso

VIEWS: dict[str, Any] = {"name": "views", "type": "count"}
SIZES: dict[str, Any] = {"name": "sizes", "type": "sum", "field": "size"}
USERS: dict[str, Any] = {"name": "users", "type": "unique_count", "field": "user"}
PRICE: dict[str, Any] = {"name": "price", "type": "avg", "field": "price"}


def gap() -> list[Visit]:
    """Two visits in the first hour, none in the second, one in the third."""
    return [Visit(SPRING, size=3), Visit(SPRING + 1, size=4), Visit(SPRING + 2 * HOUR, price=8.0)]


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def test_metrics_over_time_know_the_steps_without_events() -> None:
    metrics = [
        VIEWS,
        SIZES,
        USERS,
        PRICE,
        {"name": "average", "type": "moving_avg", "of": "views", "window": 2},
        {"name": "so_far", "type": "cumulative", "of": "sizes"},
        {"name": "more", "type": "delta", "of": "views"},
        {"name": "priced", "type": "moving_avg", "of": "price", "window": 3},
    ]
    rows = Visits(gap()).ask(metrics, granularity="hour", time_range=between(SPRING - HOUR, SPRING + 9 * HOUR))
    assert column(rows, "time") == [iso(SPRING + n * HOUR) for n in (-1, 0, 1, 2)]
    assert column(rows, "views") == [0, 2, 0, 1]
    assert column(rows, "sizes") == [None, 7, None, None]
    assert column(rows, "users") == [0, 1, 0, 1]
    assert column(rows, "average") == [0, 1.0, 1.0, 0.5]
    assert column(rows, "so_far") == [0, 7, 7, 7]
    assert column(rows, "more") == [None, 2, -2, 1]
    assert column(rows, "priced") == [None, None, None, 8.0]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(VISITS, max_size=40),
    st.integers(2, 4),
    st.lists(st.sampled_from(["country", "kind"]), max_size=2, unique=True),
    st.booleans(),
)
def test_metrics_over_time_equal_plain_python(visits: list[Visit], window: int, by: list[str], rollup: bool) -> None:
    metrics = [
        VIEWS,
        SIZES,
        {"name": "average", "type": "moving_avg", "of": "sizes", "window": window},
        {"name": "so_far", "type": "cumulative", "of": "views"},
        {"name": "more", "type": "delta", "of": "sizes"},
    ]
    rows = Visits(visits, (5, 11), rollup=rollup).ask(metrics, granularity="hour", group_by=by)
    want = []
    hours = [v.time // HOUR for v in visits]
    keys = {tuple(getattr(v, f) for f in by) for v in visits}
    for hour in range(min(hours, default=0), max(hours, default=-1) + 1):
        for key in sorted(keys, key=lambda k: [(part is None, part or "") for part in k]):

            def at(h: int, key: tuple[Any, ...] = key) -> list[Visit]:
                return [v for v in visits if v.time // HOUR == h and tuple(getattr(v, f) for f in by) == key]

            def total(h: int) -> int:
                return sum(v.size or 0 for v in at(h))

            there = [v.size for v in at(hour) if v.size is not None]
            before = range(max(hour - window + 1, min(hours)), hour + 1)
            row = {
                "time": iso(hour * HOUR),
                **dict(zip(by, key, strict=True)),
                "views": len(at(hour)),
                "sizes": sum(there) if there else None,
                "average": pytest.approx(sum(total(h) for h in before) / len(before)),
                "so_far": sum(len(at(h)) for h in range(min(hours), hour + 1)),
                "more": total(hour) - total(hour - 1) if hour > min(hours) else None,
            }
            want.append(row)
    assert rows == want


def test_a_rate_is_per_time_that_lies_in_the_range() -> None:
    rate = {"name": "rate", "type": "rate", "of": "views", "per": "minute"}
    range_ = between(SPRING + HOUR // 2, SPRING + 3 * HOUR)
    visits = [Visit(SPRING + HOUR // 2 + n) for n in range(15)] + [Visit(SPRING + HOUR + n) for n in range(15)]
    rows = Visits(visits).ask([VIEWS, rate], granularity="hour", time_range=range_)
    assert [(r["views"], r["rate"]) for r in rows] == [(15, 0.5), (15, 0.25)]
    assert Visits(visits).ask([VIEWS, rate], time_range=range_) == [{"views": 30, "rate": 0.2}]
    with pytest.raises(InvalidQueryError, match="how long"):
        Visits(visits).ask([VIEWS, rate])


def test_a_day_on_which_the_clock_changes_is_as_long_as_it_is() -> None:
    visits = [Visit(SPRING + n * DAY + 3 * HOUR) for n in (1, 2, 3)]
    rate = {"name": "rate", "type": "rate", "of": "views", "per": "day"}
    rows = Visits(visits).ask([VIEWS, rate], granularity="day", timezone="Europe/Berlin")
    assert column(rows, "rate") == [1.0, pytest.approx(24 / 23), 1.0]


def test_ratios_and_arithmetic_may_hold_metrics_of_their_own() -> None:
    visits = [
        Visit(SPRING, kind="view", size=2),
        Visit(SPRING, kind="error"),
        Visit(SPRING, "v", "error", "DE", size=5),
    ]
    errors = {"type": "count", "filters": {"kind": "error"}}
    metrics: list[dict[str, Any]] = [
        {"name": "rate", "type": "ratio", "of": [errors, {"type": "count"}]},
        {"name": "percent", "type": "arithmetic", "op": "multiply", "of": ["rate", 100]},
        {"name": "sized", "type": "arithmetic", "op": "divide", "of": [SIZES, {"type": "count", "field": "price"}]},
        {"name": "twice", "type": "arithmetic", "op": "subtract", "of": [3, {"type": "count"}, 1]},
    ]
    rows = Visits(visits, rollup=True).ask(metrics, group_by="country", order_by="-percent")
    assert rows == [
        {"country": "DE", "rate": 1.0, "percent": 100.0, "sized": None, "twice": 1},
        {"country": "US", "rate": 0.5, "percent": 50.0, "sized": None, "twice": 0},
    ]


def test_order_and_limit_come_after_what_is_derived() -> None:
    visits = [Visit(SPRING, kind=k, country=c) for c, kinds in {"A": "ve", "B": "e", "C": "vve"}.items() for k in kinds]
    ratio = {"name": "errors", "type": "ratio", "of": [{"type": "count", "filters": {"kind": "e"}}, {"type": "count"}]}
    answer = Visits(visits).answer({"metrics": [ratio], "group_by": "country", "order_by": "-errors", "limit": 2})
    assert (answer.frame.get_column("country").to_list(), answer.more) == (["B", "A"], True)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(VISITS, max_size=40),
    st.lists(st.sampled_from(["country", "kind"]), max_size=2, unique=True),
    st.booleans(),
    st.sampled_from(["sum", "theta"]),
)
def test_a_top_ranks_by_any_metric(visits: list[Visit], by: list[str], rollup: bool, kind: str) -> None:
    field = "size" if kind == "sum" else "user"
    top = {"name": "best", "type": "top", "field": "page", "k": 2, "by": {"type": kind, "field": field}}
    top["filters"] = {"country": ["US", "DE"]}
    rows = Visits(visits, (5, 11), rollup=rollup).ask([VIEWS, top], group_by=by)
    want = []
    keys = {tuple(getattr(v, f) for f in by) for v in visits} if by else {()}
    for key in sorted(keys, key=lambda k: [(part is None, part or "") for part in k]):
        some = [v for v in visits if tuple(getattr(v, f) for f in by) == key]
        counts: dict[str, Any] = {}
        for page in {v.page for v in some if v.country is not None and v.page is not None}:
            there = [getattr(v, field) for v in some if v.page == page and v.country is not None]
            there = [value for value in there if value is not None]
            if there or kind == "theta":
                counts[page] = sum(there) if kind == "sum" else len(set(there))
        best = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:2]
        lists = [{"value": page, kind: number} for page, number in best]
        want.append({**dict(zip(by, key, strict=True)), "views": len(some), "best": lists})
    assert rows == want


def test_a_top_by_count_is_the_plain_one() -> None:
    top = {"type": "top", "field": "page"}
    world = Visits([Visit(SPRING, page="/a"), Visit(SPRING, page="/b"), Visit(SPRING, page="/a")])
    assert world.ask([{**top, "by": {"type": "count"}}]) == world.ask([top])


def previous(value: float, before: float) -> tuple[Any, ...]:
    return value, before, (value - before) / before if before else None


def test_groups_that_only_one_period_has_stand_in_both() -> None:
    visits = [Visit(SPRING, country=c) for c in ("US", "US", "DE")]
    visits += [Visit(SPRING + DAY, country=c) for c in ("US", "FR", "FR")]
    rows = Visits(visits, rollup=True).ask(
        [VIEWS, SIZES], time_range=between(SPRING + DAY, SPRING + 2 * DAY), group_by="country", compare="previous"
    )
    found = [(r["country"], r["views"], r["views_previous"], r["views_change"]) for r in rows]
    assert found == [("DE", *previous(0, 1)), ("FR", *previous(2, 0)), ("US", *previous(1, 2))]
    assert list(rows[0]) == [
        "country",
        "views",
        "views_previous",
        "views_change",
        "sizes",
        "sizes_previous",
        "sizes_change",
    ]


def test_steps_meet_by_their_number_and_what_is_to_come_is_null() -> None:
    visits = [Visit(SPRING + n * HOUR) for n in (0, 1, 1, 5)] + [Visit(SPRING + DAY + n * HOUR) for n in (0, 3)]
    rows = Visits(visits).ask(
        [VIEWS], granularity="hour", time_range=between(SPRING + DAY, SPRING + 2 * DAY), compare="previous"
    )
    assert [tuple(r.values()) for r in rows] == [
        (iso(SPRING + DAY), iso(SPRING), 1, 1, 0.0),
        (iso(SPRING + DAY + HOUR), iso(SPRING + HOUR), 0, 2, -1.0),
        (iso(SPRING + DAY + 3 * HOUR), None, 1, 0, None),
        (iso(SPRING + DAY + 5 * HOUR), iso(SPRING + 5 * HOUR), None, 1, None),
    ]


def test_days_meet_over_a_change_of_the_clock() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    days = [datetime(2026, 3, 23 + n, 12, tzinfo=berlin) for n in range(7)]
    days += [days[0] + timedelta(days=7 + n) for n in range(7)]
    visits = [Visit(int(d.astimezone(UTC).timestamp()) * 1000) for i, d in enumerate(days) for _ in range(i + 1)]
    start, end = (datetime(2026, m, d, tzinfo=berlin).astimezone(UTC) for m, d in ((3, 30), (4, 6)))
    range_ = between(int(start.timestamp()) * 1000, int(end.timestamp()) * 1000)
    rows = Visits(visits).ask(
        [VIEWS], granularity="day", timezone="Europe/Berlin", time_range=range_, compare="previous"
    )
    assert [(r["views"], r["views_previous"]) for r in rows] == [(n + 8, n + 1) for n in range(7)]


def test_derived_metrics_are_compared_too() -> None:
    visits = [Visit(SPRING + n * HOUR) for n in (0, 0, 1)] + [Visit(SPRING + DAY + n * HOUR) for n in (0, 1, 1, 1)]
    metrics = [VIEWS, {"name": "so_far", "type": "cumulative", "of": "views"}]
    rows = Visits(visits).ask(
        metrics, granularity="hour", time_range=between(SPRING + DAY, SPRING + 2 * DAY), compare="P1D"
    )
    assert [(r["so_far"], r["so_far_previous"], r["so_far_change"]) for r in rows] == [(1, 2, -0.5), (4, 3, 1 / 3)]


@pytest.mark.parametrize(
    ("time_range", "granularity", "zone", "compare", "expected"),
    [
        ("2026-03-10T00:00:00Z/2026-03-11T00:00:00Z", "all", "UTC", "previous", ("2026-03-09T00", "2026-03-10T00")),
        (
            "2026-03-10T10:30:00Z/2026-03-10T12:30:00Z",
            "hour",
            "UTC",
            "previous",
            ("2026-03-10T08:30", "2026-03-10T10:30"),
        ),
        ("2026-03-10T00:00:00Z/2026-03-12T09:00:00Z", "day", "UTC", "previous", ("2026-03-07T00", "2026-03-09T09")),
        ("2026-03-01T00:00:00Z/2026-04-01T00:00:00Z", "month", "UTC", "previous", ("2026-02-01T00", "2026-03-01T00")),
        # From midnight to midnight in Berlin: 23 hours, the day before has 24.
        (
            "2026-03-28T23:00:00Z/2026-03-29T22:00:00Z",
            "all",
            "Europe/Berlin",
            "previous",
            ("2026-03-27T23", "2026-03-28T23"),
        ),
        (
            "2026-03-28T23:00:00Z/2026-03-29T22:00:00Z",
            "hour",
            "Europe/Berlin",
            "P7D",
            ("2026-03-21T23", "2026-03-22T23"),
        ),
        ("2026-03-31T00:00:00Z/2026-04-01T00:00:00Z", "all", "UTC", "P1M", ("2026-02-28T00", "2026-03-01T00")),
        ("this month", "day", "UTC", "previous", ("2026-03-01T00", "2026-04-01T00")),
        ("today", "hour", "Europe/Berlin", "previous", ("2026-04-24T22", "2026-04-25T22")),
        ("last 6h", "all", "UTC", "PT1H", ("2026-04-25T17", "2026-04-25T23:01")),
    ],
)
def test_the_period_before_is_the_one_that_people_mean(
    time_range: str, granularity: str, zone: str, compare: str, expected: tuple[str, str]
) -> None:
    query = parse_query(
        {
            "datasource": "visits",
            "metrics": [VIEWS],
            "time_range": time_range,
            "granularity": granularity,
            "timezone": zone,
            "compare": compare,
        }
    )
    found = earlier_range(query, absolute_range(query.time_range, query.granularity, zone, NOW))
    full = tuple(iso(at) for at in found)
    assert all(text.startswith(start) for text, start in zip(full, expected, strict=True)), full


def test_bounds_of_estimates_go_where_the_estimates_go() -> None:
    visits = [
        Visit(SPRING + day * DAY, f"u{n}", kind) for day in (0, 1) for kind in ("view", "pay") for n in range(3_000)
    ]
    payers = {"name": "payers", "type": "theta", "field": "user", "filters": {"kind": "pay"}}
    metrics = [USERS, payers, {"name": "share", "type": "ratio", "of": ["payers", "users"]}, VIEWS]
    answer = Visits(visits, rollup=True).answer(
        {"metrics": metrics, "time_range": between(SPRING + DAY, SPRING + 2 * DAY), "compare": "previous"}
    )
    assert "payers" not in answer.bounds  # 3,000 hashes are fewer than a theta sketch keeps
    assert answer.bounds["share"] == answer.bounds["users"]
    users = answer.bounds["users"]["relative_error"]
    assert answer.bounds["users_change"]["relative_error"] == pytest.approx(2 * users)
    assert {"users_previous", "share_previous", "share_change"} <= set(answer.bounds)
    assert not any(name.startswith("views") for name in answer.bounds)


def test_what_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Visits([Visit(SPRING, country=c) for c in ("US", "DE", "FR")])
    monkeypatch.setattr(compose, "GROUPS_MAX", 2)
    ratio = {"name": "r", "type": "ratio", "of": [VIEWS, VIEWS]}
    with pytest.raises(OutOfMemoryError, match="more than 2 groups"):
        world.ask([{**ratio, "of": [{"type": "count"}, {"type": "count"}]}], group_by="country")
    monkeypatch.setattr(axis, "FILLED_ROWS_MAX", 5)
    delta = {"name": "d", "type": "delta", "of": "views"}
    with pytest.raises(InvalidQueryError, match=r"need 9 rows.*at most 5"):
        Visits([Visit(SPRING), Visit(SPRING + 8 * HOUR)]).ask([VIEWS, delta], granularity="hour")
    with pytest.raises(InvalidQueryError, match="more than 1,000,000 steps"):
        Visits([Visit(0), Visit(SPRING)]).ask([VIEWS, delta], granularity="second")
