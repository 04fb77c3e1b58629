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
from rta.events.schemas import EVENTS, TIME, TIMESTAMP, Rollup
from rta.query.answer import format_time
from rta.query.block import Block, Dictionaries
from rta.query.ends import ends_ms
from rta.query.execute import Piece, run_rollup
from rta.query.model import Query
from rta.query.parse import parse_query
from rta.query.planner import Plan, explain, plan
from rta.query.position import Position, decode_position
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN
from rta.serve.advice import Record, advise
from rta.serve.answers import Answers
from rta.serve.metrics import Registry
from rta.serve.ports import Definitions, View, Views
from rta.serve.reads import Read, explained, find_reads, inside_ms, names_beyond, stock_of
from rta.serve.scan import ScanPool
from rta.serve.scan_task import Finished, answer_raw, finish, folded, hot_source
from rta.store.cache import FileCache
from rta.store.model import FileRef
from rta.store.objects import ObjectStore

Found = tuple[Finished, bool]
"""An answer, and whether it was in the cache that replicas share."""
JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
ANSWERS_BYTES_MAX = 64 << 20
RENEWALS_MAX = 2
"""How often a question takes a newer view because files or rows of the last one are gone."""
HOT_BLOCKS_MAX = 32
"""Rollups whose rows beyond the files are kept decoded."""
ADVICE_STALENESS_MS = 60_000
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

    document: Mapping[str, Any]
    after_header: str | None
    if_none_match: str | None
    accept_arrow: bool
    begun: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A planned question with what it reads.

    Args:
        reads: The files of each part of the plan.
        hot: Decoded rollup rows beyond them, with rows in the range; none when raw events are read.
        has_hot: Whether rows beyond the files can be in the range.
        hot_ends: Whether there can be raw ones in the ends of a rollup's question.
        shared: Whether its answer is worth sharing with other replicas. Not that of a rollup with hot rows: it is made in
            the time of asking for it, and the next event gives it another key.
        key: Of the answer.
    """

    plan: Plan
    view: View
    reads: tuple[Read, ...]
    hot: tuple[Block, ...]
    dictionaries: Dictionaries | None
    has_hot: bool
    hot_ends: bool
    shared: bool
    key: bytes

    @property
    def raw_files(self) -> tuple[FileRef, ...]:
        """Files of single rows, each once."""
        found = {file.path: file for read in self.reads if read.part.grain is None for file in read.files}
        return tuple(found.values())


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
        self._looking = ThreadPoolExecutor(1, "query-prepare")
        self._running = ThreadPoolExecutor(2, "query-run")
        self.registry = Registry()
        self.answers = Answers(ANSWERS_BYTES_MAX, self.registry)
        self._record = Record()
        self._under_way: dict[bytes, asyncio.Task[Found]] = {}
        self._waiting: dict[asyncio.Task[Found], int] = {}
        self._hot_blocks: OrderedDict[tuple[str, str], dict[int, tuple[pl.DataFrame, Block]]] = OrderedDict()

    async def answer(
        self, document: Mapping[str, Any], *, after_header: str | None, if_none_match: str | None, accept_arrow: bool
    ) -> Reply:
        """Answer a question.

        Raises:
            InvalidQueryError, NotFoundError, TimeLimitError, OutOfMemoryError, CorruptFileError, UnavailableError.
        """
        begun = time.perf_counter()
        limit_s = self._limits.query_time / 1000
        wants = _Wants(document, after_header, if_none_match, accept_arrow, begun)
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
        prepared = await self._prepare(wants.document, wants.after_header, limit_s)
        key = prepared.key + (b"arrow" if accept_arrow else b"json")
        etag = f'"{hashlib.blake2b(key, digest_size=16).hexdigest()}"'
        if wants.if_none_match is not None and _matches(wants.if_none_match, etag):
            return Reply(304, b"", ARROW if accept_arrow else JSON, etag, _meta(prepared, None, True, begun))
        finished = self.answers.known(key)
        cached = finished is not None
        if finished is None:
            try:
                finished, cached = await self._once(
                    key, prepared, accept_arrow, limit_s - (time.perf_counter() - begun)
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
        limit_s = self._limits.query_time / 1000
        try:
            async with asyncio.timeout(limit_s):
                prepared = await self._prepare(document, None, limit_s)
        except TimeoutError as error:
            raise _late(limit_s) from error
        return explain(prepared.plan) | {
            **explained(prepared.reads),
            "hot": prepared.has_hot,
            "version": prepared.view.version,
        }

    async def advise(self, name: str | None) -> dict[str, Any]:
        """Which rollups the last questions of this replica would have wanted, of one datasource or of all.

        Raises NotFoundError, CorruptFileError, TimeLimitError.
        """
        wanted = await self._definitions.all() if name is None else [await self._definitions.get(name)]
        loop = asyncio.get_running_loop()
        found = []
        for datasource in wanted:
            view = await self._views.at(datasource, ADVICE_STALENESS_MS, None, self._limits.query_time / 1000)
            files = await loop.run_in_executor(self._looking, view.files, EVENTS)
            seen = self._record.of(datasource.folder)
            found.append(await asyncio.to_thread(advise, seen, datasource, files, self._store))
        return {"datasources": found}

    async def close(self) -> None:
        """End the threads; questions under way are given up."""
        for task in list(self._under_way.values()):
            task.cancel()
        await self.answers.close()
        self._looking.shutdown(wait=False, cancel_futures=True)
        self._running.shutdown(wait=False, cancel_futures=True)

    async def _prepare(self, document: Mapping[str, Any], after_header: str | None, limit_s: float) -> Prepared:
        query = parse_query(document, limit_max=self._limits.query_rows)
        datasource = await self._definitions.get(query.datasource)
        view = await self._views.at(datasource, query.max_staleness_ms, _position(query, after_header), limit_s)
        now_ms = time.time_ns() // 1_000_000
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._looking, self._look, query, view, now_ms)
        except ViewGoneError:
            await self._views.renew(view)
            view = await self._views.at(datasource, query.max_staleness_ms, _position(query, after_header), limit_s)
            return await loop.run_in_executor(self._looking, self._look, query, view, now_ms)

    def _look(self, query: Query, view: View, now_ms: int) -> Prepared:
        """Plan the question and find what it reads (in the thread that looks up files)."""
        datasource = view.datasource
        planned = plan(query, datasource, now_ms, stock_of(view, query))
        reads = find_reads(planned, view)
        beyond, beyond_ends = names_beyond(planned, view)
        hot: tuple[Block, ...] = ()
        has_hot, dictionaries = bool(beyond or beyond_ends), None
        if planned.rollup is not None:
            dictionaries = self._cache.dictionaries(view.datasource, planned.rollup)
            if beyond:
                blocks = self._hot_of(view, planned.rollup, dictionaries)
                hot = tuple(b for b in blocks if b.overlaps(*inside_ms(planned)))
            has_hot = bool(hot or beyond_ends)
        shared = planned.rollup is None or not (beyond or beyond_ends)
        key = self._key(planned, reads, (*beyond, "", *beyond_ends))
        return Prepared(planned, view, reads, hot, dictionaries, has_hot, bool(beyond_ends), shared, key)

    def _key(self, planned: Plan, reads: Sequence[Read], beyond: Sequence[str]) -> bytes:
        """Of an answer. Whatever is not in the range is not in the key either."""
        digest = hashlib.blake2b(planned.key, digest_size=32)
        names = [self.run]
        for read in reads:
            names += ["", read.part.table, str(read.part.start_ms), str(read.part.end_ms)]
            names += [f"{file.table}/{file.path}" for file in read.files]
        for name in (*names, "", *beyond):
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

    async def _once(self, key: bytes, prepared: Prepared, arrow: bool, limit_s: float) -> Found:
        """The answer from whoever computes it first; the work is given up when nobody waits for it any more."""
        task = self._under_way.get(key)
        if task is None or task.done():
            compute = partial(self._compute, prepared, arrow, limit_s)
            task = asyncio.create_task(self.answers.find_or(key, prepared.shared, compute))
            self._under_way[key] = task
            task.add_done_callback(partial(self._ended, key))
            self._waiting[task] = 0
        self._waiting[task] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._waiting[task] -= 1
            if not self._waiting[task]:
                del self._waiting[task]
                self._forget(key, task)  # ending it may take a while, and who asks meanwhile must not join it
                task.cancel()

    def _forget(self, key: bytes, task: asyncio.Task[Found]) -> None:
        if self._under_way.get(key) is task:
            del self._under_way[key]

    def _ended(self, key: bytes, task: asyncio.Task[Found]) -> None:
        self._forget(key, task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have

    async def _compute(self, prepared: Prepared, arrow: bool, limit_s: float) -> Finished:
        """Also noted: what it took, for advice on rollups."""
        begun = time.perf_counter()
        finished = await self._computed(prepared, arrow, limit_s)
        self._record.note(prepared.plan, prepared.reads, time.perf_counter() - begun)
        return finished

    async def _computed(self, prepared: Prepared, arrow: bool, limit_s: float) -> Finished:
        if prepared.plan.rollup is None:
            return await self._run_raw(prepared, arrow, limit_s)
        loop = asyncio.get_running_loop()
        ends = await self._fold_ends(prepared, limit_s) if prepared.plan.ends else None
        return await loop.run_in_executor(self._running, self._run_rollup, prepared, ends, arrow)

    def _run_rollup(self, prepared: Prepared, ends: bytes | None, arrow: bool) -> Finished:
        planned, rollup, dictionaries = prepared.plan, prepared.plan.rollup, prepared.dictionaries
        assert rollup is not None
        assert dictionaries is not None
        pieces = [Piece(block, *inside_ms(planned)) for block in prepared.hot]
        for read in prepared.reads:
            if read.part.grain is not None:
                blocks = self._cache.blocks(self._store, planned.datasource, rollup, read.files, dictionaries)
                pieces += [Piece(block, read.part.start_ms, read.part.end_ms) for block in blocks]
        if ends is not None:
            pieces.append(Piece(Block(pl.read_ipc_stream(ends), dictionaries), *ends_ms(planned)))
        return finish(run_rollup(planned, pieces), arrow)

    async def _fold_ends(self, prepared: Prepared, limit_s: float) -> bytes:
        """The raw ends of a rollup's question as its rows, an Arrow IPC stream."""
        planned = prepared.plan
        schema = planned.shape.schema
        rows = await prepared.view.rows(EVENTS) if prepared.hot_ends else schema.empty_table()
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._running, _in_ends, rows, planned)
        if not prepared.raw_files and rows.num_rows <= INLINE_ROWS_MAX:
            return await loop.run_in_executor(self._running, folded, planned, [hot_source(rows)])
        found = await self._scans.scan(
            planned, self._store, prepared.raw_files, rows, arrow=True, time_limit_s=max(limit_s, 0.001)
        )
        return found.rows

    async def _run_raw(self, prepared: Prepared, arrow: bool, limit_s: float) -> Finished:
        planned = prepared.plan
        rows = await prepared.view.rows(planned.query.table) if prepared.has_hot else planned.shape.schema.empty_table()
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._running, _in_range, rows, planned)
        if not prepared.raw_files and rows.num_rows <= INLINE_ROWS_MAX:
            return await loop.run_in_executor(self._running, _run_inline, planned, rows, arrow)
        return await self._scans.scan(
            planned, self._store, prepared.raw_files, rows, arrow=arrow, time_limit_s=max(limit_s, 0.001)
        )


def _position(query: Query, header: str | None) -> Position | None:
    """What the question and the header say together; two positions of different datasources are the view's to refuse."""
    found = [decode_position(text) for text in (query.after, header) if text]
    if len(found) == 2 and found[0].folder == found[1].folder:
        return found[0].merge(found[1])
    return found[0] if found else None


def _in_range(rows: pa.Table, planned: Plan) -> pa.Table:
    if planned.start_ms == TIME_MS_MIN and planned.end_ms == TIME_MS_MAX:
        return rows
    return rows.filter(_between(rows, planned.start_ms, planned.end_ms))


def _in_ends(rows: pa.Table, planned: Plan) -> pa.Table:
    taken = [rows.filter(_between(rows, end.start_ms, end.end_ms)) for end in planned.ends]
    return pa.concat_tables(taken)


def _between(rows: pa.Table, start_ms: int, end_ms: int) -> pa.ChunkedArray:
    times = rows.column(TIME)
    start, end = (pa.scalar(bound, pa.int64()).cast(TIMESTAMP) for bound in (start_ms, end_ms))
    return pc.and_(pc.greater_equal(times, start), pc.less(times, end))


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
        **({"forgotten": _forgotten(planned)} if planned.forgotten else {}),
        "bounds": finished.bounds if finished else {},
        "row_limit": planned.query.limit,
        "truncated": finished.more if finished else False,
        "cached": cached,
        "elapsed_ms": round((time.perf_counter() - begun) * 1000, 3),
    }


def _forgotten(planned: Plan) -> list[str]:
    """Stretches that no table keeps as finely as they were asked for: what they held is not in the answer."""
    return [f"{format_time(start)}/{format_time(end)}" for start, end in planned.forgotten]


def _sources(prepared: Prepared) -> Sequence[str]:
    return [*prepared.plan.tables, *(["hot"] if prepared.has_hot else [])]


def _body(finished: Finished, meta: dict[str, Any]) -> bytes:
    following = b',"next":' + orjson.dumps(finished.next) if finished.next else b""
    return b"".join((b'{"rows":', finished.rows, following, b',"meta":', orjson.dumps(meta), b"}"))


def _late(limit_s: float) -> TimeLimitError:
    return TimeLimitError(
        f"the query took longer than {limit_s:.1f} s", "ask of a shorter time range, or what a rollup holds"
    )
