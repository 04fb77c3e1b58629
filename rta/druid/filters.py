"""Filters: which rows a query is about. `parse_filter` reads them, `matches` makes them truth values over columns.

Three truths as in SQL: what is compared with null is neither true nor false, `not` leaves it so, and only rows for which
the whole filter is true are taken. A column with several values matches if one of them does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, assert_never

import polars as pl

from rta.druid import reading
from rta.druid.dimensions import DimensionSpec, dimension_column, parse_dimension
from rta.druid.expressions.compiler import expression, identifiers
from rta.druid.extraction import Extraction, extract, parse_extraction
from rta.druid.ordering import Ordering, below, parse_ordering
from rta.druid.patterns import like, regex
from rta.druid.periods import Interval, parse_intervals
from rta.druid.problems import unsupported
from rta.druid.searching import SearchSpec, found, parse_search
from rta.druid.values import (
    ARRAYS,
    NUMBERS,
    Column,
    Type,
    as_double,
    as_long,
    as_text,
    as_truth,
    cast,
    literal,
    parse_type,
)

Resolve = Callable[[str], Column]


@dataclass(frozen=True, slots=True)
class In:
    """Also a selector: of one value. None among the values matches null."""

    dimension: str
    values: tuple[str | None, ...]
    extraction: Extraction | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    dimension: str
    lower: str | None
    upper: str | None
    lower_strict: bool
    upper_strict: bool
    ordering: Ordering
    extraction: Extraction | None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """`like` and `regex`, as a regular expression."""

    dimension: str
    pattern: str
    extraction: Extraction | None = None


@dataclass(frozen=True, slots=True)
class Search:
    dimension: str
    search: SearchSpec
    extraction: Extraction | None = None


@dataclass(frozen=True, slots=True)
class During:
    """A time in one of the intervals."""

    dimension: str
    intervals: tuple[Interval, ...]
    extraction: Extraction | None = None


@dataclass(frozen=True, slots=True)
class Equals:
    """`equals` and `inType`: values of a type; null never matches."""

    column: str
    type: Type
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Range:
    column: str
    type: Type
    lower: Any
    upper: Any
    lower_open: bool
    upper_open: bool


@dataclass(frozen=True, slots=True)
class IsNull:
    column: str


@dataclass(frozen=True, slots=True)
class Contains:
    """An element of an array."""

    column: str
    type: Type
    value: Any


@dataclass(frozen=True, slots=True)
class SameValues:
    dimensions: tuple[DimensionSpec, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    text: str


@dataclass(frozen=True, slots=True)
class Always:
    value: bool


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Filter


Filter = (
    In
    | Bound
    | Pattern
    | Search
    | During
    | Equals
    | Range
    | IsNull
    | Contains
    | SameValues
    | Truth
    | Always
    | And
    | Or
    | Not
)


def parse_filter(value: Any) -> Filter | None:
    """Raises InvalidInputError, UnsupportedError."""
    if value is None:
        return None
    doc = reading.document(value, "the filter")
    kind = reading.kind(doc, "the filter")
    what = f"the filter '{kind}'"
    match kind.lower():
        case "and" | "or":
            parts = tuple(_needed(part) for part in reading.items(doc, "fields", what))
            return And(parts) if kind.lower() == "and" else Or(parts)
        case "not":
            return Not(_needed(doc.get("field")))
        case "true" | "false":
            return Always(kind.lower() == "true")
        case "expression":
            text = reading.text(doc, "expression", what)
            identifiers(text)
            return Truth(text)
        case "columncomparison":
            return SameValues(tuple(parse_dimension(d) for d in reading.items(doc, "dimensions", what)))
        case "equals" | "null" | "intype" | "range" | "arraycontainselement":
            return _typed(doc, kind.lower(), what)
        case _:
            return _of_dimension(doc, kind.lower(), what)


def _needed(value: Any) -> Filter:
    found_filter = parse_filter(reading.document(value, "a part of the filter"))
    assert found_filter is not None
    return found_filter


def _typed(doc: reading.Document, kind: str, what: str) -> Filter:
    column = reading.text(doc, "column", what)
    if kind == "null":
        return IsNull(column)
    if kind == "arraycontainselement":
        return Contains(
            column, parse_type(reading.text(doc, "elementMatchValueType", what)), doc.get("elementMatchValue")
        )
    of = parse_type(reading.text(doc, "matchValueType", what))
    if kind == "equals":
        if doc.get("matchValue") is None:
            reading.text(doc, "matchValue", what)
        return Equals(column, of, (doc["matchValue"],))
    if kind == "intype":
        return Equals(column, of, tuple(reading.items(doc, "sortedValues", what) or reading.items(doc, "values", what)))
    if doc.get("lower") is None and doc.get("upper") is None:
        reading.text(doc, "lower", what)
    lower_open, upper_open = reading.flag(doc, "lowerOpen", what), reading.flag(doc, "upperOpen", what)
    return Range(column, of, doc.get("lower"), doc.get("upper"), lower_open, upper_open)


def _of_dimension(doc: reading.Document, kind: str, what: str) -> Filter:
    if kind not in ("selector", "in", "bound", "like", "regex", "search", "interval", "extraction"):
        raise unsupported("the filter", doc["type"])
    dimension = reading.text(doc, "dimension", what)
    extraction = parse_extraction(doc.get("extractionFn"))
    match kind:
        case "selector" | "extraction":
            return In(dimension, (reading.scalar_text(doc.get("value"), f"'value' of {what}"),), extraction)
        case "in":
            values = [reading.scalar_text(v, f"a value of {what}") for v in reading.items(doc, "values", what)]
            return In(dimension, tuple(dict.fromkeys(values)), extraction)
        case "bound":
            return _bound(doc, dimension, extraction)
        case "like":
            escape = doc.get("escape")
            pattern = like(reading.text(doc, "pattern", what), None if escape is None else str(escape))
            return Pattern(dimension, pattern, extraction)
        case "regex":
            return Pattern(dimension, regex(reading.text(doc, "pattern", what)), extraction)
        case "search":
            return Search(dimension, parse_search(doc.get("query")), extraction)
        case _:
            return During(dimension, parse_intervals(doc.get("intervals")), extraction)


def _bound(doc: reading.Document, dimension: str, extraction: Extraction | None) -> Bound:
    what = "the filter 'bound'"
    alphanumeric = reading.flag(doc, "alphaNumeric", what)
    default = Ordering.ALPHANUMERIC if alphanumeric else Ordering.LEXICOGRAPHIC
    return Bound(
        dimension,
        reading.scalar_text(doc.get("lower"), f"'lower' of {what}"),
        reading.scalar_text(doc.get("upper"), f"'upper' of {what}"),
        reading.flag(doc, "lowerStrict", what),
        reading.flag(doc, "upperStrict", what),
        parse_ordering(doc.get("ordering"), default),
        extraction,
    )


def columns_of(condition: Filter | None) -> Iterator[str]:
    """The columns that a filter looks at."""
    match condition:
        case None | Always():
            return
        case And(parts) | Or(parts):
            for part in parts:
                yield from columns_of(part)
        case Not(part):
            yield from columns_of(part)
        case Truth(text):
            yield from identifiers(text)
        case SameValues(dimensions):
            yield from (d.dimension for d in dimensions)
        case Equals() | Range() | IsNull() | Contains():
            yield condition.column
        case _:
            yield condition.dimension


def matches(condition: Filter, resolve: Resolve) -> pl.Expr:
    """True, false or null per row."""
    match condition:
        case And(parts):
            return reduce(lambda a, b: a & b, [matches(p, resolve) for p in parts], pl.lit(value=True))
        case Or(parts):
            return reduce(lambda a, b: a | b, [matches(p, resolve) for p in parts], pl.lit(value=False))
        case Not(part):
            return ~matches(part, resolve)
        case Always(value):
            return pl.lit(value=value)
        case Truth(text):
            return _truth(expression(text, resolve))
        case SameValues(dimensions):
            return _same_values([dimension_column(d, resolve) for d in dimensions])
        case Equals(column, of, values):
            return _equals(resolve(column), of, values)
        case Range():
            return _in_range(resolve(condition.column), condition)
        case IsNull(column):
            return _is_null(resolve(column))
        case Contains(column, of, value):
            return _contains(resolve(column), of, value)
        case _:
            column_found = resolve(condition.dimension)
            if condition.extraction is not None:
                column_found = extract(condition.extraction, column_found)
            return _dimension_matches(condition, column_found)


def _truth(column: Column) -> pl.Expr:
    if column.multi or column.type in ARRAYS:
        inner = Type.STRING if column.multi else ARRAYS[column.type]
        return column.expr.list.eval(as_truth(Column(pl.element(), inner)).fill_null(value=False)).list.any()
    return as_truth(column)


def _dimension_matches(condition: In | Bound | Pattern | Search | During, column: Column) -> pl.Expr:
    match condition:
        case In(_, values):
            wanted = [v for v in values if v is not None]
            return _each(column, lambda c: _is_in(c, wanted), null=None in values)
        case Bound():
            null = condition.lower is None and (condition.upper is not None)
            return _each(column, lambda c: _within(c, condition), null=null)
        case Pattern(_, pattern):
            return _each(column, lambda c: as_text(c).str.contains(pattern), null=False)
        case Search(_, search):
            return _each(column, lambda c: found(search, as_text(c)), null=False)
        case During(_, intervals):
            return _each(column, lambda c: _during(as_long(c), intervals), null=False)
        case _:
            assert_never(condition)


def _each(column: Column, test: Callable[[Column], pl.Expr], null: bool) -> pl.Expr:
    """The test of each value; `null` says whether null matches, else it is unknown."""
    if not (column.multi or column.type in ARRAYS):
        there = column.expr.is_not_null()
        return ~there | test(column) if null else pl.when(there).then(test(column))
    inner = Type.STRING if column.multi else ARRAYS[column.type]
    there = pl.element().is_not_null()
    one = pl.when(there).then(test(Column(pl.element(), inner))).otherwise(pl.lit(value=null))
    hit = column.expr.list.eval(one).list.any()
    empty = column.expr.is_null() | (column.expr.list.len() == 0)
    if null:
        return pl.when(empty).then(pl.lit(value=True)).otherwise(hit)
    unknown = empty | (~hit & column.expr.list.eval(pl.element().is_null()).list.any())
    return pl.when(~unknown).then(hit)


def _is_in(column: Column, values: list[str]) -> pl.Expr:
    if column.type in NUMBERS:
        numbers = [n for n in (_number(v, column.type) for v in values) if n is not None]
        expr = column.expr if column.type is Type.LONG else as_double(column)
        return expr.is_in(numbers) if numbers else pl.lit(value=False)
    text = as_text(column)
    return text == values[0] if len(values) == 1 else text.is_in(values) if values else pl.lit(value=False)


def _number(text: str, of: Type) -> int | float | None:
    """The number that a text stands for in a column of numbers; None where there is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    if of is not Type.LONG:
        return value
    try:
        return int(text)
    except ValueError:
        return int(value) if value.is_integer() else None


def _within(column: Column, bound: Bound) -> pl.Expr:
    parts = []
    if bound.lower is not None:
        parts.append(~below(column, bound.lower, bound.ordering, inclusive=bound.lower_strict))
    if bound.upper is not None:
        parts.append(below(column, bound.upper, bound.ordering, inclusive=not bound.upper_strict))
    return reduce(lambda a, b: a & b, parts) if parts else pl.when(column.expr.is_not_null()).then(pl.lit(value=True))


def _during(instants: pl.Expr, intervals: tuple[Interval, ...]) -> pl.Expr:
    parts = [(instants >= start) & (instants < end) for start, end in intervals]
    return reduce(lambda a, b: a | b, parts, pl.lit(value=False))


def _equals(column: Column, of: Type, values: tuple[Any, ...]) -> pl.Expr:
    if of in ARRAYS:
        wanted = cast(literal(list(values[0])), of)
        return cast(column, of).expr == wanted.expr
    known = [v for v in values if v is not None]
    if (of in NUMBERS and column.type in (Type.STRING, *ARRAYS)) or column.multi:
        return _each(column, lambda c: _is_in(c, [str(reading.scalar_text(v, "a value")) for v in known]), null=False)
    if of is Type.STRING or column.type is Type.STRING:
        return _each(column, lambda c: _is_in(c, [str(reading.scalar_text(v, "a value")) for v in known]), null=False)
    numbers = [reading.as_number(v, "the filter's value") for v in known]
    return _each(column, lambda c: _is_in(c, [repr(n) for n in numbers]), null=False)


def _in_range(column: Column, spec: Range) -> pl.Expr:
    ordering = Ordering.NUMERIC if spec.type in NUMBERS else Ordering.LEXICOGRAPHIC
    if column.type in NUMBERS:
        ordering = Ordering.NUMERIC
    lower = reading.scalar_text(spec.lower, "'lower' of the filter 'range'")
    upper = reading.scalar_text(spec.upper, "'upper' of the filter 'range'")
    bound = Bound(spec.column, lower, upper, spec.lower_open, spec.upper_open, ordering)

    def test(one: Column) -> pl.Expr:
        hit = _within(one, bound)
        if spec.type in NUMBERS and one.type is Type.STRING:
            return hit & one.expr.cast(pl.Float64, strict=False).is_not_null()
        return hit

    return _each(column, test, null=False)


def _is_null(column: Column) -> pl.Expr:
    if column.multi:
        return column.expr.is_null() | (column.expr.list.len() == 0)
    return column.expr.is_null()


def _contains(column: Column, of: Type, value: Any) -> pl.Expr:
    if not (column.multi or column.type in ARRAYS):
        return _equals(column, of, (value,))
    if value is None:
        return column.expr.list.eval(pl.element().is_null()).list.any()
    text = reading.scalar_text(value, "the filter's value")
    return _each(column, lambda c: _is_in(c, [str(text)]), null=False)


def _same_values(columns: list[Column]) -> pl.Expr:
    """All of them hold the same text, or, where there are several values, share one; null is equal to null."""
    parts = []
    for other in columns[1:]:
        first = columns[0]
        if first.multi or other.multi:
            both = _as_list(first).list.set_intersection(_as_list(other))
            parts.append(both.list.len() > 0)
        elif first.type in NUMBERS and other.type in NUMBERS:
            parts.append(as_double(first).eq_missing(as_double(other)))
        else:
            parts.append(as_text(first).eq_missing(as_text(other)))
    return reduce(lambda a, b: a & b, parts, pl.lit(value=True))


def _as_list(column: Column) -> pl.Expr:
    if not column.multi:
        return pl.concat_list(as_text(column))
    empty = column.expr.is_null() | (column.expr.list.len() == 0)
    return pl.when(empty).then(pl.concat_list(pl.lit(None, pl.String))).otherwise(column.expr)
