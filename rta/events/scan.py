"""One walk over the bytes of many bodies: where each event lies, where each declared value lies, and what is left.

Knows JSON's grammar from `tokens`, the shapes of bodies from `frames`, nothing of types, times or datasources. What it
does not want to judge it marks UNSURE; the exact decoder decides. Undeclared members are copied verbatim into one text of
"rest", wrapped in the declared objects they stood in; a null counts as absent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rta.events.frames import (
    EVENT_END,
    EVENT_START,
    NO_ROOM,
    OUTCOME,
    OVERSIZED,
    READ,
    SURE,
    TOO_MANY,
    UNSURE,
    Frame,
    begin_body,
    first_event,
    judge_frame,
    next_event,
    other_frame,
)
from rta.events.simd import PADDING, Bytes, as_int, copy, inlined, kernel
from rta.events.tokens import ESCAPED, NULL, skip_any, skip_short, skip_space, skip_string
from rta.events.trie import Trie, find_child, name_hash

LEVELS_MAX = 32
NAMES_MAX = 2048
"""Undeclared members of one event that are checked for repetition here; more is the exact decoder's work."""

_QUOTE, _COMMA, _COLON, _OPEN, _CLOSE = 0x22, 0x2C, 0x3A, 0x7B, 0x7D
_NUMBER = np.uint64(0x9E3779B97F4A7C15)


class Walk(NamedTuple):
    """Everything that one walk reads and writes besides the bytes. Few arrays: each is seven words in every call.

    Args:
        cells: int32 of shape (3, slots, rows): the kind of each value, where its text begins, its length; a string's
            without its quotes.
        events: int32 of shape (4, rows): begin and end of the event, what is said of it, where its rest ends in `rest`.
        state: What the walk remembers: the counters below; per open object its node, the rest's end before it, its
            number; per node in which reading it was seen.
        seen: Hash set of undeclared names: hash and the reading it belongs to.
    """

    trie: Trie
    cells: npt.NDArray[np.int32]
    events: npt.NDArray[np.int32]
    rest: Bytes
    state: npt.NDArray[np.int64]
    seen: npt.NDArray[np.uint64]


KINDS, STARTS, LENGTHS = 0, 1, 2
BEGINS, ENDS, DOUBTS, REST_ENDS = 0, 1, 2, 3
_ROW, _REST, _OBJECTS, _NAMES, _READING, _SKIPS = 0, 1, 2, 3, 4, 5
"""Counters: the row, the rest's end, objects and undeclared names in this event, readings (a body may be read twice); and
whether undeclared members are skipped instead of kept."""
_LEVELS = 8
_NODES = _LEVELS + 3 * LEVELS_MAX


def new_walk(trie: Trie, slots: int, rows: int, size: int, keeps_rest: bool = True) -> Walk:
    """Room for so many events in a buffer of so many bytes."""
    state = np.zeros(_NODES + len(trie.table) + 1, np.int64)
    state[_SKIPS] = not keeps_rest
    return Walk(
        trie=trie,
        cells=np.empty((3, slots, rows), np.int32),
        events=np.zeros((4, rows), np.int32),
        rest=np.empty(size + PADDING, np.uint8),
        state=state,
        seen=np.zeros((2 * NAMES_MAX, 2), np.uint64),
    )


@inlined
def repeated_name(h: np.uint64, number: int, state: npt.NDArray[np.int64], seen: npt.NDArray[np.uint64]) -> bool:
    """Note an undeclared member of this object; True if it was there before, or there are too many."""
    reading = np.uint64(state[_READING])
    mixed = h ^ (np.uint64(number) * _NUMBER)
    probe = as_int(mixed & np.uint64(2 * NAMES_MAX - 1))
    while seen[probe, 1] == reading:
        if seen[probe, 0] == mixed:
            return True
        probe = (probe + 1) & (2 * NAMES_MAX - 1)
    seen[probe, 0] = mixed
    seen[probe, 1] = reading
    state[_NAMES] += 1
    return state[_NAMES] > NAMES_MAX


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
def enter(buf: Bytes, rest: Bytes, state: npt.NDArray[np.int64], level: int, name: tuple[int, int], node: int) -> None:
    """Open a declared object: its members get their own object in the rest, which goes again if it stays empty."""
    at = state[_REST]
    state[_OBJECTS] += 1
    state[_LEVELS + 3 * level] = node
    state[_LEVELS + 3 * level + 1] = at
    state[_LEVELS + 3 * level + 2] = state[_OBJECTS]
    if level > 0:
        if rest[at - 1] != _OPEN:
            rest[at] = _COMMA
            at += 1
        at = copy(rest, at, buf, name[0], name[1] - name[0])
        rest[at] = _COLON
        at += 1
    rest[at] = _OPEN
    state[_REST] = at + 1


@inlined
def leave(rest: Bytes, state: npt.NDArray[np.int64], level: int) -> None:
    """Close a declared object in the rest."""
    at = state[_REST]
    if rest[at - 1] == _OPEN:
        state[_REST] = state[_LEVELS + 3 * level + 1]
    else:
        rest[at] = _CLOSE
        state[_REST] = at + 1


@inlined
def take_value(buf: Bytes, pos: int, depth: int, cells: npt.NDArray[np.int32], slot: int, row: int) -> int:
    """Note the declared value at `pos`; a repeated one is negative."""
    if cells[KINDS, slot, row] != 0:
        return ~pos
    end, kind = skip_any(buf, pos, depth)
    if end < 0:
        return end
    quote = 1 if kind <= ESCAPED else 0
    cells[KINDS, slot, row] = kind
    cells[STARTS, slot, row] = pos + quote
    cells[LENGTHS, slot, row] = end - pos - 2 * quote
    return end


@inlined
def take_member(buf: Bytes, pos: int, level: int, walk: Walk) -> tuple[int, bool]:
    """Read the member at `pos`: behind it and False, or behind the bracket of a declared object and True."""
    if buf[pos] != _QUOTE:
        return ~pos, False
    name_end, kind = skip_short(buf, pos), as_int(0)
    if name_end < 0:
        name_end, kind = skip_string(buf, pos)
    if name_end < 0 or kind == ESCAPED:
        return (name_end if name_end < 0 else ~pos), False
    colon = skip_space(buf, name_end)
    if buf[colon] != _COLON:
        return ~colon, False
    value = skip_space(buf, colon + 1)
    state, table = walk.state, walk.trie.table
    length = name_end - pos - 2
    h = name_hash(buf, pos + 1, length)
    found = find_child(walk.trie, state[_LEVELS + 3 * level], h, buf, pos + 1, length)
    if found >= 0:
        slot = as_int(table[found, 4])
        if slot >= 0:
            return take_value(buf, value, level + 1, walk.cells, slot, state[_ROW]), False
        child = as_int(table[found, 3])
        if state[_NODES + child] == state[_READING]:
            return ~pos, False
        state[_NODES + child] = state[_READING]
        if buf[value] == _OPEN:
            enter(buf, walk.rest, state, level + 1, (pos, name_end), child)
            return value + 1, True
    elif state[_SKIPS] == 0 and repeated_name(h, state[_LEVELS + 3 * level + 2], state, walk.seen):
        return ~pos, False
    end, kind = skip_any(buf, value, level + 1)
    if end >= 0 and kind != NULL and state[_SKIPS] == 0:
        state[_REST] = keep_member(buf, walk.rest, state[_REST], (pos, name_end), (value, end))
    return end, False


@inlined
def begin_event(cells: npt.NDArray[np.int32], state: npt.NDArray[np.int64]) -> None:
    row = state[_ROW]
    for slot in range(cells.shape[1]):
        cells[KINDS, slot, row] = 0
    state[_OBJECTS] = 0
    state[_NAMES] = 0
    state[_READING] += 1


@kernel
def scan_event(buf: Bytes, pos: int, walk: Walk) -> int:
    """Begin the next row with the event whose bracket is at `pos`; returns where it ends, negative where it is unsure."""
    begin_event(walk.cells, walk.state)
    if buf[pos] != _OPEN:
        return ~pos
    level = as_int(0)
    enter(buf, walk.rest, walk.state, level, (pos, pos), level)
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
            leave(walk.rest, walk.state, level)
            pos += 1
            level -= 1
            if level < 0:
                return pos
            pos = skip_space(buf, pos)
        if buf[pos] != _COMMA:
            return ~pos
        pos = skip_space(buf, pos + 1)
        fresh = False


@inlined
def end_event(events: npt.NDArray[np.int32], state: npt.NDArray[np.int64], frame: Frame, doubt: int) -> None:
    row = state[_ROW]
    if doubt != SURE:
        state[_REST] = events[REST_ENDS, row - 1] if row > 0 else 0
    events[REST_ENDS, row] = state[_REST]
    events[BEGINS, row] = frame[EVENT_START]
    events[ENDS, row] = frame[EVENT_END]
    events[DOUBTS, row] = doubt
    state[_ROW] = row + 1


@kernel
def scan_body(buf: Bytes, frame: Frame, bytes_max: int, rows_max: int, walk: Walk) -> int:
    """Read the events of a framed body: its outcome, or NO_ROOM when the rows are used up."""
    pos = first_event(buf, frame)
    while pos >= 0:
        if walk.state[_ROW] >= rows_max:
            return NO_ROOM
        if frame[EVENT_END] - pos > bytes_max:
            doubt = OVERSIZED
        else:
            doubt = judge_frame(buf, frame, scan_event(buf, pos, walk), bytes_max)
        if doubt < 0:
            break
        end_event(walk.events, walk.state, frame, doubt)
        pos = next_event(buf, frame)
    return frame[OUTCOME]


@kernel
def scan_bodies(
    buf: Bytes,
    bodies: npt.NDArray[np.int64],
    outcomes: npt.NDArray[np.int64],
    limits: tuple[int, int],
    frame: Frame,
    walk: Walk,
) -> bool:
    """Read all bodies, each (start, end, is lines), into rows.

    Per body, `outcomes` gets the row behind its last and READ, or EMPTY, TOO_MANY or `~position` where it stopped being
    JSON (such a body has no rows). `limits` are the bytes of an event and the events of a body. False when there are
    more events than room.
    """
    bytes_max, events_max = limits
    state = walk.state
    i, row, rest = 0, 0, 0
    fresh = True
    while i < len(bodies):
        if fresh:
            begin_body(buf, frame, bodies[i, 0], bodies[i, 1], bodies[i, 2])
        outcome = scan_body(buf, frame, bytes_max, min(walk.events.shape[1], row + events_max), walk)
        if outcome == NO_ROOM:
            if row + events_max > walk.events.shape[1]:
                return False
            outcome = TOO_MANY
        if outcome != READ:
            state[_ROW], state[_REST] = row, rest
        fresh = outcome >= 0 or not other_frame(buf, frame)
        if fresh:
            row, rest = state[_ROW], state[_REST]
            outcomes[i, 0] = row
            outcomes[i, 1] = outcome
            i += 1
    return True


@kernel
def scan_values(buf: Bytes, spans: npt.NDArray[np.int64], bytes_max: int, frame: Frame, walk: Walk) -> None:
    """Read one event from each value: `spans` has their begins and their lengths, in two rows; a 0 stands behind each."""
    for i in range(spans.shape[1]):
        start, size = spans[0, i], max(spans[1, i], 0)
        frame[EVENT_START] = start
        frame[EVENT_END] = start + size
        doubt = UNSURE
        if size > bytes_max:
            doubt = OVERSIZED
        elif size > 0:
            stop = scan_event(buf, skip_space(buf, start), walk)
            if stop >= 0 and skip_space(buf, stop) == start + size:
                doubt = SURE
        end_event(walk.events, walk.state, frame, doubt)
