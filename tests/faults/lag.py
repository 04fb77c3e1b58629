"""rta was away while events went on into the log: how fast it works off the lag while as many events go on arriving."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rta.events.batch import encode, split
from rta.events.decode import Body, Edge, decode
from rta.events.schemas import Datasource
from rta.log.base import Header, Outgoing
from rta.log.kafka.settings import KafkaSettings
from rta.log.kafka.writer import KafkaWriter
from rta.store.catalog import Catalog
from rta.store.manifests import ManifestLog
from rta.store.model import Manifest
from tests.faults.plant import Plant
from tests.faults.senders import body_of
from tests.system.running import READY_S, wait_for

BATCH = 20_000
EDGE = 99
"""A process that no ingest replica is, in the headers of what is put into the log here."""
TIMES_MIN = 5.0
LIMIT_S = 3600.0


class CaughtUp(NamedTuple):
    """Events that were folded until the lag was worked off, how long that took, and how many arrive per second."""

    events: int
    seconds: float
    arrival: float

    @property
    def times(self) -> float:
        """How many times as fast as events arrive."""
        return self.events / self.seconds / self.arrival

    def __str__(self) -> str:
        return (
            f"{self.events} events worked off in {self.seconds:.1f} s, {self.events / self.seconds:.0f} events/s: "
            f"{self.times:.1f} times the {self.arrival:.0f} events/s that arrive"
        )


def work_off(folder: Path, *, seed: int, rate: int, lag_minutes: float) -> CaughtUp:
    """Stop rta, put the events of so many minutes into the log, start it beside senders, judge at the end as every campaign."""
    plant = Plant(folder, rate, seed)
    try:
        plant.start_system()
        assert plant.running.stop() == 0
        behind = int(lag_minutes * 60 * rate) // BATCH * BATCH
        print(f"seed {seed}: {behind} events into the log while rta is away", flush=True)
        datasource = Catalog(plant.store()).get("events")
        asyncio.run(_preload(plant.kafka.servers, datasource, plant.stranger, behind))
        plant.strangers[plant.stranger] = behind
        manifests = ManifestLog(plant.store(), datasource.folder)
        before = manifests.newest()
        assert before is not None
        plant.running.launch()
        plant.start_senders()
        wait_for(lambda: _folded(manifests.newest()) >= _folded(before) + behind, "the lag is worked off", LIMIT_S)
        found = _measured(manifests, before, behind, rate)
        wait_for(plant.running.ready, "it is ready", READY_S)
        plant.settle()
        return found
    except BaseException:
        print(plant.describe(), flush=True)
        raise
    finally:
        plant.close()


def _folded(manifest: Manifest | None) -> int:
    return 0 if manifest is None else sum(entry.folded for entry in manifest.partitions)


def _measured(manifests: ManifestLog, before: Manifest, behind: int, rate: int) -> CaughtUp:
    """By the manifests: from the one with which the new coordinator begins to the first one that holds what had been missed."""
    newest = manifests.newest()
    assert newest is not None
    later = list(manifests.read(before.number + 1, newest.number))
    began = next(manifest for manifest in later if manifest.coordinator > before.coordinator)
    ended = next(manifest for manifest in later if _folded(manifest) >= _folded(before) + behind)
    seconds = (ended.created_ms - began.created_ms) / 1000
    return CaughtUp(_folded(ended) - _folded(began), seconds, rate)


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
