"""An aggregator: owns some partitions of every datasource, as the newest assignment says, and nothing else.

A plain class; `rta.actors.remote` makes it an actor. It starts itself: registering with the coordinator gives it a
generation, the assignment its shares. A share that moves away is ended (its open epoch is offered first), one that comes
is loaded from the newest manifest.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from rta.actors.links import CoordinatorLink, Site
from rta.actors.load import LoadSpec
from rta.actors.messages import AggregatorStatus, Cursor, HotDelta, RowsRequest
from rta.actors.shard import Ports, Shard
from rta.errors import InvariantError, NotFoundError, RtaError
from rta.events.schemas import Datasource
from rta.log.base import LogReader
from rta.store.catalog import Assignments, Catalog
from rta.store.model import ActorAssignment
from rta.store.objects import ObjectStore

logger = logging.getLogger(__name__)
LOOK_S = 0.2
"""How often the assignment is looked at: one existence check of the next number."""
FLUSH_S = 5.0


class Aggregator:
    """See the module.

    Args:
        name: Its name in assignments; a later process of the same name is the same aggregator in a newer generation.
        open_reader: Makes a reader of a datasource's log, for one thread.
        die: Ends this process with a reason, so that it is started again.
    """

    def __init__(
        self,
        name: str,
        site: Site,
        store: ObjectStore,
        open_reader: Callable[[Datasource], LogReader],
        link: CoordinatorLink,
        die: Callable[[str], None],
    ) -> None:
        self.name = name
        self._site = site
        self._store = store
        self._open_reader = open_reader
        self._link = link
        self._die = die
        self._started_ms = time.time_ns() // 1_000_000
        self._generation = 0
        self._registered: int | None = None
        self._number = -1
        self._shards: dict[str, Shard] = {}
        self._epochs: dict[str, int] = {}
        self._lives: dict[str, int] = {}
        self._assignments = Assignments(store)
        self._catalog = Catalog(store)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"aggregator-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, flush_s: float = FLUSH_S) -> None:
        """End everything; open epochs are offered first, so that the next start has nothing to fold again."""
        self._stop.set()
        self._thread.join(timeout=10)
        self._end(list(self._shards), flush_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._generation:
                    self._register()
                self._follow()
            except RtaError as error:
                if error.retry_after_s is None:
                    self._die(f"following the assignment: {error}")
                    return
                logger.info("%s waits: %s", self.name, error)
            except BaseException as error:  # noqa: BLE001 - the process ends and starts again with a reason
                self._die(f"following the assignment: {type(error).__name__}: {error}")
                return
            self._stop.wait(LOOK_S)

    def _register(self) -> None:
        registration = self._link.register(self.name, os.getpid())
        self._generation, self._registered = registration.generation, registration.number

    def _follow(self) -> None:
        newest = self._assignments.newest(self._registered)
        if newest is None or newest.number == self._number:
            return
        mine = newest.actors.get(self.name)
        if mine is None or mine.generation > self._generation:
            self._die(f"assignment {newest.number} gives '{self.name}' to another process")
            return
        if mine.generation < self._generation:
            return
        self._take(mine)
        self._number = newest.number

    def _take(self, mine: ActorAssignment) -> None:
        datasources = {d.folder: d for d in self._catalog.read().datasources.values()}
        wanted = {
            folder: LoadSpec(self.name, self._generation, datasources[folder], tuple(sorted(partitions)))
            for folder, partitions in mine.partitions.items()
            if folder in datasources and partitions
        }
        running = self._end([f for f, shard in self._shards.items() if wanted.get(f) != shard.spec], FLUSH_S)
        if running:
            # What follows would write files of the same names; a new process does not.
            raise InvariantError(f"the shares of {running} did not end in time", "the process starts again")
        for folder, spec in wanted.items():
            if folder not in self._shards:
                ports = Ports(self._store, self._open_reader(spec.datasource), self._link, self._die)
                shard = Shard(spec, self._site, ports, self._epochs.get(folder, 0), self._lives.get(folder, 0))
                self._shards = {**self._shards, folder: shard}
                shard.start()

    def _end(self, folders: Sequence[str], flush_s: float) -> list[str]:
        """End shares; the folders of those that are still running."""
        running = []
        for folder in folders:
            shard = self._shards[folder]
            if not shard.stop(flush_s):
                running.append(folder)
            self._epochs[folder] = shard.next_epoch
            self._lives[folder] = shard.lives
            self._shards = {f: s for f, s in self._shards.items() if f != folder}
        return running

    # -- questions ---------------------------------------------------------------------------------------------------

    def delta(self, cursors: Mapping[str, Cursor | None]) -> list[HotDelta]:
        """What came since, for each datasource folder that this aggregator has a share of."""
        shards = self._shards
        found = [shards[folder].delta(cursor) for folder, cursor in cursors.items() if folder in shards]
        return [delta for delta in found if delta is not None]

    def rows(self, folder: str, load: str, requests: Sequence[RowsRequest]) -> bytes:
        shard = self._shards.get(folder)
        if shard is None:
            raise NotFoundError(f"'{self.name}' has no share of '{folder}'", "take a newer view")
        return shard.rows(load, requests)

    def status(self) -> AggregatorStatus:
        shards = list(self._shards.values())
        reloads = [reason for shard in shards for reason in shard.reloads]
        return AggregatorStatus(
            actor=self.name,
            pid=os.getpid(),
            generation=self._generation,
            started_ms=self._started_ms,
            reloads=len(reloads),
            last_reload=reloads[-1] if reloads else None,
            shards=tuple(shard.status() for shard in shards),
        )
