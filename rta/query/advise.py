"""Which rollups the last questions would have wanted: their shapes, put together to few.

A wish is what a rollup must hold to answer a question: dimensions, metrics and the coarsest grain. Wishes of one
datasource become proposals: a wish that another one holds goes along with it, and two that make one rollup of little more
rows become one. Reads nothing and knows no clock: how many rows a rollup would have is asked of the caller.

How many groups a day has is estimated from a sample by the estimator Duj1 of Haas and Stokes, "Estimating the Number of
Classes in a Finite Population" (JASA 1998), as databases do it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from rta.events.schemas import EVENTS, GRAIN_MS, TIME, ColumnType, Datasource, Grain, MetricSpec, MetricType, Rollup
from rta.query.fields import Field, FieldKind
from rta.query.plan import Plan, PlannedMetric
from rta.query.rules.rollup_choice import OF_DIMENSIONS, SKETCHED, SOURCES
from rta.query.time import divides

WISHES_MAX = 12
"""So many wishes of a datasource are looked at, those that took the most time."""
UNION_FACTOR = 1.5
"""Two wishes become one rollup if it has at most so many times the rows of the larger one."""
WASTE_FACTOR = 4
"""A rollup that answers is too large for a question if one of its own would have so many times fewer rows."""
DAY_MS = 86_400_000
_SCALARS = (ColumnType.STRING, ColumnType.LONG, ColumnType.DOUBLE, ColumnType.BOOLEAN, ColumnType.TIMESTAMP)
_NUMBERS = (ColumnType.LONG, ColumnType.DOUBLE)
MetricKey = tuple[MetricType, str | None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a rollup must hold."""

    dimensions: frozenset[str]
    metrics: frozenset[MetricKey]
    grain: Grain

    def holds(self, other: Wish) -> bool:
        """Whether this rollup answers what the other one does."""
        fine = GRAIN_MS[self.grain] <= GRAIN_MS[other.grain]
        return fine and self.dimensions >= other.dimensions and self.metrics >= other.metrics

    def union(self, other: Wish) -> Wish:
        finer = self.grain if GRAIN_MS[self.grain] <= GRAIN_MS[other.grain] else other.grain
        return Wish(self.dimensions | other.dimensions, self.metrics | other.metrics, finer)


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions of one wish, answered from one table: how many, and what they took in all."""

    wish: Wish
    table: str
    count: int
    rows: int
    bytes: int
    seconds: float
    days: float
    """Of event time that they asked about, together."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A rollup and the questions that it would answer."""

    wish: Wish
    serves: tuple[Asked, ...]

    @property
    def seconds(self) -> float:
        return sum(asked.seconds for asked in self.serves)


RowsPerDay = Callable[[Collection[str], Grain], float]


def wish_of(plan: Plan) -> Wish | None:
    """The rollup that would answer the question; None where none can."""
    if plan.query.table != EVENTS or plan.query.select:
        return None
    fields = (*plan.group_by, *plan.fields.values())
    if any(f.kind is not FieldKind.COLUMN or f.type not in _SCALARS for f in fields):
        return None
    dimensions = frozenset(f.column for f in fields)
    metrics: set[MetricKey] = set()
    for planned in plan.metrics:
        found = _metric_of(planned, dimensions)
        if found is None:
            return None
        metrics |= found
    grain = _grain_of(plan)
    return None if grain is None else Wish(dimensions, frozenset(metrics), grain)


def _metric_of(planned: PlannedMetric, dimensions: Collection[str]) -> set[MetricKey] | None:
    metric, field = planned.metric, planned.field
    if field is None:
        return set()
    if field.column in dimensions and metric.type in OF_DIMENSIONS:
        return set()
    source = SOURCES.get(metric.type, (None,))[0]
    if source is None or not _takes(source, field) or (metric.exact and metric.type in SKETCHED):
        return None
    return {(source, field.column)}


def _takes(source: MetricType, field: Field) -> bool:
    """Whether a rollup can have this metric of the field."""
    if field.kind is not FieldKind.COLUMN:
        return False
    if source in (MetricType.UNIQUE, MetricType.TOP, MetricType.THETA):
        return field.type in _SCALARS
    return field.type in _NUMBERS


def _grain_of(plan: Plan) -> Grain | None:
    """The coarsest grain whose steps do not blur the question's, and at which its range begins and ends."""
    steps = [
        grain
        for grain in Grain
        if divides(GRAIN_MS[grain], plan.query.granularity, plan.query.timezone, plan.start_ms, plan.end_ms)
    ]
    whole = [g for g in steps if plan.start_ms % GRAIN_MS[g] == 0 and plan.end_ms % GRAIN_MS[g] == 0]
    return (whole or steps)[-1 if whole else 0] if steps else None


def wish_of_rollup(rollup: Rollup) -> Wish:
    metrics = frozenset((m.type, m.field) for m in rollup.metrics if m.type is not MetricType.COUNT)
    return Wish(frozenset(rollup.dimensions), metrics, rollup.granularity)


def propose(asked: Sequence[Asked], existing: Sequence[Rollup], rows_per_day: RowsPerDay) -> list[Proposal]:
    """Few rollups for many wishes, the one that saves most first."""
    open_wishes = [a for a in asked if _is_open(a, existing, rows_per_day)]
    together: dict[Wish, list[Asked]] = {}
    for each in sorted(open_wishes, key=lambda a: -a.seconds):
        together.setdefault(each.wish, []).append(each)
    made = [Proposal(wish, tuple(serves)) for wish, serves in together.items()]
    made = sorted(made, key=lambda p: -p.seconds)[:WISHES_MAX]
    while True:
        merged = _merge_once(made, rows_per_day)
        if merged is None:
            return sorted(made, key=lambda p: -p.seconds)
        made = merged


def _is_open(asked: Asked, existing: Sequence[Rollup], rows_per_day: RowsPerDay) -> bool:
    """Whether no rollup answers such questions now, or only one that is far larger than they need."""
    holding = [rollup for rollup in existing if wish_of_rollup(rollup).holds(asked.wish)]
    if not holding:
        return True
    smallest = min(rows_per_day(rollup.dimensions, rollup.granularity) for rollup in holding)
    return rows_per_day(asked.wish.dimensions, asked.wish.grain) * WASTE_FACTOR <= smallest and asked.table != EVENTS


def _merge_once(made: Sequence[Proposal], rows_per_day: RowsPerDay) -> list[Proposal] | None:
    """Two of them as one, the pair whose rollup grows least; None when every pair would cost too much."""
    best: tuple[float, int, int] | None = None
    for i, one in enumerate(made):
        for k in range(i + 1, len(made)):
            union = one.wish.union(made[k].wish)
            alone = max(rows_per_day(w.dimensions, w.grain) for w in (one.wish, made[k].wish))
            growth = rows_per_day(union.dimensions, union.grain) / max(alone, 1.0)
            if growth <= UNION_FACTOR and (best is None or growth < best[0]):
                best = growth, i, k
    if best is None:
        return None
    _, i, k = best
    merged = Proposal(made[i].wish.union(made[k].wish), made[i].serves + made[k].serves)
    return [merged, *(p for n, p in enumerate(made) if n not in (i, k))]


def groups_of_a_day(
    sample: pl.DataFrame, events_per_day: float, dimensions: Collection[str], grain: Grain, datasource: Datasource
) -> float:
    """How many rows of a rollup a day comes to, by events of one day drawn from it.

    Args:
        sample: Raw rows; `__time` and the dimensions are read.
    """
    if not sample.height:
        return 0.0
    bucket = pl.col(TIME).dt.epoch("ms") // GRAIN_MS[grain]
    known = [name for name in sorted(dimensions) if datasource.column(name) is not None]
    counts = sample.select(bucket.alias(TIME), *known).group_by(TIME, *known).len()["len"]
    once, n = int((counts == 1).sum()), sample.height
    return n * len(counts) / (n - once + once * min(1.0, n / max(events_per_day, 1.0)))


def rollup_document(wish: Wish, taken: Collection[str]) -> dict[str, Any]:
    """The rollup as a datasource's document takes it, under a name that is free."""
    names = {*wish.dimensions}
    metrics: list[dict[str, str]] = []
    for kind, field in sorted(wish.metrics, key=lambda m: (m[0], m[1] or "")):
        name = _free(_plain(f"{field}_{kind}"), names, "_")
        names.add(name)
        metrics.append({"name": name, "type": str(kind), "field": str(field)})
    metrics.insert(0, {"name": _free("events", names, "_"), "type": "count"})
    base = "by_" + "_".join(sorted(wish.dimensions)) if wish.dimensions else "totals"
    name = _free(re.sub(r"[^a-z0-9_\-]", "_", base.lower())[:56], taken, "_")
    return {"name": name, "granularity": str(wish.grain), "dimensions": sorted(wish.dimensions), "metrics": metrics}


def rollup_of(document: Mapping[str, Any]) -> Rollup:
    """The same as the fold takes it."""
    metrics = tuple(MetricSpec(m["name"], MetricType(m["type"]), m.get("field")) for m in document["metrics"])
    return Rollup(document["name"], Grain(document["granularity"]), tuple(document["dimensions"]), metrics)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", text)[:100]


def _free(name: str, taken: Collection[str], between: str) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}{between}{number}"
    return found
