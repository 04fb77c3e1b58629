"""Aggregators that stand still while events come in: the log's limit is heeded, and what retention takes meanwhile is said."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from rta.log.kafka.admin import KafkaAdmin
from rta.log.kafka.reader import KafkaReader
from rta.log.kafka.settings import KafkaSettings
from tests.faults.plant import EVER
from tests.services.kafka import Kafka
from tests.system.running import AGGREGATOR, Running, wait_for

LIMIT_BYTES = 1 << 20


class Bench:
    """rta on a broker, and what its sender knows: the ids that were acknowledged, and those of which nobody knows."""

    def __init__(self, kafka: Kafka, running: Running) -> None:
        self.kafka, self.running = kafka, running
        self.draw = random.Random(7)
        self.sent = 0
        self.acknowledged = 0

    def send(self, count: int, text_bytes: int = 0) -> httpx.Response:
        """New events, each with so much text that does not compress well."""
        events = [
            {
                "event_id": f"e{self.sent + k}",
                "timestamp": 1_767_225_600_000 + k,
                "event_type": "x",
                "user_id": f"u{self.draw.randrange(1000)}",
                "custom_properties": {"text": self.draw.randbytes(text_bytes // 2).hex()},
            }
            for k in range(count)
        ]
        self.sent += count
        answer = self.running.http.post("/v1/events", json=events)
        if answer.status_code == 200:
            assert answer.json()["successful"] == count
            self.acknowledged += count
        return answer

    def counted(self) -> int:
        question = {"datasource": "events", "time_range": EVER, "metrics": [{"name": "n", "type": "count"}]}
        return int(self.running.rows(**question)[0]["n"])

    @contextmanager
    def frozen_aggregators(self) -> Iterator[None]:
        """SIGSTOP for a while; one that stands for ten seconds is ended and started again by rta."""
        stopped = [process.pid for process in self.running.processes(AGGREGATOR)]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = self.running.command(*words, "--url", self.running.url)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    kafka = Kafka()
    folder: Path = tmp_path_factory.mktemp("slow")
    running = Running(folder, log=kafka.url, epoch="1s", partitions=2, limits={"backlog": "1MiB"}).start()
    try:
        yield Bench(kafka, running)
        assert running.stop() == 0
    finally:
        if running.process is not None and running.process.poll() is None:
            running.kill_everything()
        kafka.close()


@pytest.mark.timeout(400)
def test_events_are_refused_while_the_aggregators_are_too_far_behind_and_none_is_lost(bench: Bench) -> None:
    assert bench.send(100).status_code == 200
    bench.running.wait_committed("events", 100)
    refused: list[httpx.Response] = []

    def is_refused() -> bool:
        answer = bench.send(50, text_bytes=4000)
        if answer.status_code != 200:
            refused.append(answer)
        return bool(refused)

    with bench.frozen_aggregators():
        wait_for(is_refused, "events are refused", 60)
        [answer] = refused
        assert (answer.status_code, answer.json()["error"]) == (503, "log_full")
        assert int(answer.headers["Retry-After"]) > 0
        assert f"limit {LIMIT_BYTES} bytes" in answer.json()["message"]
        [topic] = bench.running.status()["log"]["topics"].values()
        assert topic["backlog_bytes"] > LIMIT_BYTES
        assert bench.send(1).json()["error"] == "log_full"
    wait_for(lambda: bench.send(1).status_code == 200, "events are taken again", 120)
    ledger = bench.running.wait_committed("events", bench.acknowledged)
    assert bench.counted() == bench.acknowledged == ledger["stages"]["committed"]
    assert (ledger["lost"], ledger["duplicated"], ledger["mismatches"]) == (0, 0, [])
    assert ledger["pending_gaps"] == []


@pytest.mark.timeout(400)
def test_a_range_that_retention_took_before_we_read_it_stands_in_the_ledger_until_somebody_accepts_it(
    bench: Bench,
) -> None:
    bench.running.wait_committed("events", bench.acknowledged)
    before = bench.acknowledged
    settings = KafkaSettings(servers=(bench.kafka.servers,))
    with closing(KafkaAdmin(settings)) as admin, closing(KafkaReader(settings)) as reader:
        [topic] = admin.topics()
        with bench.frozen_aggregators():
            began = reader.partitions(topic)[0].end
            for _ in range(40):
                # One by one: a record holds one event then, and the lost ones can be counted.
                assert bench.send(1).status_code == 200
            ended = reader.partitions(topic)[0].end
            assert ended > began
            admin.trim(topic, {0: ended})
    wait_for(lambda: "has stopped" in bench.running.http.get("/readyz").text, "the datasource has stopped", 90)
    wait_for(lambda: bool(ledger(bench)["pending_gaps"]), "the ledger has the range", 30)
    [gap] = ledger(bench)["pending_gaps"]
    # A fetch that was under way when they were frozen may have brought the first record.
    first, lost = gap["from_offset"], gap["records"]
    assert (gap["partition"], gap["to_offset"], first + lost) == (0, ended, ended)
    assert began <= first <= began + 1
    assert ledger(bench)["gaps"] == []
    said = bench.run("status")
    assert said.returncode == 0, said.stderr
    assert f"partition 0 from offset {first:,} to {ended:,} ({lost:,} records)" in said.stderr
    assert "rta resume --datasource events --accept-loss" in said.stderr
    assert "pending_gaps" in bench.run("status", "--json").stdout
    resumed = bench.run("resume", "--datasource", "events", "--accept-loss")
    assert resumed.returncode == 0, resumed.stderr
    wait_for(lambda: bench.running.http.get("/readyz").status_code == 200, "it goes on", 60)
    found = bench.running.wait_committed("events", before + 40 - lost)
    wait_for(lambda: ledger(bench)["pending_gaps"] == [], "nothing is pending", 30)
    assert [(g["partition"], g["from_offset"], g["to_offset"]) for g in found["gaps"]] == [(0, first, ended)]
    assert (found["lost"], found["duplicated"]) == (0, 0), json.dumps(found)
    assert bench.counted() == before + 40 - lost


def ledger(bench: Bench) -> dict[str, Any]:
    return bench.running.ledger("events")
