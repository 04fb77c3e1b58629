"""How a pair is checked: what the plan shows of a question right before and right after one rule."""

from __future__ import annotations

from typing import Any

from rta.query.planner import Stock, explain
from tests.query.wikipedia import planned

COUNT: dict[str, Any] = {"metrics": [{"name": "n", "type": "count"}]}
Pair = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""A question beside the count that it asks for, and what changes in its plan."""


def changed(rule: str, document: dict[str, Any], stock: Stock | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a rule changes of the question's plan: before and after."""
    asked = document if "select" in document else {**COUNT, **document}
    step = next(step for step in explain(planned(asked, stock=stock))["rules"] if step["rule"] == rule)
    return step["before"], step["after"]
