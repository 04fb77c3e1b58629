"""Gathering small requests into batches, per key, without making a lone one wait.

A request that finds its lane idle goes at once, together with whatever else arrived in the same turn of the event
loop. While a batch is under way the next gathers: until that one is done, or for `gather_ms` or `bytes_start` where
another may run beside it. So the batch grows with the load and the wait is what the batch before it takes anyway.

Knows nothing of HTTP or events. What waits is bounded by the caller (`rta.serve.intake.Budget`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Process = Callable[[str, list[Item]], Awaitable[Sequence[Result | Exception]]]
"""Handles one batch of a key: one result, or the exception to raise for it, per item and in their order."""


class GatherLimits(NamedTuple):
    """Source of the numbers: design.md, point 1."""

    gather_ms: float = 5.0
    bytes_start: int = 1 << 20
    """So many gathered bytes start a batch beside the ones under way."""
    bytes_batch: int = 4 << 20
    """A batch takes no more once it holds so many."""
    parallel: int = 2
    """Batches of one key under way at once: one is decoded while another is appended."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    size: int
    done: asyncio.Future[Result]


@dataclass(slots=True)
class _Lane(Generic[Item, Result]):
    waiting: OrderedDict[_Waiting[Item, Result], None] = field(default_factory=OrderedDict)
    bytes_waiting: int = 0
    running: int = 0
    start: asyncio.Handle | None = None


class Coalescer(Generic[Item, Result]):
    """One per event loop. A lane lives only while something of its key waits or runs."""

    def __init__(self, process: Process[Item, Result], limits: GatherLimits | None = None) -> None:
        self._process = process
        self._limits = limits or GatherLimits()
        self._lanes: dict[str, _Lane[Item, Result]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, key: str, item: Item, size: int) -> Result:
        """Wait until a batch that holds the item is processed.

        A caller that is cancelled before its batch starts takes the item with it; later the batch goes on without a
        listener.
        """
        lane = self._lanes.setdefault(key, _Lane())
        waiting: _Waiting[Item, Result] = _Waiting(item, size, asyncio.get_running_loop().create_future())
        lane.waiting[waiting] = None
        lane.bytes_waiting += size
        self._consider(key, lane)
        try:
            return await waiting.done
        except asyncio.CancelledError:
            if waiting in lane.waiting:
                del lane.waiting[waiting]
                lane.bytes_waiting -= size
            raise

    async def run_alone(self, key: str, item: Item) -> Result:
        """Process an item as a batch of its own, at once."""
        (result,) = await self._process(key, [item])
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._tasks or self._lanes:
            await asyncio.sleep(0) if not self._tasks else await asyncio.wait(self._tasks)

    def _consider(self, key: str, lane: _Lane[Item, Result]) -> None:
        """Decide when the next batch of the lane starts."""
        if lane.running >= self._limits.parallel:
            return
        loop = asyncio.get_running_loop()
        if lane.running == 0:
            if lane.start is None:
                lane.start = loop.call_soon(self._start, key, lane)
        elif lane.bytes_waiting >= self._limits.bytes_start:
            self._start(key, lane)
        elif lane.start is None:
            lane.start = loop.call_later(self._limits.gather_ms / 1000, self._start, key, lane)

    def _start(self, key: str, lane: _Lane[Item, Result]) -> None:
        if lane.start is not None:
            lane.start.cancel()
            lane.start = None
        batch = self._take(lane)
        if not batch:
            self._forget(key, lane)
            return
        lane.running += 1
        task = asyncio.get_running_loop().create_task(self._run(key, lane, batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if lane.waiting:
            self._consider(key, lane)

    def _take(self, lane: _Lane[Item, Result]) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        size = 0
        while lane.waiting and size < self._limits.bytes_batch:
            waiting, _ = lane.waiting.popitem(last=False)
            lane.bytes_waiting -= waiting.size
            size += waiting.size
            batch.append(waiting)
        return batch

    async def _run(self, key: str, lane: _Lane[Item, Result], batch: list[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._process(key, [waiting.item for waiting in batch])
            for waiting, result in zip(batch, results, strict=True):
                _tell(waiting.done, result)
        except Exception as error:  # noqa: BLE001  # raised again by every request of the batch
            for waiting in batch:
                _tell(waiting.done, error)
        finally:
            lane.running -= 1
            for waiting in batch:
                waiting.done.cancel()
            if lane.waiting:
                if lane.start is not None:
                    lane.start.cancel()
                    lane.start = None
                self._start(key, lane)
            else:
                self._forget(key, lane)

    def _forget(self, key: str, lane: _Lane[Item, Result]) -> None:
        if not lane.waiting and lane.running == 0 and self._lanes.get(key) is lane:
            del self._lanes[key]


def _tell(done: asyncio.Future[Result], result: Result | Exception) -> None:
    if done.done():
        return
    if isinstance(result, Exception):
        done.set_exception(result)
    else:
        done.set_result(result)
