"""Rollup rows made ready for questions: sorted by time, dimensions as dictionary codes, lists as plain arrays.

A `Block` holds one immutable frame of rollup rows and decodes each column once, when it is first asked for. Blocks of
one table share its `Dictionaries`, so that equal values have equal codes and blocks are joined by joining arrays. Does
not know questions. Safe to use from several threads: decoding twice is harmless, dictionaries have a lock.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from rta.events.schemas import TIME
from rta.stream.grouping import ALL_VALID, readable

Longs = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]
Scalar = str | int | float | bool
ENTRY_BYTES = 120
"""About what one value of a dictionary costs beside its text."""
HASHES_MAX = 1 << 20
"""Distinct hashes of one table and column that get codes: 50 MB at most."""
ASKED_MAX = 64
"""Sets of columns that a block remembers to have decoded."""


class Dictionary:
    """Values of one dimension and their codes, which only grow. Code 0 is null. Times are milliseconds."""

    def __init__(self, dtype: pl.DataType) -> None:
        self.dtype = dtype
        self._values: list[Scalar | None] = [None]
        self._codes: dict[Scalar, int] = {}
        self._lock = threading.Lock()
        self._series: pl.Series | None = None
        self.bytes = 0

    @property
    def size(self) -> int:
        return len(self._values)

    def code(self, value: Scalar) -> int | None:
        return self._codes.get(value)

    def series(self, size: int) -> pl.Series:
        """The values of the first `size` codes, in the dimension's own type."""
        known = self._series
        if known is None or len(known) < size:
            values = self._values[:]
            known = pl.Series(values, dtype=self.dtype if self.dtype != _TIME_TYPE else pl.Int64, strict=False)
            known = known.cast(self.dtype)
            self._series = known
        return known.head(size)

    def encode(self, column: pl.Series) -> Codes:
        """Codes of a column's values; new values get new codes. NaN is null."""
        if column.dtype == _TIME_TYPE:
            column = column.dt.epoch("ms")
        elif column.dtype == pl.Float64:
            column = column.fill_nan(None)
        distinct = column.unique(maintain_order=False)
        codes = np.zeros(len(distinct) + 1, np.int32)
        with self._lock:
            for position, value in enumerate(distinct.to_list()):
                codes[position] = 0 if value is None else self._code_of(value)
        places = pl.Series(codes[: len(distinct)])
        if len(distinct) == 1:
            return np.full(len(column), codes[0], np.int32)
        return np.ascontiguousarray(column.replace_strict(distinct, places, return_dtype=pl.Int32).to_numpy())

    def _code_of(self, value: Scalar) -> int:
        code = self._codes.get(value)
        if code is None:
            code = len(self._values)
            self._values.append(value)
            self._codes[value] = code
            self.bytes += ENTRY_BYTES + (len(value) if isinstance(value, str) else 8)
        return code


_TIME_TYPE = pl.Datetime("ms", "UTC")


class ItemCodes(NamedTuple):
    """Codes of items, all below `size`."""

    codes: Codes
    size: int


class HashCodes:
    """Codes of 64-bit hashes, which only grow: the low bits of a hash are taken as random."""

    def __init__(self) -> None:
        self._slots: Longs = np.zeros(1 << 12, np.int64)
        self._codes: Codes = np.full(1 << 12, -1, np.int32)
        self._size = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        return self._slots.nbytes + self._codes.nbytes

    def encode(self, values: Longs) -> ItemCodes | None:
        """Codes of the hashes; None once there would be more than `HASHES_MAX`. ~10-30 ns each."""
        codes = np.empty(len(values), np.int32)
        done = 0
        with self._lock:
            while done < len(values):
                if self._size > HASHES_MAX:
                    return None
                done, self._size = _encode_hashes(values, done, self._slots, self._codes, self._size, codes)
                if done < len(values):
                    slots, known = self._slots, self._codes
                    self._slots, self._codes = np.zeros(4 * len(slots), np.int64), np.full(4 * len(slots), -1, np.int32)
                    _move_hashes(slots, known, self._slots, self._codes)
            return ItemCodes(codes, self._size)


@njit(cache=True, nogil=True)
def _encode_hashes(values: Longs, done: int, slots: Longs, known: Codes, size: int, codes: Codes) -> tuple[int, int]:
    """Go on until the table is half full; how many values are done, and how many codes there are."""
    mask = len(slots) - 1
    for i in range(done, len(values)):
        v = values[i]
        slot = v & mask
        while known[slot] >= 0 and slots[slot] != v:
            slot = (slot + 1) & mask
        if known[slot] < 0:
            if 2 * size >= len(slots):
                return i, size
            slots[slot] = v
            known[slot] = size
            size += 1
        codes[i] = known[slot]
    return len(values), size


@njit(cache=True, nogil=True)
def _move_hashes(slots: Longs, known: Codes, new_slots: Longs, new_known: Codes) -> None:
    mask = len(new_slots) - 1
    for i in range(len(slots)):
        if known[i] >= 0:
            slot = slots[i] & mask
            while new_known[slot] >= 0:
                slot = (slot + 1) & mask
            new_slots[slot] = slots[i]
            new_known[slot] = known[i]


class Dictionaries:
    """The dictionaries of one table, by stored column, and those of the values in its lists of distinct ones."""

    def __init__(self) -> None:
        self._by_column: dict[str, Dictionary] = {}
        self._of_items: dict[str, HashCodes] = {}
        self._lock = threading.Lock()

    def of(self, column: str, dtype: pl.DataType) -> Dictionary:
        with self._lock:
            found = self._by_column.get(column)
            if found is None:
                found = self._by_column[column] = Dictionary(dtype)
            return found

    def __getitem__(self, column: str) -> Dictionary:
        return self._by_column[column]

    def of_items(self, column: str) -> HashCodes:
        with self._lock:
            return self._of_items.setdefault(column, HashCodes())

    @property
    def bytes(self) -> int:
        of_items = sum(d.bytes for d in list(self._of_items.values()))
        return of_items + sum(d.bytes for d in list(self._by_column.values()))


class NumberColumn(NamedTuple):
    """Values and which of them are there; an empty `valid` means all."""

    values: Numbers
    valid: Flags


class ListColumn(NamedTuple):
    """Row i has `values[offsets[i]:offsets[i + 1]]`; none where it is null."""

    offsets: Codes
    values: Numbers


class Block:
    """Rows of one rollup table.

    Args:
        frame: In the rollup's schema, in any order.
        dictionaries: Of the table; the block adds its values to them.
    """

    def __init__(self, frame: pl.DataFrame, dictionaries: Dictionaries) -> None:
        times = frame.get_column(TIME)
        if not times.flags["SORTED_ASC"] and not times.is_sorted():
            frame = frame.sort(TIME, maintain_order=True)
        self.frame = frame.rechunk()
        self.dictionaries = dictionaries
        stamps = self.frame.get_column(TIME).dt.epoch("ms").to_numpy()
        new = np.empty(len(stamps), np.bool_)
        new[:1] = True
        np.not_equal(stamps[1:], stamps[:-1], out=new[1:])
        begins = np.flatnonzero(new)
        self.times: Longs = stamps[begins]
        """Distinct buckets, ascending."""
        self.begins: Longs = np.append(begins, len(stamps))
        """First row of each bucket, and the number of rows."""
        self._codes: dict[str, Codes] = {}
        self._numbers: dict[str, NumberColumn] = {}
        self._lists: dict[str, ListColumn] = {}
        self._sketches: dict[str, tuple[Longs, list[bytes]]] = {}
        self._item_codes: dict[str, ItemCodes | None] = {}
        self._item_bins: dict[str, npt.NDArray[np.uint16]] = {}
        self._asked: set[tuple[str, ...]] = set()
        self.frame_bytes = int(self.frame.estimated_size())

    def asked(self, columns: tuple[str, ...]) -> bool:
        """Whether these were asked for together before, so that all of them are decoded."""
        return columns in self._asked

    def note_asked(self, columns: tuple[str, ...]) -> None:
        if len(self._asked) >= ASKED_MAX:
            self._asked = set()
        self._asked.add(columns)

    def has(self, column: str) -> bool:
        return column in self.frame.columns

    def overlaps(self, start_ms: int, end_ms: int) -> bool:
        """Whether some row is in the range."""
        first, end = self.times.searchsorted((start_ms, end_ms))
        return bool(end > first)

    def codes(self, column: str) -> Codes:
        """Dictionary codes of a dimension; all null where older rows lack it."""
        found = self._codes.get(column)
        if found is None:
            if self.has(column):
                series = self.frame.get_column(column)
                found = self.dictionaries.of(column, series.dtype).encode(series)
            else:
                found = np.zeros(self.frame.height, np.int32)
            self._codes[column] = found
        return found

    def numbers(self, column: str) -> NumberColumn:
        """A number column, its nulls as 0 and marked."""
        found = self._numbers.get(column)
        if found is None:
            series = self.frame.get_column(column)
            if series.dtype == _TIME_TYPE:
                series = series.dt.epoch("ms")
            valid = ALL_VALID
            if series.null_count():
                valid = readable(series.is_not_null().to_numpy())
                series = series.fill_null(0)
            found = NumberColumn(readable(series.to_numpy()), valid)
            self._numbers[column] = found
        return found

    def lists(self, column: str) -> ListColumn:
        """A list column of numbers."""
        found = self._lists.get(column)
        if found is None:
            array = self.frame.get_column(column).to_arrow()
            offsets = np.asarray(array.offsets).astype(np.int32)
            if array.null_count:
                # A null row may span values that are not its own; arrow leaves that open.
                array = self.frame.get_column(column).fill_null(pl.lit([], self.frame.schema[column])).to_arrow()
                offsets = np.asarray(array.offsets).astype(np.int32)
            found = ListColumn(offsets, readable(array.values.to_numpy(zero_copy_only=False)))
            self._lists[column] = found
        return found

    def sketches(self, column: str) -> tuple[Longs, list[bytes]]:
        """The rows that have a sketch, ascending, and their bytes."""
        found = self._sketches.get(column)
        if found is None:
            series = self.frame.get_column(column)
            rows = np.zeros(0, np.int64)
            data: list[bytes] = []
            if series.null_count() < len(series):
                rows = np.flatnonzero(series.is_not_null().to_numpy())
                data = series.drop_nulls().to_list()
            found = (rows, data)
            self._sketches[column] = found
        return found

    def item_codes(self, column: str) -> ItemCodes | None:
        """Codes of the hashes in a list column, one per item; None where the table has too many distinct ones."""
        if column not in self._item_codes:
            self._item_codes[column] = self.dictionaries.of_items(column).encode(self.lists(column).values)
        return self._item_codes[column]

    def item_bins(self, column: str) -> npt.NDArray[np.uint16]:
        """Of each number in a list column the upper 16 bits of its place in the order of all numbers."""
        found = self._item_bins.get(column)
        if found is None:
            bits = self.lists(column).values.view(np.int64)
            found = ((bits ^ ((bits >> 63) | np.int64(-(2**63)))).view(np.uint64) >> np.uint64(48)).astype(np.uint16)
            self._item_bins[column] = found
        return found


class Piece(NamedTuple):
    """A block and the stretch of time for which it is asked; half open, in ms."""

    block: Block
    start_ms: int
    end_ms: int
