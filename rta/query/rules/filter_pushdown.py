"""What can be asked of stored columns is tested as they are read; only conditions on JSON text wait for whole rows."""

from __future__ import annotations

from dataclasses import replace

from rta.query.conditions import all_of, compares, conjuncts
from rta.query.fields import FieldKind
from rta.query.model import Condition
from rta.query.plan import Plan


def push_filters(plan: Plan) -> Plan:
    pushed: list[Condition] = [*conjuncts(plan.pushed)]
    rest: list[Condition] = []
    for part in conjuncts(plan.where):
        needs_text = any(plan.fields[c.field].kind is FieldKind.PATH for c in compares(part))
        (rest if needs_text else pushed).append(part)
    return replace(plan, pushed=all_of(pushed), where=all_of(rest))
