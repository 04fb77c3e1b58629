from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from rta.config import Settings
from rta.errors import UnavailableError
from rta.serve import admin
from rta.serve.metrics import CONTENT_TYPE, Registry
from rta.serve.query import build_query_app
from tests.serve.fakes import KEYLESS, FakeControl, FakeDefinitions, FakeService
from tests.serve.test_query_app import is_error

pytestmark = pytest.mark.anyio
SHOP = {"name": "shop", "time": "at", "key": "who", "columns": {"who": "string"}}


@pytest.fixture
async def client(definitions: FakeDefinitions, control: FakeControl) -> AsyncIterator[httpx.AsyncClient]:
    app = build_query_app(FakeService(), definitions, control, Settings.model_validate({}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rta") as client:
        yield client


async def test_datasources_are_listed_as_they_were_written(client: httpx.AsyncClient) -> None:
    documents = (await client.get("/v1/datasources")).json()["datasources"]
    assert [d["name"] for d in documents] == ["events", "clicks"]
    assert (await client.get("/v1/datasources/clicks")).json() == KEYLESS


async def test_a_datasource_is_made_changed_and_removed(client: httpx.AsyncClient) -> None:
    made = await client.post("/v1/datasources", json=SHOP)
    assert (made.status_code, made.headers["location"]) == (201, "/v1/datasources/shop")
    wider = {**SHOP, "columns": {"who": "string", "price": "double"}}
    assert (await client.put("/v1/datasources/shop", json=wider)).json() == wider
    assert (await client.delete("/v1/datasources/shop?confirm=shop")).json() == {"deleted": "shop"}
    assert is_error(await client.get("/v1/datasources/shop"), 404, "not_found")


async def test_put_takes_the_name_from_the_path(client: httpx.AsyncClient) -> None:
    unnamed = {key: value for key, value in KEYLESS.items() if key != "name"}
    assert (await client.put("/v1/datasources/clicks", json=unnamed)).json() == KEYLESS


@pytest.mark.parametrize("confirm", ["", "?confirm=", "?confirm=events", "?confirm=CLICKS"])
async def test_an_unconfirmed_delete_says_what_it_would_remove(
    client: httpx.AsyncClient, definitions: FakeDefinitions, confirm: str
) -> None:
    answer = await client.delete(f"/v1/datasources/clicks{confirm}")
    assert is_error(answer, 409, "confirmation_needed")
    assert answer.json()["removes"]["events"]["rows"] == 5
    assert "?confirm=clicks" in answer.json()["hint"]
    assert "clicks" in definitions.known


async def test_wrong_definitions_are_refused(client: httpx.AsyncClient) -> None:
    assert is_error(await client.post("/v1/datasources", json=KEYLESS), 409, "conflict")
    assert is_error(await client.post("/v1/datasources", json={"name": "x y"}), 400, "invalid_datasource")
    assert is_error(await client.post("/v1/datasources", content=b"{"), 400, "bad_request")
    assert is_error(await client.put("/v1/datasources/clicks", json=SHOP), 400, "invalid_datasource")
    assert is_error(await client.put("/v1/datasources/nothing", json={**SHOP, "name": "nothing"}), 404, "not_found")
    assert is_error(await client.delete("/v1/datasources/click"), 404, "not_found")


async def test_the_nearest_name_is_named(client: httpx.AsyncClient) -> None:
    assert "clicks" in (await client.get("/v1/datasources/click")).json()["hint"]


async def test_the_status_is_the_coordinators(client: httpx.AsyncClient, control: FakeControl) -> None:
    assert (await client.get("/v1/status")).json()["datasources"]["events"]["lag_ms"] == 38
    control.failure = UnavailableError("the coordinator is being restarted")
    assert is_error(await client.get("/v1/status"), 503, "unavailable")


async def test_the_ledger_is_asked_for_a_datasource_and_a_range(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    assert (await client.get("/v1/ledger")).json()["lost"] == 0
    range_text = "2026-01-01T00:00:00Z/2026-01-01T00:00:01Z"
    await client.get("/v1/ledger", params={"datasource": "events", "time_range": range_text})
    assert control.ledgers == [(None, None), ("events", (1_767_225_600_000, 1_767_225_601_000))]
    assert is_error(await client.get("/v1/ledger?time_range=yesterdy"), 400, "invalid_query")
    assert is_error(await client.get("/v1/ledger?datasource=x"), 404, "not_found")


async def test_alive_is_said_whatever_the_rest_does(client: httpx.AsyncClient, control: FakeControl) -> None:
    control.failure = UnavailableError("gone")
    assert (await client.get("/healthz")).json() == {"alive": True}
    assert (await client.head("/healthz")).status_code == 200


async def test_ready_is_said_with_the_reason_when_not(client: httpx.AsyncClient, control: FakeControl) -> None:
    assert (await client.get("/readyz")).json() == {"ready": True, "degraded": []}
    control.degraded = ("'orders' waits for its topic",)
    assert (await client.get("/readyz")).json() == {"ready": True, "degraded": ["'orders' waits for its topic"]}
    control.reason = "partition 3 has no owner"
    answer = await client.get("/readyz")
    assert is_error(answer, 503, "not_ready")
    assert "partition 3 has no owner" in answer.json()["message"]
    assert answer.headers["retry-after"] == "1"
    control.failure = UnavailableError("the coordinator is being restarted")
    assert "restarted" in (await client.get("/readyz")).json()["message"]


async def test_a_coordinator_that_does_not_answer_is_not_waited_for(
    client: httpx.AsyncClient, control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "CONTROL_TIMEOUT_S", 0.01)
    control.gate = asyncio.Event()
    assert is_error(await client.get("/readyz"), 503, "not_ready")
    assert "rta_coordinator_up 0" in (await client.get("/metrics")).text


async def test_metrics_hold_the_status_and_the_counters_of_other_processes(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    for events in (5, 6):
        other = Registry()
        other.counter("rta_ingest_events_total", "Events.", "datasource").add(events, "events")
        control.metrics.append(other.snapshot())
    control.metrics.append({"not": "a snapshot"})
    answer = await client.get("/metrics")
    assert answer.headers["content-type"] == CONTENT_TYPE
    assert "rta_coordinator_up 1" in answer.text
    assert 'rta_ingest_events_total{datasource="events"} 11' in answer.text
    assert 'rta_status_datasource_lag_ms{datasource="events"} 38' in answer.text
    names = [line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


async def test_scaling_answers_with_who_takes_part(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/scale", json={"aggregators": 3})
    assert answer.status_code == 200
    assert answer.json()["aggregators"] == ["aggregator-0", "aggregator-1", "aggregator-2"]


@pytest.mark.parametrize("body", [{}, {"aggregators": 0}, {"aggregators": "4"}, {"aggregators": True}, {"n": 4}])
async def test_scaling_takes_a_whole_number_and_nothing_else(
    client: httpx.AsyncClient, body: dict[str, object]
) -> None:
    answer = await client.post("/v1/scale", json=body)
    assert is_error(answer, 400, "bad_request")
    assert '{"aggregators": 4}' in answer.json()["hint"]


async def test_more_aggregators_than_partitions_are_refused(client: httpx.AsyncClient) -> None:
    assert is_error(await client.post("/v1/scale", json={"aggregators": 9}), 400, "bad_request")


async def test_a_document_can_be_sent_back_as_the_answer_had_it(client: httpx.AsyncClient) -> None:
    answered = {**KEYLESS, "filling": {"by_x": {"done": 0.5, "complete_from": None}}, "notes": ["something"]}
    assert (await client.put("/v1/datasources/clicks", json=answered)).json() == KEYLESS
    rollup = {
        "name": "by_who",
        "granularity": "hour",
        "dimensions": ["who"],
        "metrics": [{"name": "n", "type": "count"}],
    }
    changed = (await client.put("/v1/datasources/clicks", json={**KEYLESS, "rollups": [rollup]})).json()
    assert "'by_who' is being filled from history" in changed["notes"][0]
