"""Sets of distinct values put together: in which order a term is worked out, and over raw events as an expression."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import TypeVar

import polars as pl

from rta.query.conditions import both
from rta.query.model import Combined, Condition, Members, SetOp, SetTerm

_Set = TypeVar("_Set")


def members_of(term: SetTerm) -> Iterator[Members]:
    """The sets that a term is made of, left to right."""
    if isinstance(term, Combined):
        for part in term.of:
            yield from members_of(part)
    else:
        yield term


def fold_sets(term: SetTerm, found: Iterator[_Set], combine: Callable[[SetOp, _Set, _Set], _Set]) -> _Set:
    """The term over sets of any kind; `found` yields those of `members_of` in their order."""
    if not isinstance(term, Combined):
        return next(found)
    return reduce(lambda a, b: combine(term.op, a, b), [fold_sets(part, found, combine) for part in term.of])


def size_expression(
    term: SetTerm, value: pl.Expr, where: Condition | None, mask: Callable[[Condition], pl.Expr]
) -> pl.Expr:
    """How many values the term's set has, exactly; for any context that aggregates.

    Args:
        value: Texts or whole numbers, one per event.
        where: Of all sets.
        mask: A condition as an expression over events.
    """

    def distinct(members: Members) -> pl.Expr:
        condition = both(where, members.where)
        chosen = value if condition is None else value.filter(mask(condition))
        return chosen.drop_nulls().unique().implode()

    if isinstance(term, Members):
        condition = both(where, term.where)
        return (value if condition is None else value.filter(mask(condition))).drop_nulls().n_unique().cast(pl.Int64)
    return fold_sets(term, map(distinct, members_of(term)), _combined).list.len().cast(pl.Int64)


def _combined(op: SetOp, left: pl.Expr, right: pl.Expr) -> pl.Expr:
    match op:
        case SetOp.UNION:
            return left.list.set_union(right)
        case SetOp.INTERSECT:
            return left.list.set_intersection(right)
        case SetOp.NOT:
            return left.list.set_difference(right)
