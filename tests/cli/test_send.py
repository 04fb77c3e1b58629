"""Files of every shape become the same requests with the same keys."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.client import Client
from rta.errors import BadRequestError
from rta.send import BATCH_EVENTS, Batch, batches, explain, send_file
from tests.cli.fake_server import FakeServer


def cut(data: bytes) -> list[Batch]:
    return list(batches(io.BufferedReader(io.BytesIO(data)), "it"))


def events_of(cuts: Sequence[Batch]) -> list[Any]:
    return [json.loads(line) for batch in cuts for line in batch.body.splitlines()]


def ndjson(events: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.lists(st.dictionaries(st.sampled_from("abc"), values, min_size=1), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(objects, st.sampled_from([None, 2]), st.booleans())
def test_every_form_of_the_same_events_is_read_alike(events: list[Any], indent: int | None, blanks: bool) -> None:
    lines = ndjson(events)
    expected = events_of(cut(lines))
    assert expected == events
    forms = [
        lines.replace(b"\n", b"\n\n") if blanks else lines.removesuffix(b"\n"),
        json.dumps(events, indent=indent).encode(),
        json.dumps({"events": events}, indent=indent).encode(),
        b"\xef\xbb\xbf" + lines,
        lines.replace(b"\n", b"\r\n"),
    ]
    for form in forms:
        for packed in (form, gzip.compress(form), zstandard.compress(form)):
            assert events_of(cut(packed)) == events


def test_packing_does_not_change_the_keys() -> None:
    data = ndjson([{"n": n} for n in range(3 * BATCH_EVENTS)])
    half = len(data) // 2
    keys = [batch.key for batch in cut(data)]
    assert len(set(keys)) == 3
    assert [batch.key for batch in cut(gzip.compress(data))] == keys
    two_frames = zstandard.compress(data[:half]) + zstandard.compress(data[half:])
    assert [batch.key for batch in cut(two_frames)] == keys


def test_other_content_gives_other_keys_from_there_on() -> None:
    events = [{"n": n} for n in range(3 * BATCH_EVENTS)]
    keys = [batch.key for batch in cut(ndjson(events))]
    events[BATCH_EVENTS] = {"n": -1}
    others = [batch.key for batch in cut(ndjson(events))]
    assert keys[0] == others[0]
    assert keys[1] != others[1]
    assert keys[2] != others[2]


def test_repeated_content_gives_each_request_a_key_of_its_own() -> None:
    cuts = cut(ndjson([{"same": 1}] * (3 * BATCH_EVENTS)))
    assert len({batch.key for batch in cuts}) == 3


def test_a_column_that_is_called_events_is_no_wrapper() -> None:
    events = [{"events": [{"a": 1}]}, {"events": [{"a": 2}]}]
    assert events_of(cut(ndjson(events))) == events


def test_a_broken_line_is_left_to_the_server() -> None:
    cuts = cut(b'{"a": 1\n{"a": 2}\n')
    assert cuts[0].body == b'{"a": 1\n{"a": 2}\n'


def test_one_object_over_several_lines_is_one_event() -> None:
    assert events_of(cut(b'\n{\n  "a": 1\n}\n')) == [{"a": 1}]


@pytest.mark.parametrize("data", [b"", b"\n \n", b"[]", b'{"events": []}'])
def test_nothing_is_no_request(data: bytes) -> None:
    assert cut(data) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PAR1xxxx", "Parquet"),
        (b"time,page\n1,2\n", "CSV comes with a later version"),
        (gzip.compress(b'{"a": 1}\n' * 10_000)[:-20], "ends early"),
        (zstandard.compress(b'{"a": 1}\n' * 10_000)[:-5], "ends early"),
        (gzip.compress(b"")[:9], "ends early"),
        (b'[{"a": 1}, {"a":', "begins as a JSON array but is none"),
        (b'{"a": 1}\n{"b": "' + b"x" * (9 << 20), "more than 8 MiB"),
    ],
)
def test_what_cannot_be_read_is_said_with_the_remedy(data: bytes, words: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        cut(data)
    assert words in str(caught.value)
    assert caught.value.hint


def test_sending_a_file_twice_counts_once(server: FakeServer) -> None:
    events = [{"n": n} for n in range(5 * BATCH_EVENTS + 17)]
    with tempfile.TemporaryDirectory() as folder, Client(server.url) as client:
        path = Path(folder) / "events.ndjson.gz"
        path.write_bytes(gzip.compress(ndjson(events)))
        reports = [send_file(client, str(path), "events") for _ in range(2)]
    assert [report.successful for report in reports] == [len(events)] * 2
    assert sorted(event["n"] for event in server.events()) == list(range(len(events)))


def test_refused_events_are_numbered_through_the_whole_file(server: FakeServer, tmp_path: Path) -> None:
    events: list[dict[str, int]] = [{"n": n} for n in range(BATCH_EVENTS + 100)]
    for n in (5, BATCH_EVENTS + 7):
        events[n] = {"bad": n}
    path = tmp_path / "events.ndjson"
    path.write_bytes(ndjson(events))
    with Client(server.url) as client:
        report = send_file(client, str(path), "events")
    assert explain(report) == [
        "event 6: wrong_type: bad is bad",
        f"event {BATCH_EVENTS + 8}: wrong_type: bad is bad",
    ]


def test_the_server_going_away_ends_the_sending(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(ndjson([{"n": n} for n in range(20 * BATCH_EVENTS)]))
    server.failures = [(413, "too_large", None)]
    with Client(server.url) as client, pytest.raises(Exception, match="fails with 413"):
        send_file(client, str(path), "events")
    assert len(server.taken) < 20
