"""The name of what a segment holds of a range: equal names mean equal rows, and events elsewhere change no name."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from rta.events.schemas import TIME, TIMESTAMP
from rta.serve.spans import GRAIN_MS, SPANS_MAX, Span, extended, last_within, times_of_frame, times_of_rows, within

CHUNKS = st.lists(st.lists(st.integers(0, 60), max_size=4), max_size=120)
"""Per chunk the times of its rows, in grains."""


def spans_of(chunks: list[list[int]], cuts: set[int]) -> tuple[Span, ...]:
    """As a replica sees them that fetched the chunks in pieces, cut behind these."""
    spans: tuple[Span, ...] = ()
    pending: list[int] = []
    for number, times in enumerate(chunks, 1):
        pending += times
        if number in cuts or number == len(chunks):
            reached = [t * GRAIN_MS for t in pending]
            spans = extended(spans, number, (min(reached), max(reached)) if reached else None)
            pending = []
    return spans


def held(chunks: list[list[int]], count: int, start: int, end: int) -> list[int]:
    return [t for times in chunks[:count] for t in times if start <= t < end]


@given(CHUNKS, st.sets(st.integers(1, 120)), st.integers(0, 60), st.integers(1, 60))
def test_the_chunks_up_to_the_named_one_hold_all_of_the_range(
    chunks: list[list[int]], cuts: set[int], start: int, length: int
) -> None:
    spans = spans_of(chunks, cuts)
    last = last_within(spans, start * GRAIN_MS, (start + length) * GRAIN_MS)
    assert held(chunks, last, start, start + length) == held(chunks, len(chunks), start, start + length)
    assert len(spans) <= SPANS_MAX


@given(CHUNKS, st.sets(st.integers(1, 120)), st.lists(st.integers(30, 60), min_size=1, max_size=3))
def test_a_chunk_at_other_times_leaves_the_name(chunks: list[list[int]], cuts: set[int], added: list[int]) -> None:
    before = spans_of(chunks[:50], cuts)
    after = extended(before, len(chunks[:50]) + 1, (min(added) * GRAIN_MS, max(added) * GRAIN_MS))
    assert last_within(before, 0, 30 * GRAIN_MS) == last_within(after, 0, 30 * GRAIN_MS)
    assert last_within(after, 30 * GRAIN_MS, 61 * GRAIN_MS) == len(chunks[:50]) + 1


def test_many_spans_are_joined_and_still_say_no_less() -> None:
    spans: tuple[Span, ...] = ()
    for number in range(1, 1000):
        spans = extended(spans, number, (number * GRAIN_MS, number * GRAIN_MS))
    assert len(spans) == SPANS_MAX
    assert last_within(spans, 999 * GRAIN_MS, 1000 * GRAIN_MS) == 999
    assert last_within(spans, 0, 2 * GRAIN_MS) >= 1
    assert last_within(spans, 2000 * GRAIN_MS, 3000 * GRAIN_MS) == 0


def test_times_are_read_from_rows_and_frames() -> None:
    moments = [datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC) for second in (5, 2, 9)]
    base = 1_767_225_600_000
    rows = pa.table({TIME: pa.array(moments, TIMESTAMP)})
    assert times_of_rows(rows) == (base + 2_000, base + 9_000)
    assert times_of_rows(rows.slice(0, 0)) is None
    frame = pl.DataFrame({TIME: moments}, schema={TIME: pl.Datetime("ms", "UTC")})
    assert times_of_frame(frame) == (base + 2_000, base + 9_000)
    assert times_of_frame(frame.clear()) is None
    assert within((5, 9), 9, 10)
    assert not within((5, 9), 10, 11)
    assert not within((5, 9), 0, 5)
    assert not within(None, 0, 10)
