"""`POST /v1/sql` over HTTP: forms, headers and refusals; what statements mean is tested in `tests.sql`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from rta.config import Settings
from rta.serve.metrics import Registry
from rta.serve.query import build_query_app
from rta.serve.sql_http import sql_router
from tests.serve.fakes import FakeControl, FakeDefinitions, FakeService, FakeSql

pytestmark = pytest.mark.anyio
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture
def sql() -> FakeSql:
    return FakeSql()


@pytest.fixture
async def client(sql: FakeSql) -> AsyncIterator[httpx.AsyncClient]:
    registry = Registry()
    settings = Settings.model_validate({})
    routers = [sql_router(sql, registry)]
    app = build_query_app(FakeService(), FakeDefinitions(), FakeControl(), settings, registry, routers)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rta") as client:
        yield client


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv; charset=utf-8"),
        (f"{ARROW}, application/json;q=0.5", ARROW),
        ("application/json, text/csv", "application/json"),
    ],
)
async def test_the_answer_has_the_form_that_the_client_accepts(
    client: httpx.AsyncClient, accept: str, content_type: str
) -> None:
    answer = await client.post("/v1/sql", json={"query": "SELECT 1 AS n"}, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)
    if content_type == "application/json":
        assert answer.json()["meta"]["sources"] == ["events"]
    else:
        assert json.loads(answer.headers["rta-meta"])["sources"] == ["events"]


async def test_headers_and_parameters_reach_the_service(client: httpx.AsyncClient, sql: FakeSql) -> None:
    body = {"query": "SELECT $1", "parameters": [7], "max_staleness_ms": 0}
    answer = await client.post("/v1/sql", json=body, headers={"RTA-After": "pos"})
    assert sql.asked[-1]["after"] == "pos"
    assert sql.asked[-1]["question"].parameters == (7,)
    again = await client.post("/v1/sql", json=body, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("body", [{}, {"query": 5}, {"query": "SELECT 1", "querry": 1}, {"query": "DROP TABLE events"}])
async def test_what_is_no_question_is_refused_with_a_hint(client: httpx.AsyncClient, body: dict[str, object]) -> None:
    answer = await client.post("/v1/sql", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_query"
    assert answer.json()["hint"]


async def test_statements_are_counted_for_the_metrics(client: httpx.AsyncClient) -> None:
    await client.post("/v1/sql", json={"query": "SELECT 1"})
    await client.post("/v1/sql", json={})
    text = (await client.get("/metrics")).text
    assert 'rta_sql_requests_total{status="200"} 1' in text
    assert 'rta_sql_requests_total{status="400"} 1' in text
