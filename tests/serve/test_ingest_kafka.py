"""What senders are told while a real broker can't, or is slow to, acknowledge; compared with what is in its log afterwards."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing

import httpx
import pytest

from rta.events.batch import read
from rta.events.decode import Edge
from rta.log.kafka.admin import KafkaAdmin
from rta.log.kafka.reader import KafkaReader
from rta.log.kafka.settings import KafkaSettings
from rta.log.kafka.writer import KafkaWriter
from rta.serve.ingest import IngestApp
from rta.serve.intake import Intake, IntakeLimits
from tests.serve.fakes import NOW_MS, FakeDefinitions
from tests.services.kafka import FollowingKafka, Kafka

pytestmark = pytest.mark.anyio
FREEZE_S = 3.0
PARTITIONS = 4


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    broker = Kafka()
    yield broker
    broker.close()


@pytest.fixture
def definitions(kafka: Kafka) -> Iterator[FakeDefinitions]:
    """Each test has a datasource, and with it a topic, of its own."""
    made = FakeDefinitions()
    yield made
    with closing(KafkaAdmin(KafkaSettings(servers=(kafka.servers,)))) as admin:
        admin.drop(made.known["events"].folder)


def event(name: str) -> dict[str, object]:
    return {"event_id": name, "timestamp": NOW_MS, "event_type": "x", "user_id": f"user-{name}"}


@asynccontextmanager
async def edge(definitions: FakeDefinitions, settings: KafkaSettings) -> AsyncIterator[httpx.AsyncClient]:
    """The ingest app on the broker, with the datasource's topic made as the settings say."""
    folder = definitions.known["events"].folder
    with closing(KafkaAdmin(settings)) as admin:
        states = admin.create(folder, PARTITIONS)

    async def incarnations(_: str) -> dict[int, str]:
        return {partition: state.incarnation for partition, state in states.items()}

    writer = KafkaWriter(settings)
    app = IngestApp(Intake(definitions, writer, Edge(7), IntakeLimits(threads=1), lambda: NOW_MS, incarnations))
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rta", timeout=60) as client:
            yield client
    finally:
        await app.close()
        await writer.close()


def logged(definitions: FakeDefinitions, settings: KafkaSettings) -> Counter[str]:
    """How often each id is in the log."""
    datasource = definitions.known["events"]
    found: Counter[str] = Counter()
    with closing(KafkaReader(settings)) as reader:
        states = reader.partitions(datasource.folder)
        offsets = {partition: state.start for partition, state in states.items()}
        while any(offset < states[partition].end for partition, offset in offsets.items()):
            for record in reader.fetch(datasource.folder, offsets, 1 << 20):
                found.update(read(record.payload, datasource).column("event_id").to_pylist())
                offsets[record.partition] = record.offset + 1
    return found


async def test_with_too_few_replicas_in_sync_events_are_refused_whole_until_there_are_enough() -> None:
    """Two brokers: since version 4 Kafka asks for no more replicas in sync than a topic has."""
    definitions = FakeDefinitions()
    with closing(Kafka()) as kafka, closing(FollowingKafka(kafka)) as follower:
        settings = KafkaSettings(servers=(kafka.servers,), replication=2, in_sync=2, delivery_ms=1500, request_ms=2000)
        async with edge(definitions, settings) as client:
            await posted(client, "first", 200, "")
            follower.kill()
            # The leader notices after some seconds; until then it takes records and waits for the follower.
            await posted(client, "unknown", 503, "too few replicas are in sync")
            began = time.monotonic()
            answer = await client.post("/v1/events", json=batch("refused"))
            assert time.monotonic() - began < 10
            assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
            assert int(answer.headers["Retry-After"]) > 0
            assert set(answer.json()) == {"error", "message", "hint"}, "nothing is told of single events"
            follower.start()
            await posted(client, "after", 200, "")
            found = logged(definitions, settings)
            assert [found[name] for name in names("refused")] == [0] * 200
            assert (await client.post("/v1/events", json=batch("refused"))).status_code == 200
            found = logged(definitions, settings)
            assert [found[name] for name in names("first") + names("refused")] == [1] * 400
            assert set(names("after")) <= set(found)


def names(word: str) -> list[str]:
    return [f"{word}-{k}" for k in range(200)]


def batch(word: str) -> list[dict[str, object]]:
    return [event(name) for name in names(word)]


async def posted(client: httpx.AsyncClient, word: str, status: int, hint: str) -> None:
    """Send the same batch until the answer has this status and hint; no other is given than 200 and 503."""
    async with asyncio.timeout(60):
        while True:
            answer = await client.post("/v1/events", json=batch(word))
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == status and hint in answer.text:
                return


@pytest.mark.parametrize(("request_ms", "delivery_ms"), [(5000, 10_000), (1000, 10_000), (500, 1000)])
async def test_a_broker_that_stands_still_for_seconds_loses_and_doubles_nothing(
    kafka: Kafka, definitions: FakeDefinitions, request_ms: int, delivery_ms: int
) -> None:
    """Within the time for delivery senders only wait; beyond it they are told 503, and send the same again."""
    settings = KafkaSettings(servers=(kafka.servers,), delivery_ms=delivery_ms, request_ms=request_ms)
    statuses: dict[str, int] = {}
    frozen = asyncio.Event()
    thawed = asyncio.Event()

    async def send(client: httpx.AsyncClient, sender: int) -> None:
        """One batch after another, from before the standstill until after it."""
        number = 0
        left = 3
        while left:
            names = [f"{sender}-{number}-{k}" for k in range(20)]
            answer = await client.post("/v1/events", json=[event(name) for name in names])
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == 503:
                assert int(answer.headers["Retry-After"]) > 0
            statuses.update(dict.fromkeys(names, answer.status_code))
            number += 1
            left -= thawed.is_set() and answer.status_code == 200
            if number == 3:
                frozen.set()

    async with edge(definitions, settings) as client:
        senders = [asyncio.create_task(send(client, k)) for k in range(6)]
        await frozen.wait()
        kafka.freeze()
        try:
            await asyncio.sleep(FREEZE_S)
        finally:
            kafka.thaw()
        thawed.set()
        await asyncio.wait_for(asyncio.gather(*senders), 60)
    found = logged(definitions, settings)
    acknowledged = {name for name, status in statuses.items() if status == 200}
    assert acknowledged <= set(found) <= set(statuses)
    assert set(found.values()) == {1}
    assert (acknowledged == set(statuses)) == (delivery_ms > FREEZE_S * 1000)
