"""Functions of the expression language about arrays and columns with several values per row.

Offsets count from 0, ordinals from 1.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import polars as pl

from rta.druid.expressions.calls import MANY, Arguments, Function
from rta.druid.expressions.logic import alike
from rta.druid.problems import InvalidInputError
from rta.druid.values import ARRAY_OF, ARRAYS, Column, Type, as_text, cast, from_truth


def as_array(column: Column) -> Column:
    """The column as an array; a single value is an array of one."""
    if column.multi:
        return Column(column.expr, Type.STRINGS, constant=column.constant, value=column.value)
    if column.type in ARRAYS:
        return column
    if column.type not in ARRAY_OF:
        raise InvalidInputError(f"a value of type {column.type} is no array")
    return cast(column, ARRAY_OF[column.type])


def _array(arguments: Arguments) -> Column:
    values = alike(arguments.columns)
    of = ARRAY_OF[values[0].type]
    return Column(pl.concat_list([v.expr for v in values]), of)


def _length(arguments: Arguments) -> Column:
    return Column(as_array(arguments[0]).expr.list.len().cast(pl.Int64), Type.LONG)


def _at(arguments: Arguments, first: int) -> Column:
    array = as_array(arguments[0])
    place = arguments.long(1) - first
    found = array.expr.list.get(pl.when(place >= 0).then(place), null_on_oob=True)
    return Column(found, ARRAYS[array.type])


def _place(arguments: Arguments, first: int) -> Column:
    array = as_array(arguments[0])
    wanted = arguments.constant(1)
    found = array.expr.list.eval((pl.element() == pl.lit(wanted)).fill_null(value=False).arg_max())
    there = array.expr.list.contains(wanted)
    place = found.list.first().cast(pl.Int64) + first
    return Column(pl.when(there).then(place).when(array.expr.is_not_null()).then(pl.lit(-1)), Type.LONG)


def _contains(arguments: Arguments) -> Column:
    """Whether the array holds the value, or all values of an array."""
    array, other = as_array(arguments[0]), arguments[1]
    if other.type in ARRAYS or other.multi:
        wanted = cast(as_array(other), array.type).expr
        return from_truth(wanted.list.set_difference(array.expr).list.len() == 0)
    return from_truth(array.expr.list.contains(cast(other, ARRAYS[array.type]).expr))


def _overlap(arguments: Arguments) -> Column:
    array = as_array(arguments[0])
    other = cast(as_array(arguments[1]), array.type)
    return from_truth(array.expr.list.set_intersection(other.expr).list.len() > 0)


def _append(arguments: Arguments, before: bool) -> Column:
    array, value = (arguments[1], arguments[0]) if before else (arguments[0], arguments[1])
    array = as_array(array)
    one = cast(value, ARRAYS[array.type]).expr
    return Column(pl.concat_list([one, array.expr] if before else [array.expr, one]), array.type)


def _concat(arguments: Arguments) -> Column:
    array = as_array(arguments[0])
    other = cast(as_array(arguments[1]), array.type)
    return Column(pl.concat_list([array.expr, other.expr]), array.type)


def _set_add(arguments: Arguments, several: bool) -> Column:
    joined = _concat(arguments) if several else _append(arguments, before=False)
    return Column(joined.expr.list.unique().list.sort(), joined.type)


def _slice(arguments: Arguments) -> Column:
    array = as_array(arguments[0])
    begin = arguments.constant_long(1)
    end = arguments.constant(2)
    return Column(array.expr.list.slice(begin, None if end is None else max(0, end - begin)), array.type)


def _to_string(arguments: Arguments) -> Column:
    array = as_array(arguments[0])
    texts = as_text(array).list.eval(pl.element().fill_null("null"))
    return Column(texts.list.join(arguments.constant_text(1)), Type.STRING)


def _from_string(arguments: Arguments) -> Column:
    return Column(arguments.text(0).str.split(arguments.constant_text(1)), Type.STRINGS)


def _to_array(arguments: Arguments) -> Column:
    array = as_array(arguments[0])
    return Column(array.expr, array.type)


def _to_multi(arguments: Arguments) -> Column:
    return Column(as_text(as_array(arguments[0])), Type.STRING, multi=True)


def filtered(column: Column, values: list[Any], allowed: bool) -> Column:
    """The values of each row that are among the given ones, or that are not."""
    hit = pl.element().is_in([str(v) for v in values if v is not None])
    kept = as_array(column).expr.list.eval(pl.element().filter(hit if allowed else ~hit))
    return Column(kept, Type.STRING, multi=True)


def _filter(arguments: Arguments, allowed: bool) -> Column:
    return filtered(arguments[0], list(arguments.constant(1)), allowed)


def _scalar_in(arguments: Arguments) -> Column:
    array = as_array(arguments[1])
    one = cast(arguments[0], ARRAYS[array.type]).expr
    return from_truth(pl.when(one.is_not_null()).then(array.expr.list.contains(one)))


FUNCTIONS = {
    "array": Function(1, MANY, _array),
    "array_length": Function(1, 1, _length),
    "array_offset": Function(2, 2, partial(_at, first=0)),
    "array_ordinal": Function(2, 2, partial(_at, first=1)),
    "array_offset_of": Function(2, 2, partial(_place, first=0)),
    "array_ordinal_of": Function(2, 2, partial(_place, first=1)),
    "array_contains": Function(2, 2, _contains),
    "array_overlap": Function(2, 2, _overlap),
    "array_append": Function(2, 2, partial(_append, before=False)),
    "array_prepend": Function(2, 2, partial(_append, before=True)),
    "array_concat": Function(2, 2, _concat),
    "array_set_add": Function(2, 2, partial(_set_add, several=False)),
    "array_set_add_all": Function(2, 2, partial(_set_add, several=True)),
    "array_slice": Function(2, 3, _slice),
    "array_to_string": Function(2, 2, _to_string),
    "string_to_array": Function(2, 2, _from_string),
    "array_to_mv": Function(1, 1, _to_multi),
    "mv_to_array": Function(1, 1, _to_array),
    "mv_harmonize_nulls": Function(1, 1, _to_multi),
    "mv_filter_only": Function(2, 2, partial(_filter, allowed=True)),
    "mv_filter_none": Function(2, 2, partial(_filter, allowed=False)),
    "scalar_in_array": Function(2, 2, _scalar_in),
}
