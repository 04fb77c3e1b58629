"""Ends the process, as kill -9 does, at one named step of a commit: for fault tests of the real system.

Set by the setting `crash_at: "<point>:<n>"`: the n-th time that a process reaches the point it is gone. It happens once per
data folder; a marker in the run folder says that it has. `crash_at: by_file` arms a running system instead: the process that
reaches a point and finds the file `crash-<point>` in the run folder takes the file away and is gone.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from rta.actors.links import Site
from rta.errors import ConfigError

FILES_WRITTEN = "files_written"
MANIFEST_PUT = "manifest_put"
BEFORE_PROJECTION = "before_projection"
POINTS = (FILES_WRITTEN, MANIFEST_PUT, BEFORE_PROJECTION)
BY_FILE = "by_file"


def arming_file(run_folder: Path, point: str) -> Path:
    """What arms one crash at the point, in a system with `crash_at: by_file`."""
    return run_folder / f"crash-{point}"


class CrashPoints:
    """Counts how often this process reached the point that the site names."""

    def __init__(self, site: Site) -> None:
        self._point, _, count = (site.crash_at or "").partition(":")
        self._left = int(count or 1)
        self._run_folder = Path(site.run_folder)
        self._marker = self._run_folder / f"crashed-{self._point}"
        if self._point and self._point not in (*POINTS, BY_FILE):
            raise ConfigError(f"setting 'crash_at' names '{self._point}'", f"valid: {', '.join((*POINTS, BY_FILE))}")

    def reach(self, point: str) -> None:
        if self._point == BY_FILE:
            self._taken(point)
            return
        if point != self._point or self._marker.exists():
            return
        self._left -= 1
        if self._left <= 0:
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _taken(self, point: str) -> None:
        """Whoever takes the file away is the one that ends; of two that see it, one does."""
        try:
            arming_file(self._run_folder, point).unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
