from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rta.config import Settings
from rta.errors import NotFoundError, OutOfMemoryError, TimeLimitError, UnavailableError
from rta.serve.front import middlewares, offer
from rta.serve.http import Message, Receive, Scope, Send
from rta.serve.metrics import Registry
from rta.serve.query import build_query_app
from tests.serve.fakes import FakeControl, FakeDefinitions, FakeService

pytestmark = pytest.mark.anyio
QUESTION = {"datasource": "events", "metrics": [{"name": "n", "type": "count"}]}
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture
def app(service: FakeService, definitions: FakeDefinitions, control: FakeControl) -> FastAPI:
    return build_query_app(service, definitions, control, Settings.model_validate({}))


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://rta") as client:
        yield client


def is_error(answer: httpx.Response, status: int, code: str) -> bool:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert set(document) >= {"error", "message", "hint"}
    return bool(document["error"] == code)


async def test_an_answer_goes_out_as_the_service_gave_it(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/query", json=QUESTION)
    assert answer.status_code == 200
    assert answer.json()["rows"] == [{"n": 1}]
    assert answer.headers["etag"] == '"v1"'
    assert answer.headers["content-type"] == "application/json"


async def test_a_known_answer_is_not_sent_again(client: httpx.AsyncClient) -> None:
    etag = (await client.post("/v1/query", json=QUESTION)).headers["etag"]
    answer = await client.post("/v1/query", json=QUESTION, headers={"If-None-Match": etag})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)


async def test_arrow_is_sent_where_it_is_accepted_with_the_meta_in_a_header(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/query", json=QUESTION, headers={"Accept": f"{ARROW}, application/json;q=0.5"})
    assert (answer.content, answer.headers["content-type"]) == (b"ARROW", ARROW)
    meta = json.loads(answer.headers["rta-meta"])
    assert meta["sources"] == ["hot"]
    assert meta["note"] == "naïve\n"


async def test_the_position_header_reaches_the_service(client: httpx.AsyncClient, service: FakeService) -> None:
    await client.post("/v1/query", json=QUESTION, headers={"RTA-After": "pos"})
    assert service.asked[-1]["after"] == "pos"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/plain"])
async def test_json_is_read_under_its_content_types(client: httpx.AsyncClient, content_type: str) -> None:
    body = json.dumps(QUESTION).encode()
    answer = await client.post("/v1/query", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 200


async def test_other_content_types_are_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/v1/query", content=b"{}", headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert is_error(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"1", b'"x"', b'{"limit": NaN}', b'{"a": "\\ud800"}', b"\xff", b"[" * 100_000, b'{"a": 1e999}'],
)
async def test_what_is_no_json_object_is_a_bad_request(client: httpx.AsyncClient, body: bytes) -> None:
    assert is_error(await client.post("/v1/query", content=body), 400, "bad_request")


async def test_a_question_that_makes_no_sense_is_refused_with_a_hint(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/query", json={**QUESTION, "metrcs": 1})
    assert is_error(answer, 400, "invalid_query")
    assert "metrics" in answer.json()["hint"]


async def test_a_body_beyond_one_mebibyte_is_refused(client: httpx.AsyncClient) -> None:
    assert is_error(await client.post("/v1/query", content=b" " * ((1 << 20) + 1)), 413, "too_large")

    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * (1 << 16)

    assert is_error(await client.post("/v1/query", content=unannounced()), 413, "too_large")


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (NotFoundError("no datasource 'x'", "did you mean 'y'?"), 404, "not_found"),
        (OutOfMemoryError("needs 2 GiB", "ask for less"), 413, "query_memory"),
        (UnavailableError("partition 1 has no owner"), 503, "unavailable"),
        (TimeLimitError("took 10 s"), 504, "query_timeout"),
        (RuntimeError("secret"), 500, "internal"),
    ],
)
async def test_failures_of_the_service_have_their_status(
    client: httpx.AsyncClient, service: FakeService, failure: Exception, status: int, code: str
) -> None:
    service.failure = failure
    answer = await client.post("/v1/query", json=QUESTION)
    assert is_error(answer, status, code)
    assert "secret" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)


async def test_after_an_unexpected_failure_the_next_question_is_answered(
    client: httpx.AsyncClient, service: FakeService
) -> None:
    service.failure = RuntimeError()
    await client.post("/v1/query", json=QUESTION)
    service.failure = None
    assert (await client.post("/v1/query", json=QUESTION)).status_code == 200


async def test_the_plan_is_explained(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/query/explain", json=QUESTION)
    assert answer.json() == {"plan": {"datasource": "events"}}
    assert is_error(await client.post("/v1/query/explain", json={}), 400, "invalid_query")


async def test_unknown_paths_and_methods_get_error_documents(client: httpx.AsyncClient) -> None:
    assert is_error(await client.get("/v1/nonsense"), 404, "not_found")
    answer = await client.get("/v1/query")
    assert is_error(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


async def test_clients_on_other_machines_are_refused(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app, client=("192.0.2.1", 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://rta") as client:
        assert is_error(await client.post("/v1/query", json=QUESTION), 403, "forbidden")
        assert is_error(await client.get("/"), 403, "forbidden")


async def test_a_client_that_goes_away_cancels_its_question(app: FastAPI, service: FakeService) -> None:
    service.gate = asyncio.Event()
    gone = asyncio.Event()
    sent: list[Message] = []
    messages: list[Message] = [{"type": "http.request", "body": json.dumps(QUESTION).encode(), "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/v1/query",
        "raw_path": b"/v1/query",
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("rta", 80),
        "scheme": "http",
        "http_version": "1.1",
    }
    call = asyncio.ensure_future(app(scope, receive, send))
    async with asyncio.timeout(10):
        while not service.asked:
            await asyncio.sleep(0)
        gone.set()
        await call
    assert service.cancelled == 1
    assert sent == []


async def test_questions_are_counted_for_the_metrics(service: FakeService) -> None:
    registry = Registry()
    app = build_query_app(service, FakeDefinitions(), FakeControl(), Settings.model_validate({}), registry)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://rta") as client:
        await client.post("/v1/query", json=QUESTION)
        await client.post("/v1/query", json={})
        text = (await client.get("/metrics")).text
    assert 'rta_query_requests_total{status="200"} 1' in text
    assert 'rta_query_requests_total{status="400"} 1' in text
    assert "rta_query_seconds_count 2" in text


async def test_what_the_service_answers_at_once_goes_out_alike(client: httpx.AsyncClient, service: FakeService) -> None:
    slow = await client.post("/v1/query", json=QUESTION)
    service.quick = True
    quick = await client.post("/v1/query", json=QUESTION)
    assert (quick.content, dict(quick.headers)) == (slow.content, dict(slow.headers))
    service.failure = TimeLimitError("took 10 s")
    assert is_error(await client.post("/v1/query", json=QUESTION), 504, "query_timeout")
    service.failure = RuntimeError("secret")
    assert is_error(await client.post("/v1/query", json=QUESTION), 500, "internal")


async def test_questions_take_the_short_cut_in_front_of_serve_and_nothing_else_does(
    app: FastAPI, service: FakeService
) -> None:
    reached: list[str] = []

    async def serves(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])
        await app(scope, receive, send)

    (middleware,) = middlewares()
    transport = httpx.ASGITransport(middleware.cls(serves))
    async with httpx.AsyncClient(transport=transport, base_url="http://rta") as client:
        assert (await client.post("/v1/query", json=QUESTION)).json()["rows"] == [{"n": 1}]
        assert reached == ["/v1/query"], "nothing was offered yet"
        offer(app.state.questions)
        try:
            assert (await client.post("/v1/query", json=QUESTION)).json()["rows"] == [{"n": 1}]
            assert is_error(await client.post("/v1/query", content=b"{"), 400, "bad_request")
            assert is_error(await client.get("/v1/query"), 405, "method_not_allowed")
            remote = {"X-Forwarded-For": "203.0.113.7"}
            assert is_error(await client.post("/v1/query", json=QUESTION, headers=remote), 403, "forbidden")
            await client.post("/v1/query/explain", json=QUESTION)
        finally:
            offer(None)
    assert reached == ["/v1/query", "/v1/query", "/v1/query/explain"]
    assert len(service.asked) == 2
