"""Retentions against plain Python on calendar dates, over a change of the clock."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rta.errors import InvalidQueryError
from rta.query import retention as module
from tests.query.visits import DAY, HOUR, SPRING, Visit, Visits

PERIODS = ("day", "week", "month")


def number(ms: int, period: str, zone: str) -> int:
    """Which day, week or month it is."""
    day = datetime.fromtimestamp(ms / 1000, UTC).astimezone(ZoneInfo(zone)).date()
    if period == "month":
        return day.year * 12 + day.month - 1
    return day.toordinal() if period == "day" else (day.toordinal() - 1) // 7


def start(index: int, period: str, zone: str) -> str:
    day = date(index // 12, index % 12 + 1, 1) if period == "month" else None
    day = day or date.fromordinal(index if period == "day" else index * 7 + 1)
    at = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def twin(visits: list[Visit], period: str, zone: str, periods: int, grouped: bool) -> list[dict[str, Any]]:
    counted = [v for v in visits if v.user is not None and v.kind in ("join", "use")]
    first: dict[str, Visit] = {}
    for v in sorted(counted, key=lambda v: (v.time, v.country is None, v.country or "")):
        if v.kind == "join":
            first.setdefault(str(v.user), v)
    if not first:
        return []
    last = max(number(v.time, period, zone) for v in counted)
    cohorts: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for user, v in first.items():
        cohorts[(number(v.time, period, zone), v.country if grouped else None)].add(user)
    rows = []
    for (cohort, country), members in sorted(cohorts.items(), key=lambda c: (c[0][0], c[0][1] is None, c[0][1] or "")):
        for k in range(min(periods, last - cohort) + 1):
            back = {
                v.user
                for v in counted
                if v.kind == "use"
                and v.user in members
                and number(v.time, period, zone) == cohort + k
                and v.time >= first[str(v.user)].time
            }
            row: dict[str, Any] = {"time": start(cohort, period, zone), "period": k}
            row |= {"country": country} if grouped else {}
            row |= {"cohort_users": len(members), "users": len(back), "share": len(back) / len(members)}
            rows.append(row)
    return rows


def retention(period: str = "day", **more: Any) -> dict[str, Any]:
    cohort, returning = {"filters": {"kind": "join"}}, {"filters": {"kind": "use"}}
    return {"type": "retention", "field": "user", "period": period, "cohort": cohort, "returning": returning, **more}


VISITS = st.builds(
    Visit,
    time=st.integers(0, 40).map(lambda n: SPRING + n * 9 * HOUR),
    user=st.sampled_from(["a", "b", "c", "d", None]),
    kind=st.sampled_from(["join", "use", "use", "other"]),
    country=st.sampled_from(["US", "DE", None]),
    page=st.none(),
    price=st.none(),
    size=st.none(),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(VISITS, max_size=40),
    st.sampled_from(PERIODS),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    st.sampled_from([1, 3, 20]),
    st.booleans(),
)
def test_a_retention_equals_one_counted_on_the_calendar(
    visits: list[Visit], period: str, zone: str, periods: int, grouped: bool
) -> None:
    more: dict[str, Any] = {"group_by": ["country"]} if grouped else {}
    rows = Visits(visits, (5, 20)).ask([retention(period, periods=periods)], timezone=zone, **more)
    assert rows == twin(visits, period, zone, periods, grouped)


def test_without_a_returning_event_everybody_is_there_in_period_0() -> None:
    visits = [Visit(SPRING, "a"), Visit(SPRING, "b"), Visit(SPRING + DAY, "a")]
    rows = Visits(visits).ask([{"type": "retention", "field": "user"}])
    assert [(r["period"], r["users"], r["share"]) for r in rows] == [(0, 2, 1.0), (1, 1, 0.5)]


def test_cohorts_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COHORTS_MAX", 2)
    visits = [Visit(SPRING, "a"), Visit(SPRING + 2 * DAY, "b")]
    with pytest.raises(InvalidQueryError, match=r"3 cohorts.*at most 2") as caught:
        Visits(visits).ask([{"type": "retention", "field": "user"}])
    assert "longer periods" in caught.value.hint
