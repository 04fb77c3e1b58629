"""Which rollups the last questions would have wanted: what they need, put together to few, with what that costs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rta.events.definition import parse_datasource
from rta.events.schemas import TIME, Grain, MetricType, Rollup
from rta.query.advise import Asked, Wish, groups_of_a_day, propose, rollup_document, rollup_of, wish_of
from tests.query import wikipedia
from tests.query.test_service import COUNT, Asker, run
from tests.query.wikipedia import planned

DAY = "2015-09-12T00:00:00Z/2015-09-13T00:00:00Z"


@pytest.mark.parametrize(
    ("document", "dimensions", "metrics", "grain"),
    [
        ({}, set(), set(), Grain.DAY),
        ({"group_by": ["page"], "filters": {"user": "A"}}, {"page", "user"}, set(), Grain.DAY),
        ({"granularity": "hour"}, set(), set(), Grain.HOUR),
        ({"time_range": "2015-09-12T01:00:00Z/2015-09-12T02:01:00Z"}, set(), set(), Grain.MINUTE),
        ({"granularity": "day", "timezone": "Asia/Kolkata"}, set(), set(), Grain.MINUTE),
        ({"metrics": [{"type": "avg", "field": "added"}]}, set(), {(MetricType.SUM, "added")}, Grain.DAY),
        ({"metrics": [{"type": "top", "field": "page"}]}, set(), {(MetricType.TOP, "page")}, Grain.DAY),
        ({"metrics": [{"type": "unique_count", "field": "page"}], "group_by": ["page"]}, {"page"}, set(), Grain.DAY),
    ],
)
def test_a_question_wants_what_it_groups_and_compares_by(
    document: dict[str, Any], dimensions: set[str], metrics: set[Any], grain: Grain
) -> None:
    asked = {"metrics": [{"name": "n", "type": "count"}], "time_range": DAY, **document}
    assert wish_of(planned(asked)) == Wish(frozenset(dimensions), frozenset(metrics), grain)


@pytest.mark.parametrize(
    "document",
    [
        {"select": ["*"]},
        {"metrics": [{"name": "n", "type": "count"}], "group_by": ["some.thing"]},
        {"metrics": [{"name": "n", "type": "count"}], "granularity": "second"},
        {"metrics": [{"type": "quantile", "field": "added", "q": 0.5, "exact": True}]},
    ],
)
def test_what_no_rollup_can_answer_wants_none(document: dict[str, Any]) -> None:
    assert wish_of(planned({"time_range": DAY, **document})) is None


def wish(*dimensions: str, grain: Grain = Grain.HOUR, sums: Collection[str] = ()) -> Wish:
    return Wish(frozenset(dimensions), frozenset((MetricType.SUM, name) for name in sums), grain)


def asked(it: Wish, seconds: float = 1.0, table: str = "events") -> Asked:
    return Asked(it, table, 10, 1_000_000, 10_000_000, seconds, 10.0)


SIZES = {"page": 1000.0, "user": 5000.0, "country": 50.0, "city": 1.2}


def rows_per_day(dimensions: Collection[str], grain: Grain) -> float:
    rows = 24.0 if grain is Grain.HOUR else 1440.0 if grain is Grain.MINUTE else 1.0
    for name in dimensions:
        rows *= SIZES[name]
    return rows


def test_wishes_that_one_rollup_serves_at_little_more_cost_become_one() -> None:
    found = propose(
        [asked(wish("page"), 5.0), asked(wish("page", sums=["price"]), 1.0), asked(wish("page", "city"), 2.0)],
        (),
        rows_per_day,
    )
    assert [p.wish for p in found] == [wish("page", "city", sums=["price"])]
    assert found[0].seconds == 8.0


def test_wishes_whose_union_would_be_large_stay_apart_and_the_dearest_goes_first() -> None:
    found = propose([asked(wish("page"), 1.0), asked(wish("user"), 5.0)], (), rows_per_day)
    assert [p.wish for p in found] == [wish("user"), wish("page")]


def test_what_a_rollup_holds_already_is_not_proposed_again() -> None:
    there = Rollup("there", Grain.MINUTE, ("page", "user"), ())
    assert propose([asked(wish("page"))], (there,), rows_per_day) == []


def test_a_smaller_rollup_is_proposed_beside_one_that_is_far_larger_than_needed() -> None:
    there = Rollup("there", Grain.HOUR, ("country", "page", "user"), ())
    found = propose([asked(wish("country"), table=there.table)], (there,), rows_per_day)
    assert [p.wish for p in found] == [wish("country")]
    assert propose([asked(wish("page", "user"), table=there.table)], (there,), lambda d, g: float(len(d))) == []


@pytest.mark.parametrize(
    ("dimensions", "grain"), [(["channel"], Grain.HOUR), (["page"], Grain.DAY), ([], Grain.MINUTE)]
)
def test_rows_of_a_day_are_estimated_from_a_sample(dimensions: list[str], grain: Grain) -> None:
    rows = pl.from_arrow(wikipedia.raw_rows())
    assert isinstance(rows, pl.DataFrame)
    step = {Grain.MINUTE: "1m", Grain.HOUR: "1h", Grain.DAY: "1d"}[grain]
    true = len(rows.select(pl.col(TIME).dt.truncate(step), *dimensions).unique())
    sample = rows.gather_every(8)
    found = groups_of_a_day(sample, rows.height, dimensions, grain, wikipedia.datasource())
    assert true / 2 <= found <= true * 2


def test_the_document_is_one_that_a_datasource_takes() -> None:
    made = rollup_document(
        Wish(
            frozenset({"events", "Some.Page"}),
            frozenset({(MetricType.SUM, "price.a"), (MetricType.TOP, "x")}),
            Grain.HOUR,
        ),
        {"by_some_page_events"},
    )
    assert made["name"] == "by_some_page_events_2"
    parsed = parse_datasource(
        {"name": "d", "time": "t", "columns": {"price.a": "double"}, "rollups": [made]},
        incarnation="x",
        version=1,
        partitions=1,
    )
    assert parsed.rollups == (rollup_of(made),)


def test_the_service_advises_by_what_it_was_asked(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        assert (await ask.service.adviser.advise("wikipedia"))["datasources"][0]["proposals"] == []
        for document in ({"group_by": ["page"]}, {"group_by": ["page"], "limit": 5}, {"group_by": ["channel"]}):
            await ask({**COUNT, **document})
        await ask({**COUNT, "group_by": ["page"], "limit": 5})
        (advice,) = (await ask.service.adviser.advise(None))["datasources"]
        assert (advice["questions"], advice["from_raw_events"]) == (3, 2)
        (proposal,) = advice["proposals"]
        assert proposal["rollup"]["dimensions"] == ["page"]
        assert proposal["share"] == pytest.approx(2 / 3, abs=0.001)
        assert 1_000 < proposal["rows_per_day"] < 39_244
        assert proposal["bytes_per_day"] > proposal["rows_per_day"]
        assert proposal["rows_read"] == 2 * 30_000
        assert advice["put"]["rollups"][-1] == proposal["rollup"]

    run(tmp_path, scenario)
