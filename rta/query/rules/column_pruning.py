"""Only the stored columns that the answer follows from are read."""

from __future__ import annotations

from dataclasses import replace

from rta.events.schemas import TIME, MetricType
from rta.query.model import QueryMetricType
from rta.query.plan import Plan, PlannedMetric


def prune_columns(plan: Plan) -> Plan:
    wanted = [TIME, *(f.column for f in plan.group_by), *(f.column for f in plan.fields.values())]
    for planned in plan.metrics:
        if planned.spec is not None:
            wanted += _stored(planned)
        elif planned.field is not None:
            wanted.append(planned.field.column)
    if plan.rollup is not None:
        wanted.append(plan.rollup.count.name)
    return replace(plan, columns=tuple(dict.fromkeys(wanted)))


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
