"""What a datasource is: its columns, its rollups, and the Arrow schemas that follow from them.

Owns the definition document of `api.md` (validated here, as a whole) and the names of the stored columns. Holds no
events and does no I/O.

Stored columns of the raw table, in this order:

- `__time`       timestamp[ms, UTC], the event time
- every declared column, under its own name
- `__rest`       string: a JSON object of everything the event carried that has no column; null when there is nothing
- `__id_hi`, `__id_lo`  int64, only where the datasource has no id: the identity that the edge gave the event; and where it
  reads a topic of other producers, with an id or without: the event's place there (`rta.events.records`)

Stored columns of a rollup table: `__time` (the bucket's start), the dimensions, then per metric the columns that
`MetricSpec.stored()` names. 64-bit hashes are kept as int64, because Delta has no unsigned type.

The table of rejected events is the same for every datasource: `REJECTED_SCHEMA`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

import msgspec
import pyarrow as pa

from rta.errors import InvalidDatasourceError

TIME = "__time"
REST = "__rest"
ID_HI = "__id_hi"
ID_LO = "__id_lo"
RESERVED = frozenset({TIME, REST, ID_HI, ID_LO, "time", "date"})
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,127}")
DATASOURCE_NAME = re.compile(r"[a-z_][a-z0-9_\-]{0,63}")
COLUMNS_MAX = 1000
ROLLUPS_MAX = 32
DIMENSIONS_MAX = 32
ITEMS_MAX = 1024
"""Plain items a quantile, uniques or theta row keeps before it becomes a sketch."""
TIMESTAMP = pa.timestamp("ms", tz="UTC")
EVENTS = "events"
"""The table of raw events, and `REJECTED` of rejected ones: of single rows, not of buckets."""
REJECTED = "rejected"
REJECTED_EVENT_BYTES_MAX = 64 * 1024
"""So much of a rejected event's text is kept; whoever rejects it cuts it."""
REJECTED_SCHEMA = pa.schema(
    [
        pa.field(TIME, TIMESTAMP, nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("event", pa.string()),
        pa.field("event_id", pa.string()),
        pa.field("topic", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
    ]
)
"""Rejected events: `__time` is when the log took them, `reason` a `Reason`, `event` the text as it came, `event_id` its
id where one could be read; the rest is where it stands in the log, null where it never came into one."""


class ColumnType(StrEnum):
    STRING = "string"
    LONG = "long"
    DOUBLE = "double"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    STRINGS = "string[]"
    JSON = "json"


ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    ColumnType.STRING: pa.string(),
    ColumnType.LONG: pa.int64(),
    ColumnType.DOUBLE: pa.float64(),
    ColumnType.BOOLEAN: pa.bool_(),
    ColumnType.TIMESTAMP: TIMESTAMP,
    ColumnType.STRINGS: pa.list_(pa.string()),
    ColumnType.JSON: pa.string(),
}


class MetricType(StrEnum):
    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    QUANTILE = "quantile"
    UNIQUE = "unique_count"
    TOP = "top"
    THETA = "theta"


class Grain(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


GRAIN_MS: dict[Grain, int] = {Grain.MINUTE: 60_000, Grain.HOUR: 3_600_000, Grain.DAY: 86_400_000}


class Column(msgspec.Struct, frozen=True):
    """A typed column. `path` are the keys that lead to its value inside an event."""

    name: str
    type: ColumnType
    path: tuple[str, ...]
    required: bool = False
    length_max: int | None = None


class MetricSpec(msgspec.Struct, frozen=True):
    """One metric of a rollup. `field` is a column's name; None for `count`, which counts events."""

    name: str
    type: MetricType
    field: str | None = None

    @property
    def n(self) -> str:
        """Column of a sum that counts its non-null inputs, so that avg and an empty sum are right."""
        return f"{self.name}__n"

    @property
    def items(self) -> str:
        """Column of the plain items: list<double> for quantile, list<int64> hashes for uniques and theta, else list<struct>."""
        return f"{self.name}__items"

    @property
    def sketch(self) -> str:
        """Column of the DataSketches bytes that take over beyond `ITEMS_MAX` items. Where it is set, items is null."""
        return f"{self.name}__sketch"


UNKNOWN = -1


class Rollup(msgspec.Struct, frozen=True):
    """A pre-aggregated table. `dimensions` are columns' names; one of `metrics` always is a count.

    `since` and `life` are the catalog's: `since` is 0 for a rollup that is as old as its datasource, else the version of
    the definition that added it (`UNKNOWN` where nobody noted it), when there may have been events already. `life` counts
    how often the name has been added: one that was removed and comes back begins with an empty table.
    """

    name: str
    granularity: Grain
    dimensions: tuple[str, ...]
    metrics: tuple[MetricSpec, ...]
    since: int = 0
    life: int = 1

    @property
    def table(self) -> str:
        return self.table_of(self.granularity)

    @property
    def coarser(self) -> tuple[Grain, ...]:
        """The grains that the system builds from this one's rows, finest first."""
        grains = tuple(Grain)
        return grains[grains.index(self.granularity) + 1 :]

    def table_of(self, grain: Grain) -> str:
        """The table with this rollup's rows at a grain: its own, or a derived one. All have the same columns."""
        return f"rollup_{self.name}_{grain}" + (f"_{self.life}" if self.life > 1 else "")

    @property
    def shape(self) -> Rollup:
        """What the user wrote of it."""
        return msgspec.structs.replace(self, since=0, life=1)

    @property
    def count(self) -> MetricSpec:
        return next(m for m in self.metrics if m.type is MetricType.COUNT)


class Retention(msgspec.Struct, frozen=True):
    """Milliseconds that each table keeps its rows, counted from event time, and from when they were written if that is
    later; None keeps no such table at all."""

    events_ms: int | None = 365 * 86_400_000
    rejected_ms: int | None = 30 * 86_400_000
    sessions_ms: int | None = 365 * 86_400_000
    rollups_ms: dict[Grain, int] = msgspec.field(
        default_factory=lambda: {
            Grain.MINUTE: 30 * 86_400_000,
            Grain.HOUR: 365 * 86_400_000,
            Grain.DAY: 5 * 365 * 86_400_000,
        }
    )


class RecordFormat(StrEnum):
    """What a record of another producer's topic holds: one JSON event, an Arrow IPC stream of many, one CloudEvent."""

    JSON = "json"
    ARROW = "arrow"
    CLOUDEVENTS = "cloudevents"


class Source(msgspec.Struct, frozen=True):
    """A Kafka topic that other producers fill, and that is this datasource's log.

    `start` is where its first manifest begins: "earliest", "latest", or milliseconds since 1970 of the records' timestamps.
    """

    topic: str
    format: RecordFormat = RecordFormat.JSON
    start: str | int = "earliest"


class Datasource(msgspec.Struct, frozen=True, kw_only=True):
    """A datasource as every process knows it. `key`, `id` and dimensions are columns' names.

    `incarnation` is given when it is created, `version` is the catalog's number that last changed it; the time column
    is not among `columns`, `time_path` leads to it.
    """

    name: str
    incarnation: str
    version: int
    partitions: int
    time_path: tuple[str, ...]
    keys: tuple[str, ...]
    """The first of these columns that has a value is the partition key."""
    id: str | None
    columns: tuple[Column, ...]
    rollups: tuple[Rollup, ...] = ()
    gone_tables: dict[str, int] = {}
    """Tables of rollups that were removed, with the version that removed them: no part of it or a later one has their rows."""
    retention: Retention = Retention()
    too_old_ms: int | None = None
    in_the_future_ms: int = 86_400_000
    allowed_lateness_ms: int = 60_000
    idle_after_ms: int = 60_000
    """A partition without input for so long no longer holds the datasource's watermark up."""
    dedup_window_ms: int = 86_400_000
    source: Source | None = None
    """None where events come in over HTTP, into a topic of its own."""
    document: dict[str, Any] = msgspec.field(default_factory=dict)
    """What the user wrote, as `GET /v1/datasources/{name}` shows it."""

    @property
    def folder(self) -> str:
        """Where its tables, manifests and log live: a name that is created again gets new ones."""
        return f"{self.name}.{self.incarnation}"

    @property
    def topic(self) -> str:
        """What its log is called: another producer's topic, or one of its own."""
        return self.folder if self.source is None else self.source.topic

    @property
    def later_rollups(self) -> tuple[Rollup, ...]:
        """Those that were added when there may have been events already."""
        return tuple(r for r in self.rollups if r.since)

    @property
    def has_places(self) -> bool:
        """Whether stored rows carry `__id_hi` and `__id_lo`."""
        return self.id is None or self.source is not None

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)

    def rollup(self, name: str) -> Rollup | None:
        return next((r for r in self.rollups if r.name == name), None)

    def raw_schema(self) -> pa.Schema:
        fields = [pa.field(TIME, TIMESTAMP, nullable=False)]
        fields += [pa.field(c.name, ARROW_TYPES[c.type]) for c in self.columns]
        fields.append(pa.field(REST, pa.string()))
        if self.has_places:
            fields += [pa.field(ID_HI, pa.int64()), pa.field(ID_LO, pa.int64())]
        return pa.schema(fields)

    def rollup_schema(self, rollup: Rollup) -> pa.Schema:
        fields = [pa.field(TIME, TIMESTAMP, nullable=False)]
        fields += [pa.field(d, ARROW_TYPES[self._type_of(d)]) for d in rollup.dimensions]
        for metric in rollup.metrics:
            fields += self._metric_fields(metric)
        return pa.schema(fields)

    def _type_of(self, name: str) -> ColumnType:
        column = self.column(name)
        if column is None:
            raise InvalidDatasourceError(f"datasource '{self.name}' has no column '{name}'")
        return column.type

    def _metric_fields(self, metric: MetricSpec) -> list[pa.Field]:
        match metric.type:
            case MetricType.COUNT:
                return [pa.field(metric.name, pa.int64())]
            case MetricType.SUM:
                return [pa.field(metric.name, self._number_of(metric)), pa.field(metric.n, pa.int64())]
            case MetricType.MIN | MetricType.MAX:
                return [pa.field(metric.name, self._number_of(metric))]
            case MetricType.QUANTILE:
                item: pa.DataType = pa.float64()
            case MetricType.UNIQUE | MetricType.THETA:
                item = pa.int64()
            case MetricType.TOP:
                item = pa.struct([pa.field("value", pa.string()), pa.field("count", pa.int64())])
        return [pa.field(metric.items, pa.list_(item)), pa.field(metric.sketch, pa.binary())]

    def _number_of(self, metric: MetricSpec) -> pa.DataType:
        assert metric.field is not None
        return ARROW_TYPES[self._type_of(metric.field)]
