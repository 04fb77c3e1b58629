"""Log servers that start in milliseconds and die on command: a process that forks one whenever it is told to.

`Crashing` is the test's side. Run as a script, this file is the forking process: a line of JSON on its standard input
starts a server; it answers "ready" or, when the server has ended, "ended". With `die_at` the server kills itself
right before its n-th change of a file's name or opening of a file, which makes every gap between two durable steps a
place to crash that can be tried one by one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from rta.log.embedded import EmbeddedSettings, LogServer

_STEPS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "sqlite3.connect"})


class Crashing:
    """Starts servers over one folder, one after the other."""

    def __init__(self, root: Path, **settings: int) -> None:
        self.folder, self.socket = root / "log", root / "socket"
        self._settings = settings
        self._zygote = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        self._pid = 0

    def start(self, die_at: int = 0) -> bool:
        """False when it died before it was ready."""
        order = {"folder": str(self.folder), "socket": str(self.socket), "settings": self._settings, "die_at": die_at}
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps(order) + "\n")
        self._zygote.stdin.flush()
        self._pid = int(self._line())
        if self._line() == "ready":
            return True
        self._pid = 0
        return False

    @property
    def running(self) -> bool:
        return self._pid != 0

    def kill(self) -> None:
        """As `kill -9` does; returns when the process is gone."""
        os.kill(self._pid, signal.SIGKILL)
        self.wait_ended()

    def wait_ended(self) -> None:
        assert self._line() == "ended"
        self._pid = 0

    def _line(self) -> str:
        assert self._zygote.stdout is not None
        return self._zygote.stdout.readline().strip()

    def close(self) -> None:
        if self._pid:
            self.kill()
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.close()
        self._zygote.wait(30)
        self._zygote.stdout.close()


def _fork_on_command() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        process = os.fork()
        if process == 0:
            _serve(order)
            os._exit(0)
        os.waitpid(process, 0)
        print("ended", flush=True)


def _serve(order: dict[str, object]) -> None:
    print(os.getpid(), flush=True)
    die_at = order["die_at"]
    steps = 0

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        if event in _STEPS:
            steps += 1
            if steps == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if die_at:
        sys.addaudithook(audit)
    settings = order["settings"]
    assert isinstance(settings, dict)

    async def run() -> None:
        server = LogServer(Path(str(order["folder"])), Path(str(order["socket"])), EmbeddedSettings(**settings))
        await server.start()
        print("ready", flush=True)
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    _fork_on_command()
