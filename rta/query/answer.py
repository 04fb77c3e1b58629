"""An answer: a frame of rows, and its forms on the wire: JSON rows and an Arrow stream.

Times are written in ISO 8601 UTC with milliseconds, what is empty or not a number as null, whole numbers with all
digits. An answer of more than `FEW_ROWS` is written by columns; no row becomes a Python object.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

TIME_TYPE = pl.Datetime("ms", "UTC")
FEW_ROWS = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question came to.

    Args:
        frame: In the order of the answer. Times are `TIME_TYPE`.
        bounds: Per metric that was estimated how far it may be off.
        more: True when the limit cut rows off.
        next: Cursor of the following page of raw rows.
        spliced: Per column of JSON text how it is written: as a member of the row, or ("*") its members into the row.
    """

    frame: pl.DataFrame
    bounds: dict[str, dict[str, float]] = field(default_factory=dict)
    more: bool = False
    next: str | None = None
    spliced: dict[str, str] = field(default_factory=dict)


_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%.3fZ"


@lru_cache(maxsize=1024)
def format_time(instant_ms: int) -> str:
    """ISO 8601 UTC with milliseconds; the end of the last year is written as its last instant."""
    instant = _EPOCH + timedelta(milliseconds=min(instant_ms, 253_402_300_799_999))
    return instant.strftime("%Y-%m-%dT%H:%M:%S.").rjust(20, "0") + f"{instant.microsecond // 1000:03d}Z"


def rows_json(answer: Answer) -> bytes:
    """The rows as a JSON array of objects."""
    if not answer.spliced and answer.frame.height <= FEW_ROWS and all(map(_plain, answer.frame.dtypes)):
        return _few_rows_json(answer.frame)
    frame = _with_texts(answer.frame)
    if answer.spliced:
        from rta.query.splice import spliced_rows

        return spliced_rows(frame, answer.spliced)
    return frame.write_json().encode() if frame.width else b"[]"


def _plain(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Int64 | pl.Float64 | pl.String | pl.Boolean | pl.Datetime)


def _few_rows_json(frame: pl.DataFrame) -> bytes:
    """The same for few rows: polars would take most of its time to get ready."""
    if not frame.width:
        return b"[]"
    columns = [_texts(c) if isinstance(c.dtype, pl.Datetime) else c.to_list() for c in frame.get_columns()]
    names = frame.columns
    return orjson.dumps([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)])


def _texts(times: pl.Series) -> list[str | None]:
    """Times as ISO 8601; equal ones are written once."""
    stamps = times.dt.epoch("ms").to_list()
    written = {stamp: format_time(stamp) for stamp in set(stamps) if stamp is not None}
    return [written.get(stamp) for stamp in stamps]


def arrow_stream(answer: Answer) -> bytes:
    """The rows as an Arrow IPC stream; JSON stays text."""
    table: Any = answer.frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def read_stream(data: bytes) -> pl.DataFrame:
    """What `arrow_stream` wrote, back as a frame."""
    found = pl.from_arrow(pa.ipc.open_stream(data).read_all())
    assert isinstance(found, pl.DataFrame)
    return found


def _with_texts(frame: pl.DataFrame) -> pl.DataFrame:
    written: list[pl.Expr] = []
    for name, dtype in frame.schema.items():
        if isinstance(dtype, pl.Datetime):
            written.append(pl.col(name).dt.to_string(_TIME_FORMAT))
        elif isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct):
            times = [part.name for part in dtype.inner.fields if isinstance(part.dtype, pl.Datetime)]
            texts = [pl.element().struct.field(part).dt.to_string(_TIME_FORMAT) for part in times]
            written += [pl.col(name).list.eval(pl.element().struct.with_fields(texts))] if texts else []
    return frame.with_columns(written) if written else frame
