"""The client against a server that misbehaves."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import polars as pl
import pytest

import rta
from rta.client import BATCH_EVENTS, Client, merge_positions
from rta.errors import ConflictError, InvalidQueryError, LogFullError, NotFoundError, RtaError, UnavailableError
from rta.query.position import Position, decode_position
from tests.cli.fake_server import FakeServer


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_was_not_acknowledged_goes_again_with_the_same_bytes_and_key(server: FakeServer, status: int) -> None:
    server.failures = [(status, "unavailable", "0"), (status, "unavailable", None)]
    with Client(server.url) as client:
        receipt = client.send([{"event_id": "1"}, {"event_id": "2"}])
    assert (receipt.total, receipt.successful, receipt.failed) == (2, 2, 0)
    assert {(taken.key, taken.body) for taken in server.refused + server.taken} == {
        (server.taken[0].key, server.taken[0].body)
    }
    assert len(server.refused) == 2
    assert len(server.events()) == 2


def test_a_dropped_connection_is_not_an_acknowledgement(server: FakeServer) -> None:
    server.failures = [(0, "", None)]
    with Client(server.url) as client:
        assert client.send({"event_id": "1"}).successful == 1
    assert len(server.taken) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415])
def test_a_refusal_is_not_tried_again(server: FakeServer, status: int) -> None:
    server.failures = [(status, "whatever", None)]
    with Client(server.url) as client, pytest.raises(RtaError, match=f"fails with {status}"):
        client.send({"event_id": "1"})
    assert server.taken == []


def test_errors_arrive_as_the_class_that_the_server_raised(server: FakeServer) -> None:
    server.failures = [(400, "invalid_query", None)]
    with Client(server.url, retry_s=0) as client:
        with pytest.raises(InvalidQueryError) as caught:
            client.query(datasource="events")
        assert caught.value.hint == "wait"
        server.failures = [(503, "log_full", "7")]
        with pytest.raises(LogFullError) as full:
            client.send({"event_id": "1"})
        assert full.value.retry_after_s == 7


def test_the_error_of_an_unknown_datasource_names_those_that_exist(server: FakeServer) -> None:
    server.datasources = {"events": {}, "wikipedia": {}}
    with Client(server.url) as client, pytest.raises(NotFoundError, match="'events', 'wikipedia'"):
        client.send({"a": 1}, datasource="wikipdia")


def test_nobody_listening_is_said_with_the_address_and_the_remedy() -> None:
    with Client("http://127.0.0.1:1", retry_s=0) as client, pytest.raises(UnavailableError) as caught:
        client.status()
    assert "http://127.0.0.1:1" in caught.value.message
    assert "rta up" in caught.value.hint


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://here", "http://", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(RtaError, match="is no address"):
        Client(url)


def test_closing_ends_a_pause_of_another_thread() -> None:
    paused = threading.Event()
    client = Client("http://127.0.0.1:1", retry_s=3600, on_pause=lambda _: paused.set())
    failures: list[RtaError] = []

    def send() -> None:
        try:
            client.send({"event_id": "1"})
        except RtaError as error:
            failures.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    assert paused.wait(10)
    client.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert isinstance(failures[0], UnavailableError)


def test_many_events_go_in_several_requests_and_refused_ones_keep_their_index(server: FakeServer) -> None:
    events = [{"n": n} for n in range(2 * BATCH_EVENTS + 10)]
    events[BATCH_EVENTS + 3] = {"bad": 1}
    with Client(server.url) as client:
        receipt = client.send(events, idempotency_key="k")
    assert [taken.key for taken in server.taken] == ["k:0", "k:1", "k:2"]
    assert (receipt.total, receipt.failed) == (len(events), 1)
    assert [row.index for row in receipt.refused] == [BATCH_EVENTS + 3]
    assert receipt.position is not None
    assert decode_position(receipt.position).offsets == {0: ("log", 3)}


def test_nothing_accepted_is_a_receipt_not_an_exception(server: FakeServer) -> None:
    with Client(server.url) as client:
        receipt = client.send([{"bad": 1}, {"bad": 2}])
    assert (receipt.successful, receipt.failed, len(receipt.refused)) == (0, 2, 2)


def test_no_events_are_no_request(server: FakeServer) -> None:
    with Client(server.url) as client:
        assert client.send([]).total == 0
    assert server.taken == []


def test_big_bodies_are_compressed_for_a_server_elsewhere(server: FakeServer) -> None:
    client = Client(server.url)
    client._compress = True
    with client:
        client.send([{"text": "x" * 100} for _ in range(1000)])
        client.send({"n": 1})
    assert [taken.encoding for taken in server.taken] == ["gzip", ""]
    assert len(server.events()) == 1001


def test_answers_turn_into_frames_with_real_times(server: FakeServer) -> None:
    server.answer = {"rows": [{"time": "2026-01-01T00:00:00.000Z", "n": 3}], "meta": {"complete": True}}
    with rta.connect(server.url) as client:
        answer = client.query({"datasource": "events"}, limit=1)
    assert server.queries == [{"datasource": "events", "limit": 1}]
    frame = answer.to_polars()
    assert frame.schema["time"] == pl.Datetime("ms", "UTC")
    assert answer.to_arrow().num_rows == answer.to_pandas().shape[0] == len(answer) == 1


def test_sql_answers_are_tables_in_the_types_of_the_statement(server: FakeServer) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    server.answer = {"rows": [{"t": moment, "n": 3}], "meta": {"complete": True}}
    with rta.connect(server.url) as client:
        answer = client.sql("SELECT t, n FROM x WHERE n = ?", [3], limit=5)
        assert server.queries == [{"query": "SELECT t, n FROM x WHERE n = ?", "parameters": [3], "limit": 5}]
        assert answer.to_polars().to_dicts() == [{"t": moment, "n": 3}]
        assert answer.meta == {"complete": True}
        assert answer.to_arrow().num_rows == answer.to_pandas().shape[0] == len(answer) == 1
        server.failures = [(400, "invalid_query", None)]
        with pytest.raises(InvalidQueryError):
            client.sql("SELEC")


def test_an_existing_datasource_is_a_conflict(server: FakeServer) -> None:
    with Client(server.url) as client:
        client.create_datasource({"name": "wikipedia"})
        with pytest.raises(ConflictError):
            client.create_datasource({"name": "wikipedia"})


def test_merged_positions_cover_all_of_them() -> None:
    early = Position("d.1", {0: ("a", 5), 1: ("a", 1)}).encode()
    late = Position("d.1", {0: ("a", 3), 2: ("a", 9)}).encode()
    merged = merge_positions([None, early, late])
    assert merged is not None
    assert decode_position(merged).offsets == {0: ("a", 5), 1: ("a", 1), 2: ("a", 9)}
    assert merge_positions([None]) is None
