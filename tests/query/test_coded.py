"""Quantiles and distinct counts by codes equal those of the plain items, however rows are cut into blocks and selected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.events.schemas import TIME
from rta.query import block as block_module
from rta.query.block import Block, Dictionaries
from rta.query.coded import count_distinct_coded, parts_of, ranks_coded

MANY = 1 << 30
Row = tuple[list[float], list[int], int]
_values = st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324, float("inf"), float("-inf")])
_rows = st.lists(
    st.tuples(
        st.lists(_values, max_size=6),
        st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2), max_size=6),
        st.integers(0, 3),
    ),
    max_size=30,
)


def blocks_of(rows: Sequence[Row], cut: int, dictionaries: Dictionaries) -> list[Block]:
    schema = {TIME: pl.Datetime("ms", "UTC"), "q": pl.List(pl.Float64), "u": pl.List(pl.Int64)}
    return [
        Block(pl.DataFrame([(k, q, u) for k, (q, u, _) in enumerate(part)], schema, orient="row"), dictionaries)
        for part in (rows[:cut], rows[cut:])
    ]


@settings(deadline=None)
@given(_rows, st.integers(0, 30), st.floats(0, 1), st.data())
def test_codes_give_what_the_items_give(rows: list[Row], cut: int, q: float, data: st.DataObject) -> None:
    cut = min(cut, len(rows))
    blocks = blocks_of(rows, cut, Dictionaries())
    slices = [(b, 0, b.frame.height) for b in blocks]
    chosen = data.draw(st.none() | st.sets(st.integers(0, max(len(rows) - 1, 0))).map(sorted))
    positions = None if chosen is None else np.array([p for p in chosen if p < len(rows)], np.int64)
    taken = rows if positions is None else [rows[p] for p in positions.tolist()]
    of_row = np.array([group for _, _, group in taken], np.int32)
    parts = list(parts_of(slices, positions, of_row))
    ranked = ranks_coded(parts, "q", 4, MANY, q)
    distinct = count_distinct_coded(parts, "u", 4, MANY)
    assert ranked is not None
    assert distinct is not None
    for group in range(4):
        values = sorted(v for items, _, g in taken if g == group for v in items)
        assert bool(ranked[1][group]) is bool(values)
        if values:
            assert ranked[0][group] == values[max(int(np.ceil(len(values) * q)) - 1, 0)]
        assert distinct[group] == len({h for _, items, g in taken if g == group for h in items})


def test_hashes_of_many_blocks_share_their_codes_while_the_table_grows() -> None:
    dictionaries = Dictionaries()
    rng = np.random.default_rng(3)
    seen: dict[int, int] = {}
    for _ in range(5):
        hashes = rng.integers(-(2**63), 2**63 - 1, 20_000)
        hashes[:500] = np.array(list(seen)[:500] or [0], np.int64)[0]
        known = dictionaries.of_items("u").encode(hashes)
        assert known is not None
        for value, code in zip(hashes.tolist(), known.codes.tolist(), strict=True):
            assert seen.setdefault(value, code) == code
        assert known.size == len(seen)
    assert sorted(seen.values()) == list(range(len(seen)))


def test_a_table_with_too_many_distinct_hashes_has_no_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_module, "HASHES_MAX", 1_000)
    rows: list[Row] = [([], list(range(5_000)), 0), ([], [1], 0)]
    blocks = blocks_of(rows, 1, Dictionaries())
    parts = list(parts_of([(b, 0, 1) for b in blocks], None, np.zeros(2, np.int32)))
    assert count_distinct_coded(parts, "u", 1, MANY) is None


def test_few_items_and_many_groups_are_left_to_the_items() -> None:
    rows: list[Row] = [([1.0], [1], 0)]
    blocks = blocks_of(rows, 1, Dictionaries())
    parts = list(parts_of([(blocks[0], 0, 1)], None, np.zeros(1, np.int32)))
    assert ranks_coded(parts, "q", 1, 1, 0.5) is None
    assert ranks_coded(parts, "q", 1_000, MANY, 0.5) is None
    assert count_distinct_coded(parts, "u", 1 << 22, MANY) is None
