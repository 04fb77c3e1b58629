"""Whether the pages of a Parquet file are the ones that were written: their checksums, compared before an engine reads them.

polars does not compare them, and of flipped bits it notices one in six: the rest would be wrong answers. Only the columns
that are asked for are looked at, without decoding anything (about 1 GB/s), and a file once in the life of a process: files
never change. Pages without a checksum pass. Parquet has none for its footer, where a flipped bit renames a column, moves a row
group out of the time range or ends the process that reads it (Arrow's reader throws where nothing can catch): so one lies in
front of it, where other readers do not look. Owns the walk over the pages; whose file it is and what to say is
`rta.store.parquet`'s.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

REMEMBERED_MAX = 100_000
"""Pairs of file and column that are known to be whole."""
TAIL_BYTES = 64 << 10
MAGIC = b"PAR1"
SEAL = b"rta footer crc32"
"""Stands in front of a footer, with its checksum in four bytes, little endian."""
_SEAL_BYTES = len(SEAL) + 4
VARINT_BITS_MAX = 63
_CRC, _SIZE = 4, 3
"""Numbers of the fields of a page header (Parquet's thrift definition)."""

Read = Callable[[int, int], bytes]
"""(first, length) -> bytes of the file."""


class PageError(Exception):
    """The file is not as it was written; the text says where."""


class Checked:
    """What this process has found whole. Safe for threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()

    def unknown(self, file: str, columns: Collection[str]) -> set[str]:
        with self._lock:
            return {column for column in columns if (file, column) not in self._known}

    def add(self, file: str, columns: Collection[str]) -> None:
        with self._lock:
            self._known.update(dict.fromkeys((file, column) for column in columns))
            while len(self._known) > REMEMBERED_MAX:
                self._known.popitem(last=False)


def check_pages(read: Read, size: int, columns: Collection[str]) -> None:
    """Compare the checksums of these columns' pages. Raises PageError.

    Args:
        read: Reads a part of the file.
        size: Bytes that the file has.
        columns: Names of top-level columns; those that the file lacks are passed over.
    """
    metadata = _footer(read, size)
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group)
        for index in range(rows.num_columns):
            chunk = rows.column(index)
            name = chunk.path_in_schema.partition(".")[0]
            if name in columns:
                first = chunk.data_page_offset
                if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                    first = min(first, chunk.dictionary_page_offset)
                _check_chunk(read(first, chunk.total_compressed_size), name, first)


class Sealing:
    """A file that is being written, whose end is held back until the footer in it is complete.

    Args:
        file: Where it goes.
    """

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._held: list[bytes] | None = None

    def write(self, data: bytes | memoryview) -> int:
        if self._held is None:
            self._file.write(data)
        else:
            self._held.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        return

    def hold(self) -> None:
        """All rows are written; what comes now ends with the footer."""
        self._held = []

    def seal(self) -> None:
        """Write what was held back, with the footer's checksum in front of it."""
        assert self._held is not None
        end = b"".join(self._held)
        footer = int.from_bytes(end[-8:-4], "little") + 8
        assert end.endswith(MAGIC)
        assert footer <= len(end)
        self._file.write(end[:-footer] + SEAL + zlib.crc32(end[-footer:]).to_bytes(4, "little") + end[-footer:])


def check_footer(read: Read, size: int) -> bytes:
    """The footer, down to the end of the file, if its checksum fits or it has none. Raises PageError."""
    tail = read(max(0, size - TAIL_BYTES), min(size, TAIL_BYTES))
    if len(tail) < 12 or tail[-4:] != MAGIC:
        raise PageError("it does not end as a Parquet file")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size:
        raise PageError(f"its footer is to have {length} bytes, the file has {size}")
    if length + _SEAL_BYTES > len(tail):
        tail = read(max(0, size - length - _SEAL_BYTES), min(size, length + _SEAL_BYTES))
    seal, footer = tail[-length - _SEAL_BYTES : -length], tail[-length:]
    if seal.startswith(SEAL) and zlib.crc32(footer) != int.from_bytes(seal[len(SEAL) :], "little"):
        raise PageError("the checksum of its footer differs")
    return footer


def _footer(read: Read, size: int) -> pq.FileMetaData:
    footer = check_footer(read, size)
    try:
        return pq.read_metadata(pa.BufferReader(MAGIC + footer))
    except (pa.ArrowException, OSError) as error:
        raise PageError(f"its footer can't be read: {error}") from error


def _check_chunk(data: bytes, column: str, first: int) -> None:
    view, at = memoryview(data), 0
    while at < len(view):
        try:
            start, fields = _page_header(view, at)
        except (IndexError, RecursionError):
            raise PageError(f"a page header of column '{column}' at byte {first + at} can't be read") from None
        length = fields.get(_SIZE, -1)
        if length < 0 or start + length > len(view):
            raise PageError(f"a page of column '{column}' at byte {first + at} is longer than its column")
        crc = fields.get(_CRC)
        if crc is not None and zlib.crc32(view[start : start + length]) != crc & 0xFFFFFFFF:
            raise PageError(f"the checksum of a page of column '{column}' at byte {first + at} differs")
        at = start + length


# -- thrift's compact protocol, as far as a page header needs it -------------------------------------------------------


def _page_header(data: memoryview, at: int) -> tuple[int, dict[int, int]]:
    """Where the page's bytes begin, and the whole numbers at the top of its header by field. Raises IndexError."""
    fields: dict[int, int] = {}
    field = 0
    while True:
        kind = data[at] & 0x0F
        field, at = _field(data, at, field)
        if kind == 0:
            return at, fields
        if kind in (4, 5, 6):
            number, at = _varint(data, at)
            fields[field] = (number >> 1) ^ -(number & 1)
        else:
            at = _skipped(data, at, kind)


def _field(data: memoryview, at: int, before: int) -> tuple[int, int]:
    """Number of the field whose head begins there, and where its value does."""
    delta = data[at] >> 4
    if delta or not data[at] & 0x0F:
        return before + delta, at + 1
    number, at = _varint(data, at + 1)
    return (number >> 1) ^ -(number & 1), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
        if shift > VARINT_BITS_MAX:
            raise IndexError("a number is longer than any in a page header")


def _skipped(data: memoryview, at: int, kind: int) -> int:
    """Where the value of this kind ends: truths, bytes, numbers, doubles, texts and structs of such. Raises IndexError."""
    if kind in (1, 2):
        return at
    if kind == 3:
        return at + 1
    if kind in (4, 5, 6):
        return _varint(data, at)[1]
    if kind == 7:
        return at + 8
    if kind == 8:
        length, at = _varint(data, at)
        return at + length
    if kind == 12:
        field = 0
        while True:
            inner = data[at] & 0x0F
            field, at = _field(data, at, field)
            if inner == 0:
                return at
            at = _skipped(data, at, inner)
    raise IndexError(f"no page header has a field of kind {kind}")
