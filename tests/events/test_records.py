"""Records of other producers as events: the same as over HTTP, whatever the record carries; nothing that is wrong stops it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rta.events.bodies import Limits
from rta.events.keys import identities_of, placed
from rta.events.records import RecordDecoder
from rta.events.schemas import REJECTED_EVENT_BYTES_MAX
from rta.events.sources import narrowed
from rta.events.verdicts import Verdict
from tests.events.made_records import PARTITION, decoded, reading, unpacked, values
from tests.events.samples import NOW_MS, TYPED, ndjson, rows_of, run, texts, typed_datasource
from tests.events.test_laws import mangled
from tests.log.made_batches import Header, Made

TYPED_TOPIC = reading(TYPED)
OVER_HTTP = typed_datasource()
PLAIN: dict[str, Any] = {"name": "plain", "time": "t", "columns": {"s": "string", "n": "long"}}
AROUND: dict[str, Any] = {
    "name": "around",
    "time": "__kafka.timestamp",
    "columns": {
        "s": "string",
        "key": {"path": "__kafka.key", "type": "string"},
        "offset": {"path": "__kafka.offset", "type": "long"},
        "partition": {"path": "__kafka.partition", "type": "long"},
        "tenant": {"path": "__kafka.headers.tenant", "type": "string"},
        "dotted": {"path": '__kafka.headers."a.b"', "type": "string"},
    },
}
PLACES = ("__id_hi", "__id_lo")


def without_places(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in PLACES} for row in rows]


def parsed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        for name in ("__rest", "j"):
            if row.get(name) is not None:
                row[name] = json.loads(row[name])
    return rows


# -- the same as over HTTP -------------------------------------------------------------------------------------------


@given(st.lists(texts | mangled(), min_size=1, max_size=6))
def test_record_is_the_event_that_it_would_be_over_http(lines: list[str]) -> None:
    found = values(TYPED_TOPIC, *lines)
    rows: list[dict[str, Any]] = []
    verdicts: list[Verdict] = []
    for line in lines:
        if not line.strip(" \t\r"):
            verdicts += [found.refused[len(verdicts)].verdict]
            continue
        sent = run(OVER_HTTP, ndjson(line.strip(" \t\r")))
        rows += rows_of(sent)
        verdicts += sent.outcomes[0].verdicts
    assert repr(parsed(without_places(found.dicts()))) == repr(rows)
    # What is wrong is told as a position in the text, which begins behind the record's white space over HTTP.
    assert [r.verdict.reason for r in found.refused] == [v.reason for v in verdicts]


@given(texts, st.sampled_from(["", " ", "\n", "\r\n\t ", "\n\n"]), st.sampled_from(["", " ", "\n", "\r\n\t ", "\n\n"]))
def test_white_space_around_an_event_means_nothing(text: str, before: str, behind: str) -> None:
    pretty = json.dumps(json.loads(text), indent=2)
    plain, spaced = values(TYPED_TOPIC, text), values(TYPED_TOPIC, before + text + behind, before + pretty + behind)
    assert repr(parsed(without_places(spaced.dicts()))) == repr(
        parsed(without_places([*plain.dicts(), *plain.dicts()]))
    )
    assert spaced.reasons() == plain.reasons() * 2


@pytest.mark.parametrize(
    ("value", "reason", "said"),
    [
        pytest.param(None, "invalid_json", "the record has no value", id="tombstone"),
        pytest.param(b"", "invalid_json", "Expecting value", id="empty"),
        pytest.param(b" \n ", "invalid_json", "Expecting value", id="white space"),
        pytest.param(b"garbage", "invalid_json", "Expecting value", id="garbage"),
        pytest.param(b'{"t": 1, "s": "x', "invalid_json", "Unterminated string", id="cut off in a string"),
        pytest.param(b'{"t": 1, "s": {', "invalid_json", "its end", id="cut off in an object"),
        pytest.param(b'{"t": 1} {"t": 2}', "invalid_json", "Extra data", id="two events"),
        pytest.param(b'{"t": 1}\n{"t": 2}', "invalid_json", "Extra data", id="two lines"),
        pytest.param(b'{"t": 1}\0', "invalid_json", "Extra data", id="a zero behind it"),
        pytest.param(b'[{"t": 1}, {"t": 2}]', "wrong_type", "must be a JSON object, not an array", id="array"),
        pytest.param(b"7", "wrong_type", "must be a JSON object, not the number", id="number"),
        pytest.param(b"null", "wrong_type", "must be a JSON object", id="null"),
        pytest.param(b'\xef\xbb\xbf{"t": 1}', "invalid_json", "", id="byte order mark"),
        pytest.param(b'{"t": 1, "s": "\xff"}', "invalid_json", "is not UTF-8", id="no UTF-8"),
        pytest.param('{"t": 1}'.encode("utf-16"), "invalid_json", "is not UTF-8", id="UTF-16"),
        pytest.param(b'{"t": 1, "s": "\\ud800"}', "invalid_json", "surrogate", id="half a surrogate pair"),
        pytest.param(b"[" * 5000, "invalid_json", "nested deeper", id="endless nesting"),
        pytest.param(b'{"t": 1' + b"0" * 5000 + b"}", "invalid_timestamp", "t is", id="endless number"),
        pytest.param(b'{"s": "x"}', "missing_field", "t is required", id="no time"),
        pytest.param(b'{"t": 1, "n": "1"}', "wrong_type", "n is the string", id="wrong type"),
        pytest.param(b'{"t": 99999999999999}', "in_the_future", "ahead", id="in the future"),
    ],
)
def test_bad_record_is_refused_with_its_reason_and_the_others_are_read(
    value: bytes | None, reason: str, said: str
) -> None:
    found = values(reading(PLAIN), b'{"t": 1, "n": 1}', value, b'{"t": 3, "n": 3}', base=40)
    assert found.column("n") == [1, 3]
    assert found.column("__id_lo") == [40 << 20, 42 << 20]
    [refused] = found.refused
    assert (refused.record, refused.number, str(refused.verdict.reason)) == (1, 0, reason)
    assert said in refused.verdict.detail
    assert refused.text == (None if value is None else value.decode(errors="replace"))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_no_bytes_at_all_stop_the_others(garbage: list[bytes]) -> None:
    for datasource in (reading(PLAIN), reading(AROUND), reading(PLAIN, "cloudevents"), reading(PLAIN, "arrow")):
        found = values(datasource, *garbage)
        assert found.events == len(garbage)


def test_of_a_repeated_member_the_last_counts() -> None:
    assert values(reading(PLAIN), '{"t": 1, "n": 1, "n": 2}').column("n") == [2]


def test_event_may_have_its_bytes_and_not_one_more() -> None:
    for datasource in (reading(PLAIN), reading({**AROUND, "time": "t"})):
        event = '{"t": 1, "s": "' + "x" * 200 + '"}'
        found = values(datasource, event, event.replace("xx", "xxx", 1), limits=Limits(event_bytes=len(event)))
        assert found.column("s") == ["x" * 200]
        assert found.reasons() == [
            ("too_large", f"the event has {len(event) + 1:,} bytes, at most {len(event):,} are allowed")
        ]


def test_unusual_event_may_have_its_bytes_with_everything_around_it() -> None:
    event = '{"t": 1e0, "s": "' + "x" * 200 + '", "s": "\\u0061"}'
    assert values(reading({**AROUND, "time": "t"}), event, limits=Limits(event_bytes=len(event))).column("s") == ["a"]


def test_of_a_refused_event_the_beginning_is_kept() -> None:
    [refused] = values(reading(PLAIN), b"ab" * REJECTED_EVENT_BYTES_MAX).refused
    assert refused.text == "ab" * (REJECTED_EVENT_BYTES_MAX // 2)


# -- only what is needed ---------------------------------------------------------------------------------------------

ROLLED: dict[str, Any] = {
    **TYPED,
    "rollups": [
        {
            "name": "r",
            "granularity": "minute",
            "dimensions": ["s", "b"],
            "metrics": [{"name": "c", "type": "count"}, {"name": "d", "type": "sum", "field": "d"}],
        }
    ],
}


@given(st.lists(texts, min_size=1, max_size=5))
def test_datasource_without_raw_table_reads_the_same_into_what_its_rollups_need(lines: list[str]) -> None:
    whole = reading(ROLLED, id=None)
    narrow = narrowed(reading(ROLLED, id=None, retention={"events": None}))
    assert {c.name for c in narrow.columns} == {"s", "b", "d"}
    all_of_it, needed = values(whole, *lines), values(narrow, *lines)
    refused = {r.record for r in all_of_it.refused}
    kept = [row for row in needed.dicts() if row["__id_lo"] >> 20 not in refused]
    names = ["__time", "s", "b", "d", *PLACES]
    assert repr([{n: r[n] for n in names} for r in kept]) == repr([{n: r[n] for n in names} for r in all_of_it.dicts()])
    assert all(row["__rest"] is None for row in needed.dicts())
    assert {r.record for r in needed.refused} <= refused


def test_narrowed_datasource_keeps_what_identity_and_requirements_need() -> None:
    kept = narrowed(reading(ROLLED, retention={"events": None}))
    assert {c.name for c in kept.columns} == {"s", "b", "d", "id", "k", "o.k"}
    with_raw = reading(ROLLED)
    assert narrowed(with_raw) is with_raw


# -- key, headers, place ---------------------------------------------------------------------------------------------


def around(key: bytes | None, *headers: Header, value: bytes = b'{"s": "v"}') -> dict[str, Any]:
    found = decoded(reading(AROUND), [Made(5, value, key, headers, 17)], base=100)
    assert not found.refused
    [row] = found.dicts()
    return row


def test_key_headers_place_and_time_become_columns() -> None:
    row = around(b"user-1", (b"tenant", b"acme"), (b"a.b", b"dots"))
    assert row["__time"] == NOW_MS + 17
    assert (row["key"], row["tenant"], row["dotted"]) == ("user-1", "acme", "dots")
    assert (row["offset"], row["partition"], row["s"]) == (105, PARTITION, "v")


def test_record_that_its_producer_gave_no_time_is_none_of_1969() -> None:
    datasource = reading({"name": "timed", "time": "__kafka.timestamp", "columns": {"n": "long"}})
    found = decoded(datasource, [Made(0, b'{"n": 1}'), Made(1, b'{"n": 2}', later_ms=-NOW_MS - 1)])
    assert found.column("n") == [1]
    assert found.reasons() == [("missing_field", "__kafka.timestamp is required")]


def test_what_is_not_there_is_null() -> None:
    row = around(None, (b"tenant", None))
    assert (row["key"], row["tenant"], row["dotted"]) == (None, None, None)
    assert around(b"")["key"] == ""


@pytest.mark.parametrize("count", [2, 200])
def test_of_headers_with_one_name_the_last_counts(count: int) -> None:
    headers = [(b"tenant", str(i).encode()) for i in range(count)]
    assert around(b"k", *headers)["tenant"] == str(count - 1)
    assert around(b"k", *headers, (b"tenant", None))["tenant"] is None


@given(
    st.none() | st.binary(max_size=30) | st.text('"\\\n\x00\x1f\x7füé😀/', max_size=10).map(str.encode),
    st.text('"\\\n\x00\x1f\x7füé😀/', max_size=10).map(str.encode),
)
def test_every_byte_of_key_and_header_arrives(key: bytes | None, header: bytes) -> None:
    row = around(key, (b"tenant", header), value=b' \n {"s" : "v"} \n')
    assert row["tenant"] == header.decode()
    if key is None:
        assert row["key"] is None
    else:
        # What is no UTF-8 is replaced, here byte by byte.
        assert row["key"].replace("\ufffd", "") == key.decode(errors="replace").replace("\ufffd", "")
        assert ("\ufffd" in row["key"]) == ("\ufffd" in key.decode(errors="replace"))


def test_what_a_producer_writes_under_that_name_does_not_count() -> None:
    row = around(b"mine", value=b'{"s": "v", "__kafka": {"key": "forged", "offset": 7, "partition": 9}}')
    assert (row["key"], row["offset"], row["partition"]) == ("mine", 105, PARTITION)


@given(st.lists(mangled(), min_size=1, max_size=4))
def test_putting_something_in_makes_no_event_right_or_wrong(lines: list[str]) -> None:
    columns: Any = TYPED["columns"]
    document = {**TYPED, "columns": {**columns, "key": {"path": "__kafka.key", "type": "string"}}}
    plain, wrapped = values(TYPED_TOPIC, *lines), values(reading(document), *lines)
    assert [r.record for r in plain.refused] == [r.record for r in wrapped.refused]
    same = [{k: v for k, v in row.items() if k != "key"} for row in parsed(wrapped.dicts())]
    assert repr(same) == repr(parsed(plain.dicts()))


def test_empty_object_is_an_event_where_all_comes_from_around_it() -> None:
    for value in (b"{}", b" { \n } "):
        assert around(b"k", value=value)["key"] == "k"


def test_header_may_be_the_time_and_the_key_the_id() -> None:
    document = {
        "name": "d",
        "time": "__kafka.headers.at",
        "id": "key",
        "columns": {"key": {"path": "__kafka.key", "type": "string"}},
    }
    found = decoded(
        reading(document), [Made(0, b"{}", b"id-1", ((b"at", b"2026-01-01T00:00:00.250Z"),)), Made(1, b"{}")]
    )
    assert (found.column("__time"), found.column("key")) == ([NOW_MS + 250], ["id-1"])
    assert found.reasons()[0][0] == "missing_field"


# -- who an event is -------------------------------------------------------------------------------------------------


def test_event_without_id_is_its_place() -> None:
    datasource = reading(PLAIN)
    first, again = (values(datasource, '{"t": 1}', '{"t": 1}', base=9) for _ in range(2))
    ids = identities_of(first.rows, datasource)
    assert len(np.unique(ids, axis=0)) == 2
    assert (ids == identities_of(again.rows, datasource)).all()
    _, partitions = placed(first.rows, datasource)
    assert partitions.tolist() == [PARTITION, PARTITION]


def test_event_with_id_is_the_same_wherever_it_lies() -> None:
    datasource = reading({**PLAIN, "id": "s"})
    rows = values(datasource, '{"t": 1, "s": "a"}', '{"t": 2, "s": "a"}', '{"t": 1, "s": "b"}').rows
    ids, partitions = placed(rows, datasource)
    assert ids[0].tolist() == ids[1].tolist() != ids[2].tolist()
    assert partitions.tolist() == [PARTITION] * 3


def test_places_of_other_topics_and_partitions_differ() -> None:
    datasource = reading(PLAIN)
    records = unpacked([Made(0, b'{"t": 1}')])
    highs = {
        next(iter(RecordDecoder(datasource, p, name, 1 << 20).decode(records, NOW_MS))).rows["__id_hi"][0].as_py()
        for p in (0, 1, 1023)
        for name in ("one-0", "two-0")
    }
    assert len(highs) == 6


def test_many_records_are_decoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rta.events.records.RECORDS_AT_ONCE", 7)
    lines = [f'{{"t": 1, "n": {i}}}' if i % 5 else "bad" for i in range(40)]
    found = values(reading(PLAIN), *lines)
    assert found.column("n") == [i for i in range(40) if i % 5]
    assert [r.record for r in found.refused] == list(range(0, 40, 5))


# -- CloudEvents -----------------------------------------------------------------------------------------------------

CLOUD: dict[str, Any] = {
    "name": "cloud",
    "time": "time",
    "id": "id",
    "columns": {
        "type": "string",
        "source": "string",
        "total": {"path": "data.total", "type": "double"},
        "data": {"path": "data.text", "type": "string"},
    },
}
BINARY = (
    (b"ce_specversion", b"1.0"),
    (b"ce_id", b"e-1"),
    (b"ce_type", b"order"),
    (b"ce_source", b"/shop"),
    (b"ce_time", b"2026-01-01T00:00:00Z"),
)
WHOLE: dict[str, Any] = {**CLOUD, "columns": {"type": "string", "data": "json", "datacontenttype": "string"}}


def cloud(document: dict[str, Any], *headers: Header, value: bytes | None) -> dict[str, Any]:
    found = decoded(reading(document, "cloudevents"), [Made(0, value, None, headers)])
    assert not found.refused, found.reasons()
    return found.dicts()[0]


def test_structured_and_binary_cloud_events_are_the_same() -> None:
    event = {
        "specversion": "1.0",
        "id": "e-1",
        "type": "order",
        "source": "/shop",
        "time": "2026-01-01T00:00:00Z",
        "data": {"total": 9.5, "text": "x"},
    }
    written = (b"content-type", b"application/cloudevents+json; charset=UTF-8")
    structured = cloud(CLOUD, written, value=json.dumps(event).encode())
    binary = cloud(CLOUD, *BINARY, value=b'{"total": 9.5, "text": "x"}')
    assert structured == binary
    assert (binary["id"], binary["type"], binary["total"], binary["data"]) == ("e-1", "order", 9.5, "x")
    assert binary["__time"] == NOW_MS


@pytest.mark.parametrize("value", [None, b""])
def test_binary_cloud_event_may_have_no_data(value: bytes | None) -> None:
    assert cloud(WHOLE, *BINARY, value=value)["data"] is None
    # Read by the exact decoder as well.
    assert cloud(WHOLE, *BINARY, (b"ce_type", b"again"), *[(b"ce_x", b"1")] * 99, value=value)["type"] == "again"


def test_data_of_another_type_are_a_text() -> None:
    row = cloud(WHOLE, *BINARY, (b"content-type", b"text/plain"), value=b'a "text"\n')
    assert (json.loads(row["data"]), row["datacontenttype"]) == ('a "text"\n', "text/plain")
    assert json.loads(cloud(WHOLE, *BINARY, (b"content-type", None), value=b"[1]")["data"]) == [1]


@given(texts)
def test_any_json_are_data(text: str) -> None:
    assert json.loads(cloud(WHOLE, *BINARY, value=text.encode())["data"]) == json.loads(text)


@pytest.mark.parametrize(
    "value", [b'1, "type": "forged"', b'1}, {"type": "forged"', b"1}", b'{"a": 1', b"nonsense", b'"x', b"1 ]", b"{}}"]
)
def test_data_that_are_no_json_are_refused_and_never_pass_for_members(value: bytes) -> None:
    found = decoded(reading(WHOLE, "cloudevents"), [Made(0, value, None, BINARY)])
    assert [reason for reason, _ in found.reasons()] == ["invalid_json"]


def test_cloud_events_carry_key_and_headers_too() -> None:
    document = {**CLOUD, "columns": {**CLOUD["columns"], "key": {"path": "__kafka.key", "type": "string"}}}
    for value, headers in ((b'{"total": 1}', BINARY), (b'{"id": "e-1", "time": 1}', ())):
        found = decoded(reading(document, "cloudevents"), [Made(0, value, b"k", headers)])
        assert found.column("key") == ["k"], found.reasons()


# -- Arrow -----------------------------------------------------------------------------------------------------------


def stream(**columns: list[Any]) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def test_record_in_arrow_has_many_events() -> None:
    found = values(
        reading(PLAIN, "arrow"), stream(t=[1, 2], n=[1, 2]), stream(t=[3], n=[3]), stream(t=[], n=[]), base=5
    )
    assert found.column("n") == [1, 2, 3]
    assert found.column("__id_lo") == [5 << 20, 5 << 20 | 1, 6 << 20]


def test_broken_record_in_arrow_is_one_refused_event() -> None:
    whole = stream(t=[1], n=[1])
    for broken in (b"garbage", whole[:60], whole[: len(whole) // 2], None, b'{"t": 1}'):
        found = values(reading(PLAIN, "arrow"), whole, broken, whole)
        assert (found.column("n"), [r.record for r in found.refused]) == ([1, 1], [1])
        assert found.reasons()[0][0] == "invalid_json"
        assert "Arrow" in found.reasons()[0][1]


def test_wrong_row_in_arrow_is_refused_alone() -> None:
    found = values(reading(PLAIN, "arrow"), stream(t=[1, None, 3], n=[1, 2, 3]), base=5)
    assert found.column("__id_lo") == [5 << 20, 5 << 20 | 2]
    [refused] = found.refused
    assert (refused.record, refused.number, refused.verdict.reason) == (0, 1, "missing_field")


def test_every_refused_row_is_kept_however_many_there_are() -> None:
    count = 12_000
    found = values(reading(PLAIN, "arrow"), stream(t=[1, *[None] * count], n=[1] * (count + 1)))
    assert [r.number for r in found.refused] == list(range(1, count + 1))
    assert {str(r.verdict.reason) for r in found.refused} == {"missing_field"}
    assert found.reasons()[-1][1] == "one of 2,000 more refused events of this record: 2,000 missing_field"


def test_records_in_arrow_that_are_much_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rta.events.records.ROWS_BYTES", 1)
    datasource = reading(PLAIN, "arrow")
    decoder = RecordDecoder(datasource, PARTITION, "x", 1 << 20)
    parts = list(decoder.decode(unpacked([Made(i, stream(t=[i], n=[i])) for i in range(4)]), NOW_MS))
    assert [p.end for p in parts] == [1, 2, 3, 4]
    assert [r for p in parts for r in p.rows["n"].to_pylist()] == [0, 1, 2, 3]
