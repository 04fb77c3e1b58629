"""A question from its document to the reply: parts added, the cache, ETags, positions, limits."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from rta.config import LimitSettings, Settings
from rta.errors import CorruptFileError, InvalidQueryError, NotFoundError, TimeLimitError
from rta.query.answer import read_stream
from rta.query.position import Position
from rta.serve.answers import AnswerCache
from rta.serve.ports import NotAtHandError, View
from rta.serve.scan import ScanPool
from rta.serve.scan_task import Finished
from rta.serve.service import RENEWALS_MAX, QueryService, Reply
from rta.store.cache import FileCache
from rta.store.layout import table_file
from rta.store.model import FileRef
from tests.query import wikipedia
from tests.query.world import FixedView, World, build_world

COUNT: dict[str, Any] = {"datasource": "wikipedia", "metrics": [{"name": "n", "type": "count"}]}
PLAIN: dict[str, Any] = {"after_header": None, "if_none_match": None, "accept_arrow": False}
OLD = {**COUNT, "time_range": "2015-09-12T00:00:00Z/2015-09-12T06:00:00Z"}


class Asker:
    """A service over the hand-made world, with its questions written short."""

    def __init__(self, world: World, settings: Settings, run: str = "") -> None:
        self.world = world
        self.cache = FileCache(64 << 20)
        self.scans = ScanPool(1 << 30, threads=1)
        self.service = QueryService(world, world, self.cache, self.scans, settings, world.store)
        self.service.run = run
        self.at_once = 0
        self.again = 0

    async def __call__(
        self, document: dict[str, Any], etag: str | None = None, arrow: bool = False, after: str | None = None
    ) -> Reply:
        """As `rta.serve.front` asks: at once where that is possible."""
        wants: dict[str, Any] = {"after_header": after, "if_none_match": etag, "accept_arrow": arrow}
        body = json.dumps(document).encode()
        again = self.service.answer_again(body, **wants)
        if again is not None:
            self.again += 1
            return again
        found = self.service.answer_now(document, body=body, **wants)
        self.at_once += found is not None
        return found or await self.service.answer(document, **wants)

    async def rows(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        found = json.loads((await self(document)).body)["rows"]
        assert isinstance(found, list)
        return found


def run(folder: Path, scenario: Callable[[Asker], Awaitable[None]], world: World | None = None, **limits: Any) -> None:
    async def whole() -> None:
        asker = Asker(world or build_world(folder), Settings(limits=LimitSettings(**{"query_time": 120_000, **limits})))
        try:
            await scenario(asker)
        finally:
            await asker.service.close()
            await asker.scans.close()

    asyncio.run(whole())


def test_files_and_what_lies_beyond_them_are_added(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        reply = await ask(COUNT)
        body = json.loads(reply.body)
        assert body["rows"] == [{"n": 39_244}]
        assert (reply.status, reply.content_type) == (200, "application/json")
        meta = body["meta"]
        assert meta == reply.meta
        assert meta["sources"] == ["rollup_daily_day", "hot"]
        assert (meta["cached"], meta["complete"], meta["bounds"]) == (False, True, {})
        assert (meta["row_limit"], meta["truncated"]) == (100_000, False)
        assert meta["watermark"] == "2015-09-13T00:00:00.000Z"
        assert meta["version"] == ask.world.view.version
        raw = json.loads((await ask({**COUNT, "group_by": ["user"], "order_by": "-n", "limit": 1})).body)
        assert raw["meta"]["sources"] == ["events", "hot"]
        assert raw["meta"]["truncated"] is True

    run(tmp_path, scenario)


def test_an_equal_question_is_answered_from_the_cache_until_its_data_changes(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        first = await ask(COUNT)
        second = await ask({**COUNT, "granularity": "all"})
        assert second.meta["cached"] is True
        assert second.etag == first.etag
        assert json.loads(second.body)["rows"] == json.loads(first.body)["rows"]
        assert (await ask(COUNT, etag=first.etag)).status == 304
        assert (await ask(COUNT, etag=f'W/"x", {first.etag}')).status == 304
        ask.world.view = dataclasses.replace(ask.world.view, hot=ask.world.view.hot.slice(0, 10), position=2)
        third = await ask(COUNT, etag=first.etag)
        assert third.status == 200
        assert third.meta["cached"] is False
        assert json.loads(third.body)["rows"] == [{"n": 30_010}]

    run(tmp_path, scenario)


def test_an_answer_that_has_become_complete_is_another_one(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        ask.world.view = dataclasses.replace(ask.world.view, complete=False)
        partial = await ask(COUNT)
        assert (await ask(COUNT, etag=partial.etag)).status == 304
        ask.world.view = dataclasses.replace(ask.world.view, complete=True)
        whole = await ask(COUNT, etag=partial.etag)
        assert (whole.status, whole.meta["complete"]) == (200, True)

    run(tmp_path, scenario)


def test_new_events_elsewhere_leave_the_answer_about_the_past_cached(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        first = await ask(OLD)
        assert first.meta["sources"] == ["rollup_hourly_hour"]
        ask.world.view = dataclasses.replace(ask.world.view, position=2)
        again = await ask(OLD, etag=first.etag)
        assert again.status == 304
        assert (await ask(OLD)).meta["version"] == ask.world.view.version
        assert (await ask(COUNT)).meta["cached"] is False

    run(tmp_path, scenario)


class Unasked(FixedView):
    """A view whose hot rows nobody may ask for."""

    async def rows(self, table: str) -> pa.Table:
        raise AssertionError("hot rows were fetched")


def test_a_raw_question_about_the_past_stays_cached_and_asks_nobody_for_hot_rows(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        question = {**OLD, "group_by": ["user"], "order_by": "-n", "limit": 3}
        view = ask.world.view
        ask.world.view = Unasked(view.datasource, view.by_table, view.hot)
        first = await ask(question)
        assert first.meta["sources"] == ["events"]
        ask.world.view = Unasked(view.datasource, view.by_table, view.hot, position=2)
        assert (await ask(question)).meta["cached"] is True
        assert (await ask(question, etag=first.etag)).status == 304
        with pytest.raises(AssertionError, match="hot rows"):
            await ask({**question, "time_range": "2015-09-12T00:00:00Z/2015-09-13T00:00:00Z"})

    run(tmp_path, scenario)


def test_a_question_over_decoded_rows_is_answered_at_once_with_what_has_come_since(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        question = {**COUNT, "group_by": ["channel"], "order_by": "-n", "limit": 1}
        first = await ask.rows(question)
        assert ask.at_once == 0, "the files were not decoded yet"
        assert await ask.rows(question) == first
        assert ask.at_once == 1
        again = {**question, "limit": 2}
        assert (await ask.rows(again))[0] == first[0]
        assert ask.at_once == 2
        ask.world.view = dataclasses.replace(ask.world.view, hot=ask.world.view.hot.slice(0, 10), position=2)
        fewer = await ask.rows(again)
        assert fewer[0]["n"] < first[0]["n"]
        assert fewer == json.loads((await ask.service.answer({**again, "limit": 2}, **PLAIN)).body)["rows"]

    run(tmp_path, scenario)


class Unread(FixedView):
    """A view whose files nobody has looked up yet."""

    def files(self, table: str) -> Sequence[FileRef]:
        raise NotAtHandError


def test_what_takes_a_look_into_the_store_is_not_answered_at_once(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        for _ in range(2):
            await ask({**COUNT, "group_by": ["channel"]})
        assert ask.at_once == 1
        view = ask.world.view
        ask.world.view = Unread(view.datasource, view.by_table, view.hot)
        assert ask.service.answer_now({**COUNT, "group_by": ["channel"]}, body=b"", **PLAIN) is None
        assert ask.service.answer_now({**COUNT, "datasource": "nobody"}, body=b"", **PLAIN) is None
        ask.world.view = view
        raw = {**COUNT, "group_by": ["user"], "limit": 1}
        assert ask.service.answer_now(raw, body=b"", **PLAIN) is None, "raw events are read elsewhere"
        with pytest.raises(InvalidQueryError):
            ask.service.answer_now({**COUNT, "metrcs": 1}, body=b"", **PLAIN)

    run(tmp_path, scenario)


def test_the_same_document_is_answered_again_until_something_has_come(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        question = {**COUNT, "group_by": ["channel"], "order_by": "-n", "limit": 1}
        asked = [await ask(question) for _ in range(4)]
        assert ask.again == 2
        assert {r.body.partition(b',"meta"')[0] for r in asked} == {asked[0].body.partition(b',"meta"')[0]}
        assert {r.etag for r in asked} == {asked[0].etag}
        assert asked[-1].meta["cached"] is True
        assert (await ask(question, arrow=True)).content_type != asked[0].content_type
        view = ask.world.view
        ask.world.view = dataclasses.replace(view, hot=view.hot.slice(0, 10), position=2)
        fewer = await ask(question)
        assert ask.again == 2
        assert json.loads(fewer.body)["rows"][0]["n"] < json.loads(asked[0].body)["rows"][0]["n"]
        ask.world.view = dataclasses.replace(ask.world.view, watermark_ms=None)
        assert (await ask(question)).meta["watermark"] is None
        assert ask.again == 3
        files = {table: found[:1] for table, found in view.by_table.items()}
        ask.world.view = dataclasses.replace(ask.world.view, by_table=files, manifest=2)
        assert json.loads((await ask(question)).body)["rows"] != json.loads(fewer.body)["rows"]

    run(tmp_path, scenario)


def test_a_question_about_the_last_minutes_is_read_again_each_time(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        for _ in range(3):
            await ask({**COUNT, "time_range": "last 1d"})
        assert ask.again == 0

    run(tmp_path, scenario)


def test_equal_questions_under_way_are_computed_once(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        replies = await asyncio.gather(*(ask(COUNT) for _ in range(20)))
        assert {r.body.partition(b',"meta"')[0] for r in replies} == {b'{"rows":[{"n":39244}]'}
        assert ask.cache.misses == 2

    run(tmp_path, scenario)


def test_one_who_asks_while_the_work_of_one_who_went_away_is_being_ended_gets_an_answer(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        document = {**COUNT, "group_by": ["user"], "limit": 1}
        gone = asyncio.create_task(ask(document))
        while not ask.scans.pids:
            await asyncio.sleep(0.005)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert (await ask(document)).status == 200

    run(tmp_path, scenario)


def test_one_who_goes_away_does_not_take_the_answer_from_the_others(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        document = {**COUNT, "group_by": ["user"], "limit": 1}
        tasks = [asyncio.create_task(ask(document)) for _ in range(2)]
        while not ask.scans.pids:
            await asyncio.sleep(0.005)
        tasks[0].cancel()
        assert (await tasks[1]).status == 200

    run(tmp_path, scenario)


def test_positions_of_the_question_and_the_header_both_hold(tmp_path: Path) -> None:
    folder = wikipedia.datasource().folder
    mine, theirs = (Position(folder, {p: ("log", 5)}) for p in (0, 1))

    async def scenario(ask: Asker) -> None:
        await ask({**COUNT, "after": mine.encode(), "max_staleness_ms": 0}, after=theirs.encode())
        staleness_ms, after = ask.world.asked[-1]
        assert staleness_ms == 0
        assert after is not None
        assert dict(after.offsets) == {0: ("log", 5), 1: ("log", 5)}

    run(tmp_path, scenario)


def test_an_arrow_answer_is_a_stream_of_the_same_rows(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        document = {**COUNT, "group_by": ["channel"], "granularity": "hour"}
        arrow, text = await ask(document, arrow=True), await ask(document)
        assert arrow.content_type == "application/vnd.apache.arrow.stream"
        assert arrow.etag != text.etag
        frame = read_stream(arrow.body)
        assert frame.select("channel", "n").to_dicts() == [
            {k: r[k] for k in ("channel", "n")} for r in json.loads(text.body)["rows"]
        ]

    run(tmp_path, scenario)


def test_raw_rows_are_paged_to_the_end(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        document: dict[str, Any] = {
            "datasource": "wikipedia",
            "select": ["page"],
            "filters": {"channel": "#ca.wikipedia"},
            "limit": 100,
        }
        pages = [json.loads((await ask(document)).body)]
        while "next" in pages[-1]:
            pages.append(json.loads((await ask({**document, "next": pages[-1]["next"]})).body))
        found = sorted(r["page"] for p in pages for r in p["rows"])
        channel = wikipedia.oracle()["channel"] == "#ca.wikipedia"
        assert found == sorted(wikipedia.oracle().filter(channel)["page"].to_list())

    run(tmp_path, scenario)


def test_the_time_limit_covers_the_whole_question(tmp_path: Path) -> None:
    class Stuck(World):
        async def at(self, *_: Any) -> View:
            await asyncio.Event().wait()
            return self.view

    built = build_world(tmp_path)

    async def scenario(ask: Asker) -> None:
        with pytest.raises(TimeLimitError, match=r"longer than 0\.1 s"):
            await ask(COUNT)

    run(tmp_path, scenario, Stuck(built.store, built.view), query_time=100)


def test_the_row_limit_bounds_what_may_be_asked_for(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        reply = await ask({**COUNT, "group_by": ["channel"]})
        assert len(json.loads(reply.body)["rows"]) == 7
        assert (reply.meta["row_limit"], reply.meta["truncated"]) == (7, True)
        with pytest.raises(InvalidQueryError, match="'limit' is 8"):
            await ask({**COUNT, "limit": 8})

    run(tmp_path, scenario, query_rows=7)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        with pytest.raises(NotFoundError, match="no datasource 'wiki'"):
            await ask({**COUNT, "datasource": "wiki"})
        with pytest.raises(InvalidQueryError, match="has no table 'sessions'"):
            await ask({**COUNT, "table": "sessions"})
        file = ask.world.view.by_table["rollup_daily_day"][0]
        path = Path(ask.world.store.uri(table_file(wikipedia.datasource().folder, file.table, file.path)))
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(CorruptFileError, match=file.path):
            await ask(COUNT)

    run(tmp_path, scenario)


def test_explain_names_the_table_and_what_is_read(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        found = await ask.service.explain({**OLD, "group_by": ["user"]})
        assert (found["table"], found["files"]) == ("events", 1)
        assert found["rows"] == 15_000
        assert found["bytes"] > 0

    run(tmp_path, scenario)


RAGGED = "2015-09-12T03:59:17.123Z/2015-09-12T{end}Z"


@pytest.mark.parametrize("end", ["06:00:41.500", "23:59:41.500"], ids=["in files", "beyond files too"])
def test_ragged_ends_are_read_from_raw_events_and_added(tmp_path: Path, end: str) -> None:
    """The rest comes from the rollup; the answer is the one that raw events alone give."""
    metrics: list[dict[str, Any]] = [
        {"name": "n", "type": "count"},
        {"name": "mean", "type": "avg", "field": "added"},
        {"name": "least", "type": "min", "field": "delta"},
        {"name": "p90", "type": "quantile", "field": "delta", "q": 0.9},
        {"name": "users", "type": "unique_count", "field": "user"},
    ]
    document = {
        "datasource": "wikipedia",
        "metrics": metrics,
        "time_range": RAGGED.format(end=end),
        "granularity": "hour",
        "group_by": ["isRobot"],
        "filters": {"isNew": False},
    }

    async def scenario(ask: Asker) -> None:
        mixed = await ask(document)
        assert mixed.meta["sources"][:2] == ["rollup_edits_minute", "events"]
        assert ("hot" in mixed.meta["sources"]) == (end == "23:59:41.500")
        exact = [m | {"exact": True} if m["type"] in ("quantile", "unique_count") else m for m in metrics]
        raw = await ask({**document, "metrics": exact})
        assert raw.meta["sources"][0] == "events"
        assert mixed.meta["bounds"] == {}
        assert json.loads(mixed.body)["rows"] == json.loads(raw.body)["rows"]
        assert (await ask(document)).meta["cached"] is True

    run(tmp_path, scenario)


def test_explain_shows_what_each_rule_did_and_what_each_part_reads(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        found = await ask.service.explain({**COUNT, "time_range": RAGGED.format(end="06:00:00"), "group_by": ["isNew"]})
        assert found["tables"] == ["rollup_edits_minute", "events"]
        assert [read["table"] for read in found["reads"]] == ["events", "rollup_edits_minute"]
        assert found["reads"][0]["time_range"] == "2015-09-12T03:59:17.123Z/2015-09-12T04:00:00.000Z"
        assert found["rows"] == sum(read["rows"] for read in found["reads"]) > 15_000
        steps = {step["rule"]: step for step in found["rules"]}
        assert steps["rollup choice"]["after"] == {"candidates": ["edits"]}
        assert steps["hot/cold split"] == {"rule": "hot/cold split", "before": {}, "after": {}}

    run(tmp_path, scenario)


def test_the_cache_of_answers_lets_go_of_the_oldest() -> None:
    cache = AnswerCache(100_000)
    for number in range(20):
        cache.put(bytes([number]), Finished(b"x" * 10_000, {}, False, None, 1))
        cache.get(b"\0")
    assert cache.bytes <= 100_000
    assert cache.get(b"\0") is not None
    assert cache.get(b"\1") is None
    cache.put(b"huge", Finished(b"x" * 30_000, {}, False, None, 1))
    assert cache.get(b"huge") is None


def test_the_cache_of_files_stays_within_its_bound(tmp_path: Path) -> None:
    world = build_world(tmp_path, tuple(range(2_000, 39_000, 2_000)))
    source = wikipedia.datasource()
    rollup = source.rollups[0]
    files = world.view.by_table[rollup.table]
    cache = FileCache(1 << 20)
    dictionaries = cache.dictionaries(source, rollup)
    blocks = cache.blocks(world.store, source, rollup, files, dictionaries)
    assert sum(b.frame.height for b in blocks) == sum(f.rows for f in files)
    assert cache.misses == len(files)
    assert cache.bytes <= 1.25 * (1 << 20)
    cache.blocks(world.store, source, rollup, files[-1:], dictionaries)
    assert cache.hits == 1
    cache.blocks(world.store, source, rollup, files[:1], dictionaries)
    assert cache.misses == len(files) + 1


@pytest.mark.parametrize("document", [OLD, {**OLD, "group_by": ["user"]}], ids=["rollup", "raw"])
def test_files_that_were_swept_meanwhile_are_read_where_the_newer_view_has_them(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    world = build_world(tmp_path / "store")
    expected: list[dict[str, Any]] = []

    async def before(ask: Asker) -> None:
        expected.extend(
            await ask.rows({**document, "order_by": "-n", "limit": 5} if "group_by" in document else document)
        )

    run(tmp_path, before, world)
    moved = {table: [_moved(world, file) for file in files] for table, files in world.view.by_table.items()}
    world.later = [dataclasses.replace(world.view, by_table=moved, manifest=2)]

    async def after(ask: Asker) -> None:
        asked = {**document, "order_by": "-n", "limit": 5} if "group_by" in document else document
        assert await ask.rows(asked) == expected
        assert world.renewed == 1

    run(tmp_path, after, world)


def test_a_file_that_the_newest_view_names_and_nobody_has_is_named(tmp_path: Path) -> None:
    world = build_world(tmp_path / "store")
    for file in world.view.by_table["events"]:
        world.store.delete(table_file(world.view.datasource.folder, "events", file.path))

    async def scenario(ask: Asker) -> None:
        with pytest.raises(CorruptFileError, match=r"test-1-0-0\.parquet' is not there"):
            await ask({**OLD, "group_by": ["user"]})
        assert world.renewed == RENEWALS_MAX

    run(tmp_path, scenario, world)


def _moved(world: World, file: FileRef) -> FileRef:
    """The same rows under another name, as after a compaction and a sweep."""
    folder = world.view.datasource.folder
    path = file.path.replace("test-1", "moved-1")
    world.store.put(table_file(folder, file.table, path), world.store.get(table_file(folder, file.table, file.path)))
    world.store.delete(table_file(folder, file.table, file.path))
    return msgspec.structs.replace(file, path=path)
