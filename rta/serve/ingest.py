"""`POST /v1/events` and `POST /v1/events/{datasource}` as raw ASGI: the hot path has no framework in it.

Owns what HTTP says about a request for events: paths, methods, content types, sizes, the acknowledgement and the
errors of `api.md`. What happens to the body is `rta.serve.intake`'s business.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from rta.errors import BadRequestError, ConflictError, NotFoundError, RtaError, UnsupportedMediaError
from rta.events.bodies import Body, format_of, unpack
from rta.events.schemas import Datasource
from rta.serve.http import (
    Answer,
    ClientGoneError,
    Message,
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
    source_of,
    too_large,
    unexpected_answer,
)
from rta.serve.intake import Appended, Intake
from rta.serve.metrics import Registry

PATH = "/v1/events"
DEFAULT_DATASOURCE = "events"
ALLOW = (b"allow", b"POST, OPTIONS")
CLOSE = (b"connection", b"close")
"""Of an answer that is given before the body was read to its end: what is still to come can't be told apart."""
ENCODINGS = frozenset({"gzip", "x-gzip", "zstd"})
THREAD_BYTES = 64 << 10
"""A packed body of so many bytes is unpacked in a thread, a smaller one at once."""
IDEMPOTENCY_KEY_MAX = 256


class _Head(NamedTuple):
    """What is known of a request before its body is read."""

    datasource: str
    source: str
    body: Body
    declared_bytes: int | None

    @property
    def packed(self) -> bool:
        return self.body.content_encoding is not None


class _Incoming:
    """A `receive` that remembers whether the body has come to its end."""

    __slots__ = ("_receive", "ended")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = not message.get("more_body", False)
        return message


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
        body = _Incoming(receive)
        try:
            answer = await self._answer(scope, body)
        except ClientGoneError:
            self._requests.add(1, "gone")
            return
        except RtaError as error:
            answer = error_answer(error, _headers_of(error, unread=scope["method"] == "POST" and not body.ended))
        except Exception:  # noqa: BLE001  # the process stays up; it is logged there with its traceback
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
        head = _read_head(scope, name)
        _check_open(await self.intake.definitions.get(name))
        return await self._accept(head, receive)

    async def _accept(self, head: _Head, receive: Receive) -> Answer:
        limit = self.intake.limits.request.body_bytes
        if head.declared_bytes is not None and head.declared_bytes > limit:
            raise too_large(f"{head.declared_bytes:,} bytes are announced", limit)
        budget = self.intake.budget
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            budget.take(size)
            held += size

        try:
            data = await read_body(receive, limit, hold)
            self._body_bytes.add(len(data))
            body = replace(head.body, data=data)
            if head.packed:
                body = replace(body, data=await self._unpacked(body), content_encoding=None)
                hold(len(body.data))
            del data
            appended = await self.intake.append(head.datasource, body, len(body.data), head.source)
        finally:
            budget.give_back(held)
        return _acknowledge(appended)

    async def _unpacked(self, body: Body) -> bytes:
        limits = self.intake.limits.request
        if len(body.data) < THREAD_BYTES:
            return unpack(body, limits)
        return await self.intake.in_thread(lambda: unpack(body, limits))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await asyncio.shield(self.close())
                await send({"type": "lifespan.shutdown.complete"})
                return


def _headers_of(error: RtaError, *, unread: bool) -> list[tuple[bytes, bytes]]:
    headers = [ALLOW] if isinstance(error, MethodNotAllowedError) else []
    return [*headers, CLOSE] if unread else headers


def _check_open(datasource: Datasource) -> None:
    """Raises ConflictError for a datasource whose events other producers write to Kafka."""
    if datasource.source is not None:
        raise ConflictError(
            f"'{datasource.name}' takes its events from the Kafka topic '{datasource.source.topic}', not over HTTP",
            "write them to the topic, or send them to another datasource",
        )


def _datasource_of(path: str) -> str:
    if path.rstrip("/") == PATH:
        return DEFAULT_DATASOURCE
    name = path.removeprefix(PATH + "/")
    if name == path or "/" in name:
        raise NotFoundError(f"no such path '{path[:200]}'", f"events go to {PATH} or {PATH}/{{datasource}}; see /docs")
    return name


def _read_head(scope: Scope, name: str) -> _Head:
    """Everything that can be refused before a byte of the body is read."""
    encoding = (header(scope, b"content-encoding") or "identity").strip().lower()
    if encoding != "identity" and encoding not in ENCODINGS:
        raise UnsupportedMediaError(f"content encoding '{encoding[:100]}' is not understood", "use gzip, zstd or none")
    key = header(scope, b"idempotency-key")
    if key is not None and not 0 < len(key) <= IDEMPOTENCY_KEY_MAX:
        raise BadRequestError(
            f"header 'Idempotency-Key' has {len(key)} characters", f"send 1 to {IDEMPOTENCY_KEY_MAX} characters"
        )
    packing = None if encoding == "identity" else encoding
    body = Body(b"", header(scope, b"content-type"), packing, key, _generate_ids(scope))
    format_of(body)
    return _Head(name, source_of(scope), body, declared_length(scope))


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
    if 0 < outcome.successful == outcome.total and not outcome.generated_ids:
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
            for v in outcome.verdicts
        ],
        "position": appended.position,
    }
    omitted = outcome.refusals.reasons.total() - len(outcome.verdicts)
    if omitted:
        document["errors_omitted"] = omitted
    if outcome.generated_ids:
        document["generated_ids"] = outcome.generated_ids
        document["retry_safe"] = False
    return document


def _sendable(text: str | None) -> str | None:
    """Lone surrogates of a caller's text have no UTF-8 form."""
    return None if text is None else text.encode("utf-8", "replace").decode()
