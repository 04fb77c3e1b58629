"""SQL answered end to end: read the statement, take views, find what it reads, ask a worker or a rollup, reply.

Owns which tables a statement means, the keys of its answers and the time limit over all of it. Every table of one datasource
comes from one view. How statements run is `rta.serve.sql_task`'s; one of a rollup's shape goes the way of `POST /v1/query`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import orjson
import polars as pl
from sqlglot import exp

from rta.config import Settings
from rta.errors import BadRequestError, FileGoneError, InvalidQueryError, NotFoundError, TimeLimitError, ViewGoneError
from rta.events.schemas import Datasource
from rta.query.answer import format_time, read_stream
from rta.query.position import Position, decode_position
from rta.query.sql.document import parse_sql_document
from rta.query.sql.ranges import Constants
from rta.query.sql.rollups import AsQuery, as_query
from rta.query.sql.statement import Statement, is_catalog, of_tree, parse_statement
from rta.query.sql.tables import SqlTable, table_name, table_of, tables_of
from rta.serve.flights import Flights
from rta.serve.ports import Definitions, View, Views
from rta.serve.reads import planned_for
from rta.serve.replies import ARROW, JSON, Reply
from rta.serve.scan import ScanPool
from rta.serve.scan_task import Finished
from rta.serve.service import RENEWALS_MAX, Found, QueryService
from rta.serve.sql_answer import Answered, Form, rendered
from rta.serve.sql_reads import Source, explained, sources
from rta.serve.sql_task import SqlTask
from rta.store.objects import ObjectStore

CSV = "text/csv; charset=utf-8"
CATALOG = "information_schema"
CONTENT_TYPES: dict[Form, str] = {"json": JSON, "csv": CSV, "arrow": ARROW}
_FILE = re.compile(r".*\.(parquet|csv|tsv|json|jsonl|ndjson|txt|gz|zst|db|duckdb|arrow|feather|orc|avro|xlsx)", re.I)


@dataclass(frozen=True, slots=True)
class SqlOptions:
    """What is asked besides the statement.

    Args:
        after: Positions that the answer must contain, separated by commas.
        limit: Rows at most; None for as many as the settings allow.
        time_limit_s: None for that of the settings, which it can't pass.
    """

    after: str | None = None
    if_none_match: str | None = None
    max_staleness_ms: int = 10
    limit: int | None = None
    time_limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class SqlRows:
    """An answer for further use: an Arrow IPC stream of the rows.

    `unchanged` says that it is the one that `if_none_match` names, and `stream` is empty.
    """

    stream: bytes
    more: bool
    meta: dict[str, Any]
    etag: str
    unchanged: bool


@dataclass(frozen=True, slots=True)
class _Ask:
    statement: Statement
    parameters: tuple[Any, ...]
    options: SqlOptions
    form: Form
    begun: float
    limit_s: float
    limit: int

    @property
    def left_s(self) -> float:
        return max(0.001, self.limit_s - (time.perf_counter() - self.begun))

    @property
    def elapsed_ms(self) -> float:
        return round((time.perf_counter() - self.begun) * 1000, 3)


@dataclass(frozen=True, slots=True)
class _Prepared:
    sources: tuple[Source, ...]
    views: tuple[View, ...]
    catalog: tuple[SqlTable, ...]
    key: bytes


class SqlService:
    """Answers SQL. Belongs to one event loop.

    Args:
        scans: Where statements run.
        queries: Answers what a rollup can, and owns the thread that looks up files and the kept answers.
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
        self._flights: Flights[Found] = Flights()

    async def answer(
        self, document: Mapping[str, Any], *, after_header: str | None, if_none_match: str | None, form: Form
    ) -> Reply:
        """Answer a question as `POST /v1/sql` takes it.

        Raises:
            InvalidQueryError, NotFoundError, TimeLimitError, OutOfMemoryError, CorruptFileError, UnavailableError.
        """
        question = parse_sql_document(document, limit_max=self._limits.query_rows)
        after = ",".join(text for text in (question.after, after_header) if text) or None
        options = SqlOptions(after, if_none_match, question.max_staleness_ms, question.limit)
        reading = partial(parse_statement, question.query)
        statement = await asyncio.get_running_loop().run_in_executor(self._queries.looking, reading)
        return await self._reply(statement, question.parameters, options, form)

    async def rows(
        self, statement: exp.Expr, parameters: Sequence[Any] = (), options: SqlOptions = SqlOptions()
    ) -> SqlRows:
        """Answer a statement that is a tree already, in DuckDB's dialect; it is checked as any other.

        Raises:
            As `answer`.
        """
        loop = asyncio.get_running_loop()
        read = await loop.run_in_executor(self._queries.looking, partial(of_tree, statement))
        reply = await self._reply(read, tuple(parameters), options, "arrow")
        return SqlRows(reply.body, bool(reply.meta.get("truncated")), reply.meta, reply.etag, reply.status == 304)

    async def close(self) -> None:
        """Questions under way are given up."""
        self._flights.cancel()

    async def _reply(self, statement: Statement, parameters: tuple[Any, ...], options: SqlOptions, form: Form) -> Reply:
        limit_s = min(self._limits.query_time / 1000, options.time_limit_s or float("inf"))
        limit = min(options.limit or self._limits.query_rows, self._limits.query_rows)
        ask = _Ask(statement, parameters, options, form, time.perf_counter(), limit_s, limit)
        try:
            async with asyncio.timeout(limit_s):
                for _ in range(RENEWALS_MAX):
                    reply = await self._attempt(ask, last=False)
                    if reply is not None:
                        return reply
                reply = await self._attempt(ask, last=True)
                assert reply is not None
                return reply
        except TimeoutError as error:
            raise TimeLimitError(
                f"the query took longer than {limit_s:.1f} s", "ask of a shorter time range, or what a rollup holds"
            ) from error

    async def _attempt(self, ask: _Ask, *, last: bool) -> Reply | None:
        """The reply; None when a view named what is no longer there, and the next one will not."""
        views = await self._views_of(ask)
        try:
            as_query = await self._as_query(ask, views)
            if as_query is not None:
                return await self._by_rollup(ask, as_query)
            prepared = await self._prepare(ask, views)
            etag = _etag(prepared.key)
            if not ask.statement.is_volatile and _matches(ask.options.if_none_match, etag):
                return Reply(304, b"", CONTENT_TYPES[ask.form], etag, self._meta(ask, prepared, None, True))
            finished, cached = await self._found(ask, prepared)
        except (FileGoneError, ViewGoneError):
            if last:
                raise
            for view in views.values():
                await self._views.renew(view)
            return None
        return _reply(ask, finished.rows, self._meta(ask, prepared, finished, cached), etag)

    async def _views_of(self, ask: _Ask) -> dict[str, View]:
        """A view of every datasource that the statement names, by name."""
        names = sorted({table_name(ref.path).datasource for ref in ask.statement.tables if not is_catalog(ref.path)})
        datasources = [await self._datasource(name, ask.statement) for name in names]
        positions = _positions(ask.options.after)
        strange = set(positions) - {d.folder for d in datasources}
        if strange:
            raise BadRequestError(
                f"'after' is a position in '{min(strange)}', which the query does not read", "leave it out"
            )
        views = await asyncio.gather(
            *(self._views.at(d, ask.options.max_staleness_ms, positions.get(d.folder), ask.left_s) for d in datasources)
        )
        return dict(zip(names, views, strict=True))

    async def _datasource(self, name: str, statement: Statement) -> Datasource:
        try:
            return await self._definitions.get(name)
        except NotFoundError:
            shown = next(".".join(t.path) for t in statement.tables if table_name(t.path).datasource == name)
            if _FILE.fullmatch(shown):
                raise InvalidQueryError(
                    f"'{shown[:100]}' is no table; files can't be read here", "name a table"
                ) from None
            raise

    async def _prepare(self, ask: _Ask, views: Mapping[str, View]) -> _Prepared:
        catalog: tuple[SqlTable, ...] = ()
        if ask.statement.reads_catalog:
            found = [view.datasource for view in views.values()]
            known = {d.name for d in found}
            found += [d for d in await self._definitions.all() if d.name not in known]
            catalog = tuple(table for d in sorted(found, key=lambda d: d.name) for table in tables_of(d))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._queries.looking, self._look, ask, views, catalog)

    def _look(self, ask: _Ask, views: Mapping[str, View], catalog: tuple[SqlTable, ...]) -> _Prepared:
        """Find what the statement reads (in the thread that looks up files)."""
        found = sources(ask.statement, views, Constants(time.time_ns() // 1_000_000, ask.parameters))
        return _Prepared(found, tuple(views.values()), catalog, self._key(ask, found, catalog))

    def _key(self, ask: _Ask, read: Sequence[Source], catalog: Sequence[SqlTable]) -> bytes:
        """Of an answer: the statement and all that it reads, by name."""
        asked = (ask.statement.text, ask.statement.explain, ask.parameters, ask.limit, ask.form, self._queries.run)
        digest = hashlib.blake2b(repr(asked).encode(), digest_size=32)
        for source in read:
            datasource = source.table.datasource
            digest.update(repr((source.paths, datasource.folder, datasource.version, source.table.stored)).encode())
            for name in (*(file.path for file in source.files), "", *source.parts, "\n"):
                digest.update(name.encode() + b"\0")
        for table in catalog:
            digest.update(repr((table.name, table.datasource.folder, table.datasource.version)).encode())
        return b"sql" + digest.digest()

    async def _as_query(self, ask: _Ask, views: Mapping[str, View]) -> AsQuery | None:
        """The statement as a question that a rollup answers; None where there is no such rollup."""
        if len(ask.statement.tables) != 1 or len(views) != 1:
            return None
        (view,) = views.values()
        return await asyncio.get_running_loop().run_in_executor(self._queries.looking, _translated, ask, view)

    async def _by_rollup(self, ask: _Ask, translated: AsQuery) -> Reply:
        """The answer by way of `POST /v1/query`."""
        query = replace(translated.query, max_staleness_ms=ask.options.max_staleness_ms)
        if ask.statement.explain:
            found = await self._queries.explain_query(query)
            described = {**found, "table": translated.query.datasource, "stored": found["table"]}
            return _reply(ask, explained([described], ask.form).rows, {"sources": [found["table"]]}, "")
        after = ",".join(position.encode() for position in _positions(ask.options.after).values())
        reply = await self._queries.answer_query(query, after or None)
        asked = repr((ask.statement.text, ask.parameters, ask.limit, ask.form))
        etag = _etag(f"{reply.etag} {asked}".encode())
        more = bool(reply.meta["truncated"]) and not translated.limited
        bounds = translated.bounds(reply.meta["bounds"])
        meta = reply.meta | {"bounds": bounds, "row_limit": ask.limit, "truncated": more, "elapsed_ms": ask.elapsed_ms}
        if _matches(ask.options.if_none_match, etag):
            return Reply(304, b"", CONTENT_TYPES[ask.form], etag, meta)
        rows = translated.frame(read_stream(reply.body)).to_arrow(compat_level=pl.CompatLevel.oldest())
        return _reply(ask, rendered(Answered(rows, frozenset(), more), ask.form), meta, etag)

    async def _found(self, ask: _Ask, prepared: _Prepared) -> Found:
        if ask.statement.explain:
            return explained([source.described for source in prepared.sources], ask.form), False
        compute = partial(self._compute, ask, prepared)
        if ask.statement.is_volatile:
            return await compute(), False
        answers = self._queries.answers
        known = answers.known(prepared.key)
        if known is not None:
            return known, True
        return await self._flights.once(prepared.key, partial(answers.find_or, prepared.key, True, compute))

    async def _compute(self, ask: _Ask, prepared: _Prepared) -> Finished:
        reads = [await source.read() for source in prepared.sources]
        task = SqlTask(
            text=ask.statement.text,
            parameters=ask.parameters,
            store=self._store,
            reads=tuple(reads),
            catalog=prepared.catalog,
            form=ask.form,
            limit=ask.limit,
            memory_bytes=self._limits.query_memory,
            time_limit_s=ask.left_s,
        )
        return await self._scans.run(task)

    def _meta(self, ask: _Ask, prepared: _Prepared, finished: Finished | None, cached: bool) -> dict[str, Any]:
        """The quality of the answer, as of `POST /v1/query`; of several datasources the worst."""
        marks = [view.watermark_ms for view in prepared.views]
        known = [mark for mark in marks if mark is not None]
        ranges = [source.range_ms for source in prepared.sources]
        meta = {
            "watermark": format_time(min(known)) if known and len(known) == len(marks) else None,
            "version": ",".join(view.version for view in prepared.views),
            "complete": all(view.complete for view in prepared.views),
            "sources": _tables_read(prepared),
            "bounds": finished.bounds if finished else {},
            "row_limit": ask.limit,
            "truncated": finished.more if finished else False,
            "cached": cached,
            "elapsed_ms": ask.elapsed_ms,
        }
        if ranges:
            start, end = min(r[0] for r in ranges), max(r[1] for r in ranges)
            meta["time_range"] = f"{format_time(start)}/{format_time(end)}"
        return meta


def _positions(after: str | None) -> dict[str, Position]:
    """By folder; two of one folder are the later of both."""
    found: dict[str, Position] = {}
    for text in (after or "").split(","):
        if text.strip():
            position = decode_position(text.strip())
            known = found.get(position.folder)
            found[position.folder] = position if known is None else known.merge(position)
    return found


def _translated(ask: _Ask, view: View) -> AsQuery | None:
    (name,) = (table_name(ref.path) for ref in ask.statement.tables)
    now_ms = time.time_ns() // 1_000_000
    try:
        table = table_of(view.datasource, name.part)
        found = as_query(ask.statement, table, Constants(now_ms, ask.parameters), ask.limit)
        return found if found is not None and planned_for(found.query, view, now_ms).rollup is not None else None
    except (InvalidQueryError, NotFoundError):
        return None  # the engine's way says what is wrong, in the words of SQL


def _reply(ask: _Ask, rows: bytes, meta: dict[str, Any], etag: str) -> Reply:
    body = rows
    if ask.form == "json":
        body = b"".join((b'{"rows":', rows, b',"meta":', orjson.dumps(meta), b"}"))
    return Reply(200, body, CONTENT_TYPES[ask.form], etag, meta)


def _etag(key: bytes) -> str:
    return f'"{hashlib.blake2b(key, digest_size=16).hexdigest()}"'


def _matches(if_none_match: str | None, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return "*" in tags or etag in tags or etag.strip('"') in tags


def _tables_read(prepared: _Prepared) -> list[str]:
    """The stored tables, with their datasource's name where there are several."""
    several = len(prepared.views) > 1
    found = [f"{s.table.datasource.name}.{s.table.stored}" if several else s.table.stored for s in prepared.sources]
    hot = any(s.parts for s in prepared.sources)
    return [*found, *(["hot"] if hot else []), *([CATALOG] if prepared.catalog else [])]
