"""Values inside JSON texts: what stands at a path of each event's rest, or of a `json` column.

Reads only texts that the decoders wrote. A member that occurs twice counts as its last occurrence.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rta.events.cells import parse_double, put_string, unescape
from rta.events.simd import PADDING, Bytes, as_int, inlined, kernel, padded
from rta.events.tokens import ESCAPED, FLOAT, INTEGER, NULL, OBJECT, skip_space, skip_string, skip_value
from rta.events.trie import same_bytes


class Kind(IntEnum):
    """What stands at the path. A null counts as absent."""

    ABSENT = 0
    STRING = 1
    NUMBER = 2
    BOOLEAN = 3
    NESTED = 4


class Extracted(NamedTuple):
    """Per row: what stands there (`Kind`, int8), its text, and its value where it is a number.

    `strings` holds strings without quotes and escapes, "true" and "false", and everything else as JSON text.
    """

    kind: npt.NDArray[np.int8]
    strings: pa.Array
    numbers: pa.Array


class Found(NamedTuple):
    """Per row the value's begin and end, the scanner's kind, and its value where it is a number."""

    spans: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int8]
    numbers: npt.NDArray[np.float64]


def extract(texts: pa.Array | pa.ChunkedArray, path: tuple[str, ...]) -> Extracted:
    """The value at `path` in each JSON object of `texts`.

    Args:
        texts: Strings; null, or any JSON that is no object, has nothing at any path.
        path: Keys from the outside in; at least one.
    """
    flat = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    flat = pc.cast(flat, pa.string())
    count = len(flat)
    spans = np.zeros((count, 2), np.int64)
    tokens = np.zeros(count, np.int8)
    numbers = np.zeros(count, np.float64)
    _, offset_buffer, data_buffer = flat.buffers()
    buf = padded(b"")
    if count and offset_buffer is not None and data_buffer is not None:
        offsets = np.frombuffer(offset_buffer, np.int32)[flat.offset : flat.offset + count + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        buf = padded(memoryview(data_buffer)[first:last])
        names, ends = _names(path)
        scratch = np.empty(len(buf), np.uint8)
        present = pc.is_valid(flat).to_numpy(zero_copy_only=False)
        find_values(buf, (offsets - np.int32(first), present), names, ends, scratch, Found(spans, tokens, numbers))
    odd = np.nonzero(np.isnan(numbers))[0]
    for row, (start, end) in zip(odd.tolist(), spans[odd].tolist(), strict=True):
        numbers[row] = float(buf[start:end].tobytes())
    kind = _KINDS[tokens]
    is_number = kind == Kind.NUMBER
    return Extracted(kind, _strings(buf, spans, tokens), pa.array(numbers, mask=~is_number))


_KINDS = np.array([0, 1, 1, 2, 2, 3, 3, 4, 4, 0], np.int8)
"""From the scanner's kinds to `Kind`."""


def _names(path: tuple[str, ...]) -> tuple[Bytes, npt.NDArray[np.int64]]:
    encoded = [key.encode() for key in path]
    return padded(*encoded), np.cumsum([0, *map(len, encoded)])


def _strings(buf: Bytes, spans: npt.NDArray[np.int64], tokens: npt.NDArray[np.int8]) -> pa.Array:
    lengths = spans[:, 1] - spans[:, 0]
    out = np.empty(int(lengths.sum()) + PADDING, np.uint8)
    offsets = np.zeros(len(tokens) + 1, np.int32)
    write_values(buf, spans, tokens, offsets, out)
    absent = _KINDS[tokens] == Kind.ABSENT
    validity = pa.py_buffer(np.packbits(~absent, bitorder="little")) if absent.any() else None
    text = pa.py_buffer(out[: int(offsets[-1])])
    return pa.StringArray.from_buffers(len(tokens), pa.py_buffer(offsets), text, validity, int(absent.sum()))


@inlined
def same_name(buf: Bytes, start: int, end: int, escaped: bool, name: tuple[Bytes, int, int], scratch: Bytes) -> bool:
    """Whether the member's name in `buf[start:end]` is `name`: its buffer, beginning and length."""
    names, first, length = name
    if not escaped:
        return end - start == length and same_bytes(buf, start, names, first, length)
    written = unescape(buf, start, end - start, scratch, 0)
    return written == length and same_bytes(scratch, 0, names, first, length)


@kernel
def find_member(buf: Bytes, pos: int, name: tuple[Bytes, int, int], scratch: Bytes) -> tuple[int, int, int]:
    """Where the last member of that name has its value, in the object at `pos`: start, end and kind, or -1."""
    start, end, kind = -1, -1, 0
    pos = skip_space(buf, pos + 1)
    while buf[pos] == 0x22:
        name_start = pos + 1
        pos, name_kind = skip_string(buf, pos)
        if pos < 0:
            return -1, -1, 0
        same = same_name(buf, name_start, pos - 1, name_kind == ESCAPED, name, scratch)
        pos = skip_space(buf, skip_space(buf, pos) + 1)
        value = pos
        pos, value_kind = skip_value(buf, pos, 0)
        if pos < 0:
            return -1, -1, 0
        if same:
            start, end, kind = value, pos, value_kind
        pos = skip_space(buf, pos)
        if buf[pos] != 0x2C:
            break
        pos = skip_space(buf, pos + 1)
    return start, end, kind


@kernel
def find_values(
    buf: Bytes,
    texts: tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]],
    names: Bytes,
    ends: npt.NDArray[np.int64],
    scratch: Bytes,
    found: Found,
) -> None:
    """Span and kind of the value at the path in each text; numbers too, NaN where Python has to read them.

    `texts` are the offsets into `buf`, and which of them are not null: Arrow leaves open what stands behind a null.
    """
    offsets, present = texts
    spans, tokens, numbers = found.spans, found.tokens, found.numbers
    for row in range(len(tokens)):
        start, end, kind = as_int(offsets[row]), as_int(offsets[row + 1]), OBJECT
        if start == end or not present[row]:
            continue
        for i in range(len(ends) - 1):
            start = skip_space(buf, start)
            if buf[start] != 0x7B:
                start = -1
                break
            start, end, kind = find_member(buf, start, (names, ends[i], ends[i + 1] - ends[i]), scratch)
            if start < 0:
                break
        if start < 0 or kind == NULL:
            continue
        tokens[row] = kind
        quote = 1 if kind <= ESCAPED else 0
        spans[row, 0] = start + quote
        spans[row, 1] = end - quote
        if INTEGER <= kind <= FLOAT:
            value, exact = parse_double(buf, start, end - start)
            numbers[row] = value if exact else np.nan


@kernel
def write_values(
    buf: Bytes,
    spans: npt.NDArray[np.int64],
    tokens: npt.NDArray[np.int8],
    offsets: npt.NDArray[np.int32],
    out: Bytes,
) -> None:
    """The texts of the values, strings without their escapes."""
    at = 0
    for row in range(len(tokens)):
        start, length = spans[row, 0], spans[row, 1] - spans[row, 0]
        at = put_string(buf, start, length, tokens[row], out, at)
        offsets[row + 1] = at
