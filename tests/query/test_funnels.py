"""Funnels: against a search through all ways of each user, and the rules that the documentation states."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.query.visits import HOUR, SPRING, Visit, Visits, between, iso

MINUTE = 60_000
KINDS = ("view", "cart", "pay")
STEPS = [{"name": kind, "filters": {"kind": kind}} for kind in KINDS]


def funnel(*steps: dict[str, Any], window: str = "1h", **more: Any) -> dict[str, Any]:
    return {"type": "funnel", "field": "user", "window": window, "steps": list(steps or STEPS), **more}


def at(minute: float, kind: str, user: str | None = "u", **more: Any) -> Visit:
    return Visit(SPRING + int(minute * MINUTE), user, kind, **more)


def users(rows: list[dict[str, Any]]) -> list[int]:
    return [row["users"] for row in rows]


def ways(visits: list[Visit], steps: list[set[str]], window: int, begin: int) -> tuple[int, ...]:
    """Of all ways from one event the longest, of these the one that is earliest at each step."""

    def go_on(way: tuple[int, ...]) -> tuple[int, ...]:
        best = way
        if len(way) < len(steps):
            for i in range(way[-1] + 1, len(visits)):
                near = visits[i].time - visits[way[0]].time <= window
                if visits[i].kind in steps[len(way)] and near:
                    found = go_on((*way, i))
                    if len(found) > len(best):
                        best = found
        return best

    return go_on((begin,))


def twin(
    visits: list[Visit], steps: list[set[str]], window: int, by_country: bool, by_hour: bool
) -> dict[tuple[Any, ...], list[list[int]]]:
    """Per group the times of each user's way."""

    def order(v: Visit) -> tuple[Any, ...]:
        matched = [k for k, kinds in enumerate(steps) if v.kind in kinds]
        mask = sum(1 << k for k in matched)
        return v.time, min(matched), mask, v.country is None, v.country or ""

    of_user: dict[str, list[Visit]] = defaultdict(list)
    for v in visits:
        if v.user is not None and any(v.kind in kinds for kinds in steps):
            of_user[v.user].append(v)
    found: dict[tuple[Any, ...], list[list[int]]] = defaultdict(list)
    for events in of_user.values():
        events.sort(key=order)
        starts = [i for i, v in enumerate(events) if v.kind in steps[0]]
        if not starts:
            continue
        way = max((ways(events, steps, window, i) for i in starts), key=len)
        first = events[way[0]]
        key: tuple[Any, ...] = (iso(first.time - first.time % HOUR),) if by_hour else ()
        key += (first.country,) if by_country else ()
        found[key].append([events[i].time for i in way])
    return found


def expected(found: dict[tuple[Any, ...], list[list[int]]], count: int, keys: list[str]) -> list[dict[str, Any]]:
    rows = []
    order = sorted(found, key=lambda key: [(part is None, part or "") for part in key])
    for key in order if keys else [()]:
        times = found.get(key, [])
        for k in range(count):
            reached = [t for t in times if len(t) > k]
            gaps = sorted(t[k] - t[k - 1] for t in reached) if k else []
            before = sum(len(t) > max(k - 1, 0) for t in times)
            row = {
                **dict(zip(keys, key, strict=True)),
                "step": k + 1,
                "users": len(reached),
                "conversion": len(reached) / len(times) if times else None,
                "step_conversion": len(reached) / before if before else None,
                "median_ms": gaps[(len(gaps) + 1) // 2 - 1] if gaps else None,
            }
            rows.append(row)
    return rows


VISITS = st.builds(
    Visit,
    time=st.integers(0, 12).map(lambda n: SPRING + n * 20 * MINUTE),
    user=st.sampled_from(["a", "b", "c", None]),
    kind=st.sampled_from([*KINDS, "other", None]),
    country=st.sampled_from(["US", "DE", None]),
    page=st.none(),
    price=st.none(),
    size=st.none(),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(VISITS, max_size=24),
    st.lists(st.sets(st.sampled_from(KINDS), min_size=1), min_size=2, max_size=4),
    st.sampled_from([20, 60, 600]),
    st.booleans(),
    st.booleans(),
    st.randoms(),
)
def test_a_funnel_equals_a_search_through_all_ways(
    visits: list[Visit], steps: list[set[str]], minutes: int, by_country: bool, by_hour: bool, shuffle: random.Random
) -> None:
    keys = (["time"] if by_hour else []) + (["country"] if by_country else [])
    want = expected(twin(visits, steps, minutes * MINUTE, by_country, by_hour), len(steps), keys)
    stored = list(visits)
    shuffle.shuffle(stored)
    parts = [{"filters": {"kind": sorted(kinds)}} for kinds in steps]
    more: dict[str, Any] = {"group_by": ["country"]} if by_country else {}
    more |= {"granularity": "hour"} if by_hour else {}
    rows = Visits(stored, (3, 9)).ask([funnel(*parts, window=f"{minutes}m")], **more)
    assert [{k: v for k, v in row.items() if k != "name"} for row in rows] == want
    assert [row["name"] for row in rows] == [f"step {row['step']}" for row in want]


def test_steps_count_in_their_order_with_others_between() -> None:
    visits = [at(0, "view"), at(1, "other"), at(2, "cart"), at(3, "pay"), at(0, "pay", "v"), at(1, "view", "v")]
    rows = Visits(visits).ask([funnel()])
    assert rows[2] == {
        "step": 3,
        "name": "pay",
        "users": 1,
        "conversion": 0.5,
        "step_conversion": 1.0,
        "median_ms": MINUTE,
    }
    assert users(rows) == [2, 1, 1]


def test_the_window_counts_from_the_first_step_and_ends_with_its_last_millisecond() -> None:
    visits = [
        at(0, "view"),
        at(30, "cart"),
        at(60, "pay"),
        at(0, "view", "v"),
        at(30, "cart", "v"),
        at(60.001, "pay", "v"),
    ]
    assert users(Visits(visits).ask([funnel()])) == [2, 2, 1]


def test_a_user_counts_once_with_the_way_that_gets_furthest() -> None:
    visits = [at(0, "view", country="US"), at(90, "view", country="DE"), at(91, "cart"), at(92, "view", country="FR")]
    rows = Visits(visits).ask([funnel()], group_by="country")
    assert [(r["country"], r["users"]) for r in rows] == [("DE", 1), ("DE", 1), ("DE", 0)]


def test_of_equal_ways_the_first_touch_says_the_group() -> None:
    visits = [at(0, "view", country="US"), at(5, "view", country="DE"), at(10, "cart")]
    rows = Visits(visits).ask([funnel()], group_by="country")
    assert [(r["country"], r["users"]) for r in rows] == [("US", 1), ("US", 1), ("US", 0)]
    assert rows[1]["median_ms"] == 10 * MINUTE


def test_events_of_one_moment_count_in_the_order_of_the_steps() -> None:
    assert users(Visits([at(0, "pay"), at(0, "view"), at(0, "cart")]).ask([funnel()])) == [1, 1, 1]


def test_one_event_is_one_step_only() -> None:
    twice = funnel({"filters": {"kind": "view"}}, {"filters": {"kind": "view"}})
    assert users(Visits([at(0, "view")]).ask([twice])) == [1, 0]
    assert users(Visits([at(0, "view"), at(0, "view")]).ask([twice])) == [1, 1]


def test_a_funnel_without_events_has_its_steps_and_no_shares() -> None:
    rows = Visits([]).ask([funnel()])
    assert [(r["name"], r["users"], r["conversion"], r["median_ms"]) for r in rows] == [
        (k, 0, None, None) for k in KINDS
    ]


def test_a_condition_of_the_metric_holds_for_all_steps() -> None:
    visits = [at(0, "view", country="US"), at(1, "cart", country="DE")]
    assert users(Visits(visits).ask([funnel(filters={"country": "US"})])) == [1, 0, 0]


def test_a_funnel_beside_the_period_before_meets_step_by_step() -> None:
    visits = [at(0, "view"), at(60, "view"), at(61, "cart"), at(61, "view", "v")]
    rows = Visits(visits).ask([funnel()], time_range=between(SPRING + HOUR, SPRING + 2 * HOUR), compare="previous")
    assert [(r["step"], r["users"], r["users_previous"], r["users_change"]) for r in rows] == [
        (1, 2, 1, 1.0),
        (2, 1, 0, None),
        (3, 0, 0, None),
    ]
