"""Derived metrics: which may be made of which, and what they come to in a frame of finished rows.

A metric over the time axis looks at the rows of its own group, ordered by time, and needs a row for every step
(`rta.query.axis` adds those without events). There a count or sum of nothing is 0; other metrics have no value there,
and a moving average leaves them out. A number divided by 0, or by nothing, is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import assert_never

import polars as pl

from rta.errors import InvalidQueryError
from rta.query.model import Derived, DerivedType, Metric, QueryMetricType
from rta.query.wording import nearest

Bounds = dict[str, dict[str, float]]
OVER_TIME = (DerivedType.MOVING_AVG, DerivedType.CUMULATIVE, DerivedType.DELTA)
COUNTS = (QueryMetricType.COUNT, QueryMetricType.UNIQUE, QueryMetricType.THETA)
"""What is 0 and not null where nothing is."""
ADDITIVE = (QueryMetricType.COUNT, QueryMetricType.SUM)
_NO_NUMBERS = (QueryMetricType.TOP, QueryMetricType.FUNNEL, QueryMetricType.RETENTION)
SECONDS = "__step_seconds"
"""Column of a frame that says how long each row's step is."""


def ordered(derived: tuple[Derived, ...], base: tuple[Metric, ...]) -> tuple[Derived, ...]:
    """Each metric behind those that it is made of.

    Raises:
        InvalidQueryError: a name that no metric has, metrics made of each other, or of what can't be added up.
    """
    metrics = {m.name: m for m in base}
    waiting = {d.name: d for d in derived}
    names = [*metrics, *waiting]
    done: dict[str, Derived] = {}

    def visit(metric: Derived, path: tuple[str, ...]) -> None:
        if metric.name in path:
            circle = " → ".join((*path[path.index(metric.name) :], metric.name))
            raise InvalidQueryError(f"metrics are made of each other: {circle}", "begin with a metric of the events")
        if metric.name in done:
            return
        for part in metric.of:
            if not isinstance(part, str):
                continue
            if part in waiting:
                visit(waiting[part], (*path, metric.name))
            elif part not in metrics:
                others = [n for n in names if n != metric.name]
                raise InvalidQueryError(
                    f"metric '{metric.name}' is made of '{part}', which is no metric of the question",
                    nearest(part, others),
                )
            _check_part(metric, part, metrics, waiting)
        done[metric.name] = metric

    for metric in derived:
        visit(metric, ())
    return tuple(done.values())


def _check_part(metric: Derived, part: str, metrics: Mapping[str, Metric], derived: Mapping[str, Derived]) -> None:
    found = metrics.get(part)
    if found is not None and found.type in _NO_NUMBERS:
        raise InvalidQueryError(
            f"metric '{metric.name}' is made of '{part}', a {found.type}, which is no number", "use a metric with one"
        )
    if metric.type not in (DerivedType.RATE, DerivedType.CUMULATIVE):
        return
    fits = found.type in ADDITIVE if found else derived[part].type is DerivedType.ARITHMETIC
    if not fits:
        kind = found.type if found else derived[part].type
        raise InvalidQueryError(
            f"metric '{metric.name}' is the {metric.type} of '{part}', a {kind}, which does not add up over time",
            "take it of a count or a sum, or of arithmetic with such",
        )


def with_derived(
    frame: pl.DataFrame, derived: Sequence[Derived], base: Sequence[Metric], groups: Sequence[str]
) -> pl.DataFrame:
    """The frame with a column for each derived metric.

    Args:
        frame: Rows in any order, with `time` and every step of each group where a metric over time is among them, and
            `SECONDS` where a rate is.
        derived: In the order of `ordered`.
        groups: Names of the grouped fields.
    """
    if any(d.type in OVER_TIME for d in derived):
        frame = frame.sort("time")
    additive = {m.name for m in base if m.type in ADDITIVE}
    for metric in derived:
        frame = frame.with_columns(_computed(metric, additive, groups).alias(metric.name))
    return frame


def _computed(metric: Derived, additive: set[str], groups: Sequence[str]) -> pl.Expr:
    first = _value(metric.of[0], additive if metric.type not in (DerivedType.RATIO, DerivedType.ARITHMETIC) else set())
    match metric.type:
        case DerivedType.RATE:
            return _divided(first * (metric.per_ms / 1000), pl.col(SECONDS))
        case DerivedType.MOVING_AVG:
            return _within(first.cast(pl.Float64).rolling_mean(metric.window, min_samples=1), groups)
        case DerivedType.CUMULATIVE:
            return _within(first.cum_sum(), groups)
        case DerivedType.DELTA:
            return _within(first - first.shift(1), groups)
        case DerivedType.RATIO | DerivedType.ARITHMETIC:
            return reduce(_OPERATIONS[metric.op or "divide"], (_value(part, set()) for part in metric.of))
        case _:
            assert_never(metric.type)


def _value(part: str | float, additive: set[str]) -> pl.Expr:
    if not isinstance(part, str):
        return pl.lit(int(part) if part.is_integer() else part)
    return pl.col(part).fill_null(0) if part in additive else pl.col(part)


def _within(value: pl.Expr, groups: Sequence[str]) -> pl.Expr:
    return value.over(list(groups)) if groups else value


def _divided(above: pl.Expr, below: pl.Expr) -> pl.Expr:
    return pl.when(below != 0).then(above.cast(pl.Float64) / below)


_OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": _divided,
}


def derived_bounds(derived: Sequence[Derived], bounds: Bounds) -> Bounds:
    """The bounds of all metrics, those of derived ones from what they are made of.

    Errors of several estimates add up (to first order for quotients and products). Of sums and differences they are the
    errors of the terms.
    """
    found = dict(bounds)
    for metric in derived:
        parts = [found[p] for p in dict.fromkeys(metric.of) if isinstance(p, str) and p in found]
        if parts:
            found[metric.name] = added(parts)
    return found


def added(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The bound of what is made of several estimates."""
    total: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = min(total.get(key, 1.0), value) if key == "confidence" else total.get(key, 0.0) + value
    return total
