"""Work under way, by key: who asks for the same joins it, and it is given up when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Flights(Generic[Value]):
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._under_way: dict[bytes, asyncio.Task[Value]] = {}
        self._waiting: dict[asyncio.Task[Value], int] = {}

    async def once(self, key: bytes, work: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """What `work` comes to, from whoever began it first."""
        task = self._under_way.get(key)
        if task is None or task.done():
            task = asyncio.create_task(work())
            self._under_way[key] = task
            task.add_done_callback(partial(self._ended, key))
            self._waiting[task] = 0
        self._waiting[task] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._waiting[task] -= 1
            if not self._waiting[task]:
                del self._waiting[task]
                self._forget(key, task)  # ending it may take a while, and who asks meanwhile must not join it
                task.cancel()

    def has(self, key: bytes) -> bool:
        """Whether somebody is at it."""
        return key in self._under_way

    def cancel(self) -> None:
        """Give up all of it."""
        for task in list(self._under_way.values()):
            task.cancel()

    def _forget(self, key: bytes, task: asyncio.Task[Value]) -> None:
        if self._under_way.get(key) is task:
            del self._under_way[key]

    def _ended(self, key: bytes, task: asyncio.Task[Value]) -> None:
        self._forget(key, task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have
