"""Druid's native HTTP interface: queries, their cancelling, the lists of data sources, status and health.

Owns the paths, headers and errors as Druid's clients expect them. What a query means is `rta.druid`'s, how it is answered
`rta.serve.druid_service`'s.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any

import orjson
import psutil
from fastapi import APIRouter, Request, Response

from rta.druid.problems import UnsupportedError
from rta.druid.table import Table, raw_table, rollup_table
from rta.druid.values import NUMBERS, SKETCHES
from rta.errors import BadRequestError, NotFoundError, OutOfMemoryError, RtaError, TimeLimitError, UnavailableError
from rta.events.schemas import EVENTS, TIME
from rta.query.shape import shape_of
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN
from rta.serve.druid_service import DruidService, QueryCancelledError
from rta.serve.druid_task import TableRead, schema_of
from rta.serve.http import ForbiddenError, declared_length, read_body, too_large, wire_document
from rta.serve.ports import Control, Definitions
from rta.serve.requests import BODY_BYTES_MAX, unless_gone

LOG = logging.getLogger("rta.serve")
VERSION = "33.0.0"
"""The Druid whose answers these are; clients read the leading numbers."""
READY_S = 5.0
_CATEGORIES = {
    400: ("INVALID_INPUT", "invalidInput", "druidException"),
    403: ("FORBIDDEN", "forbidden", "druidException"),
    404: ("NOT_FOUND", "notFound", "druidException"),
    413: ("CAPACITY_EXCEEDED", "general", "Resource limit exceeded"),
    501: ("UNSUPPORTED", "general", "Unsupported operation"),
    503: ("SERVICE_UNAVAILABLE", "general", "druidException"),
    504: ("TIMEOUT", "queryTimeout", "Query timeout"),
}
_CLASSES: dict[type[RtaError], str] = {
    TimeLimitError: "org.apache.druid.query.QueryTimeoutException",
    QueryCancelledError: "org.apache.druid.query.QueryInterruptedException",
    OutOfMemoryError: "org.apache.druid.query.ResourceLimitExceededException",
    UnsupportedError: "org.apache.druid.query.QueryUnsupportedException",
}


def druid_error(error: RtaError, host: str) -> Response:
    """The error in both shapes of Druid's at once."""
    category, code, legacy = _CATEGORIES.get(error.status, ("RUNTIME_FAILURE", "general", "Unknown exception"))
    if isinstance(error, QueryCancelledError):
        category, legacy = "CANCELED", "Query cancelled"
    text = wire_document(error)
    document = {
        "error": legacy,
        "errorCode": code,
        "persona": "USER",
        "category": category,
        "errorMessage": f"{text['message']} ({text['hint']})" if text["hint"] else text["message"],
        "errorClass": _CLASSES.get(type(error), "org.apache.druid.error.DruidException"),
        "host": host,
        "context": {},
    }
    status = 400 if error.status == 413 else error.status
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    return Response(orjson.dumps(document), status, headers, "application/json")


def druid_router(
    service: DruidService, definitions: Definitions, control: Control, cancel_sql: Callable[[str], bool] | None = None
) -> APIRouter:
    """The endpoints, over the service and the ports. `cancel_sql` stops a statement of Druid SQL: some clients stop all alike."""
    router = APIRouter(tags=["druid"])
    _add_queries(router, service, cancel_sql)
    _add_datasources(router, definitions)
    _add_status(router, control)
    return router


def _described(ok: str) -> dict[int | str, dict[str, Any]]:
    error = {"content": {"application/json": {"schema": {"type": "object"}}}}
    texts = {
        400: "The query makes no sense",
        403: "The caller may not do this",
        500: "It failed, or was cancelled",
        501: "Druid knows it, rta does not; the message names it",
        503: "Not possible now",
        504: "It took longer than it may",
    }
    described: dict[int | str, dict[str, Any]] = {200: {"description": ok}}
    for status, text in texts.items():
        described[status] = {**error, "description": f"{text}; in Druid's shape"}
    return described


def _add_queries(router: APIRouter, service: DruidService, cancel_sql: Callable[[str], bool] | None) -> None:
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}

    async def query(request: Request) -> Response:
        """Answer a native query of Druid's: timeseries, topN, groupBy, scan, search, timeBoundary, segmentMetadata,
        dataSourceMetadata."""
        try:
            return await _answered(service, request)
        except (RtaError, ForbiddenError) as error:
            _note(error)
            return druid_error(error, request.url.netloc)

    async def cancel(query_id: str) -> Response:
        """Stop a query by the `queryId` of its context, or a statement by its `sqlQueryId`."""
        service.cancel(query_id)
        if cancel_sql is not None:
            cancel_sql(query_id)
        return Response(None, 202)

    described = _described("The answer, in the form that the query type has in Druid")
    router.post("/druid/v2", responses=described, openapi_extra=body)(query)
    router.post("/druid/v2/", include_in_schema=False)(query)
    router.delete("/druid/v2/{query_id}", status_code=202, responses={202: {"description": "Told to stop"}})(cancel)


def _note(error: RtaError) -> None:
    if error.status >= 500 and not isinstance(
        error, TimeLimitError | UnavailableError | UnsupportedError | QueryCancelledError
    ):
        LOG.error("native query failed: %s", error, exc_info=error)


async def _answered(service: DruidService, request: Request) -> Response:
    document = await _document(request)
    context = document.get("context")
    given = context.get("queryId") if isinstance(context, dict) else None
    query_id = str(given) if given else str(uuid.uuid4())
    headers = request.headers
    work = service.answer(
        document, query_id, after=headers.get("rta-after"), if_none_match=headers.get("if-none-match")
    )
    reply = await unless_gone(request.receive, work)
    extra = {"X-Druid-Query-Id": _header_safe(query_id), "X-Druid-Response-Context": "{}", "ETag": reply.etag}
    if reply.unchanged:
        return Response(None, 304, extra)
    indented = "pretty" in request.query_params
    answer = orjson.dumps(orjson.loads(reply.body), option=orjson.OPT_INDENT_2) if indented else reply.body
    return Response(answer, 200, extra, "application/json")


def _header_safe(text: str) -> str:
    return "".join(c for c in text[:200] if " " <= c <= "~")


async def _document(request: Request) -> dict[str, Any]:
    """The body, whatever its content type says. Raises BadRequestError, TooLargeError, ClientGoneError."""
    length = declared_length(request.scope)
    if length is not None and length > BODY_BYTES_MAX:
        raise too_large(f"{length:,} bytes are announced", BODY_BYTES_MAX)
    body = await read_body(request.receive, BODY_BYTES_MAX)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}", "send one native query") from error
    if not isinstance(document, dict):
        raise BadRequestError(f"the body is a JSON {type(document).__name__}", "send one native query")
    return document


def _add_datasources(router: APIRouter, definitions: Definitions) -> None:
    async def names() -> Response:
        """The names of all data sources."""
        return Response(orjson.dumps(sorted(d.name for d in await definitions.all())), 200, None, "application/json")

    async def columns(name: str, request: Request) -> Response:
        """The dimensions and metrics of a data source, or of a rollup `datasource.rollup`."""
        found = await _columns(definitions, name)
        if "full" in request.query_params:
            return Response(
                orjson.dumps({"-146136543-09-08T08:23:32.096Z/146140482-04-24T15:36:27.903Z": found}),
                200,
                None,
                "application/json",
            )
        return Response(orjson.dumps(found), 200, None, "application/json")

    ok: dict[int | str, dict[str, Any]] = {200: {"description": "JSON as Druid's broker gives it"}}
    router.get("/druid/v2/datasources", responses=ok)(names)
    router.get("/druid/v2/datasources/", include_in_schema=False)(names)
    router.get("/druid/v2/datasources/{name}", responses=ok)(columns)


async def _columns(definitions: Definitions, name: str) -> dict[str, list[str]]:
    base, _, table = name.partition(".")
    try:
        datasource = await definitions.get(base)
    except NotFoundError:
        return {"dimensions": [], "metrics": []}
    rollup = datasource.rollup(table)
    if table and rollup is None:
        return {"dimensions": [], "metrics": []}
    read = TableRead(name, datasource, rollup, table or EVENTS, (), b"", (TIME_MS_MIN, TIME_MS_MAX))
    found = _empty_table(read)
    if rollup is not None:
        dimensions = list(rollup.dimensions)
        return {"dimensions": dimensions, "metrics": [n for n in found.columns if n not in (*dimensions, TIME)]}
    kinds = NUMBERS | SKETCHES
    return {
        "dimensions": [n for n, c in found.columns.items() if c.type not in kinds],
        "metrics": [n for n, c in found.columns.items() if c.type in kinds and n != TIME],
    }


def _empty_table(read: TableRead) -> Table:
    import polars as pl

    empty = pl.from_arrow(schema_of(read).empty_table())
    assert isinstance(empty, pl.DataFrame)
    if read.rollup is not None:
        return rollup_table(empty.lazy(), read.datasource, read.rollup, None)
    return raw_table(empty.lazy(), shape_of(read.datasource, read.table), None)


def _add_status(router: APIRouter, control: Control) -> None:
    ok: dict[int | str, dict[str, Any]] = {200: {"description": "JSON as Druid gives it"}}

    @router.get("/status", responses=ok)
    async def status() -> Response:
        """The version of Druid whose interface this is, and the memory of this process."""
        memory, machine = psutil.Process().memory_info(), psutil.virtual_memory()
        document = {
            "version": VERSION,
            "modules": [],
            "memory": {
                "maxMemory": machine.total,
                "totalMemory": machine.total,
                "freeMemory": machine.available,
                "usedMemory": memory.rss,
                "directMemory": 0,
            },
        }
        return Response(orjson.dumps(document), 200, None, "application/json")

    @router.get("/status/health", responses=ok)
    async def health() -> Response:
        """`true` while this process answers."""
        return Response(b"true", 200, None, "application/json")

    @router.get("/status/ready", responses=ok | {503: {"description": "Not all parts can answer yet"}})
    async def ready() -> Response:
        """Whether questions can be answered."""
        try:
            reason, _ = await asyncio.wait_for(control.ready(), READY_S)
            is_ready = not reason
        except (RtaError, TimeoutError):
            is_ready = False
        return Response(b"true" if is_ready else b"false", 200 if is_ready else 503, None, "application/json")
