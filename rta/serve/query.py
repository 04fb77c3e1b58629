"""The FastAPI app: questions, and around them the page, the documentation and the endpoints of `rta.serve.admin`.

Owns the document that describes them, and that every failure is an error document. A question itself does not come this far:
`rta.serve.front` takes it out before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from rta import __version__
from rta.config import Settings
from rta.errors import BadRequestError, NotFoundError, RtaError
from rta.serve import documents
from rta.serve.admin import admin_router, json_answer
from rta.serve.dashboard import add_page
from rta.serve.front import ARROW, Front, QueryEndpoint, QueryService, log_failure
from rta.serve.http import CallerGate, MethodNotAllowedError, error_answer
from rta.serve.metrics import Registry
from rta.serve.openapi import describe
from rta.serve.ports import Control, Definitions
from rta.serve.requests import body_schema, declared, raw_answer, read_document, unless_gone


def build_query_app(
    service: QueryService,
    definitions: Definitions,
    control: Control,
    settings: Settings,
    registry: Registry | None = None,
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """The app for everything but events.

    Args:
        registry: Also takes what else this process counts for `/metrics`.
        routers: Further ways to ask, such as `rta.serve.sql_http`'s.
    """
    registry = registry or Registry()
    endpoint = QueryEndpoint(service, registry)
    app = FastAPI(title="rta", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(CallerGate)
    questions = CallerGate(endpoint)
    app.add_middleware(Front, questions=questions)
    app.state.questions = questions
    app.add_exception_handler(RtaError, _rta_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    _add_query(app, service, endpoint)
    _add_advice(app, service)
    for router in (*routers, admin_router(definitions, control, registry)):
        app.include_router(router)
    add_page(app)
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(describe(app, settings.limits))
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
    return app


def _add_query(app: FastAPI, service: QueryService, endpoint: QueryEndpoint) -> None:
    @app.post(
        "/v1/query",
        tags=["query"],
        responses=_query_responses(),
        openapi_extra=body_schema(documents.QueryDocument) | {"parameters": _query_parameters()},
    )
    async def query(request: Request) -> Response:
        """Answer a question from everything that is acknowledged, with its own quality in `meta`."""
        return raw_answer(await endpoint.answer(request.scope, request.receive))

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
        return json_answer(await unless_gone(request.receive, service.adviser.advise(datasource)))


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


async def _rta_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RtaError)
    log_failure(error)
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
