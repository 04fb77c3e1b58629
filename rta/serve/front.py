"""The short way of a question through HTTP: from the ASGI call to the query service and back, past every framework.

A question that is answered at once costs less than FastAPI, Starlette and Serve's own handling of a request do together.
`Front` is an ASGI middleware that takes `POST /v1/query` out of an app; `ShortCut` does the same in front of Serve, which calls
`middlewares` when it starts a replica's HTTP server (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`). What is not a question, and
every question in a process that has offered nothing, goes the long way. The endpoint is one and the same on both.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Protocol

from rta.errors import RtaError, UnavailableError
from rta.serve.http import (
    Answer,
    AsgiApp,
    Receive,
    Scope,
    Send,
    header,
    send_answer,
)
from rta.serve.metrics import Registry
from rta.serve.requests import json_object, read_json_body, unless_gone

LOG = logging.getLogger("rta.serve")
PATH = "/v1/query"
ARROW = "application/vnd.apache.arrow.stream"
META_HEADER = b"rta-meta"
UNDER_WAY_MAX = 1_024
"""Questions at once; Serve's own bound does not see those that go past it."""
_VARY = (b"vary", b"Accept")


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


class Advises(Protocol):
    """Says which rollups the last questions would have wanted, of a datasource or of all."""

    async def advise(self, name: str | None) -> dict[str, Any]: ...


class QueryService(Protocol):
    """Answers questions. All raise `RtaError`; what is awaited may be cancelled at any time."""

    def answer_again(
        self, body: bytes, *, after_header: str | None, if_none_match: str | None, accept_arrow: bool
    ) -> Reply | None:
        """The answer to a document that was answered before, if it still holds; None where it has to be read."""
        ...

    def answer_now(
        self,
        document: dict[str, Any],
        *,
        body: bytes,
        after_header: str | None,
        if_none_match: str | None,
        accept_arrow: bool,
    ) -> Reply | None:
        """The answer without waiting for anything; None where `answer` has to be asked."""
        ...

    async def answer(
        self, document: dict[str, Any], *, after_header: str | None, if_none_match: str | None, accept_arrow: bool
    ) -> Reply: ...

    async def explain(self, document: dict[str, Any]) -> dict[str, Any]: ...

    @property
    def adviser(self) -> Advises: ...


class QueryEndpoint:
    """`POST /v1/query` of one service, counted. An ASGI app for a `CallerGate`, which makes documents of its errors."""

    def __init__(self, service: QueryService, registry: Registry) -> None:
        self._service = service
        self._requests = registry.counter("rta_query_requests_total", "Questions by status.", "status")
        self._latency = registry.histogram("rta_query_seconds", "Time from a question's arrival to its answer.")
        self._under_way = 0

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The HTTP answer to a question.

        Raises:
            RtaError: with its own status.
            ClientGoneError: nobody reads the answer any more.
        """
        begun = time.perf_counter()
        status = "gone"
        if self._under_way >= UNDER_WAY_MAX:
            raise UnavailableError(f"{self._under_way:,} questions are under way", "try again later")
        self._under_way += 1
        try:
            answer = await self._answer(scope, receive)
            status = str(answer.status)
        except RtaError as error:
            status = str(error.status)
            raise
        finally:
            self._under_way -= 1
            self._requests.add(1, status)
            self._latency.observe(time.perf_counter() - begun)
        return answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self.answer(scope, receive)
        except RtaError as error:
            log_failure(error)
            raise
        await send_answer(send, answer)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        body = await read_json_body(scope, receive)
        wants: dict[str, Any] = {
            "after_header": header(scope, b"rta-after"),
            "if_none_match": header(scope, b"if-none-match"),
            "accept_arrow": ARROW in (header(scope, b"accept") or ""),
        }
        reply = self._service.answer_again(body, **wants)
        if reply is not None:
            return _answer_of(reply)
        document = json_object(body)
        reply = self._service.answer_now(document, body=body, **wants)
        if reply is None:
            reply = await unless_gone(receive, self._service.answer(document, **wants))
        return _answer_of(reply)


def _answer_of(reply: Reply) -> Answer:
    extra: tuple[tuple[bytes, bytes], ...] = (_VARY,)
    if reply.etag is not None:
        etag = reply.etag if reply.etag.endswith('"') else f'"{reply.etag}"'
        extra += ((b"etag", etag.encode()),)
    if reply.meta is not None and reply.content_type == ARROW:
        extra += ((META_HEADER, json.dumps(reply.meta, separators=(",", ":"), default=str).encode()),)
    body = b"" if reply.status == 304 else reply.body
    return Answer(reply.status, body, reply.content_type.encode(), extra)


class Front:
    """ASGI middleware: questions go to the endpoint, everything else to the app behind it."""

    def __init__(self, app: AsgiApp, questions: AsgiApp) -> None:
        self.app = app
        self._questions = questions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_question(scope):
            await self._questions(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def is_question(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST"


def log_failure(error: RtaError) -> None:
    """What is ours to look into, and not only the caller's to try again."""
    if error.status >= 500 and error.retry_after_s is None:
        LOG.error("request failed: %s", error, exc_info=error)


class _Offered:
    """What answers the questions of this process, once it has something."""

    questions: AsgiApp | None = None


def offer(questions: AsgiApp | None) -> None:
    """From now on questions to this process's HTTP server go straight to this app; None ends it."""
    _Offered.questions = questions


class ShortCut:
    """ASGI middleware in front of Serve's own handling of requests."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        questions = _Offered.questions
        if questions is not None and is_question(scope):
            await questions(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def middlewares() -> list[Any]:
    """What Serve puts in front of the HTTP server of every replica and proxy."""
    from starlette.middleware import Middleware

    return [Middleware(ShortCut)]
