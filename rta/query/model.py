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
    THETA = "theta"
    FIRST = "first"
    LAST = "last"
    FUNNEL = "funnel"
    RETENTION = "retention"


class DerivedType(StrEnum):
    """What is computed from finished metrics: over the steps of time, or of each row."""

    RATE = "rate"
    MOVING_AVG = "moving_avg"
    CUMULATIVE = "cumulative"
    DELTA = "delta"
    RATIO = "ratio"
    ARITHMETIC = "arithmetic"


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


class SetOp(StrEnum):
    UNION = "union"
    INTERSECT = "intersect"
    NOT = "not"


@dataclass(frozen=True, slots=True)
class Members:
    """The distinct values of a set metric's field among the events that the condition takes; None takes all."""

    where: Condition | None = None


@dataclass(frozen=True, slots=True)
class Combined:
    """Sets put together; `not` takes all the others from the first."""

    op: SetOp
    of: tuple[SetTerm, ...]


SetTerm = Members | Combined


@dataclass(frozen=True, slots=True)
class FunnelStep:
    name: str
    where: Condition | None


@dataclass(frozen=True, slots=True)
class Funnel:
    """Steps in their order; the last one is reached at most `window_ms` after the first."""

    steps: tuple[FunnelStep, ...]
    window_ms: int


@dataclass(frozen=True, slots=True)
class Retention:
    """Who comes back: `returning` events in the `periods` steps from the one of somebody's first `cohort` event."""

    cohort: Condition | None
    returning: Condition | None
    period: Granularity
    periods: int


@dataclass(frozen=True, slots=True)
class Metric:
    """One number per row of the answer. `field` is None only for a count of events.

    Args:
        q: The quantile's rank, 0 to 1; only of a quantile.
        k: How many values a `top` lists.
        exact: Quantiles, uniques and sets from raw events instead of sketches.
        where: Which of the row's events count; None counts all.
        sets: Whose size a `theta` is.
        by: What a `top` ranks its values by; None by the count of their events.
        journey: What a `funnel` or `retention` follows each value of the field through.
    """

    name: str
    type: QueryMetricType
    field: str | None = None
    q: float = 0.5
    k: int = 10
    exact: bool = False
    where: Condition | None = None
    sets: SetTerm | None = None
    by: Metric | None = None
    journey: Funnel | Retention | None = None


@dataclass(frozen=True, slots=True)
class Derived:
    """A number from other metrics of the row, or from one of them in the rows of other steps.

    Args:
        of: Names of metrics; of arithmetic also numbers.
        op: Of arithmetic: add, subtract, multiply or divide.
        window: How many steps a moving average takes, its own among them.
        per_ms: The unit of time of a rate.
    """

    name: str
    type: DerivedType
    of: tuple[str | float, ...]
    op: str = ""
    window: int = 0
    per_ms: int = 0


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
class Before:
    """The range that an answer is compared with: `step` earlier, or (None) the one that ends where the asked one begins."""

    step: Granularity | None = None


@dataclass(frozen=True, slots=True)
class Best:
    """Of each group (all keys but the last grouped field) the `k` rows with the most of a metric."""

    metric: str
    k: int


@dataclass(frozen=True, slots=True)
class Order:
    name: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A whole question. Either `metrics` or `select` is filled.

    Args:
        derived: Computed from `metrics`, each behind those that it is made of.
        columns: Names of metrics and derived ones that the answer shows, in its order; empty for all metrics.
        compare: None compares with nothing.
        best: Of each group only its best rows are wanted; None wants all.
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
    derived: tuple[Derived, ...] = ()
    columns: tuple[str, ...] = ()
    compare: Before | None = None
    best: Best | None = None
    where: Condition | None = None
    group_by: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    order_by: tuple[Order, ...] = ()
    limit: int = 100_000
    cursor: str | None = None
    max_staleness_ms: int = 10
    after: str | None = None
