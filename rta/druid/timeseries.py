"""timeseries: aggregates by time, with a row for every bucket between the data's first and last."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from rta.druid.engine import (
    BUCKET,
    MATCHED,
    Rows,
    aggregated,
    bucket_key,
    clipped,
    completed,
    filled,
    has_rows,
    rows_of,
)
from rta.druid.granularity import Granularity, bucket_stamps, bucket_starts, buckets
from rta.druid.periods import Interval
from rta.druid.query import NativeQuery
from rta.druid.table import TIME_COLUMN, Table
from rta.druid.wire import nested_json, shown


def timeseries(query: NativeQuery, table: Table) -> bytes:
    """Buckets in the order of time, or the reverse."""
    rows = rows_of(query, table)
    parts = clipped(query.intervals, table.known_bounds())
    frame = _total(query, rows, parts) if query.granularity.all else _by_time(query, rows, parts)
    if query.context.skip_empty_buckets:
        frame = frame.filter(pl.col(MATCHED) > 0)
    frame = filled(frame, query.aggregators, rows.resolve).sort(BUCKET, descending=query.descending)
    if query.limit.limit is not None:
        frame = frame.head(query.limit.limit)
    if query.context.grand_total and frame.height:
        total = aggregated(rows.matching, (), query.aggregators, rows.resolve)
        frame = pl.concat([frame, filled(_at(total, None), query.aggregators, rows.resolve).select(frame.columns)])
    return _answer(query, frame)


def _total(query: NativeQuery, rows: Rows, parts: Sequence[Interval]) -> pl.DataFrame:
    """One row, at the first time of the data in the interval; without data at 1970."""
    found = aggregated(rows.matching, (), query.aggregators, rows.resolve)
    return _at(found, parts[0][0] if parts else 0)


def _at(frame: pl.DataFrame, instant_ms: int | None) -> pl.DataFrame:
    return frame.with_columns(pl.lit(instant_ms, pl.Int64).alias(BUCKET))


def _by_time(query: NativeQuery, rows: Rows, parts: Sequence[Interval]) -> pl.DataFrame:
    starts = bucket_starts(TIME_COLUMN.expr, query.granularity)
    found = aggregated(rows.matching, (bucket_key(starts),), query.aggregators, rows.resolve)
    if query.context.skip_empty_buckets or not parts or _every_instant(query.granularity):
        return found
    if not found.height and not has_rows(rows.inside):
        return found
    return _with_empty(found, parts, query.granularity)


def _every_instant(granularity: Granularity) -> bool:
    return granularity.period is not None and granularity.period.fixed_ms == 1 and not granularity.period.months


def _with_empty(found: pl.DataFrame, parts: Sequence[Interval], granularity: Granularity) -> pl.DataFrame:
    starts = pl.concat([buckets(part, granularity) for part in parts]).unique()
    every = pl.DataFrame({BUCKET: starts})
    return every.join(found, on=BUCKET, how="left").with_columns(pl.col(MATCHED).fill_null(0))


def _answer(query: NativeQuery, frame: pl.DataFrame) -> bytes:
    frame, _, columns = completed(frame, query.aggregators, query.postaggregators, query.context.finalize)
    stamps = frame.select(bucket_stamps(pl.col(BUCKET), query.granularity).alias("timestamp"))
    return nested_json(stamps, "result", shown(frame, list(columns.items())))
