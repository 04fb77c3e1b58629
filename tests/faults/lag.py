"""rta was away while events went on into the log: how fast it works off the lag while as many events go on arriving."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

from rta.events.batch import encode, split
from rta.events.decode import Body, Edge, decode
from rta.events.schemas import Datasource
from rta.log.base import Header, Outgoing
from rta.log.kafka.settings import KafkaSettings
from rta.log.kafka.writer import KafkaWriter
from tests.faults.plant import Plant
from tests.faults.senders import body_of
from tests.system.running import READY_S, wait_for

BATCH = 20_000
EDGE = 99
"""A process that no ingest replica is, in the headers of what is put into the log here."""
TIMES_MIN = 5.0
STEP_S = 0.2
LIMIT_S = 3600.0


class CaughtUp(NamedTuple):
    """What was worked off, how long that took from the first event that was folded, and what arrived meanwhile per second."""

    events: int
    seconds: float
    arrival: float

    @property
    def times(self) -> float:
        """How many times as fast as events arrive."""
        return self.events / self.seconds / self.arrival

    def __str__(self) -> str:
        return (
            f"{self.events} events worked off in {self.seconds:.1f} s, {self.events / self.seconds:.0f} events/s, "
            f"{self.times:.1f} times the {self.arrival:.0f} events/s that arrived"
        )


def work_off(folder: Path, *, seed: int, rate: int, lag_minutes: float) -> CaughtUp:
    """Stop rta, put the events of so many minutes into the log, start it beside senders, judge at the end as every campaign."""
    plant = Plant(folder, rate, seed)
    try:
        plant.start_system()
        assert plant.running.stop() == 0
        behind = int(lag_minutes * 60 * rate) // BATCH * BATCH
        print(f"seed {seed}: {behind} events into the log while rta is away", flush=True)
        datasource = plant.catalog().get("events")
        asyncio.run(_preload(plant.kafka.servers, datasource, plant.stranger, behind))
        plant.strangers[plant.stranger] = behind
        plant.running.launch()
        plant.start_senders()
        found = _watched(plant, datasource.folder)
        wait_for(plant.running.ready, "it is ready", READY_S)
        plant.settle()
        return found
    except BaseException:
        print(plant.describe(), flush=True)
        raise
    finally:
        plant.close()


def _watched(plant: Plant, folder: str) -> CaughtUp:
    """Until every share has read its log to the end for the first time."""
    wait_for(lambda: _folded(plant, folder)[0] > 0, "events are folded", READY_S)
    began, (first, _), sent = time.monotonic(), _folded(plant, folder), plant.acknowledged
    pause = threading.Event()
    while True:
        events, caught_up = _folded(plant, folder)
        seconds = time.monotonic() - began
        if caught_up and seconds > 1:
            return CaughtUp(events - first, seconds, max(1.0, (plant.acknowledged - sent) / seconds))
        assert seconds < LIMIT_S, f"not caught up within {LIMIT_S:.0f} s"
        pause.wait(STEP_S)


def _folded(plant: Plant, folder: str) -> tuple[int, bool]:
    """Events that the running aggregators have folded, and whether they are at the end of the log."""
    try:
        answer = plant.running.http.get("/v1/status")
    except httpx.TransportError:
        return 0, False
    if answer.status_code != 200:
        return 0, False
    shards = [actor["shards"].get(folder) for actor in answer.json()["actors"].values()]
    known = [shard for shard in shards if shard is not None]
    return sum(shard["events"] for shard in known), bool(known) and all(shard["caught_up"] for shard in shards if shard)


async def _preload(servers: str, datasource: Datasource, sender: int, events: int) -> None:
    writer = KafkaWriter(KafkaSettings(servers=(servers,)))
    try:
        for records in _records(datasource, sender, events):
            await writer.append(datasource.folder, records)
    finally:
        await writer.close()


def _records(datasource: Datasource, sender: int, events: int) -> Iterator[list[Outgoing]]:
    edge = Edge(EDGE)
    for number, first in enumerate(range(0, events, BATCH)):
        now_ms = time.time_ns() // 1_000_000
        decoded = decode(datasource, [Body(body_of(sender, first, BATCH, now_ms))], edge, now_ms)
        yield [
            Outgoing(partition, Header(rows.num_rows, id_sum, EDGE, number, datasource.version), encode(rows))
            for partition, rows, id_sum in split(decoded, datasource.partitions)
        ]
