"""Columns of an inline data source: the values that a query's JSON brings along, in the type it names or that they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from rta.druid import reading
from rta.druid.problems import InvalidInputError
from rta.druid.values import ARRAYS, POLARS, Type, parse_type


def inline_column(name: str, values: Sequence[Any], of: str | None) -> tuple[pl.Series, Type]:
    """The values as a series, and their type. Raises InvalidInputError for a value that does not fit."""
    kind = parse_type(of) if of else _guessed(values)
    try:
        return pl.Series(name, [_fitted(v, kind) for v in values], POLARS[kind]), kind
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInputError(f"the inline column '{name}' holds a value that is no {kind}: {error}") from error


def _guessed(values: Sequence[Any]) -> Type:
    there = [v for v in values if v is not None]
    if there and all(isinstance(v, int) and not isinstance(v, bool) for v in there):
        return Type.LONG
    if there and all(isinstance(v, int | float) and not isinstance(v, bool) for v in there):
        return Type.DOUBLE
    return Type.STRINGS if any(isinstance(v, list) for v in there) else Type.STRING


def _fitted(value: Any, kind: Type) -> Any:
    if value is None:
        return None
    if kind in ARRAYS:
        return [_fitted(v, ARRAYS[kind]) for v in (value if isinstance(value, list) else [value])]
    if kind is Type.STRING:
        return reading.scalar_text(value, "a value")
    if kind is Type.LONG:
        return int(float(value)) if isinstance(value, str) and not value.lstrip("-").isdigit() else int(value)
    return float(value)
