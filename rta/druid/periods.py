"""Instants, intervals and periods as Druid's queries write them, and calendar arithmetic on a zone's clock.

Instants are int64 milliseconds since 1970 UTC. A local time that a change of the clock skips is read with the offset
before the change; one that it repeats is the first of the two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl

from rta.druid.problems import InvalidInputError
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN

DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT = re.compile(
    r"([+-]?\d{1,9})(?:-(\d{1,2})(?:-(\d{1,2}))?)?"
    r"(?:[T ](?:(\d{1,2})(?::(\d{1,2})(?::(\d{1,2})(?:[.,](\d{1,9}))?)?)?)?)?(Z|[+-]\d{2}(?::?\d{2})?)?",
    re.ASCII | re.IGNORECASE,
)
_PERIOD = re.compile(
    r"P(?:(\d{1,9})Y)?(?:(\d{1,9})M)?(?:(\d{1,9})W)?(?:(\d{1,9})D)?"
    r"(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})(?:\.(\d{1,3}))?S)?)?",
    re.ASCII | re.IGNORECASE,
)
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})", re.ASCII)
ETERNITY = (TIME_MS_MIN, TIME_MS_MAX)
Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Period:
    """Calendar parts of an ISO period: months, days and milliseconds; weeks are kept apart for where they begin."""

    months: int = 0
    weeks: int = 0
    days: int = 0
    ms: int = 0

    @property
    def fixed_ms(self) -> int:
        """Its standard length; of one without months."""
        return (self.weeks * 7 + self.days) * DAY_MS + self.ms


def parse_period(text: str) -> Period:
    match = _PERIOD.fullmatch(text.strip())
    numbers = [int(g or 0) for g in match.groups()] if match else []
    if match is None or not any(numbers):
        raise InvalidInputError(f"'{text[:64]}' is not a period", "write it as in P1D, PT1H or P1M")
    years, months, weeks, days, hours, minutes, seconds, _ = numbers
    millis = int((match[8] or "").ljust(3, "0"))
    ms = ((hours * 60 + minutes) * 60 + seconds) * 1000 + millis
    return Period(years * 12 + months, weeks, days, ms)


@lru_cache(maxsize=4096)
def parse_instant(text: str, zone: str = "UTC") -> int:
    """ISO 8601 as Joda reads it: any precision from the year on; without an offset in the given zone."""
    match = _INSTANT.fullmatch(text.strip())
    if match is None or not text.strip():
        raise InvalidInputError(f"'{text[:64]}' is not a time", "write it as in 2026-01-01T00:00:00.000Z")
    year, month, day, hour, minute, second = (
        int(g) if g else d for g, d in zip(match.groups()[:6], (0, 1, 1, 0, 0, 0), strict=True)
    )
    if year > 9999:
        return TIME_MS_MAX
    if year < 1:
        return TIME_MS_MIN
    extra_day = hour == 24 and minute == 0 and second == 0
    try:
        naive = datetime(year, month, day, 0 if extra_day else hour, minute, second)
    except ValueError as error:
        raise InvalidInputError(f"'{text[:64]}' is not a time: {error}") from error
    millis = int((match[7] or "").ljust(3, "0")[:3]) + (DAY_MS if extra_day else 0)
    local = round((naive.replace(tzinfo=UTC) - _EPOCH) / timedelta(milliseconds=1)) + millis
    if match[8]:
        return local - _offset_ms(match[8])
    return local if is_utc(zone) else local_to_utc([local], zone)[0]


def _offset_ms(text: str) -> int:
    if text.upper() == "Z":
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    return minutes * 60_000 * (-1 if text[0] == "-" else 1)


def parse_interval(text: Any) -> Interval:
    """`start/end`; either side may be a period. Half open."""
    if not isinstance(text, str) or text.count("/") != 1:
        raise InvalidInputError(f"the interval is {text!r}"[:120], "write it as in 2026-01-01/2026-01-02")
    left, right = (part.strip() for part in text.split("/"))
    if left[:1] in ("P", "p"):
        end = parse_instant(right)
        return shift(end, parse_period(left), -1), end
    start = parse_instant(left)
    end = shift(start, parse_period(right), 1) if right[:1] in ("P", "p") else parse_instant(right)
    if end < start:
        raise InvalidInputError(f"the interval '{text[:100]}' ends before it starts", "put the earlier time first")
    return start, end


def parse_intervals(value: Any) -> tuple[Interval, ...]:
    """One interval, a list of them, or an object with `intervals`; sorted, and those that touch put together."""
    if isinstance(value, dict):
        value = value.get("intervals")
    if value is None:
        return (ETERNITY,)
    texts: Sequence[Any] = value if isinstance(value, list) else [value]
    found = [parse_interval(t) for part in texts for t in (part.split(",") if isinstance(part, str) else [part])]
    return merged(found)


def merged(intervals: Sequence[Interval]) -> tuple[Interval, ...]:
    out: list[Interval] = []
    for start, end in sorted(intervals):
        if start == end:
            continue
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return tuple(out)


def shift(instant_ms: int, period: Period, count: int, zone: str = "UTC") -> int:
    """The instant moved by `count` periods on the zone's clock."""
    frame = pl.DataFrame({"t": [instant_ms]}, schema={"t": pl.Int64})
    return int(frame.select(shifted(pl.col("t"), period, pl.lit(count, pl.Int64), zone)).item())


def shifted(instants: pl.Expr, period: Period, count: pl.Expr, zone: str = "UTC") -> pl.Expr:
    """Instants moved by so many periods on the zone's clock."""
    out = instants
    if period.months or period.weeks or period.days:
        local = to_local(out, zone)
        if period.months:
            local = _months_later(local, count * period.months)
        local = local + count * ((period.weeks * 7 + period.days) * DAY_MS)
        out = to_utc(local, zone)
    return out + count * period.ms if period.ms else out


def _months_later(local: pl.Expr, months: pl.Expr) -> pl.Expr:
    """Local milliseconds so many months later; a day that the month does not have becomes its last."""
    date = as_datetime(local)
    index = date.dt.year().cast(pl.Int64) * 12 + date.dt.month().cast(pl.Int64) - 1 + months
    first = month_start(index)
    last = ((month_start(index + 1) - first) // DAY_MS).cast(pl.Int64)
    day = pl.min_horizontal(date.dt.day().cast(pl.Int64), last)
    return first + (day - 1) * DAY_MS + local.mod(DAY_MS)


def month_start(index: pl.Expr) -> pl.Expr:
    """Local milliseconds of the first of a month, counted from the year 0."""
    year = index // 12
    return pl.datetime(year, index - year * 12 + 1, 1).dt.epoch("ms")


def as_datetime(ms: pl.Expr) -> pl.Expr:
    return ms.cast(pl.Datetime("ms"))


@lru_cache(maxsize=1024)
def parse_zone(name: str) -> str:
    """An IANA name, or an offset such as +05:30, as polars takes it. Raises InvalidInputError."""
    if name.upper() in ("Z", "UTC", "ETC/UTC", "GMT", "UCT", "ZULU"):
        return "UTC"
    match = _OFFSET.fullmatch(name)
    if match is not None and int(match[2]) < 24 and int(match[3]) < 60:
        return f"{match[1]}{match[2]}:{match[3]}"
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInputError(
            f"the time zone '{name[:64]}' is not known", "use a name such as Europe/Berlin"
        ) from None
    return name


def is_utc(zone: str) -> bool:
    return zone == "UTC"


def fixed_offset_ms(zone: str) -> int | None:
    """The offset of a zone that never changes it, else None."""
    if is_utc(zone):
        return 0
    return _offset_ms(zone) if _OFFSET.fullmatch(zone) else None


def to_local(instants: pl.Expr, zone: str) -> pl.Expr:
    """Milliseconds of the zone's clock."""
    offset = fixed_offset_ms(zone)
    if offset is not None:
        return instants + offset if offset else instants
    aware = instants.cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(zone)
    return aware.dt.replace_time_zone(None).dt.epoch("ms")


def to_utc(local: pl.Expr, zone: str) -> pl.Expr:
    """Instants of times on the zone's clock."""
    offset = fixed_offset_ms(zone)
    if offset is not None:
        return local - offset if offset else local

    def read(naive: pl.Expr) -> pl.Expr:
        aware = naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        return aware.dt.epoch("ms")

    # What the clock skips has the offset that held a day before.
    return read(as_datetime(local)).fill_null(read(as_datetime(local - DAY_MS)) + DAY_MS)


def local_to_utc(local_ms: Sequence[int], zone: str) -> list[int]:
    frame = pl.DataFrame({"t": list(local_ms)}, schema={"t": pl.Int64})
    return frame.select(to_utc(pl.col("t"), zone)).to_series().to_list()


def stamps(instants: pl.Expr, zone: str = "UTC") -> pl.Expr:
    """ISO 8601 with milliseconds, `Z` in UTC, else the offset."""
    if is_utc(zone):
        return instants.cast(pl.Datetime("ms", "UTC")).dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ")
    local = as_datetime(to_local(instants, zone)).dt.to_string("%Y-%m-%dT%H:%M:%S%.3f")
    minutes = (to_local(instants, zone) - instants) // 60_000
    sign = pl.when(minutes < 0).then(pl.lit("-")).otherwise(pl.lit("+"))
    hours = (minutes.abs() // 60).cast(pl.String).str.zfill(2)
    offset = pl.concat_str([sign, hours, pl.lit(":"), (minutes.abs() % 60).cast(pl.String).str.zfill(2)])
    return pl.concat_str([local, pl.when(minutes == 0).then(pl.lit("Z")).otherwise(offset)])


def stamp(instant_ms: int, zone: str = "UTC") -> str:
    frame = pl.DataFrame({"t": [min(instant_ms, TIME_MS_MAX - 1)]}, schema={"t": pl.Int64})
    return str(frame.select(stamps(pl.col("t"), zone)).item())
