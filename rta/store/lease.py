"""Who runs on a store: one object that the running system renews, so that a second one started by mistake is refused.

It keeps two systems from fighting over the store; what keeps them from harm are generations and conditional puts, which hold
whatever this object says. Nobody's clock is trusted: a holder is alive if the object changes while one looks.
"""

from __future__ import annotations

import os
import socket
import threading
import time

import msgspec

from rta.errors import ConflictError, NotFoundError
from rta.store import layout
from rta.store.objects import ObjectStore

RENEW_S = 3.0
STALE_S = 12.0
"""A holder that has not renewed for so long is gone."""
LOOK_S = 0.5


class Holder(msgspec.Struct, frozen=True):
    """A running system. `beats` grows with every renewal; `run` names this start of it."""

    run: str
    host: str
    pid: int
    url: str
    beats: int


class Lease:
    """One system's side of the object.

    Args:
        run: Name of this start of the system.
        pid: The process that holds the system up.
        url: Where it serves, for the message to the other one.
    """

    def __init__(self, store: ObjectStore, run: str, pid: int, url: str) -> None:
        self._store = store
        self._mine = Holder(run, socket.gethostname(), pid, url, 0)

    def holder(self) -> Holder | None:
        try:
            return msgspec.json.decode(self._store.get(layout.LEASE), type=Holder)
        except (NotFoundError, msgspec.DecodeError):
            return None

    def take(self, stop: threading.Event | None = None) -> None:
        """Take the store over, when nobody else runs on it. Waits for up to `STALE_S` to see whether somebody does.

        Raises:
            ConflictError: somebody does.
        """
        waiting = stop or threading.Event()
        first = self.holder()
        deadline = time.monotonic() + STALE_S
        while first is not None and first.run != self._mine.run and not self._gone(first):
            now = self.holder()
            if now is None or now.run == self._mine.run:
                break
            if now != first:
                raise ConflictError(
                    f"the store is used by the rta of process {now.pid} on '{now.host}', which serves {now.url}",
                    "use that one, stop it, or choose another 'store'; nothing was changed",
                )
            if time.monotonic() > deadline or waiting.wait(LOOK_S):
                break
        self.renew()

    def renew(self) -> bool:
        """Say that we run; False, and nothing said, when somebody else has taken the store over."""
        holder = self.holder()
        if holder is not None and holder.run != self._mine.run and self._mine.beats:
            return False
        self._mine = msgspec.structs.replace(self._mine, beats=max(self._mine.beats, holder.beats if holder else 0) + 1)
        self._store.put(layout.LEASE, msgspec.json.encode(self._mine))
        return True

    def release(self) -> None:
        """Say that nobody runs any more, if it is us who did."""
        holder = self.holder()
        if holder is not None and holder.run == self._mine.run:
            self._store.delete(layout.LEASE)

    def _gone(self, holder: Holder) -> bool:
        """Whether a holder of this machine is seen to have ended."""
        if holder.host != self._mine.host:
            return False
        try:
            os.kill(holder.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False
