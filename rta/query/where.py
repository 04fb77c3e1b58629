"""What a condition means: over raw columns as a polars expression, over a rollup's dimensions as tables of their
values.

Three truths as in SQL: a comparison with a field that is null is neither true nor false, `not` leaves it so, and only
rows for which the whole condition is true are taken. So `ne` and `not` leave out events that lack the field; ask for
them with `is_null`. Comparisons of texts are by code point. `like` knows `%`, `_` and `\\` before either; `regex` finds
a match anywhere (Rust's syntax). On `string[]` a condition is true if it is true of one entry.

In JSON text behind a path a number compares with numbers only, a truth value with truth values, a text with the text of
whatever stands there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, assert_never

import numpy as np
import numpy.typing as npt
import polars as pl

from rta.errors import InvalidQueryError
from rta.events.schemas import ColumnType
from rta.query.conditions import compares
from rta.query.fields import Field, FieldKind
from rta.query.model import And, Compare, Condition, Not, Op, Or, Value
from rta.query.paths import number_key, text_key, truth_key
from rta.query.periods import parse_instant_ms

if TYPE_CHECKING:
    from rta.query.block import Dictionaries, Dictionary  # brings numba, which scans of raw events do without

Flags = npt.NDArray[np.bool_]
_ORDERED = (Op.LT, Op.LTE, Op.GT, Op.GTE)
_PATTERNS = (Op.LIKE, Op.REGEX)
_TIME_TYPE = pl.Datetime("ms", "UTC")


def check_where(condition: Condition | None, fields: Mapping[str, Field]) -> None:
    """Refuse comparisons that the fields' types do not have. Raises InvalidQueryError."""
    for compare in compares(condition):
        _check(compare, fields[compare.field])


def where_expression(condition: Condition, fields: Mapping[str, Field]) -> pl.Expr:
    """The condition over a frame whose columns are `Field.key` (paths: the three columns of `rta.query.paths`)."""
    match condition:
        case And(parts):
            return pl.all_horizontal([where_expression(p, fields) for p in parts])
        case Or(parts):
            return pl.any_horizontal([where_expression(p, fields) for p in parts])
        case Not(part):
            return ~where_expression(part, fields)
        case Compare():
            return _expression(condition, fields[condition.field])
        case _:
            assert_never(condition)


class Dimensions:
    """Answers conditions over dictionary codes. One per question.

    Args:
        codes: Gives the codes of a stored column, one per row.
        dictionaries: Per stored column, what the codes mean.
        fields: What the names of the condition mean.
    """

    def __init__(
        self,
        codes: Callable[[str], npt.NDArray[np.int32]],
        dictionaries: Dictionaries,
        fields: Mapping[str, Field],
    ) -> None:
        self._codes = codes
        self._dictionaries = dictionaries
        self._fields = fields

    def mask(self, condition: Condition, wanted: bool = True) -> Flags:
        """The rows for which the condition is true, or (`wanted` False) those for which it is false: not the nulls."""
        match condition:
            case And(parts) | Or(parts):
                every = isinstance(condition, And) == wanted
                out = self.mask(parts[0], wanted)
                for part in parts[1:]:
                    out = out & self.mask(part, wanted) if every else out | self.mask(part, wanted)
                return out
            case Not(part):
                return self.mask(part, not wanted)
            case Compare():
                column = self._fields[condition.field].column
                codes = self._codes(column)
                return truths(condition, self._fields[condition.field], self._dictionaries[column], wanted)[codes]
            case _:
                assert_never(condition)


def truths(compare: Compare, field: Field, dictionary: Dictionary, wanted: bool) -> Flags:
    """Per code whether the comparison is (`wanted`) true or false of its value. Code 0 is null."""
    size = dictionary.size
    if compare.op is Op.IS_NULL:
        out = np.full(size, compare.values[0] is not wanted, np.bool_)
        out[0] = compare.values[0] is wanted
        return out
    if compare.op in (Op.EQ, Op.NE, Op.IN):
        hit = wanted != (compare.op is Op.NE)
        out = np.full(size, not hit, np.bool_)
        for value in compare.values:
            code = dictionary.code(_stored(value, field))
            if code is not None and code < size:
                out[code] = hit
    else:
        frame = pl.DataFrame({field.key: dictionary.series(size)})
        found = frame.select(_expression(compare, field)).to_series().fill_null(not wanted)
        out = found.to_numpy() == wanted
    out[0] = False
    return out


def _stored(value: Value, field: Field) -> Value:
    """The value as a dictionary holds it: times are milliseconds, numbers of a double column are floats."""
    if field.type is ColumnType.TIMESTAMP:
        return _instant_ms(value)
    if field.type is ColumnType.DOUBLE and isinstance(value, int):
        return float(value)
    return value


def _expression(compare: Compare, field: Field) -> pl.Expr:
    op, values = compare.op, compare.values
    if field.kind is FieldKind.PATH:
        return _path_expression(compare, field)
    column = pl.col(field.key)
    if op is Op.IS_NULL:
        return column.is_null() if values[0] else column.is_not_null()
    if field.type is ColumnType.STRINGS:
        inner = _scalar(pl.element(), op if op is not Op.NE else Op.EQ, values)
        found = column.list.eval(inner).list.any()
        found = pl.when(column.is_not_null()).then(found.fill_null(value=False))
        return ~found if op is Op.NE else found
    if field.type is ColumnType.TIMESTAMP:
        column = column.dt.epoch("ms")
        return _scalar(column, op, tuple(_instant_ms(v) for v in values))
    if field.type is ColumnType.DOUBLE:
        values = tuple(float(v) for v in values)
    return _scalar(column, op, values)


def _path_expression(compare: Compare, field: Field) -> pl.Expr:
    op, values = compare.op, compare.values
    if op is Op.IS_NULL:
        text = pl.col(text_key(field))
        return text.is_null() if values[0] else text.is_not_null()
    kinds: list[tuple[str, tuple[Value, ...]]] = [
        (truth_key(field), tuple(v for v in values if isinstance(v, bool))),
        (number_key(field), tuple(float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool))),
        (text_key(field), tuple(v for v in values if isinstance(v, str))),
    ]
    present = pl.col(text_key(field)).is_not_null()
    parts = []
    for key, some in kinds:
        if some:
            # A value of another kind is there and differs: false, and for `ne` true.
            parts.append(pl.when(present).then(_scalar(pl.col(key), op, some).fill_null(value=op is Op.NE)))
    return pl.any_horizontal(parts)


def _scalar(column: pl.Expr, op: Op, values: tuple[Value, ...]) -> pl.Expr:
    first = values[0]
    match op:
        case Op.EQ:
            return column == first
        case Op.NE:
            return column != first
        case Op.IN:
            return _is_in(column, values)
        case Op.LT:
            return column < first
        case Op.LTE:
            return column <= first
        case Op.GT:
            return column > first
        case Op.GTE:
            return column >= first
        case Op.LIKE:
            return column.str.contains(like_pattern(str(first)))
        case Op.REGEX:
            return column.str.contains(str(first))
        case Op.IS_NULL:
            return column.is_null() if first else column.is_not_null()
        case _:
            assert_never(op)


def _is_in(column: pl.Expr, values: tuple[Value, ...]) -> pl.Expr:
    if any(isinstance(v, float) for v in values) and all(not isinstance(v, str) for v in values):
        return column.cast(pl.Float64).is_in([float(v) for v in values])
    return column.is_in(list(values))


def like_pattern(like: str) -> str:
    """The regular expression of a LIKE pattern. `(?s)`: `%` and `_` match line ends too."""
    out = []
    escaped = False
    for letter in like:
        if escaped:
            out.append(re.escape(letter))
            escaped = False
        elif letter == "\\":
            escaped = True
        else:
            out.append({"%": ".*", "_": "."}.get(letter) or re.escape(letter))
    return f"(?s)^{''.join(out)}{re.escape(chr(92)) if escaped else ''}$"


def _check(compare: Compare, field: Field) -> None:
    op, name = compare.op, field.name
    if op is Op.IS_NULL:
        return
    if op in _PATTERNS:
        _check_pattern(compare)
    if field.kind is FieldKind.PATH:
        if op in _ORDERED and isinstance(compare.values[0], bool):
            raise InvalidQueryError(f"'{op}' on '{name}' compares with a truth value", "use 'eq' or 'ne'")
        return
    if field.type is ColumnType.JSON:
        raise InvalidQueryError(f"'{op}' on '{name}', which holds JSON", f"name a path inside it, such as {name}.key")
    if op in _PATTERNS and field.type not in (ColumnType.STRING, ColumnType.STRINGS):
        raise InvalidQueryError(f"'{op}' on '{name}', which is {field.type}", "patterns are for texts")
    if op in _ORDERED and field.type in (ColumnType.BOOLEAN, ColumnType.STRINGS):
        raise InvalidQueryError(f"'{op}' on '{name}', which is {field.type}", "use 'eq', 'ne' or 'in'")
    for value in compare.values:
        _check_value(value, field)


def _check_value(value: Value, field: Field) -> None:
    match field.type:
        case ColumnType.STRING | ColumnType.STRINGS:
            if not isinstance(value, str):
                raise InvalidQueryError(
                    f"'{field.name}' is {field.type} and compared with {value!r}", f'write "{value}"'
                )
        case ColumnType.LONG | ColumnType.DOUBLE:
            if isinstance(value, bool | str):
                raise InvalidQueryError(f"'{field.name}' is {field.type} and compared with {value!r}", "write a number")
        case ColumnType.BOOLEAN:
            if not isinstance(value, bool):
                raise InvalidQueryError(f"'{field.name}' is boolean and compared with {value!r}", "write true or false")
        case ColumnType.TIMESTAMP:
            _instant_ms(value)
        case ColumnType.JSON:
            return
        case _:
            assert_never(field.type)


def _instant_ms(value: Value) -> int:
    if isinstance(value, str):
        return parse_instant_ms(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidQueryError(f"a time is compared with {value!r}", "write 2026-01-01T00:00:00Z or milliseconds")
    return value


def _check_pattern(compare: Compare) -> None:
    if compare.op is not Op.REGEX:
        return
    pattern = str(compare.values[0])
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError as error:
        detail = str(error).strip().splitlines()[-1]
        raise InvalidQueryError(
            f"the regex on '{compare.field}' is malformed: {detail}", "see Rust's regex syntax"
        ) from error
