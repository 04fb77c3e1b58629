"""A clock that can be stepped for the processes that are started with its environment, whatever they are written in.

A small library is preloaded into them (`clock.c`, built with the machine's C compiler): it moves what day it is. Monotonic clocks
go on, as the kernel's do when somebody sets the clock.
"""

from __future__ import annotations

import hashlib
import mmap
import shutil
import struct
import tempfile
from pathlib import Path

from tests.services.places import installing, program, run

SOURCE = Path(__file__).with_name("clock.c")


def library() -> Path:
    """Path of the library, built the first time. Raises MissingServiceError."""
    with installing("clock") as folder:
        built = folder / f"clock-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so"
        if not built.exists():
            compiler = program("cc", "install a C compiler (Debian: apt-get install gcc libc6-dev)")
            aside = built.with_suffix(".new")
            options = ["-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
            run([compiler, *options, "-o", str(aside), str(SOURCE), "-ldl", "-lpthread"], "building the clock")
            aside.replace(built)
    return built


class Clock:
    """See the module. Begins at the true time."""

    def __init__(self) -> None:
        self._library = library()
        self._folder = Path(tempfile.mkdtemp(prefix="rta-clock-"))
        self._file = self._folder / "ahead"
        self._file.write_bytes(bytes(8))
        with self._file.open("r+b") as file:
            self._ahead = mmap.mmap(file.fileno(), 8)

    def environment(self) -> dict[str, str]:
        """For the processes whose clock it is; Ray passes a preloaded library to its workers when it is told to."""
        return {
            "LD_PRELOAD": str(self._library),
            "RAY_LD_PRELOAD_ON_WORKERS": "1",
            "STEPPED_CLOCK": str(self._file),
        }

    def step(self, ahead_s: int) -> None:
        """So many seconds ahead of the true time from now on, or behind it."""
        self._ahead[:] = struct.pack("<q", ahead_s)

    def close(self) -> None:
        self._ahead.close()
        shutil.rmtree(self._folder, ignore_errors=True)
