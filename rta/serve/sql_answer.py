"""What the SQL engine found, and its forms on the wire: JSON rows, CSV, an Arrow stream.

Types that JSON and Arrow clients do not share (intervals, times of day, UUIDs, maps, …) are texts in every form. Whole numbers
of 128 bits, such as a sum of longs, are 64-bit where all of them fit, else decimals. Times have milliseconds, as everywhere.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import orjson
import polars as pl
import pyarrow as pa

if TYPE_CHECKING:
    import duckdb

Form = Literal["json", "csv", "arrow"]
_PLAIN = re.compile(
    r"VARCHAR|BOOLEAN|U?TINYINT|U?SMALLINT|U?INTEGER|U?BIGINT|FLOAT|DOUBLE|DATE|U?HUGEINT|DECIMAL\(\d+,\d+\)"
    r"|TIMESTAMP(_S|_MS|_NS)?|TIMESTAMP WITH TIME ZONE"
)
_PLAIN_LIST = re.compile(r"(VARCHAR|BOOLEAN|INTEGER|BIGINT|DOUBLE)(\[\])+")
_NESTED = re.compile(r"STRUCT\(|.*\[\d*\]$|MAP\(|UNION\(|VARIANT", re.DOTALL)
_LONG = pa.int64()
_TIME = {True: pa.timestamp("ms", tz="UTC"), False: pa.timestamp("ms")}


@dataclass(frozen=True, slots=True)
class Answered:
    """Rows of an answer. `json` names the columns whose texts are JSON; `more` says that the limit cut rows off."""

    rows: pa.Table
    json: frozenset[str]
    more: bool


def found(relation: duckdb.DuckDBPyRelation, limit: int) -> Answered:
    """At most so many rows of what the engine is asked for, in types that every form has."""
    names = _distinct(relation.columns)
    types = [str(kind) for kind in relation.types]
    shown = [_shown(number, kind, name) for number, (kind, name) in enumerate(zip(types, names, strict=True), 1)]
    table = relation.limit(limit + 1).project(", ".join(shown)).to_arrow_table()
    rows = pa.table([_fitted(column) for column in table.columns], names=names)
    json = frozenset(n for n, kind in zip(names, types, strict=True) if kind == "JSON" or _is_nested(kind))
    return Answered(rows.slice(0, limit), json, rows.num_rows > limit)


def rendered(answer: Answered, form: Form) -> bytes:
    match form:
        case "arrow":
            return _arrow(answer.rows)
        case "csv":
            return _csv(answer)
        case "json":
            return _json(answer)


def _distinct(columns: list[str]) -> list[str]:
    """The names with a number behind those that were there already: an object has each name once."""
    taken: set[str] = set()
    names = []
    for column in columns:
        name, number = column, 0
        while name in taken:
            number += 1
            name = f"{column}_{number}"
        taken.add(name)
        names.append(name)
    return names


def _is_nested(kind: str) -> bool:
    return _PLAIN_LIST.fullmatch(kind) is None and _NESTED.match(kind) is not None


def _shown(number: int, kind: str, name: str) -> str:
    column = f"#{number}"
    if _is_nested(kind):
        column = f"CAST(to_json({column}) AS VARCHAR)"
    elif _PLAIN.fullmatch(kind) is None and _PLAIN_LIST.fullmatch(kind) is None:
        column = f"CAST({column} AS VARCHAR)"
    quoted = name.replace('"', '""')
    return f'{column} AS "{quoted}"'


def _fitted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_timestamp(kind):
        return column.cast(_TIME[kind.tz is not None], safe=False)
    if pa.types.is_decimal(kind) and kind.scale == 0:
        try:
            return column.cast(_LONG)
        except pa.ArrowInvalid:
            return column
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    return column


def _arrow(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def _json(answer: Answered) -> bytes:
    """An array of objects; the columns keep their order, texts that are JSON are put in as they are."""
    frame = _frame(answer.rows)
    raw = answer.json | {name for name, kind in frame.schema.items() if isinstance(kind, pl.Decimal)}
    frame = _with_texts(frame)
    if not frame.height or not frame.width:
        return b"[]"
    if not raw:
        return frame.write_json().encode()
    pieces: list[pl.Expr] = []
    for is_raw, run in groupby(frame.columns, raw.__contains__):
        names = list(run)
        if is_raw:
            pieces += [pl.lit(orjson.dumps(n).decode() + ":") + pl.col(n).fill_null("null") for n in names]
        else:
            pieces.append(pl.struct(names).struct.json_encode().str.head(-1).str.tail(-1))
    rows = frame.select(pl.lit("{") + pl.concat_str(pieces, separator=",") + pl.lit("}")).to_series()
    return ("[" + ",".join(rows.to_list()) + "]").encode()


def _csv(answer: Answered) -> bytes:
    frame = _with_texts(_frame(answer.rows))
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
    encoded = [
        pl.struct(pl.col(name).alias("v")).struct.json_encode().str.slice(len('{"v":')).str.head(-1).alias(name)
        for name in lists
    ]
    sink = io.BytesIO()
    frame.with_columns(encoded).write_csv(sink)
    return sink.getvalue()


def _frame(rows: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _with_texts(frame: pl.DataFrame) -> pl.DataFrame:
    """Times as ISO 8601, with `Z` where they are UTC, and decimals with all their digits."""
    columns = []
    for name, kind in frame.schema.items():
        if isinstance(kind, pl.Datetime):
            columns.append(pl.col(name).dt.to_string("%Y-%m-%dT%H:%M:%S%.3f" + ("Z" if kind.time_zone else "")))
        elif isinstance(kind, pl.Decimal):
            columns.append(pl.col(name).cast(pl.String))
    return frame.with_columns(columns)
