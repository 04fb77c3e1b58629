"""Post-aggregators: what is computed from the aggregates of each row of the answer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import polars as pl

from rta.druid import reading, sketches
from rta.druid.expressions.compiler import expression, identifiers
from rta.druid.problems import InvalidInputError, unsupported
from rta.druid.values import (
    MISSING,
    NUMBERS,
    POLARS,
    SKETCHES,
    Column,
    Type,
    as_double,
    as_long,
    cast,
    literal,
    parse_type,
)

_ARITHMETIC = ("+", "-", "*", "/", "pow", "quotient")
_EXTREMES = {
    "doubleGreatest": (Type.DOUBLE, True),
    "doubleLeast": (Type.DOUBLE, False),
    "longGreatest": (Type.LONG, True),
    "longLeast": (Type.LONG, False),
}
_OF_SKETCH = {
    "HLLSketchEstimate": Type.HLL,
    "HLLSketchEstimateWithBounds": Type.HLL,
    "HLLSketchToString": Type.HLL,
    "thetaSketchEstimate": Type.THETA,
    "thetaSketchToString": Type.THETA,
    "quantilesDoublesSketchToQuantile": Type.QUANTILES,
    "quantilesDoublesSketchToQuantiles": Type.QUANTILES,
    "quantilesDoublesSketchToHistogram": Type.QUANTILES,
    "quantilesDoublesSketchToRank": Type.QUANTILES,
    "quantilesDoublesSketchToCDF": Type.QUANTILES,
    "quantilesDoublesSketchToString": Type.QUANTILES,
}
_OF_SKETCHES = {"HLLSketchUnion": Type.HLL, "thetaSketchSetOp": Type.THETA}
_ACCESS = ("fieldAccess", "finalizingFieldAccess", "hyperUniqueCardinality")


@dataclass(frozen=True, slots=True)
class PostAggregator:
    """A computation by its type; `document` has its other members, which `parse` has looked at."""

    name: str
    type: str
    parts: tuple[PostAggregator, ...]
    document: reading.Document


@dataclass(frozen=True, slots=True)
class Results:
    """Columns of the answer by name: as they were aggregated, and as the answer shows them."""

    raw: Mapping[str, Column]
    shown: Mapping[str, Column]

    def column(self, name: str) -> Column:
        return self.shown.get(name, MISSING)


def parse_postaggregator(value: Any, named: bool = True) -> PostAggregator:
    """Raises InvalidInputError, UnsupportedError."""
    doc = reading.document(value, "a post-aggregator")
    kind = reading.kind(doc, "a post-aggregator")
    name = reading.text(doc, "name", f"the post-aggregator '{kind}'") if named else str(doc.get("name") or "")
    what = f"the post-aggregator '{name or kind}'"
    if kind == "arithmetic" and reading.text(doc, "fn", what) not in _ARITHMETIC:
        raise InvalidInputError(f"'fn' of {what} is '{doc['fn']}'", f"known are {' '.join(_ARITHMETIC)}")
    if kind == "arithmetic" or kind in _EXTREMES or kind in _OF_SKETCHES:
        parts = tuple(parse_postaggregator(f, named=False) for f in reading.items(doc, "fields", what))
        if not parts:
            raise InvalidInputError(f"{what} has no 'fields'")
        return PostAggregator(name, kind, parts, doc)
    if kind in _OF_SKETCH:
        return PostAggregator(name, kind, (parse_postaggregator(doc.get("field"), named=False),), doc)
    if kind in _ACCESS:
        reading.text(doc, "fieldName", what)
    elif kind == "expression":
        identifiers(reading.text(doc, "expression", what))
    elif kind == "constant":
        if isinstance(doc.get("value"), list | dict):
            raise InvalidInputError(f"'value' of {what} is {doc['value']!r}"[:100], "write a number")
    elif kind != "thetaSketchConstant":
        raise unsupported("the post-aggregator", kind)
    return PostAggregator(name, kind, (), doc)


def compute(post: PostAggregator, results: Results) -> Column:
    """The post-aggregator over columns of the answer."""
    doc, kind = post.document, post.type
    if kind in ("fieldAccess", "finalizingFieldAccess", "hyperUniqueCardinality"):
        return _access(post, results)
    if kind == "constant":
        return literal(doc.get("value"))
    if kind == "expression":
        found = expression(doc["expression"], results.column)
        output = doc.get("outputType")
        return found if output is None else cast(found, parse_type(str(output)))
    if kind == "thetaSketchConstant":
        return Column(pl.lit(_decoded(doc.get("value")), pl.Binary), Type.THETA)
    parts = [compute(part, results) for part in post.parts]
    if kind == "arithmetic":
        return _arithmetic(doc["fn"], [_as_number(p, post) for p in parts])
    if kind in _EXTREMES:
        return _extreme(kind, parts)
    if kind in _OF_SKETCHES:
        return _set(post, parts)
    return _of_sketch(post, parts[0])


def _access(post: PostAggregator, results: Results) -> Column:
    name = post.document["fieldName"]
    if name not in results.raw:
        raise InvalidInputError(f"a post-aggregator looks for '{name}', which is not in the query")
    if post.type == "fieldAccess":
        return results.raw[name]
    raw = results.raw[name]
    if raw.type not in SKETCHES:
        return raw if post.type == "finalizingFieldAccess" else Column(as_double(raw), Type.DOUBLE)
    return results.shown[name] if results.shown[name].type not in SKETCHES else _estimated(raw)


def _estimated(sketch: Column) -> Column:
    of = Type.LONG if sketch.type is Type.QUANTILES else Type.DOUBLE
    found = partial(sketches.estimates, of=sketch.type)
    return Column(sketch.expr.map_batches(found, return_dtype=POLARS[of], is_elementwise=True), of)


def _as_number(column: Column, post: PostAggregator) -> pl.Expr:
    if column.type in SKETCHES:
        column = _estimated(column)
    if column.type not in NUMBERS and column.type is not Type.STRING:
        raise InvalidInputError(f"'{post.name}' computes with a value of type {column.type}")
    return as_double(column)


def _arithmetic(function: str, parts: list[pl.Expr]) -> Column:
    def step(a: pl.Expr, b: pl.Expr) -> pl.Expr:
        match function:
            case "+":
                return a + b
            case "-":
                return a - b
            case "*":
                return a * b
            case "/":
                return pl.when(b == 0).then(pl.when(a.is_not_null()).then(pl.lit(0.0))).otherwise(a / b)
            case "pow":
                return a.pow(b)
            case _:
                return a / b

    return Column(reduce(step, parts), Type.DOUBLE)


def _extreme(kind: str, parts: list[Column]) -> Column:
    of, largest = _EXTREMES[kind]
    values = [as_double(p) if of is Type.DOUBLE else as_long(p) for p in parts]
    return Column(pl.max_horizontal(values) if largest else pl.min_horizontal(values), of)


def _decoded(value: Any) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except binascii.Error as error:
        raise InvalidInputError("'value' of a thetaSketchConstant is not base64", "write the sketch's bytes") from error


def _set(post: PostAggregator, parts: list[Column]) -> Column:
    of, doc = _OF_SKETCHES[post.type], post.document
    for part in parts:
        _check_type(part, of, post)
    if of is Type.HLL:
        lg_k = reading.whole(doc, "lgK", "HLLSketchUnion", 12)
        kind = reading.text_or(doc, "tgtHllType", "HLL_4", "HLLSketchUnion")
        sketches.check_hll(lg_k, kind)
        merge = partial(sketches.hll_of_sketches, lg_k=lg_k, kind=kind)
    else:
        function = reading.text(doc, "func", "thetaSketchSetOp").upper()
        if function not in ("UNION", "INTERSECT", "NOT"):
            raise InvalidInputError(f"'func' of a thetaSketchSetOp is '{function}'", "UNION, INTERSECT or NOT")
        size = sketches.check_theta(reading.whole(doc, "size", "thetaSketchSetOp", 16_384))
        merge = partial(sketches.theta_set, function, lg_k=size)

    def combined(rows: pl.Series) -> pl.Series:
        made = [merge([d for d in row.values() if d is not None]) for row in rows]
        return pl.Series(rows.name, made, pl.Binary)

    row = pl.struct([p.expr.alias(str(i)) for i, p in enumerate(parts)])
    return Column(row.map_batches(combined, return_dtype=pl.Binary, is_elementwise=True), of)


def _check_type(column: Column, of: Type, post: PostAggregator) -> None:
    if column.type is not of:
        raise InvalidInputError(f"'{post.name or post.type}' takes {of} and got {column.type}")


def _of_sketch(post: PostAggregator, column: Column) -> Column:
    of, doc, what = _OF_SKETCH[post.type], post.document, f"the post-aggregator '{post.name or post.type}'"
    _check_type(column, of, post)
    numbers = pl.List(pl.Float64)
    match post.type:
        case "HLLSketchEstimate" | "thetaSketchEstimate":
            found = _estimated(column)
            if reading.flag(doc, "round", what):
                return Column((found.expr + 0.5).floor().cast(pl.Int64), Type.LONG)
            if doc.get("errorBoundsStdDev") is not None:
                raise unsupported("'errorBoundsStdDev' of", post.name)
            return found
        case "HLLSketchEstimateWithBounds":
            read = partial(sketches.bounds, deviations=reading.whole(doc, "numStdDev", what, 1))
            return Column(_mapped(column, read, numbers), Type.DOUBLES)
        case "HLLSketchToString" | "thetaSketchToString" | "quantilesDoublesSketchToString":
            return Column(_mapped(column, partial(sketches.descriptions, of=of), pl.String), Type.STRING)
        case "quantilesDoublesSketchToQuantile":
            fraction = _fraction(doc.get("fraction"), what)
            listed = _mapped(column, partial(sketches.quantiles, fractions=[fraction]), numbers)
            return Column(listed.list.first(), Type.DOUBLE)
        case "quantilesDoublesSketchToQuantiles":
            fractions = [_fraction(f, what) for f in reading.items(doc, "fractions", what)]
            return Column(_mapped(column, partial(sketches.quantiles, fractions=fractions), numbers), Type.DOUBLES)
        case "quantilesDoublesSketchToRank":
            value = reading.number(doc, "value", what)
            return Column(_mapped(column, partial(sketches.ranks, value=value), pl.Float64), Type.DOUBLE)
        case _:
            return _distribution(post, column, what)


def _distribution(post: PostAggregator, column: Column, what: str) -> Column:
    doc = post.document
    splits = [reading.as_number(s, f"'splitPoints' of {what}") for s in reading.items(doc, "splitPoints", what)]
    cumulative = post.type == "quantilesDoublesSketchToCDF"
    if cumulative and not splits:
        raise InvalidInputError(f"{what} has no 'splitPoints'")
    bins = reading.whole(doc, "numBins", what, 10)
    read = partial(sketches.distribution, splits=splits or None, bins=bins, cumulative=cumulative)
    return Column(_mapped(column, read, pl.List(pl.Float64)), Type.DOUBLES)


def _fraction(value: Any, what: str) -> float:
    found = reading.as_number(value, f"'fraction' of {what}")
    if not 0 <= found <= 1:
        raise InvalidInputError(f"'fraction' of {what} is {found}", "write a number from 0 to 1")
    return found


def _mapped(column: Column, make: Any, dtype: Any) -> pl.Expr:
    return column.expr.map_batches(make, return_dtype=dtype, is_elementwise=True)
