"""What the FastAPI endpoints share: reading a JSON body, raw answers, and what they declare in the OpenAPI document."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import BaseModel

from rta.errors import BadRequestError, UnsupportedMediaError
from rta.serve.documents import ErrorDocument
from rta.serve.http import Answer, ClientGoneError, Receive, Scope, declared_length, header, read_body, too_large

BODY_BYTES_MAX = 1 << 20
QUICK_S = 0.02
"""A question that takes longer is watched for a client that goes away; watching costs two tasks."""
JSON_TYPES = frozenset({"", "application/json", "text/json", "text/plain"})
ERRORS = {
    400: "The request can't be read or makes no sense; the message says why",
    403: "The caller may not do this",
    404: "No such datasource",
    409: "In conflict with what exists",
    413: "The request, or what the question needs, is too large",
    415: "Unknown content type or encoding",
    500: "A defect; the log has the details",
    503: "Not possible now; try again after `Retry-After` seconds",
    504: "The question took longer than it may",
}
Value = TypeVar("Value")


def declared(*statuses: int, model: type[BaseModel] | None = None) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint: `model` for success, the error document for the rest. 500 always is one."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in (*statuses, 500):
        if status < 400:
            responses[status] = {"model": model}
        else:
            responses[status] = {"model": ErrorDocument, "description": ERRORS[status]}
            if status == 503:
                responses[status]["headers"] = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds"}}
    return responses


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The `openapi_extra` of an endpoint that reads its body itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def raw_answer(answer: Answer) -> Response:
    headers = {key.decode(): value.decode() for key, value in answer.headers}
    return Response(answer.body, answer.status, headers, answer.content_type.decode())


async def read_document(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises what `read_json_body` and `json_object` do."""
    return json_object(await read_json_body(request.scope, request.receive))


async def read_json_body(scope: Scope, receive: Receive) -> bytes:
    """The body of an ASGI call that says to be JSON.

    Raises:
        TooLargeError, UnsupportedMediaError, ClientGoneError
    """
    content_type = (header(scope, b"content-type") or "").split(";", 1)[0].strip().lower()
    if content_type not in JSON_TYPES:
        raise UnsupportedMediaError(
            f"content type '{content_type[:100]}' is not understood here", "send 'Content-Type: application/json'"
        )
    length = declared_length(scope)
    if length is not None and length > BODY_BYTES_MAX:
        raise too_large(f"{length:,} bytes are announced", BODY_BYTES_MAX)
    return await read_body(receive, BODY_BYTES_MAX)


def json_object(body: bytes) -> dict[str, Any]:
    """A body as a JSON object.

    Raises:
        BadRequestError: no JSON (NaN and lone surrogates are none), or no object.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}", "send one JSON object") from error
    if not isinstance(document, dict):
        raise BadRequestError(f"the body is a JSON {type(document).__name__}", "send one JSON object")
    return document


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Value]) -> Value:
    """The work's result; the work is cancelled when the client goes away, or when this call is cancelled.

    Raises:
        ClientGoneError: the client went away first.
    """
    task = asyncio.ensure_future(work)
    gone: asyncio.Future[None] | None = None
    try:
        await asyncio.wait({task}, timeout=QUICK_S)
        if not task.done():
            gone = asyncio.ensure_future(_disconnect(receive))
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        left = [future for future in (task, gone) if future is not None and not future.done()]
        for future in left:
            future.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
