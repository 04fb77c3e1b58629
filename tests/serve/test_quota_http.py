"""Quotas over HTTP: what the sender is told, and that nothing of a refused request is in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from rta.config import QuotaSettings
from rta.errors import LogFullError
from rta.events.decode import Edge
from rta.serve.ingest import IngestApp
from rta.serve.intake import Intake, IntakeLimits
from rta.serve.metrics import Registry
from rta.serve.quotas import Quotas
from tests.serve.fakes import NOW_MS, FakeDefinitions, FakeWriter, incarnations
from tests.serve.test_ingest import event, is_error

pytestmark = pytest.mark.anyio


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(definitions: FakeDefinitions, writer: FakeWriter, clock: Clock) -> AsyncIterator[httpx.AsyncClient]:
    quotas = Quotas(QuotaSettings(events_per_second=2, burst=10), Registry(), clock_s=clock)
    limits = IntakeLimits(threads=1, quotas=quotas)
    app = IngestApp(Intake(definitions, writer, Edge(1), limits, lambda: NOW_MS, incarnations))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rta") as client:
        yield client
    await app.close()


def events(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [event(first + k) for k in range(count)]


async def test_over_the_quota_nothing_is_accepted_and_the_wait_is_told(
    client: httpx.AsyncClient, writer: FakeWriter, clock: Clock
) -> None:
    assert (await client.post("/v1/events", json=events(8))).status_code == 200
    refused = await client.post("/v1/events", json=events(5, first=8))
    assert is_error(refused, 429, "quota_exceeded")
    assert refused.headers["retry-after"] == "2"
    assert writer.events == 8
    assert (await client.post("/v1/events", json=events(2, first=8))).status_code == 200
    clock.now_s += 2.5
    assert (await client.post("/v1/events", json=events(5, first=10))).status_code == 200
    assert writer.events == 15


async def test_more_than_a_burst_is_never_accepted(client: httpx.AsyncClient, writer: FakeWriter) -> None:
    refused = await client.post("/v1/events", json=events(11))
    assert is_error(refused, 413, "too_large")
    assert "10 at once" in refused.json()["message"]
    assert "retry-after" not in refused.headers
    assert writer.records == []
    assert (await client.post("/v1/events", json=events(10))).status_code == 200


async def test_what_an_event_is_worth_does_not_depend_on_its_verdict(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/events", json=[*events(4), *([{"event_type": "x"}] * 6)])
    assert (answer.status_code, answer.json()["failed"]) == (200, 6)
    assert (await client.post("/v1/events", json=events(1, first=20))).status_code == 429


async def test_a_body_that_is_no_events_costs_nothing(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/events", content=b"{")).status_code == 400
    assert (await client.post("/v1/events", json=[])).status_code == 422
    assert (await client.post("/v1/events", json=events(10))).status_code == 200


async def test_sources_have_quotas_of_their_own_even_within_one_batch(
    client: httpx.AsyncClient, writer: FakeWriter
) -> None:
    async def send(address: str, first: int, count: int) -> int:
        headers = {"X-Forwarded-For": address}
        return (await client.post("/v1/events", json=events(count, first), headers=headers)).status_code

    found = await asyncio.gather(
        send("127.0.0.1", 0, 7), send("127.0.0.1", 10, 7), send("127.0.0.2", 20, 7), send("127.0.0.1", 30, 3)
    )
    assert list(found) == [200, 429, 200, 200]
    assert writer.events == 17
    assert sum(record.header.events for record in writer.records) == 17


async def test_what_the_log_did_not_take_may_be_sent_again(client: httpx.AsyncClient, writer: FakeWriter) -> None:
    writer.failures = [LogFullError("the log is full"), LogFullError("the log is full")]
    for _ in range(2):
        assert (await client.post("/v1/events", json=events(10))).status_code == 503
    assert (await client.post("/v1/events", json=events(10))).status_code == 200
    assert (await client.post("/v1/events", json=events(1))).status_code == 429


async def test_the_client_sends_again_when_it_fits(client: httpx.AsyncClient, clock: Clock) -> None:
    await client.post("/v1/events", json=events(10))
    refused = await client.post("/v1/events", json=events(6))
    clock.now_s += float(refused.headers["retry-after"])
    assert (await client.post("/v1/events", json=events(6))).status_code == 200
