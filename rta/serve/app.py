"""The Serve applications: what each replica builds for itself, and how the two apps share one port.

`ingest` is raw ASGI under `/v1/events`, `query` everything else. A replica gets a `Site` and the settings, and opens its
own connections on its own event loop when it starts. Set the variables of `rta.launch.environment` before this is imported:
Serve reads its flags at import time.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from ray import serve

from rta.actors.links import Site
from rta.config import Settings
from rta.serve.http import AsgiApp, Receive, Scope, Send

if TYPE_CHECKING:
    from rta.serve.control import StoreDefinitions
    from rta.serve.metrics import Registry
    from rta.serve.redis_link import RedisLink
    from rta.store.objects import ObjectStore

logger = logging.getLogger(__name__)
Close = Callable[[], Awaitable[None]]
Build = Callable[[Site, Settings], Awaitable[tuple[AsgiApp, Close]]]
REPORT_S = 1.0
CACHE_BYTES = 256 << 20
HEALTH_CHECK_S = 1.0


class Deferred:
    """An ASGI app that is built in the process and on the event loop that serve it.

    Travels as names and bytes; the app itself never does.
    """

    def __init__(self, build: Build, site: Site, settings: Settings) -> None:
        self._build = build
        self._site = msgspec.msgpack.encode(site)
        self._settings = settings.model_dump(mode="json")
        self._app: AsgiApp | None = None
        self._close: Close | None = None
        self._lock: asyncio.Lock | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        app = self._app or await self._built()
        await app(scope, receive, send)

    async def _built(self) -> AsgiApp:
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            if self._app is None:
                site = msgspec.msgpack.decode(self._site, type=Site)
                self._app, self._close = await self._build(site, Settings.model_validate(self._settings))
        return self._app

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._built()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self._close is not None:
                    await self._close()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def build_ingest(site: Site, settings: Settings) -> tuple[AsgiApp, Close]:
    """The ingest app of one replica."""
    from rta.actors.logs import open_writer
    from rta.events.decode import Edge, Limits, warm_up
    from rta.serve.ingest import IngestApp
    from rta.serve.intake import FOLDERS_MAX, Intake, IntakeLimits
    from rta.serve.metrics import Registry
    from rta.serve.quotas import Quotas
    from rta.store.manifests import ManifestLog
    from rta.store.model import Manifest
    from rta.store.objects import open_store

    store = open_store(site.store)
    await asyncio.to_thread(warm_up)
    limits, registry = settings.limits, Registry()
    link = await _redis(site, store, registry) if settings.quotas is not None else None
    quotas = None if settings.quotas is None else Quotas(settings.quotas, registry, link)
    writer = open_writer(site)

    chains: dict[str, ManifestLog] = {}
    looking = threading.Lock()

    def newest_of(folder: str) -> Manifest | None:
        """Each chain is followed by one object, which asks only for what came since."""
        with looking:
            if folder not in chains and len(chains) >= FOLDERS_MAX:
                chains.clear()
            return chains.setdefault(folder, ManifestLog(store, folder)).newest()

    async def incarnations(folder: str) -> dict[int, str]:
        newest = await asyncio.to_thread(newest_of, folder)
        return {} if newest is None else {e.partition: e.log_incarnation for e in newest.partitions}

    intake = Intake(
        _definitions(site, settings, store),
        writer,
        Edge(int.from_bytes(os.urandom(8), "little")),
        IntakeLimits(Limits(limits.body, limits.unpacked, limits.event), quotas=quotas),
        lambda: time.time_ns() // 1_000_000,
        incarnations,
    )
    app = IngestApp(intake)
    reporting = asyncio.create_task(
        _report(f"ingest-{os.getpid()}", lambda: [*app.registry.snapshot(), *registry.snapshot()], intake.refuse)
    )

    async def close() -> None:
        reporting.cancel()
        await intake.close()
        await writer.close()
        if quotas is not None:
            await quotas.close()
        if link is not None:
            await link.close()

    return app, close


async def build_query(site: Site, settings: Settings) -> tuple[AsgiApp, Close]:
    """The query, control and page app of one replica."""
    from rta.actors.kernels import warm_up
    from rta.actors.remote import RemotePeers
    from rta.serve.control import RemoteControl
    from rta.serve.druid import druid_router
    from rta.serve.druid_service import DruidService
    from rta.serve.druid_sql import DruidSqlService
    from rta.serve.druid_sql_http import druid_sql_router
    from rta.serve.front import offer
    from rta.serve.query import build_query_app
    from rta.serve.scan import ScanPool
    from rta.serve.service import QueryService
    from rta.serve.sharing import sharing
    from rta.serve.sql import SqlService
    from rta.serve.sql_http import sql_router
    from rta.serve.views import HotViews
    from rta.store.cache import FileCache
    from rta.store.catalog import Assignments
    from rta.store.objects import open_store

    store = open_store(site.store)
    definitions = _definitions(site, settings, store)
    await asyncio.to_thread(warm_up)
    assignments = Assignments(store)

    def fleet() -> Sequence[str]:
        newest = assignments.newest()
        return () if newest is None else newest.fleet

    views = HotViews(store, RemotePeers(site.aggregators, fleet))
    scans = ScanPool(settings.limits.query_memory)
    service = QueryService(views, definitions, FileCache(CACHE_BYTES), scans, settings, store)
    service.run = site.run
    sql = SqlService(views, definitions, scans, settings, store, service)
    link = await _redis(site, store, service.registry)
    if link is not None:
        service.answers.share(link)
    control = RemoteControl(lambda snapshots: sharing(settings, link, snapshots))
    druid = DruidService(views, definitions, scans, settings, store, service)
    druid_sql = DruidSqlService(sql, views, definitions, settings)
    routers = [
        sql_router(sql, service.registry),
        druid_router(druid, definitions, control, druid_sql.cancel),
        druid_sql_router(druid_sql, service.registry),
    ]
    app = build_query_app(service, definitions, control, settings, service.registry, routers)
    offer(app.state.questions)
    # What was imported and built by now stays: a round of the collector over all of it would be the slowest answer of its hour.
    gc.collect()
    gc.freeze()

    warming = asyncio.create_task(scans.warm_up())

    async def close() -> None:
        offer(None)
        warming.cancel()
        await druid.close()
        await sql.close()
        await service.close()
        await scans.close()
        if link is not None:
            await link.close()

    return app, close


async def _redis(site: Site, store: ObjectStore, registry: Registry) -> RedisLink | None:
    """This process's way to the Redis of the settings; where there is one, whether it answers or not."""
    if site.redis is None:
        return None
    from rta.serve.redis_link import RedisLink
    from rta.store.identity import identity

    link = RedisLink(site.redis, await asyncio.to_thread(identity, store), registry)
    await link.start()
    return link


def _definitions(site: Site, settings: Settings, store: ObjectStore) -> StoreDefinitions:
    from rta.actors.logs import source_partitions
    from rta.serve.control import StoreDefinitions

    return StoreDefinitions(
        store, settings.partitions, settings.dedup_window, lambda source: source_partitions(site, source)
    )


async def _report(name: str, snapshot: Callable[[], Any], refuse: Callable[[dict[str, str]], None]) -> None:
    """Tell the coordinator this process's counters, for `/metrics` and `/v1/status`, until cancelled; it answers which
    datasources take no events now. While it is away, its last word holds."""
    from rta.actors.remote import call_async
    from rta.errors import UnavailableError

    while True:
        await asyncio.sleep(REPORT_S)
        try:
            refuse(await call_async("report", name, snapshot(), timeout_s=5.0))
        except UnavailableError as error:
            logger.info("counters of %s were not taken: %s", name, error)


def ingest_application(site: Site, settings: Settings) -> Any:
    """`ingest` as a Serve application."""

    @serve.deployment(
        name="ingest",
        num_replicas=1,
        max_ongoing_requests=1024,
        max_surge_percent=100,
        health_check_period_s=HEALTH_CHECK_S,
        graceful_shutdown_timeout_s=10,
        ray_actor_options={"num_cpus": 0.1},
    )
    @serve.ingress(Deferred(build_ingest, site, settings))
    class Ingest:
        """One replica of the edge."""

    return _bound(Ingest)


def query_application(site: Site, settings: Settings) -> Any:
    """`query` as a Serve application."""

    @serve.deployment(
        name="query",
        num_replicas=1,
        max_ongoing_requests=1024,
        max_surge_percent=100,
        health_check_period_s=HEALTH_CHECK_S,
        graceful_shutdown_timeout_s=10,
        ray_actor_options={"num_cpus": 0.1},
    )
    @serve.ingress(Deferred(build_query, site, settings))
    class Query:
        """One replica of the query side."""

    return _bound(Query)


def _bound(deployment: Any) -> Any:
    """Serve's decorators turn a class into a deployment, which type checkers do not see."""
    return deployment.bind()
