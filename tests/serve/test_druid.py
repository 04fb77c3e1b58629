"""Druid's native interface over HTTP: files and hot rows through a scan worker, headers, errors, lists, status."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rta.errors import OutOfMemoryError, UnavailableError
from rta.serve.scan_protocol import named_failures
from tests.query.world import build_world
from tests.serve.druid_world import Druid, druid_over

pytestmark = pytest.mark.anyio
COUNT = {"type": "count", "name": "rows"}
DAY = "2015-09-12/2015-09-13"
TOTAL: dict[str, Any] = {
    "queryType": "timeseries",
    "dataSource": "wikipedia",
    "granularity": "all",
    "intervals": DAY,
    "aggregations": [COUNT],
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def druid(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Druid]:
    async with druid_over(build_world(tmp_path_factory.mktemp("druid"))) as found:
        yield found


async def test_files_and_hot_rows_are_counted_together_under_both_paths(druid: Druid) -> None:
    for path in ("/druid/v2", "/druid/v2/", "/druid/v2/?pretty"):
        answer = await druid.post(TOTAL, path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == [{"timestamp": "2015-09-12T00:46:58.771Z", "result": {"rows": 39_244}}]
    assert ("\n" in answer.text) is True
    assert answer.headers["x-druid-response-context"] == "{}"


async def test_the_published_top_pages_come_out(druid: Druid) -> None:
    published = Path(__file__).parents[1] / "data" / "druid" / "wikipedia_published.jsonl"
    for line in published.read_text().splitlines():
        case = json.loads(line)
        (bucket,) = await druid.ask(case["query"])
        found = [[row["page"], row["count"]] for row in bucket["result"]]
        assert [count for _, count in found] == [count for _, count in case["expected_pages"]]
        assert sorted(found) == sorted(case["expected_pages"])


async def test_the_same_query_is_answered_from_the_cache_and_not_sent_twice(druid: Druid) -> None:
    first = await druid.post(TOTAL | {"context": {"queryId": "a"}})
    again = await druid.post(TOTAL | {"context": {"queryId": "b"}}, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["x-druid-query-id"] == "b"


async def test_a_rollup_is_a_data_source_of_its_own(druid: Druid) -> None:
    metrics = [
        {"type": "longSum", "name": "n", "fieldName": "n"},
        {"type": "longSum", "name": "added", "fieldName": "added"},
        {"type": "HLLSketchMerge", "name": "users", "fieldName": "users", "round": True},
        {"type": "thetaSketch", "name": "theta", "fieldName": "users"},
        {"type": "quantilesDoublesSketch", "name": "delta", "fieldName": "delta"},
    ]
    (row,) = await druid.ask(
        TOTAL
        | {
            "dataSource": "wikipedia.edits",
            "aggregations": metrics,
            "filter": {"type": "selector", "dimension": "channel", "value": "#pl.wikipedia"},
        }
    )
    raw = [
        COUNT,
        {"type": "longSum", "name": "added", "fieldName": "added"},
        {"type": "HLLSketchBuild", "name": "users", "fieldName": "user", "round": True},
    ]
    (expected,) = await druid.ask(
        TOTAL | {"aggregations": raw, "filter": {"type": "selector", "dimension": "channel", "value": "#pl.wikipedia"}}
    )
    found = row["result"]
    assert (found["n"], found["added"]) == (expected["result"]["rows"], expected["result"]["added"])
    assert found["users"] == expected["result"]["users"] == round(found["theta"])
    assert found["delta"] == found["n"]


async def test_an_unknown_datasource_is_empty(druid: Druid) -> None:
    assert await druid.ask(TOTAL | {"dataSource": "nowhere", "granularity": "hour"}) == []
    total = await druid.ask(TOTAL | {"dataSource": "nowhere"})
    assert total == [{"timestamp": "1970-01-01T00:00:00.000Z", "result": {"rows": 0}}]


@pytest.mark.parametrize(
    ("change", "status", "category", "names"),
    [
        ({"queryType": "movingAverage"}, 501, "UNSUPPORTED", "movingAverage"),
        ({"intervals": "yesterday"}, 400, "INVALID_INPUT", "yesterday"),
        ({"aggregations": [{"type": "javascript", "name": "x"}]}, 501, "UNSUPPORTED", "javascript"),
        ({"filter": {"type": "spatial", "dimension": "x"}}, 501, "UNSUPPORTED", "spatial"),
        ({"dataSource": {"type": "join"}}, 501, "UNSUPPORTED", "join"),
        ({"context": {"timeout": "soon"}}, 400, "INVALID_INPUT", "timeout"),
    ],
)
async def test_refusals_have_both_of_druids_shapes(
    druid: Druid, change: dict[str, Any], status: int, category: str, names: str
) -> None:
    answer = await druid.post(TOTAL | change)
    assert answer.status_code == status
    document = answer.json()
    assert set(document) >= {"error", "errorMessage", "errorClass", "category", "host", "persona", "errorCode"}
    assert document["category"] == category
    assert names in document["errorMessage"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"select 1"])
async def test_what_is_no_query_is_refused(druid: Druid, body: bytes) -> None:
    answer = await druid.client.post("/druid/v2", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["category"]) == (400, "INVALID_INPUT")


async def test_a_query_that_takes_too_long_is_a_query_timeout(druid: Druid, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()
    monkeypatch.setattr(druid.world, "at", _waiting(gate))
    answer = await druid.post(TOTAL | {"context": {"timeout": "50"}})
    assert (answer.status_code, answer.json()["error"]) == (504, "Query timeout")


async def test_a_query_is_cancelled_by_its_id(druid: Druid, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(druid.world, "at", _waiting(gate, begun))
    asked = asyncio.create_task(druid.post(TOTAL | {"context": {"queryId": "mine"}}))
    await asyncio.wait_for(begun.wait(), 10)
    assert (await druid.client.delete("/druid/v2/mine")).status_code == 202
    answer = await asyncio.wait_for(asked, 10)
    assert (answer.status_code, answer.json()["error"]) == (500, "Query cancelled")


def _waiting(gate: asyncio.Event, begun: asyncio.Event | None = None) -> Any:
    async def at(*_: object) -> Any:
        if begun is not None:
            begun.set()
        await gate.wait()

    return at


async def test_too_much_memory_is_a_resource_limit(druid: Druid, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(*_: object) -> Any:
        raise OutOfMemoryError("the query needs more memory than it may have")

    monkeypatch.setattr("rta.serve.scan.ScanPool.run", run)
    answer = await druid.post(TOTAL | {"descending": True})
    assert (answer.status_code, answer.json()["error"]) == (400, "Resource limit exceeded")


async def test_data_sources_are_listed_with_their_columns(druid: Druid) -> None:
    for path in ("/druid/v2/datasources", "/druid/v2/datasources/"):
        assert (await druid.client.get(path)).json() == ["wikipedia"]
    found = (await druid.client.get("/druid/v2/datasources/wikipedia")).json()
    assert {"channel", "page", "isRobot"} <= set(found["dimensions"])
    assert {"added", "delta"} <= set(found["metrics"])
    rollup = (await druid.client.get("/druid/v2/datasources/wikipedia.hourly")).json()
    assert rollup["dimensions"] == ["channel", "isRobot"]
    assert "users" in rollup["metrics"]
    assert (await druid.client.get("/druid/v2/datasources/nowhere")).json() == {"dimensions": [], "metrics": []}


async def test_status_says_a_version_that_clients_can_read(druid: Druid) -> None:
    status = (await druid.client.get("/status")).json()
    assert status["version"].split(".")[0].isdigit()
    assert (await druid.client.get("/status/health")).json() is True
    assert (await druid.client.get("/status/ready")).status_code == 200


async def test_metadata_is_what_turnilo_asks_for(druid: Druid) -> None:
    (segment,) = await druid.ask(
        {
            "queryType": "segmentMetadata",
            "dataSource": "wikipedia",
            "merge": True,
            "analysisTypes": ["aggregators"],
            "lenientAggregatorMerge": True,
        }
    )
    assert segment["columns"]["__time"]["type"] == "LONG"
    assert segment["columns"]["page"] | {"hasNulls": False} == {
        "typeSignature": "STRING",
        "type": "STRING",
        "hasMultipleValues": False,
        "hasNulls": False,
        "size": 0,
        "cardinality": None,
        "minValue": None,
        "maxValue": None,
        "errorMessage": None,
    }
    (boundary,) = await druid.ask({"queryType": "timeBoundary", "dataSource": "wikipedia"})
    assert boundary["result"] == {"minTime": "2015-09-12T00:46:58.771Z", "maxTime": "2015-09-12T23:59:59.200Z"}


async def test_a_path_into_an_event_is_a_column(druid: Druid) -> None:
    (row,) = await druid.ask(
        TOTAL
        | {"aggregations": [{"type": "cardinality", "name": "flags", "fields": ["nothing.at.all"], "round": True}]}
    )
    assert row["result"] == {"flags": 0}


ROLLED: list[dict[str, Any]] = [
    {
        "queryType": "timeseries",
        "granularity": "hour",
        "filter": {"type": "selector", "dimension": "channel", "value": "#ko.wikipedia"},
        "aggregations": [COUNT, {"type": "longSum", "name": "added", "fieldName": "added"}],
        "postAggregations": [
            {
                "type": "arithmetic",
                "name": "mean",
                "fn": "/",
                "fields": [
                    {"type": "fieldAccess", "fieldName": "added"},
                    {"type": "fieldAccess", "fieldName": "rows"},
                ],
            }
        ],
    },
    {
        "queryType": "topN",
        "granularity": "all",
        "dimension": "channel",
        "metric": "added",
        "threshold": 5,
        "aggregations": [COUNT, {"type": "doubleSum", "name": "added", "fieldName": "added"}],
        "filter": {"type": "not", "field": {"type": "in", "dimension": "isRobot", "values": ["true"]}},
    },
    {
        "queryType": "groupBy",
        "granularity": {"type": "period", "period": "PT6H"},
        "dimensions": ["channel", {"type": "default", "dimension": "isNew", "outputName": "new"}],
        "aggregations": [COUNT, {"type": "longMax", "name": "high", "fieldName": "delta"}],
        "having": {"type": "greaterThan", "aggregation": "rows", "value": 100},
        "limitSpec": {"type": "default", "limit": 20, "columns": [{"dimension": "rows", "direction": "descending"}]},
        "filter": {
            "type": "or",
            "fields": [
                {"type": "bound", "dimension": "channel", "lower": "#e", "upper": "#p"},
                {"type": "selector", "dimension": "countryName", "value": None},
            ],
        },
    },
]


@pytest.mark.parametrize("query", ROLLED, ids=lambda q: q["queryType"])
async def test_what_a_rollup_answers_equals_the_answer_from_rows(
    druid: Druid, query: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = query | {"dataSource": "wikipedia", "intervals": "2015-09-12T00:00/2015-09-13T00:00"}
    with monkeypatch.context() as patched:

        async def run(*_: object) -> Any:
            raise AssertionError("rows were read")

        patched.setattr("rta.serve.scan.ScanPool.run", run)
        patched.setattr("rta.serve.druid_task.DruidTask.run", run)
        if query["granularity"] == "all":
            asked["intervals"] = "2015-09-12T01:00/2015-09-13T00:00"
        by_rollup = await druid.ask(asked)
    monkeypatch.setattr("rta.serve.druid_service.translate", lambda *_: None)
    assert await druid.ask(asked | {"context": {"asked": "again"}}) == by_rollup
    assert by_rollup


EDITS = [
    {"type": "longSum", "name": "n", "fieldName": "n"},
    {"type": "HLLSketchMerge", "name": "users", "fieldName": "users", "round": True},
    {"type": "quantilesDoublesSketch", "name": "delta", "fieldName": "delta"},
]


async def test_a_union_reads_only_what_is_asked_for(druid: Druid) -> None:
    union = {"type": "union", "dataSources": ["wikipedia", "wikipedia", "nowhere"]}
    (row,) = await druid.ask(TOTAL | {"dataSource": union})
    assert row["result"] == {"rows": 2 * 39_244}
    (top,) = await druid.ask(
        TOTAL | {"dataSource": union, "queryType": "topN", "dimension": "isRobot", "metric": "rows", "threshold": 1}
    )
    assert top["result"] == [{"isRobot": "false", "rows": 2 * 23_824}]


async def test_a_union_of_rollups_keeps_what_their_sketches_hold(druid: Druid) -> None:
    query = TOTAL | {
        "aggregations": EDITS,
        "filter": {"type": "selector", "dimension": "channel", "value": "#pl.wikipedia"},
    }
    (once,) = await druid.ask(query | {"dataSource": "wikipedia.edits"})
    twice = {"type": "union", "dataSources": ["wikipedia.edits", "wikipedia.edits"]}
    (both,) = await druid.ask(query | {"dataSource": twice})
    assert once["result"] == {"n": 565, "users": both["result"]["users"], "delta": 565}
    assert (both["result"]["n"], both["result"]["delta"]) == (1130, 1130)


def test_a_failure_names_no_file(druid: Druid) -> None:
    def work() -> bytes:
        raise RuntimeError("no column 'x'\nParquet SCAN [/data/part.parquet]")

    with pytest.raises(UnavailableError) as failed:
        named_failures(druid.world.store, [], "answering a native query", work)
    assert failed.value.message == "answering a native query: no column 'x'"
