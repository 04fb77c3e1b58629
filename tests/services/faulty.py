"""A reverse proxy in front of an S3 server that can be down, slow, wrong, or forget to answer.

It passes requests on byte by byte, `Host` included, so that signatures hold. What it does wrong is set from outside while it
runs; all requests are counted.
"""

from __future__ import annotations

import http.client
import itertools
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.services.signing import signed_again

HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}
Matches = Callable[[str, str], bool]
"""(method, path) -> whether a request is meant."""


@dataclass
class Faults:
    """What goes wrong, now. Everything at rest: nothing does.

    Args:
        down: Connections are reset before anything is read.
        delay_s: Every request waits so long.
        every: Each such request, counted over all, is answered with `status` and not passed on.
        forget: Requests that match are passed on, and the answer is thrown away with the connection.
        reset: Requests that match are not passed on; the connection is reset.
    """

    down: bool = False
    delay_s: float = 0.0
    every: int = 0
    status: int = 500
    forget: Matches = lambda method, path: False
    reset: Matches = lambda method, path: False


class FaultyProxy:
    """Serves on `port` until closed; `faults` may be replaced at any time.

    Args:
        secret: Of the bucket: requests whose clock is wrong are signed again with it (`tests.services.signing`).
    """

    def __init__(self, upstream_port: int, secret: str | None = None) -> None:
        self.faults = Faults()
        self.secret = secret
        self.requests = 0
        self.forgotten = 0
        self.counter = itertools.count(1)
        self.upstream = upstream_port
        self.waiting = threading.Event()
        self._server = _Server(self)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.waiting.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    def __init__(self, proxy: FaultyProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is no error of the proxy; anything else is shown."""
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # passed on as it came


class _Handler(BaseHTTPRequestHandler):
    @property
    def proxy(self) -> FaultyProxy:
        assert isinstance(self.server, _Server)
        return self.server.proxy

    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        if self.proxy.faults.down:
            self._reset()
            return
        super().handle_one_request()

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        faults, number = self.proxy.faults, next(self.proxy.counter)
        self.proxy.requests = number
        if faults.delay_s:
            self.proxy.waiting.wait(faults.delay_s)
        if faults.down or faults.reset(self.command, self.path):
            self._reset()
        elif faults.every and number % faults.every == 0:
            self._answer(faults.status, [], b"<Error><Code>InternalError</Code></Error>")
        else:
            status, headers, content = self._pass_on(body)
            if faults.forget(self.command, self.path):
                self.proxy.forgotten += 1
                self._reset()
            else:
                self._answer(status, headers, content)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _any  # noqa: N815 - the names that the base class looks for

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            headers = dict(self.headers.items())
            if self.proxy.secret is not None:
                headers = signed_again(self.command, self.path, headers, self.proxy.secret)
            for name, value in headers.items():
                if name.lower() not in HOP:
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        except OSError:
            return 502, [], b""
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        """End the connection as a crash does: with RST, not with an end of the stream."""
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def log_message(self, format: str, *arguments: object) -> None:
        return
