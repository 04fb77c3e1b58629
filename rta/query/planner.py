"""From a question to a plan: what its names mean, its absolute time range, and then one rule after the other.

Owns the names and the order of the work; what a plan is says `rta.query.plan`, what the rules do each of
`rta.query.rules`. Reads nothing: what a table holds is the executors' business, what of it there is comes in as a `Stock`.
"""

from __future__ import annotations

from typing import Any

from rta.errors import InvalidQueryError
from rta.events.schemas import EVENTS, ColumnType, Datasource
from rta.query.conditions import compares, condition_text, conditions
from rta.query.fields import Field, FieldKind, resolve
from rta.query.model import Condition, Metric, Query, QueryMetricType
from rta.query.parse import check_names
from rta.query.periods import absolute_range
from rta.query.plan import Candidate, Considered, Part, Plan, PlannedMetric, Stock
from rta.query.rules import RULES
from rta.query.shape import Shape, shape_of
from rta.query.where import check_where
from rta.query.wording import nearest

__all__ = ["Candidate", "Considered", "Part", "Plan", "PlannedMetric", "Stock", "explain", "logical_plan", "plan"]

NUMBERS = (ColumnType.LONG, ColumnType.DOUBLE)
_ORDERED_TYPES = (*NUMBERS, ColumnType.TIMESTAMP)
_SCALARS = (*_ORDERED_TYPES, ColumnType.STRING, ColumnType.BOOLEAN)


def plan(query: Query, datasource: Datasource, now_ms: int, stock: Stock | None = None) -> Plan:
    """Plan a question.

    Args:
        now_ms: When it is asked; relative ranges and retention are counted from here.
        stock: What the tables hold; without it derived tables are taken not to be there.

    Raises:
        InvalidQueryError: names or types that the datasource does not have, or no table that can answer.
    """
    found = logical_plan(query, datasource, now_ms, stock or Stock())
    for _, rule in RULES:
        found = rule(found)
    return found


def logical_plan(query: Query, datasource: Datasource, now_ms: int, stock: Stock) -> Plan:
    """The question with its names resolved and its range made absolute, before any rule. Raises InvalidQueryError."""
    shape = shape_of(datasource, query.table)
    start, end = absolute_range(query.time_range, query.granularity, query.timezone, now_ms)
    fields = _resolve_names(query, shape)
    for condition in conditions(query):
        check_where(condition, fields)
    group_by = tuple(_group_field(name, shape) for name in query.group_by)
    metrics = tuple(_planned(m, shape) for m in query.metrics)
    if not query.select:
        check_names(query)
    return Plan(
        query=query,
        datasource=datasource,
        now_ms=now_ms,
        stock=stock,
        start_ms=start,
        end_ms=end,
        group_by=group_by,
        metrics=metrics,
        fields=fields,
        where=query.where,
    )


def explain(plan: Plan) -> dict[str, Any]:
    """The plan as `POST /v1/query/explain` shows it, with what each rule made of it. The rules are pure: they run again."""
    from rta.query.answer import format_time

    return {
        "table": plan.table,
        "tables": list(plan.tables),
        "considered": [{"table": c.table, "chosen": c.chosen, "reason": c.reason} for c in plan.considered],
        "time_range": f"{format_time(plan.start_ms)}/{format_time(plan.end_ms)}",
        "columns": list(plan.columns),
        "metrics": {m.metric.name: _derivation(m, plan) for m in plan.metrics},
        "rules": _steps(plan),
    }


def _steps(plan: Plan) -> list[dict[str, Any]]:
    """Per rule what of the plan it has changed, before and after; both are empty where it had nothing to do."""
    steps = []
    before = logical_plan(plan.query, plan.datasource, plan.now_ms, plan.stock)
    shown = _shown(before)
    for name, rule in RULES:
        before, was = rule(before), shown
        shown = _shown(before)
        changed = [key for key in shown if shown[key] != was[key]]
        steps.append({"rule": name, "before": {k: was[k] for k in changed}, "after": {k: shown[k] for k in changed}})
    return steps


def _shown(plan: Plan) -> dict[str, Any]:
    from rta.query.answer import format_time

    def stretch(start_ms: int, end_ms: int) -> str:
        return f"{format_time(start_ms)}/{format_time(end_ms)}"

    def text(condition: Condition | None) -> str | None:
        return None if condition is None else condition_text(condition)

    return {
        "time_range": stretch(plan.start_ms, plan.end_ms),
        "where": text(plan.where),
        "pushed": text(plan.pushed),
        "candidates": [c.rollup.name for c in plan.candidates],
        "rollup": plan.rollup.name if plan.rollup else None,
        "parts": [{"table": p.table, "time_range": stretch(p.start_ms, p.end_ms)} for p in plan.parts],
        "forgotten": [stretch(*times) for times in plan.forgotten],
        "hot": None if plan.hot_ms is None else stretch(plan.hot_ms[0], plan.hot_ms[1] + 1),
        "rows_max": plan.rows_max,
        "columns": list(plan.columns),
    }


def _derivation(planned: PlannedMetric, plan: Plan) -> str:
    if plan.rollup is None:
        return f"{planned.metric.type} of {'raw' if plan.table == EVENTS else plan.table} events"
    if planned.spec is None:
        return f"from the dimension '{planned.field.column}'" if planned.field else "from the count"
    return f"from the rollup's {planned.spec.type} '{planned.spec.name}'"


def _resolve_names(query: Query, shape: Shape) -> dict[str, Field]:
    names = [c.field for condition in conditions(query) for c in compares(condition)]
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
        case _ if metric.type is not QueryMetricType.COUNT:
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
