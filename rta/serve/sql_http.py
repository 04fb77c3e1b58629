"""`POST /v1/sql`: the translation between HTTP and the SQL service. JSON, CSV or Arrow, as the client accepts."""

from __future__ import annotations

import json
import time
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response

from rta.errors import RtaError
from rta.serve import documents
from rta.serve.front import ARROW, Reply
from rta.serve.metrics import Registry
from rta.serve.replies import JSON
from rta.serve.requests import body_schema, declared, read_document, unless_gone
from rta.serve.sql_answer import Form

FORMS: dict[str, Form] = {JSON: "json", "text/csv": "csv", ARROW: "arrow"}


class Sql(Protocol):
    """Answers SQL. Raises `RtaError` and may be cancelled at any time."""

    async def answer(
        self, document: dict[str, Any], *, after_header: str | None, if_none_match: str | None, form: Form
    ) -> Reply: ...


def sql_router(service: Sql, registry: Registry) -> APIRouter:
    """The path, with its counters."""
    router = APIRouter()
    requests = registry.counter("rta_sql_requests_total", "Statements in SQL by status.", "status")
    latency = registry.histogram("rta_sql_seconds", "Time from a statement's arrival to its answer.")

    @router.post(
        "/v1/sql",
        tags=["query"],
        responses=_responses(),
        openapi_extra=body_schema(documents.SqlDocument) | {"parameters": _parameters()},
    )
    async def sql(request: Request) -> Response:
        """Answer one SQL statement from everything that is acknowledged; nothing but questions is answered."""
        begun = time.perf_counter()
        status = "gone"
        try:
            answer = await _answer(service, request)
            status = str(answer.status_code)
        except RtaError as error:
            status = str(error.status)
            raise
        finally:
            requests.add(1, status)
            latency.observe(time.perf_counter() - begun)
        return answer

    return router


def form_of(accept: str) -> Form:
    """The first form that a client names and that there is; JSON for whoever names none."""
    names = (part.split(";", 1)[0].strip().lower() for part in accept.split(","))
    return next((FORMS[name] for name in names if name in FORMS), "json")


async def _answer(service: Sql, request: Request) -> Response:
    document = await read_document(request)
    headers = request.headers
    reply = await unless_gone(
        request.receive,
        service.answer(
            document,
            after_header=headers.get("rta-after"),
            if_none_match=headers.get("if-none-match"),
            form=form_of(headers.get("accept", "")),
        ),
    )
    return _replied(reply)


def _replied(reply: Reply) -> Response:
    """What has no place for `meta` has it in a header."""
    extra: dict[str, str] = {"Vary": "Accept"}
    if reply.etag is not None:
        extra["ETag"] = reply.etag if reply.etag.endswith('"') else f'"{reply.etag}"'
    if reply.meta is not None and reply.content_type != JSON:
        extra["RTA-Meta"] = json.dumps(reply.meta, separators=(",", ":"), default=str)
    if reply.status == 304:
        return Response(None, 304, extra)
    return Response(reply.body, reply.status, extra, reply.content_type)


def _responses() -> dict[int | str, dict[str, Any]]:
    responses = declared(200, 400, 403, 404, 413, 415, 503, 504, model=documents.SqlRowsDocument)
    etag = {"ETag": {"schema": {"type": "string"}, "description": "The data version"}}
    responses[200] |= {
        "description": "The rows, and the quality of the answer (of CSV and Arrow in the header `RTA-Meta`)",
        "content": {
            ARROW: {"schema": {"type": "string", "format": "binary"}},
            "text/csv": {"schema": {"type": "string"}},
        },
        "headers": etag,
    }
    responses[304] = {"description": "The answer is the one that `If-None-Match` names", "headers": etag}
    return responses


def _parameters() -> list[dict[str, Any]]:
    text = {"type": "string"}
    return [
        {"name": "RTA-After", "in": "header", "description": "As 'after' of the document", "schema": text},
        {"name": "If-None-Match", "in": "header", "description": "ETag of an answer one has", "schema": text},
    ]
