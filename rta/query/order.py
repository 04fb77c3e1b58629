"""The order and the cut of aggregated answers. Nulls come last where the order does not say otherwise, ties are settled by time
and then the groups' names."""

from __future__ import annotations

import polars as pl

from rta.query.model import Unit
from rta.query.planner import Plan


def cut(frame: pl.DataFrame, plan: Plan) -> tuple[pl.DataFrame, bool]:
    """The rows of the answer in its order, at most `limit`, and whether there were more.

    Without an order: by time and then the grouped fields, as they stand in the question.
    """
    names = [o.name for o in plan.query.order_by]
    descending = [o.descending for o in plan.query.order_by]
    nulls_last = [not o.nulls_first for o in plan.query.order_by]
    keys = ["time"] if plan.query.granularity.unit is not Unit.ALL else []
    for key in (*keys, *plan.query.group_by):
        if key not in names:
            names.append(key)
            descending.append(False)
            nulls_last.append(True)
    if names and frame.height > 1:
        frame = frame.sort(names, descending=descending, nulls_last=nulls_last)
    return frame.head(plan.query.limit), frame.height > plan.query.limit
