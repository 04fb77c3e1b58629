"""Which rollups hold what a question asks for: its fields among their dimensions, its metrics among theirs, its time among
what they have been filled with.

Sketched metrics count as held unless the question says `exact`. Which of them answers, and at which grain, is
`rta.query.rules.grain_choice`'s.
"""

from __future__ import annotations

from dataclasses import replace

from rta.events.schemas import EVENTS, GRAIN_MS, UNKNOWN, MetricType, Rollup
from rta.query.fields import FieldKind
from rta.query.model import QueryMetricType
from rta.query.plan import Candidate, Considered, Plan, PlannedMetric

SKETCHED = (QueryMetricType.QUANTILE, QueryMetricType.UNIQUE, QueryMetricType.TOP, QueryMetricType.THETA)
OF_DIMENSIONS = (QueryMetricType.COUNT, QueryMetricType.UNIQUE, QueryMetricType.THETA)
SOURCES: dict[QueryMetricType, tuple[MetricType, ...]] = {
    QueryMetricType.COUNT: (MetricType.SUM,),
    QueryMetricType.SUM: (MetricType.SUM,),
    QueryMetricType.AVG: (MetricType.SUM,),
    QueryMetricType.MIN: (MetricType.MIN,),
    QueryMetricType.MAX: (MetricType.MAX,),
    QueryMetricType.QUANTILE: (MetricType.QUANTILE,),
    QueryMetricType.UNIQUE: (MetricType.UNIQUE, MetricType.THETA),
    QueryMetricType.TOP: (MetricType.TOP,),
    QueryMetricType.THETA: (MetricType.THETA,),
}
"""The rollup metrics that each metric of a question follows from, the cheapest first; others need the events."""


def choose_rollups(plan: Plan) -> Plan:
    if plan.query.table != EVENTS:
        return plan
    candidates: list[Candidate] = []
    considered = [*plan.considered]
    rollups = plan.datasource.rollups
    for rollup in sorted(rollups, key=lambda r: (-GRAIN_MS[r.granularity], len(r.dimensions))):
        found = _metrics_from(plan, rollup)
        if isinstance(found, str):
            considered.append(Considered(rollup.table, False, found))
        else:
            candidates.append(Candidate(rollup, found))
    return replace(plan, candidates=tuple(candidates), considered=tuple(considered))


def _metrics_from(plan: Plan, rollup: Rollup) -> tuple[PlannedMetric, ...] | str:
    """The metrics as they follow from the rollup's, or why it does not answer the question."""
    if plan.query.select:
        return "raw rows are asked for"
    for field in (*plan.group_by, *plan.fields.values()):
        if field.kind is not FieldKind.COLUMN or field.column not in rollup.dimensions:
            return f"'{field.name}' is not among its dimensions"
    derived = []
    for planned in plan.metrics:
        found = _derive(planned, rollup)
        if isinstance(found, str):
            return found
        derived.append(found)
    return _unfilled(plan, rollup) or tuple(derived)


def _unfilled(plan: Plan, rollup: Rollup) -> str:
    """Why a rollup that was added later does not have all of the time asked for; "" where it has."""
    if rollup.since == 0:
        return ""
    if rollup.since == UNKNOWN:
        return "it was added before rta could fill it, and what came before is not in it: remove it and add it again"
    filled_from = plan.stock.filled.get(rollup.name)
    if filled_from is None:
        return "it was added a moment ago, and nothing is known to be complete in it yet"
    if plan.start_ms >= filled_from:
        return ""
    from rta.query.answer import format_time

    since = format_time(filled_from)
    if plan.datasource.retention.events_ms is None:
        return f"it was added later and is complete from {since} on: there are no raw events to fill it from"
    return f"it is being filled from history, complete from {since} on so far"


def _derive(planned: PlannedMetric, rollup: Rollup) -> PlannedMetric | str:
    metric, field = planned.metric, planned.field
    if field is None:
        return PlannedMetric(metric, None, rollup.count)
    if field.kind is not FieldKind.COLUMN:
        return f"it has no {metric.type} of '{field.name}'"
    if metric.exact and metric.type in SKETCHED and field.column not in rollup.dimensions:
        return f"metric '{metric.name}' is asked for exactly"
    wanted = SOURCES.get(metric.type, ())
    spec = next((m for kind in wanted for m in rollup.metrics if m.type is kind and m.field == field.column), None)
    if field.column in rollup.dimensions and metric.type in OF_DIMENSIONS:
        return PlannedMetric(metric, field, None)
    if spec is None or (metric.exact and metric.type in SKETCHED):
        return f"it has no {metric.type} of '{field.name}'"
    return PlannedMetric(metric, field, spec)
