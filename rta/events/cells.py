"""From the text of a value to the value: numbers, times, strings, column by column. For numba.

Whatever a function here can't turn into its column's type exactly, it marks UNSURE in the event's doubts; the exact
decoder finds the value or the reason. MISSING is an event of which the first thing that is wrong is a value that it must
have and lacks. Doubles beyond the exact fast path get the kind ODD and are read by Python.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rta.events.frames import MISSING, SURE, UNSURE
from rta.events.simd import Bytes, as_int, copy, inlined, kernel, load_word
from rta.events.times import (
    DAY_BYTES,
    DAY_MS,
    FIRST_DAY,
    TIME_MAX_MS,
    TIME_MIN_MS,
    UNREAD,
    USUAL_LENGTH,
    days_at,
    parse_iso,
    usual_clock,
)
from rta.events.tokens import ARRAY, ESCAPED, FALSE, FLOAT, INTEGER, NULL, STRING, TRUE, hex4, skip_space, skip_string

AS_STRING, AS_LONG, AS_DOUBLE, AS_BOOLEAN, AS_TIMESTAMP, AS_STRINGS, AS_JSON = 0, 1, 2, 3, 4, 5, 6
ODD = 10
"""Kind of a double that needs more than 53 bits or a large power of ten on the way."""

_EXACT_MAX = np.uint64(1 << 53)
_TEN = np.uint64(10)
_POWERS = np.array([10.0**i for i in range(23)])
_LONG_MAX = np.uint64((1 << 63) - 1)


class Cells(NamedTuple):
    """What the scanner noted, each int32 of shape (slots, rows): kind of the value, where its text begins, its length."""

    kinds: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]


class Rules(NamedTuple):
    """Per slot: type, whether the event must have it, whether it must not be empty, how many bytes are surely fine,
    and its row in the array of numbers (-1 for what is no number)."""

    types: npt.NDArray[np.int8]
    required: npt.NDArray[np.bool_]
    filled: npt.NDArray[np.bool_]
    lengths: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.int32]


class Numbers(NamedTuple):
    """Two views of one array with a row per number column and a column per event."""

    longs: npt.NDArray[np.int64]
    doubles: npt.NDArray[np.float64]


class Picked(NamedTuple):
    """The events that become rows, in this order."""

    buf: Bytes
    cells: Cells
    rows: npt.NDArray[np.int64]


class Texts(NamedTuple):
    """String columns that are being written, all into `out`: the i-th slot's begin at `starts[i]`."""

    valid: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int32]
    out: Bytes
    starts: npt.NDArray[np.int64]


@inlined
def parse_long(buf: Bytes, start: int, length: int) -> tuple[int, bool]:
    """A whole number, also one written with zeros behind a point; False when it is none or needs more than 64 bits."""
    end = start + length
    negative = buf[start] == 0x2D
    pos = start + 1 if negative else start
    value = np.uint64(0)
    digits = 0
    while pos < end and buf[pos] != 0x2E:
        c = buf[pos]
        if c < 0x30 or c > 0x39:
            return as_int(0), False
        value = value * _TEN + np.uint64(c - 0x30)
        digits += 1
        pos += 1
    for i in range(pos + 1, end):
        if buf[i] != 0x30:
            return as_int(0), False
    if digits > 19 or value > _LONG_MAX:
        return as_int(0), False
    return (-as_int(value) if negative else as_int(value)), True


@inlined
def parse_double(buf: Bytes, start: int, length: int) -> tuple[float, bool]:
    """The nearest double, if at most 53 bits and one exact power of ten make it (Clinger 1990); else False."""
    end = start + length
    negative = buf[start] == 0x2D
    pos = start + 1 if negative else start
    value = np.uint64(0)
    digits = 0
    power = 0
    fraction = False
    while pos < end:
        c = buf[pos]
        if c == 0x2E:
            fraction = True
        elif c <= 0x39:
            value = value * _TEN + np.uint64(c - 0x30)
            digits += 1
            power -= fraction
        else:
            break
        pos += 1
    if digits > 19 or value > _EXACT_MAX:
        return 0.0, False
    if pos < end:
        pos += 1
        sign = 1
        if buf[pos] == 0x2D or buf[pos] == 0x2B:
            sign = -1 if buf[pos] == 0x2D else 1
            pos += 1
        if end - pos > 4:
            return 0.0, False
        written = 0
        for i in range(pos, end):
            written = written * 10 + as_int(buf[i]) - 0x30
        power += sign * written
    if power < -22 or power > 22:
        return 0.0, False
    exact = np.float64(value)
    exact = exact / _POWERS[-power] if power < 0 else exact * _POWERS[power]
    return (-exact if negative else exact), True


@inlined
def next_element(buf: Bytes, pos: int) -> int:
    """Behind the comma after an element, or at the bracket that closes the array."""
    pos = skip_space(buf, pos)
    return skip_space(buf, pos + 1) if buf[pos] == 0x2C else pos


@inlined
def only_strings(buf: Bytes, pos: int) -> bool:
    """Whether the array at `pos`, known to be JSON, holds nothing but strings."""
    pos = skip_space(buf, pos + 1)
    while buf[pos] == 0x22:
        pos, _ = skip_string(buf, pos)
        pos = next_element(buf, pos)
    return buf[pos] == 0x5D


@inlined
def read_number(buf: Bytes, kind: int, start: int, length: int, column_type: int) -> tuple[int, bool]:
    """A long or timestamp."""
    if INTEGER <= kind <= FLOAT:
        value, ok = parse_long(buf, start, length)
        if column_type == AS_TIMESTAMP and (value < TIME_MIN_MS or value > TIME_MAX_MS):
            ok = False
        return value, ok
    if column_type == AS_TIMESTAMP and kind == STRING:
        return parse_iso(buf, start, length)
    return as_int(0), False


@kernel
def read_slot(
    buf: Bytes, cells: Cells, doubts: npt.NDArray[np.int32], rules: Rules, slot: int, numbers: Numbers
) -> int:
    """Check one slot of all sure rows against its rules, and read its numbers; returns how many doubles are ODD."""
    odd = 0
    column_type = rules.types[slot]
    which = max(0, rules.numbers[slot])
    longs, doubles = numbers.longs[which], numbers.doubles[which]
    kinds, starts, lengths = cells.kinds[slot], cells.starts[slot], cells.lengths[slot]
    for row in range(len(doubts)):
        if doubts[row] != SURE:
            continue
        kind = kinds[row]
        if kind == 0 or kind == NULL:
            if rules.required[slot]:
                doubts[row] = MISSING
            continue
        start, length = as_int(starts[row]), as_int(lengths[row])
        ok = True
        if column_type == AS_STRING:
            ok = kind <= ESCAPED and length <= rules.lengths[slot] and (length > 0 or not rules.filled[slot])
        elif column_type == AS_BOOLEAN:
            ok = TRUE <= kind <= FALSE
        elif column_type == AS_DOUBLE:
            ok = INTEGER <= kind <= FLOAT
            if ok:
                doubles[row], exact = parse_double(buf, start, length)
                if not exact:
                    kinds[row] = ODD
                    odd += 1
        elif column_type == AS_STRINGS:
            ok = kind == ARRAY and only_strings(buf, start)
        elif column_type == AS_TIMESTAMP and longs[row] != UNREAD:
            continue
        elif column_type != AS_JSON:
            value, ok = read_number(buf, kind, start, length, column_type)
            longs[row] = value
        if not ok:
            doubts[row] = UNSURE
    return odd


@kernel
def read_usual_times(
    buf: Bytes, cells: Cells, doubts: npt.NDArray[np.int32], slot: int, times: npt.NDArray[np.int64]
) -> None:
    """Read a slot's times as most are written; those that are not keep a time of `UNREAD`. One date is worked out once."""
    year, day, days = np.uint64(0), np.uint64(0), as_int(0)
    for row in range(len(doubts)):
        times[row] = UNREAD
        if doubts[row] != SURE or cells.kinds[slot, row] != STRING or cells.lengths[slot, row] != USUAL_LENGTH:
            continue
        start = as_int(cells.starts[slot, row])
        clock = usual_clock(buf, start)
        if clock < 0:
            continue
        if load_word(buf, start) != year or load_word(buf, start + 8) & DAY_BYTES != day:
            year, day = load_word(buf, start), load_word(buf, start + 8) & DAY_BYTES
            days = days_at(buf, start)
        if days >= FIRST_DAY:
            times[row] = days * DAY_MS + clock


@kernel
def read_slots(buf: Bytes, cells: Cells, doubts: npt.NDArray[np.int32], rules: Rules, numbers: Numbers) -> int:
    """All slots; returns how many doubles are ODD."""
    odd = 0
    for slot in range(len(rules.types)):
        if rules.types[slot] == AS_TIMESTAMP:
            read_usual_times(buf, cells, doubts, slot, numbers.longs[rules.numbers[slot]])
        odd += read_slot(buf, cells, doubts, rules, slot, numbers)
    return odd


@inlined
def put_code_point(out: Bytes, at: int, code: int) -> int:
    """Append a code point as UTF-8."""
    if code < 0x80:
        out[at] = code
        return at + 1
    if code < 0x800:
        out[at] = 0xC0 | (code >> 6)
    else:
        if code < 0x10000:
            out[at] = 0xE0 | (code >> 12)
        else:
            out[at] = 0xF0 | (code >> 18)
            at += 1
            out[at] = 0x80 | ((code >> 12) & 0x3F)
        at += 1
        out[at] = 0x80 | ((code >> 6) & 0x3F)
    out[at + 1] = 0x80 | (code & 0x3F)
    return at + 2


@kernel
def unescape(buf: Bytes, start: int, length: int, out: Bytes, at: int) -> int:
    """Append a string that is known to be valid, its escapes resolved."""
    pos, end = start, start + length
    while pos < end:
        c = buf[pos]
        if c != 0x5C:
            out[at] = c
            at += 1
            pos += 1
            continue
        c = buf[pos + 1]
        pos += 2
        if c == 0x75:
            code = hex4(buf, pos)
            pos += 4
            if 0xD800 <= code <= 0xDBFF:
                code = 0x10000 + ((code - 0xD800) << 10) + hex4(buf, pos + 2) - 0xDC00
                pos += 6
            at = put_code_point(out, at, code)
            continue
        if c == 0x6E:
            c = np.uint8(0x0A)
        elif c == 0x74:
            c = np.uint8(0x09)
        elif c == 0x72:
            c = np.uint8(0x0D)
        elif c == 0x62:
            c = np.uint8(0x08)
        elif c == 0x66:
            c = np.uint8(0x0C)
        out[at] = c
        at += 1
    return at


@inlined
def put_string(buf: Bytes, start: int, length: int, kind: int, out: Bytes, at: int) -> int:
    """Append a value's text, its escapes resolved if it is a string that has some."""
    if kind == ESCAPED:
        return unescape(buf, start, length, out, at)
    return copy(out, at, buf, start, length)


@kernel
def count_bytes(picked: Picked, slots: npt.NDArray[np.int32]) -> int:
    """At most how many bytes the strings of these slots take."""
    cells = picked.cells
    total = 0
    for i in range(len(slots)):
        for row in picked.rows:
            if cells.kinds[slots[i], row] != 0:
                total += as_int(cells.lengths[slots[i], row]) + 2
    return total


@kernel
def write_strings(picked: Picked, rules: Rules, slots: npt.NDArray[np.int32], texts: Texts) -> None:
    """The strings (and JSON texts) of these slots, one slot after the other."""
    buf, out = picked.buf, texts.out
    at = 0
    for i in range(len(slots)):
        slot = slots[i]
        verbatim = rules.types[slot] == AS_JSON
        kinds, starts, lengths = picked.cells.kinds[slot], picked.cells.starts[slot], picked.cells.lengths[slot]
        begin = at
        texts.starts[i] = begin
        texts.offsets[i, 0] = 0
        for j in range(len(picked.rows)):
            row = picked.rows[j]
            kind = kinds[row]
            present = kind != 0 and kind != NULL
            texts.valid[i, j] = present
            if present:
                start, length = as_int(starts[row]), as_int(lengths[row])
                if verbatim and kind <= ESCAPED:
                    start, length = start - 1, length + 2
                at = put_string(buf, start, length, STRING if verbatim else kind, out, at)
            texts.offsets[i, j + 1] = at - begin
    texts.starts[len(slots)] = at


@kernel
def count_lists(picked: Picked, slot: int, list_offsets: npt.NDArray[np.int32]) -> int:
    """How many strings the lists of a `string[]` slot hold, and where each list begins among them."""
    buf = picked.buf
    count = 0
    list_offsets[0] = 0
    for j in range(len(picked.rows)):
        row = picked.rows[j]
        if picked.cells.kinds[slot, row] == ARRAY:
            pos = skip_space(buf, as_int(picked.cells.starts[slot, row]) + 1)
            while buf[pos] == 0x22:
                pos, _ = skip_string(buf, pos)
                pos = next_element(buf, pos)
                count += 1
        list_offsets[j + 1] = count
    return count


@kernel
def write_lists(picked: Picked, slot: int, offsets: npt.NDArray[np.int32], out: Bytes) -> None:
    """The strings of a `string[]` slot; `offsets` has room for all of them."""
    buf = picked.buf
    count = 0
    at = 0
    for row in picked.rows:
        if picked.cells.kinds[slot, row] != ARRAY:
            continue
        pos = skip_space(buf, as_int(picked.cells.starts[slot, row]) + 1)
        while buf[pos] == 0x22:
            start = pos + 1
            pos, kind = skip_string(buf, pos)
            at = put_string(buf, start, pos - start - 1, kind, out, at)
            count += 1
            offsets[count] = at
            pos = next_element(buf, pos)


@kernel
def gather_strings(
    offsets: npt.NDArray[np.int32],
    data: Bytes,
    rows: npt.NDArray[np.int64],
    out_offsets: npt.NDArray[np.int32],
    out: Bytes,
) -> None:
    """The strings of an Arrow array in the order of `rows`. `data` and `out` have `PADDING` behind them."""
    at = 0
    out_offsets[0] = 0
    for i in range(len(rows)):
        row = rows[i]
        at = copy(out, at, data, as_int(offsets[row]), as_int(offsets[row + 1] - offsets[row]))
        out_offsets[i + 1] = at
