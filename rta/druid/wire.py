"""How values and rows look in the JSON of an answer: longs without a point, doubles with one, NaN and infinity as texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import orjson
import polars as pl

from rta.druid.problems import unsupported
from rta.druid.sketches import is_kll
from rta.druid.values import POLARS, SKETCHES, Column, Type

Outputs = Sequence[tuple[str, Column]]


def shown(frame: pl.DataFrame, outputs: Outputs) -> pl.DataFrame:
    """The columns under their names, in forms that JSON has."""
    if not outputs:
        return frame.select([])
    for name, column in outputs:
        if column.type is Type.QUANTILES:
            _refuse_kll(frame.select(column.expr.alias(name)).to_series())
    return frame.with_columns([_plain(column).alias(name) for name, column in outputs]).select([n for n, _ in outputs])


def _refuse_kll(sketches: pl.Series) -> None:
    if any(is_kll(data) for data in sketches.drop_nulls()):
        raise unsupported(
            "the unfinalised sketch of", sketches.name, "rollups keep KLL sketches, which Druid can't read"
        )


def _plain(column: Column) -> pl.Expr:
    if column.type in SKETCHES:
        return column.expr.bin.encode("base64")
    if column.missing:
        return pl.lit(None, POLARS[column.type])
    return column.expr


def rows_json(frame: pl.DataFrame, height: int | None = None) -> bytes:
    """The rows as an array of objects. `height` is for frames without columns."""
    if not frame.width:
        return b"[" + b",".join([b"{}"] * (height or 0)) + b"]"
    if is_finite(frame):
        return frame.write_json().encode()
    return orjson.dumps([_texts(row) for row in frame.iter_rows(named=True)])


def is_finite(frame: pl.DataFrame) -> bool:
    for series in frame.get_columns():
        values = series.explode(empty_as_null=True) if isinstance(series.dtype, pl.List) else series
        if values.dtype.is_float() and not values.is_finite().all():
            return False
    return True


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _texts(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def lists_json(frame: pl.DataFrame) -> bytes:
    """The rows as an array of arrays."""
    if is_finite(frame):
        return orjson.dumps(frame.rows())
    return orjson.dumps([_texts(row) for row in frame.iter_rows()])


def nested_json(frame: pl.DataFrame, name: str, values: pl.DataFrame) -> bytes:
    """An array of objects that hold the columns of `frame` and, under `name`, an object of those of `values`."""
    if not values.width:
        return orjson.dumps([row | {name: {}} for row in frame.iter_rows(named=True)])
    if is_finite(values):
        return frame.with_columns(values.to_struct(name)).write_json().encode()
    rows = zip(frame.iter_rows(named=True), values.iter_rows(named=True), strict=True)
    return orjson.dumps([row | {name: _texts(inner)} for row, inner in rows])
