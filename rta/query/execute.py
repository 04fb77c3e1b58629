"""Answering a question from rollup rows. Arrays in, an answer out; no I/O.

The rows of all blocks in the range are joined column by column (joining one block costs nothing), filtered by their
dictionary codes, numbered by group, and folded by the kernels of `rta.stream.grouping`. How lists and sketches of
several rows become an estimate is `rta.query.combine`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from rta.errors import InvariantError
from rta.events.schemas import MetricType
from rta.query.answer import TIME_TYPE, Answer
from rta.query.block import Block, Codes, Dictionaries, Flags, ListColumn, Longs, NumberColumn
from rta.query.block import Piece as Piece
from rta.query.combine import Selected, quantiles, tops, uniques
from rta.query.conditions import compares
from rta.query.model import And, Compare, QueryMetricType, Unit
from rta.query.narrow import Chosen, is_set, set_sizes
from rta.query.order import cut
from rta.query.plan import Plan, PlannedMetric
from rta.query.selecting import codes_there, combined, renumbered, rows_still_taken, rows_taken
from rta.query.time import bucket_starts
from rta.query.where import Dimensions, truths
from rta.stream.grouping import (
    ALL_VALID,
    Groups,
    count_by_group,
    extreme_by_group,
    group_rows,
    readable,
    sum_doubles,
    sum_longs,
)

DENSE_KEYS_MAX = 1 << 20
"""Up to here groups are numbered through an array with a place for every combination."""


class Slice(NamedTuple):
    """The rows of a block inside the question's range."""

    block: Block
    first: int
    end: int
    first_time: int
    end_time: int


def run_rollup(plan: Plan, blocks: Sequence[Piece | Block | pl.DataFrame]) -> Answer:
    """Answer an aggregated question from rollup rows.

    Args:
        plan: With a rollup.
        blocks: Rows of that rollup at any of its grains, from files and beyond them, not merged: they add. Blocks share
            their dictionaries; plain frames get some of their own. Only a piece is asked for less than the plan's range.

    Returns:
        One row per (step, groups) that has events, ordered and cut; of an ungrouped question always one.

    Cost: about 1 ns per row, column and condition, 5 ns per plain item of a quantile or uniques metric, and 3-7 µs per
    row that brings a sketch along.
    """
    assert plan.rollup is not None
    rows = Rows(_slices(_shared(plan, blocks)), plan.rollup.count.name)
    selected = _select(plan, rows)
    keys, groups = _group(plan, rows, selected)
    bounds: dict[str, dict[str, float]] = {}
    columns = _key_columns(plan, rows, keys)
    everything = Chosen(rows, selected, groups, plan.fields)
    for planned in plan.metrics:
        if is_set(planned):
            column, bound = set_sizes(planned, everything)
        else:
            part = everything.by(planned.metric.where)
            column, bound = _measure(planned, rows, part.selected, part.groups)
        columns.append(column.alias(planned.metric.name))
        if bound:
            bounds[planned.metric.name] = bound
    for each in rows.slices:
        each.block.note_asked(plan.columns)
    frame, more = cut(pl.DataFrame(columns), plan)
    return Answer(frame, bounds, more)


def _shared(plan: Plan, blocks: Sequence[Piece | Block | pl.DataFrame]) -> list[Piece]:
    given = [b.block if isinstance(b, Piece) else b for b in blocks]
    times = [(b.start_ms, b.end_ms) if isinstance(b, Piece) else (plan.start_ms, plan.end_ms) for b in blocks]
    dictionaries = next((b.dictionaries for b in given if isinstance(b, Block)), None) or Dictionaries()
    out = [b if isinstance(b, Block) else Block(b, dictionaries) for b in given]
    # A cache that was emptied in between began new dictionaries: codes of two kinds never mix.
    out = [b if b.dictionaries is dictionaries else Block(b.frame, dictionaries) for b in out]
    return [Piece(block, *between) for block, between in zip(out, times, strict=True)]


def _slices(pieces: Sequence[Piece]) -> list[Slice]:
    out = []
    for block, start_ms, end_ms in pieces:
        first_time, end_time = np.searchsorted(block.times, (start_ms, end_ms)).tolist()
        if end_time > first_time:
            first, end = int(block.begins[first_time]), int(block.begins[end_time])
            out.append(Slice(block, first, end, first_time, end_time))
    return out


class Rows:
    """The joined columns of some slices, each joined when it is first asked for."""

    def __init__(self, slices: list[Slice], count_column: str) -> None:
        self.slices = slices
        self.count_column = count_column
        self.count = sum(s.end - s.first for s in slices)
        self._codes: dict[str, Codes] = {}

    def dictionaries(self) -> Dictionaries:
        return self.slices[0].block.dictionaries if self.slices else Dictionaries()

    def codes(self, column: str) -> Codes:
        found = self._codes.get(column)
        if found is None:
            found = _join([s.block.codes(column)[s.first : s.end] for s in self.slices], np.int32)
            self._codes[column] = found
        return found

    def times(self) -> tuple[Longs, Longs]:
        """The slices' distinct times one after the other, and how many rows each has."""
        times = [s.block.times[s.first_time : s.end_time] for s in self.slices]
        counts = [np.diff(s.block.begins[s.first_time : s.end_time + 1]) for s in self.slices]
        return _join(times, np.int64), _join(counts, np.int64)

    def numbers(self, column: str) -> NumberColumn:
        parts = [s.block.numbers(column) for s in self.slices]
        values = _join([p.values[s.first : s.end] for p, s in zip(parts, self.slices, strict=True)], np.int64)
        if all(len(p.valid) == 0 for p in parts):
            return NumberColumn(values, ALL_VALID)
        valid = [
            p.valid[s.first : s.end] if len(p.valid) else np.ones(s.end - s.first, np.bool_)
            for p, s in zip(parts, self.slices, strict=True)
        ]
        return NumberColumn(values, _join(valid, np.bool_))

    def lists(self, column: str) -> list[tuple[Slice, ListColumn]]:
        return [(s, s.block.lists(column)) for s in self.slices]


_Number = TypeVar("_Number", bound=np.generic)


def _join(parts: Sequence[npt.NDArray[_Number]], empty: type[_Number]) -> npt.NDArray[_Number]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, empty)


def _select(plan: Plan, rows: Rows) -> Longs | None:
    """Positions of the rows that the condition takes; None for all."""
    condition = plan.pushed
    if condition is None or rows.count == 0:
        return None
    for compare in compares(condition):
        rows.codes(plan.fields[compare.field].column)
    parts = condition.parts if isinstance(condition, And) else (condition,)
    comparisons = [part for part in parts if isinstance(part, Compare)]
    if len(comparisons) < len(parts):
        return np.flatnonzero(Dimensions(rows.codes, rows.dictionaries(), plan.fields).mask(condition))
    selected: Longs | None = None
    for comparison in comparisons:
        field = plan.fields[comparison.field]
        taken = truths(comparison, field, rows.dictionaries()[field.column], wanted=True)
        codes = readable(rows.codes(field.column))
        selected = rows_taken(codes, taken) if selected is None else rows_still_taken(codes, taken, selected)
    return selected


class Keys(NamedTuple):
    """Of each group its step (start in ms) and its codes per grouped field."""

    starts: Longs
    codes: list[Codes]


def _group(plan: Plan, rows: Rows, selected: Longs | None) -> tuple[Keys, Groups]:
    """Number the groups of the selected rows: ascending by step, then by code, where that costs nothing."""
    count = rows.count if selected is None else len(selected)
    starts, parts, sizes = _steps(plan, rows, selected)
    for field in plan.group_by:
        codes = rows.codes(field.column)
        parts.append(codes if selected is None else codes[selected])
        sizes.append(rows.dictionaries()[field.column].size if rows.slices else 1)
    if not parts:
        everything = Groups(np.zeros(count, np.int32), np.zeros(1, np.int64))
        return Keys(np.zeros(1, np.int64), []), everything
    combinations = 1
    for size in sizes:
        combinations *= size
    if combinations <= max(DENSE_KEYS_MAX if count > DENSE_KEYS_MAX // 16 else count * 16, 1024):
        codes_of, groups = _dense(parts, sizes, combinations)
    else:
        groups = group_rows([readable(p.astype(np.int64)) for p in parts], count)
        codes_of = [p[groups.first_row].astype(np.int32, copy=False) for p in parts]
    if plan.query.granularity.unit is Unit.ALL:
        return Keys(np.zeros(groups.number, np.int64), codes_of), groups
    return Keys(starts[codes_of[0]], codes_of[1:]), groups


def _steps(plan: Plan, rows: Rows, selected: Longs | None) -> tuple[Longs, list[npt.NDArray[np.integer]], list[int]]:
    """The distinct steps, and as the first key which of them each row is in; no key without a granularity."""
    step = plan.query.granularity
    if step.unit is Unit.ALL:
        return np.zeros(0, np.int64), [], []
    times, counts = rows.times()
    starts, place = np.unique(bucket_starts(times, step, plan.query.timezone), return_inverse=True)
    of_row = np.repeat(place.astype(np.int32), counts)
    return starts, [of_row if selected is None else of_row[selected]], [max(len(starts), 1)]


def _dense(parts: Sequence[npt.NDArray[np.integer]], sizes: list[int], combinations: int) -> tuple[list[Codes], Groups]:
    key = readable(parts[0].astype(np.int32, copy=False))
    for part, size in zip(parts[1:], sizes[1:], strict=True):
        key = readable(combined(key, size, readable(part.astype(np.int32, copy=False))))
    there = codes_there(key, combinations)
    present = np.flatnonzero(there)
    if len(present) < combinations:
        number = np.cumsum(there, dtype=np.int32) - np.int32(1)
        key = renumbered(key, number)
    codes: list[Codes] = []
    rest = present
    for size in reversed(sizes):
        rest, code = np.divmod(rest, size)
        codes.append(code.astype(np.int32))
    return codes[::-1], Groups(key, np.empty(len(present), np.int64))


def _key_columns(plan: Plan, rows: Rows, keys: Keys) -> list[pl.Series]:
    columns = []
    if plan.query.granularity.unit is not Unit.ALL:
        columns.append(pl.Series("time", keys.starts).cast(TIME_TYPE))
    for field, codes in zip(plan.group_by, keys.codes, strict=True):
        if not rows.slices:
            columns.append(pl.Series(field.name, [], dtype=pl.String))
            continue
        dictionary = rows.dictionaries()[field.column]
        columns.append(dictionary.series(dictionary.size).gather(codes.astype(np.uint32)).alias(field.name))
    return columns


def _measure(
    planned: PlannedMetric, rows: Rows, selected: Longs | None, groups: Groups
) -> tuple[pl.Series, dict[str, float] | None]:
    """The metric's value per group, and how far an estimate may be off (None for what is exact)."""
    spec, kind = planned.spec, planned.metric.type
    if spec is None:
        return _of_dimension(planned, rows, selected, groups), None
    match kind:
        case QueryMetricType.COUNT:
            column = spec.name if spec.type is MetricType.COUNT else spec.n
            return pl.Series(_sum(rows.numbers(column), selected, groups)), None
        case QueryMetricType.SUM | QueryMetricType.AVG:
            return _sum_or_average(planned, rows, selected, groups), None
        case QueryMetricType.MIN | QueryMetricType.MAX:
            return _extreme(planned, rows, selected, groups), None
        case QueryMetricType.QUANTILE:
            return quantiles(_selected(rows, spec.items, spec.sketch, selected, groups), planned.metric.q)
        case QueryMetricType.UNIQUE:
            return uniques(_selected(rows, spec.items, spec.sketch, selected, groups))
        case QueryMetricType.TOP:
            return tops(_selected(rows, spec.items, spec.sketch, selected, groups), planned.metric.k)
        case _:
            raise InvariantError(f"metric type '{kind}' has no fold")


def _selected(rows: Rows, items: str, sketch: str, selected: Longs | None, groups: Groups) -> Selected:
    slices = [(s.block, s.first, s.end) for s in rows.slices]
    return Selected(slices, items, sketch, selected, groups)


def _taken(column: NumberColumn, selected: Longs | None) -> NumberColumn:
    if selected is None:
        return NumberColumn(readable(column.values), readable(column.valid))
    valid = column.valid[selected] if len(column.valid) else ALL_VALID
    return NumberColumn(readable(column.values[selected]), readable(valid))


def _sum(column: NumberColumn, selected: Longs | None, groups: Groups) -> npt.NDArray[Any]:
    values, valid = _taken(column, selected)
    fold = sum_longs if values.dtype == np.int64 else sum_doubles
    return fold(values, valid, groups.of_row, groups.number)


def _sum_or_average(planned: PlannedMetric, rows: Rows, selected: Longs | None, groups: Groups) -> pl.Series:
    assert planned.spec is not None
    total = _sum(rows.numbers(planned.spec.name), selected, groups)
    n = _sum(rows.numbers(planned.spec.n), selected, groups)
    if planned.metric.type is QueryMetricType.AVG:
        with np.errstate(invalid="ignore", divide="ignore"):
            return _nullable(np.divide(total, n, dtype=np.float64), n > 0)
    return _nullable(total, n > 0)


def _extreme(planned: PlannedMetric, rows: Rows, selected: Longs | None, groups: Groups) -> pl.Series:
    assert planned.spec is not None
    out = _extreme_of(planned.spec.name, planned.metric.type, rows, selected, groups)
    return out.cast(TIME_TYPE) if planned.field is not None and planned.field.type == "timestamp" else out


def _extreme_of(column: str, kind: QueryMetricType, rows: Rows, selected: Longs | None, groups: Groups) -> pl.Series:
    values, valid = _taken(rows.numbers(column), selected)
    found, there = extreme_by_group(values, valid, groups.of_row, groups.number, kind is QueryMetricType.MAX)
    return _nullable(found, there)


def _nullable(values: npt.NDArray[np.generic], there: Flags) -> pl.Series:
    series = pl.Series(values)
    return series if there.all() else series.zip_with(pl.Series(there), pl.Series([None], dtype=series.dtype))


def _of_dimension(planned: PlannedMetric, rows: Rows, selected: Longs | None, groups: Groups) -> pl.Series:
    """Metrics of a field that is a dimension: events that have it, or how many values it has."""
    assert planned.field is not None
    codes = rows.codes(planned.field.column)
    codes = codes if selected is None else codes[selected]
    if planned.metric.type is QueryMetricType.COUNT:
        counts = rows.numbers(rows.count_column)
        return pl.Series(
            _sum(NumberColumn(counts.values * (rows.codes(planned.field.column) != 0), ALL_VALID), selected, groups)
        )
    size = rows.dictionaries()[planned.field.column].size if rows.slices else 1
    there = codes != 0
    pairs = np.unique(groups.of_row[there].astype(np.int64) * size + codes[there])
    return pl.Series(count_by_group(ALL_VALID, (pairs // size).astype(np.int32), groups.number))
