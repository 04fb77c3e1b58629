"""Values at paths inside JSON texts, against the standard library."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from rta.events.paths import Kind, extract
from tests.events.samples import names, values, written

documents = st.dictionaries(names, st.dictionaries(names, values, max_size=4) | values, max_size=4)
paths = st.lists(names, min_size=1, max_size=3).map(tuple)


def expected(document: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def check(texts: list[str | None], path: tuple[str, ...]) -> None:
    kind, strings, numbers = extract(pa.array(texts, pa.string()), path)
    for i, text in enumerate(texts):
        value = None if text is None else expected(json.loads(text), path)
        found, number = strings[i].as_py(), numbers[i].as_py()
        match value:
            case None:
                assert (kind[i], found, number) == (Kind.ABSENT, None, None)
            case bool():
                assert (kind[i], found, number) == (Kind.BOOLEAN, str(value).lower(), None)
            case str():
                assert (kind[i], found, number) == (Kind.STRING, value, None)
            case int() | float():
                assert kind[i] == Kind.NUMBER
                assert json.loads(found) == value
                assert number == float(value)
            case _:
                assert (kind[i], number) == (Kind.NESTED, None)
                assert json.loads(found) == value


@given(st.lists(st.none() | documents.flatmap(lambda d: written(d)), max_size=8), paths)
def test_extract_finds_what_the_standard_library_finds(texts: list[str | None], path: tuple[str, ...]) -> None:
    check(texts, path)
    for text in texts:
        if text is not None and (document := json.loads(text)):
            key = next(iter(document))
            inside = document[key]
            check(texts, (key,))
            if isinstance(inside, dict) and inside:
                check(texts, (key, next(iter(inside))))


def test_last_of_repeated_members_counts() -> None:
    _, strings, _ = extract(pa.array(['{"a":1,"a":{"b":"x"}}', '{"a":2,"\\u0061":3}']), ("a",))
    assert strings.to_pylist() == ['{"b":"x"}', "3"]


def test_slices_and_chunks_are_read_in_place() -> None:
    array = pa.array(['{"a":1}', None, '{"a":2}', '{"b":3}'])
    assert extract(array.slice(2), ("a",)).numbers.to_pylist() == [2.0, None]
    chunked = pa.chunked_array([array.slice(0, 1), array.slice(2)])
    assert extract(chunked, ("a",)).numbers.to_pylist() == [1.0, 2.0, None]


def test_what_stands_behind_a_null_is_not_read() -> None:
    texts = pa.array(['{"a":1}', '{"a":2}', '{"a":', '{"a":4}'])
    nulls = pa.py_buffer(bytes([0b1001]))
    array = pa.StringArray.from_buffers(4, texts.buffers()[1], texts.buffers()[2], nulls, 2)
    assert extract(array, ("a",)).numbers.to_pylist() == [1.0, None, None, 4.0]
    assert extract(array.slice(1), ("a",)).kind.tolist() == [Kind.ABSENT, Kind.ABSENT, Kind.NUMBER]
    assert extract(array.slice(2, 1).cast(pa.large_string()), ("a",)).strings.to_pylist() == [None]


@given(
    st.lists(st.none() | documents.flatmap(lambda d: written(d)), max_size=8),
    st.integers(0, 8),
    st.integers(0, 8),
    paths,
)
def test_a_slice_reads_like_a_copy_of_its_own(
    texts: list[str | None], begin: int, length: int, path: tuple[str, ...]
) -> None:
    piece = extract(pa.array(texts, pa.string()).slice(begin, length), path)
    copy = extract(pa.array(texts[begin : begin + length], pa.string()), path)
    assert piece.kind.tolist() == copy.kind.tolist()
    assert piece.strings.equals(copy.strings)
    assert piece.numbers.equals(copy.numbers)


def test_nothing_is_found_in_nothing() -> None:
    found = extract(pa.array([], pa.string()), ("a",))
    assert (len(found.kind), len(found.strings), len(found.numbers)) == (0, 0, 0)
    assert extract(pa.array([None, "", "5"], pa.string()), ("a",)).strings.null_count == 3
