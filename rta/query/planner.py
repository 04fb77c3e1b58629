"""From a question to a plan: what its names mean, its absolute time range, and the coarsest table that answers exactly.

A rollup answers exactly if its dimensions hold every field that is grouped by and compared, if each metric follows from
one of its own, if every step and both ends of the range are multiples of its grain, if it keeps its rows as far back as
the question reaches (or as the raw table does), and if it was there from the datasource's first event on, or has been
filled as far back as the question reaches. Sketched metrics count as exact unless the question says `exact`. Reads
nothing: what a table holds is the executors' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rta.errors import InvalidQueryError
from rta.events.schemas import EVENTS, GRAIN_MS, TIME, UNKNOWN, ColumnType, Datasource, MetricSpec, MetricType, Rollup
from rta.query.conditions import compares
from rta.query.fields import Field, FieldKind, resolve
from rta.query.model import Metric, Query, QueryMetricType, Unit
from rta.query.parse import check_names, nearest
from rta.query.periods import absolute_range
from rta.query.shape import Shape, shape_of
from rta.query.time import TIME_MS_MIN, divides
from rta.query.where import check_where

NUMBERS = (ColumnType.LONG, ColumnType.DOUBLE)
_ORDERED_TYPES = (*NUMBERS, ColumnType.TIMESTAMP)
_SCALARS = (*_ORDERED_TYPES, ColumnType.STRING, ColumnType.BOOLEAN)


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
class Plan:
    """How a question is answered. Picklable: it goes to scan workers as it is.

    Args:
        rollup: The chosen rollup; None reads single rows, of `shape`.
        start_ms, end_ms: Half open.
        group_by: In the question's order.
        fields: What every other name of the question means, by name.
        columns: The stored columns that are read.
    """

    query: Query
    datasource: Datasource
    rollup: Rollup | None
    start_ms: int
    end_ms: int
    group_by: tuple[Field, ...]
    metrics: tuple[PlannedMetric, ...]
    fields: dict[str, Field]
    columns: tuple[str, ...]
    considered: tuple[Considered, ...]

    @property
    def table(self) -> str:
        return self.rollup.table if self.rollup else self.query.table

    @property
    def shape(self) -> Shape:
        """The table of single rows that the question is about."""
        return shape_of(self.datasource, self.query.table)

    @property
    def grouped(self) -> bool:
        return bool(self.group_by) or self.query.granularity.unit is not Unit.ALL

    @property
    def key(self) -> bytes:
        """Equal keys on equal data give equal answers: what the question means, with its range made absolute."""
        q = self.query
        parts = (
            q.table,
            q.granularity,
            q.timezone,
            q.metrics,
            q.where,
            q.group_by,
            q.select,
            q.order_by,
            q.limit,
            q.cursor,
        )
        return repr((self.datasource.folder, self.datasource.version, self.start_ms, self.end_ms, parts)).encode()


Filled = Mapping[str, int | None]
"""Per rollup that was added later, the event time in ms from which on it has everything; None while that is not known."""
NOTHING_FILLED: Filled = MappingProxyType({})


def plan(
    query: Query,
    datasource: Datasource,
    now_ms: int,
    oldest_ms: int | None = None,
    filled: Filled = NOTHING_FILLED,
) -> Plan:
    """Plan a question.

    Args:
        now_ms: When it is asked; relative ranges and retention are counted from here.
        oldest_ms: The oldest event that the raw table holds, where that is known.

    Raises:
        InvalidQueryError: names or types that the datasource does not have, or no table that can answer.
    """
    shape = shape_of(datasource, query.table)
    start, end = absolute_range(query.time_range, query.granularity, query.timezone, now_ms)
    fields = _resolve_names(query, shape)
    check_where(query.where, fields)
    group_by = tuple(_group_field(name, shape) for name in query.group_by)
    metrics = tuple(_planned(m, shape) for m in query.metrics)
    if not query.select:
        check_names(query)
        _check_order(query)
    chosen = _choose(query, datasource, (group_by, metrics, fields), (start, end, now_ms, oldest_ms, filled))
    rollup, metrics, considered = chosen
    columns = _columns(rollup, group_by, metrics, fields, query)
    return Plan(query, datasource, rollup, start, end, group_by, metrics, fields, columns, considered)


def explain(plan: Plan) -> dict[str, Any]:
    """The plan as `POST /v1/query/explain` shows it."""
    from rta.query.answer import format_time

    return {
        "table": plan.table,
        "considered": [{"table": c.table, "chosen": c.chosen, "reason": c.reason} for c in plan.considered],
        "time_range": f"{format_time(plan.start_ms)}/{format_time(plan.end_ms)}",
        "columns": list(plan.columns),
        "metrics": {m.metric.name: _derivation(m, plan) for m in plan.metrics},
    }


def _derivation(planned: PlannedMetric, plan: Plan) -> str:
    if plan.rollup is None:
        return f"{planned.metric.type} of {'raw' if plan.table == EVENTS else plan.table} events"
    if planned.spec is None:
        return f"from the dimension '{planned.field.column}'" if planned.field else "from the count"
    return f"from the rollup's {planned.spec.type} '{planned.spec.name}'"


def _resolve_names(query: Query, shape: Shape) -> dict[str, Field]:
    names = [c.field for c in compares(query.where)]
    names += [n for n in query.select if n != "*"]
    fields = {name: resolve(name, shape) for name in names}
    if query.select:
        for order in query.order_by:
            fields[order.name] = _order_field(order.name, shape)
    return fields


def _order_field(name: str, shape: Shape) -> Field:
    field = resolve(name, shape)
    if field.kind is FieldKind.PATH or field.type not in _SCALARS:
        valid = ["time", *(c.name for c in shape.columns if c.type in _SCALARS)]
        raise InvalidQueryError(
            f"raw rows can't be ordered by '{name}', which is not a column with one value", nearest(name, valid)
        )
    return field


def _group_field(name: str, shape: Shape) -> Field:
    field = resolve(name, shape)
    if field.kind is FieldKind.TIME:
        raise InvalidQueryError(f"'group_by' names '{name}'", "group by time with 'granularity'")
    if field.kind is FieldKind.COLUMN and field.type not in _SCALARS:
        hint = (
            f"group by a path inside it, such as {name}.key"
            if field.type is ColumnType.JSON
            else "filter by it instead"
        )
        raise InvalidQueryError(f"'group_by' names '{name}', which is {field.type}", hint)
    return field


def _planned(metric: Metric, shape: Shape) -> PlannedMetric:
    if metric.field is None:
        return PlannedMetric(metric, None)
    field = resolve(metric.field, shape)
    allowed: tuple[ColumnType, ...]
    match metric.type:
        case QueryMetricType.SUM | QueryMetricType.AVG | QueryMetricType.QUANTILE:
            allowed = NUMBERS
        case QueryMetricType.MIN | QueryMetricType.MAX:
            allowed = _ORDERED_TYPES
        case QueryMetricType.UNIQUE | QueryMetricType.TOP:
            allowed = _SCALARS
        case _:
            return PlannedMetric(metric, field)
    if field.kind is not FieldKind.PATH and field.type not in allowed:
        valid = [c.name for c in shape.columns if c.type in allowed]
        hint = f"use a field of type {', '.join(allowed)}" + (f": {', '.join(valid[:20])}" if valid else "")
        raise InvalidQueryError(
            f"metric '{metric.name}' takes the {metric.type} of '{metric.field}', which is {field.type}", hint
        )
    return PlannedMetric(metric, field)


def _check_order(query: Query) -> None:
    for metric in query.metrics:
        if metric.type is QueryMetricType.TOP and any(o.name == metric.name for o in query.order_by):
            raise InvalidQueryError(f"'order_by' names '{metric.name}', a list of values", "order by a number")


Names = tuple[tuple[Field, ...], tuple[PlannedMetric, ...], dict[str, Field]]
Times = tuple[int, int, int, int | None, Filled]


def _choose(
    query: Query, datasource: Datasource, names: Names, times: Times
) -> tuple[Rollup | None, tuple[PlannedMetric, ...], tuple[Considered, ...]]:
    if query.table != EVENTS:
        return None, names[1], (Considered(query.table, True, "it is asked for by name"),)
    considered: list[Considered] = []
    best: tuple[Rollup, tuple[PlannedMetric, ...]] | None = None
    for rollup in sorted(datasource.rollups, key=lambda r: (-GRAIN_MS[r.granularity], len(r.dimensions))):
        if best is not None:
            considered.append(Considered(rollup.table, False, f"'{best[0].table}' is coarser or has fewer dimensions"))
            continue
        reason, metrics = _fit(query, datasource, rollup, names, times)
        considered.append(Considered(rollup.table, not reason, reason or "the coarsest rollup that answers exactly"))
        if not reason:
            best = rollup, metrics
    if best is not None:
        return best[0], best[1], (*considered, Considered(query.table, False, f"'{best[0].table}' answers it"))
    if datasource.retention.events_ms is None:
        detail = "; ".join(f"{c.table}: {c.reason}" for c in considered)
        raise InvalidQueryError(
            f"datasource '{datasource.name}' keeps no raw events and no rollup answers this question ({detail})",
            "ask for what a rollup holds, or keep raw events (retention.events)",
        )
    return None, names[1], (*considered, Considered(query.table, True, "raw events answer every question"))


def _fit(
    query: Query, datasource: Datasource, rollup: Rollup, names: Names, times: Times
) -> tuple[str, tuple[PlannedMetric, ...]]:
    """Why the rollup does not answer the question, or "" and the metrics that it answers with."""
    group_by, metrics, fields = names
    if query.select:
        return "raw rows are asked for", ()
    for field in (*group_by, *fields.values()):
        if field.kind is not FieldKind.COLUMN or field.column not in rollup.dimensions:
            return f"'{field.name}' is not among its dimensions", ()
    reason = _grain_reason(query, rollup, times[:2]) or _retention_reason(datasource, rollup, times)
    reason = reason or _filled_reason(datasource, rollup, times)
    if reason:
        return reason, ()
    derived = []
    for planned in metrics:
        found = _derive(planned, rollup)
        if isinstance(found, str):
            return found, ()
        derived.append(found)
    return "", tuple(derived)


def _grain_reason(query: Query, rollup: Rollup, ends: tuple[int, int]) -> str:
    grain = GRAIN_MS[rollup.granularity]
    if any(end % grain for end in ends):
        return f"the time range does not start and end at a whole {rollup.granularity}"
    if not divides(grain, query.granularity, query.timezone, *ends):
        return f"the steps of the granularity in {query.timezone} do not start at a whole {rollup.granularity}"
    return ""


def _retention_reason(datasource: Datasource, rollup: Rollup, times: Times) -> str:
    """A rollup that forgets earlier than the raw table must not answer for what it has forgotten."""
    start, _, now, oldest, _ = times
    kept = datasource.retention.rollups_ms.get(rollup.granularity)
    raw = datasource.retention.events_ms
    if kept is None or raw is None or kept >= raw:
        return ""
    if max(start, oldest if oldest is not None else TIME_MS_MIN) < now - kept:
        return f"it keeps {kept // 86_400_000:,} days, the question reaches further back"
    return ""


def _filled_reason(datasource: Datasource, rollup: Rollup, times: Times) -> str:
    """A rollup that was added later answers for the times of which it has everything by now."""
    if rollup.since == 0:
        return ""
    if rollup.since == UNKNOWN:
        return "it was added before rta could fill it, and what came before is not in it: remove it and add it again"
    start, filled_from = times[0], times[4].get(rollup.name)
    if filled_from is None:
        return "it was added a moment ago, and nothing is known to be complete in it yet"
    if start >= filled_from:
        return ""
    from rta.query.answer import format_time

    since = format_time(filled_from)
    if datasource.retention.events_ms is None:
        return f"it was added later and is complete from {since} on: there are no raw events to fill it from"
    return f"it is being filled from history, complete from {since} on so far"


def _derive(planned: PlannedMetric, rollup: Rollup) -> PlannedMetric | str:
    metric, field = planned.metric, planned.field
    if field is None:
        return PlannedMetric(metric, None, rollup.count)
    if field.kind is not FieldKind.COLUMN:
        return f"it has no {metric.type} of '{field.name}'"
    if metric.exact and metric.type in _SKETCHED and field.column not in rollup.dimensions:
        return f"metric '{metric.name}' is asked for exactly"
    wanted = _SOURCE[metric.type]
    spec = next((m for m in rollup.metrics if m.type is wanted and m.field == field.column), None)
    if field.column in rollup.dimensions and metric.type in (QueryMetricType.COUNT, QueryMetricType.UNIQUE):
        return PlannedMetric(metric, field, None)
    if spec is None or (metric.exact and metric.type in _SKETCHED):
        return f"it has no {metric.type} of '{field.name}'"
    return PlannedMetric(metric, field, spec)


_SKETCHED = (QueryMetricType.QUANTILE, QueryMetricType.UNIQUE, QueryMetricType.TOP)
_SOURCE: dict[QueryMetricType, MetricType] = {
    QueryMetricType.COUNT: MetricType.SUM,
    QueryMetricType.SUM: MetricType.SUM,
    QueryMetricType.AVG: MetricType.SUM,
    QueryMetricType.MIN: MetricType.MIN,
    QueryMetricType.MAX: MetricType.MAX,
    QueryMetricType.QUANTILE: MetricType.QUANTILE,
    QueryMetricType.UNIQUE: MetricType.UNIQUE,
    QueryMetricType.TOP: MetricType.TOP,
}


def _columns(
    rollup: Rollup | None,
    group_by: tuple[Field, ...],
    metrics: tuple[PlannedMetric, ...],
    fields: dict[str, Field],
    query: Query,
) -> tuple[str, ...]:
    wanted = [TIME, *(f.column for f in group_by), *(f.column for f in fields.values())]
    for planned in metrics:
        if planned.spec is not None:
            wanted += _stored(planned)
        elif planned.field is not None:
            wanted.append(planned.field.column)
    if rollup is not None:
        wanted.append(rollup.count.name)
    return tuple(dict.fromkeys(wanted))


def _stored(planned: PlannedMetric) -> list[str]:
    spec = planned.spec
    assert spec is not None
    match spec.type:
        case MetricType.COUNT | MetricType.MIN | MetricType.MAX:
            return [spec.name]
        case MetricType.SUM:
            return [spec.n] if planned.metric.type is QueryMetricType.COUNT else [spec.name, spec.n]
        case _:
            return [spec.items, spec.sketch]
