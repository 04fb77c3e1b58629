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
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from rta.config import Settings
from rta.errors import FileGoneError, TimeLimitError, ViewGoneError
from rta.events.schemas import EVENTS, Rollup
from rta.query.block import Block, Dictionaries
from rta.query.compose import is_composed, parts_of
from rta.query.cost import estimate_us
from rta.query.ends import ends_ms
from rta.query.execute import Piece, run_rollup
from rta.query.model import Absolute, Query
from rta.query.parse import parse_query
from rta.query.periods import absolute_range
from rta.query.planner import Plan, explain
from rta.serve.advice import Adviser
from rta.serve.answers import Answers
from rta.serve.composed import parts_explained, put_together, whole_of
from rta.serve.flights import Flights
from rta.serve.metrics import Registry
from rta.serve.ports import Definitions, NotAtHandError, View, Views
from rta.serve.reads import (
    Prepared,
    Read,
    explained,
    find_reads,
    in_ends,
    in_range,
    inside_ms,
    names_beyond,
    planned_for,
    position_of,
)
from rta.serve.replies import ARROW, JSON, Asked, etag_of, matches, meta_of, reply_of
from rta.serve.replies import Reply as Reply
from rta.serve.scan import ScanPool
from rta.serve.scan_task import Finished, ScanTask, answer_raw, finish, folded, hot_source, rows_stream
from rta.store.cache import FileCache
from rta.store.objects import ObjectStore

Found = tuple[Finished, bool]
"""An answer, and whether it was in the cache that replicas share."""
ANSWERS_BYTES_MAX = 64 << 20
RENEWALS_MAX = 2
"""How often a question takes a newer view because files or rows of the last one are gone."""
HOT_BLOCKS_MAX = 32
"""Rollups whose rows beyond the files are kept decoded."""
INLINE_US_MAX = 4_000
"""A question over decoded rows that takes less is answered in the event loop: threads share one interpreter, so that others wait
for it all the same, and going to a thread and back costs 0.5-2 ms."""
DECODED_ROWS_MAX = 5_000
"""So many new rows beyond the files are decoded in the event loop."""
AGAIN_MAX = 256
"""Documents whose last answer is found without reading them."""
AGAIN_BYTES_MAX = 1 << 16
AGAIN_S = 5.0
INLINE_ROWS_MAX = 50_000
"""So many raw rows, and no files, are scanned here: 10-20 ms, and the worker's start is saved."""


class _Wants(NamedTuple):
    """What a caller asked for, and when (`time.perf_counter`)."""

    query: Query
    after_header: str | None
    if_none_match: str | None
    accept_arrow: bool
    begun: float
    from_rollup: bool = False
    """Answer only what a rollup answers; raise NotByRollupError for the rest."""


class NotByRollupError(Exception):
    """Single rows would have to be read; whoever asked has a way of his own to do that."""


class _Again(NamedTuple):
    """What `answer_again` needs of an answer. `until` is of `time.perf_counter`: a plan may depend on the clock by what tables
    still keep."""

    prepared: Prepared
    finished: Finished
    etag: str
    until: float

    @property
    def moment(self) -> tuple[int, str]:
        return self.prepared.view.manifest, self.prepared.view.version


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
        self.adviser = Adviser(views, definitions, store, self.looking)
        self._flights: Flights[Found] = Flights()
        self._hot_blocks: OrderedDict[tuple[str, str], dict[int, tuple[pl.DataFrame, Block]]] = OrderedDict()
        self._keeping = threading.Lock()
        self._again: OrderedDict[tuple[bytes, bool], _Again] = OrderedDict()

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

    async def rollup_rows(self, query: Query, after_header: str | None) -> Reply:
        """The rows as an Arrow stream, if a rollup answers the question. Raises NotByRollupError and what `answer` raises."""
        return await self._reply(_Wants(query, after_header, None, True, time.perf_counter(), from_rollup=True))

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
        if wants.from_rollup and prepared.plan.rollup is None:
            raise NotByRollupError
        key = prepared.key + (b"arrow" if accept_arrow else b"json")
        etag = etag_of(key, prepared.view.complete)
        if wants.if_none_match is not None and matches(wants.if_none_match, etag):
            return Reply(304, b"", ARROW if accept_arrow else JSON, etag, meta_of(prepared, None, True, begun))
        finished = self.answers.known(key)
        cached = finished is not None
        if finished is None:
            try:
                compute = partial(self._compute, prepared, accept_arrow, limit_s - (time.perf_counter() - begun))
                finished, cached = await self._flights.once(
                    key, partial(self.answers.find_or, key, prepared.shared, self.adviser.noting(prepared, compute))
                )
            except (FileGoneError, ViewGoneError):
                if last:
                    raise
                await self._views.renew(prepared.view)
                return None
        return reply_of(prepared, finished, cached, Asked(etag, accept_arrow, begun))

    def answer_again(
        self, body: bytes, *, after_header: str | None, if_none_match: str | None, accept_arrow: bool
    ) -> Reply | None:
        """The answer to the very document that was answered before, if nothing has come since; else None."""
        begun = time.perf_counter()
        found = self._again.get((body, accept_arrow))
        if found is None or after_header or if_none_match or begun > found.until:
            return None
        prepared, query = found.prepared, found.prepared.plan.query
        if self._definitions.at_hand(query.datasource) is not prepared.view.datasource:
            return None
        view = self._views.at_once(prepared.view.datasource, query.max_staleness_ms, None)
        if view is None or (view.manifest, view.version) != found.moment or view.complete != prepared.view.complete:
            return None
        self._again.move_to_end((body, accept_arrow))
        self.answers.looked(hit=True)
        return reply_of(replace(prepared, view=view), found.finished, True, Asked(found.etag, accept_arrow, begun))

    def answer_now(
        self,
        document: Mapping[str, Any],
        *,
        body: bytes,
        after_header: str | None,
        if_none_match: str | None,
        accept_arrow: bool,
    ) -> Reply | None:
        """Answer a question without waiting for anything and in little time; None where that can't be.

        Args:
            body: The document as it came, for `answer_again`.

        It can where the definition, a view and its files are known here, and the answer is kept, or its rows are decoded and
        few: then handing it to a thread and back would cost more than answering it. Raises as `answer` does.
        """
        begun = time.perf_counter()
        query = parse_query(document, limit_max=self._limits.query_rows)
        datasource = self._definitions.at_hand(query.datasource)
        if datasource is None:
            return None
        view = self._views.at_once(datasource, query.max_staleness_ms, position_of(query, after_header))
        if view is None:
            return None
        try:
            prepared = self._look(query, view, time.time_ns() // 1_000_000, DECODED_ROWS_MAX)
        except NotAtHandError:
            return None
        key = prepared.key + (b"arrow" if accept_arrow else b"json")
        etag = etag_of(key, prepared.view.complete)
        if if_none_match is not None and matches(if_none_match, etag):
            return Reply(304, b"", ARROW if accept_arrow else JSON, etag, meta_of(prepared, None, True, begun))
        finished = self.answers.held(key)
        cached = finished is not None
        if finished is None:
            finished = self._run_now(key, prepared, accept_arrow)
            if finished is None:
                return None
            self.answers.keep(key, finished)
            self.adviser.record.quick(datasource.folder)
        self.answers.looked(hit=cached)
        if query.after is None and after_header is None:
            self._remember((body, accept_arrow), _Again(prepared, finished, etag, begun + AGAIN_S))
        return reply_of(prepared, finished, cached, Asked(etag, accept_arrow, begun))

    def _remember(self, key: tuple[bytes, bool], found: _Again) -> None:
        """Unless the answer is large, or its range moves with the clock."""
        times = found.prepared.plan.query.time_range
        if len(key[0]) + len(found.finished.rows) > AGAIN_BYTES_MAX or not (
            times is None or isinstance(times, Absolute)
        ):
            return
        self._again[key] = found
        self._again.move_to_end(key)
        # What is too old to be given again would keep the rows of its view in memory.
        now = time.perf_counter()
        while len(self._again) > AGAIN_MAX or (self._again and next(iter(self._again.values())).until < now):
            self._again.popitem(last=False)

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
        # Rules run again for it, and they know nothing of what several plans make together.
        plan = prepared.parts[0][1].plan if prepared.parts else prepared.plan
        return explain(plan) | {
            **parts_explained(prepared),
            **explained(prepared.reads),
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
        view = await self._views.at(datasource, query.max_staleness_ms, position_of(query, after_header), limit_s)
        now_ms = time.time_ns() // 1_000_000
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.looking, self._look, query, view, now_ms)
        except ViewGoneError:
            await self._views.renew(view)
            view = await self._views.at(datasource, query.max_staleness_ms, position_of(query, after_header), limit_s)
            return await loop.run_in_executor(self.looking, self._look, query, view, now_ms)

    def _look(self, query: Query, view: View, now_ms: int, decoded_rows_max: int | None = None) -> Prepared:
        """Plan the question and find what it reads: in the thread that looks up files, or with a view that never waits.

        Raises NotAtHandError where more than `decoded_rows_max` new rows beyond the files would have to be decoded.
        """
        if not is_composed(query):
            return self._look_plain(query, view, now_ms, decoded_rows_max)
        asked = absolute_range(query.time_range, query.granularity, query.timezone, now_ms)
        parts = parts_of(query, asked)
        return whole_of(query, tuple((p, self._look_plain(p.query, view, now_ms, decoded_rows_max)) for p in parts))

    def _look_plain(self, query: Query, view: View, now_ms: int, decoded_rows_max: int | None) -> Prepared:
        planned = planned_for(query, view, now_ms)
        reads = find_reads(planned, view)
        beyond, beyond_ends = names_beyond(planned, view)
        hot: tuple[Block, ...] = ()
        has_hot, dictionaries = bool(beyond or beyond_ends), None
        if planned.rollup is not None:
            dictionaries = self._cache.dictionaries(view.datasource, planned.rollup)
            if beyond:
                if decoded_rows_max is not None and self._undecoded_rows(view, planned.rollup) > decoded_rows_max:
                    raise NotAtHandError
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

    def _undecoded_rows(self, view: View, rollup: Rollup) -> int:
        """Of the view's frames that no question has asked for yet."""
        known = self._hot_blocks.get((view.datasource.folder, rollup.name), {})
        return sum(frame.height for frame in view.partials(rollup.name) if id(frame) not in known)

    def _hot_of(self, view: View, rollup: Rollup, dictionaries: Dictionaries) -> Sequence[Block]:
        """The view's frames decoded; a frame that an earlier view had too is decoded already.

        In the event loop or in the thread that looks up files: at worst both decode the same frame.
        """
        key = (view.datasource.folder, rollup.name)
        known = self._hot_blocks.get(key, {})
        found: dict[int, tuple[pl.DataFrame, Block]] = {}
        for frame in view.partials(rollup.name):
            _, block = known.get(id(frame), (frame, None))  # the frame is kept, so that its id stays its own
            if block is None or block.dictionaries is not dictionaries:
                block = Block(frame, dictionaries)
            found[id(frame)] = (frame, block)
        with self._keeping:
            self._hot_blocks.pop(key, None)
            self._hot_blocks[key] = found
            while len(self._hot_blocks) > HOT_BLOCKS_MAX:
                self._hot_blocks.popitem(last=False)
        return [block for _, block in found.values()]

    async def _compute(self, prepared: Prepared, arrow: bool, limit_s: float) -> Finished:
        if prepared.parts:
            return await self._run_parts(prepared, arrow, limit_s)
        if prepared.plan.rollup is None:
            return await self._run_raw(prepared, arrow, limit_s)
        loop = asyncio.get_running_loop()
        ends = await self._fold_ends(prepared, limit_s) if prepared.plan.ends else None
        return await loop.run_in_executor(self._running, self._run_rollup, prepared, ends, arrow)

    def _run_now(self, key: bytes, prepared: Prepared, arrow: bool) -> Finished | None:
        """The answer from decoded rows; None where somebody computes it already, or that would hold up others."""
        planned, rollup, dictionaries = prepared.plan, prepared.plan.rollup, prepared.dictionaries
        if rollup is None or dictionaries is None or planned.ends or prepared.parts or self._flights.has(key):
            return None
        pieces = [Piece(block, *inside_ms(planned)) for block in prepared.hot]
        for read in prepared.reads:
            blocks = self._cache.known_blocks(planned.datasource, rollup, read.files, dictionaries)
            if blocks is None:
                return None
            pieces += [Piece(block, read.part.start_ms, read.part.end_ms) for block in blocks]
        if estimate_us(planned, pieces) > INLINE_US_MAX:
            return None
        return finish(run_rollup(planned, pieces), arrow)

    async def _run_parts(self, prepared: Prepared, arrow: bool, limit_s: float) -> Finished:
        """Every part as if it had been asked alone, so that what is cached of it is used, and their answers together."""
        tasks = [asyncio.create_task(self._found(part, limit_s)) for _, part in prepared.parts]
        try:
            found = [finished for finished, _ in await asyncio.gather(*tasks)]
        finally:
            for task in tasks:
                task.cancel()  # when one has failed nobody needs the others
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._running, put_together, prepared, found, arrow)

    async def _found(self, part: Prepared, limit_s: float) -> Found:
        key = part.key + b"arrow"
        known = self.answers.known(key)
        if known is not None:
            return known, True
        compute = self.adviser.noting(part, partial(self._compute, part, True, limit_s))
        return await self._flights.once(key, partial(self.answers.find_or, key, part.shared, compute))

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
        rows = await loop.run_in_executor(self._running, in_ends, rows, planned)
        if not prepared.raw_files and rows.num_rows <= INLINE_ROWS_MAX:
            return await loop.run_in_executor(self._running, folded, planned, [hot_source(rows)])
        return (await self._scan(prepared, rows, True, limit_s)).rows

    async def _run_raw(self, prepared: Prepared, arrow: bool, limit_s: float) -> Finished:
        planned = prepared.plan
        rows = await prepared.view.rows(planned.query.table) if prepared.has_hot else planned.shape.schema.empty_table()
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._running, in_range, rows, planned)
        if not prepared.raw_files and rows.num_rows <= INLINE_ROWS_MAX:
            return await loop.run_in_executor(self._running, _run_inline, planned, rows, arrow)
        return await self._scan(prepared, rows, arrow, limit_s)

    async def _scan(self, prepared: Prepared, rows: pa.Table, arrow: bool, limit_s: float) -> Finished:
        task = ScanTask(prepared.plan, self._store, prepared.raw_files, rows_stream(rows), arrow, max(limit_s, 0.001))
        return await self._scans.run(task)


def _run_inline(planned: Plan, rows: pa.Table, arrow: bool) -> Finished:
    return finish(answer_raw(planned, [hot_source(rows)]), arrow)


def _late(limit_s: float) -> TimeLimitError:
    return TimeLimitError(
        f"the query took longer than {limit_s:.1f} s", "ask of a shorter time range, or what a rollup holds"
    )
