"""Pieces that every ASGI app of rta shares: who may call, reading a body within a limit, answers and errors.

Owns the shape of an error on the wire (`api.md`) and the rule that without keys only clients on this machine are
served. Knows nothing of events or queries.
"""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec

from rta.errors import BadRequestError, RtaError, TooLargeError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOG = logging.getLogger("rta.serve")


class ForbiddenError(RtaError):
    """The caller may not do this."""

    code: ClassVar[str] = "forbidden"
    status: ClassVar[int] = 403


class MethodNotAllowedError(RtaError):
    """The path is known, but not with this method."""

    code: ClassVar[str] = "method_not_allowed"
    status: ClassVar[int] = 405


class ConfirmationNeededError(RtaError):
    """What was asked for removes something; the caller has to say so twice."""

    code: ClassVar[str] = "confirmation_needed"
    status: ClassVar[int] = 409


class ClientGoneError(Exception):
    """The client closed the connection; nobody reads an answer. Not an error of rta."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete HTTP answer."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


async def send_answer(send: Send, answer: Answer, *, with_body: bool = True) -> None:
    headers: Headers = [(b"content-length", str(len(answer.body)).encode())]
    if answer.body:
        headers.append((b"content-type", answer.content_type))
    headers += answer.headers
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body if with_body else b""})


def error_answer(error: RtaError, headers: Iterable[tuple[bytes, bytes]] = ()) -> Answer:
    """The error as `api.md` shows it, with `Retry-After` where trying again makes sense."""
    extra = tuple(headers)
    if error.retry_after_s is not None:
        extra += ((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()),)
    return Answer(error.status, msgspec.json.encode(wire_document(error)), headers=extra)


def wire_document(error: RtaError) -> dict[str, str]:
    """`error.document()` with what UTF-8 can't carry (lone surrogates of a caller's text) replaced."""
    return {key: text.encode("utf-8", "replace").decode() for key, text in error.document().items()}


def unexpected_answer(doing: str) -> Answer:
    """500 for what nobody foresaw. To be called while handling the exception, which is logged with its traceback."""
    LOG.exception("unexpected error while %s", doing)
    hint = "this is a defect in rta: its log has the details; sending the same again is safe"
    return error_answer(RtaError(f"unexpected error while {doing}", hint))


def header(scope: Scope, name: bytes) -> str | None:
    """The last header of that (lower case) name."""
    found = None
    for key, value in scope["headers"]:
        if key == name:
            found = value
    return None if found is None else found.decode("latin-1")


def declared_length(scope: Scope) -> int | None:
    text = header(scope, b"content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise BadRequestError(f"header 'Content-Length' is '{text[:40]}'", "send the number of bytes of the body")
    return int(text) if len(text) < 19 else 1 << 62


def too_large(size: str, limit: int) -> TooLargeError:
    return TooLargeError(
        f"reading the body: {size}, the limit is {limit:,} bytes",
        "send it in smaller pieces, or raise 'limits' in rta.yaml",
    )


async def read_body(receive: Receive, limit: int, on_bytes: Callable[[int], None] | None = None) -> bytes:
    """The whole body.

    Args:
        receive: Of the ASGI call.
        limit: Bytes after which reading stops.
        on_bytes: Called with the size of each chunk before it is kept; may raise to refuse it.

    Raises:
        TooLargeError: more than `limit` bytes; the rest is not read.
        ClientGoneError: the client went away before the end.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(f"more than {limit:,} bytes came", limit)
        if chunk:
            if on_bytes is not None:
                on_bytes(len(chunk))
            chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


@lru_cache(maxsize=1)
def own_addresses() -> frozenset[str]:
    """The addresses of this machine's interfaces, read once."""
    import psutil

    return frozenset(a.address.split("%")[0] for addresses in psutil.net_if_addrs().values() for a in addresses)


@lru_cache(maxsize=4096)
def is_this_machine(address: str) -> bool:
    """Whether a peer's address is loopback, or one of this machine's own.

    A proxy on this machine may reach us under its interface's address; no other machine can complete a TCP handshake
    from it.
    """
    try:
        parsed = ipaddress.ip_address(address.strip().strip("[]").split("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback or str(parsed) in own_addresses()


def caller_address(scope: Scope) -> str | None:
    """Who sent the request: the peer, or, behind a proxy on this machine, whom that names last.

    `X-Forwarded-For` of a peer elsewhere is not believed. None over a socket without addresses (a UNIX socket).
    """
    client = scope.get("client")
    peer: str | None = client[0] if client else None
    if peer is None or not is_this_machine(peer):
        return peer
    forwarded = header(scope, b"x-forwarded-for")
    return forwarded.rsplit(",", 1)[-1].strip() if forwarded else peer


def source_of(scope: Scope) -> str:
    """Whom a quota counts a request for. Without keys that is the address; callers without one are one source."""
    return caller_address(scope) or "unknown"


def check_caller(scope: Scope) -> None:
    """Refuse whom `auth: none` does not serve.

    Raises:
        ForbiddenError: the caller is on another machine; or a web page of another site makes this machine's browser
            change something here.
    """
    address = caller_address(scope)
    if address is not None and not is_this_machine(address):
        raise ForbiddenError(
            f"client '{address[:64]}' is not on this machine, and without keys ('auth: none') only that is served",
            "call from the machine that rta runs on, for example through 'ssh -L'",
        )
    origin = header(scope, b"origin")
    if origin is not None and scope["method"] not in SAFE_METHODS and not _same_site(origin, header(scope, b"host")):
        raise ForbiddenError(
            f"a page of origin '{origin[:128]}' may not write here from a browser",
            "post from a page that rta itself serves, or from a program",
        )


def _same_site(origin: str, host: str | None) -> bool:
    try:
        netloc = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(netloc) and host is not None and netloc.lower() == host.lower()


class CallerGate:
    """ASGI middleware: `check_caller` in front of an app, and no exception beyond it.

    An exception that no handler of the app took becomes a 500 document, if the answer has not begun yet; otherwise
    the server has to break the connection, so it goes on.
    """

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def tracking_send(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            check_caller(scope)
            await self.app(scope, receive, tracking_send)
        except ClientGoneError:
            return
        except RtaError as error:
            if begun:
                raise
            await send_answer(send, error_answer(error))
        except Exception:
            if begun:
                raise
            await send_answer(send, unexpected_answer(f"answering {scope['method']} {scope['path'][:200]}"))
