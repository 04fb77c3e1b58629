"""Rows beyond the files are looked for only where some can be: a stretch without them is settled by files alone."""

from __future__ import annotations

from dataclasses import replace

from rta.query.plan import Plan


def split_hot_from_cold(plan: Plan) -> Plan:
    if plan.start_ms >= plan.end_ms:
        return replace(plan, hot_ms=None)
    whole = (plan.start_ms, plan.end_ms - 1)
    if plan.stock.hot is None:
        return replace(plan, hot_ms=whole)
    tables = {plan.rollup.table} if plan.rollup else set()
    tables |= {part.table for part in plan.parts if part.grain is None}
    times = [plan.stock.hot[table] for table in tables if table in plan.stock.hot]
    first = max(whole[0], min((t[0] for t in times), default=whole[1] + 1))
    last = min(whole[1], max((t[1] for t in times), default=whole[0] - 1))
    return replace(plan, hot_ms=(first, last) if first <= last else None)
