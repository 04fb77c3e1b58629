"""All the services over one world, in this process: what a running system answers, without HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rta.config import LimitSettings, Settings
from rta.serve.druid_service import DruidService
from rta.serve.druid_sql import DruidSqlService
from rta.serve.scan import ScanPool
from rta.serve.service import QueryService
from rta.serve.sql import SqlService
from rta.store.cache import FileCache
from tests.query.world import World

PATIENT = Settings(limits=LimitSettings(query_time=120_000))


class Desk:
    def __init__(self, world: World, scans: ScanPool) -> None:
        self.queries = QueryService(world, world, FileCache(64 << 20), scans, PATIENT, world.store)
        self.statements = SqlService(world, world, scans, PATIENT, world.store, self.queries)
        self.druid_sql = DruidSqlService(self.statements, world, world, PATIENT)
        self.druid = DruidService(world, world, scans, PATIENT, world.store, self.queries)

    async def query(self, document: dict[str, Any]) -> dict[str, Any]:
        reply = await self.queries.answer(document, after_header=None, if_none_match=None, accept_arrow=False)
        return dict(json.loads(reply.body))

    async def sql(self, text: str) -> dict[str, Any]:
        reply = await self.statements.answer({"query": text}, after_header=None, if_none_match=None, form="json")
        return dict(json.loads(reply.body))

    async def native(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        reply = await self.druid.answer(document, "differential")
        return list(json.loads(reply.body))

    async def druid_statement(self, text: str) -> list[list[Any]]:
        reply = await self.druid_sql.answer({"query": text, "resultFormat": "array"})
        return list(json.loads(reply.body))


@asynccontextmanager
async def desk(world: World) -> AsyncIterator[Desk]:
    scans = ScanPool(1 << 30, threads=1)
    opened = Desk(world, scans)
    try:
        yield opened
    finally:
        await opened.druid.close()
        await opened.statements.close()
        await opened.queries.close()
        await scans.close()
