"""Few rows are ordered and written without polars, and come out as polars would have them."""

from __future__ import annotations

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.query import answer, order
from rta.query.answer import TIME_TYPE, Answer, rows_json
from rta.query.model import Order

TIMES = st.none() | st.integers(-62_135_596_800_000, 253_402_300_799_999)
TEXTS = st.none() | st.text(st.characters(codec="utf-8"), max_size=4)
NUMBERS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2)
DOUBLES = st.none() | st.floats() | st.sampled_from([0.0, 1.0, 1e22, 1e-7, float("inf")])
TRUTHS = st.none() | st.booleans()
SCHEMA = {"time": TIME_TYPE, "text": pl.String(), "n": pl.Int64(), "x": pl.Float64(), "b": pl.Boolean()}


def frames() -> st.SearchStrategy[pl.DataFrame]:
    rows = st.lists(st.tuples(TIMES, TEXTS, NUMBERS, DOUBLES, TRUTHS), max_size=8)
    return rows.map(
        lambda found: pl.DataFrame(found, {**SCHEMA, "time": pl.Int64()}, orient="row").cast({"time": TIME_TYPE})
    )


@settings(deadline=None, max_examples=60)
@given(frames())
def test_few_rows_are_written_as_many_are(frame: pl.DataFrame) -> None:
    few = json.loads(rows_json(Answer(frame)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer, "FEW_ROWS", -1)
        many = json.loads(rows_json(Answer(frame)))
    assert few == many


ORDERS = st.builds(Order, st.sampled_from(list(SCHEMA)), descending=st.booleans(), nulls_first=st.booleans())


@settings(deadline=None, max_examples=60)
@given(frames(), st.lists(ORDERS, min_size=1, unique_by=lambda by: by.name))
def test_few_rows_are_ordered_as_many_are(frame: pl.DataFrame, orders: list[Order]) -> None:
    names = [by.name for by in orders]
    keys = order._sorted(frame, orders).select(names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "FEW_ROWS", -1)
        expected = order._sorted(frame, orders).select(names)
    assert keys.equals(expected)
