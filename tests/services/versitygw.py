"""One S3 server, versitygw, over a folder: conditional puts are honoured, a bucket is a folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from tests.services.places import free_port, installing, listens, program, run

VERSION = "v1.8.0"
SOURCE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
STARTUP_S = 30.0
BUCKET = "rta-test"
ACCESS, SECRET = "rta-tests", "rta-tests-secret"


def versitygw() -> str:
    """Path of the program, built with Go the first time (about a minute)."""
    found = shutil.which("versitygw")
    if found is not None:
        return found
    with installing("versitygw") as folder:
        built = folder / VERSION / "versitygw"
        if not built.exists():
            go = program("go", "install Go 1.24 or newer, or put versitygw on the PATH")
            environment = {**os.environ, "GOBIN": str(built.parent), "GOFLAGS": "-trimpath"}
            run([go, "install", SOURCE], "building versitygw", environment)
    return str(built)


class VersityGw:
    """A server with one bucket. Stop it, start it again: objects stay."""

    def __init__(self) -> None:
        self._program = versitygw()
        self.root = Path(tempfile.mkdtemp(prefix="rta-s3-"))
        (self.root / "data" / BUCKET).mkdir(parents=True)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, prefix: str) -> str:
        """As the setting `store` wants it."""
        return f"s3://{BUCKET}/{prefix}"

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What a client of it needs in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ALLOW_HTTP": "true",
        }

    def start(self) -> None:
        """Return when it takes connections (again)."""
        environment = {**os.environ, "ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET}
        with (self.root / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "--port", f"127.0.0.1:{self.port}", "posix", str(self.root / "data")],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        deadline, waiting = time.monotonic() + STARTUP_S, threading.Event()
        while not listens(self.port):
            said = (self.root / "server.log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, f"versitygw ended: {said}"
            assert time.monotonic() < deadline, f"versitygw did not start within {STARTUP_S} s: {said}"
            waiting.wait(0.02)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=30)
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.root, ignore_errors=True)
