"""Topics of other producers in a running system: counted exactly once through kills, growth, loss and restarts."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from deltalake import DeltaTable
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError

from rta.errors import NotFoundError
from rta.log.kafka.settings import KafkaSettings
from rta.log.kafka.source import SourceReader
from tests.services.kafka import Kafka
from tests.system.running import AGGREGATOR, Running, wait_for

START_MS = 1_767_225_600_000
RANGE = "2026-01-01T00:00:00Z/2026-01-02T00:00:00Z"
COUNT, TOTAL = {"name": "n", "type": "count"}, {"name": "s", "type": "sum", "field": "price"}
DOCUMENT: dict[str, Any] = {
    "time": "timestamp",
    "columns": {
        "country": "string",
        "price": "double",
        "user": {"path": "__kafka.key", "type": "string"},
        "tenant": {"path": "__kafka.headers.tenant", "type": "string"},
    },
    "rollups": [
        {"name": "by_country", "granularity": "minute", "dimensions": ["country", "tenant"], "metrics": [COUNT, TOTAL]}
    ],
}


@dataclass
class Plant:
    """A broker with other producers, and a system that reads their topics."""

    kafka: Kafka
    running: Running

    def make_topic(self, name: str, partitions: int) -> None:
        with closing(KafkaAdminClient(bootstrap_servers=self.kafka.servers)) as admin:
            admin.create_topics([NewTopic(name, partitions, 1)])
        wait_for(lambda: self.partitions(name) == partitions, f"topic '{name}' is there")

    def partitions(self, name: str) -> int:
        with closing(SourceReader(KafkaSettings(servers=(self.kafka.servers,)))) as reader:
            try:
                return len(reader.partitions(name))
            except NotFoundError:
                return 0

    def define(self, name: str, topic: str, **more: Any) -> Any:
        document = {**DOCUMENT, "name": name, "source": {"kafka": {"topic": topic}}, **more}
        return self.running.http.post("/v1/datasources", json=document)

    def counted(self, name: str) -> tuple[int, float]:
        [row] = self.running.rows(datasource=name, time_range=RANGE, metrics=[COUNT, TOTAL]) or [{"n": 0, "s": 0}]
        return row["n"], round(row["s"] or 0, 2)

    def wait_counted(self, name: str, count: int, timeout_s: float = 60) -> None:
        wait_for(lambda: self.counted(name)[0] >= count, f"{count} events of '{name}' are counted", timeout_s)

    def stored(self, name: str) -> Any:
        """The raw rows in the Delta table."""
        [table] = (self.running.folder / "data" / "store").glob(f"{name}.*/tables/events")
        return DeltaTable(str(table)).to_pyarrow_table()

    def resume(self, name: str) -> subprocess.CompletedProcess[str]:
        command = self.running.command("resume", "--datasource", name, "--url", self.running.url, "--accept-loss")
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def event(number: int) -> dict[str, Any]:
    return {"timestamp": START_MS + number, "country": ["US", "DE", "VN"][number % 3], "price": number % 997 / 100}


def total(count: int) -> float:
    return round(sum(number % 997 for number in range(count)) / 100, 2)


class Producer(threading.Thread):
    """Somebody else, who writes event after event until told to stop; each is in the topic once."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        super().__init__(daemon=True)
        self._kafka, self._topic = kafka, topic
        self._stop_now = threading.Event()
        self.sent = 0
        self.partitions: set[int] = set()
        self.failed: list[str] = []

    def run(self) -> None:
        options = {"acks": "all", "enable_idempotence": True, "compression_type": "zstd", "linger_ms": 20}
        with closing(
            KafkaProducer(bootstrap_servers=self._kafka.servers, metadata_max_age_ms=1000, **options)
        ) as client:
            while not self._stop_now.wait(0.02):
                futures = [self._send(client, self.sent + k) for k in range(40)]
                try:
                    for future in futures:
                        self.partitions.add(future.get(timeout=60).partition)
                except KafkaError as error:
                    self.failed.append(repr(error))
                    return
                self.sent += len(futures)

    def _send(self, client: KafkaProducer, number: int) -> Any:
        headers = [("tenant", b"acme"), ("trace", b"%d" % number)]
        return client.send(
            self._topic, json.dumps(event(number)).encode(), key=b"u%d" % (number % 100), headers=headers
        )

    def reach(self, count: int) -> None:
        wait_for(lambda: self.sent >= count or bool(self.failed), f"{count} events are written")
        assert not self.failed

    def finish(self) -> int:
        self._stop_now.set()
        self.join(90)
        assert not self.is_alive()
        assert not self.failed
        return self.sent


def put(kafka: Kafka, topic: str, count: int) -> None:
    with closing(KafkaProducer(bootstrap_servers=kafka.servers, acks="all")) as client:
        for number in range(count):
            client.send(topic, json.dumps(event(number)).encode())
        client.flush(timeout=60)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    kafka = Kafka()
    running = Running(tmp_path_factory.mktemp("sources"), log=kafka.url, epoch="1s")
    try:
        yield Plant(kafka, running.start())
        assert running.stop() == 0
    finally:
        if running.process is not None and running.process.poll() is None:
            running.kill_everything()
        kafka.close()


@pytest.mark.timeout(400)
def test_topic_is_counted_exactly_once_whatever_is_killed_and_however_it_grows(plant: Plant) -> None:
    running = plant.running
    plant.make_topic("orders", 2)
    answer = plant.define("orders", "orders")
    assert answer.status_code == 201, answer.text
    producer = Producer(plant.kafka, "orders")
    producer.start()
    producer.reach(1000)
    plant.wait_counted("orders", 1000)
    running.kill(AGGREGATOR)
    producer.reach(2000)
    plant.kafka.kill()
    plant.kafka.start()
    producer.reach(producer.sent + 1000)
    with closing(KafkaAdminClient(bootstrap_servers=plant.kafka.servers)) as admin:
        admin.create_partitions({"orders": 3})
    wait_for(lambda: 2 in producer.partitions, "somebody writes to the new partition")
    producer.reach(producer.sent + 2000)
    sent = producer.finish()
    plant.wait_counted("orders", sent)
    ledger = running.wait_committed("orders", sent)
    assert (ledger["lost"], ledger["duplicated"]) == (0, 0)
    assert plant.counted("orders") == (sent, total(sent))
    by_tenant = running.rows(datasource="orders", time_range=RANGE, metrics=[COUNT], group_by=["tenant"])
    assert [(row["tenant"], row["n"]) for row in by_tenant] == [("acme", sent)]

    # Tables follow the manifests; few rows of one date wait some epochs for company.
    wait_for(lambda: plant.stored("orders").num_rows >= sent, "the table has everything", 60)
    rows = plant.stored("orders")
    places = set(zip(rows["__id_hi"].to_pylist(), rows["__id_lo"].to_pylist(), strict=True))
    assert rows.num_rows == len(places) == sent
    assert set(rows["user"].to_pylist()) == {f"u{k}" for k in range(100)}
    status = running.status()["datasources"]["orders"]
    assert (status["topic"], status["partitions"], status["waits_for"]) == ("orders", 3, None)
    partitions = {place[0] & 0xFFFF for place in places}
    assert partitions == {0, 1, 2}


@pytest.mark.timeout(200)
def test_topic_that_is_not_there_and_events_over_http_are_refused(plant: Plant) -> None:
    refused = plant.define("nothing", "nowhere")
    assert refused.status_code == 404, refused.text
    assert "no topic 'nowhere'" in refused.json()["message"]
    assert "nothing" not in plant.running.status()["datasources"]
    plant.make_topic("closed", 1)
    assert plant.define("closed", "closed").status_code == 201
    answer = plant.running.http.post("/v1/events/closed", json={"timestamp": START_MS})
    assert answer.status_code == 409, answer.text
    assert "Kafka topic 'closed'" in answer.json()["message"]


@pytest.mark.timeout(300)
def test_topic_that_is_deleted_stops_its_datasource_alone_until_somebody_accepts_it(plant: Plant) -> None:
    running = plant.running
    for name in ("gone", "beside"):
        plant.make_topic(name, 2)
        assert plant.define(name, name).status_code == 201
    put(plant.kafka, "gone", 300)
    plant.wait_counted("gone", 300)
    with closing(KafkaAdminClient(bootstrap_servers=plant.kafka.servers)) as admin:
        admin.delete_topics(["gone"])
    wait_for(lambda: "has stopped" in running.http.get("/readyz").text, "the datasource has stopped", 60)
    said = running.http.get("/readyz")  # the rest takes events and answers
    assert (said.status_code, "'gone'" in said.json()["degraded"][0]) == (200, True)
    put(plant.kafka, "beside", 200)
    plant.wait_counted("beside", 200)
    # What had been read is committed; that the topic is gone for good nobody can accept.
    running.wait_committed("gone", 300)
    assert plant.resume("gone").returncode != 0
    wait_for(lambda: plant.partitions("gone") == 0, "the topic is gone")
    plant.make_topic("gone", 2)
    put(plant.kafka, "gone", 100)
    resumed = plant.resume("gone")
    assert resumed.returncode == 0, resumed.stderr
    assert "gaps in 2 partitions" in resumed.stderr
    plant.wait_counted("gone", 400)
    assert plant.counted("gone") == (400, round(total(300) + total(100), 2))
    wait_for(lambda: running.http.get("/readyz").json()["degraded"] == [], "nothing stands still", 60)
    ledger = running.wait_committed("gone", 400)
    assert (ledger["lost"], ledger["duplicated"], len(ledger["gaps"])) == (0, 0, 2)


@pytest.mark.timeout(300)
def test_restart_goes_on_where_it_was_and_a_deleted_datasource_leaves_its_topic_alone(plant: Plant) -> None:
    running = plant.running
    plant.make_topic("kept", 2)
    assert plant.define("kept", "kept", retention={"events": None}).status_code == 201
    put(plant.kafka, "kept", 500)
    running.wait_committed("kept", 500)
    assert running.stop() == 0
    put(plant.kafka, "kept", 250)
    running.start()
    plant.wait_counted("kept", 750)
    ledger = running.wait_committed("kept", 750)
    assert (ledger["lost"], ledger["duplicated"]) == (0, 0)
    assert plant.counted("kept") == (750, round(total(500) + total(250), 2))
    folder = running.status()["datasources"]["kept"]["folder"]
    assert running.http.delete("/v1/datasources/kept", params={"confirm": "kept"}).status_code in (200, 202, 204)
    store = running.folder / "data" / "store" / folder
    wait_for(lambda: not (store / "tables").exists(), "its data are gone", 60)
    with closing(SourceReader(KafkaSettings(servers=(plant.kafka.servers,)))) as reader:
        states = reader.partitions("kept")
    assert sum(state.end - state.start for state in states.values()) == 750
