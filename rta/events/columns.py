"""The fast decoder's Python side: buffers for the scanner, and Arrow columns from what it found.

One call of each kernel serves all bodies and columns; numpy and Arrow share memory wherever they can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rta.errors import InvariantError
from rta.events.cells import (
    AS_BOOLEAN,
    AS_DOUBLE,
    AS_JSON,
    AS_LONG,
    AS_STRING,
    AS_STRINGS,
    AS_TIMESTAMP,
    ODD,
    Cells,
    Numbers,
    Picked,
    Rules,
    Texts,
    count_bytes,
    count_lists,
    gather_strings,
    read_slots,
    write_lists,
    write_strings,
)
from rta.events.frames import FRAME_SIZE, READ, SURE, UNSURE
from rta.events.scan import BEGINS, DOUBTS, ENDS, REST_ENDS, new_walk, scan_bodies, scan_values
from rta.events.schemas import ID_HI, ID_LO, TIMESTAMP, ColumnType, Datasource
from rta.events.simd import PADDING, Bytes, padded
from rta.events.tokens import NULL, TRUE
from rta.events.trie import Trie, build_trie

_TYPES = {
    ColumnType.STRING: AS_STRING,
    ColumnType.LONG: AS_LONG,
    ColumnType.DOUBLE: AS_DOUBLE,
    ColumnType.BOOLEAN: AS_BOOLEAN,
    ColumnType.TIMESTAMP: AS_TIMESTAMP,
    ColumnType.STRINGS: AS_STRINGS,
    ColumnType.JSON: AS_JSON,
}
_NUMBERS = {AS_LONG, AS_DOUBLE, AS_TIMESTAMP}
_ANY_LENGTH = (1 << 31) - 1
_BYTES_MAX = (1 << 31) - 1 - PADDING
BYTES_PER_EVENT_GUESS = 128
_SEPARATOR = b"\0"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What decoding needs of a datasource, compiled once per version. Slot 0 is the time."""

    datasource: Datasource
    schema: pa.Schema
    sent_schema: pa.Schema
    """Without the identity columns, which the edge adds."""
    trie: Trie
    rules: Rules
    texts: npt.NDArray[np.int32]
    """The slots whose columns are strings in Arrow."""
    id_slot: int | None
    shapes: tuple[tuple[int, int], ...]
    """Per slot its type and its row among the numbers: `rules` as plain numbers, for loops outside of kernels."""

    def rules_without_id(self) -> Rules:
        """For bodies whose missing ids will be made."""
        required = self.rules.required.copy()
        if self.id_slot is not None:
            required[self.id_slot] = False
        return self.rules._replace(required=required)


@dataclass(frozen=True, slots=True)
class Scanned:
    """What the scanner found in the bodies of one pass. `numbers` has a row per number column."""

    buf: Bytes
    starts: list[int]
    """Where each body begins in `buf`."""
    cells: Cells
    events: npt.NDArray[np.int32]
    rest: Bytes
    outcomes: npt.NDArray[np.int64]
    rows: int
    numbers: npt.NDArray[np.int64]

    @property
    def doubts(self) -> npt.NDArray[np.int32]:
        return self.events[DOUBTS, : self.rows]

    def text(self, row: int) -> bytes:
        start, end = self.events[BEGINS, row], self.events[ENDS, row]
        return self.buf[start:end].tobytes()

    def absent(self, slot: int) -> npt.NDArray[np.bool_]:
        kinds = self.cells.kinds[slot, : self.rows]
        return (kinds == 0) | (kinds == NULL)


def prepare(datasource: Datasource) -> Prepared:
    """Compile a datasource's paths and rules."""
    slots = len(datasource.columns) + 1
    types = np.array([AS_TIMESTAMP, *(_TYPES[c.type] for c in datasource.columns)], np.int8)
    required = np.array([True, *(c.required for c in datasource.columns)])
    lengths = [_ANY_LENGTH, *(_ANY_LENGTH if c.length_max is None else c.length_max for c in datasource.columns)]
    numbers = np.full(slots, -1, np.int32)
    which = [slot for slot in range(slots) if int(types[slot]) in _NUMBERS]
    numbers[which] = np.arange(len(which), dtype=np.int32)
    filled = required.copy()
    filled[0] = False
    id_slot = None
    if datasource.id is not None:
        id_slot = 1 + next(i for i, c in enumerate(datasource.columns) if c.name == datasource.id)
    schema = datasource.raw_schema()
    return Prepared(
        datasource=datasource,
        schema=schema,
        sent_schema=pa.schema([f for f in schema if f.name not in (ID_HI, ID_LO)]),
        trie=build_trie([datasource.time_path, *(c.path for c in datasource.columns)]),
        rules=Rules(types, required, filled, np.array(lengths, np.int32), numbers),
        texts=np.array([s for s in range(slots) if types[s] in (AS_STRING, AS_JSON)], np.int32),
        id_slot=id_slot,
        shapes=tuple(zip(types.tolist(), numbers.tolist(), strict=True)),
    )


def scan(prepared: Prepared, bodies: Sequence[tuple[bytes, bool]], event_bytes: int, events_max: int) -> Scanned:
    """Walk over the bytes of all bodies, each with whether it is to be read as lines."""
    lengths = [len(data) for data, _ in bodies]
    if sum(lengths) + len(bodies) > _BYTES_MAX:
        raise InvariantError(f"decoding {sum(lengths):,} bytes at once, at most {_BYTES_MAX:,} can be")
    buf = padded(*(part for data, _ in bodies for part in (data, _SEPARATOR)))
    spans = np.zeros((len(bodies), 3), np.int64)
    ends = np.cumsum(np.array(lengths, np.int64) + 1)
    spans[:, 1] = ends - 1
    spans[1:, 0] = ends[:-1]
    spans[:, 2] = [lines for _, lines in bodies]
    room = len(buf) // BYTES_PER_EVENT_GUESS + len(bodies) + 8
    outcomes = np.zeros((len(bodies), 2), np.int64)
    frame = np.zeros(FRAME_SIZE, np.int64)
    walk = new_walk(prepared.trie, len(prepared.rules.types), room, len(buf))
    while not scan_bodies(buf, spans, outcomes, (event_bytes, events_max), frame, walk):
        room *= 4
        walk = new_walk(prepared.trie, len(prepared.rules.types), room, len(buf))
    rows = int(outcomes[-1, 0])
    numbers = np.zeros((1 + max(number for _, number in prepared.shapes), rows), np.int64)
    return Scanned(buf, spans[:, 0].tolist(), Cells(*walk.cells), walk.events, walk.rest, outcomes, rows, numbers)


def scan_framed(
    prepared: Prepared, buf: Bytes, spans: npt.NDArray[np.int64], event_bytes: int, keeps_rest: bool
) -> Scanned:
    """Walk over values that lie in a buffer, one event each, a 0 behind each of them.

    Args:
        spans: Two rows: where each value begins, and its length; below 0 where there is none.
        keeps_rest: Whether undeclared members are kept.
    """
    rows = spans.shape[1]
    end = int(spans.max(axis=1).sum()) if rows else 0
    if end > _BYTES_MAX:
        raise InvariantError(f"decoding {end:,} bytes at once, at most {_BYTES_MAX:,} can be")
    walk = new_walk(prepared.trie, len(prepared.rules.types), rows, len(buf) if keeps_rest else PADDING, keeps_rest)
    scan_values(buf, spans, event_bytes, np.zeros(FRAME_SIZE, np.int64), walk)
    numbers = np.zeros((1 + max(number for _, number in prepared.shapes), rows), np.int64)
    outcomes = np.array([[rows, READ]], np.int64)
    return Scanned(buf, [0], Cells(*walk.cells), walk.events, walk.rest, outcomes, rows, numbers)


def read_values(scanned: Scanned, rules: Rules) -> None:
    """Read all numbers and times; events with a value that is not its column's are marked UNSURE."""
    numbers = Numbers(scanned.numbers, scanned.numbers.view(np.float64))
    if read_slots(scanned.buf, scanned.cells, scanned.doubts, rules, numbers):
        _read_odd_doubles(scanned, rules, numbers.doubles)


def _read_odd_doubles(scanned: Scanned, rules: Rules, doubles: npt.NDArray[np.float64]) -> None:
    cells = scanned.cells
    for slot in np.nonzero(rules.types == AS_DOUBLE)[0]:
        rows = np.nonzero(cells.kinds[slot, : scanned.rows] == ODD)[0]
        if not len(rows):
            continue
        starts, lengths = cells.starts[slot, rows].tolist(), cells.lengths[slot, rows].tolist()
        text = scanned.buf.data
        values = np.array([float(bytes(text[s : s + n])) for s, n in zip(starts, lengths, strict=True)])
        doubles[rules.numbers[slot], rows] = values
        scanned.doubts[rows[np.isinf(values)]] = UNSURE


def build_table(prepared: Prepared, scanned: Scanned, rows: npt.NDArray[np.int64]) -> list[pa.Array]:
    """Time, columns and rest of the given rows."""
    arrays: dict[int, pa.Array] = _text_columns(prepared, scanned, rows)
    everything = len(rows) == scanned.rows
    every_kind = scanned.cells.kinds[:, : scanned.rows]
    every_kind = every_kind if everything else every_kind[:, rows]
    absent = (every_kind == 0) | (every_kind == NULL)
    some, all_of = absent.any(axis=1).tolist(), absent.all(axis=1).tolist()
    for slot, (column_type, number) in enumerate(prepared.shapes):
        if slot in arrays:
            continue
        if column_type == AS_STRINGS:
            arrays[slot] = _list_column(scanned, slot, rows)
            continue
        if all_of[slot]:
            arrays[slot] = pa.nulls(len(rows), prepared.sent_schema.field(slot).type)
            continue
        mask = absent[slot] if some[slot] else None
        if column_type == AS_BOOLEAN:
            arrays[slot] = pa.array(every_kind[slot] == TRUE, mask=mask)
            continue
        values = scanned.numbers[number]
        values = values if everything else values[rows]
        if column_type == AS_DOUBLE:
            arrays[slot] = pa.array(values.view(np.float64), mask=mask)
        else:
            array = pa.array(values, mask=mask)
            arrays[slot] = array.view(TIMESTAMP) if column_type == AS_TIMESTAMP else array
    return [*(arrays[slot] for slot in range(len(prepared.shapes))), _rest_column(scanned, rows)]


def _text_columns(prepared: Prepared, scanned: Scanned, rows: npt.NDArray[np.int64]) -> dict[int, pa.Array]:
    slots = prepared.texts
    picked = Picked(scanned.buf, scanned.cells, rows)
    valid = np.empty((len(slots), len(rows)), np.uint8)
    offsets = np.empty((len(slots), len(rows) + 1), np.int32)
    out = np.empty(count_bytes(picked, slots) + PADDING, np.uint8)
    starts = np.empty(len(slots) + 1, np.int64)
    write_strings(picked, prepared.rules, slots, Texts(valid, offsets, out, starts))
    count = len(rows)
    width, bits = -(-count // 8), pa.py_buffer(np.packbits(valid, axis=1, bitorder="little"))
    data, ends = pa.py_buffer(out), pa.py_buffer(offsets)
    at = starts.tolist()
    empty = pa.nulls(count, pa.string())
    arrays = {}
    for i, (slot, there) in enumerate(zip(slots.tolist(), valid.sum(axis=1, dtype=np.int64).tolist(), strict=True)):
        if not there:
            arrays[slot] = empty
            continue
        validity = bits.slice(i * width, width) if there < count else None
        mine = ends.slice(4 * i * (count + 1), 4 * (count + 1))
        text = data.slice(at[i], at[i + 1] - at[i])
        arrays[slot] = pa.StringArray.from_buffers(count, mine, text, validity, count - there)
    return arrays


def string_array(
    length: int, offsets: npt.NDArray[np.int32], text: pa.Buffer, validity: pa.Buffer | None, nulls: int
) -> pa.Array:
    return pa.StringArray.from_buffers(length, pa.py_buffer(offsets), text, validity, nulls)


def _list_column(scanned: Scanned, slot: int, rows: npt.NDArray[np.int64]) -> pa.Array:
    picked = Picked(scanned.buf, scanned.cells, rows)
    list_offsets = np.empty(len(rows) + 1, np.int32)
    count = count_lists(picked, slot, list_offsets)
    offsets = np.zeros(count + 1, np.int32)
    out = np.empty(count_bytes(picked, np.array([slot], np.int32)) + PADDING, np.uint8)
    write_lists(picked, slot, offsets, out)
    strings = string_array(count, offsets, pa.py_buffer(out[: int(offsets[-1])]), None, 0)
    absent = scanned.absent(slot)[rows]
    return pa.ListArray.from_arrays(pa.array(list_offsets), strings, mask=pa.array(absent) if absent.any() else None)


def _rest_column(scanned: Scanned, rows: npt.NDArray[np.int64]) -> pa.Array:
    offsets = np.zeros(scanned.rows + 1, np.int32)
    offsets[1:] = scanned.events[REST_ENDS, : scanned.rows]
    data = scanned.rest
    if len(rows) < scanned.rows:
        offsets, data = gather(offsets, data, rows)
    empty = offsets[1:] == offsets[:-1]
    nulls = int(empty.sum())
    validity = pa.py_buffer(np.packbits(~empty, bitorder="little")) if nulls else None
    return string_array(len(rows), offsets, pa.py_buffer(data[: int(offsets[-1])]), validity, nulls)


def gather(
    offsets: npt.NDArray[np.int32], data: Bytes, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], Bytes]:
    """The strings of an Arrow array in the order of `rows`: offsets and data. `data` has `PADDING` behind it."""
    out_offsets = np.empty(len(rows) + 1, np.int32)
    total = int((offsets[1:] - offsets[:-1])[rows].sum(dtype=np.int64)) if len(rows) else 0
    out = np.empty(total + PADDING, np.uint8)
    gather_strings(offsets, data, rows, out_offsets, out)
    return out_offsets, out


def sure_rows(scanned: Scanned) -> npt.NDArray[np.int64]:
    return np.nonzero(scanned.doubts == SURE)[0]
