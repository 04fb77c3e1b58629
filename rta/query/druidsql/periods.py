"""ISO 8601 periods on the clock of a zone, as TIME_FLOOR, TIME_CEIL and TIME_SHIFT mean them.

Owns where a period's steps begin: at an origin, else one second, minute, hour, day, week (Monday), month, quarter or year on the
local clock, and multiples of other periods since 1970 on it. Times that are known are computed here, so that the engine sees a
constant to prune files by; others become DuckDB's text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from rta.errors import InvalidQueryError
from rta.query.druidsql.kinds import INTERVAL, TIMESTAMP
from rta.query.druidsql.typed import (
    Typed,
    as_time,
    from_local,
    instant,
    local_datetime,
    naive,
    offset_ms,
    parse_time,
    to_local,
)

DAY_MS = 86_400_000
_ISO = re.compile(
    r"P(?:(\d{1,6})Y)?(?:(\d{1,6})M)?(?:(\d{1,6})W)?(?:(\d{1,6})D)?"
    r"(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9}(?:\.\d{1,3})?)S)?)?",
    re.ASCII,
)
_HINT = "use an ISO 8601 period such as PT15M, PT1H, P1D, P1W, P1M or P3M"


@dataclass(frozen=True, slots=True)
class Period:
    months: int = 0
    weeks: int = 0
    days: int = 0
    ms: int = 0

    @property
    def whole_days(self) -> int:
        return self.weeks * 7 + self.days

    @property
    def unit(self) -> str | None:
        """What DuckDB calls it, where it is one step of the calendar or the clock."""
        return _UNITS.get(self)

    def times(self, step: int) -> Period:
        return Period(self.months * step, self.weeks * step, self.days * step, self.ms * step)


_UNITS = {
    Period(ms=1): "millisecond",
    Period(ms=1_000): "second",
    Period(ms=60_000): "minute",
    Period(ms=3_600_000): "hour",
    Period(days=1): "day",
    Period(weeks=1): "week",
    Period(months=1): "month",
    Period(months=3): "quarter",
    Period(months=12): "year",
    Period(months=120): "decade",
    Period(months=1_200): "century",
    Period(months=12_000): "millennium",
}
PERIOD_OF = {unit.upper(): period for period, unit in _UNITS.items()}


def parse_period(text: str) -> Period:
    match = _ISO.fullmatch(text.strip().upper())
    if match is None or not any(match.groups()):
        raise InvalidQueryError(f"'{text[:64]}' is not a period", _HINT)
    years, months, weeks, days, hours, minutes = (int(g or 0) for g in match.groups()[:6])
    ms = hours * 3_600_000 + minutes * 60_000 + round(float(match[7] or 0) * 1_000)
    return Period(years * 12 + months, weeks, days, ms)


def unit_period(unit: str) -> Period:
    """Of a word such as HOUR, as in `FLOOR(x TO HOUR)`."""
    period = PERIOD_OF.get(unit.upper().rstrip("S"))
    if period is None:
        raise InvalidQueryError(f"no unit '{unit[:64]}'", "use SECOND, MINUTE, HOUR, DAY, WEEK, MONTH, QUARTER or YEAR")
    return period


def floor(value: Typed, period: Period, origin_ms: int | None, zone: str) -> Typed:
    """The start of the step that the timestamp lies in."""
    value = as_time(value, zone)
    if value.is_null:
        return value
    _check(period, zone)
    if value.ms is not None:
        return instant(floor_ms(value.ms, period, origin_ms, zone))
    unit = period.unit if origin_ms is None else None
    if unit is not None and offset_ms(zone) == 0:
        return Typed(f"date_trunc('{unit}', {value.sql})", value.kind)
    if period.months:
        return from_local(_floor_months(to_local(value, zone), period, origin_ms, zone), zone)
    if not period.ms:
        if unit is not None:
            return from_local(f"date_trunc('{unit}', {to_local(value, zone)})", zone)
        start = 0 if origin_ms is None else _local_ms(origin_ms, zone)
        local = f"epoch_ms({to_local(value, zone)})"
        return from_local(_stepped(local, local, start, period.whole_days * DAY_MS), zone)
    if (
        origin_ms is None
        and value.kind.tz
        and offset_ms(zone) == 0
        and not period.whole_days
        and DAY_MS % period.ms == 0
    ):
        return Typed(f"time_bucket({_width(period.ms)}, {value.sql})", value.kind)
    at = f"epoch_ms({value.sql})"
    if unit is not None:
        return Typed(_stepped(at, f"epoch_ms({to_local(value, zone)})", 0, period.ms), TIMESTAMP)
    start = _epoch_of(zone) if origin_ms is None else origin_ms
    return Typed(_stepped(at, at, start, period.whole_days * DAY_MS + period.ms), TIMESTAMP)


def ceil(value: Typed, period: Period, origin_ms: int | None, zone: str) -> Typed:
    """The timestamp itself where a step starts, else the start of the next."""
    value = as_time(value, zone)
    if value.is_null:
        return value
    start = floor(value, period, origin_ms, zone)
    after = shift(start, period, 1, zone)
    if value.ms is not None:
        return start if start.ms == value.ms else after
    sql = f"(CASE WHEN {naive(start).sql} = {naive(value).sql} THEN {naive(start).sql} ELSE {naive(after).sql} END)"
    return Typed(sql, TIMESTAMP)


def shift(value: Typed, period: Period, step: int | str, zone: str) -> Typed:
    """The period added `step` times; months and days on the zone's clock. `step` may be DuckDB's text of a whole number."""
    value = as_time(value, zone)
    if value.is_null:
        return value
    if isinstance(step, int) and value.ms is not None:
        return instant(_shifted_ms(value.ms, period.times(step), zone))
    moved = value
    if period.months or period.whole_days:
        local = to_local(value, zone)
        if period.months:
            local += f" + to_months(CAST({_times(period.months, step)} AS INTEGER))"
        if period.whole_days:
            local += f" + to_days(CAST({_times(period.whole_days, step)} AS INTEGER))"
        moved = from_local(f"({local})", zone)
    if period.ms:
        moved = Typed(f"make_timestamp_ms(epoch_ms({moved.sql}) + {_times(period.ms, step)})", TIMESTAMP)
    return moved


def interval(period: Period) -> Typed:
    """A literal interval, for arithmetic with `+` and `-`, which read its period."""
    return Typed(f"P{period.months}M{period.whole_days}D{period.ms}", INTERVAL)


def period_of(value: Typed) -> Period:
    months, days, ms = (int(n) for n in re.findall(r"-?\d+", value.sql))
    return Period(months=months, days=days, ms=ms)


def floor_ms(ms: int, period: Period, origin_ms: int | None, zone: str) -> int:
    if period.months:
        return _floored_months(ms, period.months, origin_ms, zone)
    unit = period.unit if origin_ms is None else None
    if not period.ms:
        local = _local_ms(ms, zone)
        start = (-3 * DAY_MS if unit == "week" else 0) if origin_ms is None else _local_ms(origin_ms, zone)
        return _from_local_ms(local - (local - start) % (period.whole_days * DAY_MS), zone)
    if unit is not None:
        return ms - _local_ms(ms, zone) % period.ms
    start = _epoch_of(zone) if origin_ms is None else origin_ms
    return ms - (ms - start) % (period.whole_days * DAY_MS + period.ms)


def _check(period: Period, zone: str) -> None:
    if period == Period():
        raise InvalidQueryError("a period of no length has no steps", _HINT)
    mixed = period.months and (period.whole_days or period.ms)
    if mixed or (period.whole_days and period.ms and offset_ms(zone) is None):
        raise InvalidQueryError("steps of a period with months and days, or days and hours, are not supported", _HINT)


def _width(ms: int) -> str:
    """An interval in its largest unit, which is how planners know it again."""
    unit, length = next((u, n) for u, n in _CLOCK if ms % n == 0)
    return f"INTERVAL '{ms // length}' {unit}"


_CLOCK = (("HOUR", 3_600_000), ("MINUTE", 60_000), ("SECOND", 1_000), ("MILLISECOND", 1))


def _floor_months(local: str, period: Period, origin_ms: int | None, zone: str) -> str:
    if origin_ms is None and period.unit is not None and period.months <= 12:
        return f"date_trunc('{period.unit}', {local})"
    if origin_ms is None:
        month = f"((year({local}) - 1970) * 12 + month({local}) - 1)"
        start = "TIMESTAMP '1970-01-01 00:00:00'"
    else:
        start = instant(_local_ms(origin_ms, zone)).sql
        whole = f"datesub('month', {start}, {local})"
        month = f"({whole} - CAST({start} + to_months(CAST({whole} AS INTEGER)) > {local} AS BIGINT))"
    return f"({start} + to_months(CAST({month} - {_modulo(month, period.months)} AS INTEGER)))"


def _stepped(at: str, measured: str, start: int, length: int) -> str:
    since = f"({measured} - {start})" if start else measured
    return f"make_timestamp_ms({at} - {_modulo(since, length)})"


def _modulo(sql: str, length: int) -> str:
    """Never negative."""
    return f"((({sql} % {length}) + {length}) % {length})"


def _times(count: int, step: int | str) -> str:
    return str(count * step) if isinstance(step, int) else f"({count} * {step})"


def _epoch_of(zone: str) -> int:
    ms = parse_time("1970-01-01", zone)
    assert ms is not None
    return ms


def _local_ms(ms: int, zone: str) -> int:
    local = local_datetime(ms, zone).replace(tzinfo=None)
    return (local - datetime(1970, 1, 1)) // timedelta(milliseconds=1)


def _from_local_ms(local_ms: int, zone: str) -> int:
    text = (datetime(1970, 1, 1) + timedelta(milliseconds=local_ms)).isoformat()
    ms = parse_time(text, zone)
    assert ms is not None
    return ms


def _floored_months(ms: int, count: int, origin_ms: int | None, zone: str) -> int:
    local = _local_ms(ms, zone)
    start = 0 if origin_ms is None else _local_ms(origin_ms, zone)
    first, last = (
        datetime(1970, 1, 1) + timedelta(milliseconds=start),
        datetime(1970, 1, 1) + timedelta(milliseconds=local),
    )
    months = (last.year - first.year) * 12 + last.month - first.month
    if _add_months(start, months) > local:
        months -= 1
    return _from_local_ms(_add_months(start, months - months % count), zone)


def _add_months(local_ms: int, months: int) -> int:
    at = datetime(1970, 1, 1) + timedelta(milliseconds=local_ms)
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    if not 1 <= year <= 9998:
        raise InvalidQueryError("the time leaves the years 1 to 9998", "use a shorter period")
    last = (datetime(year + month // 11, (month + 1) % 12 + 1, 1) - datetime(year, month + 1, 1)).days
    moved = at.replace(year=year, month=month + 1, day=min(at.day, last))
    return (moved - datetime(1970, 1, 1)) // timedelta(milliseconds=1)


def _shifted_ms(ms: int, period: Period, zone: str) -> int:
    if period.months or period.whole_days:
        local = _add_months(_local_ms(ms, zone), period.months) + period.whole_days * DAY_MS
        ms = _from_local_ms(local, zone)
    return ms + period.ms
