"""Questions about rejected events: planned, answered from files and what lies beyond them, paged, refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from rta.errors import InvalidQueryError
from rta.events.schemas import REJECTED, REJECTED_SCHEMA, Retention
from rta.query.answer import read_stream
from rta.query.parse import parse_query
from rta.query.planner import explain, plan
from tests.query import wikipedia
from tests.query.test_service import Asker, run
from tests.query.wikipedia import NOW_MS, planned
from tests.query.world import World, build_world, write
from tests.stream.rejections import REASONS, rejected_rows

HOUR_MS = 3_600_000
BEGIN_MS = NOW_MS - 24 * HOUR_MS
COUNT = {"name": "n", "type": "count"}
BY_REASON: dict[str, Any] = {
    "datasource": "wikipedia",
    "table": "rejected",
    "metrics": [COUNT],
    "group_by": ["reason"],
    "order_by": "reason",
}
SELECT: dict[str, Any] = {"datasource": "wikipedia", "table": "rejected", "select": ["partition", "offset"]}
TEXT = '{"user": "a\\"b", "n": '
"""Neither JSON nor free of what JSON would have to escape."""


def rejecting(folder: Path) -> World:
    """Ten rejected events in a file at 0 h, ten in one at 6 h, and five beyond the files at 23 h."""
    world = build_world(folder)
    pieces = [
        rejected_rows([(partition, offset) for offset in range(10)], BEGIN_MS + hour * HOUR_MS, TEXT)
        for partition, hour in ((0, 0), (3, 6), (1, 23))
    ]
    files = [write(world.store, REJECTED, piece, 10 + k) for k, piece in enumerate(pieces[:2])]
    world.view.by_table[REJECTED] = files
    world.view.rejected = pieces[2].slice(0, 5)
    return world


def test_reasons_are_counted_over_files_and_what_lies_beyond_them(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        reply = await ask(BY_REASON)
        body = json.loads(reply.body)
        assert body["rows"] == [{"reason": r, "n": n} for r, n in zip(REASONS, (10, 8, 7), strict=True)]
        assert body["meta"]["sources"] == ["rejected", "hot"]
        assert (body["meta"]["complete"], body["meta"]["bounds"]) == (True, {})
        narrow = {**BY_REASON, "filters": {"partition": [1, 3], "topic": "clicks"}, "group_by": ["partition"]}
        assert await ask.rows({**narrow, "order_by": "partition"}) == [
            {"partition": 1, "n": 5},
            {"partition": 3, "n": 10},
        ]
        by_hour = {**BY_REASON, "group_by": [], "granularity": "hour", "order_by": "time"}
        morning = "2015-09-12T05:00:00Z/2015-09-13T00:00:00Z"
        assert await ask.rows({**by_hour, "time_range": morning}) == [
            {"time": "2015-09-12T06:00:00.000Z", "n": 10},
            {"time": "2015-09-12T23:00:00.000Z", "n": 5},
        ]

    run(tmp_path, scenario, rejecting(tmp_path))


def test_without_files_what_lies_beyond_them_is_the_answer(tmp_path: Path) -> None:
    world = rejecting(tmp_path)
    world.view.by_table.pop(REJECTED)

    async def scenario(ask: Asker) -> None:
        assert [row["n"] for row in await ask.rows(BY_REASON)] == [2, 2, 1]
        assert len(await ask.rows({**SELECT, "select": ["*"]})) == 5
        assert ask.scans.pids == []

    run(tmp_path, scenario, world)


def test_numbers_and_texts_have_their_metrics(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        metrics = [
            {"name": "first", "type": "min", "field": "offset"},
            {"name": "last", "type": "max", "field": "offset"},
            {"name": "sum", "type": "sum", "field": "partition"},
            {"name": "ids", "type": "count", "field": "event_id"},
            {"name": "places", "type": "unique_count", "field": "partition"},
            {"name": "top", "type": "top", "field": "reason", "k": 1},
            {"name": "newest", "type": "max", "field": "time"},
        ]
        (row,) = await ask.rows({"datasource": "wikipedia", "table": "rejected", "metrics": metrics})
        assert row == {
            "first": 0,
            "last": 9,
            "sum": 35,
            "ids": 13,
            "places": 3,
            "top": [{"value": "invalid_json", "count": 10}],
            "newest": "2015-09-12T23:00:00.000Z",
        }

    run(tmp_path, scenario, rejecting(tmp_path))


def test_a_row_shows_all_columns_and_the_text_as_it_came(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        (row,) = await ask.rows({**SELECT, "select": ["*"], "limit": 1, "filters": {"partition": 3, "offset": 4}})
        assert row == {
            "time": "2015-09-12T06:00:00.000Z",
            "reason": "missing_field",
            "detail": "at 4",
            "event": TEXT,
            "event_id": "e4",
            "topic": "clicks",
            "partition": 3,
            "offset": 4,
        }
        reply = await ask({**SELECT, "select": ["*"]}, arrow=True)
        frame = read_stream(reply.body)
        assert frame.height == 25
        assert frame.columns == ["time", *REJECTED_SCHEMA.names[1:]]

    run(tmp_path, scenario, rejecting(tmp_path))


@pytest.mark.parametrize("order", [["-time"], ["time"], ["-offset", "partition"], ["reason"], ["-event_id"]])
def test_pages_together_are_all_rows_once(tmp_path: Path, order: list[str]) -> None:
    async def scenario(ask: Asker) -> None:
        asked = {**SELECT, "order_by": order, "limit": 4}
        pages = [json.loads((await ask(asked)).body)]
        while "next" in pages[-1]:
            pages.append(json.loads((await ask({**asked, "next": pages[-1]["next"]})).body))
        found = [(row["partition"], row["offset"]) for page in pages for row in page["rows"]]
        assert len(pages) == 7
        assert sorted(found) == sorted([(p, k) for p in (0, 3) for k in range(10)] + [(1, k) for k in range(5)])
        if order == ["-time"]:
            assert [p for p, _ in found] == [1] * 5 + [3] * 10 + [0] * 10

    run(tmp_path, scenario, rejecting(tmp_path))


def test_rows_that_never_were_in_a_topic_are_paged_as_well(tmp_path: Path) -> None:
    world = rejecting(tmp_path)
    rows = rejected_rows([(0, k) for k in range(9)], NOW_MS)
    for name in ("topic", "partition", "offset"):
        at = REJECTED_SCHEMA.get_field_index(name)
        rows = rows.set_column(at, REJECTED_SCHEMA.field(at), pa.nulls(9, REJECTED_SCHEMA.field(at).type))
    world.view.rejected = rows
    world.view.by_table.pop(REJECTED)

    async def scenario(ask: Asker) -> None:
        asked = {**SELECT, "select": ["detail"], "limit": 2}
        pages = [json.loads((await ask(asked)).body)]
        while "next" in pages[-1]:
            pages.append(json.loads((await ask({**asked, "next": pages[-1]["next"]})).body))
        assert sorted(row["detail"] for page in pages for row in page["rows"]) == [f"at {k}" for k in range(9)]

    run(tmp_path, scenario, world)


def test_an_answer_is_cached_until_its_data_changes(tmp_path: Path) -> None:
    world = rejecting(tmp_path)

    async def scenario(ask: Asker) -> None:
        first = await ask(BY_REASON)
        again = await ask(BY_REASON)
        assert (again.meta["cached"], again.etag) == (True, first.etag)
        rejected = world.view.rejected.slice(0, 1)
        world.view = dataclasses.replace(world.view, position=world.view.position + 1, rejected=rejected)
        later = await ask(BY_REASON)
        assert later.etag != first.etag
        assert sum(row["n"] for row in json.loads(later.body)["rows"]) == 21
        events = await ask({**BY_REASON, "table": "events", "group_by": ["channel"], "order_by": "channel"})
        assert events.etag != later.etag

    run(tmp_path, scenario, world)


def test_the_plan_names_the_table_and_no_rollup() -> None:
    asked = planned({"table": "rejected", "metrics": [COUNT], "filters": {"reason": "too_old"}})
    found = explain(asked)
    assert found["table"] == "rejected"
    assert found["considered"] == [{"table": "rejected", "chosen": True, "reason": "it is asked for by name"}]
    assert found["metrics"] == {"n": "count of rejected events"}
    assert found["columns"] == ["__time", "reason"]
    assert planned({"metrics": [COUNT]}).key != planned({"table": "rejected", "metrics": [COUNT]}).key


def test_explain_names_the_table_and_what_it_would_read(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        found = await ask.service.explain(BY_REASON)
        assert (found["table"], found["files"], found["rows"], found["hot"]) == ("rejected", 2, 20, True)

    run(tmp_path, scenario, rejecting(tmp_path))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"select": ["channel"]}, "the table 'rejected' has no column 'channel'"),
        ({"select": ["*"], "filters": {"event.user": "a"}}, "the table 'rejected' has no column 'event.user'"),
        ({"metrics": [COUNT], "group_by": ["channel"]}, "has no column 'channel'"),
        ({"metrics": [{"type": "sum", "field": "reason"}]}, "the sum of 'reason', which is string"),
        ({"metrics": [COUNT], "filters": {"offset": "7"}}, "'offset' is long and compared with '7'"),
        ({"select": ["*"], "order_by": "-channel"}, "has no column 'channel'"),
    ],
)
def test_what_the_table_does_not_have_is_refused(document: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        planned({"table": "rejected", **document})
    assert said in caught.value.message
    assert caught.value.hint


def test_a_datasource_that_keeps_none_says_so_and_one_without_raw_events_still_has_them() -> None:
    query = parse_query({"datasource": "wikipedia", "table": "rejected", "metrics": [COUNT]})
    none = msgspec.structs.replace(wikipedia.datasource(), retention=Retention(rejected_ms=None))
    with pytest.raises(InvalidQueryError, match="'wikipedia' keeps no rejected events"):
        plan(query, none, NOW_MS)
    no_raw = msgspec.structs.replace(wikipedia.datasource(), retention=Retention(events_ms=None))
    assert plan(query, no_raw, NOW_MS).table == "rejected"


def test_sessions_are_still_refused_by_name() -> None:
    with pytest.raises(InvalidQueryError, match="has no table 'sessions'") as caught:
        planned({"table": "sessions", "metrics": [COUNT]})
    assert "'events' or 'rejected'" in caught.value.hint
