"""Ends the process, as kill -9 does, at one named step of a commit: for fault tests of the real system.

Set by the setting `crash_at: "<point>:<n>"`: the n-th time that a process reaches the point it is gone. It happens once per
data folder; a marker in the run folder says that it has.
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


class CrashPoints:
    """Counts how often this process reached the point that the site names."""

    def __init__(self, site: Site) -> None:
        self._point, _, count = (site.crash_at or "").partition(":")
        self._left = int(count or 1)
        self._marker = Path(site.run_folder) / f"crashed-{self._point}"
        if self._point and self._point not in POINTS:
            raise ConfigError(f"setting 'crash_at' names '{self._point}'", f"valid: {', '.join(POINTS)}")

    def reach(self, point: str) -> None:
        if point != self._point or self._marker.exists():
            return
        self._left -= 1
        if self._left <= 0:
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
