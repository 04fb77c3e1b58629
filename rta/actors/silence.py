"""Ends a coordinator that no longer answers, so that a successor takes over; for the process that holds the system up.

The process is found by its title and not by what it said of itself: one that froze before its first answer holds the
system up as well, and the number of one that is dead may be another process's by now. One that is on its way up, and waits for a
store that is out of reach, is given more time than one that stands still.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

logger = logging.getLogger(__name__)
TITLE = "ray::CoordinatorActor"
"""What Ray calls the process of that actor, for `ps`."""
ANSWER_S = 2.0
"""How long each call waits."""
MISSES_MAX = 5
"""Calls without an answer after which one is ended that has answered before, or that is stopped."""
STARTING_MISSES_MAX = 30


def coordinators() -> Sequence[psutil.Process]:
    """Processes of the coordinator below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(TITLE):
                found.append(process)
    return found


class Silence:
    """Counts the calls that got no answer.

    Args:
        processes: Those of the coordinator that live.
    """

    def __init__(self, processes: Callable[[], Sequence[psutil.Process]] = coordinators) -> None:
        self._processes = processes
        self._answered: int | None = None
        self._misses: dict[int, int] = {}

    def answered(self, pid: int) -> None:
        self._answered = pid
        self._misses = {}

    def missed(self) -> None:
        """A call got no answer; whoever has been silent for long enough is ended."""
        alive = {process.pid: process for process in self._processes()}
        self._misses = {pid: self._misses.get(pid, 0) + 1 for pid in alive}
        for pid, process in alive.items():
            with suppress(psutil.NoSuchProcess):
                standing = pid == self._answered or process.status() == psutil.STATUS_STOPPED
                if self._misses[pid] < (MISSES_MAX if standing else STARTING_MISSES_MAX):
                    continue
                silent_s = self._misses.pop(pid) * ANSWER_S
                logger.error("the coordinator, process %d, has not answered for %.0f s and is ended", pid, silent_s)
                process.kill()
