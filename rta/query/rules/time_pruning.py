"""Conditions on the event time become the range of the plan, so that they prune files and leave the rollups usable."""

from __future__ import annotations

from dataclasses import replace

from rta.query.conditions import all_of, compares, conjuncts
from rta.query.fields import FieldKind
from rta.query.model import Compare, Condition, Op, Value
from rta.query.periods import parse_instant_ms
from rta.query.plan import Plan
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN


def prune_time(plan: Plan) -> Plan:
    start, end = plan.start_ms, plan.end_ms
    rest: list[Condition] = []
    for part in conjuncts(plan.where):
        found = _range_of(part, plan)
        if found is None:
            rest.append(part)
        else:
            start, end = max(start, found[0]), min(end, found[1])
    if len(rest) == len(conjuncts(plan.where)):
        return plan
    where = all_of(rest)
    pruned = replace(plan, where=where)
    compared = (c.field for condition in pruned.conditions for c in compares(condition))
    kept = {*compared, *plan.query.select, *(o.name for o in plan.query.order_by)}
    fields = {name: field for name, field in plan.fields.items() if name in kept}
    return replace(pruned, start_ms=min(start, end), end_ms=end, fields=fields)


def _range_of(part: Condition, plan: Plan) -> tuple[int, int] | None:
    """The half-open range that a comparison with the event time means; None for any other condition."""
    if not isinstance(part, Compare) or plan.fields[part.field].kind is not FieldKind.TIME:
        return None
    if part.op not in (Op.EQ, Op.LT, Op.LTE, Op.GT, Op.GTE):
        return None
    at = _instant_ms(part.values[0])
    match part.op:
        case Op.EQ:
            return at, at + 1
        case Op.LT:
            return TIME_MS_MIN, at
        case Op.LTE:
            return TIME_MS_MIN, at + 1
        case Op.GT:
            return at + 1, TIME_MS_MAX
        case _:
            return at, TIME_MS_MAX


def _instant_ms(value: Value) -> int:
    return parse_instant_ms(value) if isinstance(value, str) else int(value)
