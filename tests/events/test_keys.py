"""Identities, hashes and partitions: the compiled loops against plain Python, and what they promise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from rta.events.keys import SLOTS, hash_text, hash_values, id_sum, identities, partitions_of, slots

MASK = (1 << 64) - 1
KEY_SEED = (0x7274613A6B657931, 0x7274613A6B657932)
NO_KEY = (0x7274613A6E6F6E65, 0x7274613A6E6F6E66)
TEXT_SEED = (0x7274613A74657874, 0x7274613A74657875)
C1, C2 = 0x87C37B91114253D5, 0x4CF5AD432745937F

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=70)


def rotate(x: int, bits: int) -> int:
    return ((x << bits) | (x >> (64 - bits))) & MASK


def finish(x: int) -> int:
    x = ((x ^ (x >> 33)) * 0xFF51AFD7ED558CCD) & MASK
    x = ((x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53) & MASK
    return x ^ (x >> 33)


def murmur(data: bytes, seed: tuple[int, int]) -> tuple[int, int]:
    """MurmurHash3 x64-128 as its author describes it, with a seed for each half."""
    h1, h2 = seed
    whole = len(data) // 16 * 16
    for i in range(0, whole, 16):
        k1, k2 = int.from_bytes(data[i : i + 8], "little"), int.from_bytes(data[i + 8 : i + 16], "little")
        h1 ^= rotate(k1 * C1 & MASK, 31) * C2 & MASK
        h1 = ((rotate(h1, 27) + h2) * 5 + 0x52DCE729) & MASK
        h2 ^= rotate(k2 * C2 & MASK, 33) * C1 & MASK
        h2 = ((rotate(h2, 31) + h1) * 5 + 0x38495AB5) & MASK
    tail = data[whole:]
    k1, k2 = int.from_bytes(tail[:8], "little"), int.from_bytes(tail[8:], "little")
    h2 ^= rotate(k2 * C2 & MASK, 33) * C1 & MASK
    h1 ^= rotate(k1 * C1 & MASK, 31) * C2 & MASK
    h1 ^= len(data)
    h2 ^= len(data)
    h1 = (h1 + h2) & MASK
    h2 = (h2 + h1) & MASK
    h1, h2 = finish(h1), finish(h2)
    h1 = (h1 + h2) & MASK
    return h1, (h2 + h1) & MASK


def identity(text: str, key: str | None) -> tuple[int, int]:
    return murmur(text.encode(), NO_KEY if key is None else murmur(key.encode(), KEY_SEED))


def test_hash_is_the_published_one() -> None:
    assert murmur(b"The quick brown fox jumps over the lazy dog", (0, 0)) == (0xE34BBC7BBC071B6C, 0x7A433CA9C49A9347)


@given(st.lists(st.tuples(texts, st.none() | texts), max_size=20))
def test_identities_equal_their_python_twin(events: list[tuple[str, str | None]]) -> None:
    ids = pa.array([e[0] for e in events], pa.string())
    keys = pa.array([e[1] for e in events], pa.string())
    expected = [list(identity(*e)) for e in events]
    assert identities(ids, keys).tolist() == expected
    assert identities(ids.cast(pa.large_string()), pa.chunked_array([keys])).tolist() == expected
    assert identities(ids, None).tolist() == [list(identity(e[0], None)) for e in events]


@given(st.lists(texts, min_size=3, max_size=20), st.data())
def test_slices_hash_as_what_they_hold(ids: list[str], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(ids)))
    array = pa.array(ids, pa.string())
    assert (
        identities(array.slice(begin), None).tolist() == identities(pa.array(ids[begin:], pa.string()), None).tolist()
    )


def test_numbers_as_ids_hash_as_their_text() -> None:
    assert identities(pa.array([5]), pa.array([7])).tolist() == [list(identity("5", "7"))]


def test_empty_key_is_a_key() -> None:
    keys = pa.array(["", None])
    first, second = identities(pa.array(["a", "a"]), keys).tolist()
    assert first != second


@given(st.lists(texts, max_size=20))
def test_slot_is_the_top_of_the_key_hash(keys: list[str]) -> None:
    found = slots(pa.array(keys, pa.string()))
    assert found.dtype == np.uint16
    assert found.tolist() == [murmur(k.encode(), KEY_SEED)[1] >> 52 for k in keys]


@given(st.integers(1, 1024))
def test_partitions_are_contiguous_ranges_of_nearly_equal_size(partitions: int) -> None:
    found = partitions_of(np.arange(SLOTS, dtype=np.uint16), partitions)
    assert np.all(np.diff(found) >= 0)
    counts = np.bincount(found, minlength=partitions)
    assert len(counts) == partitions
    assert counts.max() - counts.min() <= 1


values: dict[str, tuple[Any, Any]] = {
    "string": (texts, pa.string()),
    "long": (st.integers(-(1 << 63), (1 << 63) - 1), pa.int64()),
    "double": (st.floats(), pa.float64()),
    "boolean": (st.booleans(), pa.bool_()),
    "timestamp": (st.integers(-(10**12), 10**12), pa.timestamp("ms", tz="UTC")),
}


def canonical(value: Any) -> Any:
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value + 0.0
    return value


@given(st.sampled_from(sorted(values)), st.data())
def test_values_hash_alike_exactly_when_they_are_equal(kind: str, data: st.DataObject) -> None:
    strategy, arrow_type = values[kind]
    drawn = data.draw(st.lists(st.none() | strategy, max_size=20))
    array = pa.array(drawn, arrow_type)
    hashes = hash_values(array)
    assert hashes.dtype == np.int64
    assert len(hashes) == len(array)
    by_value: dict[Any, int] = {}
    for value, h in zip(drawn, hashes.tolist(), strict=True):
        if value is not None:
            assert by_value.setdefault(canonical(value), h) == h
    assert len(set(by_value.values())) == len(by_value)
    if kind != "double":
        assert hash_values(array.dictionary_encode())[array.is_valid().to_numpy(zero_copy_only=False)].tolist() == [
            h for h, v in zip(hashes.tolist(), drawn, strict=True) if v is not None
        ]


def test_text_hash_is_the_string_hash_of_values() -> None:
    assert hash_text("x") == murmur(b"x", TEXT_SEED)
    assert hash_values(pa.array(["x"])).view(np.uint64)[0] == murmur(b"x", TEXT_SEED)[1]


@given(st.lists(st.integers(0, MASK), max_size=20))
def test_id_sum_is_modulo_two_to_the_64(lows: list[int]) -> None:
    pairs = np.zeros((len(lows), 2), np.uint64)
    pairs[:, 1] = lows
    assert id_sum(pairs) == sum(lows) % (1 << 64)
