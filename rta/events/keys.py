"""Who an event is, and where it goes: identities, key hashes, slots, partitions.

An event's identity is 128 bits: the hash of its id, seeded with the hash of its key; where the datasource has no id,
the hash of the two numbers that the edge gave it (`__id_hi`, `__id_lo`). Its key is the first of `Datasource.keys` that
has a value. The key's hash picks one of 4,096 slots; where there is no key, the identity does. Partitions are
contiguous ranges of slots. Everything here can be computed again from stored rows, and must come out the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rta.events.hashing import Words, hash_pairs, hash_strings, hash_words
from rta.events.schemas import ID_HI, ID_LO, Datasource

SLOTS = 4096
_SLOT_SHIFT = np.uint64(64 - 12)
_KEY_SEED = (0x7274613A6B657931, 0x7274613A6B657932)
_NO_KEY = (0x7274613A6E6F6E65, 0x7274613A6E6F6E66)
_PARTITION_BITS = 16
_PARTITION_MASK = (1 << _PARTITION_BITS) - 1
_TEXT_SEED = (0x7274613A74657874, 0x7274613A74657875)

Column: TypeAlias = Any
"""An Arrow array, chunked or not."""


def identities(ids: Column, keys: Column | None) -> Words:
    """Shape (n, 2): high and low half of the identity of each (key, id).

    Args:
        ids: Strings or longs without nulls.
        keys: Strings or longs; a null, or None at all, is an event without a key.
    """
    seeds, _ = key_hashes([] if keys is None else [keys], len(ids))
    return _identities(ids, seeds)


def identities_of(rows: pa.Table, datasource: Datasource) -> Words:
    """The identities of stored rows, the same that the edge computed."""
    if datasource.id is None:
        return place_hashes(_places(rows))
    seeds, _ = key_hashes([rows[name] for name in datasource.keys], rows.num_rows)
    return _identities_of(rows, datasource, seeds)


def placed(rows: pa.Table, datasource: Datasource) -> tuple[Words, npt.NDArray[np.int32]]:
    """Identity and partition of each row."""
    if datasource.source is not None:
        return identities_of(rows, datasource), source_partitions(rows[ID_HI].to_numpy())
    seeds, present = key_hashes([rows[name] for name in datasource.keys], rows.num_rows)
    found = _identities_of(rows, datasource, seeds)
    picks = np.where(present, seeds[:, 1], found[:, 1])
    return found, partitions_of(_slots(picks), datasource.partitions)


def source_id(incarnation: str, partition: int) -> int:
    """`__id_hi` of the events of one partition of another producer's topic: its incarnation's hash, and the partition."""
    _, low = hash_text(incarnation)
    return int(np.int64(np.uint64((low & 0xFFFFFFFF) << _PARTITION_BITS | partition)))


def source_partitions(high: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """The partitions in `__id_hi` of such events."""
    return (high & _PARTITION_MASK).astype(np.int32)


def place_hashes(places: Words) -> Words:
    """The identities of events that have none but their place: shape (n, 2), high and low half."""
    out = np.empty_like(places)
    hash_pairs(places, _constant(len(places), _NO_KEY), out)
    return out


def slots(keys: Column) -> npt.NDArray[np.uint16]:
    """The slot of each key; keys have no nulls."""
    hashes, _ = key_hashes([keys], len(keys))
    return _slots(hashes[:, 1])


def partitions_of(slots: npt.NDArray[np.uint16], partitions: int) -> npt.NDArray[np.int32]:
    """The partition of each slot: `partitions` contiguous ranges as equal as they can be."""
    return ((slots.astype(np.int32) * partitions) >> 12).astype(np.int32)


def id_sum(identities: Words) -> int:
    """Sum of the low halves modulo 2^64, the ledger's checksum of a set of events."""
    return int(identities[:, 1].sum(dtype=np.uint64)) if len(identities) else 0


def hash_values(array: Column) -> npt.NDArray[np.int64]:
    """64 bits of each value, as int64, for counting distinct ones. What a null gets means nothing: mask it.

    Strings, whole numbers, doubles (-0.0 is 0.0, every NaN is one), booleans, timestamps and dictionaries of them. The
    same number as a long and as a double need not agree.
    """
    flat = _flat(array)
    if pa.types.is_dictionary(flat.type):
        values = hash_values(flat.dictionary)
        indices = flat.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return values[indices] if len(values) else np.zeros(len(flat), np.int64)
    out = np.zeros(len(flat), np.int64)
    if _is_text(flat.type):
        hashes = np.zeros((len(flat), 2), np.uint64)
        _hash_texts(flat, _constant(len(flat), _TEXT_SEED), hashes)
        return hashes[:, 1].astype(np.int64)
    hash_words(_words(flat), out)
    return out


def hash_text(text: str) -> tuple[int, int]:
    """High and low half of one text's hash, as `identities` of an event with an Idempotency-Key begin."""
    out = np.zeros((1, 2), np.uint64)
    _hash_texts(pa.array([text]), _constant(1, _TEXT_SEED), out)
    return int(out[0, 0]), int(out[0, 1])


def key_hashes(columns: Sequence[Column], count: int) -> tuple[Words, npt.NDArray[np.bool_]]:
    """Per row the hash of the first column that has a value, and whether any has. Shapes (n, 2) and (n,)."""
    out = _constant(count, _NO_KEY)
    present = np.zeros(count, np.bool_)
    seeds = _constant(count, _KEY_SEED)
    for column in columns:
        present |= _hash_texts(_text(column), seeds, out, ~present)
        if present.all():
            break
    return out, present


def _identities_of(rows: pa.Table, datasource: Datasource, seeds: Words) -> Words:
    if datasource.id is not None:
        return _identities(rows[datasource.id], seeds)
    return place_hashes(_places(rows))


def _places(rows: pa.Table) -> Words:
    pairs = np.empty((rows.num_rows, 2), np.uint64)
    pairs[:, 0] = rows[ID_HI].to_numpy().view(np.uint64)
    pairs[:, 1] = rows[ID_LO].to_numpy().view(np.uint64)
    return pairs


def _identities(ids: Column, seeds: Words) -> Words:
    out = np.empty((len(ids), 2), np.uint64)
    _hash_texts(_text(ids), seeds, out)
    return out


def _slots(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
    return (hashes >> _SLOT_SHIFT).astype(np.uint16)


def _constant(count: int, pair: tuple[int, int]) -> Words:
    out = np.empty((count, 2), np.uint64)
    out[:] = pair
    return out


def _flat(array: Column) -> pa.Array:
    if not isinstance(array, pa.ChunkedArray):
        return array
    return array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()


def _is_text(arrow_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type) or pa.types.is_string_view(arrow_type)
    )


def _text(column: Column) -> pa.Array:
    """A key or id column as plain strings."""
    flat = _flat(column)
    return flat if pa.types.is_string(flat.type) else pc.cast(flat, pa.string())


def _hash_texts(
    texts: pa.Array, seeds: Words, out: Words, wanted: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """Hash the wanted strings that are not null into `out`; returns which those are."""
    flat = texts if pa.types.is_string(texts.type) else pc.cast(texts, pa.string())
    chosen = np.ones(len(flat), np.bool_) if wanted is None else wanted
    if flat.null_count:
        chosen = chosen & flat.is_valid().to_numpy(zero_copy_only=False)
    _, offset_buffer, data_buffer = flat.buffers()
    if len(flat) and offset_buffer is not None:
        offsets = np.frombuffer(offset_buffer, np.int32)[flat.offset : flat.offset + len(flat) + 1]
        data = np.frombuffer(data_buffer if data_buffer is not None else b"", np.uint8)
        hash_strings(offsets, data, chosen.view(np.uint8), seeds, out)
    return chosen


def _words(flat: pa.Array) -> npt.NDArray[np.uint64]:
    if pa.types.is_boolean(flat.type):
        return flat.fill_null(False).to_numpy(zero_copy_only=False).astype(np.uint64)
    if pa.types.is_floating(flat.type):
        doubles = pc.cast(flat, pa.float64()).fill_null(0.0).to_numpy() + 0.0
        return np.where(np.isnan(doubles), np.nan, doubles).view(np.uint64)
    whole = flat.cast(pa.int64()) if pa.types.is_timestamp(flat.type) else pc.cast(flat, pa.int64())
    return whole.fill_null(0).to_numpy().view(np.uint64)
