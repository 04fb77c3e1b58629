"""A SQL service over the hand-made world of `tests.query.world`, with its questions written short."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rta.config import LimitSettings, Settings
from rta.serve.scan import ScanPool
from rta.serve.scan_protocol import Result, Task
from rta.serve.service import QueryService, Reply
from rta.serve.sql import SqlService
from rta.serve.sql_answer import Form
from rta.store.cache import FileCache
from tests.query.world import World, build_world


class InProcess(ScanPool):
    """Runs tasks in this process; `tasks` are those it was given."""

    def __init__(self) -> None:
        super().__init__(1 << 30, threads=1)
        self.tasks: list[Task[Any]] = []

    async def run(self, task: Task[Result]) -> Result:
        self.tasks.append(task)
        return await asyncio.get_running_loop().run_in_executor(None, task.run)


class Asker:
    """Asks in SQL, or in JSON by `query`."""

    def __init__(self, world: World, settings: Settings, pool: ScanPool | None = None) -> None:
        self.world = world
        self.scans = pool or InProcess()
        self.queries = QueryService(world, world, FileCache(64 << 20), self.scans, settings, world.store)
        self.service = SqlService(world, world, self.scans, settings, world.store, self.queries)

    async def __call__(
        self,
        query: str,
        *parameters: Any,
        form: Form = "json",
        etag: str | None = None,
        after: str | None = None,
        **others: Any,
    ) -> Reply:
        document = {"query": query, "parameters": list(parameters), **others}
        return await self.service.answer(document, after_header=after, if_none_match=etag, form=form)

    async def rows(self, query: str, *parameters: Any, **others: Any) -> list[dict[str, Any]]:
        found = json.loads((await self(query, *parameters, **others)).body)["rows"]
        assert isinstance(found, list)
        return found

    async def close(self) -> None:
        await self.service.close()
        await self.queries.close()
        await self.scans.close()


def run(
    folder: Path,
    scenario: Callable[[Asker], Awaitable[None]],
    world: World | None = None,
    pool: ScanPool | None = None,
    **limits: Any,
) -> None:
    async def whole() -> None:
        settings = Settings(limits=LimitSettings(**{"query_time": 120_000, **limits}))
        asker = Asker(world or build_world(folder), settings, pool)
        try:
            await scenario(asker)
        finally:
            await asker.close()

    asyncio.run(whole())
