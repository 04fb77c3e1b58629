"""Druid's value types, columns of a type as polars expressions, and how Druid turns one type into another.

A column of strings may hold several values per row (`multi`): its expression is then a list. Truth values are longs, 1
and 0, times are longs, milliseconds. What comes out of a sketch aggregator is binary: the sketch's bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import polars as pl

from rta.druid.problems import InvalidInputError, unsupported

LONG_MAX = 2**63 - 1


class Type(StrEnum):
    """The names are Druid's type signatures."""

    STRING = "STRING"
    LONG = "LONG"
    FLOAT = "FLOAT"
    DOUBLE = "DOUBLE"
    STRINGS = "ARRAY<STRING>"
    LONGS = "ARRAY<LONG>"
    DOUBLES = "ARRAY<DOUBLE>"
    JSON = "COMPLEX<json>"
    HLL = "COMPLEX<HLLSketch>"
    THETA = "COMPLEX<thetaSketch>"
    QUANTILES = "COMPLEX<quantilesDoublesSketch>"
    HYPER_UNIQUE = "COMPLEX<hyperUnique>"


NUMBERS = frozenset({Type.LONG, Type.FLOAT, Type.DOUBLE})
ARRAYS = {Type.STRINGS: Type.STRING, Type.LONGS: Type.LONG, Type.DOUBLES: Type.DOUBLE}
ARRAY_OF = {Type.STRING: Type.STRINGS, Type.LONG: Type.LONGS, Type.DOUBLE: Type.DOUBLES, Type.FLOAT: Type.DOUBLES}
SKETCHES = frozenset({Type.HLL, Type.THETA, Type.QUANTILES, Type.HYPER_UNIQUE})
POLARS: dict[Type, Any] = {
    Type.STRING: pl.String(),
    Type.LONG: pl.Int64(),
    Type.FLOAT: pl.Float32(),
    Type.DOUBLE: pl.Float64(),
    Type.STRINGS: pl.List(pl.String),
    Type.LONGS: pl.List(pl.Int64),
    Type.DOUBLES: pl.List(pl.Float64),
    Type.JSON: pl.String(),
    **dict.fromkeys(SKETCHES, pl.Binary()),
}


@dataclass(frozen=True, slots=True)
class Column:
    """Values of a type.

    Args:
        multi: Each row holds a list of strings.
        missing: There is no such column; every value is null.
        constant: The expression is a literal; `value` is what it holds.
        items: Of a sketch column of a rollup: the plain items of rows that have no sketch yet, as lists.
    """

    expr: pl.Expr
    type: Type
    multi: bool = False
    missing: bool = False
    constant: bool = False
    value: Any = None
    items: pl.Expr | None = None


MISSING = Column(pl.lit(None, pl.String), Type.STRING, missing=True)


def parse_type(name: str) -> Type:
    """A type as queries name it. Raises UnsupportedError."""
    upper = name.upper()
    found = {"STRING": Type.STRING, "LONG": Type.LONG, "FLOAT": Type.FLOAT, "DOUBLE": Type.DOUBLE}.get(upper)
    arrays = {"STRING_ARRAY": Type.STRINGS, "LONG_ARRAY": Type.LONGS, "DOUBLE_ARRAY": Type.DOUBLES}
    found = found or arrays.get(upper) or next((t for t in Type if t.value.upper() == upper), None)
    if found is None:
        raise unsupported("the type", name, "STRING, LONG, FLOAT, DOUBLE and arrays of them")
    return found


def literal(value: Any) -> Column:
    """A constant column."""
    if value is None:
        return Column(pl.lit(None, pl.String), Type.STRING, constant=True)
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, int):
        if not -LONG_MAX - 1 <= value <= LONG_MAX:
            raise InvalidInputError(f"the number {value} does not fit into a long", "write it as a double")
        return Column(pl.lit(value, pl.Int64), Type.LONG, constant=True, value=value)
    if isinstance(value, float):
        return Column(pl.lit(value, pl.Float64), Type.DOUBLE, constant=True, value=value)
    if isinstance(value, list):
        of = _element_type(value)
        return Column(pl.lit(pl.Series([value], dtype=POLARS[of])).first(), of, constant=True, value=value)
    return Column(pl.lit(str(value), pl.String), Type.STRING, constant=True, value=str(value))


def _element_type(values: list[Any]) -> Type:
    there = [v for v in values if v is not None]
    if there and all(isinstance(v, int) for v in there):
        return Type.LONGS
    if there and all(isinstance(v, int | float) for v in there):
        return Type.DOUBLES
    return Type.STRINGS


def as_text(column: Column) -> pl.Expr:
    """Strings, of lists lists of them."""
    if column.type is Type.STRING or column.type is Type.JSON or column.type is Type.STRINGS:
        return column.expr
    if column.type in (Type.LONGS, Type.DOUBLES):
        of = ARRAYS[column.type]
        return column.expr.list.eval(_number_text(pl.element(), of))
    if column.type in SKETCHES:
        return column.expr.bin.encode("base64")
    return _number_text(column.expr, column.type)


def _number_text(expr: pl.Expr, of: Type) -> pl.Expr:
    if of is Type.LONG:
        return expr.cast(pl.String)
    plain = (expr.abs() >= 1e-3) & (expr.abs() < 1e7) | (expr == 0)
    return (
        pl.when(plain)
        .then(expr.cast(pl.String))
        .otherwise(expr.map_batches(_scientific, return_dtype=pl.String, is_elementwise=True))
    )


def _scientific(numbers: pl.Series) -> pl.Series:
    """What needs an exponent in Java's notation; the rest stays null, for `_number_text` writes it."""
    wanted = ~((numbers.abs() >= 1e-3) & (numbers.abs() < 1e7) | (numbers == 0))
    distinct = numbers.filter(wanted.fill_null(value=False)).unique()
    names = pl.DataFrame(
        {"n": distinct, "t": [java_text(v, numbers.dtype) for v in distinct]}, schema_overrides={"t": pl.String}
    )
    return numbers.to_frame("n").join(names, on="n", how="left", maintain_order="left").get_column("t")


def java_text(value: float, dtype: Any = pl.Float64) -> str:
    """A double as Java writes it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    size = abs(value)
    if size == 0 or 1e-3 <= size < 1e7:
        return repr(float(value))
    text = repr(float(value)) if dtype == pl.Float64 else str(pl.Series([value], dtype=pl.Float32).cast(pl.String)[0])
    mantissa, _, exponent = f"{float(text):.17e}".partition("e")
    digits = repr(float(text)).replace(".", "").replace("-", "").partition("e")[0].strip("0") or "0"
    sign = "-" if mantissa.startswith("-") else ""
    return f"{sign}{digits[0]}.{digits[1:] or '0'}E{int(exponent)}"


def as_long(column: Column) -> pl.Expr:
    """Whole numbers; of doubles truncated, of texts what they can be read as, else null."""
    match column.type:
        case Type.LONG:
            return column.expr
        case Type.FLOAT | Type.DOUBLE:
            return truncated(column.expr)
        case Type.STRING | Type.JSON:
            whole = column.expr.cast(pl.Int64, strict=False)
            return whole.fill_null(truncated(column.expr.cast(pl.Float64, strict=False)))
        case _:
            raise InvalidInputError(f"a value of type {column.type} can't be read as a number")


def truncated(expr: pl.Expr) -> pl.Expr:
    """Doubles as longs, the way Java casts: towards zero, NaN is 0, and what is too large stays at the bounds."""
    bounded = expr.cast(pl.Float64).clip(-(2.0**63), 2.0**63)
    whole = bounded.cast(pl.Int64, strict=False)
    edge = pl.when(bounded.is_nan()).then(pl.lit(0, pl.Int64)).when(bounded > 0).then(pl.lit(LONG_MAX, pl.Int64))
    return pl.when(expr.is_null()).then(None).otherwise(whole.fill_null(edge))


def as_double(column: Column) -> pl.Expr:
    """Doubles; of texts what they can be read as, else null."""
    match column.type:
        case Type.DOUBLE:
            return column.expr
        case Type.LONG | Type.FLOAT:
            return column.expr.cast(pl.Float64)
        case Type.STRING | Type.JSON:
            return column.expr.cast(pl.Float64, strict=False)
        case _:
            raise InvalidInputError(f"a value of type {column.type} can't be read as a number")


def as_truth(column: Column) -> pl.Expr:
    """Truth values, null where the value is."""
    if column.type is Type.STRING:
        return column.expr.str.to_lowercase() == "true"
    if column.type is Type.LONG:
        return column.expr != 0
    if column.type in NUMBERS:
        return column.expr > 0
    raise InvalidInputError(f"a value of type {column.type} is neither true nor false")


def from_truth(expr: pl.Expr) -> Column:
    return Column(expr.cast(pl.Int64), Type.LONG)


def cast(column: Column, to: Type) -> Column:
    """The column in another type, as Druid's `cast` and output types do it."""
    if column.type is to and not column.multi:
        return column
    if column.missing:
        return Column(pl.lit(None, POLARS[to]), to, missing=True)
    if column.multi or column.type in ARRAYS:
        return _cast_list(column, to)
    match to:
        case Type.STRING:
            return Column(as_text(column), to)
        case Type.LONG:
            return Column(as_long(column), to)
        case Type.DOUBLE:
            return Column(as_double(column), to)
        case Type.FLOAT:
            return Column(as_double(column).cast(pl.Float32), to)
        case Type.STRINGS | Type.LONGS | Type.DOUBLES:
            one = cast(column, ARRAYS[to]).expr
            return Column(pl.when(one.is_not_null()).then(pl.concat_list(one)), to)
        case _:
            raise InvalidInputError(f"a value of type {column.type} can't become {to}")


def _cast_list(column: Column, to: Type) -> Column:
    inner = Type.STRING if column.multi else ARRAYS[column.type]
    if to is Type.STRING:
        return Column(as_text(column), Type.STRING, multi=True)
    if to in ARRAYS:
        element = cast(Column(pl.element(), inner), ARRAYS[to]).expr
        return Column(column.expr.list.eval(element), to)
    if to in NUMBERS:
        one = cast(Column(pl.element(), inner), to).expr
        found = column.expr.list.eval(one)
        return Column(pl.when(column.expr.list.len() == 1).then(found.list.first()), to)
    raise InvalidInputError(f"a value of type {column.type} can't become {to}")
