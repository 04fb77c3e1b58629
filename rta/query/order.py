"""The order and the cut of aggregated answers. Nulls come last, ties are settled by time and then the groups' names."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from rta.query.answer import FEW_ROWS
from rta.query.columns import keys_of
from rta.query.model import Best, Query
from rta.query.plan import Plan


def cut(frame: pl.DataFrame, plan: Plan) -> tuple[pl.DataFrame, bool]:
    """The rows of the answer in its order, at most `limit`, and whether there were more.

    Without an order: by time and then the grouped fields, as they stand in the question.
    """
    query = plan.query
    if query.best is not None:
        frame = _best_rows(frame, query, query.best)
    frame = ordered_rows(frame, query)
    return frame.head(query.limit), frame.height > query.limit


def ordered_rows(frame: pl.DataFrame, query: Query) -> pl.DataFrame:
    """The rows in the order of the question."""
    if query.best is not None:
        return frame
    names = [o.name for o in query.order_by]
    descending = [o.descending for o in query.order_by]
    for key in keys_of(query):
        if key not in names:
            names.append(key)
            descending.append(False)
    if names and frame.height > 1:
        frame = _sorted(frame, names, descending)
    return frame


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


def _best_rows(frame: pl.DataFrame, query: Query, best: Best) -> pl.DataFrame:
    """Of each row of the question the values with the most, the best first, ties by value, which becomes text."""
    *keys, value = keys_of(query)
    number = pl.col(best.metric)
    if frame.schema[best.metric].is_float():
        frame = frame.with_columns(number.fill_nan(None))
    named = frame.with_columns(pl.col(value).cast(pl.String)).filter(pl.col(value).is_not_null() & number.is_not_null())
    ranked = named.sort(best.metric, value, descending=[True, False])
    return ranked.group_by(keys, maintain_order=True).head(best.k) if keys else ranked.head(best.k)
