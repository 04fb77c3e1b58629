"""A clock that can be stepped for the processes that are started with its environment: libfaketime, preloaded.

Only what day it is moves: monotonic clocks, by which processes wait, go on as the kernel's does not jump either.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.services.places import MissingServiceError

NOTICED_S = 1
"""A process looks at the file that says how late it is at most so often."""


def library() -> Path:
    """Path of libfaketime. Raises MissingServiceError."""
    found = sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"))
    if not found:
        raise MissingServiceError("libfaketime is needed by the tests: install it (Debian: apt-get install faketime)")
    return found[0]


class Clock:
    """See the module. Begins at the true time."""

    def __init__(self) -> None:
        self._library = library()
        self._folder = Path(tempfile.mkdtemp(prefix="rta-clock-"))
        self.ahead_s = 0
        self.step(0)

    def environment(self) -> dict[str, str]:
        """For the processes whose clock it is; Ray passes a preloaded library to its workers when it is told to."""
        return {
            "LD_PRELOAD": str(self._library),
            "RAY_LD_PRELOAD_ON_WORKERS": "1",
            "FAKETIME_TIMESTAMP_FILE": str(self._folder / "ahead"),
            "FAKETIME_CACHE_DURATION": str(NOTICED_S),
            "FAKETIME_DISABLE_SHM": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, ahead_s: int) -> None:
        """So many seconds ahead of the true time from now on, or behind it."""
        aside = self._folder / "aside"
        aside.write_text(f"{ahead_s:+d}\n")
        aside.replace(self._folder / "ahead")
        self.ahead_s = ahead_s

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
