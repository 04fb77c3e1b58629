"""Arrow IPC streams as events: the same rows and the same verdicts as their JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rta.errors import BadRequestError, TooLargeError
from rta.events.bodies import Body, Limits
from rta.events.ipc_sizes import unpacked_bytes
from rta.events.schemas import Datasource
from rta.events.verdicts import Reason
from tests.events.samples import event, events_datasource, plain_text, rows_of, run, typed_datasource

ARROW = "application/vnd.apache.arrow.stream"
EVENTS = events_datasource()
SOURCE = typed_datasource()


def stream(table: pa.Table, compression: str | None = None) -> Body:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return Body(sink.getvalue().to_pybytes(), ARROW)


def arrow_rows(datasource: Datasource, **columns: Any) -> list[dict[str, Any]]:
    decoded = run(datasource, stream(pa.table(columns)))
    assert decoded.outcomes[0].error is None
    assert not decoded.outcomes[0].verdicts
    return rows_of(decoded)


scalars = {
    "s": plain_text,
    "n": st.integers(-(1 << 63), (1 << 63) - 1),
    "k": plain_text,
    "other": plain_text | st.none(),
    "count": st.integers(-(1 << 31), 1 << 31),
    "flag": st.booleans(),
    "list": st.lists(plain_text, max_size=2),
    "tags": st.lists(plain_text, max_size=2),
}
flat_events = st.fixed_dictionaries(
    {"id": plain_text.filter(bool), "t": st.integers(0, 1_700_000_000_000)},
    optional={**scalars, "o": st.fixed_dictionaries({"d": st.integers(-(1 << 53), 1 << 53), "x": plain_text})},
)


@given(st.lists(flat_events, min_size=1, max_size=6))
def test_arrow_and_json_give_the_same_rows(events: list[dict[str, Any]]) -> None:
    kinds = {
        "n": pa.int64(),
        "count": pa.int64(),
        "flag": pa.bool_(),
        "list": pa.list_(pa.string()),
        "tags": pa.list_(pa.string()),
        "t": pa.timestamp("ms", tz="UTC"),
        "o": pa.struct([("d", pa.float64()), ("x", pa.string())]),
    }
    names = sorted({name for e in events for name in e})
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    by_arrow = run(SOURCE, stream(pa.Table.from_pylist(events, schema)))
    by_json = run(SOURCE, "\n".join(json.dumps(e) for e in events) if len(events) > 1 else json.dumps(events))
    assert rows_of(by_arrow) == rows_of(by_json)
    assert by_arrow.identities.tolist() == by_json.identities.tolist()
    assert by_arrow.partitions.tolist() == by_json.partitions.tolist()


def test_columns_are_found_by_name_by_dotted_path_and_in_structs() -> None:
    base = {"event_id": ["a"], "timestamp": [0], "event_type": ["x"]}
    by_name = arrow_rows(EVENTS, **base, country=["US"], price=[1.5])
    by_path = arrow_rows(EVENTS, **base, **{"properties.country": ["US"], "custom_properties.price": [1.5]})
    inside = arrow_rows(EVENTS, **base, properties=[{"country": "US"}], custom_properties=[{"price": 1.5}])
    assert by_name == by_path == inside
    assert by_name[0]["country"] == "US"
    assert by_name[0]["__rest"] is None


def test_rest_keeps_undeclared_columns_and_struct_members() -> None:
    (row,) = arrow_rows(
        EVENTS,
        event_id=["a"],
        timestamp=[datetime(2025, 1, 1, tzinfo=UTC)],
        event_type=["x"],
        properties=[{"country": "US", "q": 'quo"te\n'}],
        nested=[{"a": [1, 2]}],
        number=[1.5],
        nothing=pa.nulls(1),
        when=[datetime(2025, 1, 1, tzinfo=UTC)],
    )
    assert row["__rest"] == {
        "properties": {"q": 'quo"te\n'},
        "nested": {"a": [1, 2]},
        "number": 1.5,
        "when": "2025-01-01T00:00:00.000+00:00",
    }


@pytest.mark.parametrize(
    ("array", "time"),
    [
        (pa.array([1_000], pa.timestamp("s")), 1_000_000),
        (pa.array([1_000_999], pa.timestamp("us", tz="Europe/Berlin")), 1_000),
        (pa.array([5], pa.int32()), 5),
        (pa.array([5.0]), 5),
        (pa.array([1], pa.date32()), 86_400_000),
        (pa.array(["1970-01-01T00:00:00.25Z"]), 250),
        (pa.array(["1970-01-01T00:00:00.25Z"]).dictionary_encode(), 250),
        (pa.array(["1970-01-01T00:00:00.25Z"], pa.large_string()), 250),
    ],
)
def test_times_come_in_every_arrow_form(array: pa.Array, time: int) -> None:
    assert arrow_rows(SOURCE, id=["a"], t=array)[0]["__time"] == time


def test_types_widen_where_that_is_exact() -> None:
    (row,) = arrow_rows(
        SOURCE,
        id=pa.array(["a"]).dictionary_encode(),
        t=[0],
        n=pa.array([3.0]),
        o=pa.array([{"d": 7}], pa.struct([("d", pa.int16())])),
        j=['{"x":1}'],
    )
    assert (row["n"], row["d"]) == (3, 7.0)


def test_rows_that_do_not_fit_get_their_verdicts_and_the_others_are_in() -> None:
    table = pa.table(
        {
            "id": ["a", None, "c", "d", "e"],
            "t": pa.array([0, 0, 10**14, None, 0]),
            "n": pa.array([1.0, 1.0, 1.0, 1.0, 2.5]),
        }
    )
    decoded = run(SOURCE, stream(table))
    outcome = decoded.outcomes[0]
    assert (outcome.total, outcome.successful) == (5, 1)
    assert [(v.index, v.reason) for v in outcome.verdicts] == [
        (1, Reason.MISSING_FIELD),
        (2, Reason.IN_THE_FUTURE),
        (3, Reason.MISSING_FIELD),
        (4, Reason.WRONG_TYPE),
    ]
    assert outcome.verdicts[3].event_id == "e"
    assert decoded.rows["id"].to_pylist() == ["a"]


def test_column_of_another_type_is_refused_row_by_row() -> None:
    outcome = run(SOURCE, stream(pa.table({"id": ["a", "b"], "t": [0, 0], "s": [1, None]}))).outcomes[0]
    assert outcome.successful == 1
    assert outcome.verdicts[0].detail == "s is the number '1', expected a string"


def test_a_body_with_too_many_rows_for_the_exact_decoder_is_refused_whole() -> None:
    body = stream(pa.table({"id": ["a", "b", "c"], "t": [0, 0, 0], "s": [1, 2, None]}))
    assert run(SOURCE, body, limits=Limits(exact_events=2)).outcomes[0].successful == 1
    assert isinstance(run(SOURCE, body, limits=Limits(exact_events=1)).outcomes[0].error, TooLargeError)


def test_arrow_and_json_bodies_keep_their_order() -> None:
    table = pa.table({"event_id": ["b", "c"], "timestamp": [0, 0], "event_type": ["x", "x"]})
    one, two = json.dumps(event(event_id="a")), json.dumps(event(event_id="d"))
    decoded = run(EVENTS, one, stream(table), stream(table.slice(0, 0)), two, Body(b"junk", ARROW))
    assert decoded.rows["event_id"].to_pylist() == ["a", "b", "c", "d"]
    assert [o.first_row for o in decoded.outcomes[:4]] == [0, 1, 3, 3]
    assert isinstance(decoded.outcomes[4].error, BadRequestError)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_compressed_streams_are_read(compression: str | None) -> None:
    table = pa.table({"id": [f"{i}" for i in range(1000)], "t": [0] * 1000})
    assert run(SOURCE, stream(table, compression)).rows.num_rows == 1000


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_bomb_is_refused_before_it_is_unpacked(compression: str) -> None:
    table = pa.table({"id": ["a" * (1 << 24)], "t": [0]})
    body = stream(table, compression)
    assert len(body.data) < 1 << 20
    outcome = run(SOURCE, body, limits=Limits(unpacked_bytes=1 << 22)).outcomes[0]
    assert isinstance(outcome.error, TooLargeError)
    assert "bytes unpacked" in outcome.error.message


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_unpacked_size_is_told_without_unpacking(compression: str | None) -> None:
    table = pa.table({"a": ["x" * 5000] * 10, "b": pa.array(["y"] * 10).dictionary_encode(), "c": [None] * 10})
    size = unpacked_bytes(stream(table, compression).data)
    assert 50_000 < size < 51_500


def test_damaged_stream_is_a_bad_request() -> None:
    body = stream(pa.table({"id": ["a"], "t": [0]}))
    for data in (b"", b"nonsense", body.data[:-20], body.data[:60], body.data[: len(body.data) // 2]):
        assert isinstance(run(SOURCE, Body(data, ARROW)).outcomes[0].error, BadRequestError)


@given(st.data())
def test_flipped_bytes_never_do_more_than_refuse(data: st.DataObject) -> None:
    body = bytearray(stream(pa.table({"id": ["a", "bcd"], "t": [0, 1], "x": ["y", None]})).data)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    run(SOURCE, Body(bytes(body), ARROW))


@pytest.mark.parametrize("view", [False, True])
def test_text_that_is_stored_once_and_meant_often_is_bounded(view: bool) -> None:
    if view:
        (_, one, text) = pa.array(["x" * 10_000], pa.string_view()).buffers()
        array = pa.Array.from_buffers(
            pa.string_view(), 10_000, [None, pa.py_buffer(one.to_pybytes()[:16] * 10_000), text]
        )
    else:
        array = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), pa.array(["x" * 10_000]))
    table = pa.table({"id": array, "t": [0] * 10_000})
    outcome = run(SOURCE, stream(table), limits=Limits(unpacked_bytes=1 << 22)).outcomes[0]
    assert isinstance(outcome.error, TooLargeError)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([[{"a": "x"}]], pa.list_(pa.struct([("a", pa.dictionary(pa.int8(), pa.string()))]))),
        pa.RunEndEncodedArray.from_arrays([1], ["x"]),
        pa.array([["x"]], pa.list_view(pa.string())),
        pa.array([{"a": "x"}], pa.struct([("a", pa.string_view())])),
    ],
)
def test_columns_that_could_hide_more_than_they_hold_are_refused(array: pa.Array) -> None:
    outcome = run(SOURCE, stream(pa.table({"id": ["a"], "t": [0], "odd": array}))).outcomes[0]
    assert isinstance(outcome.error, BadRequestError)
    assert "'odd'" in outcome.error.message


def test_views_and_maps_are_read() -> None:
    (row,) = arrow_rows(
        SOURCE,
        id=pa.array(["a"], pa.string_view()),
        t=[0],
        m=pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        raw=pa.array([b"bytes"]),
    )
    assert row["id"] == "a"
    assert row["__rest"] == {"m": [["k", 1]], "raw": "bytes"}


def test_what_a_null_hides_is_not_followed() -> None:
    """Arrow checks no view behind a null, and a length below 0 there ended the process in a cast."""
    validity, views, text = pa.array(["a", None, "x" * 20], pa.string_view()).buffers()
    hidden = np.frombuffer(views, np.int32).reshape(-1, 4).copy()
    hidden[1] = [-1 << 24, 0, 0, 0]
    column = pa.Array.from_buffers(pa.string_view(), 3, [validity, pa.py_buffer(hidden), text])
    rows = arrow_rows(SOURCE, id=["a", "b", "c"], t=[0, 0, 0], x=column)
    assert [row["__rest"] for row in rows] == [{"x": "a"}, None, {"x": "x" * 20}]


def test_decimal_of_a_scale_that_no_number_has_is_a_bad_request() -> None:
    kind = pa.decimal128(20, -1_000_000_000)
    odd = pa.Array.from_buffers(kind, 1, [None, pa.py_buffer((15).to_bytes(16, "little"))])
    outcome = run(SOURCE, stream(pa.table({"id": ["a"], "t": [0], "odd": odd}))).outcomes[0]
    assert isinstance(outcome.error, BadRequestError)


def test_times_beyond_every_calendar_cost_their_row() -> None:
    table = pa.table({"id": ["a", "b", "c"], "t": pa.array([0, 1 << 62, -(1 << 62)], pa.timestamp("ms"))})
    outcome = run(SOURCE, stream(table)).outcomes[0]
    assert outcome.error is None
    assert outcome.successful == 1
    assert [v.reason for v in outcome.verdicts] == [Reason.INVALID_TIMESTAMP] * 2


def test_names_twice_are_refused() -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array([0])], names=["id", "id", "t"])
    assert isinstance(run(SOURCE, stream(table)).outcomes[0].error, BadRequestError)
