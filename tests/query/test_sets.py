"""Metrics with conditions of their own, sets, first and last: plain Python, raw events and rollup rows agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rta.query.sketch_sets import CONFIDENCE
from rta.stream import sketches
from tests.query.visits import HOUR, SPRING, Visit, Visits, iso

KINDS = ("view", "cart", "pay")
Test = Callable[[Visit], bool]
CONDITIONS: tuple[tuple[dict[str, Any], Test], ...] = (
    ({}, lambda v: True),
    ({"filters": {"kind": "view"}}, lambda v: v.kind == "view"),
    ({"filters": {"country": [None, "US"]}}, lambda v: v.country in (None, "US")),
    (
        {"where": {"not": {"field": "kind", "op": "eq", "value": "pay"}}},
        lambda v: v.kind is not None and v.kind != "pay",
    ),
    (
        {"filters": {"kind": ["cart", "pay"]}, "where": {"field": "country", "op": "ne", "value": "DE"}},
        lambda v: v.kind in ("cart", "pay") and v.country not in (None, "DE"),
    ),
    ({"filters": {"kind": "nowhere"}}, lambda v: False),
)
VISITS = st.builds(
    Visit,
    time=st.integers(0, 7).map(lambda n: SPRING + n * HOUR // 2),
    user=st.sampled_from(["a", "b", "c", "d", None]),
    kind=st.sampled_from([*KINDS, None]),
    country=st.sampled_from(["US", "DE", None]),
    page=st.sampled_from(["/", "/b"]),
    price=st.one_of(st.none(), st.integers(-40, 40).map(lambda n: n / 4)),
    size=st.one_of(st.none(), st.integers(-5, 5)),
)
SETS = st.recursive(
    st.sampled_from(CONDITIONS),
    lambda inner: st.tuples(st.sampled_from(["union", "intersect", "not"]), st.lists(inner, min_size=2, max_size=3)),
    max_leaves=5,
)


def set_document(node: Any) -> dict[str, Any]:
    if isinstance(node[0], str):
        return {"op": node[0], "of": [set_document(part) for part in node[1]]}
    return dict(node[0])


def set_of(node: Any, visits: list[Visit], field: str) -> set[Any]:
    if not isinstance(node[0], str):
        return {getattr(v, field) for v in visits if node[1](v)} - {None}
    first, *others = [set_of(part, visits, field) for part in node[1]]
    for other in others:
        first = {"union": first | other, "intersect": first & other, "not": first - other}[node[0]]
    return first


def number(metric: dict[str, Any], visits: list[Visit]) -> Any:
    """A metric of the visits that count, in plain Python."""
    if "field" not in metric:
        return len(visits)
    values = [getattr(v, metric["field"]) for v in visits]
    there = [v for v in values if v is not None]
    match metric["type"]:
        case "count":
            return len(there)
        case "sum":
            return sum(there) if there else None
        case "avg":
            return sum(there) / len(there) if there else None
        case "max":
            return max(there, default=None)
        case "quantile":
            return float(sorted(there)[max(math.ceil(len(there) * metric["q"]) - 1, 0)]) if there else None
        case "top":
            counts = sorted((-there.count(v), v) for v in set(there))[: metric["k"]]
            return [{"value": v, "count": -n} for n, v in counts]
        case _:
            return len(set(there))


METRICS: tuple[dict[str, Any], ...] = (
    {"type": "count"},
    {"type": "count", "field": "kind"},
    {"type": "sum", "field": "size"},
    {"type": "avg", "field": "price"},
    {"type": "max", "field": "size"},
    {"type": "quantile", "field": "price", "q": 0.5},
    {"type": "unique_count", "field": "user"},
    {"type": "unique_count", "field": "country"},
    {"type": "theta", "field": "user"},
)


def grouped(visits: list[Visit], by: list[str], hourly: bool) -> dict[tuple[Any, ...], list[Visit]]:
    found: dict[tuple[Any, ...], list[Visit]] = {} if by or hourly else {(): []}
    for v in visits:
        key = (iso(v.time - v.time % HOUR),) if hourly else ()
        found.setdefault((*key, *(getattr(v, f) for f in by)), []).append(v)
    return found


def rows_of(
    visits: list[Visit], by: list[str], hourly: bool, values: dict[str, Callable[[list[Visit]], Any]]
) -> list[dict[str, Any]]:
    found = grouped(visits, by, hourly)
    keys = (["time"] if hourly else []) + by
    order = sorted(found, key=lambda key: [(part is None, part or "") for part in key])
    return [{**dict(zip(keys, key, strict=True)), **{n: f(found[key]) for n, f in values.items()}} for key in order]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(VISITS, max_size=40),
    st.lists(st.tuples(st.sampled_from(METRICS), st.sampled_from(CONDITIONS)), min_size=1, max_size=4),
    st.lists(st.sampled_from(["country", "kind"]), max_size=2, unique=True),
    st.booleans(),
    st.booleans(),
)
def test_a_metric_counts_what_its_own_condition_takes(
    visits: list[Visit],
    drawn: list[tuple[dict[str, Any], tuple[dict[str, Any], Test]]],
    by: list[str],
    hourly: bool,
    rollup: bool,
) -> None:
    documents = [{**m, **c[0], "name": f"m{i}"} for i, (m, c) in enumerate(drawn)]

    def counted(metric: dict[str, Any], takes: Test) -> Callable[[list[Visit]], Any]:
        return lambda some: number(metric, [v for v in some if takes(v)])

    values = {f"m{i}": counted(metric, condition[1]) for i, (metric, condition) in enumerate(drawn)}
    world = Visits(visits, (7, 20), rollup=rollup)
    more: dict[str, Any] = {"granularity": "hour"} if hourly else {}
    assert world.ask(documents, group_by=by, **more) == rows_of(visits, by, hourly, values)
    assert world.tables == [("rollup_by_kind_hour" if rollup else "events")]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(VISITS, max_size=40),
    SETS,
    st.sampled_from(CONDITIONS),
    st.sampled_from(["user", "page"]),
    st.lists(st.sampled_from(["country", "kind"]), max_size=2, unique=True),
    st.integers(1, 6),
)
def test_sets_are_put_together_alike_from_raw_events_and_from_rollups(
    visits: list[Visit], node: Any, own: tuple[dict[str, Any], Test], field: str, by: list[str], items_max: int
) -> None:
    metric = {"name": "n", "type": "theta", "field": field, **set_document(node)}
    metric = metric if "op" not in metric else {**metric, **own[0]}
    taken = own[1] if "op" in metric else CONDITIONS[0][1]
    want = rows_of(visits, by, False, {"n": lambda some: len(set_of(node, [v for v in some if taken(v)], field))})
    assert Visits(visits, (7, 20)).ask([metric], group_by=by) == want
    with pytest.MonkeyPatch.context() as patch:
        # So short lists become sketches, which are exact for that few.
        patch.setattr(sketches, "ITEMS_MAX", items_max)
        world = Visits(visits, (7, 20), rollup=True)
        assert world.ask([metric], group_by=by) == want
        assert world.tables == ["rollup_by_kind_hour"]


BOTH: dict[str, Any] = {
    "name": "both",
    "type": "theta",
    "field": "user",
    "op": "intersect",
    "of": [{"filters": {"kind": "view"}}, {"filters": {"kind": "pay"}}],
}


def test_large_sets_are_estimated_within_their_bounds_and_exactly_if_asked() -> None:
    visits = [Visit(SPRING, f"u{n}", "view") for n in range(12_000)]
    visits += [Visit(SPRING, f"u{n}", "pay") for n in range(9_000, 15_000)]
    everybody = {"name": "all", "type": "theta", "field": "user"}
    plain = {"name": "plain", "type": "unique_count", "field": "user"}
    world = Visits(visits, (8_000,), rollup=True)
    answer = world.answer({"metrics": [BOTH, everybody, plain]})
    found = answer.frame.to_dicts()[0]
    assert set(answer.bounds) == {"both", "all", "plain"}
    assert all(bound["confidence"] == CONFIDENCE for bound in answer.bounds.values())
    # Twice the stated bound: this must not fail by chance (it can't: hashes do not change).
    assert 0 < abs(found["both"] - 3_000) <= 2 * answer.bounds["both"]["absolute_error"] < 1_000
    assert 0 < abs(found["all"] - 15_000) <= 2 * answer.bounds["all"]["relative_error"] * 15_000
    exact = world.answer({"metrics": [{**BOTH, "exact": True}]})
    assert (exact.frame.item(), exact.bounds, world.tables) == (3_000, {}, ["events"])


def test_a_rollup_that_lacks_a_condition_s_field_does_not_answer() -> None:
    world = Visits([Visit(SPRING, price=1.0), Visit(SPRING)], rollup=True)
    dear = {"name": "n", "type": "count", "where": {"field": "price", "op": "gt", "value": 0}}
    assert world.ask([dear]) == [{"n": 1}]
    assert world.tables == ["events"]


def test_unique_counts_come_from_a_theta_metric_where_there_is_no_other() -> None:
    visits = [Visit(SPRING, user) for user in ("a", "b", "a", None)]
    world = Visits(visits, rollup=True)
    rollup = world.source.rollups[0]
    slim = type(rollup)("slim", rollup.granularity, rollup.dimensions, (rollup.metrics[0], rollup.metrics[-1]))
    world.source = type(world.source)(**{**_fields(world.source), "rollups": (slim,)})
    assert world.ask([{"name": "n", "type": "unique_count", "field": "user"}]) == [{"n": 2}]
    assert world.tables == ["rollup_slim_hour"]


def _fields(source: Any) -> dict[str, Any]:
    return {name: getattr(source, name) for name in source.__struct_fields__}


def test_without_of_everybody_is_what_a_set_is_taken_from() -> None:
    visits = [Visit(SPRING, "a", "view"), Visit(SPRING, "b", "view"), Visit(SPRING, "b", "pay")]
    never = {"name": "n", "type": "theta", "field": "user", "op": "not", "of": [{"filters": {"kind": "pay"}}]}
    for rollup in (False, True):
        assert Visits(visits, rollup=rollup).ask([never]) == [{"n": 1}]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(VISITS, max_size=30),
    st.sampled_from(["user", "price", "size", "kind"]),
    st.sampled_from(CONDITIONS),
    st.lists(st.sampled_from(["country"]), max_size=1),
)
def test_first_and_last_are_by_time_and_pass_over_nulls(
    visits: list[Visit], field: str, condition: tuple[dict[str, Any], Test], by: list[str]
) -> None:
    def end(some: list[Visit], last: bool) -> Any:
        there = [v for v in some if condition[1](v) and getattr(v, field) is not None]
        if not there:
            return None
        choose: Any = max if last else min
        when = choose(v.time for v in there)
        return choose(getattr(v, field) for v in there if v.time == when)

    metrics = [{"name": t, "type": t, "field": field, **condition[0]} for t in ("first", "last")]
    want = rows_of(visits, by, False, {"first": lambda some: end(some, False), "last": lambda some: end(some, True)})
    assert Visits(visits, (5, 11), rollup=True).ask(metrics, group_by=by) == want
