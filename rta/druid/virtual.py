"""Virtual columns: columns that a query makes of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from rta.druid import reading
from rta.druid.dimensions import Only
from rta.druid.expressions.compiler import expression, identifiers
from rta.druid.patterns import regex
from rta.druid.problems import InvalidInputError, unsupported
from rta.druid.values import Column, Type, as_text, cast, parse_type

Resolve = Callable[[str], Column]


@dataclass(frozen=True, slots=True)
class VirtualColumn:
    """An expression; or the values of another column that are kept; or what is at a path of JSON."""

    name: str
    expression: str | None = None
    type: Type | None = None
    delegate: str = ""
    only: Only | None = None
    path: tuple[str, ...] = ()

    @property
    def reads(self) -> set[str]:
        return {self.delegate} if self.expression is None else identifiers(self.expression)


def parse_virtual(value: Any) -> VirtualColumn:
    """Raises InvalidInputError, UnsupportedError."""
    doc = reading.document(value, "a virtual column")
    kind = reading.kind(doc, "a virtual column")
    what = f"the virtual column '{kind}'"
    if kind == "nested-field":
        return _nested(doc, what)
    name = reading.text(doc, "name", what)
    of = None if doc.get("outputType") is None else parse_type(reading.text(doc, "outputType", what))
    match kind:
        case "expression":
            text = reading.text(doc, "expression", what)
            identifiers(text)
            return VirtualColumn(name, text, of)
        case "mv-filtered" | "list-filtered":
            delegate = _delegate(doc, what)
            values = tuple(reading.scalar_text(v, f"a value of {what}") for v in reading.items(doc, "values", what))
            return VirtualColumn(
                name, delegate=delegate, only=Only(values, reading.flag(doc, "isAllowList", what, True))
            )
        case "prefix-filtered":
            only = Only(prefix=reading.text(doc, "prefix", what))
            return VirtualColumn(name, delegate=_delegate(doc, what), only=only)
        case "regex-filtered":
            only = Only(pattern=regex(reading.text(doc, "pattern", what)))
            return VirtualColumn(name, delegate=_delegate(doc, what), only=only)
        case _:
            raise unsupported("the virtual column", kind)


def _delegate(doc: reading.Document, what: str) -> str:
    found = doc.get("delegate")
    return reading.text(found if isinstance(found, dict) else {"dimension": found}, "dimension", what)


def _nested(doc: reading.Document, what: str) -> VirtualColumn:
    path = reading.text(doc, "path", what)
    if not path.startswith("$.") or any(c in path for c in "[]*"):
        raise unsupported("the path", path, "$.a.b")
    keys = tuple(key.strip("'\"") for key in path[2:].split("."))
    expected = reading.text_or(doc, "expectedType", "STRING", what)
    name, column = reading.text(doc, "outputName", what), reading.text(doc, "columnName", what)
    return VirtualColumn(name, type=parse_type(expected), delegate=column, path=keys)


def virtual_column(spec: VirtualColumn, resolve: Resolve) -> Column:
    """The column's values."""
    if spec.expression is not None:
        found = expression(spec.expression, resolve)
        if spec.type is None or (found.multi and spec.type is Type.STRING):
            return found
        return cast(found, spec.type)
    column = resolve(spec.delegate)
    if spec.path:
        return _at(column, spec)
    assert spec.only is not None
    if column.multi:
        kept = column.expr.list.eval(pl.element().filter(spec.only.hit(pl.element())))
        return Column(kept, Type.STRING, multi=True)
    text = as_text(column)
    return Column(pl.when(spec.only.hit(text)).then(text), Type.STRING)


def _at(column: Column, spec: VirtualColumn) -> Column:
    if column.missing:
        return column
    if column.type not in (Type.JSON, Type.STRING):
        raise InvalidInputError(f"'{spec.delegate}' of the virtual column '{spec.name}' is {column.type}, not JSON")

    def read(texts: pl.Series) -> pl.Series:
        from rta.query.paths import values_at

        return values_at(texts, spec.path)[0]

    found = Column(column.expr.map_batches(read, return_dtype=pl.String, is_elementwise=True), Type.STRING)
    return cast(found, spec.type or Type.STRING)


def resolver(table: Resolve, virtual: tuple[VirtualColumn, ...]) -> Resolve:
    """Finds a name among the virtual columns, then in the table. A virtual column may look at others."""
    specs = {v.name: v for v in virtual}
    known: dict[str, Column] = {}

    def resolve(name: str, under: tuple[str, ...] = ()) -> Column:
        if name in known:
            return known[name]
        spec = specs.get(name)
        if spec is None or (under and name == under[-1]):
            return table(name)
        if name in under:
            raise InvalidInputError(f"the virtual column '{name}' is made of itself")
        found = virtual_column(spec, lambda inner: resolve(inner, (*under, name)))
        if not under:
            known[name] = found
        return found

    return resolve
