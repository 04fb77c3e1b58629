"""A load generator that costs little: one thread, raw sockets, bodies made before.

Owns sending and timing. HTTP/1.1 with keep-alive, no more of it. Answers are only read for their status; whoever wants
their content asks with `Asker`.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

READ_BYTES = 256 << 10
STUCK_S = 60.0
RESEND_AFTER_S = 0.1
Next = Callable[[], bytes | None]


def request(url: str, path: str, body: bytes, content_type: str = "application/json", key: str = "") -> bytes:
    """A whole POST request."""
    extra = f"Idempotency-Key: {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: {content_type}\r\n{extra}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    line = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 80), timeout=STUCK_S)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


@dataclass
class Tally:
    """Seconds per answered request, and how many were answered with something else than 200 and sent again."""

    seconds: list[float] = field(default_factory=list)
    sent_again: int = 0


@dataclass
class _Line:
    """A connection with one request on its way."""

    socket: socket.socket
    whole: bytes = b""
    left: memoryview = field(default_factory=lambda: memoryview(b""))
    answer: bytearray = field(default_factory=bytearray)
    begun_s: float = 0.0


def drive(url: str, next_request: Next, connections: int) -> Tally:
    """Send requests over several connections, each when its last one was answered, until there is none left.

    Raises:
        RuntimeError: an answer that is neither 200 nor one to be sent again, or no answer for a minute.
    """
    tally = Tally()
    with selectors.DefaultSelector() as selector:
        open_lines = 0
        for _ in range(connections):
            line = _Line(connect(url))
            line.socket.setblocking(False)
            selector.register(line.socket, selectors.EVENT_WRITE, line)
            open_lines += 1
            open_lines -= not _begin(selector, line, next_request())
        while open_lines:
            ready = selector.select(STUCK_S)
            if not ready:
                raise RuntimeError(f"no answer from {url} within {STUCK_S:.0f} s")
            for key, events in ready:
                line = key.data
                if events & selectors.EVENT_WRITE:
                    _write(selector, line)
                elif _read(line):
                    done = _settle(line, tally)
                    if b"\r\nconnection: close\r\n" in line.answer.lower():
                        _reopen(selector, line, url)
                    if done:
                        open_lines -= not _begin(selector, line, next_request())
                    else:
                        _begin(selector, line, line.whole)
    return tally


def _reopen(selector: selectors.BaseSelector, line: _Line, url: str) -> None:
    selector.unregister(line.socket)
    line.socket.close()
    line.socket = connect(url)
    line.socket.setblocking(False)
    selector.register(line.socket, selectors.EVENT_WRITE, line)


def _begin(selector: selectors.BaseSelector, line: _Line, whole: bytes | None) -> bool:
    if whole is None:
        selector.unregister(line.socket)
        line.socket.close()
        return False
    line.whole, line.left, line.begun_s = whole, memoryview(whole), time.perf_counter()
    line.answer.clear()
    _write(selector, line)
    return True


def _write(selector: selectors.BaseSelector, line: _Line) -> None:
    while line.left:
        try:
            line.left = line.left[line.socket.send(line.left) :]
        except BlockingIOError:
            selector.modify(line.socket, selectors.EVENT_WRITE, line)
            return
    selector.modify(line.socket, selectors.EVENT_READ, line)


def _read(line: _Line) -> bool:
    """Read what is there; true when the answer is complete."""
    data = line.socket.recv(READ_BYTES)
    if not data:
        raise RuntimeError("the server closed the connection in the middle of an answer")
    line.answer += data
    return _body_of(line.answer) is not None


def _settle(line: _Line, tally: Tally) -> bool:
    """Note the answer; false when the request has to go again."""
    status = int(line.answer[9:12])
    if status == 200:
        tally.seconds.append(time.perf_counter() - line.begun_s)
        return True
    if status not in (429, 500, 503):
        raise RuntimeError(f"answered with {line.answer[:1000].decode(errors='replace')}")
    tally.sent_again += 1
    time.sleep(RESEND_AFTER_S)
    return False


def _body_of(answer: bytearray) -> bytes | None:
    """The body of a complete answer; None while something is missing."""
    head, mark, body = bytes(answer).partition(b"\r\n\r\n")
    if not mark:
        return None
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        return _unchunked(body)
    at = lower.find(b"content-length:")
    length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    return body if len(body) >= length else None


def _unchunked(body: bytes) -> bytes | None:
    whole = b""
    while True:
        size, mark, rest = body.partition(b"\r\n")
        if not mark:
            return None
        count = int(size.split(b";")[0], 16)
        if len(rest) < count + 2:
            return None
        if count == 0:
            return whole
        whole, body = whole + rest[:count], rest[count + 2 :]


class Asker:
    """One connection, one question at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._line = connect(url)

    def exchange(self, whole: bytes) -> tuple[int, bytes]:
        """The answer's status and body. A connection that was closed while it was idle is opened again, once."""
        found = self._try(whole)
        if found is None:
            self._line.close()
            self._line = connect(self._url)
            found = self._try(whole)
        if found is None:
            raise RuntimeError("the server closed the connection")
        return found

    def _try(self, whole: bytes) -> tuple[int, bytes] | None:
        answer = bytearray()
        try:
            self._line.sendall(whole)
            while (body := _body_of(answer)) is None:
                data = self._line.recv(READ_BYTES)
                if not data and answer:
                    raise RuntimeError(f"the server closed the connection after {len(answer)} bytes of an answer")
                if not data:
                    return None
                answer += data
        except (BrokenPipeError, ConnectionResetError):
            return None
        return int(answer[9:12]), body

    def ask(self, whole: bytes) -> Any:
        status, body = self.exchange(whole)
        if status != 200:
            raise RuntimeError(f"answered with {status}: {body[:500].decode(errors='replace')}")
        return json.loads(body)

    def close(self) -> None:
        self._line.close()
