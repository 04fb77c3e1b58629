"""The documents of the interface as pydantic models, for `/openapi.json`.

They describe; they do not validate: what a request may hold is decided by `rta.query.parse`,
`rta.events.definition` and `rta.events.decode`, whose errors name the remedy. The tests hold both to each other.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Scalar = str | int | float | bool
EXAMPLE_RANGE = "2026-01-01T00:00:00Z/2026-01-02T00:00:00Z"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class ErrorDocument(_Open):
    """What every refused request gets."""

    error: str = Field(description="A code that does not change", examples=["invalid_query"])
    message: str = Field(description="What was being done and what was wrong, with values")
    hint: str = Field(description="What to do about it; may be empty")


class RemovalDocument(ErrorDocument):
    """What a DELETE would remove."""

    removes: dict[str, Any] = Field(default_factory=dict, description="Rows, files and bytes per table, and the log")


class Event(_Open):
    """An event of the built-in datasource `events`. Further keys are kept and can be asked for."""

    event_id: str = Field(max_length=128, description="The same id and key within the dedup window is counted once")
    timestamp: str | int = Field(description="Event time: ISO 8601 with zone, or milliseconds since 1970")
    event_type: str = Field(max_length=128)
    user_id: str | None = None
    session_id: str | None = None
    properties: dict[str, Any] | None = None
    custom_properties: dict[str, Any] | None = None


class EventList(_Open):
    events: list[dict[str, Any]]


class RefusedEvent(_Document):
    index: int = Field(ge=0, description="Which event of the request, counted from 0")
    event_id: str | None
    reason: Literal[
        "invalid_json",
        "missing_field",
        "invalid_timestamp",
        "too_old",
        "in_the_future",
        "wrong_type",
        "schema_violation",
        "too_large",
    ]
    detail: str


class Acknowledgement(_Document):
    """Every accepted event is durable in the log."""

    total: int = Field(ge=0)
    successful: int = Field(ge=0, description="Includes duplicates; those are counted once")
    failed: int = Field(ge=0)
    errors: list[RefusedEvent]
    position: str = Field(description="How far the log now reaches; opaque. Pass it as 'after' to read your own writes")
    errors_omitted: int | None = Field(None, description="Refused events beyond those listed")
    generated_ids: list[str] | None = Field(None, description="With ?ids=generate: the ids that were given, in order")
    retry_safe: bool | None = Field(None, description="False when ids were generated: sending again would count twice")


class QueryMetric(_Document):
    """A number of the events, or one derived from other metrics; docs/metrics.md has an example of each type."""

    name: str | None = Field(None, max_length=256)
    type: Literal[
        "count",
        "sum",
        "avg",
        "min",
        "max",
        "first",
        "last",
        "quantile",
        "percentile",
        "unique_count",
        "theta",
        "top",
        "funnel",
        "retention",
        "rate",
        "moving_avg",
        "cumulative",
        "delta",
        "ratio",
        "arithmetic",
    ]
    field: str | None = Field(None, description="A column, or a dotted path into what has no column")
    filters: dict[str, Any] | None = Field(None, description="Which events count: as 'filters' of the question")
    where: dict[str, Any] | None = Field(None, description="Which events count: as 'where' of the question")
    q: float | None = Field(None, ge=0, le=1, description="Of a quantile: its rank")
    percentile: float | None = Field(None, ge=0, le=100)
    k: int | None = Field(None, ge=1, le=1000, description="Of top: how many values")
    by: dict[str, Any] | None = Field(None, description="Of top: the metric that ranks the values, else their count")
    exact: bool | None = Field(None, description="From raw events instead of sketches")
    op: Literal["union", "intersect", "not", "add", "subtract", "multiply", "divide"] | None = Field(
        None, description="Of theta: how sets are put together; of arithmetic: what is done"
    )
    of: Any | None = Field(None, description="Of theta: sets; of what is derived: names of metrics, or metrics")
    window: str | int | None = Field(None, description="Of funnel: a duration; of moving_avg: a number of steps")
    per: Literal["second", "minute", "hour", "day"] | None = Field(None, description="Of rate")
    steps: list[dict[str, Any]] | None = Field(None, min_length=2, max_length=32, description="Of funnel")
    period: str | None = Field(None, description="Of retention: day, week, month or an ISO period")
    periods: int | None = Field(None, ge=1, le=366, description="Of retention: how many after the first")
    cohort: dict[str, Any] | None = Field(None, description="Of retention: filters of the first event")
    returning: dict[str, Any] | None = Field(None, description="Of retention: filters of coming back")


class QueryDocument(_Document):
    """A question. Either `metrics` or `select`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "datasource": "events",
                    "time_range": "last 1h",
                    "granularity": "minute",
                    "metrics": [
                        {"name": "views", "type": "count"},
                        {"name": "revenue", "type": "sum", "field": "custom_properties.price"},
                    ],
                    "filters": {"country": ["US", "VN"]},
                    "group_by": ["country"],
                    "order_by": "-revenue",
                    "limit": 100,
                }
            ]
        },
    )

    datasource: str = Field(examples=["events"])
    table: Literal["events", "rejected", "sessions"] | None = Field(
        None, description="Whose rows: 'events' (the default) or 'rejected'"
    )
    time_range: str | None = Field(
        None, description="start/end, half open, or 'last 15m', 'today'", examples=[EXAMPLE_RANGE]
    )
    granularity: str | None = Field(
        None, description="all, second, minute, 5m, hour, day, week, month or an ISO period"
    )
    timezone: str | None = Field(None, examples=["Europe/Berlin"])
    metrics: list[QueryMetric] | None = Field(None, max_length=100)
    select: list[str] | str | None = Field(None, description="Raw rows: names of fields, or '*'")
    filters: dict[str, Any] | None = Field(None, description="Field to value or list of values")
    where: dict[str, Any] | None = Field(None, description="A tree of and, or, not and {field, op, value}")
    group_by: list[str] | str | None = None
    compare: str | None = Field(None, description="previous, or how much earlier as an ISO period", examples=["P7D"])
    order_by: list[str] | str | None = Field(None, description="A name; '-name' for descending")
    limit: int | None = Field(None, ge=1)
    next: str | None = Field(None, description="The 'next' of the page before")
    page: str | None = Field(None, description="The same as 'next'")
    max_staleness_ms: int | None = Field(None, ge=0, le=3_600_000, description="Default 10; 0 refreshes first")
    after: str | None = Field(None, description="A position that the answer must contain")


class QueryMeta(_Open):
    """How good the answer is."""

    watermark: str | None = None
    version: str | None = None
    complete: bool | None = None
    sources: list[str] | None = None
    bounds: dict[str, Any] | None = None
    cached: bool | None = None
    elapsed_ms: float | None = None


class QueryAnswer(_Open):
    rows: list[dict[str, Any]]
    meta: QueryMeta
    next: str | None = Field(None, description="With select: pass it to get the following page")


class TypedParameter(_Document):
    type: str = Field(examples=["TIMESTAMP"], description="VARCHAR, BIGINT, DOUBLE, BOOLEAN, TIMESTAMP, DATE, DECIMAL")
    value: Any = None


class DruidParameter(_Open):
    """A value for a `?` of a statement in Druid SQL."""

    type: str = Field(examples=["VARCHAR"])
    value: Any = None


class DruidSqlErrorDocument(_Open):
    """A refusal, in both of Druid's forms at once."""

    error: str = Field(examples=["druidException"])
    errorCode: str  # noqa: N815  # Druid's name
    persona: str
    category: str = Field(examples=["INVALID_INPUT"])
    errorMessage: str  # noqa: N815  # Druid's name
    errorClass: str  # noqa: N815  # Druid's name
    host: str | None = None


class DruidSqlDocument(_Open):
    """A statement of Druid SQL, as Druid's clients send it."""

    query: str = Field(
        min_length=1,
        description="One SELECT or EXPLAIN PLAN FOR; SET name = value; may stand before it",
        examples=["SELECT FLOOR(__time TO HOUR) AS t, COUNT(*) AS n FROM events GROUP BY 1"],
    )
    resultFormat: Literal["object", "array", "objectLines", "arrayLines", "csv"] | None = Field(  # noqa: N815  # Druid's
        None, description="Default object"
    )
    header: bool | None = Field(None, description="Whether the names of the columns come first")
    typesHeader: bool | None = Field(None, description="With their native types")  # noqa: N815  # Druid's name
    sqlTypesHeader: bool | None = Field(None, description="With their SQL types")  # noqa: N815  # Druid's name
    context: dict[str, Any] | None = Field(
        None, description="sqlQueryId, timeout, sqlTimeZone, useApproximateCountDistinct, sqlStringifyArrays, …"
    )
    parameters: list[DruidParameter] | None = Field(None, description="What stands for `?`, in this order")


class SqlDocument(_Document):
    """A question in SQL: one SELECT, WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW TABLES or EXPLAIN."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "query": "SELECT date_trunc('hour', __time) AS hour, count(*) AS views FROM events "
                    "WHERE __time >= $1 AND country = $2 GROUP BY hour ORDER BY hour",
                    "parameters": [{"type": "TIMESTAMP", "value": "2026-01-01T00:00:00Z"}, "US"],
                }
            ]
        },
    )

    query: str = Field(max_length=65_536, description="In DuckDB's dialect")
    parameters: list[str | int | float | bool | TypedParameter | None] | None = Field(
        None, max_length=10_000, description="Of `?` or of `$1`, `$2`, …, in this order"
    )
    limit: int | None = Field(None, ge=1, description="Rows at most; said in `meta` as `row_limit`")
    max_staleness_ms: int | None = Field(None, ge=0, le=3_600_000, description="Default 10; 0 refreshes first")
    after: str | None = Field(
        None, min_length=1, description="Positions that the answer must contain, with commas between"
    )


class SqlRowsDocument(_Open):
    rows: list[dict[str, Any]]
    meta: QueryMeta


class RollupMetric(_Document):
    name: str
    type: Literal["count", "sum", "min", "max", "quantile", "unique_count", "top"]
    field: str | None = None


class RollupDocument(_Document):
    name: str
    granularity: Literal["minute", "hour", "day"]
    dimensions: list[str] | str | None = Field(None, max_length=32)
    metrics: list[RollupMetric]


class ColumnDocument(_Document):
    type: Literal["string", "long", "double", "boolean", "timestamp", "string[]", "json"]
    path: str | None = Field(None, description="Dotted")
    required: bool | None = None
    max_length: int | None = Field(None, ge=1)


class TopicDocument(_Document):
    """A topic of other producers. Columns with paths below `__kafka` are made of its records' keys and headers."""

    topic: str
    format: Literal["json", "arrow", "cloudevents"] = "json"
    start: str | int = Field(
        "earliest", description="`earliest`, `latest`, an ISO 8601 time, or milliseconds since 1970"
    )


class SourceDocument(_Document):
    """Where a datasource's events come from."""

    kafka: TopicDocument


class DatasourceDocument(_Open):
    """A datasource as its user wrote it."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "name": "wikipedia",
                    "time": "time",
                    "key": "user",
                    "id": None,
                    "columns": {"channel": "string", "page": "string", "added": "long"},
                    "rollups": [
                        {
                            "name": "by_channel",
                            "granularity": "minute",
                            "dimensions": ["channel"],
                            "metrics": [
                                {"name": "edits", "type": "count"},
                                {"name": "added", "type": "sum", "field": "added"},
                            ],
                        }
                    ],
                }
            ]
        },
    )

    name: str = Field(pattern=r"^[a-z_][a-z0-9_\-]{0,63}$")
    time: str = Field(description="Path of the event time")
    key: list[str] | str | None = Field(
        None, description="The first of these fields that has a value partitions the events"
    )
    id: str | None = Field(None, description="The field that tells duplicates; null: none")
    columns: dict[str, str | ColumnDocument] | None = None
    rollups: list[RollupDocument] | None = None
    retention: dict[str, Any] | None = None
    source: SourceDocument | None = Field(
        None, description="The topic that its events come from; without it, they come over HTTP"
    )


class FillingDocument(_Open):
    """How far a rollup is that was added later."""

    done: float = Field(ge=0, le=1, description="The share of the raw events that is folded into it")
    complete_from: str | None = Field(description="The event time from which on questions can be answered from it")


class DatasourceAnswer(DatasourceDocument):
    """A datasource as its user wrote it, and what became of it. The additions are ignored when it is sent back."""

    filling: dict[str, FillingDocument] | None = Field(
        None, description="By rollup: those that were added later and are not complete"
    )
    notes: list[str] | None = Field(None, description="What a change means for its rollups")


class DatasourceList(_Document):
    datasources: list[DatasourceDocument]


class Deleted(_Document):
    deleted: str


class StatusDocument(_Open):
    """Lag, watermarks, rates and actors."""


class ProposedRollup(_Open):
    """A rollup that the last questions would have wanted."""

    rollup: RollupDocument
    rows_per_day: int
    bytes_per_day: int
    share: float = Field(description="Of the questions that were computed, how many it would answer")
    seconds_saved_per_day: float


class DatasourceAdvice(_Open):
    """Of one datasource."""

    datasource: str
    questions: int = Field(description="Computed since the replica began; those that a cache answered are not counted")
    proposals: list[ProposedRollup]
    put: dict[str, Any] | None = Field(description="The datasource's document with the proposals, for PUT")


class Advice(_Document):
    """Which rollups the last questions would have wanted."""

    datasources: list[DatasourceAdvice]


class ScaleRequest(_Document):
    """How many aggregators are to take part."""

    aggregators: int = Field(ge=1, le=4096)


class Scaled(_Document):
    """Who takes part now, who did before, and the number of the assignment that says so."""

    aggregators: list[str]
    before: list[str]
    assignment: int


class Resumed(_Document):
    """What the log has lost, and whether it was gone on behind it."""

    datasource: str
    gaps: list[dict[str, Any]]
    resumed: bool


class LossDocument(_Open):
    """What going on would give up. Nothing was."""

    gaps: list[dict[str, Any]]


class LedgerDocument(_Open):
    """What was accepted, logged, folded and committed, and whether it adds up."""

    lost: int
    duplicated: int
    pending_gaps: list[dict[str, Any]] = Field(
        default=[], description="What the log has lost and nobody has accepted as lost yet; None: not known."
    )


class Alive(_Document):
    alive: Literal[True]


class Ready(_Document):
    ready: Literal[True]
    degraded: list[str]


REQUESTS: tuple[type[BaseModel], ...] = (
    Event,
    EventList,
    Acknowledgement,
    QueryDocument,
    SqlDocument,
    DruidSqlDocument,
    DatasourceDocument,
    ScaleRequest,
    ErrorDocument,
)
"""Models that only the hand-written parts of the OpenAPI document refer to."""
