"""How fast the fold is: from Arrow IPC records to rollups, duplicates included, on one core.

Events have the shape of the comparison with other systems: 20 countries, 3 devices, 8 event types, 4 categories,
200,000 users, event times 1 ms apart. The rollup is by minute, country, device, event type and category, with count,
sum, min, max and quantiles of the price and distinct users. Times are CPU time of this process.

    POLARS_MAX_THREADS=1 python -m benchmarks.fold
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rta.events.batch import encode, read
from rta.events.schemas import TIMESTAMP, Column, ColumnType, Datasource, Grain, MetricSpec, MetricType, Rollup
from rta.stream.fold import Fold
from rta.stream.model import BatchArrived, EpochCut, FoldLimits, IdRun, PartitionLoaded

START_MS = 1_767_225_600_000
PARTITIONS = 4
TEXTS = (
    "event_id",
    "event_type",
    "user_id",
    "session_id",
    "country",
    "device_type",
    "product_id",
    "category",
    "page_url",
    "page_title",
    "referrer",
    "user_agent",
    "ip_address",
)
COLUMNS = (
    *(Column(name, ColumnType.STRING, (name,)) for name in TEXTS),
    Column("price", ColumnType.DOUBLE, ("custom_properties", "price")),
)
METRICS = (
    MetricSpec("events", MetricType.COUNT),
    MetricSpec("price_sum", MetricType.SUM, "price"),
    MetricSpec("price_min", MetricType.MIN, "price"),
    MetricSpec("price_max", MetricType.MAX, "price"),
    MetricSpec("price", MetricType.QUANTILE, "price"),
    MetricSpec("users", MetricType.UNIQUE, "user_id"),
)
FINE = Rollup("fine", Grain.MINUTE, ("country", "device_type", "event_type", "category"), METRICS)
COARSE = Rollup("coarse", Grain.HOUR, ("country",), METRICS)


def datasource(*rollups: Rollup) -> Datasource:
    return Datasource(
        name="bench",
        incarnation="1",
        version=1,
        partitions=PARTITIONS,
        time_path=("timestamp",),
        keys=("user_id",),
        id="event_id",
        columns=COLUMNS,
        rollups=rollups,
    )


def events(count: int, first: int, rng: np.random.Generator) -> pa.Table:
    """`count` events of which `first` came before."""

    def pick(values: Sequence[str]) -> pa.Array:
        return pa.array(values).take(pa.array(rng.integers(0, len(values), count)))

    products = [f"{i}" for i in range(5_000)]
    columns = {
        "__time": pa.array(START_MS + first + np.arange(count)).cast(TIMESTAMP),
        "event_id": pa.array([f"{first + i:08x}-0000-4000-8000-{(first + i) * 7919:012x}" for i in range(count)]),
        "event_type": pick([f"event_type_{i}" for i in range(8)]),
        "user_id": pick([f"user_{i}" for i in range(200_000)]),
        "session_id": pick([f"session_{i}" for i in range(100_000)]),
        "country": pick([f"C{i:02}" for i in range(20)]),
        "device_type": pick(["desktop", "mobile", "tablet"]),
        "product_id": pick(products),
        "category": pick(["electronics", "clothing", "books", "home"]),
        "page_url": pick([f"https://shop.example.com/product/{p}" for p in products]),
        "page_title": pick([f"Product {p} | Example Shop" for p in products]),
        "referrer": pick(["https://google.com", "https://bing.com"]),
        "user_agent": pick([f"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/{i}.0" for i in range(100)]),
        "ip_address": pick([f"192.0.2.{i}" for i in range(256)]),
        "price": pa.array(rng.integers(0, 20_000, count) / 100),
        "__rest": pa.nulls(count, pa.string()),
    }
    return pa.table(columns, schema=datasource().raw_schema())


def payloads(total: int, batch: int) -> list[list[bytes]]:
    """Batches of one record per partition each, as they stand in the log."""
    rng = np.random.default_rng(1)
    out = []
    each = batch // PARTITIONS
    for first in range(0, total, batch):
        table = events(batch, first, rng)
        records = []
        for partition in range(PARTITIONS):
            records.append(encode(table.slice(partition * each, each)))
        out.append(records)
    return out


class Timing(NamedTuple):
    """CPU seconds."""

    fold: list[float]
    cut: float


def run(source: Datasource, batches: list[list[bytes]], limits: FoldLimits) -> Timing:
    """Fold all batches as one epoch, then cut it."""
    fold = Fold(source, [PartitionLoaded(p, 0, 0, None, None, ()) for p in range(PARTITIONS)], limits)
    taken = []
    now = START_MS
    for offset, records in enumerate(batches):
        began = time.process_time()
        arrived = []
        for partition, payload in enumerate(records):
            rows = read(payload, source)
            now += rows.num_rows
            arrived.append(BatchArrived(partition, offset, now, rows.num_rows, 0, rows))
        fold.fold(arrived)
        taken.append(time.process_time() - began)
    began = time.process_time()
    cut = fold.end_epoch().cut()
    seconds = time.process_time() - began
    fold.runs_written(_in_memory(cut))
    return Timing(taken, seconds)


def _in_memory(cut: EpochCut) -> list[IdRun]:
    return [IdRun(write.step, write.identities, i) for i, write in enumerate(cut.run_writes)]


def measure(name: str, source: Datasource, total: int, batch: int) -> None:
    batches = payloads(total, batch)
    run(source, batches, FoldLimits())
    timings = [run(source, batches, FoldLimits()) for _ in range(3)]
    seconds = statistics.median(sum(t.fold) for t in timings)
    each = statistics.median(statistics.median(t.fold) for t in timings)
    cut = statistics.median(t.cut for t in timings)
    print(
        f"{name:<42}{total / seconds:>12,.0f}{total / (seconds + cut):>14,.0f}{each * 1e3:>12.2f}{cut * 1e3:>10.0f}",
        flush=True,
    )


def main() -> None:
    print(f"{'':<42}{'events/CPU-s':>12}{'with the cut':>14}{'ms a fold':>12}{'ms a cut':>10}")
    for batch in (100_000, 50_000, 10_000):
        measure(f"500,000 in batches of {batch:,}, 1 rollup", datasource(FINE), 500_000, batch)
    measure("500,000 in batches of 10,000, 2 rollups", datasource(FINE, COARSE), 500_000, 10_000)
    measure("30,000 in batches of 100, 2 rollups", datasource(FINE, COARSE), 30_000, 100)
    measure("30,000 in batches of 100, no rollup", datasource(), 30_000, 100)


if __name__ == "__main__":
    main()
