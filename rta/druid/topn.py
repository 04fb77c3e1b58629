"""topN: the values of one dimension that rank first, by a metric or in an order of their own, per bucket of time.

Equal ranks are in the order of the values. Nulls rank last.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import polars as pl

from rta.druid.dimensions import dimension_column, dropped
from rta.druid.engine import BUCKET, aggregated, bucket_key, clipped, completed, has_rows, rows_of, shown_buckets
from rta.druid.granularity import bucket_starts, buckets
from rta.druid.limits import TopNMetric
from rta.druid.ordering import Ordering, alphanumeric_key, below, sort_keys
from rta.druid.periods import Interval
from rta.druid.problems import InvalidInputError
from rta.druid.query import NativeQuery
from rta.druid.table import TIME_COLUMN, Table
from rta.druid.values import ARRAYS, NUMBERS, SKETCHES, Column, Type, as_text
from rta.druid.wire import rows_json, shown

VALUE = "\0value"


def topn(query: NativeQuery, table: Table) -> bytes:
    """Per bucket the first `threshold` values."""
    rows, spec = rows_of(query, table), query.dimensions[0]
    parts = clipped(query.intervals, table)
    if not parts or not has_rows(rows.inside):
        return b"[]"
    dimension = dimension_column(spec, rows.resolve)
    matching = rows.matching
    gone = dropped(spec, rows.resolve)
    if gone is not None:
        matching = matching.filter(~gone)
    keys = [(VALUE, dimension)]
    if not query.granularity.all:
        keys.insert(0, bucket_key(bucket_starts(TIME_COLUMN.expr, query.granularity)))
    frame = aggregated(matching, keys, query.aggregators, rows.resolve)
    return ranking_of(query, frame, dimension.type, parts)


def ranking_of(query: NativeQuery, frame: pl.DataFrame, of: Type, parts: Sequence[Interval]) -> bytes:
    """The answer from aggregates by bucket and value.

    Args:
        frame: Its column `VALUE` is of type `of`.
        parts: Where the data is, in the query's intervals.
    """
    if query.granularity.all:
        starts = [parts[0][0]]
        frame = frame.with_columns(pl.lit(starts[0], pl.Int64).alias(BUCKET))
    else:
        every = [*(buckets(part, query.granularity) for part in parts), frame.get_column(BUCKET)]
        starts = pl.concat(every).unique().sort().to_list()
    return _answer(query, frame, Column(pl.col(VALUE), of), starts)


def _answer(query: NativeQuery, frame: pl.DataFrame, value: Column, starts: list[int]) -> bytes:
    frame, raw, columns = completed(frame, query.aggregators, query.postaggregators, query.context.finalize)
    metric = query.metric
    assert metric is not None
    assert query.limit.limit is not None
    frame = _ranked(frame, metric, value, columns | {n: c for n, c in raw.items() if n not in columns})
    frame = frame.group_by(BUCKET, maintain_order=True).head(query.limit.limit)
    outputs = [(query.dimensions[0].name, value), *columns.items()]
    return _written(query, frame, outputs, starts)


def _written(query: NativeQuery, frame: pl.DataFrame, outputs: list[tuple[str, Column]], starts: list[int]) -> bytes:
    parts = frame.partition_by(BUCKET, as_dict=True, maintain_order=True)
    order = sorted(starts, reverse=query.descending)
    texts = pl.DataFrame({"t": order}, schema={"t": pl.Int64}).select(shown_buckets(query, pl.col("t")))
    out = []
    for start, text in zip(order, texts.to_series(), strict=True):
        part = parts.get((start,))
        rows = b"[]" if part is None else rows_json(shown(part, outputs))
        out.append(b'{"timestamp":' + orjson.dumps(text) + b',"result":' + rows + b"}")
    return b"[" + b",".join(out) + b"]"


def _ranked(frame: pl.DataFrame, metric: TopNMetric, value: Column, columns: dict[str, Column]) -> pl.DataFrame:
    ties = [value.expr]
    if metric.name is None:
        keys = sort_keys(value, metric.ordering)
        if metric.previous is not None:
            frame = _after(frame, metric, value, metric.previous)
        return _sorted(frame, [pl.col(BUCKET), *keys], [False] + [metric.inverted] * len(keys))
    found = columns.get(metric.name)
    if found is None:
        raise InvalidInputError(f"'metric' is '{metric.name}', which is not in the query", "name an aggregation of it")
    if found.type in ARRAYS or found.type in SKETCHES:
        raise InvalidInputError(f"'metric' is '{metric.name}', which is {found.type}", "rank by a number")
    rank = found.expr if found.type in NUMBERS else as_text(found)
    order = [False, False, not metric.inverted, False]
    return _sorted(frame, [pl.col(BUCKET), rank.is_null(), rank, *ties], order)


def _sorted(frame: pl.DataFrame, keys: list[pl.Expr], descending: list[bool]) -> pl.DataFrame:
    return frame.sort(keys, descending=descending, nulls_last=descending, maintain_order=True)


def _after(frame: pl.DataFrame, metric: TopNMetric, value: Column, previous: str) -> pl.DataFrame:
    """Only what comes behind the value that a client saw last."""
    if metric.ordering is Ordering.ALPHANUMERIC or metric.ordering is Ordering.VERSION:
        last = pl.lit(alphanumeric_key(previous))
        keys = sort_keys(value, metric.ordering)[:1]
        behind = keys[0] < last if metric.inverted else keys[0] > last
        return frame.filter(behind.fill_null(value=metric.inverted))
    under = below(value, previous, metric.ordering, inclusive=not metric.inverted)
    behind = under if metric.inverted else ~under
    return frame.filter(behind.fill_null(value=metric.inverted))
