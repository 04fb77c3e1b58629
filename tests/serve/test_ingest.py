"""The documented answer to everything that can be posted, from the real decoder over a log in memory."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pyarrow as pa
import pytest
import zstandard

from rta.errors import LogFullError, NotFoundError, UnavailableError
from rta.events.batch import read
from rta.events.bodies import Limits
from rta.events.decode import Edge, decode
from rta.query.position import decode_position
from rta.serve import intake as intake_module
from rta.serve.http import Message, Scope
from rta.serve.ingest import IngestApp
from rta.serve.intake import Intake, IntakeLimits
from tests.serve.fakes import KEYLESS, NOW_MS, FakeDefinitions, FakeWriter, incarnations

pytestmark = pytest.mark.anyio
EDGE = 77


def event(i: int = 0, **changes: Any) -> dict[str, Any]:
    made = {
        "event_id": f"e{i}",
        "timestamp": "2026-01-01T09:59:00.000Z",
        "event_type": "page_view",
        "user_id": f"user_{i}",
        **changes,
    }
    return {key: value for key, value in made.items() if value is not ...}


@pytest.fixture
def app(definitions: FakeDefinitions, writer: FakeWriter) -> IngestApp:
    limits = IntakeLimits(Limits(body_bytes=100_000, unpacked_bytes=300_000, event_bytes=10_000), threads=1)
    return IngestApp(Intake(definitions, writer, Edge(EDGE), limits, lambda: NOW_MS, incarnations))


@pytest.fixture
async def client(app: IngestApp) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rta") as client:
        yield client
    await app.close()


def is_error(answer: httpx.Response, status: int, code: str) -> bool:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert set(document) == {"error", "message", "hint"}
    return bool(document["error"] == code)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


# ---- what is accepted ----------------------------------------------------


async def test_one_event_is_in_the_log_before_it_is_acknowledged(
    client: httpx.AsyncClient, writer: FakeWriter, definitions: FakeDefinitions
) -> None:
    answer = await client.post("/v1/events", json=event(1))
    assert answer.status_code == 200
    document = answer.json()
    position = decode_position(document.pop("position"))
    assert document == {"total": 1, "successful": 1, "failed": 0, "errors": []}
    (record,) = writer.records
    assert position.folder == "events.life1" == writer.appended[0][0]
    assert position.offsets == {record.partition: (f"events.life1/{record.partition}", 1)}
    assert (record.header.events, record.header.edge, record.header.sequence) == (1, EDGE, 0)
    assert record.header.definition_version == definitions.known["events"].version
    rows = read(record.payload, definitions.known["events"])
    assert rows.column("event_id").to_pylist() == ["e1"]


FORMS = {
    "array": (json.dumps([event(1), event(2)]), "application/json"),
    "object of events": (json.dumps({"events": [event(1), event(2)]}), "application/json"),
    "lines": (f"{json.dumps(event(1))}\n{json.dumps(event(2))}\n", "application/x-ndjson"),
    "what sendBeacon sends": (json.dumps([event(1), event(2)]), "text/plain;charset=UTF-8"),
    "no content type": (json.dumps([event(1), event(2)]), ""),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "zstd"])
async def test_every_form_and_encoding_is_read(
    client: httpx.AsyncClient, writer: FakeWriter, form: str, encoding: str
) -> None:
    text, content_type = FORMS[form]
    pack = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}.get(encoding, bytes)
    headers = {"Content-Type": content_type} if content_type else {}
    if encoding:
        headers["Content-Encoding"] = encoding
    answer = await client.post("/v1/events/events", content=pack(text.encode()), headers=headers)
    assert (answer.status_code, answer.json()["successful"]) == (200, 2)
    assert writer.events == 2


async def test_an_arrow_stream_is_read(client: httpx.AsyncClient, writer: FakeWriter) -> None:
    table = pa.Table.from_pylist([event(1), event(2)])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    headers = {"Content-Type": "application/vnd.apache.arrow.stream"}
    answer = await client.post("/v1/events", content=sink.getvalue(), headers=headers)
    assert (answer.status_code, answer.json()["successful"]) == (200, 2)
    assert writer.events == 2


async def test_a_datasource_whose_log_is_too_far_ahead_takes_no_events_until_it_is_not(
    definitions: FakeDefinitions, writer: FakeWriter
) -> None:
    intake = Intake(definitions, writer, Edge(EDGE), IntakeLimits(threads=1), lambda: NOW_MS, incarnations)
    app = IngestApp(intake)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rta") as client:
        intake.refuse({definitions.known["events"].folder: "it is 7 bytes behind, limit 5 bytes"})
        refused = await client.post("/v1/events", json=event(1))
        assert is_error(refused, 503, "log_full")
        assert int(refused.headers["Retry-After"]) > 0
        assert "7 bytes behind" in refused.json()["message"]
        other = await client.post("/v1/events/clicks", json={"at": NOW_MS, "who": "a", "price": 1.0})
        assert other.status_code == 200
        intake.refuse({})
        assert (await client.post("/v1/events", json=event(1))).status_code == 200
        assert writer.events == 2
    await app.close()


async def test_one_bad_event_of_a_thousand_costs_itself(client: httpx.AsyncClient, writer: FakeWriter) -> None:
    limits = IntakeLimits(threads=1)
    app = IngestApp(Intake(FakeDefinitions(), writer, Edge(EDGE), limits, lambda: NOW_MS, incarnations))
    events = [event(i) for i in range(1000)]
    events[417] = event(417, timestamp=...)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rta") as client:
        answer = await client.post("/v1/events", json=events)
    document = answer.json()
    assert answer.status_code == 200
    assert (document["total"], document["successful"], document["failed"]) == (1000, 999, 1)
    (refused,) = document["errors"]
    assert (refused["index"], refused["event_id"], refused["reason"]) == (417, "e417", "missing_field")
    assert "timestamp" in refused["detail"]
    assert writer.events == 999


async def test_when_no_event_is_good_the_status_says_so(client: httpx.AsyncClient, writer: FakeWriter) -> None:
    answer = await client.post("/v1/events", json=[event(1, timestamp="yesterday"), event(2, event_type=5)])
    assert answer.status_code == 422
    document = answer.json()
    assert [error["reason"] for error in document["errors"]] == ["invalid_timestamp", "wrong_type"]
    assert decode_position(document["position"]).offsets == {}
    assert writer.records == []


async def test_a_request_without_events_accepted_none(client: httpx.AsyncClient, writer: FakeWriter) -> None:
    answer = await client.post("/v1/events", json=[])
    assert (answer.status_code, answer.json()["total"], answer.json()["errors"]) == (422, 0, [])
    assert writer.records == []


async def test_ids_are_made_where_asked_for_and_the_retry_is_called_unsafe(
    client: httpx.AsyncClient, writer: FakeWriter
) -> None:
    events = [event(1, event_id=...), event(2), event(3, event_id=...)]
    assert (await client.post("/v1/events", json=events)).json()["failed"] == 2
    document = (await client.post("/v1/events?ids=generate", json=events)).json()
    assert document["successful"] == 3
    assert len(set(document["generated_ids"])) == 2
    assert document["retry_safe"] is False


async def test_an_idempotency_key_gives_the_same_identities_again(
    client: httpx.AsyncClient, writer: FakeWriter
) -> None:
    body = [{"at": NOW_MS, "who": "a"}, {"at": NOW_MS, "who": "a"}]
    for key in ("order-1", "order-1", "order-2"):
        answer = await client.post("/v1/events/clicks", json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 200
    sums = [record.header.id_sum for record in writer.records]
    assert sums[0] == sums[1] != sums[2]


async def test_without_a_key_no_two_events_share_an_identity(
    client: httpx.AsyncClient, writer: FakeWriter, definitions: FakeDefinitions
) -> None:
    body = [{"at": NOW_MS, "who": "a"}] * 10
    await asyncio.gather(*(client.post("/v1/events/clicks", json=body) for _ in range(20)))
    seen = set()
    for record in writer.records:
        rows = read(record.payload, definitions.known["clicks"])
        seen |= set(zip(rows.column("__id_hi").to_pylist(), rows.column("__id_lo").to_pylist(), strict=True))
    assert len(seen) == 200


async def test_records_of_a_partition_are_numbered_in_the_order_of_the_log(
    client: httpx.AsyncClient, writer: FakeWriter
) -> None:
    for i in range(30):
        await client.post("/v1/events", json=event(i))
    numbers: dict[int, list[int]] = {}
    for record in writer.records:
        numbers.setdefault(record.partition, []).append(record.header.sequence)
    assert len(numbers) > 1
    assert all(sequence == list(range(len(sequence))) for sequence in numbers.values())


async def test_coalesced_requests_get_their_own_indices_and_ids(client: httpx.AsyncClient, writer: FakeWriter) -> None:
    writer.gate = asyncio.Event()
    first = asyncio.ensure_future(client.post("/v1/events", json=event(0)))
    await until(lambda: writer.under_way)
    bodies = [[event(10), event(11, timestamp=...)], [event(20, event_type=...), event(21)], [event(30)]]
    rest = [asyncio.ensure_future(client.post("/v1/events", json=body)) for body in bodies]
    rest.append(asyncio.ensure_future(client.post("/v1/events", content=b"")))
    await until(lambda: sum(len(lane.waiting) for lane in _lanes(client)) == 4 or writer.under_way == 2)
    writer.gate.set()
    answers = await asyncio.gather(first, *rest)
    documents = [answer.json() for answer in answers]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 400]
    assert [d.get("successful") for d in documents] == [1, 1, 1, 1, None]
    assert [(e["index"], e["event_id"]) for e in documents[1]["errors"]] == [(1, "e11")]
    assert [(e["index"], e["event_id"]) for e in documents[2]["errors"]] == [(0, "e20")]
    assert documents[3]["errors"] == []
    assert len(writer.appended) == 2
    assert writer.events == 4


def _lanes(client: httpx.AsyncClient) -> list[Any]:
    app: Any = client._transport.app  # type: ignore[attr-defined]  # the app under test
    return list(app.intake._gathered._lanes.values())


# ---- what is refused ----------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"{", {}),
        (b"nonsense", {}),
        (b"\xff\xfe\x00", {}),
        (gzip.compress(b"[]" * 99)[:-9], {"Content-Encoding": "gzip"}),
        (b"no gzip", {"Content-Encoding": "gzip"}),
        (b"no zstd", {"Content-Encoding": "zstd"}),
        (b"no arrow", {"Content-Type": "application/vnd.apache.arrow.stream"}),
        (b"{}", {"Idempotency-Key": "k" * 257}),
    ],
)
async def test_what_can_not_be_read_as_a_whole_is_a_bad_request(
    client: httpx.AsyncClient, writer: FakeWriter, body: bytes, headers: dict[str, str]
) -> None:
    assert is_error(await client.post("/v1/events", content=body, headers=headers), 400, "bad_request")
    assert writer.records == []


async def test_an_unknown_value_of_ids_is_refused(client: httpx.AsyncClient) -> None:
    assert is_error(await client.post("/v1/events?ids=make", json=event()), 400, "bad_request")


async def test_an_unknown_datasource_is_not_found_and_the_nearest_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/events/event", json=event())
    assert is_error(answer, 404, "not_found")
    assert "'events'" in answer.json()["hint"]


@pytest.mark.parametrize("path", ["/v1/events/a/b", "/v1/eventsx", "/", "/v1"])
async def test_other_paths_are_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert is_error(await client.post(path, json=event()), 404, "not_found")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_other_methods_are_refused_with_those_allowed(client: httpx.AsyncClient, method: str) -> None:
    answer = await client.request(method, "/v1/events")
    assert is_error(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST, OPTIONS"


async def test_options_names_the_methods_and_head_has_no_body(client: httpx.AsyncClient) -> None:
    answer = await client.options("/v1/events")
    assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")
    head = await client.head("/v1/events")
    assert (head.status_code, head.content) == (405, b"")


async def test_an_announced_size_beyond_the_limit_is_refused_unread(client: httpx.AsyncClient, app: IngestApp) -> None:
    answer = await client.post("/v1/events", content=b"x" * 100_001)
    assert is_error(answer, 413, "too_large")
    assert answer.headers["connection"] == "close"
    assert "100,000" in answer.json()["message"]


async def test_a_body_that_grows_beyond_the_limit_is_not_read_further(client: httpx.AsyncClient) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 10_000

    assert is_error(await client.post("/v1/events", content=endless()), 413, "too_large")
    assert taken < 20


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_bomb_is_refused(client: httpx.AsyncClient, writer: FakeWriter, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zstandard.ZstdCompressor().compress
    bomb = pack(b" " * 20_000_000)
    assert len(bomb) < 100_000
    answer = await client.post("/v1/events", content=bomb, headers={"Content-Encoding": encoding})
    assert is_error(answer, 413, "too_large")
    assert writer.records == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/xml"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Encoding": "br"},
        {"Content-Encoding": "gzip, gzip"},
    ],
)
async def test_unknown_types_and_encodings_are_refused(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert is_error(await client.post("/v1/events", content=b"{}", headers=headers), 415, "unsupported_media_type")


async def test_one_event_beyond_its_limit_is_refused_alone(client: httpx.AsyncClient, writer: FakeWriter) -> None:
    answer = await client.post("/v1/events", json=[event(1), event(2, note="x" * 10_001)])
    assert [error["reason"] for error in answer.json()["errors"]] == ["too_large"]
    assert writer.events == 1


async def test_of_many_refused_events_the_first_are_listed_and_all_are_counted(
    client: httpx.AsyncClient, app: IngestApp
) -> None:
    answer = await client.post("/v1/events", content="[" + ",".join(["{}"] * 12_000) + "]")
    said = answer.json()
    assert (answer.status_code, said["total"], said["failed"], said["errors_omitted"]) == (422, 12_000, 12_000, 2_000)
    assert [error["index"] for error in said["errors"]] == list(range(10_000))
    families = {family["name"]: family for family in app.registry.snapshot()}
    assert [series["value"] for series in families["rta_ingest_rejected_total"]["series"]] == [12_000]


async def test_clients_on_other_machines_are_refused(app: IngestApp, writer: FakeWriter) -> None:
    transport = httpx.ASGITransport(app, client=("192.0.2.1", 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://rta") as client:
        assert is_error(await client.post("/v1/events", json=event()), 403, "forbidden")
    assert writer.records == []


# ---- when the log does not take it ----------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "code"),
    [(UnavailableError("out of reach", "wait", 3), "unavailable"), (LogFullError("no room", "wait", 3), "log_full")],
)
async def test_a_log_that_does_not_take_it_is_told_with_when_to_come_again(
    client: httpx.AsyncClient, writer: FakeWriter, failure: Exception, code: str
) -> None:
    writer.failures.append(failure)
    answer = await client.post("/v1/events", json=event())
    assert is_error(answer, 503, code)
    assert answer.headers["retry-after"] == "3"
    assert (await client.post("/v1/events", json=event())).status_code == 200


async def test_an_unexpected_failure_is_a_500_and_the_process_goes_on(
    client: httpx.AsyncClient, writer: FakeWriter, caplog: pytest.LogCaptureFixture
) -> None:
    writer.failures.append(ZeroDivisionError("secret"))
    answer = await client.post("/v1/events", json=event())
    assert is_error(answer, 500, "internal")
    assert "secret" not in answer.text
    assert "ZeroDivisionError: secret" in caplog.text
    assert (await client.post("/v1/events", json=event())).status_code == 200


async def test_a_datasource_removed_between_lookup_and_append_is_not_found(
    client: httpx.AsyncClient, writer: FakeWriter, definitions: FakeDefinitions
) -> None:
    original = writer.append

    async def removed(topic: str, records: Any) -> dict[int, int]:
        definitions.known.pop("clicks")
        writer.append = original  # type: ignore[method-assign]  # only the first append meets the removal
        raise NotFoundError(f"no topic '{topic}'")

    writer.append = removed  # type: ignore[method-assign]  # see above
    assert is_error(await client.post("/v1/events/clicks", json={"at": NOW_MS, "who": "a"}), 404, "not_found")


async def test_a_datasource_made_again_meanwhile_asks_for_another_try(
    client: httpx.AsyncClient, writer: FakeWriter, definitions: FakeDefinitions
) -> None:
    writer.failures.append(NotFoundError("no topic"))
    definitions.put(KEYLESS)
    assert is_error(await client.post("/v1/events/clicks", json={"at": NOW_MS, "who": "a"}), 503, "unavailable")
    answer = await client.post("/v1/events/clicks", json={"at": NOW_MS, "who": "a"})
    assert decode_position(answer.json()["position"]).folder == definitions.known["clicks"].folder


async def test_a_log_whose_incarnations_are_unknown_takes_nothing(
    definitions: FakeDefinitions, writer: FakeWriter
) -> None:
    known: dict[int, str] = {}

    async def lookup(_: str) -> dict[int, str]:
        return dict(known)

    app = IngestApp(Intake(definitions, writer, Edge(EDGE), IntakeLimits(threads=1), lambda: NOW_MS, lookup))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rta") as client:
        assert is_error(await client.post("/v1/events", json=event()), 503, "unavailable")
        assert writer.records == []
        known.update(dict.fromkeys(range(4), "log"))
        assert (await client.post("/v1/events", json=event())).status_code == 200


async def test_after_a_failed_append_the_incarnations_are_asked_for_again(
    definitions: FakeDefinitions, writer: FakeWriter
) -> None:
    life = "first"

    async def lookup(_: str) -> dict[int, str]:
        return dict.fromkeys(range(4), life)

    async def posted(client: httpx.AsyncClient) -> set[str]:
        answer = await client.post("/v1/events", json=event())
        offsets = decode_position(answer.json()["position"]).offsets if answer.status_code == 200 else {}
        return {incarnation for incarnation, _ in offsets.values()}

    app = IngestApp(Intake(definitions, writer, Edge(EDGE), IntakeLimits(threads=1), lambda: NOW_MS, lookup))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rta") as client:
        assert await posted(client) == {"first"}
        life = "second"
        writer.failures.append(UnavailableError("the log went away"))
        assert await posted(client) == set()
        assert await posted(client) == {"second"}


async def test_a_body_that_breaks_the_decoder_fails_alone(
    client: httpx.AsyncClient, writer: FakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicError(BaseException):
        """As native kernels raise it."""

    real = decode

    def fragile(datasource: Any, bodies: Any, *rest: Any) -> Any:
        if any(b"poison" in body.data for body in bodies):
            raise PanicError
        return real(datasource, bodies, *rest)

    monkeypatch.setattr(intake_module, "decode", fragile)
    bodies = [event(1), event(2, note="poison"), event(3)]
    answers = await asyncio.gather(*(client.post("/v1/events", json=body) for body in bodies))
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert writer.events == 2


# ---- bounds, and clients that leave ----------------------------------------------------


async def test_a_flood_is_refused_beyond_the_waiting_bytes_and_all_is_given_back(
    definitions: FakeDefinitions, writer: FakeWriter
) -> None:
    writer.gate = asyncio.Event()
    limits = IntakeLimits(waiting_bytes=50_000, threads=1)
    app = IngestApp(Intake(definitions, writer, Edge(EDGE), limits, lambda: NOW_MS, incarnations))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rta") as client:
        body = json.dumps(event(1, note="x" * 4_000)).encode()
        flood = [asyncio.ensure_future(client.post("/v1/events", content=body)) for _ in range(100)]
        await until(lambda: sum(task.done() for task in flood) >= 80)
        assert app.intake.budget.bytes_used <= 50_000
        writer.gate.set()
        answers = await asyncio.gather(*flood)
    refused = [answer for answer in answers if answer.status_code == 503]
    accepted = [answer for answer in answers if answer.status_code == 200]
    assert len(refused) + len(accepted) == 100
    assert 5 <= len(accepted) <= 12
    assert all(answer.headers["retry-after"] for answer in refused)
    assert writer.events == len(accepted)
    assert app.intake.budget.bytes_used == 0


async def test_a_failed_request_gives_its_bytes_back(client: httpx.AsyncClient, app: IngestApp) -> None:
    for content, headers in ((b"{", {}), (b"x" * 100_001, {}), (b"no", {"Content-Encoding": "gzip"})):
        await client.post("/v1/events", content=content, headers=headers)
    assert app.intake.budget.bytes_used == 0


async def test_a_client_that_leaves_while_it_sends_changes_nothing(app: IngestApp, writer: FakeWriter) -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"event_id"', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": "/v1/events", "headers": [], "client": None}
    await app(scope, receive, send)
    assert (sent, writer.records, app.intake.budget.bytes_used) == ([], [], 0)


async def test_a_client_that_leaves_during_the_append_does_not_disturb_its_batch(
    client: httpx.AsyncClient, app: IngestApp, writer: FakeWriter
) -> None:
    writer.gate = asyncio.Event()
    leaving, staying = (asyncio.ensure_future(client.post("/v1/events", json=event(i))) for i in range(2))
    await until(lambda: writer.under_way)
    leaving.cancel()
    await asyncio.sleep(0)
    writer.gate.set()
    assert (await staying).status_code == 200
    assert writer.events == 2
    assert app.intake.budget.bytes_used == 0


async def test_what_was_done_is_counted(client: httpx.AsyncClient, app: IngestApp) -> None:
    await client.post("/v1/events", json=[event(1), event(2, timestamp=...)])
    await client.post("/v1/events", content=b"{")
    families = {family["name"]: family for family in app.registry.snapshot()}

    def values(name: str) -> dict[tuple[str, ...], float]:
        return {tuple(series["labels"]): series["value"] for series in families[name]["series"]}

    assert values("rta_ingest_requests_total") == {("200",): 1, ("400",): 1}
    assert values("rta_ingest_events_total") == {("events", "accepted"): 1, ("events", "rejected"): 1}
    assert values("rta_ingest_rejected_total") == {("events", "missing_field"): 1}
    assert values("rta_ingest_waiting_bytes") == {(): 0}
    assert sum(families["rta_ingest_append_seconds"]["series"][0]["counts"]) == 1
    json.dumps(app.registry.snapshot())


async def test_the_life_of_the_app_ends_with_what_is_under_way_done(app: IngestApp, writer: FakeWriter) -> None:
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    life = asyncio.ensure_future(app({"type": "lifespan"}, inbox.get, outbox.put))
    inbox.put_nowait({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    writer.gate = asyncio.Event()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rta") as client:
        request = asyncio.ensure_future(client.post("/v1/events", json=event()))
        await until(lambda: writer.under_way)
        inbox.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.sleep(0)
        assert outbox.empty()
        writer.gate.set()
        assert (await request).status_code == 200
    assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
    await life
