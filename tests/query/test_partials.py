"""Partial results of blocks: when one is made, what it answers, and that neither a range nor a new block is overlooked."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from rta.query import partials
from rta.query.answer import rows_json
from rta.query.block import EVER, Block, Dictionaries, Piece
from rta.query.execute import run_rollup
from rta.query.partials import partial_key
from tests.query import wikipedia

ROBOTS: dict[str, Any] = {
    "metrics": [{"type": "count", "name": "n"}, {"type": "avg", "field": "added", "name": "a"}],
    "granularity": "hour",
    "group_by": ["channel"],
    "filters": {"isRobot": True},
}


@pytest.fixture(autouse=True)
def small_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partials, "ROWS_MIN", 1_000)


def blocks() -> list[Block]:
    dictionaries = Dictionaries()
    rows = wikipedia.raw_rows()
    cuts = [(0, 20_000), (20_000, 39_244)]
    return [Block(wikipedia.partials(rows.slice(a, b - a), "edits"), dictionaries) for a, b in cuts]


def answer(document: dict[str, Any], pieces: list[Piece]) -> Any:
    return json.loads(rows_json(run_rollup(planned(document), pieces)))


def planned(document: dict[str, Any]) -> Any:
    return wikipedia.planned(
        {**document, "granularity": document.get("granularity", "all"), "timezone": "Asia/Kolkata"}
    )


def test_from_the_second_time_on_a_whole_block_answers_from_its_partial() -> None:
    two = blocks()
    pieces = [Piece(block, *EVER) for block in two]
    key = partial_key(planned(ROBOTS))
    assert key is not None
    first = answer(ROBOTS, pieces)
    assert [block.partial(key) for block in two] == [None, None]
    assert answer(ROBOTS, pieces) == first
    found = [block.partial(key) for block in two]
    assert all(
        p is not None and p.frame.height * partials.SHRINKS_BY <= b.frame.height
        for p, b in zip(found, two, strict=True)
    )
    assert answer(ROBOTS, pieces) == first
    one = answer(ROBOTS, pieces[:1])
    assert sum(row["n"] for row in one) < sum(row["n"] for row in first)
    assert answer({**ROBOTS, "filters": {"isRobot": False}}, pieces) != first


def test_a_block_that_the_range_cuts_is_counted_from_its_rows_beside_partials_of_others() -> None:
    two = blocks()
    whole = [Piece(block, *EVER) for block in two]
    for _ in range(2):
        answer(ROBOTS, whole)
    middle = int(two[1].times[len(two[1].times) // 2])
    cut = [whole[0], Piece(two[1], EVER[0], middle)]
    fresh = blocks()
    expected = answer(ROBOTS, [Piece(fresh[0], *EVER), Piece(fresh[1], EVER[0], middle)])
    assert answer(ROBOTS, cut) == expected
    new = Block(two[0].frame, two[0].dictionaries)
    assert sum(r["n"] for r in answer(ROBOTS, [*cut, Piece(new, *EVER)])) > sum(r["n"] for r in expected)


def test_there_are_no_partials_of_what_many_values_make() -> None:
    for metric in ({"type": "unique_count", "field": "user"}, {"type": "quantile", "field": "delta", "q": 0.5}):
        assert partial_key(planned({"metrics": [metric]})) is None
    assert partial_key(planned({"metrics": [{"type": "count", "field": "channel"}], "group_by": ["isRobot"]})) is None


def test_a_block_keeps_a_bounded_number_of_partials() -> None:
    block = Block(blocks()[0].frame, Dictionaries())
    for number in range(200):
        assert not block.note_partial(("key", number))
    assert not block.note_partial(("key", 0))
    assert block.note_partial(("key", 199))
    assert isinstance(block.frame, pl.DataFrame)
