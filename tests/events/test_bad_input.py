"""Bad input costs only itself: each kind of it, its reason, and that its neighbours are in."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rta.errors import BadRequestError, RtaError, TooLargeError, UnsupportedMediaError
from rta.events import decode as decoding
from rta.events import verdicts
from rta.events.bodies import Body, Limits, unpack
from rta.events.definition import events_document, parse_datasource
from rta.events.exact import Judge, judge
from rta.events.verdicts import Reason
from tests.events.samples import event, events_datasource, ndjson, rows_of, run, run_one, typed_datasource, verdict_of

GOOD = json.dumps(event())


def test_one_bad_event_of_a_thousand_is_named_and_the_others_are_in() -> None:
    events = [json.dumps(event(event_id=f"e{i}")) for i in range(1000)]
    events[417] = json.dumps(event(event_id="e417", timestamp=None))
    outcome = run_one("[" + ",".join(events) + "]")
    assert (outcome.total, outcome.successful) == (1000, 999)
    (verdict,) = outcome.verdicts
    assert (verdict.index, verdict.event_id, verdict.reason) == (417, "e417", Reason.MISSING_FIELD)
    assert verdict.detail == "timestamp is required"


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ('{"a":NaN}', Reason.INVALID_JSON, "NaN is not JSON"),
        ('{"a":-Infinity}', Reason.INVALID_JSON, "-Infinity is not JSON"),
        ('{"a":"\\ud800"}', Reason.INVALID_JSON, "\\ud800 is half of a surrogate pair"),
        ('{"a":"\\udc00\\ud800"}', Reason.INVALID_JSON, "half of a surrogate pair"),
        ('{"a":"\\x"}', Reason.INVALID_JSON, "Invalid \\escape"),
        ('{"a":01}', Reason.INVALID_JSON, "character 6"),
        ('{"a":1,}', Reason.INVALID_JSON, "character"),
        ('{"a":"\t"}', Reason.INVALID_JSON, "control character"),
        (json.dumps(event(event_type=None)), Reason.MISSING_FIELD, "event_type is required"),
        (json.dumps(event(event_id="")), Reason.MISSING_FIELD, "event_id is required and must not be empty"),
        (json.dumps(event(timestamp="yesterday")), Reason.INVALID_TIMESTAMP, "'yesterday'"),
        (json.dumps(event(timestamp="2026-01-01T00:00:00")), Reason.INVALID_TIMESTAMP, "with a zone"),
        (json.dumps(event(timestamp="2026-02-30T00:00:00Z")), Reason.INVALID_TIMESTAMP, "2026-02-30"),
        (json.dumps(event(timestamp=True)), Reason.INVALID_TIMESTAMP, "true"),
        (json.dumps(event(timestamp=1.5)), Reason.INVALID_TIMESTAMP, "1.5"),
        (json.dumps(event(timestamp=10**400)), Reason.INVALID_TIMESTAMP, "number"),
        (json.dumps(event(timestamp="0001-01-01T00:00:00+01:00")), Reason.INVALID_TIMESTAMP, "out of range"),
        (json.dumps(event(timestamp=-62135596800001)), Reason.INVALID_TIMESTAMP, "-62135596800001"),
        (json.dumps(event(timestamp="9999-12-31T23:59:59Z")), Reason.IN_THE_FUTURE, "9999"),
        (json.dumps(event(timestamp="2026-01-02T00:00:00.001Z")), Reason.IN_THE_FUTURE, "86,400,000 ms"),
        (json.dumps(event(user_id=7)), Reason.WRONG_TYPE, "user_id is the number '7', expected a string"),
        (json.dumps(event(properties={"is_bot": "yes"})), Reason.WRONG_TYPE, "properties.is_bot is the string 'yes'"),
        (json.dumps(event(custom_properties={"price": "9"})), Reason.WRONG_TYPE, "custom_properties.price"),
        (json.dumps(event(event_id="x" * 129)), Reason.TOO_LARGE, "129 characters"),
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", Reason.INVALID_JSON, "nested deeper than 64 levels"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, Reason.INVALID_JSON, "nested deeper than 64 levels"),
        ('"text"', Reason.WRONG_TYPE, "must be a JSON object, not the string 'text'"),
        ("[1]", Reason.WRONG_TYPE, "must be a JSON object, not an array"),
        ("null", Reason.WRONG_TYPE, "must be a JSON object, not null"),
    ],
)
@pytest.mark.parametrize("shape", ["lines", "array"])
def test_bad_event_gets_its_reason_and_its_neighbours_are_in(
    text: str, reason: Reason, detail: str, shape: str
) -> None:
    body = ndjson(GOOD, text, GOOD) if shape == "lines" else f"[{GOOD}, {text} ,{GOOD}]"
    outcome = run_one(body)
    assert outcome.error is None
    assert (outcome.total, outcome.successful) == (3, 2)
    (verdict,) = outcome.verdicts
    assert (verdict.index, verdict.reason) == (1, reason)
    assert detail in verdict.detail
    assert len(verdict.detail) < 300


def test_invalid_utf8_costs_one_event() -> None:
    text = GOOD.encode() + b"\n" + GOOD.encode().replace(b"u1", b"\xff\xfe") + b"\n" + GOOD.encode()
    outcome = run_one(Body(text, "application/x-ndjson"))
    assert outcome.successful == 2
    assert outcome.verdicts[0].reason is Reason.INVALID_JSON
    assert "not UTF-8" in outcome.verdicts[0].detail


def test_event_of_one_mebibyte_passes_and_one_byte_more_does_not() -> None:
    limits = Limits(event_bytes=1 << 20)
    padding = (1 << 20) - len(json.dumps(event(x="")))
    fits, too_long = json.dumps(event(x="y" * padding)), json.dumps(event(x="y" * (padding + 1)))
    for body in (ndjson(fits, too_long), f"[{fits},{too_long}]"):
        outcome = run_one(body, limits=limits)
        assert (outcome.total, outcome.successful) == (2, 1)
        assert outcome.verdicts[0].index == 1
        assert outcome.verdicts[0].reason is Reason.TOO_LARGE
        assert "1,048,577 bytes" in outcome.verdicts[0].detail


def test_too_old_is_refused_only_where_the_datasource_says_so() -> None:
    old = json.dumps({"id": "a", "t": "1969-12-31T23:59:59.999Z"})
    (row,) = rows_of(run(typed_datasource(), old))
    assert row["__time"] == -1
    verdict = verdict_of(old, typed_datasource(limits={"too_old": "30d"}))
    assert verdict.reason is Reason.TOO_OLD
    assert "30" in verdict.detail or "2,592,000,000 ms" in verdict.detail


@pytest.mark.parametrize(
    ("number", "accepted"),
    [
        ("3", 3),
        ("3.0", 3),
        ("3e2", 300),
        ("-0", 0),
        ("30e-1", 3),
        ("9223372036854775807", (1 << 63) - 1),
        ("-9223372036854775808", -(1 << 63)),
        ("9223372036854775808", None),
        ("-9223372036854775809", None),
        ("1" * 5000, None),
        ("1e400", None),
        ("1e-99999999999", None),
        ("3.5", None),
        ('"3"', None),
        ("true", None),
    ],
)
def test_long_takes_whole_numbers_of_64_bits_and_nothing_else(number: str, accepted: int | None) -> None:
    decoded = run(typed_datasource(), f'{{"id":"a","t":0,"n":{number}}}')
    if accepted is None:
        assert decoded.outcomes[0].verdicts[0].reason is Reason.WRONG_TYPE
        assert decoded.outcomes[0].verdicts[0].event_id == "a"
    else:
        assert rows_of(decoded)[0]["n"] == accepted


@pytest.mark.parametrize("text", ["1e999", "-1e999", "1" + "0" * 400])
def test_double_beyond_its_range_is_refused(text: str) -> None:
    verdict = verdict_of(f'{{"id":"a","t":0,"o":{{"d":{text}}}}}', typed_datasource())
    assert verdict.reason is Reason.WRONG_TYPE
    assert "too large for a double" in verdict.detail


@pytest.mark.parametrize("tags", ['["a",1]', '["a",null]', '"a"', "{}"])
def test_list_of_strings_takes_nothing_else(tags: str) -> None:
    assert verdict_of(f'{{"id":"a","t":0,"tags":{tags}}}', typed_datasource()).reason is Reason.WRONG_TYPE


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "empty"),
        ("  \n ", "empty"),
        ("5", "invalid JSON at byte 0 of 1"),
        ("{bad", "invalid JSON at byte 1 of 4"),
        (f"[{GOOD}", "invalid JSON at byte"),
        (f"[{GOOD} {GOOD}]", "invalid JSON at byte"),
        (f"[{GOOD}] x", "invalid JSON at byte"),
        ('[{"a":"b}]', "invalid JSON at byte"),
        ("[" * 100_000, "invalid JSON at byte"),
        ("\x00", "invalid JSON at byte"),
    ],
)
def test_body_without_boundaries_is_refused_as_a_whole(body: str, message: str) -> None:
    decoded = run(events_datasource(), GOOD, body, GOOD)
    bad = decoded.outcomes[1]
    assert isinstance(bad.error, BadRequestError)
    assert message in str(bad.error)
    assert bad.error.hint
    assert (bad.total, bad.successful, decoded.rows.num_rows) == (0, 0, 2)
    assert [decoded.outcomes[i].successful for i in (0, 2)] == [1, 1]


@pytest.mark.parametrize("text", [f"[{GOOD}, tru, {GOOD}]", f"[{GOOD}, nul, {GOOD}]", f"[{GOOD}, 01, {GOOD}]"])
def test_element_that_is_no_json_but_has_an_end_costs_itself(text: str) -> None:
    outcome = run_one(text)
    assert (outcome.total, outcome.successful) == (3, 2)
    assert outcome.verdicts[0].reason is Reason.INVALID_JSON


def test_more_events_than_a_body_may_have_are_refused() -> None:
    limits = Limits(events=3)
    assert isinstance(run_one(ndjson(*[GOOD] * 4), limits=limits).error, TooLargeError)
    assert run_one(ndjson(*[GOOD] * 3), limits=limits).successful == 3


def test_many_tiny_events_outgrow_the_guess_and_are_all_read() -> None:
    outcome = run_one("[" + ",".join(["{}"] * 5000) + "]")
    assert (outcome.total, outcome.successful, len(outcome.verdicts)) == (5000, 0, 5000)
    assert outcome.verdicts[-1].index == 4999


ELEMENTS = (GOOD, "{}", "1", "tru", json.dumps(event(user_id=5)), json.dumps(event(event_id=None)))


@given(st.lists(st.sampled_from(ELEMENTS), min_size=1, max_size=12), st.booleans())
def test_beyond_the_first_refused_events_only_the_words_are_spared(elements: list[str], too_old: bool) -> None:
    changes = {"limits": {"too_old": "1h"}} if too_old else {}
    datasource = parse_datasource({**events_document(), **changes}, incarnation="i", version=1, partitions=8)
    bodies: list[Body | bytes | str] = ["[" + ",".join(elements) + "]", GOOD, ndjson(*elements)]
    whole = run(datasource, *bodies)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "VERDICTS_MAX", 2)
        spared = run(datasource, *bodies)
    assert rows_of(spared) == rows_of(whole)
    for few, full in zip(spared.outcomes, whole.outcomes, strict=True):
        assert (few.total, few.successful, few.first_row) == (full.total, full.successful, full.first_row)
        assert few.verdicts == full.verdicts[:2]
        assert few.refusals.reasons == full.refusals.reasons == Counter(v.reason for v in full.verdicts)


def test_events_without_a_required_field_cost_no_exact_reading_beyond_the_verdicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged: list[int] = []

    def noted(text: bytes, rules: Judge, index: int) -> Any:
        judged.append(index)
        return judge(text, rules, index)

    monkeypatch.setattr(verdicts, "VERDICTS_MAX", 100)
    monkeypatch.setattr(decoding, "judge", noted)
    outcome = run_one("[" + ",".join(["{}"] * 5000 + [GOOD]) + "]")
    assert (outcome.total, outcome.successful, outcome.refusals.reasons[Reason.MISSING_FIELD]) == (5001, 1, 5000)
    assert judged == list(range(100))


def test_a_body_with_too_much_for_the_exact_decoder_is_refused_alone_and_whole() -> None:
    limits = Limits(exact_events=3)
    odd = json.dumps(event(event_id="odd", user_id=5))
    decoded = run(events_datasource(), GOOD, ndjson(GOOD, *[odd] * 4, GOOD), GOOD, limits=limits)
    error = decoded.outcomes[1].error
    assert isinstance(error, TooLargeError)
    assert "more than 3 of its events" in str(error)
    assert error.hint
    assert [o.successful for o in decoded.outcomes] == [1, 0, 1]
    assert [o.first_row for o in decoded.outcomes if o.error is None] == [0, 1]
    assert decoded.rows.num_rows == 2
    assert run_one(ndjson(GOOD, *[odd] * 3, GOOD), limits=limits).successful == 2


def pack(encoding: str, data: bytes) -> bytes:
    return gzip.compress(data) if encoding == "gzip" else zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_packed_bodies_are_read_also_in_several_members(encoding: str) -> None:
    data = pack(encoding, GOOD.encode() + b"\n") + pack(encoding, GOOD.encode())
    assert run_one(Body(data, "application/x-ndjson", encoding)).successful == 2


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("damage", ["truncated", "cut to nothing", "flipped", "not packed"])
def test_damaged_packed_body_is_a_bad_request(encoding: str, damage: str) -> None:
    packed = bytearray(pack(encoding, GOOD.encode() * 50))
    if damage == "truncated":
        packed = packed[:-5]
    elif damage == "cut to nothing":
        packed = packed[:6]
    elif damage == "flipped":
        packed[0] ^= 0xFF
    else:
        packed = bytearray(GOOD.encode())
    assert isinstance(run_one(Body(bytes(packed), None, encoding)).error, BadRequestError)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_bomb_is_refused_at_the_limit(encoding: str) -> None:
    limits = Limits(unpacked_bytes=1 << 20)
    bomb = pack(encoding, bytes(1 << 26))
    assert len(bomb) < 1 << 20
    with pytest.raises(TooLargeError, match="1,048,576"):
        unpack(Body(bomb, None, encoding), limits)
    assert len(unpack(Body(pack(encoding, bytes(1 << 20)), None, encoding), limits)) == 1 << 20


def test_body_larger_than_allowed_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(TooLargeError, match="11 bytes, at most 10"):
        unpack(Body(b"x" * 11), Limits(body_bytes=10))


@pytest.mark.parametrize(
    "body",
    [
        Body(b"{}", "application/xml"),
        Body(b"{}", None, "br"),
        Body(b"{}", "application/json; charset=latin-1"),
        Body(b"{}", "multipart/form-data; boundary=x"),
    ],
)
def test_unknown_type_or_encoding_is_named(body: Body) -> None:
    assert isinstance(run_one(body).error, UnsupportedMediaError)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=UTF-8", "text/plain;charset=utf-8", "Application/JSON", None]
)
def test_content_type_may_have_parameters_and_any_case(content_type: str | None) -> None:
    assert run_one(Body(GOOD.encode(), content_type)).successful == 1


def test_every_error_of_a_body_survives_as_a_document() -> None:
    outcome = run_one(Body(zlib.compress(b"x"), None, "gzip"))
    assert isinstance(outcome.error, RtaError)
    document: dict[str, Any] = outcome.error.document()
    assert set(document) == {"error", "message", "hint"}
