"""groupBy: aggregates by dimensions and time, with subtotals, having, order and limit. Also the inner queries of others.

Rows are in the order of time, then of the dimensions, nulls first. A limit's own order comes behind time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from rta.druid.dimensions import dimension_column
from rta.druid.engine import BUCKET, aggregate_name, aggregated, bucket_key, completed, finder, rows_of, shown_buckets
from rta.druid.granularity import bucket_starts
from rta.druid.having import keeps
from rta.druid.ordering import Ordering, sort_keys
from rta.druid.problems import InvalidInputError
from rta.druid.query import NativeQuery
from rta.druid.table import TIME_COLUMN, Table
from rta.druid.values import NUMBERS, POLARS, SKETCHES, Column, Type
from rta.druid.wire import nested_json, shown
from rta.events.schemas import TIME


@dataclass(frozen=True, slots=True)
class Groups:
    """An answer: its rows in order, and its columns by name, as they are and as they are shown."""

    frame: pl.DataFrame
    raw: dict[str, Column]
    shown: dict[str, Column]


def groupby(query: NativeQuery, table: Table) -> bytes:
    return groups_json(query, grouped(query, table))


def groups_json(query: NativeQuery, groups: Groups) -> bytes:
    stamps = groups.frame.select(pl.lit("v1").alias("version"), shown_buckets(query, pl.col(BUCKET)).alias("timestamp"))
    return nested_json(stamps, "event", shown(groups.frame, list(groups.shown.items())))


def inner_table(query: NativeQuery, table: Table) -> Table:
    """The answer as a table for an outer query; sketches stay sketches."""
    groups = grouped(query, table)
    names = {name: f"\0i{i}" for i, name in enumerate(groups.raw)}
    frame = groups.frame.select(
        pl.col(BUCKET).alias(TIME), *(groups.raw[name].expr.alias(inner) for name, inner in names.items())
    )
    columns = {n: Column(pl.col(inner), groups.raw[n].type, groups.raw[n].multi) for n, inner in names.items()}
    return Table(frame.lazy(), {TIME: TIME_COLUMN} | columns, derived=True)


def grouped(query: NativeQuery, table: Table) -> Groups:
    rows = rows_of(query, table)
    keys = [(dimension_name(i), dimension_column(d, rows.resolve)) for i, d in enumerate(query.dimensions)]
    sets = query.subtotals if query.subtotals is not None else (tuple(d.name for d in query.dimensions),)
    frames = []
    for names in sets:
        chosen = [key for key, spec in zip(keys, query.dimensions, strict=True) if spec.name in names]
        time = [] if query.granularity.all else [bucket_key(bucket_starts(TIME_COLUMN.expr, query.granularity))]
        found = aggregated(rows.matching, [*time, *chosen], query.aggregators, rows.resolve)
        frames.append(_complete(query, found, keys, names))
    return groups_of(query, frames, keys)


def whole_groups(query: NativeQuery, found: pl.DataFrame, types: Sequence[Type]) -> Groups:
    """The answer from aggregates by bucket and all dimensions, whose columns are named by `dimension_name`."""
    keys = [(dimension_name(i), Column(pl.col(dimension_name(i)), of)) for i, of in enumerate(types)]
    return groups_of(query, [_complete(query, found, keys, tuple(d.name for d in query.dimensions))], keys)


def dimension_name(index: int) -> str:
    return f"\0d{index}"


def groups_of(query: NativeQuery, frames: list[pl.DataFrame], keys: Sequence[tuple[str, Column]]) -> Groups:
    frame = pl.concat(frames) if len(frames) > 1 else frames[0]
    frame, raw, columns = completed(frame, query.aggregators, query.postaggregators, query.context.finalize)
    dimensions = {d.name: Column(pl.col(key), c.type) for d, (key, c) in zip(query.dimensions, keys, strict=True)}
    groups = Groups(frame, dimensions | raw, dimensions | columns)
    return _limited(query, _kept(query, groups))


def _complete(
    query: NativeQuery, found: pl.DataFrame, keys: Sequence[tuple[str, Column]], names: tuple[str, ...]
) -> pl.DataFrame:
    """One set of groups in its order, with the dimensions that it leaves out as nulls."""
    if query.granularity.all:
        start = query.intervals[0][0] if query.intervals else 0
        found = found.with_columns(pl.lit(start, pl.Int64).alias(BUCKET))
    missing = [(key, c) for key, c in keys if key not in found.columns]
    found = found.with_columns([pl.lit(None, POLARS[c.type]).alias(key) for key, c in missing])
    for i, aggregator in enumerate(query.aggregators):
        if aggregator.fold == "grouping":
            bits = "".join("0" if f.dimension in names else "1" for f in aggregator.fields)
            found = found.with_columns(pl.lit(int(bits or "0", 2), pl.Int64).alias(aggregate_name(i)))
    order = [pl.col(BUCKET), *(pl.col(key) for key, _ in keys)]
    if query.context.sort_by_dims_first:
        order = [*order[1:], order[0]]
    columns = [BUCKET, *(key for key, _ in keys), *(aggregate_name(i) for i in range(len(query.aggregators)))]
    if not found.height or (not keys and query.granularity.all and not found.get_column("\0matched").item()):
        found = found.clear()
    return found.sort(order, nulls_last=False, maintain_order=True).select(columns)


def _kept(query: NativeQuery, groups: Groups) -> Groups:
    if query.having is None:
        return groups
    seen = {n: groups.shown[n] for n in groups.shown} | {TIME: Column(pl.col(BUCKET), Type.LONG)}
    return Groups(groups.frame.filter(keeps(query.having, finder(seen))), groups.raw, groups.shown)


def _limited(query: NativeQuery, groups: Groups) -> Groups:
    limit, frame = query.limit, groups.frame
    if limit.columns or query.subtotals is not None:
        keys: list[pl.Expr] = []
        descending: list[bool] = []
        dimensions = {d.name for d in query.dimensions}
        for order in limit.columns:
            column = groups.shown.get(order.name)
            if column is None:
                raise InvalidInputError(f"'limitSpec' orders by '{order.name}', which is not in the query")
            metric = order.name not in dimensions
            if column.type in SKETCHES and not metric:
                raise InvalidInputError(f"'limitSpec' orders by '{order.name}', which is {column.type}")
            natural = metric and (column.type in NUMBERS or order.ordering is Ordering.LEXICOGRAPHIC)
            found = sort_keys(column, Ordering.NATURAL if natural else order.ordering)
            keys += found
            descending += [order.descending] * len(found)
        time_at = len(keys) if query.context.sort_by_dims_first else 0
        keys.insert(time_at, pl.col(BUCKET))
        descending.insert(time_at, False)
        frame = frame.sort(keys, descending=descending, nulls_last=descending, maintain_order=True)
    if limit.limit is not None or limit.offset:
        frame = frame.slice(limit.offset, limit.limit)
    return Groups(frame, groups.raw, groups.shown)
