"""Two values brought to a type in which they compare, as Druid does it for texts, numbers, times and multi-value strings."""

from __future__ import annotations

from rta.query.druidsql.kinds import BOOLEAN, VARCHAR, Base
from rta.query.druidsql.typed import (
    NULL_VALUE,
    Typed,
    as_double,
    as_long,
    as_text,
    as_time,
    aware,
    naive,
    quoted,
)


def compared(sign: str, left: Typed, right: Typed, zone: str) -> Typed:
    """`left sign right`. A multi-value string compares with a value where any of its own does; `<>` where none is equal."""
    if left.kind.multi and not right.kind.is_list:
        if sign in ("<>", "IS DISTINCT FROM"):
            return Typed(f"(NOT {compared('=', left, right, zone).sql})", BOOLEAN)
        inner = compared("=" if sign == "IS NOT DISTINCT FROM" else sign, Typed("_e", VARCHAR), right, zone)
        return contains_any(left, inner.sql)
    if right.kind.multi and not left.kind.is_list:
        return compared({"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(sign, sign), right, left, zone)
    left, right = equal_type(left, right, zone)
    return Typed(f"({left.sql} {sign} {right.sql})", BOOLEAN)


def contains_any(value: Typed, condition: str) -> Typed:
    """Whether the condition is true for any value `_e` of a multi-value string; null where it has none."""
    return Typed(f"(len(list_filter({value.sql}, lambda _e: {condition})) > 0)", BOOLEAN)


def equal_type(left: Typed, right: Typed, zone: str) -> tuple[Typed, Typed]:
    """Both in one type; a column stays as it is where a literal can be read in its type."""
    if left.is_null or right.is_null or left.kind.is_list or right.kind.is_list:
        return left, right
    if left.kind.is_time or right.kind.is_time:
        return _times(left, right, zone)
    bases = {left.kind.base, right.kind.base}
    if len(bases) == 1:
        return left, right
    if Base.BOOLEAN in bases:
        return _booleans(left, right, zone)
    if bases & {Base.BIGINT, Base.DOUBLE} and bases & {Base.VARCHAR, Base.JSON}:
        return _numbers(left, right, zone)
    if bases == {Base.BIGINT, Base.DOUBLE}:
        return left, right
    return as_text(left, zone), as_text(right, zone)


def _times(left: Typed, right: Typed, zone: str) -> tuple[Typed, Typed]:
    left, right = _time(left, zone), _time(right, zone)
    if left.kind.tz or right.kind.tz:
        return aware(left), aware(right)
    return naive(left), naive(right)


def _time(value: Typed, zone: str) -> Typed:
    return value if value.kind.is_time else as_time(value, zone)


def _booleans(left: Typed, right: Typed, zone: str) -> tuple[Typed, Typed]:
    """A truth value and a text are compared as texts, and with a number as 0 and 1; a literal is turned to the other side."""
    other = right if left.kind.base is Base.BOOLEAN else left
    if other.text is not None:
        read = {"true": Typed("TRUE", BOOLEAN), "false": Typed("FALSE", BOOLEAN)}.get(other.text, NULL_VALUE)
        return (left, read) if other is right else (read, right)
    if other.kind.is_number:
        return as_long(left, zone) if other is right else left, right if other is right else as_long(right, zone)
    return _word(left, zone), _word(right, zone)


def _word(value: Typed, zone: str) -> Typed:
    if value.sql in ("TRUE", "FALSE"):
        return Typed(quoted(value.sql.lower()), VARCHAR)
    return as_text(value, zone)


def _numbers(left: Typed, right: Typed, zone: str) -> tuple[Typed, Typed]:
    """A number and a text are compared as numbers; a text that is none compares with nothing."""
    del zone
    return _as_number(left), _as_number(right)


def _as_number(value: Typed) -> Typed:
    if value.kind.is_number:
        return value
    return as_double(value, "UTC")
