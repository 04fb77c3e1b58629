"""`POST /v1/events` and `POST /v1/events/{datasource}` as raw ASGI: the hot path has no framework in it.

Owns what HTTP says about a request for events: paths, methods, content types, sizes, the acknowledgement and the
errors of `api.md`. What happens to the body is `rta.serve.intake`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from rta.errors import BadRequestError, NotFoundError, RtaError, UnsupportedMediaError
from rta.events.decode import Body, Format, unpack
from rta.serve.http import (
    Answer,
    ClientGoneError,
    ForbiddenError,
    MethodNotAllowedError,
    Receive,
    Scope,
    Send,
    check_caller,
    declared_length,
    error_answer,
    header,
    read_body,
    send_answer,
    too_large,
    unexpected_answer,
)
from rta.serve.intake import Appended, Intake
from rta.serve.metrics import Registry

PATH = "/v1/events"
DEFAULT_DATASOURCE = "events"
ALLOW = (b"allow", b"POST, OPTIONS")
CLOSE = (b"connection", b"close")
CONTENT_TYPES: dict[str, Format] = {
    "": Format.JSON,
    "application/json": Format.JSON,
    "text/json": Format.JSON,
    "text/plain": Format.JSON,
    "application/x-ndjson": Format.NDJSON,
    "application/ndjson": Format.NDJSON,
    "application/jsonl": Format.NDJSON,
    "application/vnd.apache.arrow.stream": Format.ARROW,
}
ENCODINGS = frozenset({"gzip", "zstd"})
THREAD_BYTES = 64 << 10
"""A packed body of so many bytes is unpacked in a thread, a smaller one at once."""
IDEMPOTENCY_KEY_MAX = 256
ERRORS_MAX = 10_000
"""Refused events that one answer lists; beyond, `errors_omitted` counts them."""


class _Request(NamedTuple):
    datasource: str
    format: Format
    encoding: str | None
    idempotency_key: str | None
    generate_ids: bool
    declared_bytes: int | None


class IngestApp:
    """The ASGI callable. One per process and event loop."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self._requests = intake.registry.counter("rta_ingest_requests_total", "Requests by status.", "status")
        self._body_bytes = intake.registry.counter("rta_ingest_body_bytes_total", "Bytes of bodies as sent.")

    @property
    def registry(self) -> Registry:
        self.intake.count_waiting()
        return self.intake.registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            answer = await self._answer(scope, receive)
        except ClientGoneError:
            self._requests.add(1, "gone")
            return
        except RtaError as error:
            answer = error_answer(error, _headers_of(error))
        except Exception:
            answer = unexpected_answer(f"accepting events at {scope['path'][:200]!r}")
        self._requests.add(1, str(answer.status))
        await send_answer(send, answer, with_body=scope["method"] != "HEAD")

    async def close(self) -> None:
        await self.intake.close()

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        check_caller(scope)
        name = _datasource_of(scope["path"])
        if scope["method"] == "OPTIONS":
            return Answer(204, b"", headers=(ALLOW,))
        if scope["method"] != "POST":
            raise MethodNotAllowedError(
                f"{scope['method']} {scope['path'][:200]}: only POST is allowed here",
                "POST events; read them with POST /v1/query",
            )
        request = _read_head(scope, name)
        await self.intake.definitions.get(name)
        return await self._accept(request, receive)

    async def _accept(self, request: _Request, receive: Receive) -> Answer:
        limits = self.intake.limits
        if request.declared_bytes is not None and request.declared_bytes > limits.body_bytes:
            raise too_large(f"{request.declared_bytes:,} bytes are announced", limits.body_bytes)
        budget = self.intake.budget
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            budget.take(size)
            held += size

        try:
            packed = await read_body(receive, limits.body_bytes, hold)
            self._body_bytes.add(len(packed))
            data = packed
            if request.encoding is not None:
                data = await self._unpack(packed, request.encoding)
                hold(len(data))
            del packed
            body = Body(data, request.format, request.idempotency_key, request.generate_ids)
            appended = await self.intake.append(request.datasource, body, len(data))
        finally:
            budget.give_back(held)
        return _acknowledge(appended)

    async def _unpack(self, packed: bytes, encoding: str) -> bytes:
        limit = self.intake.limits.unpacked_bytes
        if len(packed) < THREAD_BYTES:
            return unpack(packed, encoding, limit)
        return await self.intake.in_thread(lambda: unpack(packed, encoding, limit))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await asyncio.shield(self.close())
                await send({"type": "lifespan.shutdown.complete"})
                return


def _headers_of(error: RtaError) -> list[tuple[bytes, bytes]]:
    """An answer given before the body was read ends the connection: what is still to come can't be told apart."""
    headers = [ALLOW] if isinstance(error, MethodNotAllowedError) else []
    return [*headers, CLOSE] if error.status in (403, 413, 415, 503) or isinstance(error, ForbiddenError) else headers


def _datasource_of(path: str) -> str:
    if path.rstrip("/") == PATH:
        return DEFAULT_DATASOURCE
    name = path.removeprefix(PATH + "/")
    if name == path or "/" in name:
        raise NotFoundError(f"no such path '{path[:200]}'", f"events go to {PATH} or {PATH}/{{datasource}}; see /docs")
    return name


def _read_head(scope: Scope, name: str) -> _Request:
    """Everything that can be refused before a byte of the body is read."""
    content_type = (header(scope, b"content-type") or "").split(";", 1)[0].strip().lower()
    body_format = CONTENT_TYPES.get(content_type)
    if body_format is None:
        raise UnsupportedMediaError(
            f"content type '{content_type[:100]}' is not understood",
            f"add a header such as 'Content-Type: application/json'; known: {', '.join(filter(None, CONTENT_TYPES))}",
        )
    encoding = (header(scope, b"content-encoding") or "identity").strip().lower()
    if encoding != "identity" and encoding not in ENCODINGS:
        raise UnsupportedMediaError(f"content encoding '{encoding[:100]}' is not understood", "use gzip, zstd or none")
    key = header(scope, b"idempotency-key")
    if key is not None and not 0 < len(key) <= IDEMPOTENCY_KEY_MAX:
        raise BadRequestError(
            f"header 'Idempotency-Key' has {len(key)} characters", f"send 1 to {IDEMPOTENCY_KEY_MAX} characters"
        )
    return _Request(
        name,
        body_format,
        None if encoding == "identity" else encoding,
        key,
        _generate_ids(scope),
        declared_length(scope),
    )


def _generate_ids(scope: Scope) -> bool:
    query: bytes = scope.get("query_string", b"")
    if not query:
        return False
    wanted = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=None).get("ids")
    if wanted is None:
        return False
    if wanted[-1] != "generate":
        raise BadRequestError(f"parameter 'ids' is '{wanted[-1][:40]}'", "the only value is 'generate'")
    return True


def _acknowledge(appended: Appended) -> Answer:
    outcome = appended.outcome
    if outcome.error is not None:
        raise outcome.error
    if outcome.successful == outcome.total and not outcome.generated_ids:
        body = b'{"total":%d,"successful":%d,"failed":0,"errors":[],"position":"%s"}'
        return Answer(200, body % (outcome.total, outcome.successful, appended.position.encode()))
    return Answer(200 if outcome.successful else 422, msgspec.json.encode(_acknowledgement(appended)))


def _acknowledgement(appended: Appended) -> dict[str, Any]:
    outcome = appended.outcome
    document: dict[str, Any] = {
        "total": outcome.total,
        "successful": outcome.successful,
        "failed": outcome.total - outcome.successful,
        "errors": [
            {"index": v.index, "event_id": _sendable(v.event_id), "reason": v.reason, "detail": _sendable(v.detail)}
            for v in outcome.verdicts[:ERRORS_MAX]
        ],
        "position": appended.position,
    }
    if len(outcome.verdicts) > ERRORS_MAX:
        document["errors_omitted"] = len(outcome.verdicts) - ERRORS_MAX
    if outcome.generated_ids:
        document["generated_ids"] = outcome.generated_ids
        document["retry_safe"] = False
    return document


def _sendable(text: str | None) -> str | None:
    """Lone surrogates of a caller's text have no UTF-8 form."""
    return None if text is None else text.encode("utf-8", "replace").decode()
