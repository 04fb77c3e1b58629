"""Datasources that change while events come in: answers stay those of all events."""

from __future__ import annotations

import json
from typing import Any

from tests.system.running import Running, wait_for

MINUTE_MS = 60_000
START_MS = 1_767_225_600_000
RANGE = "2026-01-01T00:00:00Z/2026-01-01T01:00:00Z"
COUNT = {"name": "n", "type": "count"}
BY_PAGE = {
    "name": "by_page",
    "granularity": "minute",
    "dimensions": ["page"],
    "metrics": [{"name": "n", "type": "count"}, {"name": "total", "type": "sum", "field": "price"}],
}


def send(system: Running, name: str, first: int, count: int, **more: Any) -> str:
    """One event a minute over and over, each with a page and a price; the position behind them."""
    events = [
        {
            "id": f"e{k}",
            "at": START_MS + k % 50 * MINUTE_MS,
            "user": f"u{k % 7}",
            "page": f"p{k % 3}",
            "price": k,
            **more,
        }
        for k in range(first, first + count)
    ]
    body = b"\n".join(json.dumps(event).encode() for event in events)
    answer = system.http.post(f"/v1/events/{name}", content=body, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 200, answer.text
    position: str = answer.json()["position"]
    return position


def test_a_rollup_that_is_added_later_is_filled_and_changes_no_answer(system: Running) -> None:
    columns = {"user": "string", "id": "string", "page": "string", "price": "double"}
    definition: dict[str, Any] = {
        "name": "growing",
        "time": "at",
        "key": "user",
        "id": "id",
        "columns": columns,
        "rollups": [],
        "retention": {"rollups": {"minute": "10000d"}},
    }
    assert system.http.post("/v1/datasources", json=definition).status_code == 201
    send(system, "growing", 0, 300)
    wider = {**definition, "rollups": [BY_PAGE], "columns": {**columns, "colour": "string"}}
    changed = system.http.put("/v1/datasources/growing", json=wider)
    assert changed.status_code == 200, changed.text
    assert "'by_page' is being filled from history" in changed.json()["notes"][0]
    position = send(system, "growing", 300, 200, colour="red")
    question = {
        "datasource": "growing",
        "time_range": RANGE,
        "granularity": "minute",
        "group_by": ["page"],
        "metrics": [COUNT, {"name": "total", "type": "sum", "field": "price"}],
        "after": position,
    }
    expected: dict[tuple[str, str], tuple[int, float]] = {}
    for k in range(500):
        key = (f"2026-01-01T00:{k % 50:02d}:00.000Z", f"p{k % 3}")
        n, total = expected.get(key, (0, 0.0))
        expected[key] = (n + 1, total + k)
    answer = system.query(question)
    assert {(r["time"], r["page"]): (r["n"], r["total"]) for r in answer["rows"]} == expected
    wait_for(lambda: "filling" not in system.http.get("/v1/datasources/growing").json(), "it is filled", 60)
    wait_for(lambda: system.query(question)["meta"]["sources"][0] == "rollup_by_page_minute", "it is used", 60)
    assert {(r["time"], r["page"]): (r["n"], r["total"]) for r in system.query(question)["rows"]} == expected
    assert (
        'rta_status_datasource_rollup_done{datasource="growing",rollup="by_page"} 1' in system.http.get("/metrics").text
    )
    assert system.http.put("/v1/datasources/growing", json={**wider, "rollups": []}).status_code == 200
    assert system.query(question)["meta"]["sources"][0] == "events"
    advice = system.http.get("/v1/advise?datasource=growing").json()["datasources"][0]
    assert [p["rollup"]["dimensions"] for p in advice["proposals"]] == [["page"]]
    red = system.rows(
        datasource="growing", time_range=RANGE, metrics=[COUNT], filters={"colour": "red"}, after=position
    )
    assert red == [{"n": 200}]
    ledger = system.wait_committed("growing", 500)
    assert (ledger["lost"], ledger["duplicated"], ledger["mismatches"]) == (0, 0, [])
    assert {(r["time"], r["page"]): (r["n"], r["total"]) for r in system.query(question)["rows"]} == expected


def test_making_and_changing_a_datasource_leaves_the_system_ready(system: Running) -> None:
    definition: dict[str, Any] = {"name": "newcomer", "time": "at", "key": "user", "columns": {"user": "string"}}
    assert system.http.post("/v1/datasources", json=definition).status_code == 201
    assert system.http.get("/readyz").status_code == 200
    assert send(system, "newcomer", 0, 10)
    changed = {**definition, "columns": {"user": "string", "page": "string"}}
    assert system.http.put("/v1/datasources/newcomer", json=changed).status_code == 200
    assert system.http.get("/readyz").status_code == 200
    position = send(system, "newcomer", 10, 10)
    found = system.rows(datasource="newcomer", time_range=RANGE, metrics=[COUNT], after=position)
    assert found == [{"n": 20}]
