"""The Wikipedia edits of the demo as raw rows, rollup partials and plain polars columns, read once per test run."""

from __future__ import annotations

import gzip
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

import rta
from rta.events.schemas import (
    ID_HI,
    ID_LO,
    REST,
    TIME,
    Column,
    ColumnType,
    Datasource,
    Grain,
    MetricSpec,
    MetricType,
    Retention,
    Rollup,
)
from rta.query.parse import parse_query
from rta.query.planner import Plan, Stock, plan
from rta.stream.rollups import finest_partials

DEMO = Path(next(iter(rta.__path__))) / "demo"
FOREVER_MS = 10**14
NOW_MS = 1_442_102_400_000
"""2015-09-13T00:00Z."""


@lru_cache(maxsize=1)
def datasource() -> Datasource:
    """The demo's definition, with a second rollup of every kind of metric and a daily one."""
    document = json.loads((DEMO / "wikipedia.json").read_text())
    columns = tuple(Column(n, ColumnType(t), (n,)) for n, t in document["columns"].items())
    everything = (
        MetricSpec("n", MetricType.COUNT),
        MetricSpec("added", MetricType.SUM, "added"),
        MetricSpec("deleted", MetricType.SUM, "deleted"),
        MetricSpec("low", MetricType.MIN, "delta"),
        MetricSpec("high", MetricType.MAX, "delta"),
        MetricSpec("delta", MetricType.QUANTILE, "delta"),
        MetricSpec("users", MetricType.UNIQUE, "user"),
        MetricSpec("pages", MetricType.TOP, "page"),
    )
    dimensions = ("channel", "namespace", "isRobot", "isNew", "countryName", "metroCode")
    rollups = (
        Rollup("edits", Grain.MINUTE, dimensions, everything),
        Rollup("hourly", Grain.HOUR, ("channel", "isRobot"), everything),
        Rollup("daily", Grain.DAY, ("channel",), everything[:2]),
    )
    return Datasource(
        name="wikipedia",
        incarnation="1",
        version=1,
        partitions=4,
        time_path=("time",),
        keys=("user",),
        id=None,
        columns=columns,
        rollups=rollups,
        retention=Retention(events_ms=FOREVER_MS, rollups_ms=dict.fromkeys(Grain, FOREVER_MS)),
    )


@lru_cache(maxsize=1)
def oracle() -> pl.DataFrame:
    """The file as polars reads it, `time` as milliseconds: what answers are compared with."""
    frame = pl.read_ndjson(gzip.decompress((DEMO / "wikiticker-2015-09-12-sampled.json.gz").read_bytes()))
    return frame.with_columns(pl.col("time").str.to_datetime(time_unit="ms", time_zone="UTC").dt.epoch("ms"))


@lru_cache(maxsize=1)
def raw_rows() -> pa.Table:
    """The same in the raw schema. Half of the events carry something beyond their columns."""
    schema = datasource().raw_schema()
    frame = oracle()
    count = frame.height
    rest = [
        json.dumps({"extra": {"price": i % 7 + 0.5, "a.b": f"x{i % 3}"}, "odd": True}) if i % 2 else None
        for i in range(count)
    ]
    frame = frame.with_columns(
        pl.col("time").cast(pl.Datetime("ms", "UTC")).alias(TIME),
        pl.Series(REST, rest, dtype=pl.String),
        pl.int_range(count).alias(ID_HI),
        pl.int_range(count).alias(ID_LO),
    )
    return frame.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)


def partials(rows: pa.Table, rollup: str) -> pl.DataFrame:
    spec = datasource().rollup(rollup)
    assert spec is not None
    return finest_partials(rows, spec, datasource())


def planned(document: dict[str, Any], now_ms: int = NOW_MS, stock: Stock | None = None) -> Plan:
    return plan(parse_query({"datasource": "wikipedia", **document}), datasource(), now_ms, stock)
