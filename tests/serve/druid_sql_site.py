"""The query app with Druid SQL on a port of its own, over the hand-made Wikipedia world: what real clients talk to."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from rta.config import Settings
from rta.serve.druid_sql import DruidSqlService
from rta.serve.druid_sql_http import druid_sql_router
from rta.serve.metrics import Registry
from rta.serve.query import build_query_app
from tests.query.world import World, build_world
from tests.serve.fakes import FakeControl
from tests.sql.asker import Asker

START_S = 60.0


@dataclass
class Site:
    """The services behind the port; they belong to the server's loop."""

    world: World
    asker: Asker
    service: DruidSqlService
    app: FastAPI


def build_site(folder: Path) -> Site:
    settings = Settings.model_validate({"limits": {"query_time": "120s", "query_rows": 1_000}})
    world = build_world(folder)
    asker = Asker(world, settings)
    service = DruidSqlService(asker.service, world, world, settings)
    registry = Registry()
    routers = [druid_sql_router(service, registry)]
    app = build_query_app(asker.queries, world, FakeControl(), settings, registry, routers)
    return Site(world, asker, service, app)


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """The port."""
    ready: queue.Queue[tuple[int, uvicorn.Server]] = queue.Queue()

    async def serve() -> None:
        site = build_site(folder)
        server = uvicorn.Server(uvicorn.Config(site.app, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        ready.put((server.servers[0].sockets[0].getsockname()[1], server))
        await serving
        await site.asker.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    port, server = ready.get(timeout=START_S)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(START_S)
