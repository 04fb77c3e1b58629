"""Arrow columns as the arrays that the kernels take, each converted once per table.

Owns the conversion of keys to int64 codes, of numbers to numpy and of lists to offsets and values, and the fitting of a
table to a schema that has changed since. Holds one table; knows nothing of rollups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rta.errors import InvariantError
from rta.events.keys import hash_values
from rta.stream.grouping import ALL_VALID, Flags, Ints, Longs, Numbers, readable, text_words

_WORDS_MAX = 6
"""Strings of up to 47 bytes are grouped by their bytes, an identifier of 36 among them."""
_PLAIN = {pa.int64(): np.int64, pa.float64(): np.float64, pa.int32(): np.int32}


def fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in another schema: columns that it lacks are null, columns that the schema lacks are left out.

    Raises:
        InvariantError: a column has values that its new type can't hold.
    """
    if table.schema.equals(schema):
        return table
    columns = []
    for field in schema:
        at = table.schema.get_field_index(field.name)
        if at < 0:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(at)
        columns.append(column if column.type.equals(field.type) else _cast(column, field))
    return pa.Table.from_arrays(columns, schema=schema)


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvariantError(
            f"column '{field.name}' of type {column.type} does not fit its new type {field.type}: {error}",
            "give the column another name",
        ) from error


class Columns:
    """One table, its columns converted when first asked for and kept."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.rows: int = table.num_rows
        self._arrays: dict[str, pa.Array] = {}
        self._keys: dict[str, list[Longs]] = {}
        self._hashes: dict[str, Longs] = {}
        self._valid: dict[str, Flags] = {}

    def array(self, name: str) -> pa.Array:
        found = self._arrays.get(name)
        if found is None:
            column = self.table.column(name)
            found = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            self._arrays[name] = found
        return found

    def valid(self, name: str) -> Flags:
        """Which rows have a value; empty when all have."""
        found = self._valid.get(name)
        if found is None:
            array = self.array(name)
            valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else ALL_VALID
            found = self._valid[name] = readable(valid)
        return found

    def numbers(self, name: str) -> Numbers:
        """Values of a number or time column; where a row has none, anything."""
        return numbers(self.array(name))

    def doubles(self, name: str) -> tuple[Numbers, Flags]:
        """Values as float64 and which of them count: those that are there and no NaN."""
        values, valid = self.numbers(name), self.valid(name)
        if values.dtype != np.float64:
            return readable(values.astype(np.float64)), valid
        real = values == values
        if real.all():
            return values, valid
        return values, readable(real & valid if len(valid) else real)

    def times(self, name: str) -> Longs:
        return numbers(self.array(name))

    def keys(self, name: str) -> list[Longs]:
        """int64 columns, or blocks of them, that are equal in two rows exactly when the values are."""
        found = self._keys.get(name)
        if found is None:
            found = self._keys[name] = _codes(self.array(name), self.valid(name))
        return found

    def hashes(self, name: str) -> Longs:
        found = self._hashes.get(name)
        if found is None:
            found = self._hashes[name] = readable(hash_values(self.array(name)))
        return found

    def lists(self, name: str) -> tuple[Ints, Ints, pa.Array]:
        """Starts, ends and values of a list column; a row without a list has an empty one."""
        array = self.array(name)
        offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
        starts, ends = offsets[:-1], offsets[1:]
        valid = self.valid(name)
        if len(valid):
            ends = np.where(valid, ends, starts)
        return readable(starts), readable(ends), array.values


def numbers(array: pa.Array) -> npt.NDArray[Any]:
    """The raw values of an array of 64-bit (or, for int32, 32-bit) values; where it is null, anything."""
    if pa.types.is_timestamp(array.type):
        array = array.view(pa.int64())
    dtype = _PLAIN.get(array.type)
    if dtype is None:
        array, dtype = array.cast(pa.int64()), np.int64
    buffer = array.buffers()[1]
    if buffer is None or len(array) == 0:
        return readable(np.zeros(len(array), dtype))
    return readable(np.frombuffer(buffer, dtype)[array.offset : array.offset + len(array)])


def _codes(array: pa.Array, valid: Flags) -> list[Longs]:
    kind = array.type
    if pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_boolean(kind):
        values = numbers(array).astype(np.int64, copy=False)
    elif pa.types.is_floating(kind):
        values = _float_codes(numbers(array.cast(pa.float64())))
    elif pa.types.is_list(kind):
        return [_list_codes(array)]
    else:
        return [_text_codes(array if pa.types.is_string(kind) else array.cast(pa.string()), valid)]
    if not len(valid):
        return [values]
    return [np.where(valid, values, 0), valid.astype(np.int64)]


def _text_codes(array: pa.Array, valid: Flags) -> Longs:
    """Short strings as their own bytes (3-10 ns each), longer ones by a dictionary (15-150 ns)."""
    _, offset_buffer, data = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[array.offset : array.offset + len(array) + 1]
    words = int(np.diff(offsets).max()) // 8 + 1
    if words > _WORDS_MAX:
        return array.dictionary_encode(null_encoding="encode").indices.to_numpy(zero_copy_only=False)
    letters = np.frombuffer(data if data is not None else b"", np.uint8)
    return text_words(readable(offsets), readable(letters), valid, words).view(np.int64)


def _float_codes(values: npt.NDArray[np.float64]) -> Longs:
    """Bits of the values, with one zero and one NaN."""
    values = values + 0.0
    return np.where(np.isnan(values), np.nan, values).view(np.int64)


def _list_codes(array: pa.Array) -> Longs:
    frame = pl.DataFrame({"list": pl.from_arrow(array)}).with_row_index("row")
    groups = frame.group_by("list", maintain_order=True).agg("row")
    codes = np.empty(len(array), np.int64)
    lengths = groups["row"].list.len().to_numpy()
    codes[groups["row"].explode().to_numpy()] = np.repeat(np.arange(len(groups)), lengths)
    return codes
