"""timeseries: aggregates by time, with a row for every bucket between the data's first and last."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from rta.druid.engine import (
    BUCKET,
    MATCHED,
    aggregated,
    bucket_key,
    clipped,
    completed,
    filled,
    has_rows,
    rows_of,
    shown_buckets,
)
from rta.druid.granularity import Granularity, bucket_starts, buckets
from rta.druid.periods import Interval
from rta.druid.query import NativeQuery
from rta.druid.table import TIME_COLUMN, Table
from rta.druid.wire import nested_json, shown


def timeseries(query: NativeQuery, table: Table) -> bytes:
    """Buckets in the order of time, or the reverse."""
    rows = rows_of(query, table)
    parts = clipped(query.intervals, table)
    keys = () if query.granularity.all else (bucket_key(bucket_starts(TIME_COLUMN.expr, query.granularity)),)
    found = aggregated(rows.matching, keys, query.aggregators, rows.resolve)
    if not found.height and not has_rows(rows.inside):
        parts = []
    total = None
    if query.context.grand_total:
        total = aggregated(rows.matching, (), query.aggregators, rows.resolve)
    return series_of(query, found, parts, total)


def series_of(
    query: NativeQuery, found: pl.DataFrame, parts: Sequence[Interval], total: pl.DataFrame | None = None
) -> bytes:
    """The answer from aggregates by bucket.

    Args:
        found: One row per bucket with rows; of granularity `all` one row, whose time is the first of the data in the
            interval, without data 1970.
        parts: Where the data is, in the query's intervals.
        total: Over all buckets, as a last row.
    """
    if query.granularity.all:
        frame = _at(found, parts[0][0] if parts else 0)
    elif query.context.skip_empty_buckets or not parts or _every_instant(query.granularity):
        frame = found
    else:
        frame = _with_empty(found, parts, query.granularity)
    if query.context.skip_empty_buckets:
        frame = frame.filter(pl.col(MATCHED) > 0)
    frame = filled(frame, query.aggregators).sort(BUCKET, descending=query.descending)
    if query.limit.limit is not None:
        frame = frame.head(query.limit.limit)
    if total is not None and frame.height:
        frame = pl.concat([frame, filled(_at(total, None), query.aggregators).select(frame.columns)])
    return _answer(query, frame)


def _at(frame: pl.DataFrame, instant_ms: int | None) -> pl.DataFrame:
    return frame.with_columns(pl.lit(instant_ms, pl.Int64).alias(BUCKET))


def _every_instant(granularity: Granularity) -> bool:
    return granularity.period is not None and granularity.period.fixed_ms == 1 and not granularity.period.months


def _with_empty(found: pl.DataFrame, parts: Sequence[Interval], granularity: Granularity) -> pl.DataFrame:
    starts = pl.concat([buckets(part, granularity) for part in parts]).unique()
    there = found.get_column(BUCKET)
    missing = starts.filter(~starts.is_in(there.implode()))
    if not len(missing):
        return found
    empty = pl.DataFrame({BUCKET: missing, MATCHED: pl.zeros(len(missing), pl.UInt32, eager=True)})
    return pl.concat([found, empty.cast({MATCHED: found.schema[MATCHED]})], how="diagonal")


def _answer(query: NativeQuery, frame: pl.DataFrame) -> bytes:
    frame, _, columns = completed(frame, query.aggregators, query.postaggregators, query.context.finalize)
    stamps = frame.select(shown_buckets(query, pl.col(BUCKET)).alias("timestamp"))
    return nested_json(stamps, "result", shown(frame, list(columns.items())))
