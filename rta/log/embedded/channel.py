"""A blocking connection to the log server, for readers and the control side: one request at a time."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import msgspec

from rta.errors import InvariantError, UnavailableError
from rta.log.embedded import wire


class Channel:
    """Connects when it is needed, and again after the server restarted. One per thread."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._socket: socket.socket | None = None
        self._ids = itertools.count(1)

    def next_id(self) -> int:
        return next(self._ids)

    def call(self, request: wire.Request, timeout_s: float) -> wire.Answer:
        """Send and wait for the answer; an error answer is raised.

        A connection that was left over from before and turns out to be dead is replaced once, since all requests of
        this side may be repeated. Raises UnavailableError when the server can't be reached or does not answer in time.
        """
        used_before = self._socket is not None
        try:
            answer = self._exchange(request, timeout_s)
        except TimeoutError as error:
            self.close()
            raise UnavailableError(f"the log server at '{self._path}' did not answer within {timeout_s} s") from error
        except OSError as error:
            self.close()
            if used_before:
                return self.call(request, timeout_s)
            raise UnavailableError(
                f"no log server answers at '{self._path}': {error.strerror or error}",
                hint="it may be starting; try again",
            ) from error
        if isinstance(answer, wire.Failed):
            raise wire.to_error(answer)
        return answer

    def _exchange(self, request: wire.Request, timeout_s: float) -> wire.Answer:
        if self._socket is None:
            fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                fresh.settimeout(timeout_s)
                fresh.connect(str(self._path))
            except OSError:
                fresh.close()
                raise
            self._socket = fresh
        self._socket.settimeout(timeout_s)
        self._socket.sendall(wire.encode(request))
        while True:
            control_bytes, body_bytes = wire.PREFIX.unpack(self._receive(wire.PREFIX.size))
            try:
                answer = wire.decode_answer(self._receive(control_bytes + body_bytes)[:control_bytes])
            except msgspec.DecodeError as error:
                self.close()
                raise InvariantError(f"the log server at '{self._path}' sent what is no answer: {error}") from error
            if answer.id == request.id:
                return answer

    def _receive(self, size: int) -> bytes:
        assert self._socket is not None
        data = bytearray()
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionResetError("connection closed")
            data += part
        return bytes(data)

    def close(self) -> None:
        taken, self._socket = self._socket, None
        if taken is not None:
            taken.close()
