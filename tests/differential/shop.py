"""Random events with everything that is easy to get wrong, as a world that can be asked and as a table for the oracle.

Nulls in every column, late events far from the rest, equal times, unicode, empty texts, a day without its 25th or with its 23rd
hour, whole hours without events. The oracle's table has the step of each event beside it, for every time zone and granularity
that a question may name; Python's own time zones say so.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import polars as pl
import pyarrow as pa

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
from rta.serve.spans import times_of_frame, times_of_rows
from rta.store.model import FileRef
from rta.store.objects import LocalStore
from rta.store.parquet import write_table_file
from rta.stream.model import TableWrite
from rta.stream.rollups import finest_partials
from tests.query.world import FixedView, World

FOREVER_MS = 10**14
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
COUNTRIES = ("US", "DE", "São Tomé", "東京", "", "it's", 'a"b', "US ", None)
DEVICES = ("desktop", "mobile", "tablet", None)
TAGS = ("a", "b", "ü", "")
ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
STEPS = ("minute", "5m", "hour", "day", "week", "month")
COLUMNS = (
    Column("country", ColumnType.STRING, ("country",)),
    Column("device", ColumnType.STRING, ("device",)),
    Column("vip", ColumnType.BOOLEAN, ("vip",)),
    Column("user", ColumnType.STRING, ("user",)),
    Column("n", ColumnType.LONG, ("n",)),
    Column("price", ColumnType.DOUBLE, ("price",)),
    Column("tags", ColumnType.STRINGS, ("tags",)),
)
METRICS = (
    MetricSpec("events", MetricType.COUNT),
    MetricSpec("n_sum", MetricType.SUM, "n"),
    MetricSpec("price_sum", MetricType.SUM, "price"),
    MetricSpec("price_min", MetricType.MIN, "price"),
    MetricSpec("price_max", MetricType.MAX, "price"),
    MetricSpec("price_q", MetricType.QUANTILE, "price"),
    MetricSpec("users", MetricType.UNIQUE, "user"),
    MetricSpec("user_set", MetricType.THETA, "user"),
    MetricSpec("user_top", MetricType.TOP, "user"),
)
DATASOURCE = Datasource(
    name="shop",
    incarnation="1",
    version=1,
    partitions=4,
    time_path=("time",),
    keys=("user",),
    id=None,
    columns=COLUMNS,
    rollups=(
        Rollup("by_country", Grain.MINUTE, ("country", "device", "vip"), METRICS),
        Rollup("hourly", Grain.HOUR, ("country",), METRICS[:6]),
    ),
    retention=Retention(events_ms=FOREVER_MS, rollups_ms=dict.fromkeys(Grain, FOREVER_MS)),
)


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


BEGINS = (_ms("2026-03-07T12:00:00Z"), _ms("2026-10-31T18:00:00Z"), _ms("2026-04-04T02:00:00Z"))
"""Around New York's 23-hour and 25-hour days, and Lord Howe's half hour."""


@dataclass(frozen=True)
class Shop:
    """Events from `begin_ms` on over some days.

    Args:
        rows: In the raw schema, in order of arrival.
        oracle: A connection with the table `shop`: the columns, `ms`, and `<granularity>|<zone>` with each event's step in ms.
    """

    begin_ms: int
    end_ms: int
    rows: pa.Table
    oracle: duckdb.DuckDBPyConnection


class ShopView(FixedView):
    """As the view by hand, over this datasource."""

    def partials(self, rollup: str) -> list[pl.DataFrame]:
        return [partials(self.hot, rollup)]

    def hot_times(self, table: str) -> tuple[int, int] | None:
        rollup = next((r.name for r in self.datasource.rollups if r.table == table), None)
        return times_of_frame(partials(self.hot, rollup)) if rollup is not None else times_of_rows(self.hot)


def partials(rows: pa.Table, rollup: str) -> pl.DataFrame:
    spec = DATASOURCE.rollup(rollup)
    assert spec is not None
    return finest_partials(rows, spec, DATASOURCE)


def make_shop(seed: int, count: int = 3_000) -> Shop:
    rng = random.Random(seed)
    begin_ms = rng.choice(BEGINS)
    end_ms = begin_ms + 3 * DAY_MS
    frame = pl.DataFrame(
        {
            "ms": _times(rng, begin_ms, count),
            "country": rng.choices(COUNTRIES, (9, 5, 2, 2, 1, 1, 1, 1, 2), k=count),
            "device": rng.choices(DEVICES, k=count),
            "vip": rng.choices((True, False, None), k=count),
            "user": [f"user {rng.randrange(400)}" if rng.random() < 0.95 else None for _ in range(count)],
            "n": [rng.randrange(-5, 100) if rng.random() < 0.9 else None for _ in range(count)],
            "price": [rng.randrange(20_000) / 100 if rng.random() < 0.8 else None for _ in range(count)],
            "tags": [rng.choices(TAGS, k=rng.randrange(3)) if rng.random() < 0.7 else None for _ in range(count)],
        },
        schema_overrides={"ms": pl.Int64, "n": pl.Int64, "tags": pl.List(pl.String)},
    )
    return Shop(begin_ms, end_ms, _raw(frame), _oracle(frame))


def _times(rng: random.Random, begin_ms: int, count: int) -> list[int]:
    """Most within three days but for some silent hours, with many at one time; a few long before."""
    times: list[int] = []
    for _ in range(count):
        if rng.random() < 0.02:
            times.append(begin_ms - rng.randrange(40 * DAY_MS))
        elif times and rng.random() < 0.1:
            times.append(times[-1])
        else:
            hour = rng.choice([h for h in range(72) if h % 11 != 3])
            times.append(begin_ms + hour * HOUR_MS + rng.randrange(HOUR_MS))
    return times


def _raw(frame: pl.DataFrame) -> pa.Table:
    schema = DATASOURCE.raw_schema()
    count = frame.height
    whole = frame.with_columns(
        pl.col("ms").cast(pl.Datetime("ms", "UTC")).alias(TIME),
        pl.lit(None, pl.String).alias(REST),
        pl.int_range(count).alias(ID_HI),
        pl.int_range(count).alias(ID_LO),
    )
    return whole.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)


def _oracle(frame: pl.DataFrame) -> duckdb.DuckDBPyConnection:
    stamps = frame["ms"].to_list()
    steps = {
        f"{step}|{zone}": pl.Series([step_start(ms, step, zone) for ms in stamps], dtype=pl.Int64)
        for zone in ZONES
        for step in STEPS
    }
    connection = duckdb.connect()
    connection.register("rows", frame.with_columns(**steps).to_arrow())
    connection.execute("CREATE TABLE shop AS SELECT * FROM rows")
    return connection


def step_start(ms: int, step: str, zone: str) -> int:
    """When the step begins that the time is in, on the clock of the zone."""
    local = datetime.fromtimestamp(ms / 1000, UTC).astimezone(ZoneInfo(zone))
    if step in ("minute", "5m", "hour"):
        # Not by the clock's face, which shows an hour twice on one day: so long after the last change of the offset.
        size = {"minute": 60, "5m": 300, "hour": 3600}[step]
        offset_s = int((local.utcoffset() or timedelta()).total_seconds())
        seconds = ms // 1000 + offset_s
        return (seconds - seconds % size - offset_s) * 1000
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if step == "week":
        day -= timedelta(days=day.weekday())
    if step == "month":
        day = day.replace(day=1)
    return int(day.replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def build(folder: Path, shop: Shop, cuts: Sequence[float] = (0.3, 0.6, 0.9)) -> World:
    """The events cut at these shares of their number: all but the last piece in files, the last beyond them."""
    store = LocalStore(folder)
    count = shop.rows.num_rows
    bounds = [0, *(int(cut * count) for cut in cuts), count]
    pieces = [shop.rows.slice(a, b - a) for a, b in pairwise(bounds)]
    files: dict[str, list[FileRef]] = {"events": []}
    for number, piece in enumerate(pieces[:-1]):
        files["events"].append(_write(store, "events", piece, number))
        for rollup in DATASOURCE.rollups:
            table = partials(piece, rollup.name).to_arrow(compat_level=pl.CompatLevel.oldest())
            files.setdefault(rollup.table, []).append(_write(store, rollup.table, table, number))
    return World(store, ShopView(DATASOURCE, files, pieces[-1], watermark_ms=shop.end_ms))


def _write(store: LocalStore, table: str, rows: pa.Table, number: int) -> FileRef:
    times = rows.column(TIME).cast(pa.int64()).to_numpy()
    write = TableWrite(table, "2026-03-07", rows, int(times.min()), int(times.max()))
    return write_table_file(store, DATASOURCE.folder, write, f"test-1-{number}-0.parquet")


def literal(value: Any) -> str:
    """A value in SQL."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return {True: "TRUE", False: "FALSE"}.get(value, str(value)) if isinstance(value, bool) else str(value)
