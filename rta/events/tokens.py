"""The grammar of JSON over a padded byte buffer: strings, numbers, literals, whole values. For numba.

Every function takes the position where its token begins and returns the one behind it. A negative result, `~position`,
says that the text there is not JSON, or nothing that the fast decoder wants to judge; the exact decoder does.
The byte behind a body is always 0, which no rule accepts, so nothing here needs to know where a body ends.
"""

from __future__ import annotations

import numpy as np

from rta.events.simd import LANES, Bytes, as_int, inlined, kernel, load_word, string_masks, trailing_zeros

STRING, ESCAPED, INTEGER, FLOAT, TRUE, FALSE, OBJECT, ARRAY, NULL = 1, 2, 3, 4, 5, 6, 7, 8, 9
"""Kinds of values. ESCAPED is a string with at least one backslash; 0 means absent."""
DEPTH_MAX = 64

_QUOTE, _BACKSLASH, _COMMA, _COLON = 0x22, 0x5C, 0x2C, 0x3A
_MINUS, _PLUS, _DOT, _ZERO, _NINE = 0x2D, 0x2B, 0x2E, 0x30, 0x39
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = 0x7B, 0x7D, 0x5B, 0x5D
_FOLD = 0xDF
"""Makes an object's bracket the list's."""
_ESCAPED = np.zeros(256, np.bool_)
_ESCAPED[list(b'"\\/bfnrt')] = True
_LOW = np.uint64(0xFFFFFFFF)
_LANES = np.uint64(LANES)
_ONE = np.uint64(1)
_NULL_WORD = np.uint64(int.from_bytes(b"null", "little"))
_TRUE_WORD = np.uint64(int.from_bytes(b"true", "little"))
_FALSE_WORD = np.uint64(int.from_bytes(b"false", "little"))
_FIVE_BYTES = np.uint64(0xFFFFFFFFFF)


@inlined
def skip_space(buf: Bytes, pos: int) -> int:
    c = buf[pos]
    while c <= 0x20 and (c == 0x20 or c == 0x0A or c == 0x0D or c == 0x09):
        pos += 1
        c = buf[pos]
    return pos


@kernel
def hex4(buf: Bytes, pos: int) -> int:
    """The value of four hexadecimal digits, or -1."""
    value = 0
    for i in range(4):
        c = as_int(buf[pos + i])
        if _ZERO <= c <= _NINE:
            digit = c - _ZERO
        else:
            digit = (c | 0x20) - 87
            if digit < 10 or digit > 15:
                return -1
        value = value * 16 + digit
    return value


@kernel
def skip_escape(buf: Bytes, pos: int) -> int:
    """Behind the escape at `pos` (its backslash); surrogates only as a pair."""
    c = buf[pos + 1]
    if c == 0x75:
        high = hex4(buf, pos + 2)
        if high < 0:
            return ~pos
        if 0xD800 <= high <= 0xDFFF:
            if high >= 0xDC00 or buf[pos + 6] != _BACKSLASH or buf[pos + 7] != 0x75:
                return ~pos
            low = hex4(buf, pos + 8)
            return pos + 12 if 0xDC00 <= low <= 0xDFFF else ~pos
        return pos + 6
    return pos + 2 if _ESCAPED[c] else ~pos


@kernel
def invalid_utf8(buf: Bytes, start: int, end: int) -> int:
    """Where the text stops being UTF-8, or -1. Overlong forms and surrogates are not UTF-8."""
    pos = start
    while pos < end:
        c = as_int(buf[pos])
        if c < 0x80:
            pos += 1
            continue
        if 0xC2 <= c <= 0xDF:
            more, least, most = 1, 0x80, 0xBF
        elif 0xE0 <= c <= 0xEF:
            more, least, most = 2, 0xA0 if c == 0xE0 else 0x80, 0x9F if c == 0xED else 0xBF
        elif 0xF0 <= c <= 0xF4:
            more, least, most = 3, 0x90 if c == 0xF0 else 0x80, 0x8F if c == 0xF4 else 0xBF
        else:
            return pos
        if pos + more >= end or buf[pos + 1] < least or buf[pos + 1] > most:
            return pos
        for i in range(2, more + 1):
            if buf[pos + i] & 0xC0 != 0x80:
                return pos
        pos += more + 1
    return -1


@kernel
def skip_string(buf: Bytes, pos: int) -> tuple[int, int]:
    """Behind the string whose opening quote is at `pos`, and its kind, STRING or ESCAPED."""
    start = pos + 1
    pos = start
    kind = STRING
    beyond = np.uint64(0)
    while True:
        masks = string_masks(buf, pos)
        special = masks & _LOW
        if special == 0:
            beyond |= masks
            pos += LANES
            continue
        skipped = trailing_zeros(special)
        beyond |= (masks >> _LANES) & ((_ONE << np.uint64(skipped)) - _ONE)
        pos += skipped
        if buf[pos] == _QUOTE:
            break
        if buf[pos] != _BACKSLASH:
            return ~pos, kind
        kind = ESCAPED
        pos = skip_escape(buf, pos)
        if pos < 0:
            return pos, kind
    if beyond != 0:
        bad = invalid_utf8(buf, start, pos)
        if bad >= 0:
            return ~bad, kind
    return pos + 1, kind


@inlined
def skip_short(buf: Bytes, pos: int) -> int:
    """Behind the string whose opening quote is at `pos`, if it is ASCII of less than 32 bytes without escapes; else -1."""
    masks = string_masks(buf, pos + 1)
    special = masks & _LOW
    if special == 0:
        return as_int(-1)
    skipped = trailing_zeros(special)
    end = pos + 1 + skipped
    if buf[end] != _QUOTE or (masks >> _LANES) & ((_ONE << np.uint64(skipped)) - _ONE) != 0:
        return as_int(-1)
    return end + 1


@inlined
def skip_digits(buf: Bytes, pos: int) -> int:
    while _ZERO <= buf[pos] <= _NINE:
        pos += 1
    return pos


@inlined
def skip_number(buf: Bytes, pos: int) -> tuple[int, int]:
    """Behind the number at `pos`, and its kind, INTEGER or FLOAT."""
    if buf[pos] == _MINUS:
        pos += 1
    begin = pos
    pos = skip_digits(buf, pos)
    if pos == begin or (buf[begin] == _ZERO and pos > begin + 1):
        return ~begin, INTEGER
    kind = INTEGER
    if buf[pos] == _DOT:
        kind = FLOAT
        begin = pos + 1
        pos = skip_digits(buf, begin)
        if pos == begin:
            return ~begin, kind
    if buf[pos] | 0x20 == 0x65:
        kind = FLOAT
        begin = pos + 1
        if buf[begin] == _PLUS or buf[begin] == _MINUS:
            begin += 1
        pos = skip_digits(buf, begin)
        if pos == begin:
            return ~begin, kind
    return pos, kind


@inlined
def skip_scalar(buf: Bytes, pos: int) -> tuple[int, int]:
    """Behind the number or literal at `pos`, and its kind."""
    c = buf[pos]
    if c == _MINUS or _ZERO <= c <= _NINE:
        return skip_number(buf, pos)
    word = load_word(buf, pos)
    if word & _LOW == _NULL_WORD:
        return pos + 4, NULL
    if word & _LOW == _TRUE_WORD:
        return pos + 4, TRUE
    if word & _FIVE_BYTES == _FALSE_WORD:
        return pos + 5, FALSE
    return ~pos, NULL


@inlined
def skip_name(buf: Bytes, pos: int) -> int:
    """Behind a member's name and colon and the space after it."""
    if buf[pos] != _QUOTE:
        return ~pos
    end = skip_short(buf, pos)
    if end < 0:
        end, _ = skip_string(buf, pos)
    pos = end
    if pos < 0:
        return pos
    pos = skip_space(buf, pos)
    return skip_space(buf, pos + 1) if buf[pos] == _COLON else ~pos


@kernel
def open_nest(buf: Bytes, pos: int) -> tuple[int, bool]:
    """Behind an opening bracket: where the first value inside begins, or behind the closing one and True if empty."""
    is_object = buf[pos] == _OPEN
    pos = skip_space(buf, pos + 1)
    if buf[pos] == (_CLOSE if is_object else _CLOSE_LIST):
        return pos + 1, True
    return (skip_name(buf, pos) if is_object else pos), False


@kernel
def skip_nest(buf: Bytes, pos: int, depth: int) -> int:
    """Behind the object or array at `pos`, which stands inside `depth` others."""
    level = 0
    kinds = np.uint64(0)
    while True:
        c = buf[pos]
        if c == _QUOTE:
            end = skip_short(buf, pos)
            if end < 0:
                end, _ = skip_string(buf, pos)
            pos = end
        elif c & _FOLD == _OPEN_LIST:
            level += 1
            if level + depth > DEPTH_MAX:
                return ~pos
            pos, empty = open_nest(buf, pos)
            if not empty:
                if pos < 0:
                    return pos
                kinds = (kinds << _ONE) | np.uint64(c == _OPEN)
                continue
            level -= 1
        else:
            pos, _ = skip_scalar(buf, pos)
        if pos < 0:
            return pos
        while level > 0:
            pos = skip_space(buf, pos)
            in_object = kinds & _ONE == _ONE
            if buf[pos] == _COMMA:
                pos = skip_space(buf, pos + 1)
                if in_object:
                    pos = skip_name(buf, pos)
                    if pos < 0:
                        return pos
                break
            if buf[pos] != (_CLOSE if in_object else _CLOSE_LIST):
                return ~pos
            pos += 1
            level -= 1
            kinds >>= _ONE
        else:
            return pos


@kernel
def skip_value(buf: Bytes, pos: int, depth: int) -> tuple[int, int]:
    """Behind the value at `pos`, which stands inside `depth` objects and arrays, and its kind."""
    c = buf[pos]
    if c == _QUOTE:
        return skip_string(buf, pos)
    if c == _OPEN:
        return skip_nest(buf, pos, depth), OBJECT
    if c == _OPEN_LIST:
        return skip_nest(buf, pos, depth), ARRAY
    return skip_scalar(buf, pos)


@kernel
def skip_broken(buf: Bytes, pos: int, end: int) -> int:
    """Behind an element that is not JSON, found by its brackets and quotes alone; negative when they don't add up."""
    level = 0
    while pos < end:
        c = buf[pos]
        if c == _QUOTE:
            pos += 1
            while pos < end and buf[pos] != _QUOTE:
                pos += 2 if buf[pos] == _BACKSLASH else 1
            if pos >= end:
                return ~end
        elif c & _FOLD == _OPEN_LIST:
            level += 1
        elif c & _FOLD == _CLOSE_LIST:
            if level == 0:
                return pos
            level -= 1
            if level == 0:
                return pos + 1
        elif c == _COMMA and level == 0:
            return pos
        pos += 1
    return pos if level == 0 else ~end


@inlined
def skip_any(buf: Bytes, pos: int, depth: int) -> tuple[int, int]:
    """As `skip_value`, without a call for what most values are: a short string."""
    if buf[pos] == _QUOTE:
        end = skip_short(buf, pos)
        if end >= 0:
            return end, as_int(STRING)
    return skip_value(buf, pos, depth)
