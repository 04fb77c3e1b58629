"""Questions whose answer is put together from several: derived metrics, tops by another metric, the period before.

`parts_of` says which plain questions these are; each is planned, cached and answered as if it had been asked alone, on
one view. `assemble` makes their frames the answer. Order and limit come last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from rta.errors import InvalidQueryError, OutOfMemoryError
from rta.query.answer import Answer
from rta.query.axis import with_every_step, with_seconds
from rta.query.columns import CHANGE, PREVIOUS, columns_of, keys_of, values_of
from rta.query.compare import Range, earlier_range, side_by_side
from rta.query.conditions import both
from rta.query.derive import COUNTS, OVER_TIME, Bounds, added, derived_bounds, with_derived
from rta.query.model import Absolute, Best, DerivedType, Metric, Query, QueryMetricType
from rta.query.order import ordered_rows
from rta.query.parse import check_names

GROUPS_MAX = 1_000_000
"""Rows that a part may have; beyond, the question as a whole is refused."""
RANKED = "__by"
"""Name of the metric that values are ranked by, in the part that ranks them."""
_COUNT = Metric("__events", QueryMetricType.COUNT)


@dataclass(frozen=True, slots=True)
class Part:
    """A plain question about a range. `top` is the metric that it ranks values for; None for the metrics themselves."""

    query: Query
    range_ms: Range
    earlier: bool = False
    top: Metric | None = None


def is_composed(query: Query) -> bool:
    return bool(query.derived) or query.compare is not None or any(m.by is not None for m in query.metrics)


def parts_of(query: Query, range_ms: Range) -> tuple[Part, ...]:
    """The plain questions that a composed one consists of; the first is about the asked range.

    Args:
        range_ms: What the question's time range means now.

    Raises:
        InvalidQueryError: names that the answer has twice or lacks, a period before that can't be.
    """
    check_names(query)
    base = tuple(m for m in query.metrics if m.by is None)
    plain = replace(
        query, metrics=base or (_COUNT,), derived=(), columns=(), compare=None, order_by=(), limit=GROUPS_MAX
    )
    ranked = [m for m in query.metrics if m.by is not None]
    parts = [Part(plain, range_ms), *(Part(_ranking(plain, m), range_ms, top=m) for m in ranked)]
    if query.compare is None:
        return tuple(parts)
    earlier = earlier_range(query, range_ms)
    before = Absolute(*earlier)
    return (*parts, *(Part(replace(p.query, time_range=before), earlier, True, p.top) for p in parts))


def _ranking(plain: Query, top: Metric) -> Query:
    """The question for the values of a field that have the most of a metric, in each row of the answer."""
    assert top.by is not None
    assert top.field is not None
    if top.field in plain.group_by:
        raise InvalidQueryError(
            f"metric '{top.name}' is the top of '{top.field}', which the rows are grouped by",
            "order by its metric instead",
        )
    return replace(
        plain,
        metrics=(replace(top.by, name=RANKED),),
        group_by=(*plain.group_by, top.field),
        where=both(plain.where, top.where),
        best=Best(RANKED, top.k),
    )


def assemble(query: Query, parts: Sequence[Part], answers: Sequence[Answer]) -> Answer:
    """The answer to a composed question.

    Args:
        answers: Of the parts.

    Raises:
        OutOfMemoryError: a part has more than `GROUPS_MAX` rows.
    """
    if any(answer.more for answer in answers):
        raise OutOfMemoryError(
            f"the answer has more than {GROUPS_MAX:,} groups before it is put together",
            "group by fewer fields, filter, or leave out 'compare' and metrics made of others",
        )
    asked = [pair for pair in zip(parts, answers, strict=True) if not pair[0].earlier]
    frame, bounds = _one_period(query, asked)
    if query.compare is not None:
        before = [pair for pair in zip(parts, answers, strict=True) if pair[0].earlier]
        earlier, then = _one_period(query, before)
        frame = side_by_side(query, frame, earlier, (asked[0][0].range_ms, before[0][0].range_ms), _zeros(query))
        bounds = _compared_bounds(bounds, then, frame.columns)
    columns = columns_of(query)
    frame = ordered_rows(frame.select(columns), query)
    shown = {name: bound for name, bound in bounds.items() if name in columns}
    return Answer(frame.head(query.limit), shown, frame.height > query.limit)


def _one_period(query: Query, pairs: Sequence[tuple[Part, Answer]]) -> tuple[pl.DataFrame, Bounds]:
    """All metrics of one period, a row for each of its keys."""
    (main, first), *others = pairs
    range_ms = main.range_ms
    frame, bounds = first.frame, dict(first.bounds)
    for part, answer in others:
        assert part.top is not None
        frame = _with_top(frame, part, answer.frame, keys_of(query))
        if answer.bounds:
            bounds[part.top.name] = answer.bounds[RANKED]
    if any(d.type in OVER_TIME for d in query.derived):
        frame = with_every_step(frame, query, range_ms, [n for n in _zeros(query) if n in frame.columns])
    if any(d.type is DerivedType.RATE for d in query.derived):
        frame = with_seconds(frame, query, range_ms)
    frame = with_derived(frame, query.derived, query.metrics, query.group_by)
    return frame.select(*keys_of(query), *values_of(query)), derived_bounds(query.derived, bounds)


def _zeros(query: Query) -> list[str]:
    """The metrics that are 0 where nothing happened."""
    return [m.name for m in query.metrics if m.type in COUNTS]


def _with_top(frame: pl.DataFrame, part: Part, ranked: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """The frame with the ranked values of each row as a list, the best first."""
    top = part.top
    assert top is not None
    assert top.by is not None
    entry = pl.struct(pl.col(part.query.group_by[-1]).alias("value"), pl.col(RANKED).alias(top.by.name)).alias(top.name)
    if not keys:
        return frame.with_columns(ranked.select(entry.implode()).to_series())
    lists = ranked.group_by(keys, maintain_order=True).agg(entry)
    joined = frame.join(lists, on=keys, how="left", nulls_equal=True)
    return joined.with_columns(pl.col(top.name).fill_null(pl.lit([], lists.schema[top.name])))


def _compared_bounds(now: Bounds, before: Bounds, columns: Sequence[str]) -> Bounds:
    """Bounds of both periods. A change is as uncertain as what it compares, as a share of the previous value."""
    found = now | {f"{name}{PREVIOUS}": bound for name, bound in before.items()}
    for name in {*now, *before}:
        if f"{name}{CHANGE}" in columns:
            found[f"{name}{CHANGE}"] = added([each[name] for each in (now, before) if name in each])
    return found
