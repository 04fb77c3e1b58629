"""One Redis server, Debian's `redis-server`, in memory only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from tests.services.places import free_port, listens, program

STARTUP_S = 20.0


def redis_server() -> str:
    """Path of the program. Raises MissingServiceError."""
    return program("redis-server", "install Redis 6 or newer (Debian: apt-get install redis-server)")


class RedisServer:
    """A server that can be killed, frozen and started again on the same port. What it held is gone then.

    Args:
        password: What clients have to give; None lets everybody in.
    """

    def __init__(self, password: str | None = None) -> None:
        self._program = redis_server()
        self._password = password
        self.root = Path(tempfile.mkdtemp(prefix="rta-redis-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """As the setting `redis` wants it, without the password."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Return when it takes connections (again)."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.root)]
        if self._password is not None:
            options += ["--requirepass", self._password]
        with (self.root / "server.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, *options], stdout=log, stderr=log, start_new_session=True)
        deadline, waiting = time.monotonic() + STARTUP_S, threading.Event()
        while not listens(self.port):
            said = (self.root / "server.log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, f"redis-server ended: {said}"
            assert time.monotonic() < deadline, f"redis-server did not start within {STARTUP_S} s: {said}"
            waiting.wait(0.02)

    def command(self, *words: str | bytes) -> bytes:
        """Run one command and return its answer as Redis writes it; for looking at, and spoiling, what lies there."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        said = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(said + b"*1\r\n$4\r\nQUIT\r\n")
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        return answer.removesuffix(b"+OK\r\n")

    def keys(self, pattern: str = "*") -> list[str]:
        """The keys that there are."""
        lines = self.command("KEYS", pattern).decode().split("\r\n")
        return sorted(line for line in lines if line and line[0] not in "*$")

    def kill(self) -> None:
        """End it as `kill -9` does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=30)
        self._process = None

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and leave nothing behind."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.root, ignore_errors=True)
