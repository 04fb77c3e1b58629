"""Druid SQL answered end to end: read the request, translate, ask the SQL service, write the rows as Druid does.

Owns the requests under way and that they can be cancelled by their id. What SQL means is `rta.query.druidsql`'s, how it
is answered `rta.serve.sql`'s. Knows no HTTP: `rta.serve.druid_sql_http` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from rta.config import Settings
from rta.errors import InvalidQueryError, NotFoundError, TooLargeError
from rta.events.schemas import Datasource
from rta.query.answer import format_time
from rta.query.druidsql.context import Context, read_context
from rta.query.druidsql.dialect import Statement, parse_statement
from rta.query.druidsql.parameters import with_parameters
from rta.query.druidsql.render import FORMATS, Form, Format, render
from rta.query.druidsql.scope import Catalog
from rta.query.druidsql.system import Rows, catalog
from rta.query.druidsql.tables import druid_tables
from rta.query.druidsql.translate import Translation, sys_tables_of, translate
from rta.serve.ports import Definitions, View, Views
from rta.serve.sql import SqlOptions, SqlRows

UNDER_WAY_MAX = 4_096
TRANSLATIONS_MAX = 512
QUICK_CHARACTERS = 4_000
"""So long a text is read and translated in some milliseconds."""
Result = TypeVar("Result")
SERVER_TYPE = "broker"


class Sql(Protocol):
    """Answers a statement of the engine's dialect."""

    async def rows(self, statement: str, parameters: Sequence[Any], options: SqlOptions) -> SqlRows: ...


class CancelledQueryError(Exception):
    """Somebody cancelled the query by its id."""


@dataclass(frozen=True, slots=True)
class DruidSqlReply:
    """A finished answer. `header_included` says that the request asked for a header and got one."""

    body: bytes
    query_id: str
    header_included: bool
    etag: str
    unchanged: bool


@dataclass(frozen=True, slots=True)
class _Request:
    text: str
    form: Form
    given: Mapping[str, Any]
    parameters: Sequence[Any]
    query_id: str


class DruidSqlService:
    """Answers Druid SQL. Belongs to one event loop."""

    def __init__(self, sql: Sql, views: Views, definitions: Definitions, settings: Settings) -> None:
        self._sql = sql
        self._views = views
        self._definitions = definitions
        self._limits = settings.limits
        self._server = f"{settings.host}:{settings.port}"
        self._under_way: dict[str, set[asyncio.Task[Any]]] = {}
        self._cancelled: set[asyncio.Task[Any]] = set()
        self._catalog: tuple[object, Catalog] | None = None
        self._translations: OrderedDict[object, Translation] = OrderedDict()

    async def answer(
        self, document: Mapping[str, Any], *, after: str | None = None, if_none_match: str | None = None
    ) -> DruidSqlReply:
        """Answer a request as `POST /druid/v2/sql` takes it.

        Raises:
            CancelledQueryError: its id was given to `cancel`.
            InvalidQueryError, NotFoundError, TimeLimitError, OutOfMemoryError, UnavailableError.
        """
        request = read_request(document)
        task = asyncio.ensure_future(self._answer(request, after, if_none_match))
        if len(self._under_way) < UNDER_WAY_MAX:
            self._under_way.setdefault(request.query_id, set()).add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if task in self._cancelled:
                raise CancelledQueryError(request.query_id) from None
            task.cancel()
            raise
        finally:
            self._cancelled.discard(task)
            tasks = self._under_way.get(request.query_id, set())
            tasks.discard(task)
            if not tasks:
                self._under_way.pop(request.query_id, None)

    def cancel(self, query_id: str) -> bool:
        """End the queries of this id; False where there is none."""
        tasks = self._under_way.get(query_id, set())
        for task in tasks:
            self._cancelled.add(task)
            task.cancel()
        return bool(tasks)

    async def _answer(self, request: _Request, after: str | None, if_none_match: str | None) -> DruidSqlReply:
        text = with_parameters(request.text, request.parameters) if "?" in request.text else request.text
        read = await _beside(text, _parsed, text)
        context = read_context({**request.given, **read.settings})
        translation = await self._translation(text, read, context)
        form = f".{hashlib.blake2b(repr((request.form, context.zone, context.outer_limit)).encode(), digest_size=4).hexdigest()}"
        options = SqlOptions(
            after=after,
            if_none_match=None if if_none_match is None else if_none_match.replace(form, ""),
            time_limit_s=context.timeout_ms / 1000 if context.timeout_ms else None,
            otherwise=translation.sql if translation.estimate else None,
        )
        found = await self._sql.rows(translation.estimate or translation.sql, translation.parameters, options)
        if found.more and (context.outer_limit is None or context.outer_limit > self._limits.query_rows):
            raise TooLargeError(
                f"the answer has more than {self._limits.query_rows:,} rows", "add LIMIT, or raise 'limits.query_rows'"
            )
        write = partial(_written, found, translation, request.form, context)
        body = b"" if found.unchanged else await asyncio.get_running_loop().run_in_executor(None, write)
        # The same rows in another form are another answer.
        etag = f'{found.etag[:-1]}{form}"'
        return DruidSqlReply(body, request.query_id, request.form.header, etag, found.unchanged)

    async def _translation(self, text: str, read: Statement, context: Context) -> Translation:
        datasources = await self._datasources(read)
        now_ms = time.time_ns() // 1_000_000
        if sys_tables_of(read):
            sys_rows = await self._sys_rows(datasources)
            return await _beside(text, translate, read, catalog(druid_tables(datasources), sys_rows), context, now_ms)
        tables = tuple((d.folder, d.version) for d in datasources)
        if self._catalog is None or self._catalog[0] != tables:
            self._catalog = tables, catalog(druid_tables(datasources), {})
        if read.asks_the_time:
            return await _beside(text, translate, read, self._catalog[1], context, now_ms)
        key = (text, tables, replace(context, query_id=None, timeout_ms=None, outer_limit=None))
        found = self._translations.pop(key, None)
        if found is None:
            found = await _beside(text, translate, read, self._catalog[1], context, now_ms)
        self._translations[key] = found
        if len(self._translations) > TRANSLATIONS_MAX:
            self._translations.popitem(last=False)
        return found

    async def _datasources(self, read: Statement) -> list[Datasource]:
        """All of them; looked up anew when the query names one that this process has not seen yet."""
        datasources = await self._definitions.all()
        known = {d.name for d in datasources}
        missing = {name.partition(".")[0] for name in read.tables} - known
        for name in missing:
            with contextlib.suppress(NotFoundError):
                await self._definitions.get(name)
        if missing:
            datasources = await self._definitions.all()
        return sorted(datasources, key=lambda d: d.name)

    async def _sys_rows(self, datasources: Sequence[Datasource]) -> dict[str, Rows]:
        """What there is, in the words of Druid: files are segments, partitions are tasks, datasources are supervisors."""
        timeout_s = self._limits.query_time / 1000
        views = [await self._views.at(d, 10, None, timeout_s) for d in datasources]
        segments = [row for view in views for row in _segments(view)]
        host, port = self._server.rsplit(":", 1)
        server = {
            "server": self._server, "host": host, "plaintext_port": int(port), "tls_port": -1,
            "server_type": SERVER_TYPE, "current_size": sum(s["size"] for s in segments), "max_size": 0,
        }  # fmt: skip
        return {
            "segments": segments,
            "servers": [server],
            "server_segments": [{"server": self._server, "segment_id": s["segment_id"]} for s in segments],
            "tasks": [row for view in views for row in _tasks(view)],
            "supervisors": [_supervisor(view) for view in views],
        }


def read_request(document: Mapping[str, Any]) -> _Request:
    """Raises InvalidQueryError that names the key."""
    text = document.get("query")
    if not isinstance(text, str) or not text.strip():
        raise InvalidQueryError("the request has no 'query'", 'send {"query": "SELECT …"}')
    found: Format = document.get("resultFormat") or "object"
    if found not in FORMATS:
        raise InvalidQueryError(f"'resultFormat' is {str(found)[:64]!r}", f"use {', '.join(FORMATS)}")
    given = document.get("context") or {}
    if not isinstance(given, Mapping):
        raise InvalidQueryError(f"'context' is {str(given)[:64]!r}", "send an object")
    parameters = document.get("parameters") or []
    if not isinstance(parameters, list):
        raise InvalidQueryError(f"'parameters' is {str(parameters)[:64]!r}", "send a list")
    context = read_context(given)  # what is wrong with it is said before anything else
    form = Form(
        format=found,
        header=_flag(document, "header"),
        types=_flag(document, "typesHeader"),
        sql_types=_flag(document, "sqlTypesHeader"),
    )
    return _Request(text, form, given, parameters, context.query_id or str(uuid.uuid4()))


def _flag(document: Mapping[str, Any], key: str) -> bool:
    value = document.get(key)
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    if str(value).lower() not in ("true", "false"):
        raise InvalidQueryError(f"'{key}' is {str(value)[:64]!r}", "use true or false")
    return str(value).lower() == "true"


async def _beside(text: str, work: Callable[..., Result], *arguments: Any) -> Result:
    """The work's result; where the query is long it is done beside the event loop, which has others to serve."""
    if len(text) <= QUICK_CHARACTERS:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


@lru_cache(maxsize=512)
def _parsed(text: str) -> Statement:
    """Dashboards send the same text again and again; trees are only read."""
    return parse_statement(text)


def _written(found: SqlRows, translation: Translation, form: Form, context: Context) -> bytes:
    rows = pa.ipc.open_stream(found.stream).read_all().slice(0, context.outer_limit)
    return render(rows, translation.columns, Form(form.format, form.header, form.types, form.sql_types, context.zone))


def _segments(view: View) -> list[dict[str, Any]]:
    datasource = view.datasource
    names = {"events": datasource.name} | {r.table: f"{datasource.name}.{r.name}" for r in datasource.rollups}
    kept = [(name, file) for table, name in names.items() for file in view.files(table)]
    return [
        {
            "segment_id": f"{datasource.folder}/{file.path}", "datasource": name, "start": format_time(file.time_min_ms),
            "end": format_time(file.time_max_ms + 1), "size": file.bytes, "version": datasource.incarnation,
            "partition_num": number, "num_replicas": 1, "num_rows": file.rows, "is_active": 1, "is_published": 1,
            "is_available": 1, "is_realtime": 0, "is_overshadowed": 0, "shard_spec": '{"type":"none"}',
            "replication_factor": 1,
        }
        for number, (name, file) in enumerate(kept)
    ]  # fmt: skip


def _tasks(view: View) -> list[dict[str, Any]]:
    name = view.datasource.name
    return [
        {
            "task_id": f"fold_{name}_{partition}", "group_id": f"fold_{name}", "type": "fold", "datasource": name,
            "status": "RUNNING", "runner_status": "WAITING" if partition in view.missing else "RUNNING", "duration": -1,
        }
        for partition in sorted(view.offsets)
    ]  # fmt: skip


def _supervisor(view: View) -> dict[str, Any]:
    datasource = view.datasource
    state = "RUNNING" if view.complete else "PENDING"
    return {
        "supervisor_id": datasource.name, "datasource": datasource.name, "state": state, "detailed_state": state,
        "healthy": int(view.complete), "type": "http" if datasource.source is None else "kafka",
        "source": datasource.topic, "suspended": 0, "spec": "{}",
    }  # fmt: skip
