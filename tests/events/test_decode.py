"""What bodies may look like, and what becomes of their events."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rta.errors import BadRequestError
from rta.events.bodies import Body
from rta.events.decode import STEPS, Edge, decode, prepared
from rta.events.keys import identities_of
from rta.events.schemas import ID_HI, ID_LO
from tests.events.samples import NOW_MS, event, events_datasource, ndjson, rows_of, run, run_one, typed_datasource

GOOD = json.dumps(event())
EVENTS = events_datasource()
UNNAMED = typed_datasource(id=None)


@pytest.mark.parametrize(
    ("body", "total"),
    [
        (GOOD, 1),
        (json.dumps(event(), indent=2), 1),
        (f"[{GOOD},{GOOD}]", 2),
        (json.dumps([event(), event()], indent=2), 2),
        ("[]", 0),
        (f'{{"events":[{GOOD},{GOOD}]}}', 2),
        (f'{{ "events" : [ {GOOD} ] }}', 1),
        ('{"events":[]}', 0),
        (f"{GOOD}\n{GOOD}\n", 2),
        (f"\r\n{GOOD}\r\n\r\n  {GOOD}", 2),
        ("\ufeff" + GOOD, 1),
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
def test_json_bodies_come_in_every_documented_shape(body: str, total: int, content_type: str | None) -> None:
    outcome = run_one(Body(body.encode(), content_type))
    assert outcome.error is None
    assert (outcome.total, outcome.successful) == (total, total)


def test_broken_line_among_lines_sent_as_json_costs_itself() -> None:
    outcome = run_one(Body(f"{GOOD}\n{{bad\n{GOOD}".encode(), "application/json"))
    assert (outcome.total, outcome.successful, outcome.verdicts[0].index) == (3, 2, 1)


def test_object_with_events_and_more_is_an_event_itself() -> None:
    text = json.dumps({"events": [1], **event()})
    (row,) = rows_of(run(EVENTS, text))
    assert row["__rest"] == {"events": [1]}


def test_lines_are_not_continued_on_the_next_line() -> None:
    outcome = run_one(ndjson('{"event_id":', '"x"}', GOOD))
    assert (outcome.total, outcome.successful) == (3, 1)


def test_undeclared_members_stay_verbatim_in_the_objects_they_stood_in() -> None:
    text = (
        '{"event_id":"a","timestamp":0,"event_type":"x","z":1.50,"properties":{"country":"US","q":"\\u00e9"},'
        '"custom_properties":{"price":1},"big":123456789012345678901234567890}'
    )
    (rest,) = run(EVENTS, text).rows["__rest"].to_pylist()
    assert rest == '{"z":1.50,"properties":{"q":"\\u00e9"},"big":123456789012345678901234567890}'


def test_null_is_the_same_as_absent() -> None:
    text = (
        json.dumps(event(user_id="u"))[:-1]
        + ',"session_id":null,"x":null,"properties":null,"custom_properties":{"y":null}}'
    )
    (row,) = rows_of(run(EVENTS, text))
    assert row["session_id"] is None
    assert row["__rest"] is None


def test_object_path_that_leads_into_something_else_stays_in_the_rest() -> None:
    (row,) = rows_of(run(EVENTS, json.dumps(event(properties=[], custom_properties="x"))))
    assert row["__rest"] == {"properties": [], "custom_properties": "x"}
    assert row["country"] is None


def test_declared_path_is_not_looked_for_at_the_top_level() -> None:
    (row,) = rows_of(run(EVENTS, json.dumps(event(country="US"))))
    assert row["country"] is None
    assert row["__rest"] == {"country": "US"}


@pytest.mark.parametrize(
    ("written", "milliseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.0019Z", 1),
        ("1970-01-01T01:00:00.5+01:00", 500),
        ("1969-12-31T23:59:59.999Z", -1),
        ("2000-02-29T00:00:00Z", 951_782_400_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000),
        (1_700_000_000_123, 1_700_000_000_123),
        (1_700_000_000_123.0, 1_700_000_000_123),
        (-5, -5),
    ],
)
def test_times_are_exact_milliseconds(written: str | float, milliseconds: int) -> None:
    text = json.dumps({"id": "a", "t": written, "o": {"at": written}})
    (row,) = rows_of(run(typed_datasource(), text))
    assert row["__time"] == row["at"] == milliseconds


def test_first_key_with_a_value_decides_the_partition() -> None:
    ids = [f"{i}" for i in range(64)]
    by_first = run(EVENTS, ndjson(*(json.dumps(event(event_id=i, user_id="u", session_id=i)) for i in ids)))
    by_second = run(EVENTS, ndjson(*(json.dumps(event(event_id=i, user_id=None, session_id="u")) for i in ids)))
    spread = run(EVENTS, ndjson(*(json.dumps(event(event_id=i, user_id=i)) for i in ids)))
    assert len(set(by_first.partitions.tolist())) == 1
    assert set(by_first.partitions.tolist()) == set(by_second.partitions.tolist())
    assert len(set(spread.partitions.tolist())) == 8


def test_same_id_of_another_key_is_another_event() -> None:
    decoded = run(EVENTS, ndjson(*(json.dumps(event(user_id=u)) for u in ("a", "b", "a"))))
    first, second, third = decoded.identities.tolist()
    assert first == third != second


def test_stored_rows_give_the_same_identities_again() -> None:
    for datasource in (EVENTS, typed_datasource(), UNNAMED):
        texts = [json.dumps({**event(event_id=f"{i}"), "id": f"{i}", "t": 0, "k": f"k{i % 3}"}) for i in range(20)]
        decoded = run(datasource, ndjson(*texts))
        assert decoded.rows.num_rows == 20
        assert np.array_equal(identities_of(decoded.rows, datasource), decoded.identities)
        assert len({tuple(i) for i in decoded.identities.tolist()}) == 20


def test_idempotency_key_numbers_the_events_of_its_request() -> None:
    body = Body(b'{"t":0}\n{"bad":1}\n{"t":1}', "application/x-ndjson", idempotency_key="retry-me")
    first = run(UNNAMED, body, edge=1)
    other = run(UNNAMED, ndjson('{"t":5}'), body, edge=2)
    assert first.identities.tolist() == other.identities.tolist()[1:]
    low = first.rows[ID_LO].to_numpy().view(np.uint64)
    assert low[1] - low[0] == 2
    assert first.rows[ID_HI].to_pylist()[0] == first.rows[ID_HI].to_pylist()[1]
    assert first.partitions.tolist() == other.partitions.tolist()[1:]


def test_edge_numbers_events_without_an_idempotency_key() -> None:
    edge = Edge(7)
    bodies = [ndjson('{"t":0}', '{"t":1}'), Body(b'{"t":2}')]
    first = decode(UNNAMED, bodies, edge, NOW_MS)
    again = decode(UNNAMED, bodies, edge, NOW_MS)
    assert edge.next_row == 6
    assert first.rows[ID_HI].to_pylist() == [7, 7, 7]
    assert first.rows[ID_LO].to_pylist() + again.rows[ID_LO].to_pylist() == [0, 1, 2, 3, 4, 5]


def test_missing_ids_are_made_only_where_the_request_asks_for_them() -> None:
    missing = json.dumps(event(event_id=None))
    asked = Body(f"{missing}\n{GOOD}\n{missing}".encode(), "application/x-ndjson", generate_ids=True)
    decoded = run(EVENTS, asked, ndjson(missing, GOOD))
    made = decoded.outcomes[0].generated_ids
    assert made is not None
    assert len(set(made)) == 2
    assert decoded.rows["event_id"].to_pylist() == [made[0], "e1", made[1], "e1"]
    assert decoded.outcomes[1].generated_ids is None
    assert [v.detail for v in decoded.outcomes[1].verdicts] == ["event_id is required"]


def test_ids_can_be_made_for_events_that_the_exact_decoder_reads() -> None:
    text = '{"timestamp":0,"event_type":"a","event_type":"b"}'
    decoded = run(EVENTS, Body(text.encode(), generate_ids=True))
    assert decoded.outcomes[0].generated_ids == decoded.rows["event_id"].to_pylist()
    assert decoded.rows["event_type"].to_pylist() == ["b"]


def test_ids_of_another_type_can_not_be_made() -> None:
    datasource = typed_datasource(id="n")
    outcome = run_one(Body(b'{"t":0}', generate_ids=True), datasource)
    assert isinstance(outcome.error, BadRequestError)
    assert run_one('{"t":0,"n":5}', datasource).successful == 1


def test_no_bodies_are_no_rows() -> None:
    assert run(EVENTS).rows.num_rows == 0


def test_compiled_form_is_kept_per_version_and_never_confused() -> None:
    datasource = typed_datasource()
    assert prepared(datasource) is prepared(typed_datasource())
    other = typed_datasource(columns={"id": "string", "n": "double"}, key=None)
    assert [c.name for c in prepared(other).datasource.columns] == ["id", "n"]


def test_steps_are_a_list_of_named_functions() -> None:
    assert [step.__name__ for step in STEPS][:2] == ["scan_text", "read_columns"]
