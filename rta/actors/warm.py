"""Imported by every worker process of Ray as it starts: one that nobody has taken yet warms up beside its waiting.

Light by itself, because Serve's own processes import it too. See `rta.actors.spare`.
"""

from __future__ import annotations

import importlib
import logging
import threading
from pathlib import Path

IDLE = "ray::IDLE"
"""What Ray calls a worker process, for `ps`, that no actor has."""
WAIT_S = 2.0
"""A worker that is started for an actor has become one by then."""
NEEDED = ("rta.actors.aggregator", "rta.actors.coordinator", "rta.log.kafka.reader", "rta.store.s3")
"""Modules that the next actor imports."""
logger = logging.getLogger(__name__)


def title() -> str:
    """What this process is called now; Ray writes it over its command line."""
    return Path("/proc/self/cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace").strip()


def _warm_up_if_idle() -> None:
    threading.Event().wait(WAIT_S)
    if title() != IDLE:
        return
    try:
        for name in NEEDED:
            importlib.import_module(name)
        from rta.actors.kernels import warm_up_once

        warm_up_once()
    except Exception:
        logger.exception("a waiting worker could not be warmed up; an actor that gets it does what is missing")


if Path("/proc/self/cmdline").exists():
    threading.Thread(target=_warm_up_if_idle, name="warm-up", daemon=True).start()
