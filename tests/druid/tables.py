"""Tables for native queries, made by hand or of the rows of Druid's own tests, and a short way to ask them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from rta.druid.query import parse_query
from rta.druid.run import run
from rta.druid.table import TIME_COLUMN, Table
from rta.druid.values import Column, Type
from rta.events.schemas import TIME

EMBEDDED = Path(__file__).parents[1] / "data" / "druid" / "embedded"
EVER = "0001/9999"
COUNT = {"type": "count", "name": "rows"}


def table_of(frame: pl.DataFrame) -> Table:
    """A frame whose `__time` is a timestamp or milliseconds; lists of texts are several values per row."""
    if frame.schema[TIME] == pl.Int64:
        frame = frame.with_columns(pl.col(TIME).cast(pl.Datetime("ms", "UTC")))
    columns = {TIME: TIME_COLUMN}
    for name, dtype in frame.schema.items():
        if name != TIME:
            columns[name] = _column(name, dtype)
    return Table(frame.lazy(), columns, stamped=True)


def _column(name: str, dtype: Any) -> Column:
    if dtype == pl.List(pl.String):
        return Column(pl.col(name), Type.STRING, multi=True)
    if dtype == pl.Binary:
        kinds = {"HLL": Type.HLL, "the": Type.THETA, "qua": Type.QUANTILES}
        return Column(pl.col(name), kinds[name[:3]])
    return Column(pl.col(name), {pl.Int64: Type.LONG, pl.Float64: Type.DOUBLE}.get(type(dtype), Type.STRING))


def ask(table: Table, **query: Any) -> Any:
    query.setdefault("dataSource", "t")
    query.setdefault("intervals", EVER)
    query.setdefault("granularity", "all")
    return json.loads(run(parse_query(query), {"t": table}))


def total(table: Table, *aggregators: dict[str, Any], **query: Any) -> dict[str, Any]:
    """The one row of a timeseries over everything."""
    (row,) = ask(table, queryType="timeseries", aggregations=list(aggregators), **query)
    assert isinstance(row["result"], dict)
    return row["result"]


def events(answer: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a groupBy without their stamps."""
    return [row["event"] for row in answer]


@lru_cache(maxsize=8)
def wiki(*names: str) -> pl.DataFrame:
    """Rows of these files, in the order of time; numbers are doubles, as Druid's tests ingest them."""
    lines = [line for name in names for line in (EMBEDDED / f"{name}.json").read_text().splitlines()]
    frame = pl.DataFrame([{"tags": None, **json.loads(line)} for line in lines], infer_schema_length=None)
    time = pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="ms", time_zone="UTC").alias(TIME)
    numbers = pl.col("added", "deleted", "delta").cast(pl.Float64)
    return frame.with_columns(time, numbers).drop("timestamp").sort(TIME)


TINY = ("tiny_wiki_1", "tiny_wiki_2", "tiny_wiki_3")
