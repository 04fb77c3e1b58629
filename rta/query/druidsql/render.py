"""Rows of an answer → the bytes of Druid's result formats, compact, with header lines where they are asked for.

Owns how values are written: times in ISO 8601 with milliseconds and the zone of the query, doubles that are no numbers as text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

import orjson
import polars as pl
import pyarrow as pa

from rta.query.druidsql.kinds import Base, native_type, sql_type
from rta.query.druidsql.translate import OutputColumn
from rta.query.druidsql.typed import offset_ms

Format = Literal["object", "array", "objectLines", "arrayLines", "csv"]
FORMATS: tuple[Format, ...] = ("object", "array", "objectLines", "arrayLines", "csv")
_TRUTHS = {True: "true", False: "false"}
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


@dataclass(frozen=True, slots=True)
class Form:
    """How the answer is written."""

    format: Format = "object"
    header: bool = False
    types: bool = False
    sql_types: bool = False
    zone: str = "UTC"


def render(rows: pa.Table, columns: Sequence[OutputColumn], form: Form) -> bytes:
    """The body. `rows` has the columns in their order, under any names."""
    names = [c.name for c in columns]
    values = [_values(rows.column(i), column, form) for i, column in enumerate(columns)]
    found = list(zip(*values, strict=True))
    if form.format in ("object", "objectLines"):
        objects: list[Any] = list(map(dict, map(zip, repeat(names), found)))
        if form.header:
            objects.insert(0, {c.name: _described(c, form) for c in columns})
        return orjson.dumps(objects) if form.format == "object" else _lines(objects)
    lines = [*_heads(columns, form), *found]
    if form.format == "array":
        return orjson.dumps(lines)
    return _lines(lines) if form.format == "arrayLines" else _csv(lines)


def _values(column: pa.ChunkedArray, shown: OutputColumn, form: Form) -> list[Any]:
    kind = shown.kind
    if shown.as_json or pa.types.is_null(column.type):
        return list(column.to_pylist())
    if kind.is_time:
        return _times(column, form.zone)
    if kind.base is Base.DOUBLE and not kind.is_list:
        return _doubles(pl.Series(column.cast(pa.float64())))
    if kind.base is Base.BIGINT and not kind.is_list and not pa.types.is_integer(column.type):
        return [None if v is None else int(v) for v in column.to_pylist()]
    return pl.Series(column).to_list()


def _times(column: pa.ChunkedArray, zone: str) -> list[Any]:
    # Without a zone a timestamp is one of UTC.
    times = (
        pl.Series(column.cast(pa.timestamp("ms"), safe=False))
        if column.type.tz is None
        else pl.Series(column.cast(pa.timestamp("ms", "UTC"), safe=False)).dt.replace_time_zone(None)
    )
    form = "%Y-%m-%dT%H:%M:%S%.3f"
    shift = offset_ms(zone)
    if shift == 0:
        return times.dt.to_string(f"{form}Z").to_list()
    if shift is not None:
        sign, minutes = "-" if shift < 0 else "+", abs(shift) // 60_000
        moved = times.dt.offset_by(f"{shift}ms").dt.to_string(form)
        return (moved + f"{sign}{minutes // 60:02d}:{minutes % 60:02d}").to_list()
    return times.dt.replace_time_zone("UTC").dt.convert_time_zone(zone).dt.to_string(f"{form}%:z").to_list()


def _doubles(values: pl.Series) -> list[Any]:
    if bool(values.drop_nulls().is_finite().all()):
        return values.to_list()
    return [v if v is None or v - v == 0 else _NOT_FINITE[str(v)] for v in values.to_list()]


def _heads(columns: Sequence[OutputColumn], form: Form) -> list[list[str]]:
    """Lines of the header: names, native types, SQL types."""
    if not form.header:
        return []
    lines = [[c.name for c in columns]]
    if form.types:
        lines.append([native_type(c.kind) for c in columns])
    if form.sql_types:
        lines.append([sql_type(c.kind) for c in columns])
    return lines


def _described(column: OutputColumn, form: Form) -> dict[str, str] | None:
    found = {"type": native_type(column.kind)} if form.types else {}
    if form.sql_types:
        found["sqlType"] = sql_type(column.kind)
    return found or None


def _lines(rows: Sequence[Any]) -> bytes:
    """One a line, and an empty one at the end, by which clients know that it is the end."""
    return b"\n".join((*map(orjson.dumps, rows), b"", b""))


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_words(row) for row in rows])
    return (text.getvalue() + "\n").encode()


def _words(row: Sequence[Any]) -> list[Any]:
    """Truth values as JSON has them, lists as JSON."""
    return [_TRUTHS[v] if isinstance(v, bool) else orjson.dumps(v).decode() if isinstance(v, list) else v for v in row]
