"""Answering an aggregated question from raw events, exactly. Frames in, an answer out; no I/O.

The frames may be lazy: only the plan's columns are read, conditions over columns are pushed down to them, and the rest
(conditions on paths into JSON text) comes after. polars does the work; where and with how much memory is the caller's
business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from rta.errors import InvariantError
from rta.events.schemas import TIME, ColumnType
from rta.query.answer import TIME_TYPE, Answer
from rta.query.conditions import compares
from rta.query.fields import Field, FieldKind
from rta.query.model import QueryMetricType, Unit
from rta.query.order import cut
from rta.query.paths import number_key, text_key, with_paths
from rta.query.plan import Plan, PlannedMetric
from rta.query.sets import size_expression
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN, bucket_starts, constant_offset
from rta.query.where import where_expression

Frame = pl.DataFrame | pl.LazyFrame
_STEP = "__step"
_POLARS_TYPES: dict[ColumnType, Any] = {
    ColumnType.STRING: pl.String,
    ColumnType.LONG: pl.Int64,
    ColumnType.DOUBLE: pl.Float64,
    ColumnType.BOOLEAN: pl.Boolean,
    ColumnType.TIMESTAMP: TIME_TYPE,
    ColumnType.STRINGS: pl.List(pl.String),
    ColumnType.JSON: pl.String,
}
_LONG_MAX = 2**63 - 1
_OF_NUMBERS = (
    QueryMetricType.SUM,
    QueryMetricType.AVG,
    QueryMetricType.MIN,
    QueryMetricType.MAX,
    QueryMetricType.QUANTILE,
)
"""Types that take the numbers behind a path; the others take the texts."""


def run_raw(plan: Plan, frames: Sequence[Frame]) -> Answer:
    """Answer an aggregated question from raw events.

    Args:
        plan: Without a rollup.
        frames: Raw rows, in files and beyond them; columns that a frame lacks are null in it.

    Returns:
        As `rta.query.execute.run_rollup`, without bounds: nothing is estimated.
    """
    events = matching(plan, frames)
    step = plan.query.granularity
    keys: list[pl.Expr] = []
    if step.unit is not Unit.ALL:
        keys.append(_step(plan).alias(_STEP))
    keys += [group_key(f).alias(f"group:{i}") for i, f in enumerate(plan.group_by)]
    measures = [_measure(p, plan.fields).alias(f"metric:{i}") for i, p in enumerate(plan.metrics)]
    found = events.group_by(keys).agg(measures) if keys else events.select(measures)
    frame, more = cut(_named(found.collect(engine="streaming"), plan), plan)
    return Answer(frame, {}, more)


def matching(plan: Plan, frames: Sequence[Frame], also: Sequence[str] = ()) -> pl.LazyFrame:
    """The events in the plan's range for which its condition is true, with the columns that the plan reads.

    Args:
        also: Further stored columns to keep.
    """
    columns = tuple(dict.fromkeys((*plan.columns, *also)))
    parts = [_fitted(frame, plan, columns) for frame in frames] or [_empty(plan, columns)]
    events = pl.concat(parts) if len(parts) > 1 else parts[0]
    events = events.filter(_in_range(plan))
    if plan.pushed is not None:
        events = events.filter(where_expression(plan.pushed, plan.fields))
    paths = {f.key: f for f in _computed(plan) if f.kind is FieldKind.PATH}
    if paths:
        events = with_paths(events, list(paths.values()))
    if plan.where is not None:
        events = events.filter(where_expression(plan.where, plan.fields))
    return events


def raw_columns(plan: Plan) -> tuple[str, ...]:
    """The columns of single rows that a rollup's question follows from as well."""
    return tuple(dict.fromkeys((TIME, *(field.column for field in fields_read(plan)))))


def column_types(plan: Plan) -> dict[str, Any]:
    """The polars types that every stored column of the plan's table is read in: whole numbers as int64."""
    types = dict(pl.DataFrame(plan.shape.schema.empty_table()).schema)
    return {name: pl.Int64() if kind == pl.Int32 else kind for name, kind in types.items()}


def fields_read(plan: Plan) -> list[Field]:
    """Every field that answering the plan looks at."""
    return [*_computed(plan), *plan.fields.values()]


def _computed(plan: Plan) -> list[Field]:
    """The fields that are needed of every event: not those that are only shown."""
    compared = [plan.fields[c.field] for condition in plan.conditions for c in compares(condition)]
    return [*plan.group_by, *(m.field for m in plan.metrics if m.field is not None), *compared]


def _fitted(frame: Frame, plan: Plan, columns: Sequence[str]) -> pl.LazyFrame:
    """The columns in their types; what an older file lacks is null."""
    types = column_types(plan)
    there = frame.collect_schema()
    chosen = [
        (pl.col(c) if there[c] == types[c] else pl.col(c).cast(types[c]))
        if c in there
        else pl.lit(None, types[c]).alias(c)
        for c in columns
    ]
    return frame.lazy().select(chosen)


def _empty(plan: Plan, columns: Sequence[str]) -> pl.LazyFrame:
    types = column_types(plan)
    return pl.LazyFrame(schema={c: types[c] for c in columns})


def _in_range(plan: Plan) -> pl.Expr:
    bounds = [pl.lit(value=True)]
    if plan.start_ms > TIME_MS_MIN:
        bounds.append(pl.col(TIME) >= pl.lit(plan.start_ms).cast(TIME_TYPE))
    if plan.end_ms < TIME_MS_MAX:
        bounds.append(pl.col(TIME) < pl.lit(plan.end_ms).cast(TIME_TYPE))
    return pl.all_horizontal(bounds) if len(bounds) > 1 else bounds[0]


def _step(plan: Plan) -> pl.Expr:
    step, zone = plan.query.granularity, plan.query.timezone
    stamps = pl.col(TIME).dt.epoch("ms")
    offset = constant_offset(zone, plan.start_ms, plan.end_ms)
    if step.unit is Unit.MS and offset is not None and 86_400_000 % step.count == 0:
        local = stamps + offset
        return local - local % step.count - offset
    return stamps.map_batches(
        lambda s: pl.Series(bucket_starts(s.to_numpy(), step, zone)), return_dtype=pl.Int64, is_elementwise=True
    )


def group_key(field: Field) -> pl.Expr:
    """What events are grouped by: the field's value, not a number as null, behind a path its text."""
    if field.kind is FieldKind.PATH:
        return pl.col(text_key(field))
    column = pl.col(field.key)
    return column.fill_nan(None) if field.type is ColumnType.DOUBLE else column


def _measure(planned: PlannedMetric, fields: Mapping[str, Field]) -> pl.Expr:
    metric, field = planned.metric, planned.field
    mask = None if metric.where is None else where_expression(metric.where, fields)
    if field is None:
        return (pl.len() if mask is None else mask.sum()).cast(pl.Int64)
    column = pl.col(_value_key(metric.type, field))
    value = column if mask is None else column.filter(mask)
    match metric.type:
        case QueryMetricType.COUNT:
            return value.count().cast(pl.Int64)
        case QueryMetricType.SUM:
            return pl.when(value.count() > 0).then(_sum(value, field))
        case QueryMetricType.AVG:
            total = _sum(value, field).cast(pl.Float64)
            return pl.when(value.count() > 0).then(total / value.count())
        case QueryMetricType.MIN:
            return _ordered(value, field).min()
        case QueryMetricType.MAX:
            return _ordered(value, field).max()
        case QueryMetricType.QUANTILE:
            return value.cast(pl.Float64).fill_nan(None).quantile(metric.q, "equiprobable")
        case QueryMetricType.UNIQUE:
            return value.drop_nulls().n_unique().cast(pl.Int64)
        case QueryMetricType.TOP:
            return _top(value, field, metric.k)
        case QueryMetricType.THETA if metric.sets is not None:
            items = column if field.type in (ColumnType.STRING, ColumnType.LONG) else column.cast(pl.String)
            return size_expression(metric.sets, items, metric.where, lambda c: where_expression(c, fields))
        case QueryMetricType.FIRST | QueryMetricType.LAST:
            there = column.is_not_null() if mask is None else column.is_not_null() & mask
            return _at_end(column.filter(there), pl.col(TIME).filter(there), metric.type is QueryMetricType.LAST)
        case _:
            raise InvariantError(f"metric type '{metric.type}' has no fold")


def _value_key(kind: QueryMetricType, field: Field) -> str:
    if field.kind is not FieldKind.PATH:
        return field.key
    return number_key(field) if kind in _OF_NUMBERS else text_key(field)


def _sum(value: pl.Expr, field: Field) -> pl.Expr:
    """Sums of longs stay at the bounds of int64, as those of rollups do."""
    if field.type is not ColumnType.LONG:
        return value.sum()
    return value.cast(pl.Int128).sum().clip(-_LONG_MAX - 1, _LONG_MAX).cast(pl.Int64)


def _ordered(value: pl.Expr, field: Field) -> pl.Expr:
    return value.fill_nan(None) if field.type is ColumnType.DOUBLE or field.kind is FieldKind.PATH else value


def _at_end(value: pl.Expr, times: pl.Expr, last: bool) -> pl.Expr:
    """The value of the earliest or the latest time; of several at that time the smallest or the largest."""
    return value.filter(times == times.max()).max() if last else value.filter(times == times.min()).min()


def _top(value: pl.Expr, field: Field, k: int) -> pl.Expr:
    text = value if field.type is ColumnType.STRING else value.cast(pl.String)
    named = text.drop_nulls().alias("value").value_counts(name="count")
    return named.implode()


def _named(found: pl.DataFrame, plan: Plan) -> pl.DataFrame:
    """The frame under the names of the question, and its lists in their order."""
    columns: list[pl.Expr] = []
    if _STEP in found.columns:
        columns.append(pl.col(_STEP).cast(TIME_TYPE).alias("time"))
    columns += [pl.col(f"group:{i}").alias(f.name) for i, f in enumerate(plan.group_by)]
    for i, planned in enumerate(plan.metrics):
        column = pl.col(f"metric:{i}")
        if planned.metric.type is QueryMetricType.TOP:
            column = _ranked(column, planned.metric.k)
        columns.append(column.alias(planned.metric.name))
    return found.select(columns)


def _ranked(column: pl.Expr, k: int) -> pl.Expr:
    entry = pl.element().struct
    by = [entry.field("count"), entry.field("value")]
    order = pl.element().sort_by(by, descending=[True, False]).head(k)
    return column.list.eval(order).list.eval(pl.struct(entry.field("value"), entry.field("count").cast(pl.Int64)))
