"""Hundreds of drawn questions over the Wikipedia edits: every answer equals the one that polars counts from the file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rta.events.schemas import Grain
from rta.query.answer import rows_json
from rta.query.block import Block, Dictionaries
from rta.query.ends import ends_ms, fold_ends
from rta.query.execute import Piece, run_rollup
from rta.query.plan import Plan, Stock
from rta.query.raw import run_raw
from rta.query.time import TIME_MS_MIN
from rta.stream.rollups import coarser_partials, merge_partials
from rta.stream.sketches import HLL_RELATIVE_ERROR, KLL_RANK_ERROR
from tests.query import wikipedia

DAY_MS = 1_442_016_000_000
"""2015-09-12T00:00Z."""
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York", "Asia/Kathmandu")
STEPS = {"all": "", "minute": "1m", "5m": "5m", "PT15M": "15m", "hour": "1h", "PT6H": "6h", "day": "1d", "week": "1w"}
GROUPS = ("channel", "namespace", "isRobot", "isNew", "countryName", "metroCode", "user")
METRICS: tuple[dict[str, Any], ...] = (
    {"type": "count"},
    {"type": "count", "field": "metroCode"},
    {"type": "sum", "field": "added"},
    {"type": "avg", "field": "deleted"},
    {"type": "min", "field": "delta"},
    {"type": "max", "field": "delta"},
    {"type": "max", "field": "metroCode"},
    {"type": "quantile", "field": "delta", "q": 0.9},
    {"type": "percentile", "field": "delta", "percentile": 0},
    {"type": "unique_count", "field": "user"},
    {"type": "unique_count", "field": "user", "exact": True},
    {"type": "unique_count", "field": "countryName"},
    {"type": "top", "field": "page", "k": 3},
)
CUTS: tuple[tuple[int, ...], ...] = ((), (20_000,), (1, 5_000, 39_000), (10_000, 10_001, 30_000))


def leaves() -> st.SearchStrategy[dict[str, Any]]:
    channels = st.sampled_from(["#en.wikipedia", "#vi.wikipedia", "#de.wikipedia", "nowhere"])
    truth = st.booleans()
    return st.one_of(
        st.builds(
            lambda v, op: {"field": "channel", "op": op, "value": v},
            channels,
            st.sampled_from(["eq", "ne", "lt", "gte"]),
        ),
        st.builds(lambda v: {"field": "channel", "op": "in", "value": v}, st.lists(channels, min_size=1, max_size=3)),
        st.builds(lambda f, v: {"field": f, "op": "eq", "value": v}, st.sampled_from(["isRobot", "isNew"]), truth),
        st.builds(
            lambda f, v: {"field": f, "op": "is_null", "value": v}, st.sampled_from(["countryName", "metroCode"]), truth
        ),
        st.builds(
            lambda op: {"field": "metroCode", "op": op, "value": 600}, st.sampled_from(["lt", "lte", "gt", "ne"])
        ),
        st.sampled_from(
            [
                {"field": "countryName", "op": "like", "value": "%an_"},
                {"field": "countryName", "op": "regex", "value": "^[A-F]"},
                {"field": "delta", "op": "gt", "value": 10.5},
                {"field": "user", "op": "like", "value": "A%"},
            ]
        ),
    )


def trees() -> st.SearchStrategy[dict[str, Any]]:
    return st.recursive(
        leaves(),
        lambda inner: st.one_of(
            st.builds(lambda parts: {"and": parts}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(lambda parts: {"or": parts}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(lambda part: {"not": part}, inner),
        ),
        max_leaves=4,
    )


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    unit = draw(st.sampled_from([3_600_000, 3_600_000, 60_000, 1]))
    first = draw(st.integers(0, 86_400_000 // unit - 1))
    length = draw(st.integers(1, 86_400_000 // unit))
    return DAY_MS + first * unit, DAY_MS + (first + length) * unit


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    metrics = draw(st.lists(st.sampled_from(METRICS), min_size=1, max_size=4, unique_by=str))
    document: dict[str, Any] = {
        "metrics": [{**m, "name": f"m{i}"} for i, m in enumerate(metrics)],
        "granularity": draw(st.sampled_from(list(STEPS))),
        "timezone": draw(st.sampled_from(ZONES)),
        "group_by": draw(st.lists(st.sampled_from(GROUPS), max_size=2, unique=True)),
    }
    if draw(st.booleans()):
        document["where"] = draw(trees())
    if draw(st.booleans()):
        document["filters"] = draw(
            st.sampled_from(
                [
                    {"isRobot": False},
                    {"countryName": [None, "France"]},
                    {"channel": "#fr.wikipedia"},
                    {"metroCode": None},
                ]
            )
        )
    found = draw(st.none() | ranges())
    if found is not None:
        document["time_range"] = "/".join(_iso(ms) for ms in found)
        document["range_ms"] = found
    return document


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    questions(),
    st.sampled_from(CUTS),
    st.booleans(),
    st.sets(st.sampled_from([Grain.HOUR, Grain.DAY])),
    st.integers(1, 3),
)
def test_an_answer_equals_what_polars_counts_from_the_file(
    document: dict[str, Any], cuts: tuple[int, ...], merged: bool, grains: set[Grain], times: int
) -> None:
    """Whatever of the pyramid is there, however much of the rows it has taken in, and also when it is asked again."""
    range_ms = document.pop("range_ms", None)
    plan = wikipedia.planned(document, stock=Stock(derived=_derived(grains)))
    if plan.rollup is None:
        answer = run_raw(plan, _slices(cuts))
    else:
        pieces = _pieces(plan, cuts, merged)
        answer = [run_rollup(plan, pieces) for _ in range(times)][-1]
    given_rows = json.loads(rows_json(answer))
    expected = _expected(document, range_ms)
    keys = (["time"] if document["granularity"] != "all" else []) + document["group_by"]
    assert [[r[k] for k in keys] for r in given_rows] == [[r[k] for k in keys] for r in expected]
    for mine, theirs in zip(given_rows, expected, strict=True):
        for metric in document["metrics"]:
            _check(metric, mine[metric["name"]], theirs, answer.bounds.get(metric["name"]))


def _check(metric: dict[str, Any], mine: Any, row: dict[str, Any], bound: dict[str, float] | None) -> None:
    theirs = row[metric["name"]]
    if bound is None:
        close = isinstance(theirs, float) and mine is not None and math.isclose(mine, theirs, rel_tol=1e-9)
        assert close or mine == theirs, (metric, mine, theirs)
    elif metric["type"] == "unique_count":
        # Six standard deviations: this must hold for hundreds of questions.
        assert abs(mine - theirs) <= max(3, 6 * HLL_RELATIVE_ERROR * theirs), (metric, mine, theirs)
    elif metric["type"] == "top":
        values = row[f"{metric['name']}:values"]
        assert all(abs(e["count"] - values.count(e["value"])) <= bound["share_error"] * len(values) for e in mine)
        assert mine[0]["count"] >= theirs[0]["count"] - bound["share_error"] * len(values)
    else:
        values = sorted(row[f"{metric['name']}:values"])
        share = metric.get("q", metric.get("percentile", 0) / 100)
        low = sum(v < mine for v in values) / len(values)
        high = sum(v <= mine for v in values) / len(values)
        assert low - 2 * KLL_RANK_ERROR <= share <= high + 2 * KLL_RANK_ERROR


def test_the_drawn_questions_reach_every_table() -> None:
    documents: list[dict[str, Any]] = [
        {"metrics": [{"type": "count"}], "granularity": "day", "group_by": ["channel"]},
        {"metrics": [{"type": "count"}], "granularity": "hour", "group_by": ["channel"]},
        {"metrics": [{"type": "count"}], "granularity": "hour", "timezone": "Asia/Kolkata"},
        {"metrics": [{"type": "count"}], "group_by": ["user"]},
    ]
    tables = [wikipedia.planned(d).table for d in documents]
    assert tables == ["rollup_daily_day", "rollup_hourly_hour", "rollup_edits_minute", "events"]


def _derived(grains: set[Grain]) -> dict[str, int]:
    return {r.table_of(g): TIME_MS_MIN for r in wikipedia.datasource().rollups for g in r.coarser if g in grains}


def _pieces(plan: Plan, cuts: tuple[int, ...], merged: bool) -> list[Piece]:
    """What each part of the plan reads; derived tables have taken in all cuts but the last."""
    assert plan.rollup is not None
    dictionaries = Dictionaries()
    pieces: list[Piece] = []
    for part in plan.parts:
        if part.grain is None:
            continue
        blocks = _blocks(plan.rollup.name, cuts, merged)
        if part.grain is not plan.rollup.granularity:
            blocks = [_floored(plan.rollup.name, cuts, part.grain), *(blocks[-1:] if cuts and not merged else [])]
            if merged and cuts:
                blocks = [_floored(plan.rollup.name, (), part.grain)]
        pieces += [Piece(Block(b, dictionaries), part.start_ms, part.end_ms) for b in blocks]
    if plan.ends:
        rows = pl.DataFrame(fold_ends(plan, _slices(cuts)))
        pieces.append(Piece(Block(rows, dictionaries), *ends_ms(plan)))
    return pieces


@lru_cache(maxsize=64)
def _floored(rollup: str, cuts: tuple[int, ...], grain: Grain) -> pl.DataFrame:
    """All cuts but the last (the only one counts), at a coarser grain."""
    spec = wikipedia.datasource().rollup(rollup)
    assert spec is not None
    blocks = _blocks(rollup, cuts, merged=False)
    return coarser_partials(blocks[:-1] or blocks, spec, grain, wikipedia.datasource())


@lru_cache(maxsize=64)
def _blocks(rollup: str, cuts: tuple[int, ...], merged: bool) -> list[pl.DataFrame]:
    rows = wikipedia.raw_rows()
    parts = [wikipedia.partials(rows.slice(a, b - a), rollup) for a, b in pairwise((0, *cuts, rows.num_rows))]
    spec = wikipedia.datasource().rollup(rollup)
    assert spec is not None
    return [merge_partials(parts, spec, wikipedia.datasource())] if merged else parts


@lru_cache(maxsize=8)
def _slices(cuts: tuple[int, ...]) -> Sequence[pl.DataFrame]:
    frame = pl.DataFrame(wikipedia.raw_rows())
    return [frame[a:b] for a, b in pairwise((0, *cuts, frame.height))]


def _iso(ms: int) -> str:
    return str(pl.select(pl.lit(ms).cast(pl.Datetime("ms", "UTC")).dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ")).item())


def _expected(document: dict[str, Any], range_ms: tuple[int, int] | None) -> list[dict[str, Any]]:
    """The answer by another way: SQL-like polars over the file itself."""
    frame = wikipedia.oracle()
    if range_ms is not None:
        frame = frame.filter(pl.col("time").is_between(*range_ms, closed="left"))
    for field, value in document.get("filters", {}).items():
        values = value if isinstance(value, list) else [value]
        some = pl.col(field).is_in([v for v in values if v is not None], nulls_equal=False)
        frame = frame.filter((some | pl.col(field).is_null()) if None in values else some)
    if "where" in document:
        frame = frame.filter(_truth(document["where"]) == 1.0)
    keys = []
    if document["granularity"] != "all":
        local = pl.from_epoch("time", "ms").dt.replace_time_zone("UTC").dt.convert_time_zone(document["timezone"])
        start = local.dt.truncate(STEPS[document["granularity"]]).dt.convert_time_zone("UTC")
        frame = frame.with_columns(start.dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ").alias("time"))
        keys.append("time")
    keys += document["group_by"]
    expressions = [e for m in document["metrics"] for e in _metric(m)]
    if not keys:
        return [_tidied(r, document) for r in frame.select(expressions).to_dicts()]
    found = frame.group_by(keys).agg(expressions).sort(keys, nulls_last=True)
    return [_tidied(r, document) for r in found.to_dicts()]


def _truth(node: dict[str, Any]) -> pl.Expr:
    """Three-valued logic on numbers: true 1, null 0.5, false 0; and is the least, or the greatest, not 1 - x."""
    if "and" in node:
        return pl.min_horizontal([_truth(n) for n in node["and"]])
    if "or" in node:
        return pl.max_horizontal([_truth(n) for n in node["or"]])
    if "not" in node:
        return 1.0 - _truth(node["not"])
    column, value = pl.col(node["field"]), node["value"]
    if node["op"] == "is_null":
        return (column.is_null() == value).cast(pl.Float64)
    likes = {"%an_": "(?s)an.$", "A%": "^A"}
    tests: dict[str, Callable[[], Any]] = {
        "eq": lambda: column == value,
        "ne": lambda: column != value,
        "lt": lambda: column < value,
        "lte": lambda: column <= value,
        "gt": lambda: column > value,
        "gte": lambda: column >= value,
        "in": lambda: pl.any_horizontal([column == v for v in value]),
        "like": lambda: column.str.contains(likes[value]),
        "regex": lambda: column.str.contains(value),
    }
    found = tests[node["op"]]()
    return pl.when(column.is_null()).then(0.5).otherwise(found.cast(pl.Float64))


def _metric(metric: dict[str, Any]) -> list[pl.Expr]:
    name = metric["name"]
    if "field" not in metric:
        return [pl.len().alias(name)]
    column = pl.col(metric["field"])
    values = column.drop_nulls()
    match metric["type"]:
        case "count":
            return [values.len().alias(name)]
        case "sum":
            return [pl.when(values.len() > 0).then(values.sum()).alias(name)]
        case "avg":
            return [values.mean().alias(name)]
        case "min" | "max":
            return [(values.min() if metric["type"] == "min" else values.max()).alias(name)]
        case "unique_count":
            return [values.n_unique().alias(name)]
        case _:
            return [values.implode().alias(f"{name}:values")]


def _tidied(row: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Quantiles and heavy hitters from the values themselves."""
    for metric in document["metrics"]:
        name = metric["name"]
        values = row.get(f"{name}:values")
        if values is None:
            continue
        values = values[0] if values and isinstance(values[0], list) else values
        row[f"{name}:values"] = values
        if metric["type"] == "top":
            counts: dict[str, int] = {}
            for value in values:
                counts[value] = counts.get(value, 0) + 1
            ranked = sorted(counts.items(), key=lambda p: (-p[1], p[0]))[: metric["k"]]
            row[name] = [{"value": v, "count": c} for v, c in ranked]
        else:
            share = metric.get("q", metric.get("percentile", 0) / 100)
            row[name] = float(sorted(values)[max(math.ceil(len(values) * share) - 1, 0)]) if values else None
    return row
