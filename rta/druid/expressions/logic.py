"""Comparisons, conditions and nulls of the expression language. Truth values are longs; null is neither true nor false."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import polars as pl

from rta.druid.expressions.calls import MANY, Arguments, Function
from rta.druid.expressions.numbers import number_type
from rta.druid.values import (
    ARRAYS,
    NUMBERS,
    POLARS,
    Column,
    Type,
    as_double,
    as_long,
    as_text,
    as_truth,
    cast,
    from_truth,
    literal,
    parse_type,
)

Compare = Callable[[pl.Expr, pl.Expr], pl.Expr]
COMPARISONS: dict[str, Compare] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def comparable(left: Column, right: Column) -> tuple[pl.Expr, pl.Expr]:
    """Both in one type: texts if both are, longs if both are, arrays as they are, else doubles."""
    if left.type in ARRAYS or right.type in ARRAYS:
        of = left.type if left.type in ARRAYS else right.type
        return cast(left, of).expr, cast(right, of).expr
    if _texty(left) and _texty(right):
        return as_text(left), as_text(right)
    if number_type((left, right)) is Type.LONG:
        return as_long(left), as_long(right)
    return as_double(left), as_double(right)


def _texty(column: Column) -> bool:
    return column.type in (Type.STRING, Type.JSON)


def compared(operator: str, left: Column, right: Column) -> Column:
    return from_truth(COMPARISONS[operator](*comparable(left, right)))


def both(left: Column, right: Column) -> Column:
    return from_truth(as_truth(left) & as_truth(right))


def either(left: Column, right: Column) -> Column:
    return from_truth(as_truth(left) | as_truth(right))


def inverted(column: Column) -> Column:
    return from_truth(~as_truth(column))


def alike(columns: Sequence[Column]) -> list[Column]:
    """The columns in the type that holds them all: the branches of a condition."""
    known = [c for c in columns if not (c.missing or (c.constant and c.value is None))]
    if not known:
        return list(columns)
    types = {c.type for c in known}
    if len(types) == 1 and not any(c.multi for c in known):
        of = known[0].type
    elif types <= NUMBERS:
        of = Type.LONG if types == {Type.LONG} else Type.DOUBLE
    else:
        of = next((c.type for c in known if c.type in ARRAYS), Type.STRING)
    return [_as(c, of) for c in columns]


def _as(column: Column, of: Type) -> Column:
    if column.constant and column.value is None:
        return Column(pl.lit(None, POLARS[of]), of, constant=True)
    return cast(column, of)


def chosen(cases: Sequence[tuple[pl.Expr, Column]], otherwise: Column) -> Column:
    """The value of the first condition that is true."""
    values = alike([*(v for _, v in cases), otherwise])
    out = values[-1].expr
    for (condition, _), value in zip(reversed(cases), reversed(values[:-1]), strict=True):
        out = pl.when(condition.fill_null(value=False)).then(value.expr).otherwise(out)
    return Column(out, values[-1].type)


def _if(arguments: Arguments) -> Column:
    return chosen([(as_truth(arguments[0]), arguments[1])], arguments[2])


def _case_searched(arguments: Arguments) -> Column:
    pairs, otherwise = _pairs(arguments.columns)
    return chosen([(as_truth(condition), value) for condition, value in pairs], otherwise)


def _case_simple(arguments: Arguments) -> Column:
    pairs, otherwise = _pairs(arguments.columns[1:])
    return chosen([(COMPARISONS["=="](*comparable(arguments[0], c)), v) for c, v in pairs], otherwise)


def _pairs(columns: Sequence[Column]) -> tuple[list[tuple[Column, Column]], Column]:
    otherwise = columns[-1] if len(columns) % 2 else literal(None)
    return list(zip(columns[: len(columns) // 2 * 2 : 2], columns[1::2], strict=True)), otherwise


def _first_known(arguments: Arguments) -> Column:
    values = alike(arguments.columns)
    return Column(pl.coalesce([v.expr for v in values]), values[0].type)


def _cast(arguments: Arguments) -> Column:
    return cast(arguments[0], parse_type(arguments.constant_text(1)))


def _is(arguments: Arguments, wanted: bool, negated: bool) -> Column:
    truth = as_truth(arguments[0])
    found = truth.fill_null(value=not wanted) == wanted
    return from_truth(~found if negated else found)


def _distinct(arguments: Arguments, negated: bool) -> Column:
    a, b = comparable(arguments[0], arguments[1])
    return from_truth(a.eq_missing(b) if negated else a.ne_missing(b))


def _is_null(arguments: Arguments, negated: bool) -> Column:
    expr = arguments[0].expr
    return from_truth(expr.is_not_null() if negated else expr.is_null())


FUNCTIONS = {
    "if": Function(3, 3, _if),
    "case_searched": Function(2, MANY, _case_searched),
    "case_simple": Function(3, MANY, _case_simple),
    "nvl": Function(2, 2, _first_known),
    "coalesce": Function(1, MANY, _first_known),
    "cast": Function(2, 2, _cast),
    "isnull": Function(1, 1, partial(_is_null, negated=False)),
    "notnull": Function(1, 1, partial(_is_null, negated=True)),
    "istrue": Function(1, 1, partial(_is, wanted=True, negated=False)),
    "isfalse": Function(1, 1, partial(_is, wanted=False, negated=False)),
    "nottrue": Function(1, 1, partial(_is, wanted=True, negated=True)),
    "notfalse": Function(1, 1, partial(_is, wanted=False, negated=True)),
    "isdistinctfrom": Function(2, 2, partial(_distinct, negated=False)),
    "notdistinctfrom": Function(2, 2, partial(_distinct, negated=True)),
}
