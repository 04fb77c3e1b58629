"""Dimension specs: what a query groups by, under which name, in which form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from rta.druid import reading
from rta.druid.extraction import Extraction, extract, parse_extraction
from rta.druid.patterns import regex
from rta.druid.problems import unsupported
from rta.druid.values import ARRAYS, Column, Type, as_text, cast, parse_type

Resolve = Callable[[str], Column]


@dataclass(frozen=True, slots=True)
class Only:
    """Which values of a dimension are kept: those of a list, or not of it, or that match or begin with a text."""

    values: tuple[str | None, ...] | None = None
    allowed: bool = True
    pattern: str | None = None
    prefix: str | None = None

    def hit(self, text: pl.Expr) -> pl.Expr:
        if self.pattern is not None:
            return text.str.contains(self.pattern).fill_null(value=False)
        if self.prefix is not None:
            return text.str.starts_with(self.prefix).fill_null(value=False)
        values = self.values or ()
        known = text.is_in([v for v in values if v is not None]).fill_null(value=None in values)
        return known if self.allowed else ~known


@dataclass(frozen=True, slots=True)
class DimensionSpec:
    """A dimension of the answer. `only` are the filters of its values, the innermost first."""

    dimension: str
    name: str
    type: Type = Type.STRING
    extraction: Extraction | None = None
    only: tuple[Only, ...] = ()

    @property
    def plain(self) -> bool:
        return self.extraction is None and not self.only


def parse_dimension(value: Any) -> DimensionSpec:
    """Raises InvalidInputError, UnsupportedError."""
    if isinstance(value, str):
        return DimensionSpec(value, value)
    doc = reading.document(value, "the dimension")
    kind = reading.text_or(doc, "type", "default", "the dimension")
    what = f"the dimension '{kind}'"
    if kind in ("listFiltered", "regexFiltered", "prefixFiltered"):
        inner = parse_dimension(doc.get("delegate"))
        only = (*inner.only, _only(doc, kind, what))
        return DimensionSpec(inner.dimension, inner.name, inner.type, inner.extraction, only)
    dimension = reading.text(doc, "dimension", what)
    name = reading.text_or(doc, "outputName", dimension, what)
    match kind:
        case "default":
            of = parse_type(reading.text_or(doc, "outputType", "STRING", what))
            return DimensionSpec(dimension, name, of)
        case "extraction":
            of = parse_type(reading.text_or(doc, "outputType", "STRING", what))
            return DimensionSpec(dimension, name, of, parse_extraction(doc.get("extractionFn")))
        case "lookup":
            return DimensionSpec(dimension, name, Type.STRING, _lookup(doc))
        case _:
            raise unsupported("the dimension", kind)


def _only(doc: reading.Document, kind: str, what: str) -> Only:
    match kind:
        case "listFiltered":
            values = tuple(reading.scalar_text(v, f"a value of {what}") for v in reading.items(doc, "values", what))
            return Only(values, reading.flag(doc, "isWhitelist", what, default=True))
        case "regexFiltered":
            return Only(pattern=regex(reading.text(doc, "pattern", what)))
        case _:
            return Only(prefix=reading.text(doc, "prefix", what))


def _lookup(doc: reading.Document) -> Extraction | None:
    if doc.get("lookup") is None:
        raise unsupported("the lookup", doc.get("name"), "a map in the query itself")
    keys = ("lookup", "retainMissingValue", "replaceMissingValueWith")
    return parse_extraction({"type": "lookup", **{k: doc[k] for k in keys if k in doc}})


def dimension_column(spec: DimensionSpec, resolve: Resolve) -> Column:
    """The dimension's values in their output type, those that are not kept null, or left out of several."""
    column = resolve(spec.dimension)
    if spec.extraction is not None:
        column = extract(spec.extraction, column)
    for only in spec.only:
        column = _kept(only, column)
    if column.multi or (column.missing and spec.type is Type.STRING):
        return column
    if column.type in ARRAYS and spec.type is Type.STRING:
        return Column(as_text(column), Type.STRING, multi=True)
    return cast(column, spec.type)


def _kept(only: Only, column: Column) -> Column:
    if column.multi:
        return Column(column.expr.list.eval(pl.element().filter(only.hit(pl.element()))), Type.STRING, multi=True)
    text = as_text(column)
    return Column(pl.when(only.hit(text)).then(text), Type.STRING)


def dropped(spec: DimensionSpec, resolve: Resolve) -> pl.Expr | None:
    """Rows of which no value is kept: topN leaves them out, groupBy puts them in the null group."""
    if not spec.only:
        return None
    column = resolve(spec.dimension)
    if spec.extraction is not None:
        column = extract(spec.extraction, column)
    if column.multi:
        for only in spec.only:
            column = _kept(only, column)
        return column.expr.list.len().fill_null(0) == 0
    hits = [only.hit(as_text(column)) for only in spec.only]
    return ~pl.all_horizontal(hits)
