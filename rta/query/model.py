"""What a question is: plain frozen data, as `rta.query.parse` reads it and before any datasource is looked at.

Names of fields are texts here; `rta.query.fields` finds what they mean in a datasource. Holds no rules: what may stand
in a question is `rta.query.parse`'s, what can be answered is `rta.query.planner`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Value = str | int | float | bool


class QueryMetricType(StrEnum):
    COUNT = "count"
    SUM = "sum"
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    QUANTILE = "quantile"
    UNIQUE = "unique_count"
    TOP = "top"


class Op(StrEnum):
    EQ = "eq"
    NE = "ne"
    IN = "in"
    LT = "lt"
    LTE = "lte"
    GT = "gt"
    GTE = "gte"
    LIKE = "like"
    REGEX = "regex"
    IS_NULL = "is_null"


@dataclass(frozen=True, slots=True)
class Metric:
    """One number per row of the answer. `field` is None only for a count of events.

    Args:
        q: The quantile's rank, 0 to 1; only of a quantile.
        k: How many values a `top` lists.
        exact: Quantiles and uniques from raw events instead of sketches.
    """

    name: str
    type: QueryMetricType
    field: str | None = None
    q: float = 0.5
    k: int = 10
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Compare:
    """A field against values: many for `in`, one for the rest (for `is_null` the wanted truth)."""

    field: str
    op: Op
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Condition


Condition = Compare | And | Or | Not


class Unit(StrEnum):
    ALL = "all"
    MS = "ms"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Granularity:
    """The time step of the answer's rows: `count` units, counted on the clock of the question's time zone.

    Steps of milliseconds start at multiples of themselves after local midnight 1970-01-01 (for what divides a day:
    after every midnight), days likewise, 7 days on Mondays, months in January of the year 1.
    """

    unit: Unit
    count: int = 1


ALL = Granularity(Unit.ALL)


@dataclass(frozen=True, slots=True)
class Absolute:
    """Half open, milliseconds since 1970 UTC."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Last:
    """The most recent `duration_ms` before the question is asked."""

    duration_ms: int


@dataclass(frozen=True, slots=True)
class Calendar:
    """A whole calendar step of the question's time zone: `back` steps before the one that now lies in."""

    step: Granularity
    back: int


TimeRange = Absolute | Last | Calendar


@dataclass(frozen=True, slots=True)
class Order:
    name: str
    descending: bool = False
    nulls_first: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A whole question. Either `metrics` or `select` is filled.

    Args:
        where: `filters` and `where` of the document together.
        time_range: None asks of all time.
        cursor: The `next` of the page before; only with `select`.
        after: A position that the answer must contain.
    """

    datasource: str
    table: str = "events"
    time_range: TimeRange | None = None
    granularity: Granularity = ALL
    timezone: str = "UTC"
    metrics: tuple[Metric, ...] = ()
    where: Condition | None = None
    group_by: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    order_by: tuple[Order, ...] = ()
    limit: int = 100_000
    cursor: str | None = None
    max_staleness_ms: int = 10
    after: str | None = None
