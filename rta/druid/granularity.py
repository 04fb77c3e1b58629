"""Granularities: which bucket an instant lies in, and which buckets a range of time has.

Hours and what is shorter are counted in running time from the origin, days and what is longer on the zone's clock; a
single hour, minute or second follows the clock. Weeks start on Monday unless there are several of them or an origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from rta.druid import reading
from rta.druid.periods import (
    DAY_MS,
    Interval,
    Period,
    as_datetime,
    fixed_offset_ms,
    month_start,
    parse_instant,
    parse_period,
    parse_zone,
    stamp,
    stamps,
    to_local,
    to_utc,
)
from rta.druid.problems import InvalidInputError, unsupported

BUCKETS_MAX = 5_000_000
_MONDAY_MS = -3 * DAY_MS
_SIMPLE: dict[str, str | None] = {
    "all": None,
    "none": "PT0.001S",
    "second": "PT1S",
    "minute": "PT1M",
    "five_minute": "PT5M",
    "ten_minute": "PT10M",
    "fifteen_minute": "PT15M",
    "thirty_minute": "PT30M",
    "hour": "PT1H",
    "six_hour": "PT6H",
    "eight_hour": "PT8H",
    "day": "P1D",
    "week": "P1W",
    "month": "P1M",
    "quarter": "P3M",
    "year": "P1Y",
}


@dataclass(frozen=True, slots=True)
class Granularity:
    """`period` is None for `all`."""

    period: Period | None
    zone: str = "UTC"
    origin_ms: int | None = None

    @property
    def all(self) -> bool:
        return self.period is None


ALL = Granularity(None)


def parse_granularity(value: Any) -> Granularity:
    """Raises InvalidInputError, UnsupportedError."""
    if value is None:
        return ALL
    if isinstance(value, str):
        return _named(value)
    doc = reading.document(value, "the granularity")
    kind = reading.kind(doc, "the granularity")
    origin = doc.get("origin")
    match kind.lower():
        case "period":
            zone = parse_zone(reading.text_or(doc, "timeZone", "UTC", "the granularity"))
            period = parse_period(reading.text(doc, "period", "the granularity"))
            return checked(Granularity(period, zone, None if origin is None else _origin(origin, zone)))
        case "duration":
            length = reading.whole(doc, "duration", "the granularity")
            if length <= 0:
                raise InvalidInputError(f"the granularity's duration is {length}", "write milliseconds")
            return Granularity(Period(ms=length), "UTC", 0 if origin is None else _origin(origin, "UTC"))
        case name if name in _SIMPLE:
            return _named(name)
        case _:
            raise unsupported("the granularity", kind, "a name, period or duration")


def checked(granularity: Granularity) -> Granularity:
    period = granularity.period
    if period is not None and period.months and (period.weeks or period.days or period.ms):
        raise InvalidInputError(
            "the granularity's period mixes months with shorter units", "months and years vary in length"
        )
    return granularity


def _origin(value: Any, zone: str) -> int:
    return value if isinstance(value, int) else parse_instant(str(value), zone)


def _named(name: str) -> Granularity:
    lower = name.lower()
    if lower not in _SIMPLE:
        raise InvalidInputError(f"the granularity is '{name[:64]}'", f"known are {', '.join(_SIMPLE)}")
    text = _SIMPLE[lower]
    return ALL if text is None else Granularity(parse_period(text))


def bucket_starts(instants: pl.Expr, granularity: Granularity) -> pl.Expr:
    """Start of the bucket that each instant lies in; of one that is not `all`."""
    period, zone, origin = granularity.period, granularity.zone, granularity.origin_ms
    assert period is not None
    units = sum(bool(part) for part in (period.months, period.weeks, period.days, period.ms))
    if units > 1:
        return _floored(instants, period.fixed_ms, origin or 0)
    if period.ms:
        return _short(instants, granularity)
    local = to_local(instants, zone)
    start = 0 if origin is None else _local_origin(origin, zone)
    if period.months:
        return to_utc(_month_floor(local, period.months, origin is not None, start), zone)
    if period.weeks == 1 and origin is None:
        start = _MONDAY_MS
    return to_utc(_floored(local, (period.weeks * 7 + period.days) * DAY_MS, start), zone)


def _short(instants: pl.Expr, granularity: Granularity) -> pl.Expr:
    period, zone, origin = granularity.period, granularity.zone, granularity.origin_ms
    assert period is not None
    if origin is not None:
        return _floored(instants, period.ms, origin)
    if fixed_offset_ms(zone) == 0:
        return _floored(instants, period.ms, 0)
    if period.ms in (3_600_000, 60_000, 1_000, 1):
        offset = to_local(instants, zone) - instants
        return _floored(instants + offset, period.ms, 0) - offset
    return _floored(instants, period.ms, -_offset_in_1970(zone))


def _offset_in_1970(zone: str) -> int:
    return _local_origin(0, zone)


def _local_origin(origin_ms: int, zone: str) -> int:
    frame = pl.DataFrame({"t": [origin_ms]}, schema={"t": pl.Int64})
    return int(frame.select(to_local(pl.col("t"), zone)).item())


def _floored(times: pl.Expr, step: int, origin: int) -> pl.Expr:
    if step == 1:
        return times
    return times - (times - origin).mod(step) if origin else times - times.mod(step)


def _month_floor(local: pl.Expr, months: int, with_origin: bool, origin: int) -> pl.Expr:
    """Months are counted from January 1970, or from the origin's day and time of the month."""
    if not with_origin:
        date = as_datetime(local)
        index = date.dt.year().cast(pl.Int64) * 12 + date.dt.month().cast(pl.Int64) - 1
        return month_start(index - (index - 1970 * 12).mod(months))
    begin = pl.select(as_datetime(pl.lit(origin, pl.Int64)).alias("t")).to_series()
    into = origin - int(begin.dt.truncate("1mo").dt.epoch("ms")[0])
    first = int(begin.dt.year()[0]) * 12 + int(begin.dt.month()[0]) - 1
    date = as_datetime(local - into)
    index = date.dt.year().cast(pl.Int64) * 12 + date.dt.month().cast(pl.Int64) - 1
    return month_start(index - (index - first).mod(months)) + into


def bucket_start(instant_ms: int, granularity: Granularity) -> int:
    frame = pl.DataFrame({"t": [instant_ms]}, schema={"t": pl.Int64})
    return int(frame.select(bucket_starts(pl.col("t"), granularity)).item())


def buckets(interval: Interval, granularity: Granularity) -> pl.Series:
    """Starts of all buckets that touch the interval, in order; int64."""
    period = granularity.period
    assert period is not None
    start, end = interval
    step = min(period.months * 28 * DAY_MS + period.fixed_ms, DAY_MS) if not period.ms else period.fixed_ms
    if (end - start) // step > BUCKETS_MAX:
        raise InvalidInputError(
            f"the granularity makes more than {BUCKETS_MAX:,} buckets of the interval", "use a coarser one"
        )
    first = bucket_start(start, granularity)
    frame = pl.DataFrame({"t": pl.int_range(first, end + 1 if step == 1 else end, step, dtype=pl.Int64, eager=True)})
    starts = frame.select(bucket_starts(pl.col("t"), granularity)).to_series().unique().sort()
    last = bucket_start(end - 1, granularity)
    starts = pl.concat([starts, pl.Series("t", [last], dtype=pl.Int64)]).unique().sort()
    return starts.filter(starts < end)


def bucket_stamps(instants: pl.Expr, granularity: Granularity) -> pl.Expr:
    return stamps(instants, granularity.zone)


def bucket_stamp(instant_ms: int, granularity: Granularity) -> str:
    return stamp(instant_ms, granularity.zone)
