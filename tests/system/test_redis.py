"""A running system with a Redis: quotas and answers are shared, and nothing is lost, wrong or down when Redis is."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from tests.services.redis import RedisServer
from tests.system.running import QUERY, Running, Sender, wait_for

PASSWORD = "a secret of the tests"
BURST = 20_000
COUNT = {"name": "n", "type": "count"}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer(PASSWORD)
    yield server
    server.close()


@pytest.fixture(scope="module")
def running(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    quotas = {"events_per_second": 5_000, "burst": BURST}
    environment = {**os.environ, "RTA_REDIS_PASSWORD": PASSWORD}
    folder = tmp_path_factory.mktemp("redis")
    running = Running(folder, environment, redis=redis.url, quotas=quotas).start()
    yield running
    assert running.stop() == 0


def sharing(running: Running) -> dict[str, Any]:
    found: dict[str, Any] = running.status()["sharing"]
    return found


def shared(running: Running) -> bool:
    found = sharing(running)
    return bool(found["redis"]["reachable"] and found["quotas"]["shared"] and found["cache"]["shared"])


def metric(running: Running, line: str) -> float:
    """The value of a line of `/metrics` that begins like this; 0 when there is none."""
    text = running.http.get("/metrics").text
    return next((float(found.rsplit(" ", 1)[1]) for found in text.splitlines() if found.startswith(line)), 0.0)


def test_status_says_that_both_are_shared_and_keeps_the_password(running: Running, redis: RedisServer) -> None:
    wait_for(lambda: shared(running), "quotas and answers are shared")
    document = running.status()
    assert document["sharing"]["redis"]["place"] == redis.url
    said = subprocess.run(running.command("status", "--url", running.url), capture_output=True, text=True, check=True)
    assert said.stdout.count("shared through Redis") == 2
    assert "reachable" in said.stdout
    for text in (str(document), said.stdout, said.stderr, running.log.read_text()):
        assert PASSWORD not in text


def test_a_source_over_its_quota_is_told_when_to_come_back(running: Running) -> None:
    def body(first: int, count: int) -> list[dict[str, Any]]:
        now_ms = time.time_ns() // 1_000_000
        return [{"event_id": f"q{first + k}", "timestamp": now_ms, "event_type": "quota"} for k in range(count)]

    address = {"X-Forwarded-For": "127.0.0.77"}
    assert running.http.post("/v1/events", json=body(0, BURST + 1), headers=address).status_code == 413
    assert running.http.post("/v1/events", json=body(0, BURST), headers=address).status_code == 200
    refused = running.http.post("/v1/events", json=body(BURST, BURST), headers=address)
    assert (refused.status_code, refused.json()["error"]) == (429, "quota_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 4
    running.wait_committed("events", BURST)
    rows = running.rows(datasource="events", metrics=[COUNT], filters={"event_type": "quota"}, max_staleness_ms=0)
    assert rows == [{"n": BURST}]
    wait_for(lambda: metric(running, 'rta_ingest_requests_total{status="429"}') >= 1, "the 429 is counted")
    wait_for(lambda: metric(running, 'rta_quota_requests_total{decided="together"}') >= 1, "who decided is counted")


def test_a_new_replica_takes_the_answers_of_the_one_before(running: Running) -> None:
    now_ms = time.time_ns() // 1_000_000
    events = [
        {"event_id": f"old{k}", "timestamp": now_ms - 7_200_000 + k, "event_type": "old", "user_id": f"u{k % 9}"}
        for k in range(900)
    ]
    before = running.ledger("events")["stages"]["committed"]
    assert running.http.post("/v1/events", json=events, headers={"X-Forwarded-For": "127.0.0.78"}).status_code == 200
    running.wait_committed("events", before + 900)
    first, last = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_ms / 1000 - back)) for back in (9_000, 5_400))
    question = {
        "datasource": "events",
        "time_range": f"{first}/{last}",
        "metrics": [COUNT],
        "group_by": ["user_id"],
        "order_by": "user_id",
    }

    def answered() -> bool:
        """With a key that has come to rest: the epoch is over and its files are in."""
        running.query(question)
        return running.query(question)["meta"]["sources"] == ["events"]

    wait_for(answered, "the answer comes from files alone")
    expected = running.query(question)["rows"]
    assert [row["n"] for row in expected] == [100] * 9
    old = running.kill(QUERY)
    wait_for(lambda: [p.pid for p in running.processes(QUERY)] not in ([], [old]), "a new replica runs")
    wait_for(lambda: ready(running), "the new replica answers")
    found = running.query(question)
    assert found["rows"] == expected
    assert found["meta"]["cached"] is True
    assert metric(running, 'rta_answer_cache_lookups_total{place="redis",outcome="hit"}') >= 1


def ready(running: Running) -> bool:
    try:
        return running.http.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def flows(sender: Sender, events: int) -> bool:
    return len(sender.acknowledged) >= events


def test_redis_frozen_killed_and_back_under_load(running: Running, redis: RedisServer) -> None:
    sender = Sender(running, rate=1_000, seed=11, batch=100)
    base = running.rows(datasource="events", metrics=[COUNT], max_staleness_ms=0)[0]["n"]
    sender.start()
    wait_for(partial(flows, sender, 500), "events flow")
    for fault, mend in ((redis.freeze, redis.thaw), (redis.kill, redis.start)):
        wait_for(lambda: shared(running), "Redis is used")
        fault()
        wait_for(lambda: bool(sharing(running)["redis"]["reason"]), "Redis is missed")
        wait_for(lambda: sharing(running)["quotas"]["how"].startswith("per process"), "each has its own quota")
        answer = running.query({"datasource": "events", "metrics": [COUNT], "max_staleness_ms": 0})
        assert answer["meta"]["elapsed_ms"] < 2_000
        wait_for(partial(flows, sender, len(sender.acknowledged) + 2_000), "events flow on")
        mend()
    wait_for(lambda: shared(running), "Redis is used again")
    sender.finish()
    assert sender.refused == []
    assert sender.resent == 0
    rows = running.rows(datasource="events", metrics=[COUNT], after=sender.position, max_staleness_ms=0)
    assert rows == [{"n": base + len(sender.acknowledged)}]
