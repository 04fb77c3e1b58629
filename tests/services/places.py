"""Where the servers' programs are, and how they get there: never skipped, always explained."""

from __future__ import annotations

import fcntl
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".services"
"""Of the checkout, ignored by git: what was fetched once."""


class MissingServiceError(RuntimeError):
    """A server's program is not here and can't be fetched; the text says what to install."""


@contextmanager
def installing(name: str) -> Iterator[Path]:
    """The folder of one service, held by one process at a time."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def program(name: str, hint: str) -> str:
    """Path of a program. Raises MissingServiceError."""
    found = shutil.which(name)
    if found is None:
        raise MissingServiceError(f"'{name}' is needed by the tests and is not on the PATH: {hint}")
    return found


def run(command: list[str], doing: str, environment: dict[str, str] | None = None) -> None:
    """Run to the end. Raises MissingServiceError with what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise MissingServiceError(f"{doing} failed: {(done.stdout + done.stderr)[-1500:]}")


def free_port() -> int:
    """A port that nobody listens on, below the range from which the kernel draws those of outgoing connections."""
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(11_000, 19_900)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
