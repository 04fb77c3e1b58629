"""From the text of a time to milliseconds since 1970. For numba.

Most times are written `YYYY-MM-DDThh:mm:ss.mmmZ`: those are read eight bytes at once, and a date that follows itself is
worked out once. Everything else that ISO 8601 allows with a zone goes through `parse_iso`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rta.events.simd import Bytes, as_int, inlined, kernel, load_word

TIME_MIN_MS = -62_135_596_800_000
"""0001-01-01T00:00:00.000Z"""
TIME_MAX_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z"""
UNREAD = -(1 << 63)
"""No time that an event can have."""
FIRST_DAY = -719_162
"""0001-01-01 in days since 1970."""
_DAYS_BEFORE = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365])
_BYTE = np.uint64(0xFF)
_HIGH_BITS = np.uint64(0x8080808080808080)
_BEYOND_NINE = np.uint64(0x7676767676767676)
"""Added to a digit's value it stays below 0x80, to anything larger it does not."""


def _shape(text: str) -> tuple[np.uint64, np.uint64]:
    """Eight bytes of a time, digits written as 0, and which of the bytes are no digits."""
    marks = bytes(0 if c == "0" else 0xFF for c in text)
    return np.uint64(int.from_bytes(text.encode(), "little")), np.uint64(int.from_bytes(marks, "little"))


_DATE_SHAPE, _DATE_MARKS = _shape("0000-00-")
_DAY_SHAPE, _DAY_MARKS = _shape("00T00:00")
_SECOND_SHAPE, _SECOND_MARKS = _shape(":00.000Z")
USUAL_LENGTH = 24
DAY_MS = 86_400_000
DAY_BYTES = np.uint64(0xFFFF)


@inlined
def parse_digits(buf: Bytes, pos: int, count: int) -> int:
    """The number that `count` digits make, or something far below zero."""
    value = 0
    for i in range(count):
        digit = as_int(buf[pos + i]) - 0x30
        value = value * 10 + digit if 0 <= digit <= 9 else -1_000_000
    return value


@inlined
def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01, or -10**9 for a day that no calendar has."""
    if year < 1 or month < 1 or month > 12 or day < 1:
        return -1_000_000_000
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    length = _DAYS_BEFORE[month] - _DAYS_BEFORE[month - 1]
    if day > length + (1 if leap and month == 2 else 0):
        return -1_000_000_000
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400 + _DAYS_BEFORE[month - 1] + day - 1
    return days + (1 if leap and month > 2 else 0) - 719_162


@inlined
def days_at(buf: Bytes, start: int) -> int:
    return days_from_civil(
        parse_digits(buf, start, 4), parse_digits(buf, start + 5, 2), parse_digits(buf, start + 8, 2)
    )


@inlined
def parse_zone(buf: Bytes, pos: int, end: int) -> int:
    """Minutes east of Greenwich of `Z`, `+hh:mm`, `+hhmm` or `+hh`; 10**6 when it is none."""
    c = buf[pos]
    left = end - pos
    if left == 1 and c | 0x20 == 0x7A:
        return 0
    if c != 0x2B and c != 0x2D:
        return 1_000_000
    minutes = 0
    if left == 6 and buf[pos + 3] == 0x3A:
        minutes = parse_digits(buf, pos + 4, 2)
    elif left == 5:
        minutes = parse_digits(buf, pos + 3, 2)
    elif left != 3:
        return 1_000_000
    hours = parse_digits(buf, pos + 1, 2)
    if hours < 0 or hours > 23 or minutes < 0 or minutes > 59:
        return 1_000_000
    return (hours * 60 + minutes) * (1 if c == 0x2B else -1)


@kernel
def parse_iso(buf: Bytes, start: int, length: int) -> tuple[int, bool]:
    """Milliseconds since 1970 of `YYYY-MM-DDThh:mm[:ss[.fraction]]zone`; False for everything else."""
    end = start + length
    if length < 17 or buf[start + 4] != 0x2D or buf[start + 7] != 0x2D or buf[start + 13] != 0x3A:
        return 0, False
    if buf[start + 10] | 0x20 != 0x74 and buf[start + 10] != 0x20:
        return 0, False
    days = days_at(buf, start)
    hour, minute = parse_digits(buf, start + 11, 2), parse_digits(buf, start + 14, 2)
    pos = start + 16
    second, milliseconds = 0, 0
    if buf[pos] == 0x3A:
        second = parse_digits(buf, pos + 1, 2)
        pos += 3
        if buf[pos] == 0x2E or buf[pos] == 0x2C:
            pos += 1
            scale = 100
            begin = pos
            while pos < end and 0x30 <= buf[pos] <= 0x39:
                milliseconds += scale * (as_int(buf[pos]) - 0x30)
                scale //= 10
                pos += 1
            if pos == begin:
                return 0, False
    if (
        pos >= end
        or days < FIRST_DAY
        or hour < 0
        or hour > 23
        or minute < 0
        or minute > 59
        or second < 0
        or second > 59
    ):
        return 0, False
    zone = parse_zone(buf, pos, end)
    if zone == 1_000_000:
        return 0, False
    time = ((days * 24 + hour) * 60 + minute - zone) * 60_000 + second * 1000 + milliseconds
    return time, TIME_MIN_MS <= time <= TIME_MAX_MS


@inlined
def usual_clock(buf: Bytes, start: int) -> int:
    """Milliseconds since midnight of the text `YYYY-MM-DDThh:mm:ss.mmmZ` at `start`; -1 where it is written in another way."""
    clock = load_word(buf, start + 8) ^ _DAY_SHAPE
    rest = load_word(buf, start + 16) ^ _SECOND_SHAPE
    date = load_word(buf, start) ^ _DATE_SHAPE
    strange = (clock & _DAY_MARKS) | (rest & _SECOND_MARKS) | (date & _DATE_MARKS)
    large = (clock + _BEYOND_NINE) | clock | (rest + _BEYOND_NINE) | rest | (date + _BEYOND_NINE) | date
    if strange != 0 or large & _HIGH_BITS != 0:
        return as_int(-1)
    hour = as_int((clock >> np.uint64(24)) & _BYTE) * 10 + as_int((clock >> np.uint64(32)) & _BYTE)
    minute = as_int((clock >> np.uint64(48)) & _BYTE) * 10 + as_int(clock >> np.uint64(56))
    second = as_int((rest >> np.uint64(8)) & _BYTE) * 10 + as_int((rest >> np.uint64(16)) & _BYTE)
    thousandths = as_int((rest >> np.uint64(32)) & _BYTE) * 100 + as_int((rest >> np.uint64(40)) & _BYTE) * 10
    thousandths += as_int((rest >> np.uint64(48)) & _BYTE)
    if hour > 23 or minute > 59 or second > 59:
        return as_int(-1)
    return ((hour * 60 + minute) * 60 + second) * 1000 + thousandths


@kernel
def parse_times(
    buf: Bytes, offsets: npt.NDArray[np.int32], times: npt.NDArray[np.int64], wrong: npt.NDArray[np.uint8]
) -> None:
    """Milliseconds of the texts of an Arrow array; `wrong` is set where one is no time."""
    for i in range(len(times)):
        time, ok = parse_iso(buf, as_int(offsets[i]), as_int(offsets[i + 1] - offsets[i]))
        times[i] = time
        wrong[i] = not ok
