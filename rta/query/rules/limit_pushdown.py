"""A page of raw rows needs no more than one row beyond its limit, from however many files."""

from __future__ import annotations

from dataclasses import replace

from rta.query.plan import Plan


def push_limit(plan: Plan) -> Plan:
    """Aggregates need all rows: only what is selected as it stands is cut where it is read."""
    return replace(plan, rows_max=plan.query.limit + 1) if plan.query.select else plan
