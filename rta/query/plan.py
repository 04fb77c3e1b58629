"""What a plan is: a question with its names resolved, and what the rules of `rta.query.rules` have made of it so far.

Plain frozen data. The rules fill a plan step by step; a finished one says which table answers which stretch of time.
Picklable: it goes to scan workers as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rta.events.schemas import Datasource, Grain, MetricSpec, Rollup
from rta.query.conditions import metric_conditions
from rta.query.fields import Field
from rta.query.model import Condition, Metric, Query, Unit
from rta.query.shape import Shape, shape_of

Times = tuple[int, int]
"""First and last instant in ms, both included."""


@dataclass(frozen=True, slots=True)
class PlannedMetric:
    """A metric with its field, and the rollup's metric it follows from.

    `spec` is None on the raw table, and on a rollup where the field is one of the dimensions.
    """

    metric: Metric
    field: Field | None
    spec: MetricSpec | None = None


@dataclass(frozen=True, slots=True)
class Considered:
    """A table that the planner looked at, and why it was taken or not."""

    table: str
    chosen: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Stock:
    """What the tables hold at present, as far as a plan depends on it; an answer never does.

    Args:
        oldest_ms: The oldest event that the raw table holds; None where nobody looked.
        derived: Per derived rollup table that is there, the time from which on it holds everything that its source got.
        filled: Per rollup that was added later, by name, the time from which on it holds everything; None while that is not
            known.
        hot: Per table with rows beyond its files their times; None where nobody looked, so that any may have some.
    """

    oldest_ms: int | None = None
    derived: Mapping[str, int] = field(default_factory=dict)
    filled: Mapping[str, int | None] = field(default_factory=dict)
    hot: Mapping[str, Times] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of time and the table that answers it. Half open. Without a grain it is a table of single rows."""

    table: str
    start_ms: int
    end_ms: int
    grain: Grain | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rollup that holds all that a question asks for, and the metrics that it follows from."""

    rollup: Rollup
    metrics: tuple[PlannedMetric, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a question is answered.

    Args:
        now_ms: When it was asked.
        start_ms, end_ms: Half open.
        group_by: In the question's order.
        fields: What every other name of the question means, by name.
        pushed: The condition on stored columns, tested as they are read.
        where: The condition that needs more than that: paths into JSON text. Both must be true.
        candidates: Rollups that may answer, before one is chosen.
        rollup: The chosen rollup; None reads single rows, of `shape`.
        parts: Which table answers which time; ascending, without gaps but for `forgotten`.
        forgotten: Stretches that no table keeps as finely as they are asked for.
        hot_ms: The times in which rows beyond the files may lie; None for none.
        rows_max: How many rows of the order suffice; None for all.
        columns: The stored columns that are read, of a rollup or of single rows.
    """

    query: Query
    datasource: Datasource
    now_ms: int
    stock: Stock
    start_ms: int
    end_ms: int
    group_by: tuple[Field, ...]
    metrics: tuple[PlannedMetric, ...]
    fields: Mapping[str, Field]
    where: Condition | None
    pushed: Condition | None = None
    candidates: tuple[Candidate, ...] = ()
    rollup: Rollup | None = None
    parts: tuple[Part, ...] = ()
    forgotten: tuple[tuple[int, int], ...] = ()
    hot_ms: Times | None = None
    rows_max: int | None = None
    columns: tuple[str, ...] = ()
    considered: tuple[Considered, ...] = ()

    @property
    def table(self) -> str:
        """The table that answers most of the time asked for."""
        longest = max(self.parts, key=lambda part: part.end_ms - part.start_ms, default=None)
        if longest is not None:
            return longest.table
        return self.rollup.table if self.rollup else self.query.table

    @property
    def tables(self) -> tuple[str, ...]:
        """Every table that is read, the one that answers most first."""
        return tuple(dict.fromkeys((self.table, *(part.table for part in self.parts))))

    @property
    def ends(self) -> tuple[Part, ...]:
        """Stretches of a rollup's question that are read from raw events, because no grain fits into them."""
        return tuple(part for part in self.parts if part.grain is None) if self.rollup else ()

    @property
    def shape(self) -> Shape:
        """The table of single rows that the question is about."""
        return shape_of(self.datasource, self.query.table)

    @property
    def grouped(self) -> bool:
        return bool(self.group_by) or self.query.granularity.unit is not Unit.ALL

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Every condition that is still to be tested: of the events, and of the metrics."""
        own = (c for planned in self.metrics for c in metric_conditions(planned.metric))
        return (*(c for c in (self.pushed, self.where) if c is not None), *own)

    @property
    def key(self) -> bytes:
        """Equal keys on equal data give equal answers: what the question means, with its range made absolute."""
        q = self.query
        parts = (
            q.table,
            q.granularity,
            q.timezone,
            q.metrics,
            q.derived,
            q.columns,
            q.compare,
            q.best,
            q.where,
            q.group_by,
            q.select,
            q.order_by,
            q.limit,
            q.cursor,
        )
        return repr((self.datasource.folder, self.datasource.version, self.start_ms, self.end_ms, parts)).encode()
