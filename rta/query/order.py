"""The order and the cut of aggregated answers. Nulls come last, ties are settled by time and then the groups' names."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from rta.query.answer import FEW_ROWS
from rta.query.model import Unit
from rta.query.plan import Plan


def cut(frame: pl.DataFrame, plan: Plan) -> tuple[pl.DataFrame, bool]:
    """The rows of the answer in its order, at most `limit`, and whether there were more.

    Without an order: by time and then the grouped fields, as they stand in the question.
    """
    names = [o.name for o in plan.query.order_by]
    descending = [o.descending for o in plan.query.order_by]
    keys = ["time"] if plan.query.granularity.unit is not Unit.ALL else []
    for key in (*keys, *plan.query.group_by):
        if key not in names:
            names.append(key)
            descending.append(False)
    if names and frame.height > 1:
        frame = _sorted(frame, names, descending)
    return frame.head(plan.query.limit), frame.height > plan.query.limit


def _sorted(frame: pl.DataFrame, names: Sequence[str], descending: Sequence[bool]) -> pl.DataFrame:
    if frame.height <= FEW_ROWS and not any(_has_nan(frame.get_column(name)) for name in names):
        order = _order_of_few(frame, names, descending)
        return frame if order == list(range(frame.height)) else frame[order]
    return frame.sort(list(names), descending=list(descending), nulls_last=True)


def _has_nan(column: pl.Series) -> bool:
    return column.dtype.is_float() and bool(column.is_nan().any())


def _order_of_few(frame: pl.DataFrame, names: Sequence[str], descending: Sequence[bool]) -> list[int]:
    """By the last name first, each time stable. polars needs longer to get ready than this takes for few rows."""
    order = list(range(frame.height))
    for name, down in reversed(list(zip(names, descending, strict=True))):
        column = frame.get_column(name)
        values = (column.to_physical() if column.dtype.is_temporal() else column).to_list()
        if column.null_count():
            # What is empty comes last in both directions.
            ranks = [((v is None) != down, 0 if v is None else v) for v in values]
            order.sort(key=ranks.__getitem__, reverse=down)
        else:
            order.sort(key=values.__getitem__, reverse=down)
    return order
