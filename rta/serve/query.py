"""The FastAPI app: questions, and around them the page, the documentation and the endpoints of `rta.serve.admin`.

Owns the translation between HTTP and the query service: headers, ETags, Arrow or JSON, a client that goes away, and
that every failure is an error document. Answers come as bytes from the service and go out untouched.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from rta import __version__
from rta.config import Settings
from rta.errors import BadRequestError, NotFoundError, RtaError
from rta.serve import documents
from rta.serve.admin import admin_router, json_answer
from rta.serve.dashboard import add_page
from rta.serve.http import CallerGate, MethodNotAllowedError, error_answer
from rta.serve.metrics import Registry
from rta.serve.openapi import describe
from rta.serve.ports import Control, Definitions
from rta.serve.requests import body_schema, declared, raw_answer, read_document, unless_gone

LOG = logging.getLogger("rta.serve")
ARROW = "application/vnd.apache.arrow.stream"
META_HEADER = "RTA-Meta"


class Reply(Protocol):
    """A finished answer of the query service."""

    @property
    def status(self) -> int: ...

    @property
    def body(self) -> bytes: ...

    @property
    def content_type(self) -> str: ...

    @property
    def etag(self) -> str | None:
        """The data version; quoted or not."""
        ...

    @property
    def meta(self) -> dict[str, Any] | None:
        """Of an Arrow answer: what a JSON answer has in its body."""
        ...


class QueryService(Protocol):
    """Answers questions. Both raise `RtaError` and may be cancelled at any time."""

    async def answer(
        self, document: dict[str, Any], *, after_header: str | None, if_none_match: str | None, accept_arrow: bool
    ) -> Reply: ...

    async def explain(self, document: dict[str, Any]) -> dict[str, Any]: ...

    async def advise(self, name: str | None) -> dict[str, Any]: ...


def build_query_app(
    service: QueryService,
    definitions: Definitions,
    control: Control,
    settings: Settings,
    registry: Registry | None = None,
) -> FastAPI:
    """The app for everything but events. `registry` also takes what else this process counts for `/metrics`."""
    registry = registry or Registry()
    app = FastAPI(title="rta", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(CallerGate)
    app.add_exception_handler(RtaError, _rta_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    _add_query(app, service, registry)
    _add_advice(app, service)
    app.include_router(admin_router(definitions, control, registry))
    add_page(app)
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(describe(app, settings.limits))
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
    return app


def _add_query(app: FastAPI, service: QueryService, registry: Registry) -> None:
    requests = registry.counter("rta_query_requests_total", "Questions by status.", "status")
    latency = registry.histogram("rta_query_seconds", "Time from a question's arrival to its answer.")

    @app.post(
        "/v1/query",
        tags=["query"],
        responses=_query_responses(),
        openapi_extra=body_schema(documents.QueryDocument) | {"parameters": _query_parameters()},
    )
    async def query(request: Request) -> Response:
        """Answer a question from everything that is acknowledged, with its own quality in `meta`."""
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

    @app.post(
        "/v1/query/explain",
        tags=["query"],
        responses={**declared(200, 400, 403, 404, 413, 415, 503, 504), 200: {"model": dict[str, Any]}},
        openapi_extra=body_schema(documents.QueryDocument),
    )
    async def explain(request: Request) -> Response:
        """How a question would be answered: the plan."""
        document = await read_document(request)
        return json_answer(await unless_gone(request.receive, service.explain(document)))


def _add_advice(app: FastAPI, service: QueryService) -> None:
    @app.get("/v1/advise", tags=["query"], responses=declared(200, 403, 404, 503, 504, model=documents.Advice))
    async def advise(request: Request, datasource: str | None = None) -> Response:
        """Which rollups the last questions would have wanted, what each costs and saves, and the document that adds them."""
        return json_answer(await unless_gone(request.receive, service.advise(datasource)))


def _query_responses() -> dict[int | str, dict[str, Any]]:
    responses = declared(200, 400, 403, 404, 413, 415, 503, 504, model=documents.QueryAnswer)
    etag = {"ETag": {"schema": {"type": "string"}, "description": "The data version"}}
    responses[200] |= {
        "description": "The rows, and the quality of the answer",
        "content": {ARROW: {"schema": {"type": "string", "format": "binary"}}},
        "headers": etag,
    }
    responses[304] = {"description": "The answer is the one that `If-None-Match` names", "headers": etag}
    return responses


def _query_parameters() -> list[dict[str, Any]]:
    text = {"type": "string"}
    return [
        {"name": "RTA-After", "in": "header", "description": "As 'after' of the query", "schema": text},
        {"name": "If-None-Match", "in": "header", "description": "ETag of an answer one has", "schema": text},
    ]


async def _answer(service: QueryService, request: Request) -> Response:
    document = await read_document(request)
    headers = request.headers
    reply = await unless_gone(
        request.receive,
        service.answer(
            document,
            after_header=headers.get("rta-after"),
            if_none_match=headers.get("if-none-match"),
            accept_arrow=ARROW in headers.get("accept", ""),
        ),
    )
    extra: dict[str, str] = {"Vary": "Accept"}
    if reply.etag is not None:
        extra["ETag"] = reply.etag if reply.etag.endswith('"') else f'"{reply.etag}"'
    if reply.meta is not None and reply.content_type == ARROW:
        extra[META_HEADER] = json.dumps(reply.meta, separators=(",", ":"), default=str)
    if reply.status == 304:
        return Response(None, 304, extra)
    return Response(reply.body, reply.status, extra, reply.content_type)


async def _rta_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RtaError)
    if error.status >= 500 and error.retry_after_s is None:
        LOG.error("request failed: %s", error, exc_info=error)
    return raw_answer(error_answer(error))


async def _http_error(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 404:
        return raw_answer(error_answer(NotFoundError(f"no such path '{path}'", "see /docs for all of them")))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        refused = MethodNotAllowedError(f"{request.method[:20]} is not possible on '{path}'", f"allowed: {allowed}")
        return raw_answer(error_answer(refused, [(b"allow", allowed.encode())]))
    return raw_answer(
        error_answer(BadRequestError(f"the request to '{path}' can't be read: {error.detail}", "see /docs"))
    )


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    refused = BadRequestError(
        f"'{where}' is {str(first.get('input'))[:64]!r}: {first['msg']}", "see /docs for its form"
    )
    return raw_answer(error_answer(refused))
