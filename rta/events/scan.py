"""One walk over the bytes of many bodies: where each event lies, where each declared value lies, and what is left.

Owns the framing of bodies (array, `{"events": […]}`, one object, lines) and of declared objects. Knows JSON's grammar
from `tokens`, nothing of types, times or datasources. What it does not want to judge it marks UNSURE; the exact decoder
decides. Undeclared members are copied verbatim into one text of "rest", wrapped in the declared objects they stood in.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rta.events.simd import LANES, PADDING, Bytes, copy, inlined, kernel, load_word, newline_mask, trailing_zeros
from rta.events.tokens import ESCAPED, NULL, skip_broken, skip_space, skip_string, skip_value
from rta.events.trie import Trie, find_child, name_hash

SURE, UNSURE, OVERSIZED = 0, 1, 2
"""What the scanner says of an event: fine so far, ask the exact decoder, larger than one event may be."""
READ, EMPTY, TOO_MANY = 1, 2, 3
"""A body's outcome, where it is not `~position`, the place at which it stopped being JSON."""
NO_ROOM = -(1 << 62)
LEVELS_MAX = 32
NAMES_MAX = 2048
"""Undeclared members of one event that are checked for repetition here; more is the exact decoder's work."""

_QUOTE, _COMMA, _COLON, _NEWLINE = 0x22, 0x2C, 0x3A, 0x0A
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = 0x7B, 0x7D, 0x5B, 0x5D
_SERIAL = np.uint64(0x9E3779B97F4A7C15)
_EVENTS_NAME = np.uint64(int.from_bytes(b'"events"', "little"))


class Cells(NamedTuple):
    """Per (slot, row) the kind of the value and where its text lies; a string's without its quotes."""

    kinds: npt.NDArray[np.int8]
    starts: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]


class Events(NamedTuple):
    """Per row where the event lies, what the scanner says of it, and where its rest ends in `rest`."""

    spans: npt.NDArray[np.int32]
    doubts: npt.NDArray[np.int8]
    rest_ends: npt.NDArray[np.int32]
    rest: Bytes


class Work(NamedTuple):
    """What the walk keeps. `at` holds the row, the rest's end, how many objects and undeclared names this event had so
    far, and the number of this reading (a body may be read twice). `levels` are the open objects: node, the rest's end
    before it, its number. The others remember which node and name were seen in which reading."""

    at: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]
    seen_nodes: npt.NDArray[np.int64]
    seen_names: npt.NDArray[np.uint64]
    seen_in: npt.NDArray[np.int64]


class Walk(NamedTuple):
    """Everything that one walk reads and writes besides the bytes."""

    trie: Trie
    cells: Cells
    events: Events
    work: Work


_ROW, _REST, _SERIALS, _NAMES, _READING = 0, 1, 2, 3, 4


def new_walk(trie: Trie, rows: int, size: int) -> Walk:
    """Room for so many events in a buffer of so many bytes."""
    slots = int(trie.slots.max(initial=0)) + 1
    return Walk(
        trie=trie,
        cells=Cells(
            kinds=np.empty((slots, rows), np.int8),
            starts=np.empty((slots, rows), np.int32),
            lengths=np.empty((slots, rows), np.int32),
        ),
        events=Events(
            spans=np.empty((rows, 2), np.int32),
            doubts=np.zeros(rows, np.int8),
            rest_ends=np.zeros(rows, np.int32),
            rest=np.empty(size + PADDING, np.uint8),
        ),
        work=Work(
            at=np.zeros(5, np.int64),
            levels=np.zeros((LEVELS_MAX, 3), np.int64),
            seen_nodes=np.full(len(trie.slots), -1, np.int64),
            seen_names=np.empty(2 * NAMES_MAX, np.uint64),
            seen_in=np.full(2 * NAMES_MAX, -1, np.int64),
        ),
    )


@inlined
def repeated_name(work: Work, h: np.uint64, serial: int) -> bool:
    """Note an undeclared member of the object `serial`; True if it was there before, or there are too many."""
    reading = work.at[_READING]
    mixed = h ^ (np.uint64(serial) * _SERIAL)
    probe = np.int64(mixed & np.uint64(2 * NAMES_MAX - 1))
    while work.seen_in[probe] == reading:
        if work.seen_names[probe] == mixed:
            return True
        probe = (probe + 1) & (2 * NAMES_MAX - 1)
    work.seen_in[probe] = reading
    work.seen_names[probe] = mixed
    work.at[_NAMES] += 1
    return work.at[_NAMES] > NAMES_MAX


@inlined
def keep_member(buf: Bytes, rest: Bytes, at: int, name: tuple[int, int], value: tuple[int, int]) -> int:
    """Append `"name":value`, and a comma where something stands before it; returns the rest's new end."""
    if rest[at - 1] != _OPEN:
        rest[at] = _COMMA
        at += 1
    if buf[name[1]] == _COLON and name[1] + 1 == value[0]:
        return copy(rest, at, buf, name[0], value[1] - name[0])
    at = copy(rest, at, buf, name[0], name[1] - name[0])
    rest[at] = _COLON
    return copy(rest, at + 1, buf, value[0], value[1] - value[0])


@inlined
def enter(buf: Bytes, events: Events, work: Work, level: int, name: tuple[int, int], node: int) -> None:
    """Open a declared object: its members get their own object in the rest, which goes again if it stays empty."""
    at = work.at[_REST]
    work.levels[level, 0] = node
    work.levels[level, 1] = at
    work.at[_SERIALS] += 1
    work.levels[level, 2] = work.at[_SERIALS]
    rest = events.rest
    if level > 0:
        if rest[at - 1] != _OPEN:
            rest[at] = _COMMA
            at += 1
        at = copy(rest, at, buf, name[0], name[1] - name[0])
        rest[at] = _COLON
        at += 1
    rest[at] = _OPEN
    work.at[_REST] = at + 1


@inlined
def leave(events: Events, work: Work, level: int) -> None:
    """Close a declared object in the rest."""
    at = work.at[_REST]
    if events.rest[at - 1] == _OPEN:
        work.at[_REST] = work.levels[level, 1]
    else:
        events.rest[at] = _CLOSE
        work.at[_REST] = at + 1


@inlined
def take_value(buf: Bytes, pos: int, depth: int, cells: Cells, slot: int, row: int) -> int:
    """Note the declared value at `pos`; a repeated one is negative."""
    if cells.kinds[slot, row] != 0:
        return ~pos
    end, kind = skip_value(buf, pos, depth)
    if end < 0:
        return end
    quote = 1 if kind <= ESCAPED else 0
    cells.kinds[slot, row] = kind
    cells.starts[slot, row] = pos + quote
    cells.lengths[slot, row] = end - pos - 2 * quote
    return end


@inlined
def take_member(buf: Bytes, pos: int, level: int, walk: Walk) -> tuple[int, bool]:
    """Read the member at `pos`: behind it and False, or behind the bracket of a declared object and True."""
    if buf[pos] != _QUOTE:
        return ~pos, False
    name_end, kind = skip_string(buf, pos)
    if name_end < 0 or kind == ESCAPED:
        return (name_end if name_end < 0 else ~pos), False
    colon = skip_space(buf, name_end)
    if buf[colon] != _COLON:
        return ~colon, False
    value = skip_space(buf, colon + 1)
    length = name_end - pos - 2
    h = name_hash(buf, pos + 1, length)
    child = find_child(walk.trie, walk.work.levels[level, 0], h, buf, pos + 1, length)
    if child >= 0:
        slot = np.int64(walk.trie.slots[child])
        if slot >= 0:
            return take_value(buf, value, level + 1, walk.cells, slot, walk.work.at[_ROW]), False
        if walk.work.seen_nodes[child] == walk.work.at[_READING]:
            return ~pos, False
        walk.work.seen_nodes[child] = walk.work.at[_READING]
        if buf[value] == _OPEN:
            enter(buf, walk.events, walk.work, level + 1, (pos, name_end), child)
            return value + 1, True
    elif repeated_name(walk.work, h, walk.work.levels[level, 2]):
        return ~pos, False
    end, kind = skip_value(buf, value, level + 1)
    if end >= 0 and kind != NULL:
        walk.work.at[_REST] = keep_member(buf, walk.events.rest, walk.work.at[_REST], (pos, name_end), (value, end))
    return end, False


@kernel
def scan_object(buf: Bytes, pos: int, walk: Walk) -> int:
    """Read the event whose bracket is at `pos`; returns where it ends, negative where it is unsure."""
    if buf[pos] != _OPEN:
        return ~pos
    level = 0
    enter(buf, walk.events, walk.work, 0, (pos, pos), 0)
    pos = skip_space(buf, pos + 1)
    fresh = True
    while True:
        if fresh and buf[pos] == _CLOSE:
            entered = False
        else:
            pos, entered = take_member(buf, pos, level, walk)
            if pos < 0:
                return pos
            pos = skip_space(buf, pos)
        if entered:
            level += 1
            fresh = True
            continue
        while buf[pos] == _CLOSE:
            leave(walk.events, walk.work, level)
            pos += 1
            level -= 1
            if level < 0:
                return pos
            pos = skip_space(buf, pos)
        if buf[pos] != _COMMA:
            return ~pos
        pos = skip_space(buf, pos + 1)
        fresh = False


@kernel
def scan_event(buf: Bytes, pos: int, walk: Walk) -> int:
    """Begin the next row with the event at `pos`; `end_event` ends it."""
    row = walk.work.at[_ROW]
    for slot in range(walk.cells.kinds.shape[0]):
        walk.cells.kinds[slot, row] = 0
    walk.work.at[_SERIALS] = 0
    walk.work.at[_NAMES] = 0
    walk.work.at[_READING] += 1
    return scan_object(buf, pos, walk)


@kernel
def end_event(events: Events, work: Work, start: int, end: int, doubt: int) -> None:
    row = work.at[_ROW]
    rest_start = events.rest_ends[row - 1] if row > 0 else 0
    if doubt != SURE:
        work.at[_REST] = rest_start
    events.rest_ends[row] = work.at[_REST]
    events.spans[row, 0] = start
    events.spans[row, 1] = end
    events.doubts[row] = doubt
    work.at[_ROW] = row + 1


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
def scan_lines(buf: Bytes, pos: int, end: int, bytes_max: int, walk: Walk) -> int:
    """Every line that is not blank is an event."""
    while pos < end:
        stop = line_end(buf, pos, end)
        last = stop
        while pos < last and is_blank(buf[pos]):
            pos += 1
        while last > pos and is_blank(buf[last - 1]):
            last -= 1
        if pos < last:
            if walk.work.at[_ROW] >= len(walk.events.doubts):
                return NO_ROOM
            doubt = SURE
            if last - pos > bytes_max:
                doubt = OVERSIZED
            elif scan_event(buf, pos, walk) != last:
                doubt = UNSURE
            end_event(walk.events, walk.work, pos, last, doubt)
        pos = stop + 1
    return READ


@kernel
def scan_element(buf: Bytes, pos: int, end: int, bytes_max: int, walk: Walk) -> int:
    """Read one element as one row; negative where its end can't be found."""
    if walk.work.at[_ROW] >= len(walk.events.doubts):
        return NO_ROOM
    stop = scan_event(buf, pos, walk)
    doubt = SURE
    if stop < 0:
        doubt = UNSURE
        wrong = ~stop
        stop = skip_broken(buf, pos, end)
        if stop < 0 or stop == pos:
            return ~wrong
    if stop - pos > bytes_max:
        doubt = OVERSIZED
    last = stop
    while doubt == UNSURE and last > pos and is_blank(buf[last - 1]):
        last -= 1
    end_event(walk.events, walk.work, pos, last, doubt)
    return stop


@kernel
def scan_array(buf: Bytes, pos: int, end: int, bytes_max: int, walk: Walk) -> int:
    """Read the elements of the array whose bracket is before `pos`; behind its closing bracket."""
    pos = skip_space(buf, pos)
    if buf[pos] == _CLOSE_LIST:
        return pos + 1
    while True:
        pos = scan_element(buf, pos, end, bytes_max, walk)
        if pos < 0:
            return pos
        pos = skip_space(buf, pos)
        if buf[pos] == _CLOSE_LIST:
            return pos + 1
        if buf[pos] != _COMMA:
            return ~pos
        pos = skip_space(buf, pos + 1)


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
def scan_document(buf: Bytes, pos: int, end: int, bytes_max: int, walk: Walk) -> int:
    """Read a body that is one JSON value: READ, or `~position` where it stopped being one."""
    pos = skip_space(buf, pos)
    row, rest = walk.work.at[_ROW], walk.work.at[_REST]
    if buf[pos] == _OPEN_LIST:
        pos = scan_array(buf, pos + 1, end, bytes_max, walk)
    elif buf[pos] == _OPEN:
        inside = envelope(buf, pos)
        stop = -1
        if inside >= 0:
            stop = scan_array(buf, inside, end, bytes_max, walk)
            if stop == NO_ROOM:
                return stop
            stop = skip_space(buf, stop) if stop >= 0 else -1
        if stop >= 0 and buf[stop] == _CLOSE:
            pos = stop + 1
        else:
            walk.work.at[_ROW], walk.work.at[_REST] = row, rest
            pos = scan_element(buf, pos, end, bytes_max, walk)
    else:
        return ~pos
    if pos < 0:
        return pos
    pos = skip_space(buf, pos)
    return READ if pos == end else ~pos


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
def scan_body(buf: Bytes, pos: int, end: int, lines: bool, bytes_max: int, walk: Walk) -> int:
    """Read one body as lines, or as whatever it looks like."""
    if buf[pos] == 0xEF and buf[pos + 1] == 0xBB and buf[pos + 2] == 0xBF:
        pos += 3
    row, rest = walk.work.at[_ROW], walk.work.at[_REST]
    if skip_space(buf, pos) >= end:
        return EMPTY
    if lines:
        return scan_lines(buf, pos, end, bytes_max, walk)
    outcome = scan_document(buf, pos, end, bytes_max, walk)
    if outcome != READ and outcome != NO_ROOM:
        walk.work.at[_ROW], walk.work.at[_REST] = row, rest
        if looks_like_lines(buf, pos, end):
            return scan_lines(buf, pos, end, bytes_max, walk)
    return outcome


@kernel
def scan_bodies(
    buf: Bytes,
    bodies: npt.NDArray[np.int64],
    outcomes: npt.NDArray[np.int64],
    limits: tuple[int, int],
    walk: Walk,
) -> bool:
    """Read all bodies, each (start, end, is lines), into rows.

    Per body, `outcomes` gets the row behind its last and READ, or EMPTY, TOO_MANY or `~position` where it stopped being
    JSON (such a body has no rows). `limits` are the bytes of an event and the events of a body. False when there are
    more events than room.
    """
    bytes_max, events_max = limits
    for i in range(len(bodies)):
        row, rest = walk.work.at[_ROW], walk.work.at[_REST]
        start, end, lines = bodies[i]
        outcome = scan_body(buf, start, end, lines != 0, bytes_max, walk)
        if walk.work.at[_ROW] - row > events_max:
            outcome = TOO_MANY
        elif outcome == NO_ROOM:
            return False
        if outcome != READ:
            walk.work.at[_ROW], walk.work.at[_REST] = row, rest
        outcomes[i, 0] = walk.work.at[_ROW]
        outcomes[i, 1] = outcome
    return True
