"""Links to a real Redis, and waiting for what happens beside the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rta.serve.metrics import Registry
from rta.serve.redis_link import RedisLink
from rta.store.redis_settings import RedisSettings
from tests.services.redis import RedisServer


def settings_of(port: int, password: str | None = None) -> RedisSettings:
    return RedisSettings(host="127.0.0.1", port=port, database=0, tls=False, username=None, password=password)


async def linked(
    redis: RedisServer, identity: str, registry: Registry | None = None, limit_s: float = 0.25
) -> RedisLink:
    """A started link. Its limit is longer than the usual one: tests run beside others."""
    link = RedisLink(settings_of(redis.port), identity, registry or Registry(), limit_s)
    await link.start()
    return link


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Raises AssertionError that says what was waited for."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not condition():
        assert loop.time() < deadline, f"{what}: not within {timeout_s:.0f} s"
        await asyncio.sleep(0.01)
