"""Tables that native queries read: rows with a time, and what their columns are called and hold.

Raw events and rollups become tables here, and so do the rows of an inline data source; the answer of an inner query is one
too. Truth values are texts, as Druid has them; timestamps are milliseconds. What has no column is looked for in the JSON
text beside the columns, so that `a.b` is a column of any table of events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import polars as pl

from rta.druid import reading
from rta.druid.inline import inline_column
from rta.druid.periods import Interval
from rta.druid.values import MISSING, Column, Type
from rta.errors import InvalidQueryError
from rta.events.schemas import TIME, ColumnType, Datasource, MetricSpec, MetricType, Rollup
from rta.query.fields import FieldKind, resolve
from rta.query.shape import Shape
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN

Find = Callable[[str], Column | None]


def _nothing(_: str) -> Column | None:
    return None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows and their columns.

    Args:
        frame: Has a column `__time`: int64 milliseconds, or (`stamped`) a timestamp.
        columns: By name, in the order in which they are shown; over a frame whose `__time` is int64.
        other: Finds what is no column.
        bounds: First and last time of all rows, both included, where it is known without reading them.
        rollup: Its rows are aggregates.
        derived: Its rows come from a query or with one: what their times are bounded by is the query's intervals.
    """

    frame: pl.LazyFrame
    columns: Mapping[str, Column]
    other: Find = _nothing
    stamped: bool = False
    bounds: Interval | None = None
    rollup: Rollup | None = None
    derived: bool = False

    def column(self, name: str) -> Column:
        return self.columns.get(name) or self.other(name) or MISSING

    def during(self, intervals: Sequence[Interval]) -> pl.LazyFrame:
        """The rows in the intervals, `__time` in milliseconds."""
        frame = self.frame
        tests = [t for t in (self._inside(i) for i in intervals) if t is not None]
        if not intervals:
            frame = frame.filter(pl.lit(value=False))
        elif len(tests) == len(intervals):
            frame = frame.filter(reduce(lambda a, b: a | b, tests))
        return frame.with_columns(pl.col(TIME).dt.epoch("ms")) if self.stamped else frame

    def _inside(self, interval: Interval) -> pl.Expr | None:
        bounds = []
        if interval[0] > TIME_MS_MIN:
            bounds.append(pl.col(TIME) >= self._bound(interval[0]))
        if interval[1] < TIME_MS_MAX:
            bounds.append(pl.col(TIME) < self._bound(interval[1]))
        return reduce(lambda a, b: a & b, bounds) if bounds else None

    def _bound(self, instant_ms: int) -> pl.Expr:
        value = pl.lit(instant_ms, pl.Int64)
        return value.cast(pl.Datetime("ms", "UTC")) if self.stamped else value

    def known_bounds(self) -> Interval | None:
        """First and last time of all rows; None when there are none."""
        if self.bounds is not None:
            return self.bounds if self.bounds[0] <= self.bounds[1] else None
        time = pl.col(TIME).dt.epoch("ms") if self.stamped else pl.col(TIME)
        low, high = self.frame.select(time.min().alias("low"), time.max().alias("high")).collect().row(0)
        return None if low is None else (low, high)


TIME_COLUMN = Column(pl.col(TIME), Type.LONG)


def raw_table(frame: pl.LazyFrame, shape: Shape, bounds: Interval | None) -> Table:
    """A table of single rows: events, or rejected ones.

    Args:
        frame: In the shape's schema; `__time` is a timestamp.
    """
    columns = {TIME: TIME_COLUMN}
    columns |= {c.name: _stored(c.name, c.type) for c in shape.columns}

    def other(name: str) -> Column | None:
        try:
            found = resolve(name, shape)
        except InvalidQueryError:
            return None
        if found.kind is FieldKind.COLUMN:
            return columns[found.column]
        if found.kind is not FieldKind.PATH:
            return None
        return Column(_at_path(found.column, found.path), Type.STRING)

    return Table(frame, columns, other, stamped=True, bounds=bounds)


def _at_path(column: str, path: tuple[str, ...]) -> pl.Expr:
    def read(texts: pl.Series) -> pl.Series:
        from rta.query.paths import values_at

        return values_at(texts, path)[0]

    return pl.col(column).map_batches(read, return_dtype=pl.String, is_elementwise=True)


def _stored(name: str, of: ColumnType) -> Column:
    column = pl.col(name)
    match of:
        case ColumnType.LONG:
            return Column(column.cast(pl.Int64), Type.LONG)
        case ColumnType.DOUBLE:
            return Column(column, Type.DOUBLE)
        case ColumnType.BOOLEAN:
            return Column(column.cast(pl.String), Type.STRING)
        case ColumnType.TIMESTAMP:
            return Column(column.dt.epoch("ms"), Type.LONG)
        case ColumnType.STRINGS:
            return Column(column, Type.STRING, multi=True)
        case ColumnType.JSON:
            return Column(column, Type.JSON)
        case _:
            return Column(column, Type.STRING)


def rollup_table(frame: pl.LazyFrame, datasource: Datasource, rollup: Rollup, bounds: Interval | None) -> Table:
    """A rollup: its dimensions, and its metrics under their names; those of `top` metrics are not shown."""
    types = {c.name: c.type for c in datasource.columns}
    columns = {TIME: TIME_COLUMN}
    columns |= {d: _stored(d, types[d]) for d in rollup.dimensions}
    for metric in rollup.metrics:
        found = _metric(metric, types)
        if found is not None:
            columns[metric.name] = found
    return Table(frame, columns, stamped=True, bounds=bounds, rollup=rollup)


def _metric(metric: MetricSpec, types: Mapping[str, ColumnType]) -> Column | None:
    value = pl.col(metric.name)
    match metric.type:
        case MetricType.COUNT:
            return Column(value.cast(pl.Int64), Type.LONG)
        case MetricType.SUM:
            of = Type.LONG if types[str(metric.field)] is ColumnType.LONG else Type.DOUBLE
            return Column(pl.when(pl.col(metric.n) > 0).then(value), of)
        case MetricType.MIN | MetricType.MAX:
            of = Type.LONG if types[str(metric.field)] is ColumnType.LONG else Type.DOUBLE
            return Column(value, of)
        case MetricType.UNIQUE:
            return Column(pl.col(metric.sketch), Type.HLL, items=pl.col(metric.items))
        case MetricType.QUANTILE:
            return Column(pl.col(metric.sketch), Type.QUANTILES, items=pl.col(metric.items))
        case _:
            return None


def union_table(tables: Sequence[Table], wanted: frozenset[str] | None) -> Table:
    """The rows of several tables; a column that one of them lacks is null there.

    Args:
        wanted: The names that will be asked for: the frames need not hold more. None for all columns.
    """
    if len(tables) == 1:
        return tables[0]
    names = dict.fromkeys(name for table in tables for name in table.columns)
    if wanted is not None:
        names = {TIME: None} | {n: None for n in names if n in wanted} | dict.fromkeys(sorted(wanted))
    columns: dict[str, Column] = {}
    for name in names:
        found = next((c for c in (t.column(name) for t in tables) if not c.missing), None)
        if found is not None:
            columns[name] = found
    frames = [_aligned(table, columns) for table in tables]
    shown = {
        n: Column(pl.col(n), c.type, c.multi, items=None if c.items is None else pl.col(_items(n)))
        for n, c in columns.items()
    }
    known = [t.bounds for t in tables]
    bounds = (min(b[0] for b in known if b), max(b[1] for b in known if b)) if all(known) else None
    return Table(pl.concat(frames, how="diagonal_relaxed"), shown, bounds=bounds)


def _items(name: str) -> str:
    """The column with the plain items of a sketch column."""
    return f"\0items {name}"


def _aligned(table: Table, columns: Mapping[str, Column]) -> pl.LazyFrame:
    from rta.druid.values import POLARS, cast

    frame = table.during([(TIME_MS_MIN, TIME_MS_MAX)])
    chosen = []
    for name, wanted in columns.items():
        found = table.column(name)
        if found.missing:
            dtype = pl.List(pl.String) if wanted.multi else POLARS[wanted.type]
            chosen.append(pl.lit(None, dtype).alias(name))
        elif found.type is wanted.type and found.multi == wanted.multi:
            chosen.append(found.expr.alias(name))
            if found.items is not None:
                chosen.append(found.items.alias(_items(name)))
        else:
            chosen.append(cast(found, wanted.type).expr.alias(name))
    return frame.select(chosen)


def inline_table(names: Sequence[str], types: Sequence[str] | None, rows: Sequence[Any]) -> Table:
    """The rows that a query brings along. Raises InvalidInputError."""
    listed = [list(reading.items({"row": row}, "row", "the inline data source")) for row in rows]
    columns = {
        n: inline_column(n, [r[i] if i < len(r) else None for r in listed], types[i] if types else None)
        for i, n in enumerate(names)
    }
    frame = pl.DataFrame([series for series, _ in columns.values()])
    shown = {name: Column(pl.col(name), of) for name, (_, of) in columns.items()}
    if TIME in shown:
        frame = frame.with_columns(pl.col(TIME).cast(pl.Int64).fill_null(0))
    else:
        frame = (
            frame.with_columns(pl.lit(0, pl.Int64).alias(TIME))
            if frame.width
            else pl.DataFrame(schema={TIME: pl.Int64})
        )
    return Table(frame.lazy(), {TIME: TIME_COLUMN} | {n: c for n, c in shown.items() if n != TIME}, derived=True)
