"""A log that was lost stops its datasource, loudly; a person goes on behind the gap, and the ledger keeps it."""

from __future__ import annotations

import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rta.log.kafka.admin import KafkaAdmin
from rta.log.kafka.settings import KafkaSettings
from tests.faults.plant import EVER
from tests.services.kafka import Kafka
from tests.system.running import Running, wait_for


def send(running: Running, first: int, count: int) -> str:
    events = [
        {"event_id": f"e{k}", "timestamp": 1_767_225_600_000 + k, "event_type": "x", "user_id": f"u{k % 40}"}
        for k in range(first, first + count)
    ]
    answer = running.http.post("/v1/events", json=events)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["position"])


def counted(running: Running, after: str | None = None) -> int:
    question: dict[str, Any] = {"datasource": "events", "time_range": EVER, "metrics": [{"name": "n", "type": "count"}]}
    return int(running.rows(**question, **({} if after is None else {"after": after}))[0]["n"])


def answered(running: Running, after: str) -> int | None:
    """As `counted`; None when the position is refused."""
    question = {"datasource": "events", "time_range": EVER, "metrics": [{"name": "n", "type": "count"}], "after": after}
    answer = running.http.post("/v1/query", json=question)
    assert answer.status_code in (200, 400), answer.text
    return int(answer.json()["rows"][0]["n"]) if answer.status_code == 200 else None


@pytest.mark.timeout(400)
def test_a_topic_that_was_deleted_and_made_again_stops_the_datasource_until_somebody_accepts_it(tmp_path: Path) -> None:
    kafka = Kafka()
    running = Running(tmp_path, log=kafka.url, epoch="30s").start()
    try:
        assert counted(running, send(running, 0, 2000)) == 2000
        with closing(KafkaAdmin(KafkaSettings(servers=(kafka.servers,)))) as admin:
            [topic] = admin.topics()
            admin.drop(topic)
            admin.create(topic, 8)
        wait_for(lambda: "has stopped" in running.http.get("/readyz").text, "the datasource has stopped", 60)
        assert "incarnation" in running.http.get("/readyz").text
        # What had been folded before is committed all the same.
        running.wait_committed("events", 2000)
        assert counted(running) == 2000
        send(running, 2000, 100)
        refused = running.http.post("/v1/datasources/events/resume")
        assert refused.status_code == 409
        assert len(refused.json()["gaps"]) == 8
        assert "--accept-loss" in refused.json()["hint"]
        said = resume(running, "--accept-loss")
        assert said.returncode == 0, said.stderr
        assert "gaps in 8 partitions" in said.stderr
        wait_for(lambda: running.http.get("/readyz").status_code == 200, "it goes on", 60)
        wait_for(lambda: counted(running) == 2100, "what came into the new topic is counted", 30)
        # Positions name the log; an ingest replica may say the old one's name for some seconds, and the query refuses it.
        wait_for(lambda: answered(running, send(running, 2100, 50)) == 2150, "positions are of the new topic", 30)
        ledger = running.wait_committed("events", 2150)
        assert (ledger["lost"], ledger["duplicated"]) == (0, 0)
        assert [gap["records"] for gap in ledger["gaps"]] == [None] * 8
        assert "has no gap" in resume(running).stderr
        assert running.stop() == 0
    finally:
        if running.process is not None and running.process.poll() is None:
            running.kill_everything()
        kafka.close()


def resume(running: Running, *flags: str) -> subprocess.CompletedProcess[str]:
    command = running.command("resume", "--datasource", "events", "--url", running.url, *flags)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
