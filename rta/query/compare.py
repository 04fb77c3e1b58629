"""An answer beside that of the period before: which period that is, and how rows of the two meet.

Rows meet by their groups and by the number of their step: the third hour of today and the third hour of yesterday,
whatever the clock did in between. What the earlier period has beyond the asked one's length is left out.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from rta.errors import InvalidQueryError
from rta.query.answer import TIME_TYPE
from rta.query.axis import bounded, steps
from rta.query.columns import CHANGE, PREVIOUS, TIME_PREVIOUS, has_time, keys_of, lists_of, values_of
from rta.query.model import Before, Calendar, Granularity, Query, Unit
from rta.query.time import DAY_MS, TIME_MS_MAX, TIME_MS_MIN, bucket_start

Range = tuple[int, int]


def earlier_range(query: Query, range_ms: Range) -> Range:
    """The range that a question is compared with.

    `previous` is the calendar step before for `today` and the like. Else it is as long as the asked range and lies whole
    steps (days from midnight to midnight where there are none) earlier, so many that the two do not overlap.

    Raises:
        InvalidQueryError: the question has no range.
    """
    assert query.compare is not None
    start, end = range_ms
    if not bounded(range_ms):
        raise InvalidQueryError("'compare' needs a 'time_range' that is compared", "give one, such as last 7d")
    step = query.compare.step
    if step is None and isinstance(query.time_range, Calendar):
        return bucket_start(start - 1, query.time_range.step, query.timezone), start
    if step is None:
        step = _apart(range_ms, query.granularity, query.timezone)
    return shifted(start, step, query.timezone), shifted(end, step, query.timezone)


def _apart(range_ms: Range, granularity: Granularity, zone: str) -> Granularity:
    """The fewest whole steps that put the range before itself."""
    start, end = range_ms
    if granularity.unit is Unit.ALL:
        day = Granularity(Unit.DAY)
        midnights = all(bucket_start(at, day, zone) == at for at in range_ms)
        granularity = day if midnights else Granularity(Unit.MS, end - start)
    shortest = {Unit.MS: 1, Unit.DAY: DAY_MS, Unit.MONTH: 31 * DAY_MS}[granularity.unit] * granularity.count
    times = max((end - start) // shortest, 1)
    while True:
        found = Granularity(granularity.unit, granularity.count * times)
        if shifted(end, found, zone) <= start:
            return found
        times += 1


def shifted(instant_ms: int, step: Granularity, zone: str) -> int:
    """The instant so much earlier: days and months on the clock of the zone, a day that a month lacks is its last.

    Raises:
        InvalidQueryError: before the year 1.
    """
    if step.unit is Unit.MS:
        moved = instant_ms - step.count
    else:
        try:
            moved = _shifted_on_clock(instant_ms, step, zone)
        except (OverflowError, ValueError) as error:
            raise InvalidQueryError("'compare' leads to before the year 1", "compare with a later time") from error
    if not TIME_MS_MIN <= moved <= TIME_MS_MAX:
        raise InvalidQueryError("'compare' leads to before the year 1", "compare with a later time")
    return moved


def _shifted_on_clock(instant_ms: int, step: Granularity, zone: str) -> int:
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=instant_ms)).astimezone(ZoneInfo(zone))
    if step.unit is Unit.DAY:
        moved = local.replace(tzinfo=None) - timedelta(days=step.count)
    else:
        year, month = divmod(local.year * 12 + local.month - 1 - step.count, 12)
        following = datetime(year + month // 11, (month + 1) % 12 + 1, 1)
        last = (following - timedelta(days=1)).day
        moved = local.replace(tzinfo=None, year=year, month=month + 1, day=min(local.day, last))
    back = moved.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    return (back - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def side_by_side(
    query: Query, now: pl.DataFrame, before: pl.DataFrame, ranges: tuple[Range, Range], zeros: list[str]
) -> pl.DataFrame:
    """Both answers in one frame, `<name>_previous` and `<name>_change` beside each metric.

    A row that only one of them has stands there too; `zeros` are the columns that are 0 where there were no events, but
    not in steps after the last of the asked period: these may not have happened yet.
    """
    keys, names = keys_of(query), values_of(query)
    if has_time(query):
        before = _aligned(query, before, ranges)
    before = before.rename({name: f"{name}{PREVIOUS}" for name in names})
    if keys:
        both = now.join(before, on=keys, how="full", coalesce=True, nulls_equal=True)
    else:
        both = pl.concat([now, before], how="horizontal")
    shown = [name for name in zeros if name in names]
    past = pl.col("time") <= now.get_column("time").max() if has_time(query) else pl.lit(value=True)
    both = both.with_columns(
        *(pl.when(past).then(pl.col(n).fill_null(0)).otherwise(pl.col(n)).alias(n) for n in shown),
        *(pl.col(f"{n}{PREVIOUS}").fill_null(0) for n in shown),
        *(pl.col(c).fill_null([]) for n in sorted(lists_of(query)) for c in (n, f"{n}{PREVIOUS}")),
    )
    return both.with_columns(_change(name).alias(f"{name}{CHANGE}") for name in names if name not in lists_of(query))


def _change(name: str) -> pl.Expr:
    """By which share of what it was a metric has grown; null where it was 0 or is unknown."""
    now, was = pl.col(name).cast(pl.Float64), pl.col(f"{name}{PREVIOUS}").cast(pl.Float64)
    return pl.when(was != 0).then((now - was) / was.abs())


def _aligned(query: Query, before: pl.DataFrame, ranges: tuple[Range, Range]) -> pl.DataFrame:
    """Rows of the earlier period under the times of the asked one's steps of the same number."""
    ours, theirs = (steps(*each, query.granularity, query.timezone) for each in ranges)
    place = np.searchsorted(theirs, before.get_column("time").dt.epoch("ms").to_numpy())
    inside = place < len(ours)
    moved = pl.Series(ours[np.minimum(place, len(ours) - 1)]).cast(TIME_TYPE)
    return before.with_columns(pl.col("time").alias(TIME_PREVIOUS), moved.alias("time")).filter(pl.Series(inside))


def check_compare(compare: Before | None, retention: bool) -> None:
    """Raises InvalidQueryError where a comparison says nothing."""
    if compare is not None and retention:
        raise InvalidQueryError(
            "a retention can't be compared with the period before",
            "ask for a range that has both: its cohorts are rows",
        )
