"""A small datasource, its events as plain tuples, an oracle over them, and a shell that keeps what a fold orders."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from hypothesis import strategies as st

from rta.events.keys import identities_of
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
from rta.stream.columns import fit
from rta.stream.fold import Fold
from rta.stream.model import (
    BatchArrived,
    EpochCut,
    FoldLimits,
    IdRun,
    Increment,
    MinuteCounts,
    PartitionLoaded,
    TableWrite,
)
from rta.stream.rollups import finest_partials, from_polars, merge_partials
from rta.stream.saved import decode_state, state_rows

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
START = 1_767_225_600_000  # 2026-01-01T00:00Z

COLUMNS = tuple(
    Column(name, kind, (name,))
    for name, kind in {
        "id": ColumnType.STRING,
        "user": ColumnType.STRING,
        "page": ColumnType.STRING,
        "robot": ColumnType.BOOLEAN,
        "size": ColumnType.LONG,
        "price": ColumnType.DOUBLE,
    }.items()
)
METRICS = (
    MetricSpec("events", MetricType.COUNT),
    MetricSpec("size_sum", MetricType.SUM, "size"),
    MetricSpec("price_sum", MetricType.SUM, "price"),
    MetricSpec("size_min", MetricType.MIN, "size"),
    MetricSpec("price_max", MetricType.MAX, "price"),
    MetricSpec("price", MetricType.QUANTILE, "price"),
    MetricSpec("users", MetricType.UNIQUE, "user"),
    MetricSpec("pages", MetricType.TOP, "page"),
    MetricSpec("visitors", MetricType.THETA, "user"),
)
BY_PAGE = Rollup("by_page", Grain.MINUTE, ("page", "robot"), METRICS)
TOTAL = Rollup("total", Grain.HOUR, (), METRICS)


def datasource(rollups: tuple[Rollup, ...] = (BY_PAGE, TOTAL), **changes: Any) -> Datasource:
    fields: dict[str, Any] = {
        "name": "shop",
        "incarnation": "1",
        "version": 1,
        "partitions": 4,
        "time_path": ("time",),
        "keys": ("user",),
        "id": "id",
        "columns": COLUMNS,
        "rollups": rollups,
    }
    return Datasource(**{**fields, **changes})


class Event(NamedTuple):
    """`time` in ms since START."""

    time: int
    id: str
    user: str | None = "u"
    page: str | None = "p"
    robot: bool | None = False
    size: int | None = 1
    price: float | None = 1.0


def table_of(events: Sequence[Event], source: Datasource | None = None) -> pa.Table:
    schema = datasource().raw_schema()
    columns: dict[str, Any] = {name: [getattr(e, name) for e in events] for name in Event._fields[1:]}
    columns[TIME] = pa.array([START + e.time for e in events], pa.int64()).cast(TIMESTAMP)
    columns[REST] = pa.nulls(len(events), pa.string())
    rows = pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}, schema=schema)
    return fit(rows, source.raw_schema()) if source else rows


EVENTS = st.builds(
    Event,
    time=st.integers(0, 4 * MINUTE),
    id=st.integers(0, 30).map(str),
    user=st.sampled_from(["a", "b", "c", None]),
    page=st.sampled_from(["x", "y", "", None]),
    robot=st.sampled_from([True, False, None]),
    size=st.one_of(st.none(), st.integers(-1000, 1000)),
    price=st.one_of(st.none(), st.integers(-50, 50).map(float), st.sampled_from([math.nan, math.inf])),
)


class Arrival(NamedTuple):
    """A record of the log: `append` in ms since START."""

    partition: int
    append: int
    events: tuple[Event, ...]


def records(
    arrivals: Iterable[Arrival], source: Datasource, first: Mapping[int, int] | None = None
) -> list[BatchArrived]:
    """The arrivals as records, numbered per partition."""
    offsets: dict[int, int] = dict(first or {})
    out = []
    for arrival in arrivals:
        rows = table_of(arrival.events, source)
        low = identities_of(rows, source)[:, 1]
        offset = offsets.get(arrival.partition, 0)
        offsets[arrival.partition] = offset + 1
        id_sum = int(low.sum(dtype=np.uint64))
        out.append(BatchArrived(arrival.partition, offset, START + arrival.append, len(rows), id_sum, rows))
    return out


@dataclass
class Shell:
    """Does what a fold orders, in memory. `writes` and `increments` are all there ever were."""

    source: Datasource
    partitions: tuple[int, ...] = (0, 1, 2, 3)
    limits: FoldLimits = field(default_factory=FoldLimits)
    writes: list[TableWrite] = field(default_factory=list)
    increments: list[Increment] = field(default_factory=list)
    ledger: list[MinuteCounts] = field(default_factory=list)
    cuts: list[EpochCut] = field(default_factory=list)
    runs: dict[object, IdRun] = field(default_factory=dict)
    named: dict[int, tuple[object, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fold = Fold(self.source, [PartitionLoaded(p, 0, 0, None, None, ()) for p in self.partitions], self.limits)

    def take(self, *batches: BatchArrived) -> Increment:
        self.increments.append(self.fold.fold(batches))
        return self.increments[-1]

    def arrive(self, partition: int, append: int, *events: Event) -> Increment:
        """One record at the partition's next offset."""
        arrival = Arrival(partition, append, events)
        return self.take(*records([arrival], self.source, self.fold.offsets))

    def cut(self) -> EpochCut:
        cut = self.fold.end_epoch().cut()
        self.cuts.append(cut)
        self.writes += cut.writes
        self.ledger += cut.ledger
        new: dict[int, list[object]] = {}
        back = []
        for i, write in enumerate(cut.run_writes):
            key = (len(self.cuts), i)
            identities = write.identities.copy()
            identities.flags.writeable = False
            self.runs[key] = IdRun(write.step, identities, key)
            back.append(self.runs[key])
            new.setdefault(write.partition, []).append(key)
        self.fold.runs_written(back)
        self.named = {p.partition: (*p.kept_runs, *new.get(p.partition, ())) for p in cut.partitions}
        return cut

    def restart(self, source: Datasource | None = None) -> None:
        """Throw the fold away and load what the last cut left."""
        self.source = source or self.source
        cut = self.cuts[-1]
        saved = decode_state(cut.state)
        loaded = [
            PartitionLoaded(
                partition=p.partition,
                offset=p.to_offset,
                append_time_ms=p.append_time_ms,
                watermark_ms=p.watermark_ms,
                state=saved.get(p.partition),
                runs=tuple(self.runs[key] for key in self.named[p.partition]),
            )
            for p in cut.partitions
        ]
        self.fold = Fold(self.source, loaded, self.limits)

    def rollup(self, rollup: Rollup) -> list[tuple[Any, ...]]:
        """What a reader sees of a rollup at the last cut: files and saved state, added up."""
        state = state_rows(self.cuts[-1].state, None, self.source)
        parts = [state.partials[rollup.name], *(to_frame(w.rows) for w in self.writes if w.table == rollup.table)]
        return canonical(merge_partials(parts, rollup, self.source), rollup)

    def raw(self) -> list[tuple[Any, ...]]:
        """The same of the raw rows."""
        waiting = state_rows(self.cuts[-1].state, None, self.source).rows
        tables = [waiting, *(w.rows for w in self.writes if w.table == "events")]
        return raw_rows(pa.concat_tables(tables))


def to_frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def raw_rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for row in table.to_pylist()), key=repr)


def canonical(frame: pl.DataFrame, rollup: Rollup) -> list[tuple[Any, ...]]:
    """Rows in an order of their own, top items sorted, so that equal contents are equal lists."""
    out = []
    for row in frame.to_dicts():
        values = []
        for name, value in row.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                value = sorted((v["value"], v["count"]) for v in value)
            if isinstance(value, float) and math.isnan(value):
                value = "NaN"
            values.append((name, value))
        out.append(tuple(values))
    assert len({row[: 1 + len(rollup.dimensions)] for row in out}) == len(out), "a key has more than one row"
    return sorted(out, key=repr)


def folded_at_once(events: Sequence[Event], rollup: Rollup, source: Datasource) -> list[tuple[Any, ...]]:
    """The rollup of events as one batch."""
    return canonical(finest_partials(table_of(events, source), rollup, source), rollup)


def first_occurrences(arrivals: Iterable[Arrival]) -> list[Event]:
    """What is counted, as long as no identity is forgotten."""
    seen: set[tuple[int, str | None, str]] = set()
    out = []
    for arrival in arrivals:
        for event in arrival.events:
            key = (arrival.partition, event.user, event.id)
            if key not in seen:
                seen.add(key)
                out.append(event)
    return out


def no_raw() -> Retention:
    return Retention(events_ms=None)


def round_trip(frame: pl.DataFrame) -> pl.DataFrame:
    return to_frame(from_polars(frame))
