"""Composed questions end to end: parts from rollups, files and hot rows on one view, cached as one and one by one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from msgspec.structs import replace

from rta.errors import FileGoneError, InvalidQueryError
from rta.query.answer import read_stream
from rta.query.parse import parse_query
from rta.store.layout import table_file
from tests.query import wikipedia
from tests.query.test_service import Asker, run

HALF_MS = 1_442_059_200_000
"""2015-09-12T12:00Z."""
QUESTION: dict[str, Any] = {
    "datasource": "wikipedia",
    "time_range": "2015-09-12T12:00:00Z/2015-09-13T00:00:00Z",
    "compare": "previous",
    "group_by": "isRobot",
    "metrics": [
        {"name": "n", "type": "count"},
        {"name": "new", "type": "ratio", "of": [{"type": "count", "filters": {"isNew": True}}, "n"]},
        {"name": "pages", "type": "top", "field": "page", "k": 2, "by": {"type": "sum", "field": "added"}},
    ],
}
FUNNEL: dict[str, Any] = {
    "datasource": "wikipedia",
    "metrics": [
        {
            "type": "funnel",
            "field": "user",
            "window": "1h",
            "steps": [{"filters": {"isNew": True}}, {"where": {"field": "added", "op": "gt", "value": 1000}}],
        }
    ],
}


def expected() -> list[dict[str, Any]]:
    frame = wikipedia.oracle().with_columns((pl.col("time") >= HALF_MS).alias("later"))
    rows = []
    for robot in (False, True):
        found: dict[bool, tuple[int, float, list[dict[str, Any]]]] = {}
        for later in (True, False):
            some = frame.filter((pl.col("isRobot") == robot) & (pl.col("later") == later))
            ranked = some.group_by("page").agg(pl.col("added").sum().alias("sum"))
            best = ranked.sort(["sum", "page"], descending=[True, False]).head(2).rename({"page": "value"})
            found[later] = some.height, some.filter("isNew").height / some.height, best.to_dicts()
        (n, new, pages), (n_before, new_before, pages_before) = found[True], found[False]
        rows.append(
            {
                "isRobot": robot,
                "n": n,
                "n_previous": n_before,
                "n_change": pytest.approx(n / n_before - 1),
                "new": pytest.approx(new),
                "new_previous": pytest.approx(new_before),
                "new_change": pytest.approx(new / new_before - 1),
                "pages": pages,
                "pages_previous": pages_before,
            }
        )
    return rows


def test_a_composed_question_is_put_together_on_one_view_and_cached(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        reply = await ask(QUESTION)
        assert json.loads(reply.body)["rows"] == expected()
        assert reply.meta["sources"] == ["rollup_edits_minute", "events", "hot"]
        assert reply.meta["time_range"] == "2015-09-12T12:00:00.000Z/2015-09-13T00:00:00.000Z"
        again = await ask(QUESTION)
        assert (again.meta["cached"], again.etag) == (True, reply.etag)
        assert (await ask(QUESTION, etag=reply.etag)).status == 304
        arrow = read_stream((await ask(QUESTION, arrow=True)).body)
        assert arrow.get_column("n_previous").to_list() == [row["n_previous"] for row in expected()]
        # What is new in the second half changes the answer as a whole, and leaves the part about the first one be.
        known = ask.service.answers.known
        ask.world.view = dataclasses.replace(ask.world.view, position=2)
        assert (await ask(QUESTION, etag=reply.etag)).status == 200
        prepared = await ask.service._prepare(parse_query(QUESTION), None, 60.0)
        earlier = [found for part, found in prepared.parts if part.earlier and part.top is None]
        assert known(earlier[0].key + b"arrow") is not None

    run(tmp_path, scenario)


def test_explain_shows_every_part(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        found = await ask.service.explain(QUESTION)
        assert [part["table"] for part in found["parts"]] == ["rollup_edits_minute", "events"] * 2
        assert found["files"] > 0

    run(tmp_path, scenario)


def test_a_funnel_reads_files_and_hot_rows(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        reply = await ask(FUNNEL)
        rows = json.loads(reply.body)["rows"]
        assert reply.meta["sources"] == ["events", "hot"]
        frame = wikipedia.oracle()
        begun = frame.filter(pl.col("isNew"))
        assert rows[0]["users"] == begun.get_column("user").n_unique()
        # Two events of one moment that both match are two steps; one is not.
        pairs = begun.with_row_index("a").join(frame.with_row_index("b"), on="user", suffix="_then")
        later = pl.col("time_then") - pl.col("time")
        reached = pairs.filter((pl.col("added_then") > 1000) & later.is_between(1, 3_600_000))
        assert rows[1]["users"] >= reached.get_column("user").n_unique() > 0

    run(tmp_path, scenario)


def test_a_part_whose_file_is_gone_ends_the_whole_question(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        for file in ask.world.view.by_table["events"]:
            ask.world.store.delete(table_file(ask.world.view.datasource.folder, "events", file.path))
        with pytest.raises(FileGoneError):
            await ask(QUESTION)
        assert ask.world.renewed > 0
        with pytest.raises(InvalidQueryError, match="called 'n_change'"):
            await ask({**QUESTION, "metrics": [*QUESTION["metrics"], {"name": "n_change", "type": "count"}]})

    run(tmp_path, scenario)


def test_the_same_events_of_two_ranges_have_two_rates(tmp_path: Path) -> None:
    noon = [{"field": "time", "op": op, "value": f"2015-09-12T{at}:00:00Z"} for op, at in (("gte", 12), ("lt", 13))]
    rate = {"type": "rate", "name": "per_hour", "of": {"type": "count"}, "per": "hour"}
    question = {"datasource": "wikipedia", "where": {"and": noon}, "metrics": [rate]}

    async def scenario(ask: Asker) -> None:
        hour = await ask.rows({**question, "time_range": "2015-09-12T12:00:00Z/2015-09-12T13:00:00Z"})
        day = await ask.rows({**question, "time_range": "2015-09-12T00:00:00Z/2015-09-13T00:00:00Z"})
        assert day[0]["per_hour"] == pytest.approx(hour[0]["per_hour"] / 24)

    run(tmp_path, scenario)


def test_a_part_that_was_answered_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(ask: Asker) -> None:
        rows = await ask.rows(QUESTION)
        computed: list[str] = []
        compute = ask.service._compute

        async def counted(prepared: Any, *rest: Any) -> Any:
            computed.append(prepared.plan.table if not prepared.parts else "whole")
            return await compute(prepared, *rest)

        monkeypatch.setattr(ask.service, "_compute", counted)
        assert await ask.rows({**QUESTION, "order_by": ["-n"], "limit": 10}) == sorted(rows, key=lambda r: -r["n"])
        assert computed == ["whole"]

    run(tmp_path, scenario)


def test_explain_of_what_only_a_rollup_can_answer(tmp_path: Path) -> None:
    top = {"type": "top", "name": "channels", "field": "channel", "by": {"type": "sum", "field": "added"}}
    question = {"datasource": "wikipedia", "metrics": [{"type": "count"}, top]}

    async def scenario(ask: Asker) -> None:
        source = ask.world.view.datasource
        rolled = replace(source, retention=replace(source.retention, events_ms=None))
        ask.world.view = dataclasses.replace(ask.world.view, datasource=rolled)
        assert (await ask.rows(question))[0]["count"] > 0
        found = await ask.service.explain(question)
        assert "events" not in found["tables"]
        assert len(found["parts"]) == 2

    run(tmp_path, scenario)


def test_tops_hold_times_as_texts_and_are_empty_lists_where_nothing_was(tmp_path: Path) -> None:
    latest = {"name": "latest", "type": "max", "field": "time"}
    top = {"type": "top", "name": "codes", "field": "metroCode", "k": 2, "by": latest}
    hour = {"datasource": "wikipedia", "time_range": "2015-09-12T00:00:00Z/2015-09-12T01:00:00Z"}
    question = {**hour, "compare": "previous", "group_by": ["channel"], "metrics": [top]}

    async def scenario(ask: Asker) -> None:
        rows = await ask.rows(question)
        found = [entry["latest"] for row in rows for entry in row["codes"]]
        assert found
        assert all(text.startswith("2015-09-12T00:") and text.endswith("Z") for text in found)
        assert [row["codes_previous"] for row in rows] == [[]] * len(rows)

    run(tmp_path, scenario)
