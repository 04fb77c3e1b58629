"""The questions D1-D5 inside one process: parse, plan, fold, JSON. No HTTP, one thread.

The input is what the peers were measured on: 2,000,000 events 1 ms apart from 2026-01-01T00:00Z (33.3 minutes), 20
countries, 3 device types, 8 event types, 4 categories, 200,000 users, prices in whole cents. Run: `python -m
benchmarks.questions`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl
import pyarrow as pa

from rta.events.schemas import (
    TIMESTAMP,
    Column,
    ColumnType,
    Datasource,
    Grain,
    MetricSpec,
    MetricType,
    Retention,
    Rollup,
)
from rta.query.answer import rows_json
from rta.query.block import Block, Dictionaries
from rta.query.execute import run_rollup
from rta.query.parse import parse_query
from rta.query.planner import plan
from rta.query.rows import Source, run_rows
from rta.stream.rollups import finest_partials

EVENTS = 2_000_000
START_MS = 1_767_225_600_000
PEERS_MS = {
    "D1": "Druid 5.9, polars 2.9",
    "D2": "Druid 5.0, polars 2.5",
    "D3": "Druid 22",
    "D4": "Druid 6.4, polars 3.0",
    "D5": "Druid 7, polars 51",
}
_COUNT = {"name": "n", "type": "count"}
_SUM = {"name": "revenue", "type": "sum", "field": "price"}
QUESTIONS: dict[str, dict[str, Any]] = {
    "D1": {
        "metrics": [_COUNT, _SUM],
        "granularity": "minute",
        "time_range": "2026-01-01T00:10:00Z/2026-01-01T00:25:00Z",
        "filters": {"country": "US"},
    },
    "D2": {"metrics": [_SUM], "group_by": ["country"], "order_by": "-revenue", "limit": 10},
    "D3": {
        "metrics": [
            {"name": "p95", "type": "quantile", "field": "price", "q": 0.95},
            {"name": "users", "type": "unique_count", "field": "user_id"},
        ],
        "group_by": ["device_type"],
        "time_range": "2026-01-01T00:20:00Z/2026-01-01T00:25:00Z",
    },
    "D4": {
        "metrics": [_COUNT],
        "granularity": "hour",
        "group_by": ["country", "device_type"],
        "filters": {"event_type": ["type_1", "type_2"]},
    },
    "D5": {"select": ["*"], "filters": {"user_id": "user_4711"}, "limit": 100},
}


def datasource() -> Datasource:
    """The peers' schema, with the rollup of four dimensions that they were given."""
    texts = ("event_id", "event_type", "user_id", "country", "device_type", "category")
    columns = tuple(Column(n, ColumnType.STRING, (n,)) for n in texts) + (
        Column("price", ColumnType.DOUBLE, ("price",)),
    )
    metrics = (
        MetricSpec("n", MetricType.COUNT),
        MetricSpec("price_sum", MetricType.SUM, "price"),
        MetricSpec("price", MetricType.QUANTILE, "price"),
        MetricSpec("users", MetricType.UNIQUE, "user_id"),
    )
    rollup = Rollup("traffic", Grain.MINUTE, ("event_type", "country", "device_type", "category"), metrics)
    return Datasource(
        name="bench",
        incarnation="1",
        version=1,
        partitions=4,
        time_path=("timestamp",),
        keys=("user_id",),
        id="event_id",
        columns=columns,
        rollups=(rollup,),
        retention=Retention(events_ms=10**15, rollups_ms=dict.fromkeys(Grain, 10**15)),
    )


def events(count: int) -> pa.Table:
    rng = np.random.default_rng(7)

    def texts(prefix: str, size: int) -> pa.Array:
        values = pa.array([f"{prefix}_{i}" for i in range(size)])
        return values.take(pa.array(rng.integers(0, size, count)))

    countries = pa.array(["US", *(f"C{i}" for i in range(1, 20))]).take(pa.array(rng.integers(0, 20, count)))
    columns = {
        "__time": pa.array(START_MS + np.arange(count)).cast(TIMESTAMP),
        "event_id": pa.array(np.arange(count)).cast(pa.string()),
        "event_type": texts("type", 8),
        "user_id": texts("user", 200_000),
        "country": countries,
        "device_type": texts("device", 3),
        "category": texts("category", 4),
        "price": pa.array(rng.integers(0, 20_000, count) / 100),
        "__rest": pa.nulls(count, pa.string()),
    }
    return pa.table(columns, schema=datasource().raw_schema())


def measure(ask: Callable[[], bytes], rounds: int) -> tuple[float, float, float]:
    """p50 and p99 of the wall clock and mean CPU, all in ms."""
    ask()
    spent = []
    cpu = time.process_time()
    for _ in range(rounds):
        begun = time.perf_counter()
        ask()
        spent.append((time.perf_counter() - begun) * 1000)
    cpu = (time.process_time() - cpu) * 1000 / rounds
    return float(np.percentile(spent, 50)), float(np.percentile(spent, 99)), cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    source = datasource()
    rows = events(arguments.events)
    begun = time.process_time()
    partials = finest_partials(rows, source.rollups[0], source)
    print(f"{rows.num_rows:,} events → {partials.height:,} rollup rows in {time.process_time() - begun:.1f} CPU-s")
    block = Block(partials, Dictionaries())

    def rolled(document: dict[str, Any]) -> bytes:
        planned = plan(parse_query({"datasource": "bench", **document}), source, START_MS)
        return rows_json(run_rollup(planned, [block]))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.parquet"
        frame = pl.DataFrame(rows)
        frame.write_parquet(path, compression="zstd", row_group_size=131_072)

        def raw(document: dict[str, Any]) -> bytes:
            planned = plan(parse_query({"datasource": "bench", **document}), source, START_MS)
            file = Source(pl.scan_parquet(path), START_MS, START_MS + arguments.events)
            return rows_json(run_rows(planned, [file]))

        print(f"{'':4}{'p50 ms':>8}{'p99 ms':>8}{'CPU ms':>8}   peers (p50)")
        for name, document in QUESTIONS.items():
            answer = raw if name == "D5" else rolled
            rounds = max(arguments.rounds // 10, 10) if name == "D5" else arguments.rounds
            p50, p99, cpu = measure(lambda ask=answer, d=document: ask(d), rounds)  # type: ignore[misc]  # mypy can't infer a lambda's defaults
            print(f"{name:4}{p50:8.2f}{p99:8.2f}{cpu:8.2f}   {PEERS_MS[name]} ms")


if __name__ == "__main__":
    main()
