"""Which times the chunks of a hot segment touch: so that a question can name just the part of it that it reads.

What a segment holds of a range is settled by the last of its chunks that touches the range: later ones add nothing there. So
two questions that find the same last chunk read the same rows, however much has come in meanwhile at other times. Spans
may say too much (they are rounded, and old ones are joined), which only names a later chunk than need be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from rta.events.schemas import TIME
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN

GRAIN_MS = 10_000
SPANS_MAX = 64
"""Of one segment and table; beyond, the two oldest are joined."""
Times = tuple[int, int]
"""First and last event time or bucket, both included."""
RAW = None
"""The key of raw rows, beside the names of rollups."""
TimesByTable = Mapping[str | None, Times]


class Span(NamedTuple):
    """Chunks before `next_chunk`, from the span before on, touch nothing but `[start_ms, end_ms)`."""

    next_chunk: int
    start_ms: int
    end_ms: int


def extended(spans: tuple[Span, ...], next_chunk: int, times: Times | None) -> tuple[Span, ...]:
    """The spans after more chunks, which touch `times`, or nothing. Ascending by chunk."""
    if times is None:
        return spans
    start, end = times[0] // GRAIN_MS * GRAIN_MS, (times[1] // GRAIN_MS + 1) * GRAIN_MS
    kept = [span for span in spans if not (start <= span.start_ms and span.end_ms <= end)]
    kept.append(Span(next_chunk, start, end))
    if len(kept) > SPANS_MAX:
        first, second = kept[0], kept[1]
        joined = Span(second.next_chunk, min(first.start_ms, second.start_ms), max(first.end_ms, second.end_ms))
        kept[:2] = [joined]
    return tuple(kept)


def last_within(spans: tuple[Span, ...], start_ms: int, end_ms: int) -> int:
    """The number behind the last chunk that touches the range; 0 when none does."""
    return max((s.next_chunk for s in spans if s.start_ms < end_ms and s.end_ms > start_ms), default=0)


def within(times: Times | None, start_ms: int, end_ms: int) -> bool:
    """Whether rows of these times can be in the range."""
    return times is not None and times[0] < end_ms and times[1] >= start_ms


def times_of_frame(frame: pl.DataFrame) -> Times | None:
    """Of rollup rows; None when there are none."""
    if not frame.height:
        return None
    stamps = frame.get_column(TIME).dt.epoch("ms")
    first, last = stamps.min(), stamps.max()
    return (first, last) if isinstance(first, int) and isinstance(last, int) else (TIME_MS_MIN, TIME_MS_MAX)


def times_of_rows(rows: pa.Table) -> Times | None:
    """Of raw rows; None when there are none."""
    if not rows.num_rows:
        return None
    found = pc.min_max(rows.column(TIME).cast(pa.int64()))
    return int(found["min"].as_py()), int(found["max"].as_py())
