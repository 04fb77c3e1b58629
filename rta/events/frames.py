"""Where the events of a body lie: an array, `{"events": […]}`, one object, or lines. For numba.

A `Frame` is the state of one body while its events are read one by one. A body is tried as the document that it looks
like; when that fails and it can be something else (an object that only begins like an envelope, lines sent as JSON), it
is read again as that. Lines are events on their own: a broken one costs only itself. Of a document, an element that is no
JSON costs only itself as long as brackets and quotes still say where it ends.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rta.events.simd import LANES, Bytes, as_int, inlined, kernel, load_word, newline_mask, trailing_zeros
from rta.events.tokens import skip_broken, skip_space

Frame = npt.NDArray[np.int64]

SURE, UNSURE, OVERSIZED, MISSING = 0, 1, 2, 3
"""What the scanner says of an event: fine so far, ask the exact decoder, larger than one event may be."""
READ, EMPTY, TOO_MANY = 1, 2, 3
"""A body's outcome, where it is not `~position`, the place at which it stopped being JSON."""
NO_ROOM = -(1 << 62)

SHAPE, POSITION, END, EVENT_START, EVENT_END, OUTCOME, START = 0, 1, 2, 3, 4, 5, 6
FRAME_SIZE = 7
_LINES, _ARRAY, _ENVELOPE, _SINGLE = 0, 1, 2, 3

_NEWLINE, _COMMA, _COLON = 0x0A, 0x2C, 0x3A
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = 0x7B, 0x7D, 0x5B, 0x5D
_EVENTS_NAME = np.uint64(int.from_bytes(b'"events"', "little"))


@inlined
def is_blank(c: int) -> bool:
    return c == 0x20 or c == 0x09 or c == 0x0D


@kernel
def line_end(buf: Bytes, pos: int, end: int) -> int:
    """Where the line at `pos` ends: its newline, or the body's end."""
    while pos < end:
        mask = newline_mask(buf, pos)
        if mask != 0:
            return min(end, pos + trailing_zeros(mask))
        pos += LANES
    return end


@kernel
def envelope(buf: Bytes, pos: int) -> int:
    """Behind the bracket of the array in `{"events": […`, or -1."""
    pos = skip_space(buf, pos + 1)
    if load_word(buf, pos) != _EVENTS_NAME:
        return -1
    pos = skip_space(buf, pos + 8)
    if buf[pos] != _COLON:
        return -1
    pos = skip_space(buf, pos + 1)
    return pos + 1 if buf[pos] == _OPEN_LIST else -1


@kernel
def looks_like_lines(buf: Bytes, pos: int, end: int) -> bool:
    """Two or more lines, each of them beginning an object."""
    lines = 0
    while pos < end:
        stop = line_end(buf, pos, end)
        while pos < stop and is_blank(buf[pos]):
            pos += 1
        if pos < stop:
            if buf[pos] != _OPEN:
                return False
            lines += 1
        pos = stop + 1
    return lines >= 2


@kernel
def begin_body(buf: Bytes, frame: Frame, start: int, end: int, lines: int) -> None:
    """Look at a body and choose its shape; a byte order mark is passed over."""
    if buf[start] == 0xEF and buf[start + 1] == 0xBB and buf[start + 2] == 0xBF:
        start += 3
    frame[START] = start
    frame[END] = end
    frame[POSITION] = start
    frame[OUTCOME] = READ
    pos = skip_space(buf, start)
    if pos >= end:
        frame[OUTCOME] = EMPTY
        frame[SHAPE] = _LINES
    elif lines:
        frame[SHAPE] = _LINES
    elif buf[pos] == _OPEN_LIST:
        frame[SHAPE] = _ARRAY
        frame[POSITION] = pos + 1
    elif buf[pos] == _OPEN:
        inside = envelope(buf, pos)
        frame[SHAPE] = _ENVELOPE if inside >= 0 else _SINGLE
        frame[POSITION] = inside if inside >= 0 else pos
    else:
        frame[OUTCOME] = ~pos
        frame[SHAPE] = _SINGLE


@kernel
def other_frame(buf: Bytes, frame: Frame) -> bool:
    """After a body failed in its shape: the shape that it is read again in, if there is one."""
    start = frame[START]
    if frame[SHAPE] == _ENVELOPE:
        frame[SHAPE] = _SINGLE
        frame[POSITION] = skip_space(buf, start)
    elif frame[SHAPE] == _SINGLE and looks_like_lines(buf, start, frame[END]):
        frame[SHAPE] = _LINES
        frame[POSITION] = start
    else:
        return False
    frame[OUTCOME] = READ
    return True


@kernel
def next_line(buf: Bytes, frame: Frame) -> int:
    """Where the next line that is not blank begins, or -1; its end goes into the frame."""
    pos, end = frame[POSITION], frame[END]
    while pos < end:
        stop = line_end(buf, pos, end)
        last = stop
        while pos < last and is_blank(buf[pos]):
            pos += 1
        while last > pos and is_blank(buf[last - 1]):
            last -= 1
        if pos < last:
            frame[POSITION] = stop + 1
            frame[EVENT_START] = pos
            frame[EVENT_END] = last
            return pos
        pos = stop + 1
    return as_int(-1)


@kernel
def first_event(buf: Bytes, frame: Frame) -> int:
    """Where the first event begins, or -1 if there is none."""
    if frame[OUTCOME] != READ:
        return as_int(-1)
    if frame[SHAPE] == _LINES:
        return next_line(buf, frame)
    pos = skip_space(buf, frame[POSITION])
    if frame[SHAPE] != _SINGLE and buf[pos] == _CLOSE_LIST:
        end_document(buf, frame, pos + 1)
        return as_int(-1)
    frame[EVENT_START] = frame[EVENT_END] = pos
    return pos


@kernel
def next_event(buf: Bytes, frame: Frame) -> int:
    """Where the next event begins, or -1 if there is none or the body stopped being JSON."""
    if frame[SHAPE] == _LINES:
        return next_line(buf, frame)
    pos = frame[POSITION]
    if frame[SHAPE] == _SINGLE:
        end_document(buf, frame, pos)
        return as_int(-1)
    pos = skip_space(buf, pos)
    if buf[pos] == _COMMA:
        pos = skip_space(buf, pos + 1)
        frame[EVENT_START] = frame[EVENT_END] = pos
        return pos
    if buf[pos] == _CLOSE_LIST:
        end_document(buf, frame, pos + 1)
    else:
        frame[OUTCOME] = ~pos
    return as_int(-1)


@kernel
def end_document(buf: Bytes, frame: Frame, pos: int) -> None:
    """Nothing may stand behind a document."""
    pos = skip_space(buf, pos)
    if frame[SHAPE] == _ENVELOPE:
        if buf[pos] != _CLOSE:
            frame[OUTCOME] = ~pos
            return
        pos = skip_space(buf, pos + 1)
    frame[OUTCOME] = READ if pos == frame[END] else ~pos


@kernel
def judge_frame(buf: Bytes, frame: Frame, stop: int, bytes_max: int) -> int:
    """What is to be said of the event that the scanner left at `stop`; negative where the body is lost with it."""
    start = frame[EVENT_START]
    if frame[SHAPE] == _LINES:
        return SURE if stop == frame[EVENT_END] else UNSURE
    doubt = SURE
    last = stop
    if stop < 0:
        doubt = UNSURE
        last = skip_broken(buf, start, frame[END])
        if last < 0 or last == start:
            frame[OUTCOME] = stop
            return -1
        stop = last
        while last > start and (is_blank(buf[last - 1]) or buf[last - 1] == _NEWLINE):
            last -= 1
    frame[POSITION] = stop
    frame[EVENT_END] = last
    return OVERSIZED if last - start > bytes_max else doubt
