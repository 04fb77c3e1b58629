"""The orders that Druid puts texts in: `lexicographic`, `numeric`, `alphanumeric`, `strlen`, `version`, `natural`.

An order is a tuple of sort keys; nulls come first in each of them.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

import polars as pl

from rta.druid.problems import InvalidInputError
from rta.druid.values import NUMBERS, Column, Type, as_text


class Ordering(StrEnum):
    LEXICOGRAPHIC = "lexicographic"
    ALPHANUMERIC = "alphanumeric"
    NUMERIC = "numeric"
    STRLEN = "strlen"
    VERSION = "version"
    NATURAL = "natural"


_DIGITS = re.compile(r"(\d+)")


def parse_ordering(value: object, default: Ordering = Ordering.LEXICOGRAPHIC) -> Ordering:
    """An order by its name, or as `{"type": name}`."""
    if value is None:
        return default
    name = value.get("type") if isinstance(value, dict) else value
    try:
        return Ordering(str(name).lower())
    except ValueError:
        raise InvalidInputError(f"the ordering is '{str(name)[:64]}'", f"known are {', '.join(Ordering)}") from None


def sort_keys(column: Column, ordering: Ordering) -> list[pl.Expr]:
    """Expressions to sort by, the most important first."""
    if ordering is Ordering.NATURAL or (ordering is Ordering.NUMERIC and column.type in NUMBERS):
        return [column.expr]
    text = as_text(column)
    match ordering:
        case Ordering.LEXICOGRAPHIC:
            return [text]
        case Ordering.NUMERIC:
            number = text.cast(pl.Float64, strict=False)
            return [text.is_not_null(), number.is_not_null(), number, text]
        case Ordering.STRLEN:
            return [text.str.len_chars(), text]
        case _:
            return [keyed(text), text]


def keyed(text: pl.Expr) -> pl.Expr:
    """Texts whose plain order is the alphanumeric one: numbers in them count as numbers."""

    def keys(values: pl.Series) -> pl.Series:
        distinct = values.unique().drop_nulls()
        frame = pl.DataFrame(
            {"t": distinct, "k": [alphanumeric_key(t) for t in distinct]}, schema={"t": pl.String, "k": pl.String}
        )
        return values.to_frame("t").join(frame, on="t", how="left", maintain_order="left").get_column("k")

    return text.map_batches(keys, return_dtype=pl.String, is_elementwise=True)


@lru_cache(maxsize=4096)
def alphanumeric_key(text: str) -> str:
    parts = _DIGITS.split(text)
    return "".join(
        f"{len(part.lstrip('0')):05d}{part.lstrip('0')}" if at % 2 else part for at, part in enumerate(parts)
    )


def below(column: Column, bound: str, ordering: Ordering, inclusive: bool) -> pl.Expr:
    """Whether values are below (or at) a bound."""
    if column.type in NUMBERS and ordering in (Ordering.NUMERIC, Ordering.NATURAL):
        return _compare(
            column.expr.cast(pl.Float64) if column.type is not Type.LONG else column.expr, _number(bound), inclusive
        )
    text = as_text(column)
    match ordering:
        case Ordering.NUMERIC:
            number, limit = text.cast(pl.Float64, strict=False), _number(bound)
            if limit is None:
                return (
                    pl.when(number.is_not_null()).then(pl.lit(value=False)).otherwise(_compare(text, bound, inclusive))
                )
            # What is no number comes before all numbers.
            return pl.when(text.is_not_null()).then(_compare(number, limit, inclusive).fill_null(value=True))
        case Ordering.STRLEN:
            size = text.str.len_chars()
            return (size < len(bound)) | ((size == len(bound)) & _compare(text, bound, inclusive))
        case Ordering.ALPHANUMERIC | Ordering.VERSION:
            return _compare(keyed(text), alphanumeric_key(bound), inclusive)
        case _:
            return _compare(text, bound, inclusive)


def _compare(value: pl.Expr, limit: str | int | float | None, inclusive: bool) -> pl.Expr:
    if limit is None:
        return pl.when(value.is_not_null()).then(pl.lit(value=False))
    return value <= limit if inclusive else value < limit


def _number(text: str) -> int | float | None:
    try:
        return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else float(text)
    except ValueError:
        return None
