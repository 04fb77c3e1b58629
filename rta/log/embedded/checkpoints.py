"""The thread that moves pages from write-ahead logs into their files, so that no append waits for it.

It owns connections that were sealed (their topic writes to a newer file) until it has closed them, and borrows none:
for a file that is still being written to it opens a connection of its own. Losing a checkpoint loses nothing but time:
the pages stay in the write-ahead log, where readers find them. A sealed file that can't be finished (a reader is in it,
the disk is full) is tried again with every later job; its connection stays open, so that readers need no new files.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from pathlib import Path
from typing import NamedTuple

from rta.errors import RtaError
from rta.log.embedded import segments

_SEALED_WAITING_MAX = 4
_logger = logging.getLogger(__name__)


class _Seal(NamedTuple):
    path: Path
    connection: sqlite3.Connection


class _Ease(NamedTuple):
    path: Path
    eased: threading.Event


class Checkpoints:
    """Takes sealed files and files whose write-ahead log has grown; works them off one by one."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[_Seal | _Ease | None] = queue.Queue(_SEALED_WAITING_MAX)
        self._unfinished: list[_Seal] = []
        self._thread = threading.Thread(target=self._run, name="log-checkpoints", daemon=True)
        self._thread.start()

    def seal(self, path: Path, connection: sqlite3.Connection) -> None:
        """Finish a file that nobody writes to any more; the connection now belongs here.

        Blocks while too many wait: a disk that is slower than its writers slows them down here.
        """
        self._jobs.put(_Seal(path, connection))

    def ease(self, path: Path) -> threading.Event:
        """Move what can be moved without stopping the writer; the event is set when that is done."""
        eased = threading.Event()
        try:
            self._jobs.put_nowait(_Ease(path, eased))
        except queue.Full:
            eased.set()
        return eased

    def close(self) -> None:
        """Finish what waits, then stop."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, _Seal):
                self._unfinished.append(job)
            else:
                _ease(job)
            self._unfinished = [seal for seal in self._unfinished if not _finish(seal)]
        for seal in self._unfinished:
            seal.connection.close()


def _finish(seal: _Seal) -> bool:
    """True when the file is whole, or gone."""
    try:
        if seal.path.exists() and not segments.checkpoint(seal.connection, "TRUNCATE"):
            return False
    except sqlite3.Error as error:
        _logger.info("checkpoint of '%s' was put off: %s", seal.path, error)
        return False
    seal.connection.close()
    return True


def _ease(job: _Ease) -> None:
    try:
        connection = segments.open_for_writing(job.path)
        try:
            segments.checkpoint(connection, "PASSIVE")
        finally:
            connection.close()
    except (sqlite3.Error, RtaError) as error:
        _logger.info("checkpoint of '%s' was put off: %s", job.path, error)
    finally:
        job.eased.set()
