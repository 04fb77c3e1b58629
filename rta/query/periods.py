"""Granularities, time zones and time ranges as people write them, and the absolute range that they mean.

Owns the texts; the arithmetic of steps on a zone's clock is `rta.query.time`'s. `now` is an argument.

A relative range is widened outwards so that rollups can answer it and equal questions share an answer: `last 15m`
starts with the whole step that it falls into (the granularity's, or a minute; a second where less than a minute is
asked for) and ends with the minute (or second) that is running. Calendar words mean whole calendar steps: `today` ends
tonight.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rta.errors import BadRequestError, InvalidQueryError
from rta.events.units import parse_duration_ms
from rta.query.model import ALL, Absolute, Before, Calendar, Granularity, Last, TimeRange, Unit
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN, bucket_start, next_start

SECOND_MS = 1_000
MINUTE_MS = 60_000
DAY_MS = 86_400_000
STEP_MS_MAX = 100 * 366 * DAY_MS
_WORDS: dict[str, Granularity] = {
    "all": ALL,
    "second": Granularity(Unit.MS, SECOND_MS),
    "minute": Granularity(Unit.MS, MINUTE_MS),
    "hour": Granularity(Unit.MS, 3_600_000),
    "day": Granularity(Unit.DAY, 1),
    "week": Granularity(Unit.DAY, 7),
    "month": Granularity(Unit.MONTH, 1),
    "quarter": Granularity(Unit.MONTH, 3),
    "year": Granularity(Unit.MONTH, 12),
}
_NAMED = {"today": ("day", 0), "yesterday": ("day", 1)}
_SHORT = re.compile(r"(\d{1,9})\s*(ms|s|m|h|d|w)", re.ASCII)
_ISO = re.compile(
    r"P(?:(\d{1,9})Y)?(?:(\d{1,9})M)?(?:(\d{1,9})W)?(?:(\d{1,9})D)?"
    r"(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9}(?:\.\d{1,3})?)S)?)?",
    re.ASCII,
)
_GRANULARITY_HINT = "use all, second, minute, 5m, hour, day, week, month or an ISO period such as PT15M, P1D, P3M"
_RANGE_HINT = (
    "use 2026-01-01T00:00:00Z/2026-01-02T00:00:00Z, last 15m, today, yesterday, this or previous hour|day|week|month"
)


def parse_granularity(value: object) -> Granularity:
    """Raises InvalidQueryError for what is none."""
    if not isinstance(value, str):
        raise InvalidQueryError(f"'granularity' is {value!r}", _GRANULARITY_HINT)
    word = _WORDS.get(value.strip().lower())
    if word is not None:
        return word
    step = _short_step(value) or _iso_step(value)
    if step is None:
        raise InvalidQueryError(f"'granularity' is '{value[:64]}'", _GRANULARITY_HINT)
    if step.count * {Unit.MS: 1, Unit.DAY: DAY_MS, Unit.MONTH: 31 * DAY_MS, Unit.ALL: 0}[step.unit] > STEP_MS_MAX:
        raise InvalidQueryError(f"'granularity' is '{value[:64]}', longer than 100 years", "use 'all'")
    return step


def _short_step(value: str) -> Granularity | None:
    match = _SHORT.fullmatch(value.strip().lower())
    if match is None or int(match[1]) == 0:
        return None
    count, unit = int(match[1]), match[2]
    if unit in ("d", "w"):
        return Granularity(Unit.DAY, count * (7 if unit == "w" else 1))
    return Granularity(Unit.MS, count * {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "h": 3_600_000}[unit])


def _iso_step(value: str) -> Granularity | None:
    """A period in one unit only: steps of a month and a day would not tell where they begin."""
    match = _ISO.fullmatch(value.strip().upper())
    if match is None:
        return None
    years, months, weeks, days, hours, minutes = (int(g or 0) for g in match.groups()[:6])
    ms = hours * 3_600_000 + minutes * MINUTE_MS + round(float(match[7] or 0) * SECOND_MS)
    parts = (years * 12 + months, weeks * 7 + days, ms)
    units = (Unit.MONTH, Unit.DAY, Unit.MS)
    filled = [(unit, count) for unit, count in zip(units, parts, strict=True) if count]
    return Granularity(*filled[0]) if len(filled) == 1 else None


def parse_timezone(value: object) -> str:
    """An IANA name that exists. Raises InvalidQueryError."""
    if value is None:
        return "UTC"
    if not isinstance(value, str) or not _zone_exists(value):
        raise InvalidQueryError(f"'timezone' is {value!r}", "use an IANA name such as Europe/Berlin or UTC")
    return value


@lru_cache(maxsize=1024)
def _zone_exists(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def parse_time_range(value: object) -> TimeRange | None:
    """Absolute `start/end` (either side may be an ISO period) or one of the relative forms; None for none."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidQueryError(f"'time_range' is {value!r}", _RANGE_HINT)
    text = value.strip()
    if "/" in text:
        return _parse_absolute(text)
    relative = _parse_relative(text.lower())
    if relative is None:
        raise InvalidQueryError(f"'time_range' is '{value[:100]}'", _RANGE_HINT)
    return relative


def parse_compare(value: object) -> Before | None:
    """`previous`, or how much earlier as an ISO period; None for none."""
    if value is None:
        return None
    if isinstance(value, str) and value.strip().lower() == "previous":
        return Before()
    step = _iso_step(value) if isinstance(value, str) else None
    if step is None:
        raise InvalidQueryError(
            f"'compare' is {str(value)[:64]!r}",
            "use previous, or how much earlier as an ISO period such as P7D, P1M, PT1H",
        )
    return Before(step)


def _parse_relative(text: str) -> TimeRange | None:
    word, _, rest = text.partition(" ")
    if text in _NAMED:
        unit, back = _NAMED[text]
        return Calendar(_WORDS[unit], back)
    step = _WORDS.get(rest.strip())
    if word in ("this", "previous") and step is not None and step is not ALL:
        return Calendar(step, 1 if word == "previous" else 0)
    if word != "last" or not rest:
        return None
    try:
        duration = parse_duration_ms(rest)
    except BadRequestError as error:
        raise InvalidQueryError(f"'time_range' is '{text[:100]}': {error.message}", _RANGE_HINT) from error
    if duration <= 0:
        raise InvalidQueryError(f"'time_range' is '{text[:100]}', which is empty", _RANGE_HINT)
    return Last(duration)


def _parse_absolute(text: str) -> Absolute:
    left, _, right = (part.strip() for part in text.partition("/"))
    left_step, right_step = _iso_step(left), _iso_step(right)
    if left_step is not None and right_step is not None:
        raise InvalidQueryError(f"'time_range' is '{text[:100]}': two periods", _RANGE_HINT)
    start = None if left_step else parse_instant_ms(left)
    end = None if right_step else parse_instant_ms(right)
    if start is None:
        assert left_step is not None
        assert end is not None
        start = _shift(end, left_step, -1)
    if end is None:
        assert right_step is not None
        end = _shift(start, right_step, 1)
    if start >= end:
        raise InvalidQueryError(
            f"'time_range' is '{text[:100]}': it ends before it starts", "put the earlier time first"
        )
    return Absolute(start, end)


def _shift(instant_ms: int, step: Granularity, sign: int) -> int:
    if step.unit is not Unit.MONTH:
        return instant_ms + sign * step.count * (DAY_MS if step.unit is Unit.DAY else 1)
    day, rest = divmod(instant_ms, DAY_MS)
    date = datetime.fromtimestamp(day * DAY_MS / 1000, UTC)
    months = date.year * 12 + date.month - 1 + sign * step.count
    year, month = divmod(months, 12)
    if not 1 <= year <= 9999:
        raise InvalidQueryError("'time_range' leaves the years 1 to 9999", _RANGE_HINT)
    last = (
        (datetime(year + month // 11, (month + 1) % 12 + 1, 1) - datetime(year, month + 1, 1)).days
        if year < 9999
        else 28
    )
    moved = datetime(year, month + 1, min(date.day, last), tzinfo=UTC)
    return int(moved.timestamp()) * 1000 + rest


def parse_instant_ms(text: str) -> int:
    """ISO 8601 with a zone, or a date alone (midnight UTC), in ms. Raises InvalidQueryError."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidQueryError(f"'{text[:64]}' is not a time", "write it as in 2026-01-01T00:00:00Z") from error
    if instant.tzinfo is None:
        if len(text) > 10:
            raise InvalidQueryError(f"the time '{text[:64]}' has no zone", "add Z or an offset such as +01:00")
        instant = instant.replace(tzinfo=UTC)
    seconds = (instant - datetime(1970, 1, 1, tzinfo=UTC)) // _MS
    return int(seconds)


_MS = datetime(1, 1, 1, 0, 0, 0, 1000) - datetime(1, 1, 1)


def absolute_range(time_range: TimeRange | None, granularity: Granularity, zone: str, now_ms: int) -> tuple[int, int]:
    """The range in ms, half open, that a question means when it is asked at `now_ms`."""
    match time_range:
        case None:
            return TIME_MS_MIN, TIME_MS_MAX
        case Absolute(start, end):
            return start, end
        case Last(duration):
            grid = SECOND_MS if duration < MINUTE_MS else MINUTE_MS
            start = now_ms - duration
            start = (
                min(start // grid * grid, bucket_start(start, granularity, zone))
                if granularity != ALL
                else start // grid * grid
            )
            return max(start, TIME_MS_MIN), now_ms // grid * grid + grid
        case Calendar(step, back):
            start = bucket_start(now_ms, step, zone)
            for _ in range(back):
                start = bucket_start(start - 1, step, zone)
            return start, next_start(start, step, zone)
