"""What a Kafka record carries beside its value, put into the value's JSON: key, headers, offset; CloudEvents' attributes.

A column with a path below `__kafka` asks for it: `__kafka.key`, `__kafka.headers.<name>`, `__kafka.offset`, `__kafka.partition`,
`__kafka.timestamp`. Of CloudEvents in binary mode the `ce_` headers become members, and the value becomes `data`. So the
decoders read one text, whatever it was made of; where nobody asks, nothing is copied. For numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rta.events.schemas import Datasource, RecordFormat
from rta.events.simd import PADDING, Bytes, as_int, copy, inlined, kernel, padded
from rta.events.tokens import invalid_utf8, skip_space, skip_value

ROOT = "__kafka"
MEMBERS = ("partition", "offset", "timestamp", "key", "headers")
_OFFSET, _TIME_MS, _VALUE, _VALUE_BYTES, _KEY, _KEY_BYTES, _HEADERS, _HEADER_COUNT = range(8)
"""Rows of `rta.events.records.Records.fields`."""
_ESCAPED_BYTES = 6
_COMPARED_MAX = 64
_FIXED_BYTES = 256
_QUOTE, _BACKSLASH, _COMMA, _OPEN, _CLOSE, _CLOSE_LIST = 0x22, 0x5C, 0x2C, 0x7B, 0x7D, 0x5D
_COLON, _MINUS, _ZERO = 0x3A, 0x2D, 0x30
_WORDS = (
    '"partition":',
    '"offset":',
    '"timestamp":',
    '"key":',
    '"headers":{',
    "null",
    '"__kafka":{',
    "ce_",
    "content-type",
    '"datacontenttype":',
    '"data":',
    "json",
    "ce_specversion",
)
_PARTITION, _AT, _WHEN, _KEYED, _HEADED, _NULL, _BEGUN, _CE, _TYPE, _DATA_TYPE, _DATA, _JSON, _CE_VERSION = range(13)
_MEMBERS = dict(zip(MEMBERS, (_PARTITION, _AT, _WHEN, _KEYED, _HEADED), strict=True))
_TEXT: Bytes = padded("".join(_WORDS).encode())
_ENDS = np.cumsum([0, *(len(word) for word in _WORDS)])


class Header(NamedTuple):
    """Where a header's name and value lie, and where the next header begins. A value's length of -1 is a null."""

    name: int
    name_bytes: int
    value: int
    value_bytes: int
    end: int


@inlined
def number_at(buf: Bytes, at: int) -> tuple[int, int]:
    """The zigzag number at `at`, which `walk_records` has read before, and where it ends."""
    raw = np.uint64(0)
    shift = np.uint64(0)
    while True:
        byte = np.uint64(buf[at])
        raw |= (byte & np.uint64(0x7F)) << shift
        at += 1
        if byte < np.uint64(0x80):
            return as_int(raw >> np.uint64(1)) ^ -as_int(raw & np.uint64(1)), at
        shift += np.uint64(7)


@inlined
def header_at(buf: Bytes, at: int) -> Header:
    name_bytes, name = number_at(buf, at)
    value_bytes, value = number_at(buf, name + name_bytes)
    return Header(name, name_bytes, value, max(value_bytes, -1), value + max(value_bytes, 0))


@inlined
def word(out: Bytes, at: int, number: int) -> int:
    """Append one of `_WORDS`."""
    return copy(out, at, _TEXT, as_int(_ENDS[number]), as_int(_ENDS[number + 1] - _ENDS[number]))


@inlined
def begins_with(buf: Bytes, start: int, length: int, number: int) -> bool:
    """Whether the text begins with one of `_WORDS`."""
    first, size = as_int(_ENDS[number]), as_int(_ENDS[number + 1] - _ENDS[number])
    if length < size:
        return False
    i = as_int(0)
    while i < size and buf[start + i] == _TEXT[first + i]:
        i += 1
    return i == size


@inlined
def contains(buf: Bytes, start: int, length: int, number: int) -> bool:
    i = as_int(0)
    while i < length and not begins_with(buf, start + i, length - i, number):
        i += 1
    return i < length


@kernel
def put_integer(out: Bytes, at: int, value: int) -> int:
    if value < 0:
        out[at] = _MINUS
        at += 1
        value = -value
    digits = 1
    rest = value // 10
    while rest > 0:
        digits += 1
        rest //= 10
    for i in range(digits):
        out[at + digits - 1 - i] = _ZERO + value % 10
        value //= 10
    return at + digits


@kernel
def put_text(out: Bytes, at: int, buf: Bytes, start: int, length: int) -> int:
    """Append a JSON string; what is no UTF-8 becomes replacement characters."""
    end = start + length
    bad = invalid_utf8(buf, start, end)
    out[at] = _QUOTE
    at += 1
    for pos in range(start, end):
        c = as_int(buf[pos])
        if pos == bad:
            out[at], out[at + 1], out[at + 2] = 0xEF, 0xBF, 0xBD
            at += 3
            bad = invalid_utf8(buf, pos + 1, end)
        elif c < 0x20 or c in (_QUOTE, _BACKSLASH):
            out[at], out[at + 1] = _BACKSLASH, 0x75
            for i in range(4):
                digit = (c >> (12 - 4 * i)) & 15
                out[at + 2 + i] = _ZERO + digit if digit < 10 else 87 + digit
            at += _ESCAPED_BYTES
        else:
            out[at] = c
            at += 1
    out[at] = _QUOTE
    return at + 1


@kernel
def put_nullable(out: Bytes, at: int, buf: Bytes, start: int, length: int) -> int:
    """Append a JSON string, or null for a length below 0."""
    return word(out, at, _NULL) if length < 0 else put_text(out, at, buf, start, length)


@kernel
def is_last_of_name(buf: Bytes, header: Header, more: int) -> bool:
    """Whether none of the `more` headers behind it has its name; where those are many, it need not be true.

    Of members of one name the decoders take the last; it only takes them longer.
    """
    if more > _COMPARED_MAX:
        return True
    at = header.end
    for _ in range(more):
        other = header_at(buf, at)
        if other.name_bytes == header.name_bytes:
            same = True
            for i in range(header.name_bytes):
                same &= buf[other.name + i] == buf[header.name + i]
            if same:
                return False
        at = other.end
    return True


@kernel
def put_headers(buf: Bytes, field: npt.NDArray[np.int64], out: Bytes, at: int) -> int:
    """Append the headers' members and the object's end; of those with one name the last."""
    head = field[_HEADERS]
    for i in range(field[_HEADER_COUNT]):
        header = header_at(buf, head)
        head = header.end
        if is_last_of_name(buf, header, field[_HEADER_COUNT] - 1 - i):
            at = put_text(out, at, buf, header.name, header.name_bytes)
            out[at] = _COLON
            at = put_nullable(out, at + 1, buf, header.value, header.value_bytes)
            out[at] = _COMMA
            at += 1
    at -= 1 if out[at - 1] == _COMMA else 0
    out[at] = _CLOSE
    return at + 1


@kernel
def put_metadata(buf: Bytes, field: npt.NDArray[np.int64], wants: tuple[int, bool, int], out: Bytes, at: int) -> int:
    """Append the member `__kafka` with what is asked for."""
    members, _, partition = wants
    at = word(out, at, _BEGUN)
    for member in range(_HEADED + 1):
        if members & (1 << member) == 0:
            continue
        at = word(out, at, member)
        if member == _PARTITION:
            at = put_integer(out, at, partition)
        elif member == _AT:
            at = put_integer(out, at, field[_OFFSET])
        elif member == _WHEN:
            at = word(out, at, _NULL) if field[_TIME_MS] < 0 else put_integer(out, at, field[_TIME_MS])
        elif member == _KEYED:
            at = put_nullable(out, at, buf, field[_KEY], field[_KEY_BYTES])
        else:
            at = put_headers(buf, field, out, at)
        out[at] = _COMMA
        at += 1
    out[at - 1] = _CLOSE
    return at


@kernel
def put_attributes(buf: Bytes, field: npt.NDArray[np.int64], out: Bytes, at: int) -> tuple[int, bool]:
    """Append CloudEvents' attributes out of the headers, each with a comma behind it; and whether the data are JSON."""
    head = field[_HEADERS]
    is_json = True
    for i in range(field[_HEADER_COUNT]):
        header = header_at(buf, head)
        head = header.end
        if not is_last_of_name(buf, header, field[_HEADER_COUNT] - 1 - i):
            continue
        if begins_with(buf, header.name, header.name_bytes, _CE):
            at = put_text(out, at, buf, header.name + 3, header.name_bytes - 3)
            out[at] = _COLON
            at = put_nullable(out, at + 1, buf, header.value, header.value_bytes)
        elif header.name_bytes == 12 and begins_with(buf, header.name, header.name_bytes, _TYPE):
            is_json = header.value_bytes < 0 or contains(buf, header.value, header.value_bytes, _JSON)
            at = put_nullable(out, word(out, at, _DATA_TYPE), buf, header.value, header.value_bytes)
        else:
            continue
        out[at] = _COMMA
        at += 1
    return at, is_json


@kernel
def is_binary(buf: Bytes, field: npt.NDArray[np.int64]) -> bool:
    """Whether a record is a CloudEvent in binary mode."""
    head = field[_HEADERS]
    for _ in range(field[_HEADER_COUNT]):
        header = header_at(buf, head)
        if begins_with(buf, header.name, header.name_bytes, _CE_VERSION):
            return True
        head = header.end
    return False


@inlined
def behind_value(buf: Bytes, start: int, size: int) -> int:
    """Behind the last byte that is no white space."""
    end = start + size
    while end > start and (buf[end - 1] == 0x20 or 0x09 <= buf[end - 1] <= 0x0D):
        end -= 1
    return end


@kernel
def put_data(buf: Bytes, field: npt.NDArray[np.int64], is_json: bool, out: Bytes, at: int) -> tuple[int, bool]:
    """Append the value as the member `data`; false where it should be JSON and is not, and must not pass for members."""
    start, size = field[_VALUE], max(field[_VALUE_BYTES], 0)
    at = word(out, at, _DATA)
    if size == 0:
        return word(out, at, _NULL), True
    if not is_json:
        return put_text(out, at, buf, start, size), True
    end, _ = skip_value(buf, skip_space(buf, start), 1)
    return copy(out, at, buf, start, size), end >= 0 and skip_space(buf, end) == start + size


@kernel
def put_record(buf: Bytes, field: npt.NDArray[np.int64], wants: tuple[int, bool, int], out: Bytes, at: int) -> int:
    """Append one record's text; where there is nothing to put it into, the value as it is.

    What is put in stands last, so that it counts and not what a producer wrote under the same name.
    """
    metadata, cloud, _ = wants
    start, size = field[_VALUE], max(field[_VALUE_BYTES], 0)
    end = behind_value(buf, start, size) - 1
    has_members = True
    if cloud and is_binary(buf, field):
        out[at] = _OPEN
        at, is_json = put_attributes(buf, field, out, at + 1)
        at, is_whole = put_data(buf, field, is_json, out, at)
        if not is_whole:
            out[at] = _CLOSE_LIST
            return at + 1
    elif metadata == 0 or size == 0 or buf[skip_space(buf, start)] != _OPEN or buf[end] != _CLOSE:
        return copy(out, at, buf, start, size)
    else:
        at = copy(out, at, buf, start, end - start)
        end = behind_value(buf, start, end - start)
        has_members = buf[end - 1] != _OPEN
    if metadata != 0:
        if has_members:
            out[at] = _COMMA
            at += 1
        at = put_metadata(buf, field, wants, out, at)
    out[at] = _CLOSE
    return at + 1


@kernel
def count_bytes(buf: Bytes, fields: npt.NDArray[np.int64]) -> int:
    """How much room all records' texts need at most."""
    total = 0
    for row in range(fields.shape[1]):
        total += _FIXED_BYTES + _ESCAPED_BYTES * (max(fields[_KEY_BYTES, row], 0) + max(fields[_VALUE_BYTES, row], 0))
        head = fields[_HEADERS, row]
        for _ in range(fields[_HEADER_COUNT, row]):
            header = header_at(buf, head)
            total += 2 * _ESCAPED_BYTES * (header.name_bytes + max(header.value_bytes, 0)) + _FIXED_BYTES
            head = header.end
    return total


@kernel
def wrap_records(
    buf: Bytes,
    fields: npt.NDArray[np.int64],
    wants: tuple[int, bool, int],
    out: Bytes,
    wrapped: npt.NDArray[np.int64],
) -> None:
    """Write every record's text, a 0 behind it; `wrapped` says where, in the rows of `fields`."""
    at = 0
    for row in range(fields.shape[1]):
        end = put_record(buf, fields[:, row], wants, out, at)
        wrapped[_VALUE, row] = at
        wrapped[_VALUE_BYTES, row] = end - at
        out[end] = 0
        at = end + 1


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What is put into the records of a partition; `members` has a bit for each member of `__kafka`."""

    members: int
    cloud: bool
    partition: int

    def wrap(self, buf: Bytes, fields: npt.NDArray[np.int64]) -> tuple[Bytes, npt.NDArray[np.int64]]:
        """The records' texts in a buffer of their own, and the fields that say where."""
        out = np.empty(count_bytes(buf, fields) + PADDING, np.uint8)
        wrapped = fields.copy()
        wrap_records(buf, fields, (self.members, self.cloud, self.partition), out, wrapped)
        return out, wrapped


def wrapping_of(datasource: Datasource, partition: int) -> Wrapping | None:
    """None where records are read as they are."""
    paths = [datasource.time_path, *(column.path for column in datasource.columns)]
    members = 0
    for path in paths:
        if path[0] == ROOT:
            members |= 1 << _MEMBERS[path[1]]
    cloud = datasource.source is not None and datasource.source.format is RecordFormat.CLOUDEVENTS
    return Wrapping(members, cloud, partition) if members or cloud else None
