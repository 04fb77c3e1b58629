"""The ports `Control` and `Definitions` over the coordinator's actor and the catalog in the store."""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rta.actors.remote import call_async
from rta.errors import NotFoundError, UnavailableError
from rta.events.schemas import Datasource, Source
from rta.store.catalog import Catalog, CatalogState, partitions_of
from rta.store.objects import ObjectStore

LOOK_S = 0.5
"""How old the catalog that a process works with may be; every look is one existence check."""

AWAY_S = 2.0
"""How much later the next look is after one that failed."""
logger = logging.getLogger(__name__)


class RemoteControl:
    """The coordinator's word; its calls raise UnavailableError while it is being restarted.

    Args:
        sharing: What the status says of quotas and caches, from the counters that processes have reported.
    """

    def __init__(self, sharing: Callable[[Sequence[Any]], dict[str, Any]]) -> None:
        self._sharing = sharing

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = await call_async("status", timeout_s=5.0)
        return {**found, "sharing": self._sharing(found["metrics"])}

    async def ledger(self, datasource: str | None, time_range_ms: tuple[int, int] | None) -> dict[str, Any]:
        found: dict[str, Any] = await call_async("ledger", datasource, time_range_ms)
        return found

    async def ready(self) -> tuple[str, tuple[str, ...]]:
        """Why the system is not ready, "" when it is; and what stands still all the same."""
        try:
            reason, degraded = await call_async("ready", timeout_s=5.0)
        except UnavailableError as error:
            return f"the coordinator does not answer: {error.message}", ()
        return reason, degraded

    async def scale(self, aggregators: int) -> dict[str, Any]:
        found: dict[str, Any] = await call_async("scale", aggregators)
        return found

    async def resume(self, datasource: str, accept_loss: bool) -> dict[str, Any]:
        found: dict[str, Any] = await call_async("resume", datasource, accept_loss)
        return found

    async def removal(self, datasource: Datasource) -> dict[str, Any]:
        found: dict[str, Any] = await call_async("removal", datasource.folder)
        return found


class StoreDefinitions:
    """The catalog as this process knows it, looked at again every `LOOK_S` and before anything is said not to exist.

    Args:
        partitions: How many a datasource gets whose document does not say.
        dedup_window_ms: Likewise.
        look_up: How many partitions a topic of other producers has. Blocking; raises RtaError.
    """

    def __init__(
        self, store: ObjectStore, partitions: int, dedup_window_ms: int, look_up: Callable[[Source], int]
    ) -> None:
        self._catalog = Catalog(store)
        self._partitions = partitions
        self._dedup_window_ms = dedup_window_ms
        self._look_up = look_up
        self._state: CatalogState | None = None
        self._read_at = 0.0
        self._lock = asyncio.Lock()

    async def get(self, name: str) -> Datasource:
        found = (await self._current()).datasources.get(name)
        if found is None:
            found = (await self._current(anew=True)).datasources.get(name)
        if found is None:
            raise self._unknown(name)
        return found

    def at_hand(self, name: str) -> Datasource | None:
        if self._state is None or time.monotonic() - self._read_at > LOOK_S:
            return None
        return self._state.datasources.get(name)

    async def all(self) -> list[Datasource]:
        state = await self._current()
        return [state.datasources[name] for name in sorted(state.datasources)]

    async def create(self, document: Mapping[str, Any]) -> Datasource:
        defaults = {"dedup_window": f"{self._dedup_window_ms}ms"}
        complete = {**defaults, **document}
        partitions = await asyncio.to_thread(partitions_of, complete, self._partitions, self._look_up)
        created = await asyncio.to_thread(self._catalog.create, complete, partitions)
        await self._settled()
        return created

    async def update(self, name: str, document: Mapping[str, Any]) -> Datasource:
        updated = await asyncio.to_thread(self._catalog.update, name, dict(document))
        await self._settled()
        await asyncio.sleep(LOOK_S)  # then every replica has looked again: what is sent next is of the new definition
        return updated

    async def delete(self, name: str) -> None:
        await asyncio.to_thread(self._catalog.delete, name, time.time_ns() // 1_000_000)
        await self._settled()

    async def _settled(self) -> None:
        """Until the coordinator has brought log, manifests and assignment in line."""
        await self._current(anew=True)
        await call_async("reconcile")

    async def _current(self, anew: bool = False) -> CatalogState:
        async with self._lock:
            if anew or self._state is None or time.monotonic() - self._read_at > LOOK_S:
                await self._read(anew)
            assert self._state is not None
            return self._state

    async def _read(self, anew: bool) -> None:
        """Read the catalog. While the store is away, what is known of it goes on being true for those who only look."""
        try:
            self._state = await asyncio.to_thread(self._catalog.read)
        except UnavailableError as error:
            if anew or self._state is None:
                raise
            logger.warning("definitions could not be looked up again: %s", error)
            self._read_at = time.monotonic() + AWAY_S
            return
        self._read_at = time.monotonic()

    def _unknown(self, name: str) -> NotFoundError:
        names = sorted(self._state.datasources) if self._state is not None else []
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names) or 'none'}"
        return NotFoundError(f"no datasource '{name[:80]}'", hint)
