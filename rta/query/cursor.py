"""Where a page of raw rows ended, as an opaque text, and the condition that the next page starts with.

Rows have a total order: what the question orders by, then the event time, then the event's identity. A cursor holds
that key of the last row, and how many rows with exactly that key were given: what arrives later falls into its own
place and neither repeats nor hides a row. Nulls come last in either direction.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl

from rta.errors import InvalidQueryError
from rta.events.schemas import TIME
from rta.query.answer import TIME_TYPE
from rta.query.plan import Plan

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class SortKey:
    column: str
    descending: bool


@dataclass(frozen=True, slots=True)
class Cursor:
    """`values` are the last row's, one per sort key (times in ms); `seen` rows with just these were given."""

    values: tuple[Scalar, ...]
    seen: int


def sort_keys(plan: Plan) -> tuple[SortKey, ...]:
    """The total order of the plan's rows."""
    keys = [SortKey(plan.fields[o.name].column, o.descending) for o in plan.query.order_by]
    known = {k.column for k in keys}
    keys += [SortKey(c, False) for c in dict.fromkeys((TIME, *plan.shape.identity)) if c not in known]
    return tuple(keys)


def encode(cursor: Cursor, keys: tuple[SortKey, ...]) -> str:
    raw = msgspec.msgpack.encode((_names(keys), cursor.values, cursor.seen))
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str, keys: tuple[SortKey, ...]) -> Cursor:
    """Raises InvalidQueryError for a text that is no cursor of this order."""
    hint = "pass the 'next' of the answer before, unchanged, with the same 'order_by'"
    try:
        raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        names, values, seen = msgspec.msgpack.decode(raw, type=tuple[list[str], list[Scalar], int])
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise InvalidQueryError(f"'next' is not a cursor: '{text[:40]}'", hint) from error
    if names != _names(keys) or len(values) != len(keys) or not 0 <= seen <= 1_000_000:
        raise InvalidQueryError(f"the cursor '{text[:40]}' belongs to another question", hint)
    return Cursor(tuple(values), seen)


def from_row(frame: pl.DataFrame, keys: tuple[SortKey, ...], before: Cursor | None) -> Cursor:
    """The cursor behind the last row of a page that has all key columns."""
    columns = [_plain(frame.get_column(k.column)) for k in keys]
    last = tuple(c[-1] for c in columns)
    same = pl.DataFrame([c.alias(str(i)) for i, c in enumerate(columns)]).select(_equal(last)).to_series()
    trailing = int((~same).reverse().arg_max() or 0) if not same.all() else frame.height
    again = before.seen if before is not None and before.values == last else 0
    return Cursor(last, trailing + again)


def at_or_after(cursor: Cursor, keys: tuple[SortKey, ...]) -> pl.Expr:
    """Rows from the cursor's own key on."""
    out = pl.lit(value=True)
    for key, value in zip(reversed(keys), reversed(cursor.values), strict=True):
        column = pl.col(key.column)
        bound = _literal(key.column, value)
        if value is None:
            out = column.is_null() & out
            continue
        beyond = (column < bound if key.descending else column > bound).fill_null(value=True)
        out = beyond | (column.eq_missing(bound) & out)
    return out


def skipped(frame: pl.DataFrame, keys: tuple[SortKey, ...], cursor: Cursor) -> pl.DataFrame:
    """Sorted rows from the cursor on without those that were given already."""
    columns = [_plain(frame.get_column(k.column)).alias(str(i)) for i, k in enumerate(keys)]
    same = pl.DataFrame(columns).select(_equal(cursor.values)).to_series()
    return frame.slice(min(int(same.sum()), cursor.seen))


def _names(keys: tuple[SortKey, ...]) -> list[str]:
    return [("-" if k.descending else "") + k.column for k in keys]


def _plain(column: pl.Series) -> pl.Series:
    return column.dt.epoch("ms") if column.dtype == TIME_TYPE else column


def _literal(column: str, value: Scalar) -> pl.Expr:
    if column == TIME:
        return pl.lit(value, pl.Int64).cast(TIME_TYPE)
    return pl.lit(value)


def _equal(values: tuple[Any, ...]) -> pl.Expr:
    return pl.all_horizontal([pl.col(str(i)).eq_missing(pl.lit(v)) for i, v in enumerate(values)])
