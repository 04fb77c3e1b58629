"""`having`: which rows of a groupBy's answer are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import polars as pl

from rta.druid import reading
from rta.druid.extraction import parse_extraction
from rta.druid.filters import Filter, In, matches, parse_filter
from rta.druid.problems import InvalidInputError, unsupported
from rta.druid.values import ARRAYS, NUMBERS, SKETCHES, Column, as_double, as_text

_NUMERIC: dict[str, Callable[[pl.Expr, float], pl.Expr]] = {
    "greaterThan": lambda column, value: column > value,
    "lessThan": lambda column, value: column < value,
    "equalTo": lambda column, value: column == value,
}


@dataclass(frozen=True, slots=True)
class Having:
    """A test of an answer's row, by its type."""

    type: str
    aggregation: str = ""
    value: float = 0.0
    filter: Filter | None = None
    parts: tuple[Having, ...] = ()


def parse_having(value: Any) -> Having | None:
    """Raises InvalidInputError, UnsupportedError."""
    if value is None:
        return None
    doc = reading.document(value, "'having'")
    kind = reading.kind(doc, "'having'")
    what = f"the having '{kind}'"
    if kind in _NUMERIC:
        return Having(kind, reading.text(doc, "aggregation", what), reading.number(doc, "value", what))
    match kind:
        case "and" | "or":
            parts = tuple(parse_having(p) for p in reading.items(doc, "havingSpecs", what))
            return Having(kind, parts=tuple(p for p in parts if p is not None))
        case "not":
            inner = parse_having(reading.document(doc.get("havingSpec"), f"'havingSpec' of {what}"))
            assert inner is not None
            return Having(kind, parts=(inner,))
        case "dimSelector":
            value = reading.scalar_text(doc.get("value"), f"'value' of {what}")
            extraction = parse_extraction(doc.get("extractionFn"))
            return Having("filter", filter=In(reading.text(doc, "dimension", what), (value,), extraction))
        case "filter":
            return Having(kind, filter=parse_filter(reading.document(doc.get("filter"), f"'filter' of {what}")))
        case "always" | "never":
            return Having(kind)
        case _:
            raise unsupported("the having", kind)


def keeps(having: Having, resolve: Callable[[str], Column]) -> pl.Expr:
    """True for the rows that are kept, never null."""
    match having.type:
        case "always" | "never":
            return pl.lit(value=having.type == "always")
        case "and":
            return reduce(lambda a, b: a & b, [keeps(p, resolve) for p in having.parts], pl.lit(value=True))
        case "or":
            return reduce(lambda a, b: a | b, [keeps(p, resolve) for p in having.parts], pl.lit(value=False))
        case "not":
            return ~keeps(having.parts[0], resolve)
        case "filter":
            assert having.filter is not None
            return matches(having.filter, resolve).fill_null(value=False)
        case _:
            column = resolve(having.aggregation)
            if column.type in SKETCHES or column.type in ARRAYS:
                raise InvalidInputError(f"'having' compares '{having.aggregation}', which is {column.type}")
            number = as_double(column) if column.type in NUMBERS else as_text(column).cast(pl.Float64, strict=False)
            return _NUMERIC[having.type](number, having.value).fill_null(value=False)
