"""Aggregators: what a query wants to know of each group of rows, read from JSON and made into polars aggregations.

Numbers are aggregated by polars. For sketches polars gathers each group's distinct values (or its sketches), and the
sketch is made of them afterwards. The sum, least and greatest of nothing are null; counts and estimates of nothing are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import polars as pl

from rta.druid import hyperunique, reading, sketches
from rta.druid.dimensions import DimensionSpec, dimension_column, parse_dimension
from rta.druid.expressions.compiler import expression, identifiers
from rta.druid.filters import And, Filter, columns_of, matches, parse_filter
from rta.druid.problems import InvalidInputError, unsupported
from rta.druid.values import (
    POLARS,
    SKETCHES,
    Column,
    Type,
    as_double,
    as_long,
    as_text,
)
from rta.events.schemas import TIME

Resolve = Callable[[str], Column]
_NUMBER_TYPES = {"long": Type.LONG, "double": Type.DOUBLE, "float": Type.FLOAT, "string": Type.STRING}
_FOLDS = ("Sum", "Min", "Max", "First", "Last", "Any", "Mean")
_SKETCHES = {
    "HLLSketchBuild": Type.HLL,
    "HLLSketchMerge": Type.HLL,
    "thetaSketch": Type.THETA,
    "quantilesDoublesSketch": Type.QUANTILES,
    "quantilesDoublesSketchMerge": Type.QUANTILES,
    "hyperUnique": Type.HYPER_UNIQUE,
    "cardinality": Type.HYPER_UNIQUE,
}


@dataclass(frozen=True, slots=True)
class Aggregator:
    """One number or sketch per group.

    Args:
        fold: `count`, `sum`, `min`, `max`, `first`, `last`, `any`, `mean`, `sketch` or `grouping`.
        type: Of the result; of a sketch before it is finalised.
        fields: What it is of: one column, for `cardinality` several dimensions.
        expression: Instead of a column.
        size: lgK, k, or the size of a theta sketch.
        round: Estimates become whole numbers.
        finalized: Whether the answer shows the estimate instead of the sketch.
        text_max: Of a first or last text, its length.
    """

    name: str
    kind: str
    fold: str
    type: Type
    fields: tuple[DimensionSpec, ...] = ()
    expression: str | None = None
    filter: Filter | None = None
    time_column: str = TIME
    size: int = 0
    hll_type: str = "HLL_4"
    round: bool = False
    by_row: bool = False
    finalized: bool = True
    text_max: int = 1024

    @property
    def shown(self) -> Type:
        """Type of the finalised value."""
        if self.type not in SKETCHES:
            return self.type
        return Type.LONG if self.round or self.type is Type.QUANTILES else Type.DOUBLE


@dataclass(frozen=True, slots=True)
class Measure:
    """An aggregation, and what is made of its column afterwards."""

    expr: pl.Expr
    finish: Callable[[pl.Series], pl.Series] | None = None


def parse_aggregator(value: Any) -> Aggregator:
    """Raises InvalidInputError, UnsupportedError."""
    doc = reading.document(value, "an aggregator")
    kind = reading.kind(doc, "an aggregator")
    if kind == "filtered":
        return _filtered(doc)
    name = reading.text(doc, "name", f"the aggregator '{kind}'")
    what = f"the aggregator '{name}'"
    if kind == "count":
        return Aggregator(name, kind, "count", Type.LONG)
    if kind == "grouping":
        fields = tuple(DimensionSpec(f, f) for f in reading.texts(doc, "groupings", what))
        return Aggregator(name, kind, "grouping", Type.LONG, fields)
    if kind in _SKETCHES:
        return _sketch(doc, name, kind, what)
    kind = {"min": "doubleMin", "max": "doubleMax"}.get(kind, kind)
    fold = next((f for f in _FOLDS if kind.endswith(f)), None)
    of = _NUMBER_TYPES.get(kind.removesuffix(fold or ""))
    if (
        fold is None
        or of is None
        or (of is Type.STRING and fold in ("Sum", "Min", "Max", "Mean"))
        or kind in ("longMean", "floatMean")
    ):
        raise unsupported("the aggregator", kind)
    fields, text = _source(doc, what)
    return Aggregator(
        name,
        kind,
        fold.lower(),
        of,
        fields,
        text,
        time_column=reading.text_or(doc, "timeColumn", TIME, what),
        text_max=reading.whole(doc, "maxStringBytes", what, 1024),
    )


def _source(doc: reading.Document, what: str) -> tuple[tuple[DimensionSpec, ...], str | None]:
    if doc.get("expression") is not None:
        text = reading.text(doc, "expression", what)
        identifiers(text)
        return (), text
    field = reading.text(doc, "fieldName", what)
    return (DimensionSpec(field, field),), None


def _filtered(doc: reading.Document) -> Aggregator:
    inner = parse_aggregator(doc.get("aggregator"))
    condition = parse_filter(doc.get("filter"))
    name = reading.text_or(doc, "name", "", "the aggregator 'filtered'") or inner.name
    both = And((condition, inner.filter)) if condition is not None and inner.filter is not None else condition
    return replace(inner, name=name, filter=both or inner.filter)


def _sketch(doc: reading.Document, name: str, kind: str, what: str) -> Aggregator:
    of = _SKETCHES[kind]
    rounded, finalized = reading.flag(doc, "round", what), reading.flag(doc, "shouldFinalize", what, True)
    if kind == "cardinality":
        listed = reading.items(doc, "fields", what) or reading.items(doc, "fieldNames", what)
        fields = tuple(parse_dimension(f) for f in listed)
        return Aggregator(name, kind, "sketch", of, fields, by_row=reading.flag(doc, "byRow", what), round=rounded)
    fields, _ = _source(doc, what)
    if of is Type.HLL:
        lg_k, hll_type = reading.whole(doc, "lgK", what, 12), reading.text_or(doc, "tgtHllType", "HLL_4", what)
        sketches.check_hll(lg_k, hll_type)
        sized = Aggregator(name, kind, "sketch", of, fields, size=lg_k, hll_type=hll_type)
        return replace(sized, round=rounded, finalized=finalized)
    if of is Type.THETA:
        if doc.get("errorBoundsStdDev") is not None:
            raise unsupported("'errorBoundsStdDev' of", name, "thetaSketchEstimate without it")
        size = sketches.check_theta(reading.whole(doc, "size", what, 16_384))
        return Aggregator(name, kind, "sketch", of, fields, size=size, finalized=finalized)
    if of is Type.QUANTILES:
        k = reading.whole(doc, "k", what, 128)
        if not 2 <= k <= 32_768 or k & (k - 1):
            raise InvalidInputError(f"'k' of {what} is {k}", "write a power of two from 2 to 32,768")
        return Aggregator(name, kind, "sketch", of, fields, size=k, finalized=finalized)
    return Aggregator(name, kind, "sketch", of, fields, round=rounded)


def columns_read(aggregator: Aggregator) -> Iterator[str]:
    if aggregator.fold == "grouping":
        return
    yield from (f.dimension for f in aggregator.fields)
    if aggregator.expression is not None:
        yield from identifiers(aggregator.expression)
    if aggregator.fold in ("first", "last"):
        yield aggregator.time_column
    yield from columns_of(aggregator.filter)


def measure(a: Aggregator, resolve: Resolve) -> Measure:
    """The aggregator over columns. Of `grouping` there is none: it is constant in a grouping."""
    mask = None if a.filter is None else per_row(matches(a.filter, resolve)).fill_null(value=False)
    if a.fold == "count":
        return Measure((pl.len() if mask is None else mask.sum()).cast(pl.Int64))
    if a.fold == "sketch":
        return _sketch_measure(a, resolve, mask)
    column = expression(a.expression, resolve) if a.expression is not None else resolve(a.fields[0].dimension)
    value = _masked(per_row(_number(column, a)), mask)
    if a.fold in ("first", "last", "any"):
        return Measure(_picked(a, value, resolve, mask))
    if column.multi and not column.missing:
        raise unsupported(f"'{a.kind}' of a column with several values per row,", a.fields[0].dimension)
    there = value.count() > 0
    match a.fold:
        case "sum":
            return Measure(pl.when(there).then(value.sum()))
        case "min":
            return Measure(value.min())
        case "max":
            return Measure(value.max())
        case _:
            return Measure(value.mean())


def empty_value(a: Aggregator) -> Any:
    """What the aggregator is of no rows; None for null."""
    if a.fold == "count":
        return 0
    if a.kind == "cardinality":
        return hyperunique.empty().tobytes()
    return _builders(a)[0](()) if a.fold == "sketch" else None


def per_row(value: pl.Expr) -> pl.Expr:
    """A value for every row, also of what looks at no column: polars would aggregate it as one."""
    return value if value.meta.root_names() else pl.when(pl.col(TIME).is_not_null()).then(value)


def _masked(value: pl.Expr, mask: pl.Expr | None) -> pl.Expr:
    return value if mask is None else pl.when(mask).then(value)


def _number(column: Column, a: Aggregator) -> pl.Expr:
    """The column in the aggregator's type. A text that is no number counts as 0 in sums; longs are cut off row by row."""
    if column.missing:
        return pl.lit(None, POLARS[a.type])
    if a.type is Type.STRING:
        return as_text(column)
    if column.type in SKETCHES or (column.multi and a.fold not in ("first", "last", "any")):
        raise InvalidInputError(
            f"'{a.kind}' of '{a.fields[0].dimension if a.fields else a.expression}', which is {column.type}"
        )
    found = as_long(column) if a.type is Type.LONG else as_double(column)
    if column.type is Type.STRING and a.fold == "sum":
        found = pl.when(column.expr.is_not_null()).then(found.fill_null(0))
    return found.cast(POLARS[a.type])


def _picked(a: Aggregator, value: pl.Expr, resolve: Resolve, mask: pl.Expr | None) -> pl.Expr:
    """The value of the earliest or the latest row, null if that is null; of `any` some value that is not."""
    if a.fold == "any":
        found = value.drop_nulls().first()
    else:
        time = _masked(as_long(resolve(a.time_column)), mask)
        earliest, latest = value.filter(time == time.min()).first(), value.filter(time == time.max()).last()
        found = earliest if a.fold == "first" else latest
    return found.str.head(a.text_max) if a.type is Type.STRING else found


def _sketch_measure(a: Aggregator, resolve: Resolve, mask: pl.Expr | None) -> Measure:
    if a.kind == "cardinality":
        return _cardinality(a, [dimension_column(f, resolve) for f in a.fields], mask)
    column = resolve(a.fields[0].dimension)
    build, merge = _builders(a)
    if column.type in SKETCHES:
        return _of_sketches(a, column, mask, build, merge)
    if column.multi:
        value = _masked(column.expr, mask).explode()
    elif a.type is Type.QUANTILES:
        value = _masked(per_row(as_double(column)), mask)
    else:
        value = _masked(per_row(column.expr), mask)
    gathered = value.drop_nulls()
    if a.type is not Type.QUANTILES:
        gathered = gathered.unique()
    return Measure(gathered.implode(), partial(_built, build))


def _of_sketches(
    a: Aggregator, column: Column, mask: pl.Expr | None, build: sketches.Build, merge: sketches.Build
) -> Measure:
    if column.type is not a.type and column.items is None:
        raise InvalidInputError(f"'{a.kind}' of '{a.fields[0].dimension}', which is {column.type}")
    if column.items is None:
        return Measure(_masked(column.expr, mask).drop_nulls().implode(), partial(_built, merge))
    items = _masked(column.items, mask).explode().drop_nulls()
    items = items if a.type is Type.QUANTILES else items.unique()
    rest = _masked(column.expr, mask).drop_nulls()

    def finish(gathered: pl.Series) -> pl.Series:
        rows = zip(gathered.struct.field("items"), gathered.struct.field("rest"), strict=True)
        if a.type is not column.type and gathered.struct.field("rest").list.len().sum():
            raise unsupported(f"'{a.kind}' of", a.fields[0].dimension, f"its rows hold {column.type} sketches")
        if a.type is Type.QUANTILES:
            made = [sketches.quantiles_of_rollup(i.to_list(), r.to_list(), a.size) for i, r in rows]
        else:
            made = [merge([build(i.to_list()), *r.to_list()]) if len(r) else build(i.to_list()) for i, r in rows]
        return pl.Series(gathered.name, made, pl.Binary)

    return Measure(pl.struct(items=items.implode(), rest=rest.implode()), finish)


def _builders(a: Aggregator) -> tuple[sketches.Build, sketches.Build]:
    """How a sketch is made of values, and of sketches."""
    match a.type:
        case Type.HLL:
            build = partial(sketches.hll_of_values, lg_k=a.size, kind=a.hll_type)
            return build, partial(sketches.hll_of_sketches, lg_k=a.size, kind=a.hll_type)
        case Type.THETA:
            return partial(sketches.theta_of_values, lg_k=a.size), partial(sketches.theta_of_sketches, lg_k=a.size)
        case Type.QUANTILES:
            return partial(sketches.quantiles_of_values, k=a.size), partial(sketches.quantiles_of_sketches, k=a.size)
        case _:
            hashing = hyperunique.utf8_hash if a.kind == "hyperUnique" else hyperunique.text_hash
            return partial(sketches.hyper_unique_of_values, text_hash=hashing), sketches.hyper_unique_of_sketches


def _built(build: sketches.Build, gathered: pl.Series) -> pl.Series:
    made = [build(() if values is None else values.to_list()) for values in gathered]
    return pl.Series(gathered.name, made, pl.Binary)


def _cardinality(a: Aggregator, columns: Sequence[Column], mask: pl.Expr | None) -> Measure:
    """Distinct values of all fields together, or distinct combinations of them."""
    if not columns:
        raise InvalidInputError(f"the aggregator '{a.name}' has no 'fields'")
    if a.by_row:
        row = pl.struct([c.expr.alias(str(i)) for i, c in enumerate(columns)])
        rows = row.filter(mask) if mask is not None else row
        return Measure(rows.unique().implode(), partial(_built, sketches.hyper_unique_of_rows))
    build = partial(sketches.hyper_unique_of_values, text_hash=hyperunique.text_hash)
    gathered = []
    for column in columns:
        value = _masked(column.expr, mask)
        gathered.append((value.explode() if column.multi else value).drop_nulls().unique().implode())

    def finish(found: pl.Series) -> pl.Series:
        parts = [_built(build, found.struct.field(str(i))) for i in range(len(columns))]
        made = [sketches.hyper_unique_of_sketches(row) for row in zip(*parts, strict=True)]
        return pl.Series(found.name, made, pl.Binary)

    lists = [g.alias(str(i)) for i, g in enumerate(gathered)]
    return Measure(pl.struct(lists), finish)


def finalized(a: Aggregator, column: pl.Expr) -> Column:
    """The value that the answer shows of a sketch, of others the value itself."""
    if a.type not in SKETCHES:
        return Column(column, a.type)
    of = Type.LONG if a.type is Type.QUANTILES else Type.DOUBLE
    found = column.map_batches(partial(sketches.estimates, of=a.type), return_dtype=POLARS[of], is_elementwise=True)
    if a.round and of is Type.DOUBLE:
        return Column((found + 0.5).floor().cast(pl.Int64), Type.LONG)
    return Column(found, of)
