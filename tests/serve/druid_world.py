"""Druid's endpoints over a hand-made world, with a client that speaks to them in process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from rta.config import LimitSettings, Settings
from rta.serve.druid import druid_router
from rta.serve.druid_service import DruidService
from rta.serve.query import build_query_app
from rta.serve.scan import ScanPool
from rta.serve.service import QueryService
from rta.store.cache import FileCache
from tests.query.world import World
from tests.serve.fakes import FakeControl


@dataclass
class Druid:
    """The endpoints, and what is behind them."""

    client: httpx.AsyncClient
    service: DruidService
    control: FakeControl
    world: World

    async def post(self, document: Any, path: str = "/druid/v2", **options: Any) -> httpx.Response:
        return await self.client.post(path, json=document, **options)

    async def ask(self, document: dict[str, Any]) -> Any:
        answer = await self.post(document)
        assert answer.status_code == 200, answer.text
        return answer.json()


@asynccontextmanager
async def druid_over(world: World, **limits: Any) -> AsyncIterator[Druid]:
    settings = Settings(limits=LimitSettings(**{"query_time": 120_000, **limits}))
    scans = ScanPool(1 << 30, threads=1)
    queries = QueryService(world, world, FileCache(64 << 20), scans, settings, world.store)
    control = FakeControl()
    service = DruidService(world, world, scans, settings, world.store, queries)
    app = build_query_app(queries, world, control, settings)
    app.include_router(druid_router(service, world, control))
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://rta") as client:
            yield Druid(client, service, control, world)
    finally:
        await service.close()
        await queries.close()
        await scans.close()
