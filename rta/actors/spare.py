"""A worker process that waits for the next actor to die: it has imported everything and loaded the kernels.

A process of Ray needs some three seconds from its start to the first event, nearly all of it for imports and kernels. Ray gives
a new life of an actor to a worker that waits, if there is one that has never had a task; so one is kept. Ray has no call for
that: a process is asked for, and the wish withdrawn while it starts. It is chosen by a file with its process id for a name,
and warms up (`rta.actors.warm`). Without it everything comes back as well, only later.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Sequence
from typing import Any

import psutil
import ray

from rta.actors.warm import IDLE, choice

logger = logging.getLogger(__name__)
EVERY_S = 1.0
START_S = 2.0
"""Within this time Ray begins to start a process that is asked for."""
STEP_S = 0.02
PATIENCE_S = 30.0
"""When Ray has started none, for whatever reason, it is asked again after so long."""
STARTING = "default_worker.py"


@ray.remote(num_cpus=0, max_restarts=0)
class _Wish:
    """The wish for a process. It is not meant to begin; when it was not withdrawn in time, its process ends."""

    def __init__(self) -> None:
        os._exit(0)


class Spare:
    """Keeps one worker waiting; for the process that holds the system up."""

    def __init__(self) -> None:
        self._next = 0.0
        self._chosen: set[int] = set()
        self._node: psutil.Process | None = None

    def keep(self) -> None:
        """See that there is one. Called again and again; takes a moment when there is none."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY_S
        try:
            if not self._waiting() and not self._start():
                logger.info("Ray has started no worker to be kept waiting")
                self._next = time.monotonic() + PATIENCE_S
            self._choose(self._waiting())
        except (psutil.Error, OSError) as error:
            logger.info("no worker is kept waiting: %s", error)

    def _start(self) -> bool:
        """Ask for a process and take the wish back once it is being started; false when that took too long."""
        wished: Any = _Wish
        wish = wished.remote()
        pause, deadline = threading.Event(), time.monotonic() + START_S
        while not self._waiting() and time.monotonic() < deadline:
            pause.wait(STEP_S)
        ray.kill(wish, no_restart=True)
        return bool(self._waiting())

    def _choose(self, waiting: Sequence[int]) -> None:
        """They are to be warm: all, because Ray says which one is taken. There is seldom more than one."""
        for pid in set(waiting) - self._chosen:
            file = choice(pid)
            file.parent.mkdir(mode=0o700, exist_ok=True)
            found = file.parent.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise PermissionError(f"'{file.parent}' is not a folder of ours; remove it")
            file.touch()
        for pid in self._chosen - set(waiting):
            choice(pid).unlink(missing_ok=True)
        self._chosen = set(waiting)

    def _waiting(self) -> Sequence[int]:
        """Process ids of workers that no actor has, and of those that are being started."""
        found = []
        for process in self._workers():
            try:
                words = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            if words and (words[0].strip() == IDLE or any(word.endswith(STARTING) for word in words)):
                found.append(process.pid)
        return found

    def _workers(self) -> Sequence[psutil.Process]:
        if self._node is None or not self._node.is_running():
            ours = psutil.Process().children()
            self._node = next((process for process in ours if process.name() == "raylet"), None)
        return () if self._node is None else self._node.children()
