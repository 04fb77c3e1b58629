"""What an aggregator says of its hot segments."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from rta.actors.messages import Cursor
from rta.actors.segments import HotSegments
from rta.events.schemas import TIME, TIMESTAMP
from rta.stream.model import Increment


def increment(offset: int, times_ms: Sequence[int]) -> Increment:
    rows = pa.table({TIME: pa.array(list(times_ms), TIMESTAMP)})
    return Increment(to_offsets={0: offset}, rows=rows, partials={}, duplicates=0)


def joined(_: str, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(frames)


def test_a_delta_says_which_times_its_raw_rows_have() -> None:
    segments = HotSegments({0: 0}, joined)
    for offset, times in ((1, [5_000, 1_000]), (2, []), (3, [9_000]), (4, [])):
        segments.append(increment(offset, times))
    (whole,) = segments.since(None)
    assert (whole.rows, whole.rows_ms) == (3, (1_000, 9_000))
    (rest,) = segments.since(Cursor("load", 0, 2))
    assert (rest.rows, rest.rows_ms) == (1, (9_000, 9_000))
    (nothing,) = segments.since(Cursor("load", 0, 3))
    assert (nothing.rows, nothing.rows_ms) == (0, None)
