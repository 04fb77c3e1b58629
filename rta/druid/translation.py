"""Native queries that rta's own planner can answer, written as such questions: those that a rollup answers exactly.

Only what means the very same in both languages is translated: plain dimensions, filters of scalar columns, counts and sums
and extremes of numbers in the column's own type. Everything else is None here and runs over rows. What comes back becomes
the aggregates from which every native answer is made, so that having, post-aggregators, order and zero-filling are the same
code on both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from rta.druid.aggregators import Aggregator
from rta.druid.engine import BUCKET, MATCHED, aggregate_name, clipped_to
from rta.druid.filters import And, Bound, Equals, Filter, In, IsNull, Not, Or, Pattern, Range
from rta.druid.granularity import Granularity
from rta.druid.groupby import dimension_name, groups_json, whole_groups
from rta.druid.ordering import Ordering
from rta.druid.periods import DAY_MS, Interval
from rta.druid.query import NativeQuery, Tables
from rta.druid.timeseries import series_of
from rta.druid.topn import VALUE, ranking_of
from rta.druid.values import POLARS, Type
from rta.events.schemas import ColumnType, Datasource
from rta.query.answer import format_time

_COUNT = "druid matched"
_KINDS = {"count": "count", "sum": "sum", "min": "min", "max": "max"}
Condition = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Translation:
    """A question of rta's, and how its rows become aggregates.

    Args:
        document: As `POST /v1/query` takes it.
        dimensions: Per dimension the stored column and the type in the answer.
    """

    document: Mapping[str, Any]
    dimensions: tuple[tuple[str, Type], ...]


class _NotTheSameError(Exception):
    """Something in the query has no equal."""


def translate(query: NativeQuery, datasource: Datasource, rows_max: int) -> Translation | None:
    """The query as a question to the planner; None where there is none that means the same."""
    plain = query.type in ("timeseries", "topN", "groupBy") and isinstance(query.source, Tables)
    if not plain or query.virtual or query.context.grand_total or query.subtotals is not None:
        return None
    if len(query.intervals) != 1 or query.source != Tables((datasource.name,)):
        return None
    try:
        return _translated(query, datasource, rows_max)
    except _NotTheSameError:
        return None


def _translated(query: NativeQuery, datasource: Datasource, rows_max: int) -> Translation:
    types = {c.name: c.type for c in datasource.columns}
    dimensions = tuple((d.dimension, _dimension_type(d.dimension, d.type, d.plain, types)) for d in query.dimensions)
    if len({name for name, _ in dimensions}) < len(dimensions):
        raise _NotTheSameError
    metrics = [{"name": _COUNT, "type": "count"}]
    metrics += [_metric(i, a, types) for i, a in enumerate(query.aggregators)]
    start, end = query.intervals[0]
    document: dict[str, Any] = {
        "datasource": datasource.name,
        "time_range": f"{format_time(start)}/{format_time(end)}",
        "metrics": metrics,
        "limit": rows_max,
        **_granularity(query.granularity),
    }
    if dimensions:
        document["group_by"] = [name for name, _ in dimensions]
    if query.filter is not None:
        document["where"] = _where(query.filter, types)
    return Translation(document, dimensions)


def _dimension_type(name: str, wanted: Type, plain: bool, types: Mapping[str, ColumnType]) -> Type:
    of = types.get(name)
    fits = wanted is Type.STRING or (wanted is Type.LONG and of is ColumnType.LONG)
    if not plain or not fits or of not in (ColumnType.STRING, ColumnType.BOOLEAN, ColumnType.LONG):
        raise _NotTheSameError
    return wanted


def _metric(index: int, a: Aggregator, types: Mapping[str, ColumnType]) -> dict[str, str]:
    kind = _KINDS.get(a.fold)
    if kind is None or a.filter is not None or a.expression is not None:
        raise _NotTheSameError
    name = f"druid {index}"
    if kind == "count":
        return {"name": name, "type": kind}
    field = a.fields[0].dimension
    of = types.get(field)
    same = of is ColumnType.LONG if a.type is Type.LONG else a.type is Type.DOUBLE and of in _NUMBER_COLUMNS
    if not same:
        raise _NotTheSameError
    return {"name": name, "type": kind, "field": field}


_NUMBER_COLUMNS = (ColumnType.LONG, ColumnType.DOUBLE)


def _granularity(granularity: Granularity) -> dict[str, str]:
    """Steps that start at the same instants in both: whole parts of a day, days, weeks, whole parts of a year."""
    period = granularity.period
    if period is None:
        return {"granularity": "all"}
    if granularity.origin_ms is not None:
        raise _NotTheSameError
    match (period.months, period.weeks, period.days, period.ms):
        case (0, 0, 0, ms) if DAY_MS % ms == 0 and ms % 1000 == 0 and granularity.zone == "UTC":
            text = f"PT{ms // 1000}S"
        case (0, 0, 1, 0):
            text = "P1D"
        case (0, 1, 0, 0):
            text = "P1W"
        case (months, 0, 0, 0) if months and 12 % months == 0:
            text = f"P{months}M"
        case _:
            raise _NotTheSameError
    if granularity.zone[:1] in "+-":
        raise _NotTheSameError
    return {"granularity": text, "timezone": granularity.zone}


def _where(condition: Filter, types: Mapping[str, ColumnType]) -> Condition:
    match condition:
        case And(parts) | Or(parts) if parts:
            return {"and" if isinstance(condition, And) else "or": [_where(p, types) for p in parts]}
        case Not(part):
            return {"not": _where(part, types)}
        case IsNull(column) if types.get(column) in _SCALARS:
            return {"field": column, "op": "is_null", "value": True}
        case In(dimension, values, None):
            return _in(dimension, values, types)
        case Equals(column, of, values) if of is Type.STRING and types.get(column) is ColumnType.STRING:
            return _in(column, tuple(str(v) for v in values if v is not None), types)
        case Bound() if condition.extraction is None:
            return _bound(condition, types)
        case Range() if condition.type is Type.STRING:
            return _text_range(condition, types)
        case Pattern(dimension, pattern, None) if types.get(dimension) is ColumnType.STRING:
            return {"field": dimension, "op": "regex", "value": pattern}
        case _:
            raise _NotTheSameError


_SCALARS = (ColumnType.STRING, ColumnType.BOOLEAN, ColumnType.LONG)


def _in(dimension: str, values: Sequence[str | None], types: Mapping[str, ColumnType]) -> Condition:
    of = types.get(dimension)
    if of not in _SCALARS:
        raise _NotTheSameError
    known = [_value(v, of) for v in values if v is not None]
    parts: list[Condition] = []
    if known:
        parts.append({"field": dimension, "op": "in", "value": known})
    if None in values:
        parts.append({"field": dimension, "op": "is_null", "value": True})
    if not parts:
        raise _NotTheSameError
    return parts[0] if len(parts) == 1 else {"or": parts}


def _value(text: str, of: ColumnType | None) -> str | int | bool:
    if of is ColumnType.STRING:
        return text
    if of is ColumnType.BOOLEAN and text in ("true", "false"):
        return text == "true"
    if of is ColumnType.LONG and text.lstrip("-").isascii() and text.lstrip("-").isdigit() and len(text) < 19:
        return int(text)
    raise _NotTheSameError


def _bound(bound: Bound, types: Mapping[str, ColumnType]) -> Condition:
    """Of texts in their own order, or of longs as numbers; without a lower end null is in it."""
    of = types.get(bound.dimension)
    lexicographic = of is ColumnType.STRING and bound.ordering is Ordering.LEXICOGRAPHIC
    if not lexicographic and not (of is ColumnType.LONG and bound.ordering is Ordering.NUMERIC):
        raise _NotTheSameError
    if bound.lower is None and bound.upper is None:
        raise _NotTheSameError
    parts: list[Condition] = []
    if bound.lower is not None:
        parts.append(_compare(bound.dimension, "gt" if bound.lower_strict else "gte", _value(bound.lower, of)))
    if bound.upper is not None:
        parts.append(_compare(bound.dimension, "lt" if bound.upper_strict else "lte", _value(bound.upper, of)))
    inside: Condition = {"and": parts} if len(parts) > 1 else parts[0]
    if bound.lower is not None:
        return inside
    return {"or": [inside, {"field": bound.dimension, "op": "is_null", "value": True}]}


def _text_range(spec: Range, types: Mapping[str, ColumnType]) -> Condition:
    if types.get(spec.column) is not ColumnType.STRING:
        raise _NotTheSameError
    parts: list[Condition] = []
    if spec.lower is not None:
        parts.append(_compare(spec.column, "gt" if spec.lower_open else "gte", str(spec.lower)))
    if spec.upper is not None:
        parts.append(_compare(spec.column, "lt" if spec.upper_open else "lte", str(spec.upper)))
    return {"and": parts} if len(parts) > 1 else parts[0]


def _compare(field: str, op: str, value: str | int | bool) -> Condition:
    return {"field": field, "op": op, "value": value}


def native_answer(query: NativeQuery, translation: Translation, rows: pl.DataFrame, bounds: Interval) -> bytes | None:
    """The native answer from the question's rows.

    Args:
        bounds: First and last time of the data, both included.

    Returns:
        None where nothing was found: what an answer then looks like, the rows of the interval have to tell.
    """
    parts = clipped_to(query.intervals, bounds)
    found = _found(query, translation, rows)
    if not parts or not found.height or not found.get_column(MATCHED).sum():
        return None
    types = [of for _, of in translation.dimensions]
    if query.type == "timeseries":
        return series_of(query, found, parts)
    if query.type == "topN":
        return ranking_of(query, found.rename({dimension_name(0): VALUE}), types[0], parts)
    return groups_json(query, whole_groups(query, found, types))


def _found(query: NativeQuery, translation: Translation, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows as `rta.druid.engine.aggregated` gives them."""
    columns = [pl.col(_COUNT).alias(MATCHED)]
    if not query.granularity.all:
        columns.append(pl.col("time").dt.epoch("ms").alias(BUCKET))
    for i, (name, of) in enumerate(translation.dimensions):
        columns.append(pl.col(name).cast(POLARS[of]).alias(dimension_name(i)))
    for i, aggregator in enumerate(query.aggregators):
        columns.append(pl.col(f"druid {i}").cast(POLARS[aggregator.type]).alias(aggregate_name(i)))
    return rows.select(columns)


def first_matters(query: NativeQuery) -> bool:
    """Whether the answer shows the first time of the data to the millisecond."""
    return query.granularity.all and query.type != "groupBy"
