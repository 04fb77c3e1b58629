"""Raw rows: their order, their pages and what they show."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.errors import InvalidQueryError
from rta.events import schemas
from rta.events.schemas import ID_HI, ID_LO, REST, TIME
from rta.query.answer import Answer, arrow_stream, read_stream, rows_json
from rta.query.cursor import sort_keys
from rta.query.parse import parse_query
from rta.query.planner import plan
from rta.query.rows import Source, run_rows
from tests.query import wikipedia

ORDERS = (
    ["-time"],
    ["time"],
    ["-added", "page"],
    ["countryName", "-isRobot"],
    ["-metroCode", "time"],
    ["cityName", "user"],
)


def rows() -> pl.DataFrame:
    """A few hundred edits, every seventh at the same instant as its neighbours."""
    frame = pl.DataFrame(wikipedia.raw_rows())[:300]
    return frame.with_columns(
        pl.when(pl.int_range(300) % 7 < 3).then(pl.lit(frame[TIME][0])).otherwise(pl.col(TIME)).alias(TIME)
    )


def sources(frame: pl.DataFrame, cuts: list[int]) -> list[Source]:
    bounds = sorted({0, *cuts, frame.height})
    parts = [frame[a:b] for a, b in pairwise(bounds)]
    return [Source(p, int(p[TIME].dt.epoch("ms").min()), int(p[TIME].dt.epoch("ms").max())) for p in parts]  # type: ignore[arg-type]  # polars says any literal


def ask(frame: pl.DataFrame, cuts: list[int] | None = None, **document: Any) -> Answer:
    plan = wikipedia.planned({"select": ["*"], **document})
    return run_rows(plan, sources(frame, cuts or []))


def ids(answer: Answer) -> list[int]:
    """`delta` was overwritten with the row's number by the tests that page."""
    return answer.frame["delta"].to_list()


def numbered() -> pl.DataFrame:
    return rows().with_columns(pl.col(ID_LO).alias("delta"))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(ORDERS), st.lists(st.integers(1, 299), max_size=4), st.integers(1, 90))
def test_pages_together_are_all_rows_in_order(order: list[str], cuts: list[int], limit: int) -> None:
    frame = numbered()
    found: list[int] = []
    following: str | None = None
    while True:
        more: dict[str, Any] = {"next": following} if following else {}
        answer = ask(frame, cuts, order_by=order, limit=limit, **more)
        found += ids(answer)
        following = answer.next
        if following is None:
            break
        assert len(ids(answer)) == limit
    names = [TIME if n.removeprefix("-") == "time" else n.removeprefix("-") for n in order]
    keys = [*names, *(k for k in (TIME, "__id_hi", ID_LO) if k not in names)]
    falls = [n.startswith("-") for n in order] + [False] * (len(keys) - len(order))
    expected = frame.sort(keys, descending=falls, nulls_last=True)["delta"].to_list()
    assert found == expected


def test_events_that_arrive_between_pages_neither_repeat_nor_hide_a_row() -> None:
    frame = numbered()
    first = ask(frame[:200], order_by="-time", limit=50)
    second = ask(frame, [100], order_by="-time", limit=300, next=first.next)
    assert not set(ids(first)) & set(ids(second))
    known = set(frame[:200]["delta"].to_list())
    assert known <= set(ids(first)) | set(ids(second))


def test_equal_rows_are_paged_through_one_by_one() -> None:
    frame = pl.concat([numbered()[:1]] * 7)
    found, following = 0, None
    for _ in range(4):
        more: dict[str, Any] = {"next": following} if following else {}
        answer = ask(frame, limit=2, **more)
        found += answer.frame.height
        following = answer.next
    assert (found, following) == (7, None)


def test_a_cursor_of_another_order_or_none_is_refused() -> None:
    following = ask(numbered(), limit=1).next
    assert following is not None
    with pytest.raises(InvalidQueryError, match="belongs to another question"):
        ask(numbered(), limit=1, order_by="added", next=following)
    with pytest.raises(InvalidQueryError, match="is not a cursor"):
        ask(numbered(), limit=1, next="rubbish!")


def test_a_row_shows_its_columns_and_what_it_carried_beside_them_without_overwriting() -> None:
    frame = rows()[:3].with_columns(
        pl.Series(REST, ['{"extra":{"a":[1,2]},"channel":"evil","big":12345678901234567890}', "{}", None])
    )
    found = json.loads(rows_json(ask(frame, order_by="added", limit=3)))
    carried = next(r for r in found if "extra" in r)
    assert carried["extra"] == {"a": [1, 2]}
    assert carried["big"] == 12345678901234567890
    assert carried["channel"].startswith("#")
    names = ["time", *(c.name for c in wikipedia.datasource().columns)]
    assert list(carried) == [*names, "extra", "big"]
    assert all(list(r) == names for r in found if "extra" not in r)


def test_an_escaped_name_does_not_smuggle_a_column_in() -> None:
    frame = rows()[:1].with_columns(pl.Series(REST, ['{"ch\\u0061nnel":"evil","x":1}']))
    text = rows_json(ask(frame)).decode()
    assert "evil" not in text
    assert json.loads(text)[0]["x"] == 1


def test_selected_paths_keep_their_json_type() -> None:
    rest = '{"a":{"s":"t\\"x","n":1.50,"b":false,"l":[1,{"z":null}],"o":null}}'
    frame = rows()[:1].with_columns(pl.Series(REST, [rest]))
    found = json.loads(rows_json(ask(frame, select=["a.s", "a.n", "a.b", "a.l", "a.o", "a.gone", "page"])))
    expected = {"a.s": 't"x', "a.n": 1.5, "a.b": False, "a.l": [1, {"z": None}], "a.o": None, "a.gone": None}
    assert found == [{**expected, "page": frame["page"][0]}]


def test_numbers_times_and_nulls_are_written_exactly() -> None:
    frame = rows()[:1].with_columns(pl.lit(2**63 - 1).alias("added"), pl.lit(None, pl.Int64).alias("deleted"))
    text = rows_json(ask(frame, select=["time", "added", "deleted"])).decode()
    assert text == '[{"time":"2015-09-12T00:46:58.771Z","added":9223372036854775807,"deleted":null}]'


def test_an_arrow_answer_holds_the_same_rows() -> None:
    answer = ask(rows(), select=["time", "page", "added"], limit=20)
    assert read_stream(arrow_stream(answer)).equals(answer.frame)


def test_filters_and_the_range_apply_to_raw_rows() -> None:
    frame = numbered()
    answer = ask(frame, filters={"isRobot": True}, time_range="2015-09-12T00:46:00Z/2015-09-12T00:47:30Z")
    inside = frame.filter(pl.col("isRobot"), pl.col(TIME).dt.epoch("ms").is_between(1442018760000, 1442018849999))
    assert sorted(ids(answer)) == sorted(inside["delta"].to_list())
    assert answer.next is None


def test_no_rows_are_an_empty_list() -> None:
    answer = ask(rows(), filters={"channel": "nowhere"})
    assert (rows_json(answer), answer.next) == (b"[]", None)


def test_events_of_other_producers_with_one_id_are_told_apart_by_their_places() -> None:
    source = msgspec.structs.replace(wikipedia.datasource(), id="page", source=schemas.Source("edits"))
    asked = plan(parse_query({"datasource": "wikipedia", "select": ["*"]}), source, wikipedia.NOW_MS)
    assert [key.column for key in sort_keys(asked)] == [TIME, "page", "user", ID_HI, ID_LO]
    frame = rows().head(20).with_columns(pl.lit("one").alias("page"), pl.lit("the same").alias("user"))
    frame = frame.with_columns(pl.lit(frame[TIME][0]).alias(TIME), pl.col(ID_LO).alias("delta"))
    found: list[int] = []
    following: str | None = None
    for step in range(5):
        query = parse_query({"datasource": "wikipedia", "select": ["delta"], "limit": 4, "next": following})
        # What lies beyond the files comes in another order every time.
        answer = run_rows(plan(query, source, wikipedia.NOW_MS), sources(frame.sample(20, shuffle=True, seed=step), []))
        found += answer.frame["delta"].to_list()
        following = answer.next
    assert sorted(found) == list(range(20))
    assert following is None
