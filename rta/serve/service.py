"""Questions answered end to end: parse, view, plan, cache, execute, reply.

Owns the time limit over all of it, the keys of finished answers and that equal questions under way are computed once.
An answer's cache key and ETag are the plan with its absolute range, the definition's version, the run of the system and the
part of the view that the plan reads: the files in range, and by name what lies beyond them in that range. So a cached answer
is never stale and needs no expiry, and events at other times leave it be. Where answers are kept: `rta.serve.answers`.
Knows no HTTP: `rta.serve.query` does.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from rta.config import Settings
from rta.errors import FileGoneError, TimeLimitError, ViewGoneError
from rta.events.schemas import TIME, TIMESTAMP, Datasource, Rollup
from rta.query.answer import format_time
from rta.query.block import Block, Dictionaries
from rta.query.execute import run_rollup
from rta.query.model import Query
from rta.query.parse import parse_query
from rta.query.planner import Plan, explain, plan
from rta.query.position import Position, decode_position
from rta.query.shape import shape_of
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN
from rta.serve.answers import Answers
from rta.serve.flights import Flights
from rta.serve.metrics import Registry
from rta.serve.ports import Definitions, View, Views
from rta.serve.scan import ScanPool
from rta.serve.scan_task import Finished, ScanTask, answer_raw, finish, hot_source, rows_stream
from rta.store.cache import FileCache
from rta.store.model import FileRef
from rta.store.objects import ObjectStore
from rta.store.parquet import within_range

Found = tuple[Finished, bool]
"""An answer, and whether it was in the cache that replicas share."""
JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
ANSWERS_BYTES_MAX = 64 << 20
RENEWALS_MAX = 2
"""How often a question takes a newer view because files or rows of the last one are gone."""
HOT_BLOCKS_MAX = 32
"""Rollups whose rows beyond the files are kept decoded."""
INLINE_ROWS_MAX = 50_000
"""So many raw rows, and no files, are scanned here: 10-20 ms, and the worker's start is saved."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished answer. `meta` is inside a JSON body already; an Arrow body has no place for it."""

    status: int
    body: bytes
    content_type: str
    etag: str
    meta: dict[str, Any]


class _Wants(NamedTuple):
    """What a caller asked for, and when (`time.perf_counter`)."""

    query: Query
    after_header: str | None
    if_none_match: str | None
    accept_arrow: bool
    begun: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A planned question with what it reads.

    Args:
        files: Of the plan's table, in its range.
        hot: Decoded rollup rows beyond them, with rows in the range; none when raw events are read.
        has_hot: Whether rows beyond the files can be in the range.
        shared: Whether its answer is worth sharing with other replicas. Not that of a rollup with hot rows: it is made in
            the time of asking for it, and the next event gives it another key.
        key: Of the answer.
    """

    plan: Plan
    view: View
    files: tuple[FileRef, ...]
    hot: tuple[Block, ...]
    dictionaries: Dictionaries | None
    has_hot: bool
    shared: bool
    key: bytes


class QueryService:
    """Answers questions. Belongs to one event loop.

    Args:
        cache: Decoded rollup files.
        scans: Where raw events are read.
        store: Where the files of the views are.
    """

    def __init__(
        self,
        views: Views,
        definitions: Definitions,
        cache: FileCache,
        scans: ScanPool,
        settings: Settings,
        store: ObjectStore,
    ) -> None:
        self.run = ""
        """Of the system that this is a replica of, in every key: a store that was put back from a backup gives files and loads
        names that were given before, for other rows."""
        self._views = views
        self._definitions = definitions
        self._cache = cache
        self._scans = scans
        self._limits = settings.limits
        self._store = store
        # One thread looks up files: the tables' versions are not made for several.
        self.looking = ThreadPoolExecutor(1, "query-prepare")
        self._running = ThreadPoolExecutor(2, "query-run")
        self.registry = Registry()
        self.answers = Answers(ANSWERS_BYTES_MAX, self.registry)
        self._flights: Flights[Found] = Flights()
        self._hot_blocks: OrderedDict[tuple[str, str], dict[int, tuple[pl.DataFrame, Block]]] = OrderedDict()

    async def answer(
        self, document: Mapping[str, Any], *, after_header: str | None, if_none_match: str | None, accept_arrow: bool
    ) -> Reply:
        """Answer a question.

        Raises:
            InvalidQueryError, NotFoundError, TimeLimitError, OutOfMemoryError, CorruptFileError, UnavailableError.
        """
        begun = time.perf_counter()
        query = parse_query(document, limit_max=self._limits.query_rows)
        return await self._reply(_Wants(query, after_header, if_none_match, accept_arrow, begun))

    async def answer_query(self, query: Query, after_header: str | None) -> Reply:
        """Answer a question that was asked in another language, as an Arrow stream. Raises as `answer`."""
        return await self._reply(_Wants(query, after_header, None, True, time.perf_counter()))

    async def _reply(self, wants: _Wants) -> Reply:
        limit_s = self._limits.query_time / 1000
        try:
            async with asyncio.timeout(limit_s):
                for _ in range(RENEWALS_MAX):
                    reply = await self._attempt(wants, limit_s, last=False)
                    if reply is not None:
                        return reply
                reply = await self._attempt(wants, limit_s, last=True)
                assert reply is not None
                return reply
        except TimeoutError as error:
            raise _late(limit_s) from error

    async def _attempt(self, wants: _Wants, limit_s: float, *, last: bool) -> Reply | None:
        """The reply; None when the view named what is no longer there, and the next one will not."""
        begun, accept_arrow = wants.begun, wants.accept_arrow
        prepared = await self._prepare(wants.query, wants.after_header, limit_s)
        key = prepared.key + (b"arrow" if accept_arrow else b"json")
        etag = f'"{hashlib.blake2b(key, digest_size=16).hexdigest()}"'
        if wants.if_none_match is not None and _matches(wants.if_none_match, etag):
            return Reply(304, b"", ARROW if accept_arrow else JSON, etag, _meta(prepared, None, True, begun))
        finished = self.answers.known(key)
        cached = finished is not None
        if finished is None:
            try:
                compute = partial(self._compute, prepared, accept_arrow, limit_s - (time.perf_counter() - begun))
                finished, cached = await self._flights.once(
                    key, partial(self.answers.find_or, key, prepared.shared, compute)
                )
            except (FileGoneError, ViewGoneError):
                if last:
                    raise
                await self._views.renew(prepared.view)
                return None
        meta = _meta(prepared, finished, cached, begun)
        if accept_arrow:
            return Reply(200, finished.rows, ARROW, etag, meta | ({"next": finished.next} if finished.next else {}))
        return Reply(200, _body(finished, meta), JSON, etag, meta)

    async def explain(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """How the question would be answered now, and how much that reads."""
        return await self.explain_query(parse_query(document, limit_max=self._limits.query_rows))

    async def explain_query(self, query: Query) -> dict[str, Any]:
        """The same of a question that was asked in another language."""
        limit_s = self._limits.query_time / 1000
        try:
            async with asyncio.timeout(limit_s):
                prepared = await self._prepare(query, None, limit_s)
        except TimeoutError as error:
            raise _late(limit_s) from error
        return explain(prepared.plan) | {
            "files": len(prepared.files),
            "rows": sum(f.rows for f in prepared.files),
            "bytes": sum(f.bytes for f in prepared.files),
            "hot": prepared.has_hot,
            "version": prepared.view.version,
        }

    async def close(self) -> None:
        """End the threads; questions under way are given up."""
        self._flights.cancel()
        await self.answers.close()
        self.looking.shutdown(wait=False, cancel_futures=True)
        self._running.shutdown(wait=False, cancel_futures=True)

    async def _prepare(self, query: Query, after_header: str | None, limit_s: float) -> Prepared:
        datasource = await self._definitions.get(query.datasource)
        view = await self._views.at(datasource, query.max_staleness_ms, _position(query, after_header), limit_s)
        now_ms = time.time_ns() // 1_000_000
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.looking, self._look, query, view, now_ms)
        except ViewGoneError:
            await self._views.renew(view)
            view = await self._views.at(datasource, query.max_staleness_ms, _position(query, after_header), limit_s)
            return await loop.run_in_executor(self.looking, self._look, query, view, now_ms)

    def _look(self, query: Query, view: View, now_ms: int) -> Prepared:
        """Plan the question and find what it reads (in the thread that looks up files)."""
        planned = planned_for(query, view, now_ms)
        files = tuple(within_range(view.files(planned.table), (planned.start_ms, planned.end_ms)))
        parts = view.parts(planned.table, planned.start_ms, planned.end_ms)
        hot: tuple[Block, ...] = ()
        has_hot, dictionaries = bool(parts), None
        if planned.rollup is not None:
            dictionaries = self._cache.dictionaries(view.datasource, planned.rollup)
            blocks = self._hot_of(view, planned.rollup, dictionaries)
            hot = tuple(b for b in blocks if b.overlaps(planned.start_ms, planned.end_ms))
            has_hot = bool(hot)
        shared = planned.rollup is None or not parts
        return Prepared(planned, view, files, hot, dictionaries, has_hot, shared, self._key(planned, files, parts))

    def _key(self, planned: Plan, files: Sequence[FileRef], parts: Sequence[str]) -> bytes:
        """Of an answer. Whatever is not in the range is not in the key either."""
        digest = hashlib.blake2b(planned.key, digest_size=32)
        for name in (self.run, planned.table, "", *(file.path for file in files), "", *parts):
            digest.update(name.encode() + b"\0")
        return digest.digest()

    def _hot_of(self, view: View, rollup: Rollup, dictionaries: Dictionaries) -> Sequence[Block]:
        """The view's frames decoded; a frame that an earlier view had too is decoded already."""
        key = (view.datasource.folder, rollup.name)
        known = self._hot_blocks.pop(key, {})
        found: dict[int, tuple[pl.DataFrame, Block]] = {}
        for frame in view.partials(rollup.name):
            _, block = known.get(id(frame), (frame, None))  # the frame is kept, so that its id stays its own
            if block is None or block.dictionaries is not dictionaries:
                block = Block(frame, dictionaries)
            found[id(frame)] = (frame, block)
        self._hot_blocks[key] = found
        while len(self._hot_blocks) > HOT_BLOCKS_MAX:
            self._hot_blocks.popitem(last=False)
        return [block for _, block in found.values()]

    async def _compute(self, prepared: Prepared, arrow: bool, limit_s: float) -> Finished:
        if prepared.plan.rollup is None:
            return await self._run_raw(prepared, arrow, limit_s)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._running, self._run_rollup, prepared, arrow)

    def _run_rollup(self, prepared: Prepared, arrow: bool) -> Finished:
        rollup, dictionaries = prepared.plan.rollup, prepared.dictionaries
        assert rollup is not None
        assert dictionaries is not None
        blocks = self._cache.blocks(self._store, prepared.plan.datasource, rollup, prepared.files, dictionaries)
        return finish(run_rollup(prepared.plan, [*blocks, *prepared.hot]), arrow)

    async def _run_raw(self, prepared: Prepared, arrow: bool, limit_s: float) -> Finished:
        planned = prepared.plan
        rows = (
            await prepared.view.rows(planned.table)
            if prepared.has_hot
            else shape_of(planned.datasource, planned.table).schema.empty_table()
        )
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._running, _in_range, rows, planned)
        if not prepared.files and rows.num_rows <= INLINE_ROWS_MAX:
            return await loop.run_in_executor(self._running, _run_inline, planned, rows, arrow)
        task = ScanTask(planned, self._store, prepared.files, rows_stream(rows), arrow, max(limit_s, 0.001))
        return await self._scans.run(task)


def planned_for(query: Query, view: View, now_ms: int) -> Plan:
    """The question's plan for a view (in the thread that looks up files). Raises InvalidQueryError."""
    datasource = view.datasource
    return plan(query, datasource, now_ms, _oldest_ms(view) if _forgets_rollups(datasource) else None)


def _position(query: Query, header: str | None) -> Position | None:
    """What the question and the header say together; two positions of different datasources are the view's to refuse."""
    found = [decode_position(text) for text in (query.after, header) if text]
    if len(found) == 2 and found[0].folder == found[1].folder:
        return found[0].merge(found[1])
    return found[0] if found else None


def _forgets_rollups(datasource: Datasource) -> bool:
    """Whether some rollup keeps its rows for a shorter time than the raw table, so that the planner asks how old data is."""
    raw = datasource.retention.events_ms
    kept = datasource.retention.rollups_ms
    return raw is not None and any(kept.get(r.granularity, raw) < raw for r in datasource.rollups)


def _oldest_ms(view: View) -> int:
    return min((f.time_min_ms for f in view.files("events")), default=TIME_MS_MAX)


def _in_range(rows: pa.Table, planned: Plan) -> pa.Table:
    if planned.start_ms == TIME_MS_MIN and planned.end_ms == TIME_MS_MAX:
        return rows
    times = rows.column(TIME)
    start, end = (pa.scalar(bound, pa.int64()).cast(TIMESTAMP) for bound in (planned.start_ms, planned.end_ms))
    return rows.filter(pc.and_(pc.greater_equal(times, start), pc.less(times, end)))


def _run_inline(planned: Plan, rows: pa.Table, arrow: bool) -> Finished:
    return finish(answer_raw(planned, [hot_source(rows)]), arrow)


def _matches(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags or etag.strip('"') in tags


def _meta(prepared: Prepared, finished: Finished | None, cached: bool, begun: float) -> dict[str, Any]:
    """The quality of the answer. `time_range` is the absolute one that a relative range came to."""
    planned, view = prepared.plan, prepared.view
    return {
        "watermark": None if view.watermark_ms is None else format_time(view.watermark_ms),
        "version": view.version,
        "complete": view.complete,
        "sources": _sources(prepared),
        "time_range": f"{format_time(planned.start_ms)}/{format_time(planned.end_ms)}",
        "bounds": finished.bounds if finished else {},
        "row_limit": planned.query.limit,
        "truncated": finished.more if finished else False,
        "cached": cached,
        "elapsed_ms": round((time.perf_counter() - begun) * 1000, 3),
    }


def _sources(prepared: Prepared) -> Sequence[str]:
    return [prepared.plan.table, *(["hot"] if prepared.has_hot else [])]


def _body(finished: Finished, meta: dict[str, Any]) -> bytes:
    following = b',"next":' + orjson.dumps(finished.next) if finished.next else b""
    return b"".join((b'{"rows":', finished.rows, following, b',"meta":', orjson.dumps(meta), b"}"))


def _late(limit_s: float) -> TimeLimitError:
    return TimeLimitError(
        f"the query took longer than {limit_s:.1f} s", "ask of a shorter time range, or what a rollup holds"
    )
