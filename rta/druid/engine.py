"""What all aggregating queries share: the rows they are about, aggregates by group, and the columns of an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from rta.druid.aggregators import Aggregator, Measure, empty_value, finalized, measure, per_row
from rta.druid.filters import matches
from rta.druid.granularity import bucket_stamps
from rta.druid.periods import ETERNITY, Interval
from rta.druid.postaggregators import PostAggregator, Results, compute
from rta.druid.query import NativeQuery
from rta.druid.table import Table
from rta.druid.values import MISSING, SKETCHES, Column, Type
from rta.druid.virtual import resolver
from rta.events.schemas import TIME

Resolve = Callable[[str], Column]
Keys = Sequence[tuple[str, Column]]
BUCKET = "\0bucket"
MATCHED = "\0matched"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a query.

    Args:
        inside: Those in its intervals.
        matching: Those of them that its filter takes.
    """

    inside: pl.LazyFrame
    matching: pl.LazyFrame
    resolve: Resolve


def rows_of(query: NativeQuery, table: Table) -> Rows:
    resolve = resolver(table.column, query.virtual)
    inside = table.during(query.intervals)
    if query.filter is None:
        return Rows(inside, inside, resolve)
    return Rows(inside, inside.filter(matches(query.filter, resolve)), resolve)


def aggregate_name(index: int) -> str:
    return f"\0a{index}"


def aggregated(frame: pl.LazyFrame, keys: Keys, aggregators: Sequence[Aggregator], resolve: Resolve) -> pl.DataFrame:
    """One row per group, with the keys under their names, the aggregates as `aggregate_name`, and how many rows there were.

    A row with several values under a key belongs to the group of each of them.
    """
    measures = {i: measure(a, resolve) for i, a in enumerate(aggregators) if a.fold != "grouping"}
    wanted = [m.expr.alias(aggregate_name(i)) for i, m in measures.items()]
    wanted.append(pl.len().alias(MATCHED))
    if keys:
        frame = frame.with_columns([per_row(column.expr).alias(name) for name, column in keys])
        for name, column in keys:
            if column.multi:
                frame = frame.explode(name, empty_as_null=True)
        found = frame.group_by([name for name, _ in keys]).agg(wanted).collect(engine="streaming")
    else:
        found = frame.select(wanted).collect(engine="streaming")
    return _finished(found, measures)


def _finished(found: pl.DataFrame, measures: Mapping[int, Measure]) -> pl.DataFrame:
    made = [
        m.finish(found.get_column(aggregate_name(i))).alias(aggregate_name(i))
        for i, m in measures.items()
        if m.finish is not None
    ]
    return found.with_columns(made)


def filled(frame: pl.DataFrame, aggregators: Sequence[Aggregator]) -> pl.DataFrame:
    """What aggregates of no rows are, where they are null."""
    out = []
    for i, aggregator in enumerate(aggregators):
        empty = empty_value(aggregator)
        if empty is not None:
            dtype = frame.schema[aggregate_name(i)]
            out.append(pl.col(aggregate_name(i)).fill_null(pl.lit(empty, dtype)))
    return frame.with_columns(out)


def completed(
    frame: pl.DataFrame,
    aggregators: Sequence[Aggregator],
    posts: Sequence[PostAggregator],
    finalize: bool,
) -> tuple[pl.DataFrame, dict[str, Column], dict[str, Column]]:
    """The frame with estimates and post-aggregates beside the aggregates.

    Returns:
        The frame; its aggregates by name as they are; its aggregates and post-aggregates by name as the answer shows them.
    """
    raw: dict[str, Column] = {}
    shown: dict[str, Column] = {}
    seen: dict[str, Column] = {}
    for i, aggregator in enumerate(aggregators):
        column = Column(pl.col(aggregate_name(i)), aggregator.type)
        raw[aggregator.name] = seen[aggregator.name] = shown[aggregator.name] = column
        if aggregator.type in SKETCHES:
            estimate = finalized(aggregator, column.expr)
            frame = frame.with_columns(estimate.expr.alias(f"\0s{i}"))
            seen[aggregator.name] = Column(pl.col(f"\0s{i}"), estimate.type)
            if finalize and aggregator.finalized:
                shown[aggregator.name] = seen[aggregator.name]
    for i, post in enumerate(posts):
        found = compute(post, Results(raw, seen))
        frame = frame.with_columns(found.expr.alias(f"\0p{i}"))
        column = Column(pl.col(f"\0p{i}"), found.type, found.multi)
        raw[post.name] = seen[post.name] = shown[post.name] = column
    return frame, raw, shown


def clipped(intervals: Sequence[Interval], table: Table) -> list[Interval]:
    """The parts of the intervals between the first and the last time of the data; of a derived table as they are."""
    if table.derived and ETERNITY not in intervals:
        return list(intervals)
    bounds = table.known_bounds()
    return [] if bounds is None else clipped_to(intervals, bounds)


def clipped_to(intervals: Sequence[Interval], bounds: Interval) -> list[Interval]:
    low, high = bounds[0], bounds[1] + 1
    parts = [(max(start, low), min(end, high)) for start, end in intervals]
    return [(start, end) for start, end in parts if start < end]


def has_rows(frame: pl.LazyFrame) -> bool:
    return frame.select(TIME).head(1).collect().height > 0


def shown_buckets(query: NativeQuery, starts: pl.Expr) -> pl.Expr:
    """The starts of buckets as the answer has them: texts, or milliseconds where the context asks for them."""
    return starts if query.context.times_as_long else bucket_stamps(starts, query.granularity)


def bucket_key(expr: pl.Expr) -> tuple[str, Column]:
    return BUCKET, Column(expr, Type.LONG)


def finder(columns: Mapping[str, Column]) -> Resolve:
    return lambda name: columns.get(name, MISSING)
