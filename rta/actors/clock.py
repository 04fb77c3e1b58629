"""What a step of the wall clock does to Ray Serve, and what is done about it.

Serve's controller measures by the wall clock when it has looked at a replica or proxy last (`ray.serve._private`, 2.60). After a
step back it looks at nothing until the clock has caught up: a replica that dies meanwhile is not started again for that long. A
controller that starts anew begins with the time as it is, and takes over what runs.
"""

from __future__ import annotations

import time

import psutil

STEP_S = 2.0
"""Clocks that are kept right are slewed, or stepped by less."""
TIMED = ("ray::ServeController", "ray::HAProxyManager")
"""What Ray calls the processes of the controller, and of the one that keeps HAProxy's configuration."""


class ClockWatch:
    """Compares the wall clock with one that is never set. For one thread, which looks often."""

    def __init__(self) -> None:
        self._offset_s = _offset_s()

    def stepped_back_s(self) -> float:
        """By how many seconds the wall clock was set back since the last look; 0 when it was not."""
        before, self._offset_s = self._offset_s, _offset_s()
        back_s = before - self._offset_s
        return back_s if back_s > STEP_S else 0.0


def restart_controller() -> None:
    """Have Serve's controller start anew; replicas and proxies go on meanwhile. Ray starts it, with what it knew.

    Its process is killed, as a crash would do it: after `ray.kill` whoever listens to it would stop listening.
    """
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(TIMED):
                process.kill()
        except psutil.NoSuchProcess:
            continue


def _offset_s() -> float:
    return time.time() - time.monotonic()
