"""`POST /druid/v2/sql` and its cancelling: the translation between HTTP and the Druid SQL service.

Both paths, with a slash at the end and without, answer themselves: clients do not send a body again after a redirect.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import unquote_plus

import orjson
from fastapi import APIRouter, Request, Response

from rta.errors import BadRequestError, RtaError, UnsupportedMediaError
from rta.serve import documents
from rta.serve.druid_errors import cancelled_error, druid_error
from rta.serve.druid_sql import CancelledQueryError, DruidSqlService
from rta.serve.http import JSON, LOG, declared_length, header, read_body, too_large
from rta.serve.metrics import Registry
from rta.serve.requests import BODY_BYTES_MAX, body_schema, unless_gone

PATH = "/druid/v2/sql"
_FORM = "application/x-www-form-urlencoded"
_CONTENT_TYPES = ("", "application/json", "text/json")


def druid_sql_router(service: DruidSqlService, registry: Registry) -> APIRouter:
    """The paths, with their counters."""
    router = APIRouter()
    requests = registry.counter("rta_druid_sql_requests_total", "Statements in Druid SQL by status.", "status")
    latency = registry.histogram("rta_druid_sql_seconds", "Time from a Druid SQL statement's arrival to its answer.")
    described: dict[str, Any] = {
        "tags": ["druid"],
        "responses": _responses(),
        "openapi_extra": body_schema(documents.DruidSqlDocument),
    }

    @router.post(PATH, **described)
    @router.post(PATH + "/", include_in_schema=False)
    async def druid_sql(request: Request) -> Response:
        """Answer one statement of Druid SQL, in Druid's result formats, as its clients expect it."""
        begun = time.perf_counter()
        answer = await _answered(service, request)
        requests.add(1, str(answer.status_code))
        latency.observe(time.perf_counter() - begun)
        return answer

    @router.delete(
        PATH + "/{query_id}",
        tags=["druid"],
        status_code=202,
        responses={202: {"description": "The query was cancelled"}, 404: {"description": "No such query is under way"}},
    )
    async def cancel(query_id: str) -> Response:
        """Cancel a statement that is under way, by the `sqlQueryId` of its context."""
        if service.cancel(query_id):
            return Response(None, 202)
        status, document = druid_error(BadRequestError(f"no query '{query_id[:100]}' is under way"))
        del status
        return _json(404, document | {"category": "NOT_FOUND", "errorCode": "notFound"})

    return router


async def _answered(service: DruidSqlService, request: Request) -> Response:
    query_id = ""
    try:
        document = await read_sql_body(request)
        headers = request.headers
        reply = await unless_gone(
            request.receive,
            service.answer(document, after=headers.get("rta-after"), if_none_match=headers.get("if-none-match")),
        )
    except RtaError as error:
        if error.status >= 500 and error.retry_after_s is None:
            LOG.error("Druid SQL failed: %s", error, exc_info=error)
        return _json(*druid_error(error))
    except CancelledQueryError as error:
        return _json(*cancelled_error(str(error)))
    query_id = reply.query_id
    extra = {
        "X-Druid-SQL-Query-Id": query_id,
        "X-Druid-Query-Id": query_id,
        "X-Druid-Response-Context": "{}",
        "ETag": reply.etag,
    }
    if reply.header_included:
        extra["X-Druid-SQL-Header-Included"] = "yes"
    if reply.unchanged:
        return Response(None, 304, extra)
    return Response(reply.body, 200, extra, JSON.decode())


async def read_sql_body(request: Request) -> dict[str, Any]:
    """The request as a document; a body of another type than JSON is the bare SQL.

    Raises:
        BadRequestError, TooLargeError, UnsupportedMediaError, ClientGoneError
    """
    content_type = (header(request.scope, b"content-type") or "").split(";", 1)[0].strip().lower()
    length = declared_length(request.scope)
    if length is not None and length > BODY_BYTES_MAX:
        raise too_large(f"{length:,} bytes are announced", BODY_BYTES_MAX)
    body = await read_body(request.receive, BODY_BYTES_MAX)
    if content_type in ("text/plain", _FORM):
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise BadRequestError(f"the body is no UTF-8: {error}", "send SQL as text") from error
        return {"query": unquote_plus(text) if content_type == _FORM else text}
    if content_type not in _CONTENT_TYPES:
        raise UnsupportedMediaError(
            f"content type '{content_type[:100]}' is not understood here", "send 'Content-Type: application/json'"
        )
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}", 'send {"query": "SELECT …"}') from error
    if not isinstance(document, dict):
        raise BadRequestError(f"the body is a JSON {type(document).__name__}", 'send {"query": "SELECT …"}')
    return document


def _json(status: int, document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), status, media_type=JSON.decode())


def _responses() -> dict[int | str, dict[str, Any]]:
    failed = {
        400: "The statement makes no sense; the message says why",
        403: "The caller may not do this",
        500: "A defect, or the query was cancelled",
        503: "Not possible now",
        504: "It took longer than it may",
    }
    responses: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "The rows in the result format",
            "model": list[Any],
            "headers": {"X-Druid-SQL-Query-Id": {"schema": {"type": "string"}, "description": "The query's id"}},
        },
        304: {"description": "The answer is the one that `If-None-Match` names"},
    }
    for status, text in failed.items():
        responses[status] = {"model": documents.DruidSqlErrorDocument, "description": text}
    return responses
