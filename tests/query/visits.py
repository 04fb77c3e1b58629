"""A small datasource of visits, and questions about it answered in this process, whatever they are put together from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from rta.events.schemas import (
    REST,
    TIME,
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
from rta.query.answer import Answer, rows_json
from rta.query.block import Block, Dictionaries
from rta.query.compose import assemble, is_composed, parts_of
from rta.query.ends import ends_ms, fold_ends
from rta.query.execute import Piece, run_rollup
from rta.query.model import Query
from rta.query.parse import parse_query
from rta.query.periods import absolute_range
from rta.query.plan import Plan
from rta.query.planner import plan
from rta.query.rows import Source
from rta.serve.scan_task import answer_raw
from rta.stream.rollups import finest_partials

HOUR = 3_600_000
DAY = 24 * HOUR
SPRING = int(datetime(2026, 3, 27, tzinfo=UTC).timestamp()) * 1000
"""Two days before the clocks of Berlin go forward."""
NOW = SPRING + 30 * DAY
COLUMNS = {
    "id": ColumnType.STRING,
    "user": ColumnType.STRING,
    "kind": ColumnType.STRING,
    "country": ColumnType.STRING,
    "page": ColumnType.STRING,
    "price": ColumnType.DOUBLE,
    "size": ColumnType.LONG,
}
METRICS = (
    MetricSpec("events", MetricType.COUNT),
    MetricSpec("price_sum", MetricType.SUM, "price"),
    MetricSpec("size_sum", MetricType.SUM, "size"),
    MetricSpec("size_max", MetricType.MAX, "size"),
    MetricSpec("price", MetricType.QUANTILE, "price"),
    MetricSpec("users", MetricType.UNIQUE, "user"),
    MetricSpec("visitors", MetricType.THETA, "user"),
)
BY_KIND = Rollup("by_kind", Grain.HOUR, ("kind", "country", "page"), METRICS)


class Visit(NamedTuple):
    time: int
    user: str | None = "u"
    kind: str | None = "view"
    country: str | None = "US"
    page: str | None = "/"
    price: float | None = None
    size: int | None = None


def datasource(*rollups: Rollup) -> Datasource:
    return Datasource(
        name="visits",
        incarnation="1",
        version=1,
        partitions=1,
        time_path=("time",),
        keys=("user",),
        id="id",
        columns=tuple(Column(name, kind, (name,)) for name, kind in COLUMNS.items()),
        rollups=rollups,
        retention=Retention(events_ms=10**14, rollups_ms=dict.fromkeys(Grain, 10**14)),
    )


def table_of(visits: Sequence[Visit]) -> pa.Table:
    schema = datasource().raw_schema()
    columns: dict[str, Any] = {name: [getattr(v, name) for v in visits] for name in Visit._fields[1:]}
    columns["id"] = [str(i) for i in range(len(visits))]
    columns[TIME] = pa.array([v.time for v in visits], pa.int64()).cast(TIMESTAMP)
    columns[REST] = pa.nulls(len(visits), pa.string())
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}, schema=schema)


class Visits:
    """Visits in pieces, as files and what lies beyond them, with or without a rollup of them."""

    def __init__(self, visits: Sequence[Visit], cuts: Sequence[int] = (), *, rollup: bool = False) -> None:
        self.source = datasource(*((BY_KIND,) if rollup else ()))
        rows = table_of(visits)
        bounds = sorted({0, rows.num_rows, *(min(cut, rows.num_rows) for cut in cuts)})
        self.pieces = [rows.slice(a, b - a) for a, b in pairwise(bounds)]
        self.tables: list[str] = []

    def answer(self, document: dict[str, Any]) -> Answer:
        query = parse_query({"datasource": "visits", **document})
        self.tables = []
        if not is_composed(query):
            return self._run(self._planned(query))
        asked = absolute_range(query.time_range, query.granularity, query.timezone, NOW)
        parts = parts_of(query, asked)
        return assemble(query, parts, [self._run(self._planned(part.query)) for part in parts])

    def ask(self, metrics: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
        found = json.loads(rows_json(self.answer({"metrics": metrics, **more})))
        assert isinstance(found, list)
        return found

    def _planned(self, query: Query) -> Plan:
        return plan(query, self.source, NOW)

    def _run(self, planned: Plan) -> Answer:
        self.tables.append(planned.table)
        frames = [pl.DataFrame(pl.from_arrow(piece)) for piece in self.pieces]
        if planned.rollup is None:
            return answer_raw(planned, [Source(frame, -(2**62), 2**62) for frame in frames])
        dictionaries = Dictionaries()
        partials = [Block(finest_partials(p, planned.rollup, self.source), dictionaries) for p in self.pieces]
        rolled = [part for part in planned.parts if part.grain is not None]
        pieces = [Piece(block, part.start_ms, part.end_ms) for part in rolled for block in partials]
        if planned.ends:
            pieces.append(Piece(Block(pl.DataFrame(fold_ends(planned, frames)), dictionaries), *ends_ms(planned)))
        return run_rollup(planned, pieces)


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def between(start: int, end: int) -> str:
    return f"{iso(start)}/{iso(end)}"
