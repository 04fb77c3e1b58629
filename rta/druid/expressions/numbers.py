"""Arithmetic and mathematical functions of the expression language.

Two longs make a long, anything else a double. Dividing longs cuts off what is behind the point; by zero it gives null.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import polars as pl

from rta.druid.expressions.calls import MANY, Arguments, Function
from rta.druid.problems import InvalidInputError
from rta.druid.values import NUMBERS, Column, Type, as_double, as_long, as_text, literal


def number_type(columns: tuple[Column, ...]) -> Type:
    """Long if all are, double else; what is always null counts for nothing."""
    known = [c for c in columns if not _always_null(c)]
    return Type.LONG if known and all(c.type is Type.LONG for c in known) else Type.DOUBLE


def _always_null(column: Column) -> bool:
    return column.missing or (column.constant and column.value is None)


def numbers(columns: tuple[Column, ...]) -> tuple[Type, list[pl.Expr]]:
    of = number_type(columns)
    for column in columns:
        if column.multi:
            raise InvalidInputError("a column with several values per row is no number", "use an array function")
    return of, [as_long(c) if of is Type.LONG else as_double(c) for c in columns]


def arithmetic(operator: str, left: Column, right: Column) -> Column:
    """`+ - * / % ^`; `+` of two texts puts them together."""
    texts = left.type is Type.STRING and right.type is Type.STRING
    if operator == "+" and texts and not (_always_null(left) and _always_null(right)):
        return Column(as_text(left) + as_text(right), Type.STRING)
    of, (a, b) = numbers((left, right))
    match operator:
        case "+":
            return Column(a + b, of)
        case "-":
            return Column(a - b, of)
        case "*":
            return Column(a * b, of)
        case "/":
            return Column(divided(a, b) if of is Type.LONG else a / b, of)
        case "%":
            return Column(remainder(a, b, of), of)
        case _:
            power = a.cast(pl.Float64).pow(b.cast(pl.Float64))
            return Column(power.cast(pl.Int64, strict=False) if of is Type.LONG else power, of)


def divided(a: pl.Expr, b: pl.Expr) -> pl.Expr:
    """Towards zero; null where b is zero."""
    size = a.abs() // pl.when(b != 0).then(b.abs())
    return pl.when((a < 0) == (b < 0)).then(size).otherwise(-size)


def remainder(a: pl.Expr, b: pl.Expr, of: Type) -> pl.Expr:
    """With the sign of a."""
    if of is Type.LONG:
        return a - divided(a, b) * b
    size = a.abs() % b.abs()
    return pl.when(a < 0).then(-size).otherwise(size)


def negated(column: Column) -> Column:
    of, (value,) = numbers((column,))
    return Column(-value, of)


def rounded(value: pl.Expr, scale: int) -> pl.Expr:
    """Halves go away from zero, as they are written in decimal."""
    factor = 10.0**scale
    scaled = value * factor
    up = (scaled.abs() + 0.5).floor()
    # 1.005 * 100 is 100.49999999999999: what is a half but for the last bit is one.
    near = ((scaled.abs() - scaled.abs().floor()) - 0.5).abs() < 1e-9 * pl.max_horizontal(
        scaled.abs(), pl.lit(1.0)
    ) * 1e-3
    size = pl.when(near).then(scaled.abs().floor() + 1).otherwise(up) / factor
    signed = pl.when(value < 0).then(-size).otherwise(size)
    return pl.when(value.is_finite()).then(signed).otherwise(value)


def _round(arguments: Arguments) -> Column:
    scale = arguments.constant_long(1, 0)
    of, (value,) = numbers((arguments[0],))
    if of is Type.LONG:
        if scale >= 0:
            return Column(value, of)
        return Column(rounded(value.cast(pl.Float64), scale).cast(pl.Int64), of)
    return Column(rounded(value, scale), of)


def _double(make: Callable[[pl.Expr], pl.Expr], arguments: Arguments) -> Column:
    return Column(make(arguments.double(0)), Type.DOUBLE)


def _two_doubles(make: Callable[[pl.Expr, pl.Expr], pl.Expr], arguments: Arguments) -> Column:
    return Column(make(arguments.double(0), arguments.double(1)), Type.DOUBLE)


def _same(make: Callable[[pl.Expr], pl.Expr], arguments: Arguments) -> Column:
    of, (value,) = numbers((arguments[0],))
    return Column(make(value), of)


def _two_longs(make: Callable[[pl.Expr, pl.Expr], pl.Expr], arguments: Arguments) -> Column:
    return Column(make(arguments.long(0), arguments.long(1)), Type.LONG)


def _div(arguments: Arguments) -> Column:
    of, (a, b) = numbers(arguments.columns)
    if of is Type.LONG:
        return Column(divided(a, b), Type.LONG)
    return Column((a / b).cast(pl.Int64, strict=False), Type.LONG)


def _safe_divide(arguments: Arguments) -> Column:
    of, (a, b) = numbers(arguments.columns)
    if of is Type.LONG:
        return Column(divided(a, b), of)
    return Column(pl.when(b != 0).then(a / b), of)


def _remainder(arguments: Arguments) -> Column:
    return arithmetic("%", arguments[0], arguments[1])


def _extreme(arguments: Arguments, largest: bool) -> Column:
    """Of two numbers; null where one is."""
    of, (a, b) = numbers(arguments.columns)
    pick = pl.when(a >= b if largest else a <= b).then(a).otherwise(b)
    return Column(pl.when(a.is_not_null() & b.is_not_null()).then(pick), of)


def _among(arguments: Arguments, largest: bool) -> Column:
    """Of any number of values; nulls do not count."""
    take = pl.max_horizontal if largest else pl.min_horizontal
    known = tuple(c for c in arguments.columns if not _always_null(c))
    if not known:
        return literal(None)
    if all(c.type in NUMBERS for c in known):
        of, values = numbers(known)
        return Column(take(values), of)
    texts = [as_text(c) for c in known]
    joined = pl.concat_list(texts).list.drop_nulls()
    return Column(joined.list.max() if largest else joined.list.min(), Type.STRING)


_DOUBLES: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "acos": lambda x: x.arccos(),
    "asin": lambda x: x.arcsin(),
    "atan": lambda x: x.arctan(),
    "cbrt": lambda x: x.cbrt(),
    "cos": lambda x: x.cos(),
    "cosh": lambda x: x.cosh(),
    "cot": lambda x: x.cot(),
    "exp": lambda x: x.exp(),
    "expm1": lambda x: x.exp() - 1,
    "log": lambda x: x.log(),
    "log10": lambda x: x.log(10),
    "log1p": lambda x: x.log1p(),
    "rint": lambda x: x.round(0, mode="half_to_even"),
    "signum": lambda x: x.sign(),
    "sin": lambda x: x.sin(),
    "sinh": lambda x: x.sinh(),
    "sqrt": lambda x: x.sqrt(),
    "tan": lambda x: x.tan(),
    "tanh": lambda x: x.tanh(),
    "todegrees": lambda x: x.degrees(),
    "toradians": lambda x: x.radians(),
}

FUNCTIONS = {
    **{name: Function(1, 1, partial(_double, make)) for name, make in _DOUBLES.items()},
    "abs": Function(1, 1, partial(_same, lambda x: x.abs())),
    "ceil": Function(1, 1, partial(_same, lambda x: x.ceil())),
    "floor": Function(1, 1, partial(_same, lambda x: x.floor())),
    "round": Function(1, 2, _round),
    "div": Function(2, 2, _div),
    "safe_divide": Function(2, 2, _safe_divide),
    "remainder": Function(2, 2, _remainder),
    "atan2": Function(2, 2, partial(_two_doubles, lambda y, x: pl.arctan2(y, x))),
    "copysign": Function(2, 2, partial(_two_doubles, lambda a, b: pl.when(b < 0).then(-a.abs()).otherwise(a.abs()))),
    "hypot": Function(2, 2, partial(_two_doubles, lambda a, b: (a * a + b * b).sqrt())),
    "pow": Function(2, 2, partial(_two_doubles, lambda a, b: a.pow(b))),
    "max": Function(2, 2, partial(_extreme, largest=True)),
    "min": Function(2, 2, partial(_extreme, largest=False)),
    "greatest": Function(1, MANY, partial(_among, largest=True)),
    "least": Function(1, MANY, partial(_among, largest=False)),
    "pi": Function(0, 0, lambda _: literal(math.pi)),
    "bitwiseand": Function(2, 2, partial(_two_longs, lambda a, b: a & b)),
    "bitwiseor": Function(2, 2, partial(_two_longs, lambda a, b: a | b)),
    "bitwisexor": Function(2, 2, partial(_two_longs, lambda a, b: a ^ b)),
    "bitwisecomplement": Function(1, 1, lambda arguments: Column(~arguments.long(0), Type.LONG)),
}
