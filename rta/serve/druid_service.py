"""Native queries of Druid's answered end to end: parse, views, files and hot rows, cache, execute.

Owns which table a data source's name means, the time limit, the keys of finished answers and the cancelling of queries by
their ids. Answers are kept where those of the query service are. Knows no HTTP: `rta.serve.druid` does.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from rta.config import Settings
from rta.druid.engine import clipped_to
from rta.druid.periods import Interval
from rta.druid.query import NativeQuery, parse_query, spanned, table_names
from rta.druid.translation import Translation, first_matters, native_answer, translate
from rta.errors import FileGoneError, InvalidQueryError, NotFoundError, RtaError, TimeLimitError, ViewGoneError
from rta.events.schemas import EVENTS, GRAIN_MS, REJECTED, TIME, TIMESTAMP, Datasource, Rollup
from rta.query.answer import read_stream
from rta.query.position import decode_position
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN
from rta.serve.druid_task import DruidTask, TableRead
from rta.serve.ports import Definitions, View, Views
from rta.serve.scan import ScanPool
from rta.serve.scan_task import Finished, rows_stream
from rta.serve.service import INLINE_ROWS_MAX, RENEWALS_MAX, NotByRollupError, QueryService
from rta.serve.spans import times_of_frame
from rta.store.model import FileRef
from rta.store.objects import ObjectStore
from rta.store.parquet import within_range

STALENESS_MS = 10
_WITH_BOUNDS = frozenset({"timeseries", "topN", "timeBoundary", "segmentMetadata", "dataSourceMetadata"})
_UNHEARD = frozenset({"queryId", "timeout", "priority", "lane", "useCache", "populateCache"})
"""Keys of the context that change no answer."""
NOTHING: Interval = (1, 0)


class QueryCancelledError(RtaError):
    """Somebody asked for the query to be stopped."""

    code = "query_cancelled"
    status = 500


@dataclass(frozen=True, slots=True)
class NativeReply:
    """The JSON of an answer. `etag` names the question and the data that it was answered from."""

    body: bytes
    etag: str
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class _Source:
    """A table of a view, under the name that the query gives it."""

    name: str
    view: View
    table: str
    rollup: Rollup | None
    files: tuple[FileRef, ...]
    parts: tuple[str, ...]
    bounds: Interval | None
    hot_bounds: bool

    @property
    def datasource(self) -> Datasource:
        return self.view.datasource


class DruidService:
    """Answers native queries. Belongs to one event loop.

    Args:
        queries: Whose cache of answers is shared, and whose limits hold.
    """

    def __init__(
        self,
        views: Views,
        definitions: Definitions,
        scans: ScanPool,
        settings: Settings,
        store: ObjectStore,
        queries: QueryService,
    ) -> None:
        self._views = views
        self._definitions = definitions
        self._scans = scans
        self._limits = settings.limits
        self._store = store
        self._queries = queries
        self._looking = ThreadPoolExecutor(1, "druid-prepare")
        self._running = ThreadPoolExecutor(2, "druid-run")
        self._under_way: dict[str, set[asyncio.Task[Any]]] = {}

    async def answer(
        self, document: Mapping[str, Any], query_id: str, *, after: str | None = None, if_none_match: str | None = None
    ) -> NativeReply:
        """Answer a query.

        Raises:
            InvalidInputError, UnsupportedError, InvalidQueryError, TimeLimitError, OutOfMemoryError, CorruptFileError,
            UnavailableError, QueryCancelledError.
        """
        query = parse_query(document)
        limit_s = self._limits.query_time / 1000
        if query.context.timeout_ms:
            limit_s = min(limit_s, query.context.timeout_ms / 1000)
        task = asyncio.create_task(self._within(query, document, after, if_none_match, limit_s))
        mine = self._under_way.setdefault(query_id, set())
        mine.add(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise QueryCancelledError(f"the query '{query_id[:100]}' was cancelled") from None
            task.cancel()
            raise
        finally:
            mine.discard(task)
            if not mine:
                self._under_way.pop(query_id, None)

    def cancel(self, query_id: str) -> bool:
        """Stop the query; whether it was under way."""
        found = self._under_way.get(query_id, set())
        for task in found:
            task.cancel()
        return bool(found)

    async def close(self) -> None:
        """End the threads; queries under way are given up."""
        for query_id in list(self._under_way):
            self.cancel(query_id)
        self._looking.shutdown(wait=False, cancel_futures=True)
        self._running.shutdown(wait=False, cancel_futures=True)

    async def _within(
        self,
        query: NativeQuery,
        document: Mapping[str, Any],
        after: str | None,
        if_none_match: str | None,
        limit_s: float,
    ) -> NativeReply:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(limit_s):
                quick = await self._by_rollup(query, document, after, if_none_match)
                if quick is not None:
                    return quick
                for attempt in range(RENEWALS_MAX + 1):
                    sources = await self._sources(query, after, limit_s)
                    try:
                        rest = max(limit_s - (time.perf_counter() - begun), 0.001)
                        return await self._reply(query, document, sources, if_none_match, rest)
                    except (FileGoneError, ViewGoneError):
                        if attempt == RENEWALS_MAX:
                            raise
                        for source in sources:
                            await self._views.renew(source.view)
                raise AssertionError("the last attempt returns or raises")
        except TimeoutError as error:
            hint = "ask of a shorter time range, or raise 'timeout' of the context"
            raise TimeLimitError(f"the query took longer than {limit_s:.1f} s", hint) from error

    async def _by_rollup(
        self, query: NativeQuery, document: Mapping[str, Any], after: str | None, if_none_match: str | None
    ) -> NativeReply | None:
        """The answer from a rollup, where the planner finds one that gives the very same; else None."""
        names = table_names(query)
        if len(names) != 1 or "." in names[0]:
            return None
        try:
            datasource = await self._definitions.get(names[0])
        except NotFoundError:
            return None
        translation = translate(query, datasource, self._limits.query_rows)
        if translation is None:
            return None
        try:
            reply = await self._queries.rollup_rows(translation.document, after)
        except NotByRollupError:
            return None
        if reply.meta["truncated"]:
            return None
        view = await self._views.at(datasource, STALENESS_MS, None, self._limits.query_time / 1000)
        bounds = await asyncio.get_running_loop().run_in_executor(self._looking, rollup_bounds, query, view)
        if bounds is None:
            return None
        key = _digest(document, (reply.etag, str(clipped_to(query.intervals, bounds))))
        etag = f'"{hashlib.blake2b(key, digest_size=16).hexdigest()}"'
        if if_none_match is not None and etag in if_none_match:
            return NativeReply(b"", etag, unchanged=True)
        finished = self._queries.answers.known(key)
        if finished is None:
            make = partial(_native, query, translation, reply.body, bounds)
            body = await asyncio.get_running_loop().run_in_executor(self._running, make)
            if body is None:
                return None
            finished, _ = await self._queries.answers.find_or(key, False, partial(_ready, body))
        return NativeReply(finished.rows, etag)

    async def _sources(self, query: NativeQuery, after: str | None, limit_s: float) -> list[_Source]:
        """The tables that there are; a name that means none is an empty table, as in Druid."""
        found: list[_Source] = []
        views: dict[str, View] = {}
        for name in table_names(query):
            datasource_name, _, table = name.partition(".")
            try:
                datasource = await self._definitions.get(datasource_name)
            except NotFoundError:
                continue
            position = decode_position(after) if after else None
            view = views.get(datasource.folder)
            if view is None:
                view = await self._views.at(datasource, STALENESS_MS, position, limit_s)
                views[datasource.folder] = view
            look = partial(_source, query, name, view, table or EVENTS)
            source = await asyncio.get_running_loop().run_in_executor(self._looking, look)
            if source is not None:
                found.append(source)
        return found

    async def _reply(
        self,
        query: NativeQuery,
        document: Mapping[str, Any],
        sources: Sequence[_Source],
        if_none_match: str | None,
        limit_s: float,
    ) -> NativeReply:
        key = self._key(document, sources)
        etag = f'"{hashlib.blake2b(key, digest_size=16).hexdigest()}"'
        if if_none_match is not None and etag in if_none_match:
            return NativeReply(b"", etag, unchanged=True)
        finished = self._queries.answers.known(key)
        if finished is None:
            compute = partial(self._compute, query, document, sources, limit_s)
            finished, _ = await self._queries.answers.find_or(key, True, compute)
        return NativeReply(finished.rows, etag)

    def _key(self, document: Mapping[str, Any], sources: Sequence[_Source]) -> bytes:
        """Of an answer: what the query means, and the data that it is answered from."""
        texts: list[str] = []
        for source in sources:
            texts += (self._queries.run, source.datasource.folder, str(source.datasource.version), source.table, "")
            texts += (*(f.path for f in source.files), "", *source.parts, str(source.bounds))
        return _digest(document, texts)

    async def _compute(
        self, query: NativeQuery, document: Mapping[str, Any], sources: Sequence[_Source], limit_s: float
    ) -> Finished:
        loop = asyncio.get_running_loop()
        reads: list[TableRead] = []
        rows_hot = 0
        for source in sources:
            hot = await self._hot(source)
            read = partial(_read, query, source, hot)
            made, rows = await loop.run_in_executor(self._running, read)
            reads.append(made)
            rows_hot += rows
        task = DruidTask(dict(document), self._store, tuple(reads), limit_s)
        if rows_hot <= INLINE_ROWS_MAX and not any(read.files for read in reads):
            body = await loop.run_in_executor(self._running, task.run)
        else:
            body = await self._scans.run(task)
        return Finished(body, {}, False, None, 0)

    async def _hot(self, source: _Source) -> pa.Table | None:
        """Rows beyond the files, where there are any that matter."""
        if not source.parts:
            return None
        if source.rollup is None:
            return await source.view.rows(source.table)
        frames = source.view.partials(source.rollup.name)
        schema = source.datasource.rollup_schema(source.rollup)
        if not frames:
            return schema.empty_table()
        return (
            pl.concat(frames, how="vertical_relaxed")
            .select(schema.names)
            .to_arrow(compat_level=pl.CompatLevel.oldest())
        )


def _digest(document: Mapping[str, Any], texts: Iterable[str]) -> bytes:
    context = {k: v for k, v in (document.get("context") or {}).items() if k not in _UNHEARD}
    heard = dict(document) | {"context": context}
    digest = hashlib.blake2b(orjson.dumps(heard, option=orjson.OPT_SORT_KEYS), digest_size=32)
    for text in texts:
        digest.update(text.encode() + b"\0")
    return b"druid" + digest.digest()


def _native(query: NativeQuery, translation: Translation, stream: bytes, bounds: Interval) -> bytes | None:
    return native_answer(query, translation, read_stream(stream), bounds)


async def _ready(body: bytes) -> Finished:
    return Finished(body, {}, False, None, 0)


def rollup_bounds(query: NativeQuery, view: View) -> Interval | None:
    """First and last time of a datasource's events, as exactly as the answer shows it; None where only rows tell.

    A bucket's start from the finest rollup is exact enough for buckets, but not for the stamp of `all`.
    """
    datasource = view.datasource
    finest = min(datasource.rollups, key=lambda r: GRAIN_MS[r.granularity])
    raw = datasource.retention.events_ms is not None
    files = view.files(EVENTS if raw else finest.table)
    start, end = query.intervals[0]
    low = min((f.time_min_ms for f in files), default=TIME_MS_MAX)
    high = max((f.time_max_ms for f in files), default=TIME_MS_MIN)
    if low <= start and end <= high + 1:
        return low, high
    if raw and low > start and first_matters(query):
        return None
    hot = [t for frame in view.partials(finest.name) if (t := times_of_frame(frame)) is not None]
    low, high = min([low, *(t[0] for t in hot)]), max([high, *(t[1] for t in hot)])
    return (low, high) if low <= high else None


def _source(query: NativeQuery, name: str, view: View, table: str) -> _Source | None:
    """What of a view a query reads (in the thread that looks up files)."""
    datasource = view.datasource
    rollup = datasource.rollup(table)
    if rollup is None and table not in (EVENTS, REJECTED):
        return None
    if rollup is None and table == EVENTS and datasource.retention.events_ms is None:
        valid = ", ".join(f"{datasource.name}.{r.name}" for r in datasource.rollups)
        raise InvalidQueryError(f"datasource '{datasource.name}' keeps no raw events", f"ask its rollups: {valid}")
    stored = rollup.table if rollup is not None else table
    every = view.files(stored)
    intervals = spanned(query)
    start = min((i[0] for i in intervals), default=0)
    end = max((i[1] for i in intervals), default=0)
    files = tuple(within_range(every, (start, end)))
    bounds: Interval = (
        min((f.time_min_ms for f in every), default=NOTHING[0]),
        max((f.time_max_ms for f in every), default=NOTHING[1]),
    )
    covered = bool(every) and bounds[0] <= start and end <= bounds[1] + 1
    hot_bounds = query.type in _WITH_BOUNDS and not covered
    window = (TIME_MS_MIN, TIME_MS_MAX) if hot_bounds else (start, end)
    parts = tuple(view.parts(stored, *window))
    return _Source(name, view, stored, rollup, files, parts, bounds, hot_bounds)


def _read(query: NativeQuery, source: _Source, hot: pa.Table | None) -> tuple[TableRead, int]:
    """What a worker gets of a table, and how many rows beyond files that is."""
    bounds, data, count = source.bounds, b"", 0
    if hot is not None:
        if source.hot_bounds and hot.num_rows:
            bounds = _widened(bounds, hot)
        intervals = spanned(query)
        rows = (
            _during(hot, min(i[0] for i in intervals), max(i[1] for i in intervals)) if intervals else hot.slice(0, 0)
        )
        data, count = rows_stream(rows), rows.num_rows
    read = TableRead(source.name, source.datasource, source.rollup, source.table, source.files, data, bounds)
    return read, count


def _widened(bounds: Interval | None, hot: pa.Table) -> Interval:
    times = hot.column(TIME).cast(pa.int64())
    low, high = pc.min(times).as_py(), pc.max(times).as_py()
    if bounds is None or bounds[0] > bounds[1]:
        return low, high
    return min(bounds[0], low), max(bounds[1], high)


def _during(rows: pa.Table, start_ms: int, end_ms: int) -> pa.Table:
    if start_ms <= TIME_MS_MIN and end_ms >= TIME_MS_MAX:
        return rows
    times = rows.column(TIME)
    start, end = (pa.scalar(bound, pa.int64()).cast(TIMESTAMP) for bound in (start_ms, end_ms))
    return rows.filter(pc.and_(pc.greater_equal(times, start), pc.less(times, end)))
