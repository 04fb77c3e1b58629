"""The logs that the contract suite runs on: real servers in processes of their own, which can be killed.

Another implementation is one more class and one more entry of `LOGS`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from rta.log.base import LogAdmin, LogReader, LogWriter
from rta.log.embedded import EmbeddedAdmin, EmbeddedReader, EmbeddedWriter
from rta.log.kafka.admin import KafkaAdmin
from rta.log.kafka.reader import KafkaReader
from rta.log.kafka.settings import KafkaSettings
from rta.log.kafka.writer import KafkaWriter
from tests.services.kafka import Kafka


class LogUnderTest(Protocol):
    """A log and power over its server. It is running when it is handed out."""

    def writer(self) -> LogWriter: ...

    def reader(self) -> LogReader: ...

    def admin(self) -> LogAdmin: ...

    def start(self) -> None:
        """Return when it serves (again)."""
        ...

    def stop(self) -> None:
        """End the server in good order."""
        ...

    def kill(self) -> None:
        """End the server as `kill -9` does."""
        ...

    def close(self) -> None:
        """Stop and leave nothing behind."""
        ...


class EmbeddedLog:
    """The embedded log. Its folder lies on the real disk, its socket at a path that is short enough."""

    def __init__(self, **settings: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="rta-log-"))
        self.folder, self.socket = self.root / "log", self.root / "socket"
        self.settings = settings
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def writer(self) -> EmbeddedWriter:
        return EmbeddedWriter(self.socket)

    def reader(self) -> EmbeddedReader:
        return EmbeddedReader(self.folder, self.socket)

    def admin(self) -> EmbeddedAdmin:
        return EmbeddedAdmin(self.socket)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def command(self, **settings: int) -> list[str]:
        options = [f"--{name.replace('_', '-')}={value}" for name, value in (self.settings | settings).items()]
        base = [sys.executable, "-m", "rta.log.embedded", "--folder", str(self.folder), "--socket", str(self.socket)]
        return [*base, "--parent", str(os.getpid()), *options]

    def start(self) -> None:
        self._process = subprocess.Popen(self.command(lock_wait_s=5), stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert "serving" in line, f"the log server did not start: {line!r}"

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        assert self._finish() == 0

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._finish()

    def _finish(self) -> int:
        assert self._process is not None
        code = self._process.wait(timeout=30)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None
        return code

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.root, ignore_errors=True)


class KafkaLog:
    """Apache Kafka, one broker."""

    def __init__(self) -> None:
        self._broker = Kafka()
        self.settings = KafkaSettings(servers=(self._broker.servers,), delivery_ms=3000, request_ms=2000)
        self.start, self.stop, self.kill, self.close = (
            self._broker.start,
            self._broker.stop,
            self._broker.kill,
            self._broker.close,
        )

    def writer(self) -> KafkaWriter:
        return KafkaWriter(self.settings)

    def reader(self) -> KafkaReader:
        return KafkaReader(self.settings)

    def admin(self) -> KafkaAdmin:
        return KafkaAdmin(self.settings)


LOGS: Mapping[str, Callable[[], LogUnderTest]] = {"embedded": EmbeddedLog, "kafka": KafkaLog}
