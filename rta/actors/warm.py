"""Imported by every worker process of Ray as it starts: those that are chosen to wait warm up beside their waiting.

Light by itself, because Serve's own processes import it too. Who is chosen stands in a file (`rta.actors.spare`).
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from pathlib import Path

CHOSEN = "_RTA_SPARE"
"""In the environment of a run: the path of the file."""
IDLE = "ray::IDLE"
"""What Ray calls a worker process, for `ps`, that no actor has."""
LOOK_S = 0.5
NEEDED = ("rta.actors.aggregator", "rta.actors.coordinator", "rta.log.kafka.reader", "rta.store.s3")
"""Modules that the next actor imports."""
logger = logging.getLogger(__name__)


def title() -> str:
    """What this process is called now; Ray writes it over its command line."""
    return Path("/proc/self/cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace").strip()


def _wait_to_be_chosen(chosen: Path) -> None:
    """Until an actor has this process, or it is the one that waits for the next actor."""
    waiting = threading.Event()
    waiting.wait(LOOK_S)
    while title() == IDLE:
        if str(os.getpid()) in _read(chosen).split():
            _warm_up()
            return
        waiting.wait(LOOK_S)


def _read(chosen: Path) -> str:
    try:
        return chosen.read_text()
    except OSError:
        return ""


def _warm_up() -> None:
    try:
        for name in NEEDED:
            importlib.import_module(name)
        from rta.actors.kernels import warm_up_once

        warm_up_once(sources=True)
    except Exception:
        logger.exception("the waiting worker could not be warmed up; the actor that gets it does what is missing")


if CHOSEN in os.environ and Path("/proc/self/cmdline").exists():
    _thread = threading.Thread(
        target=_wait_to_be_chosen, args=(Path(os.environ[CHOSEN]),), name="waits-to-be-chosen", daemon=True
    )
    _thread.start()
