"""Imported by every worker process of Ray as it starts: those that are chosen to wait warm up beside their waiting.

Light by itself, because Serve's own processes import it too. Who is chosen (`rta.actors.spare`) finds a file with its process id
for a name: a process that has just been started knows nothing of the run that it belongs to.
"""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
import threading
from pathlib import Path

IDLE = "ray::IDLE"
"""What Ray calls a worker process, for `ps`, that no actor has."""
LOOK_S = 0.5
NEEDED = ("rta.actors.aggregator", "rta.actors.coordinator", "rta.log.kafka.reader", "rta.store.s3")
"""Modules that the next actor imports."""
logger = logging.getLogger(__name__)


def title() -> str:
    """What this process is called now; Ray writes it over its command line."""
    return Path("/proc/self/cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace").strip()


def choice(pid: int) -> Path:
    """The file that says that this process is chosen; it takes the file away."""
    return Path(tempfile.gettempdir()) / f"rta-{os.getuid()}-spare" / str(pid)


def _wait_to_be_chosen() -> None:
    """Until an actor has this process, or it is one that waits for the next actor."""
    waiting, chosen = threading.Event(), choice(os.getpid())
    waiting.wait(LOOK_S)
    while title() == IDLE:
        if chosen.exists():
            chosen.unlink(missing_ok=True)
            _warm_up()
            return
        waiting.wait(LOOK_S)


def _warm_up() -> None:
    try:
        for name in NEEDED:
            importlib.import_module(name)
        from rta.actors.kernels import warm_up_once

        warm_up_once(sources=True)
    except Exception:
        logger.exception("the waiting worker could not be warmed up; the actor that gets it does what is missing")


if Path("/proc/self/cmdline").exists():
    threading.Thread(target=_wait_to_be_chosen, name="waits-to-be-chosen", daemon=True).start()
