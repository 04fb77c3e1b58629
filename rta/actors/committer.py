"""Parts in, manifests out: the coordinator's half of the commit protocol, for every datasource.

One thread takes whatever parts are ready, waits for nobody, and puts the next manifest of each datasource. A put that was
lost to somebody else means: read the chain again, and go on only if the newest assignment still names this coordinator.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rta.actors.crash import MANIFEST_PUT, CrashPoints
from rta.errors import PartRefusedError, RtaError, UnavailableError
from rta.store import layout
from rta.store.catalog import Assignments
from rta.store.commit import choose, next_manifest
from rta.store.manifests import ManifestLog
from rta.store.model import Assignment, Manifest, Part
from rta.store.objects import ObjectStore

logger = logging.getLogger(__name__)
OFFER_S = 20.0
WAITING_MAX = 1024


@dataclass(slots=True)
class _Ticket:
    part: Part
    done: threading.Event = field(default_factory=threading.Event)
    number: int | None = None
    error: RtaError | None = None

    def settle(self, number: int | None = None, error: RtaError | None = None) -> None:
        self.number, self.error = number, error
        self.done.set()


class Committer:
    """See the module.

    Args:
        generation: This coordinator's, as the assignment that it put says.
        on_manifest: Told of every manifest that was put, in the committing thread; must be quick.
        stand_down: Called when somebody newer coordinates.
    """

    def __init__(
        self,
        store: ObjectStore,
        generation: int,
        crash: CrashPoints,
        *,
        on_manifest: Callable[[Manifest], None],
        stand_down: Callable[[str], None],
    ) -> None:
        self._store = store
        self._generation = generation
        self._crash = crash
        self._on_manifest = on_manifest
        self._stand_down = stand_down
        self._assignments = Assignments(store)
        self._logs: dict[str, ManifestLog] = {}
        self._tickets: queue.Queue[_Ticket] = queue.Queue(WAITING_MAX)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self.put_ms_last = 0.0
        self.manifests_put = 0
        self.parts_refused = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def newest(self, folder: str) -> Manifest | None:
        """The newest manifest, read from the store."""
        log = self._logs.setdefault(folder, ManifestLog(self._store, folder))
        return log.newest()

    def offer(self, part: Part) -> int:
        """Blocks until the part is in a manifest; that manifest's number.

        Raises PartRefusedError, or UnavailableError when it took too long: then it may or may not be committed.
        """
        ticket = _Ticket(part)
        try:
            self._tickets.put(ticket, timeout=1)
        except queue.Full:
            raise UnavailableError(f"more than {WAITING_MAX} parts wait to be committed", "the store is slow") from None
        if not ticket.done.wait(OFFER_S):
            raise UnavailableError(f"part '{part.id}' was not committed within {OFFER_S:.0f} s", "the store is slow")
        if ticket.error is not None:
            raise ticket.error
        assert ticket.number is not None
        return ticket.number

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                tickets = [self._tickets.get(timeout=0.2)]
            except queue.Empty:
                continue
            while not self._tickets.empty():
                tickets.append(self._tickets.get_nowait())
            for folder in sorted({t.part.datasource for t in tickets}):
                self._commit(folder, [t for t in tickets if t.part.datasource == folder])

    def _commit(self, folder: str, tickets: Sequence[_Ticket]) -> None:
        try:
            assignment = self._still_ours()
            previous = self.newest(folder)
            if previous is None:
                raise UnavailableError(f"datasource '{folder}' has no manifest yet", "it is being created")
            accepted, later = self._judge(tickets, previous, assignment)
            if accepted:
                self._put(folder, accepted, previous)
            for ticket in later:
                self._tickets.put(ticket, timeout=1)
        except RtaError as error:
            self._fail(tickets, error)
        except Exception as error:
            logger.exception("committing parts of %s failed", folder)
            self._fail(tickets, UnavailableError(f"committing parts of '{folder}': {type(error).__name__}: {error}"))

    @staticmethod
    def _fail(tickets: Sequence[_Ticket], error: RtaError) -> None:
        for ticket in tickets:
            if not ticket.done.is_set():
                ticket.settle(error=error)

    def _still_ours(self) -> Assignment:
        newest = self._assignments.newest()
        if newest is None or newest.coordinator != self._generation:
            found = None if newest is None else newest.coordinator
            self._stand_down(f"assignment names coordinator generation {found}, this is {self._generation}")
            raise UnavailableError("this coordinator has stood down", "offer the part to its successor")
        return newest

    def _judge(
        self, tickets: Sequence[_Ticket], previous: Manifest, assignment: Assignment
    ) -> tuple[list[_Ticket], list[_Ticket]]:
        """Those that go into the next manifest, and those that wait for the one after it."""
        choice = choose([t.part for t in tickets], previous, assignment)
        taken = {part.id for part in choice.taken}
        waiting = {part.id for part in choice.waiting}
        accepted = []
        for ticket in tickets:
            error = choice.refused.get(ticket.part.id)
            if error is None and ticket.part.id in taken:
                error = self._missing(ticket.part)
            if error is not None:
                self.parts_refused += 1
                ticket.settle(error=error)
            elif ticket.part.id in taken:
                accepted.append(ticket)
        return accepted, [t for t in tickets if t.part.id in waiting]

    def _missing(self, part: Part) -> PartRefusedError | None:
        folder = part.datasource
        keys = [layout.table_file(folder, f.table, f.path) for f in part.files]
        keys.append(layout.within(folder, part.state))
        missing = [key for key in keys if not self._store.exists(key)]
        if not missing:
            return None
        return PartRefusedError(f"part '{part.id}' names '{missing[0]}', which is not in the store")

    def _put(self, folder: str, tickets: Sequence[_Ticket], previous: Manifest) -> None:
        began = time.monotonic()
        manifest = next_manifest(previous, [t.part for t in tickets], self._generation, time.time_ns() // 1_000_000)
        if not self._logs[folder].put(manifest).done:
            self._still_ours()
            for ticket in tickets:
                self._tickets.put(ticket, timeout=1)
            return
        self._crash.reach(MANIFEST_PUT)
        self.put_ms_last = (time.monotonic() - began) * 1000
        self.manifests_put += 1
        for ticket in tickets:
            ticket.settle(number=manifest.number)
        self._on_manifest(manifest)
