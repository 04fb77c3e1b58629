"""Steps of time on the clock of a zone: which step an instant lies in, and which instants a step covers.

Owns the arithmetic with daylight saving. Source of the zones' rules: the IANA database (`zoneinfo`). Vectorised over
int64 milliseconds since 1970 UTC; nothing here reads a clock.

A step is counted in local time: its start is the local time floored to the step, read back in the zone. Where a step
would start inside the hour that a change of the clock skips, it starts at the change; where local midnight happens
twice, the day starts at the first. Steps below a day follow the running clock, so that the hour which a change repeats
is two hours.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from rta.query.model import Granularity, Unit

Longs = npt.NDArray[np.int64]
DAY_MS = 86_400_000
TIME_MS_MIN = -62_135_596_800_000
"""0001-01-01."""
TIME_MS_MAX = 253_402_300_800_000
"""10000-01-01."""
_MONDAY = 3
"""Days from Monday to 1970-01-01, a Thursday."""
_PROBE_S = 7 * 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def bucket_starts(times: Longs, step: Granularity, zone: str) -> Longs:
    """Start of the step that each instant lies in. Any order; `step` is not `all`. Vectorised; ~10 ns each in UTC."""
    if len(times) == 0:
        return times
    changes, offsets = _clock(zone, int(times.min()) - length_ms_max(step), int(times.max()))
    if len(offsets) == 1:
        return _floor(times + offsets[0], step) - offsets[0]
    at = np.searchsorted(changes, times, side="right")
    return _to_utc(_floor(times + offsets[at], step), at, changes, offsets, step)


def bucket_start(instant_ms: int, step: Granularity, zone: str) -> int:
    return int(bucket_starts(np.array([instant_ms], np.int64), step, zone)[0])


def length_ms_max(step: Granularity) -> int:
    """An upper bound of a step's length."""
    match step.unit:
        case Unit.MS:
            return step.count
        case Unit.DAY:
            return step.count * DAY_MS
        case Unit.MONTH:
            return step.count * 31 * DAY_MS
        case Unit.ALL:
            return TIME_MS_MAX - TIME_MS_MIN


def next_start(start_ms: int, step: Granularity, zone: str) -> int:
    """Start of the step after the one that starts at `start_ms`."""
    if step.unit is Unit.MS and constant_offset(zone, start_ms, start_ms + step.count + 2 * DAY_MS) is not None:
        return start_ms + step.count
    length = {Unit.MS: step.count, Unit.DAY: step.count * DAY_MS, Unit.MONTH: step.count * 28 * DAY_MS}[step.unit]
    probe = start_ms + length
    while bucket_start(probe, step, zone) == start_ms:
        probe += DAY_MS if step.unit is not Unit.MS else max(1, min(step.count, 900_000))
    return bucket_start(probe, step, zone)


def constant_offset(zone: str, low_ms: int, high_ms: int) -> int | None:
    """The zone's offset from UTC in ms where it is the same in the whole range, else (or beyond 10 years) None."""
    if high_ms - low_ms > _YEARS_LOOKED_THROUGH_MS and zone not in _FIXED:
        return None
    _, offsets = _clock(zone, low_ms, high_ms)
    return int(offsets[0]) if len(offsets) == 1 else None


def divides(grain_ms: int, step: Granularity, zone: str, low_ms: int, high_ms: int) -> bool:
    """Whether every step inside the range starts at a multiple of the grain, so that the grain's buckets answer it."""
    if step.unit is Unit.ALL:
        return True
    if step.unit is Unit.MS and step.count % grain_ms:
        return False
    _, offsets = _clock(zone, max(low_ms, _SINCE_MS), min(high_ms, _UNTIL_MS))
    if step.unit is Unit.MS:
        return not bool((offsets % grain_ms).any())
    return DAY_MS % grain_ms == 0 and not bool((offsets % grain_ms).any())


_SINCE_MS = 63_072_000_000
"""1972-01-01: since then every zone is a whole number of minutes from UTC, most a quarter of an hour."""
_UNTIL_MS = 4_102_444_800_000


def _floor(local: Longs, step: Granularity) -> Longs:
    match step.unit:
        case Unit.MS:
            if DAY_MS % step.count == 0 or step.count > DAY_MS:
                return local - local % step.count
            day = local - local % DAY_MS
            return day + (local - day) // step.count * step.count
        case Unit.DAY:
            origin = -_MONDAY * DAY_MS if step.count % 7 == 0 else 0
            return local - (local - origin) % (step.count * DAY_MS)
        case Unit.MONTH:
            months = local.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
            since_year_1 = months + 1969 * 12
            floored = since_year_1 - since_year_1 % step.count - 1969 * 12
            return floored.astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
        case Unit.ALL:
            raise ValueError("'all' has no steps")


def _to_utc(local: Longs, at: npt.NDArray[np.intp], changes: Longs, offsets: Longs, step: Granularity) -> Longs:
    """Read local starts back: with the offset in force there, which may be an earlier one than at the instant."""
    begins = np.concatenate((np.array([TIME_MS_MIN - DAY_MS], np.int64), changes))
    start = local - offsets[at]
    segment = at.copy()
    whole_days = step.unit is not Unit.MS
    for _ in range(len(changes)):
        # A day starts at the first of two midnights, so for days the start of a segment itself is looked at again.
        early = start <= begins[segment] if whole_days else start < begins[segment]
        early &= segment > 0
        if not early.any():
            break
        before = local - offsets[np.maximum(segment - 1, 0)]
        # Inside a skipped hour the earlier offset leads beyond the change: the step starts at the change.
        start = np.where(early, np.minimum(before, begins[segment]), start)
        segment = np.where(early, segment - 1, segment)
    return start


def _clock(zone: str, low_ms: int, high_ms: int) -> tuple[Longs, Longs]:
    """Instants in the range at which the zone's clock changes, and its offsets before, between and after them."""
    if zone in _FIXED:
        return _NO_CHANGES, _ZERO_OFFSET
    low = max(_year_of(low_ms) - 1, 2)
    high = min(_year_of(high_ms) + 1, 9998)
    changes, offsets = _changes(zone, low, high)
    if len(changes) == 0:
        return changes, offsets
    first = int(np.searchsorted(changes, low_ms - 2 * DAY_MS))
    last = int(np.searchsorted(changes, high_ms + 2 * DAY_MS, side="right"))
    return changes[first:last], offsets[first : last + 1]


_FIXED = frozenset({"UTC", "Etc/UTC", "GMT"})
_YEARS_LOOKED_THROUGH_MS = 10 * 366 * DAY_MS
_NO_CHANGES: Longs = np.zeros(0, np.int64)
_ZERO_OFFSET: Longs = np.zeros(1, np.int64)


def _year_of(instant_ms: int) -> int:
    bounded = min(max(instant_ms, TIME_MS_MIN), TIME_MS_MAX - 1)
    return (_EPOCH + timedelta(milliseconds=bounded)).year


@lru_cache(maxsize=256)
def _changes(zone: str, low_year: int, high_year: int) -> tuple[Longs, Longs]:
    """All changes from the first to the last year, found by weekly probes and halving; ~25 µs a year."""
    info = ZoneInfo(zone)
    at = int((datetime(low_year, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())
    end = int((datetime(high_year, 12, 31, tzinfo=UTC) - _EPOCH).total_seconds())
    changes: list[int] = []
    offsets = [_offset_s(info, at)]
    while at < end:
        ahead = min(at + _PROBE_S, end)
        if _offset_s(info, ahead) != offsets[-1]:
            low, high = at, ahead
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _offset_s(info, middle) == offsets[-1] else (low, middle)
            changes.append(high * 1000)
            offsets.append(_offset_s(info, high))
            ahead = high
        at = ahead
    return np.array(changes, np.int64), np.array(offsets, np.int64) * 1000


def _offset_s(info: ZoneInfo, instant_s: int) -> int:
    offset = (_EPOCH + timedelta(seconds=instant_s)).astimezone(info).utcoffset()
    assert offset is not None
    return round(offset.total_seconds())
