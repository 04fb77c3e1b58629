"""The time axis of an answer: which steps a range has, how long they are, and rows for those without events."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from rta.errors import InvalidQueryError
from rta.query.answer import TIME_TYPE
from rta.query.derive import SECONDS
from rta.query.model import Granularity, Query, Unit
from rta.query.time import DAY_MS, TIME_MS_MAX, TIME_MS_MIN, bucket_start, bucket_starts, next_start

Longs = npt.NDArray[np.int64]
STEPS_MAX = 1_000_000
FILLED_ROWS_MAX = 5_000_000
_QUARTER_MS = 900_000


def steps(start_ms: int, end_ms: int, step: Granularity, zone: str) -> Longs:
    """Starts of the steps that lie in the range or reach into it.

    Raises:
        InvalidQueryError: more than `STEPS_MAX`.
    """
    # Every step is longer than the probe or starts at one: offsets from UTC are whole quarters of an hour.
    probe = {Unit.MS: math.gcd(step.count, _QUARTER_MS), Unit.DAY: DAY_MS // 4, Unit.MONTH: DAY_MS}[step.unit]
    if (end_ms - start_ms) // max(probe, step.count if step.unit is Unit.MS else 0) > STEPS_MAX:
        raise InvalidQueryError(
            f"the time range has more than {STEPS_MAX:,} steps", "ask of a shorter time range or coarser steps"
        )
    first = bucket_start(start_ms, step, zone)
    return np.unique(bucket_starts(np.arange(first, end_ms, probe, dtype=np.int64), step, zone))


def bounded(range_ms: tuple[int, int]) -> bool:
    return range_ms[0] > TIME_MS_MIN and range_ms[1] < TIME_MS_MAX


def with_every_step(frame: pl.DataFrame, query: Query, range_ms: tuple[int, int], zeros: Sequence[str]) -> pl.DataFrame:
    """The frame with a row for each group and step from the range's first (else the first with events) to the last with
    events; `zeros` are the columns that are 0 in a row without events, the others are null.

    Raises:
        InvalidQueryError: that would be more than `FILLED_ROWS_MAX` rows.
    """
    if frame.height == 0:
        return frame
    stamps = frame.get_column("time").dt.epoch("ms")
    low, high = int(stamps.to_numpy().min()), int(stamps.to_numpy().max())
    first = range_ms[0] if range_ms[0] > TIME_MS_MIN else low
    starts = steps(min(first, low), high + 1, query.granularity, query.timezone)
    axis = pl.DataFrame({"time": pl.Series(starts).cast(TIME_TYPE)})
    groups = frame.select(query.group_by).unique() if query.group_by else None
    rows = len(starts) * (groups.height if groups is not None else 1)
    if rows > FILLED_ROWS_MAX:
        raise InvalidQueryError(
            f"the metrics over time need {rows:,} rows, of every group and step; at most {FILLED_ROWS_MAX:,} are possible",
            "ask of a shorter time range, coarser steps or fewer groups",
        )
    grid = axis if groups is None else axis.join(groups, how="cross")
    filled = grid.join(frame, on=["time", *query.group_by], how="left", nulls_equal=True)
    return filled.with_columns(pl.col(list(zeros)).fill_null(0)).select(frame.columns)


def with_seconds(frame: pl.DataFrame, query: Query, range_ms: tuple[int, int]) -> pl.DataFrame:
    """The frame with the length in seconds of each row's step, as far as it lies in the range, as `SECONDS`.

    Raises:
        InvalidQueryError: there is neither a step nor a range.
    """
    start, end = range_ms
    if query.granularity.unit is Unit.ALL:
        if not bounded(range_ms):
            raise InvalidQueryError(
                "a rate needs to know how long the events took", "give a 'time_range' or a 'granularity'"
            )
        return frame.with_columns(pl.lit((end - start) / 1000).alias(SECONDS))
    starts = np.unique(frame.get_column("time").dt.epoch("ms").to_numpy())
    ends = _ends(starts, query.granularity, query.timezone)
    lengths = (np.minimum(ends, end) - np.maximum(starts, start)) / 1000
    found = pl.DataFrame({"time": pl.Series(starts).cast(TIME_TYPE), SECONDS: lengths})
    return frame.join(found, on="time", how="left")


def _ends(starts: Longs, step: Granularity, zone: str) -> Longs:
    """Where each step ends: where the next begins."""
    if len(starts) == 0:
        return starts
    last = next_start(int(starts[-1]), step, zone)
    every = np.append(steps(int(starts[0]), last, step, zone), last)
    return every[np.searchsorted(every, starts, side="right")]
