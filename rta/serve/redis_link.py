"""One process's way to the Redis that replicas share: a few connections, a short limit on every call, and no calls at all
while Redis is away.

Whoever calls must be able to go on without an answer: everything that can go wrong ends in `AwayError`, soon. Whether Redis
is there is found out beside the requests, by asking it every second. Owns no data and knows nobody's keys but their prefix.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from rta.serve.metrics import Registry
from rta.serve.ports import AwayError
from rta.store.redis_settings import RedisSettings

LOG = logging.getLogger("rta.serve")
LIMIT_S = 0.05
"""Of one call, with whatever it waits for. Redis takes 0.1-0.3 ms; a whole dashboard must not notice one that is frozen."""
CONNECTIONS_MAX = 8
FAILURES_MAX = 3
"""So many time-outs in a row mean away; one may be this process's own, when it was busy for so long."""
ASK_S = 1.0
"""How often Redis is asked whether it is there."""
Value = TypeVar("Value")


class RedisLink:
    """Implements `rta.serve.ports.Shared`. Belongs to one event loop; `start` it there.

    Args:
        identity: Of the store: two systems on one Redis have different ones, and so different keys.
        registry: Counts calls and failures.
    """

    def __init__(self, settings: RedisSettings, identity: str, registry: Registry, limit_s: float = LIMIT_S) -> None:
        self.name = settings.name
        self._prefix = f"rta:{identity}"
        self._limit_s = limit_s
        self._pool = _pool(settings)
        self._redis: Any = Redis(connection_pool=self._pool)
        self._room = asyncio.Semaphore(CONNECTIONS_MAX)
        self._failures = 0
        self._reason: str | None = "it has not answered yet"
        self._changed_ms = _now_ms()
        self._watching: asyncio.Task[None] | None = None
        self._calls = registry.counter("rta_redis_calls_total", "Calls to Redis by what came of them.", "outcome")
        self._up = registry.gauge("rta_redis_up", "Processes that reach Redis.")
        self._up.set(0)

    @property
    def reachable(self) -> bool:
        return self._reason is None

    def status(self) -> dict[str, Any]:
        """For `/v1/status`."""
        return {
            "place": self.name,
            "reachable": self.reachable,
            "reason": self._reason,
            "since_ms": self._changed_ms,
        }

    def key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{name}"

    async def start(self) -> None:
        """Ask once, so that what comes next knows whether Redis is there; then again and again until `close`."""
        await self._ask()
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        try:
            async with asyncio.timeout(self._limit_s):
                await self._redis.aclose()
                await self._pool.disconnect()
        except (RedisError, OSError, TimeoutError) as error:
            LOG.info("closing connections to %s: %s", self.name, error)

    async def get(self, key: str, bytes_max: int) -> bytes:
        # A range: whatever somebody has put there, no more of it comes.
        return await self._call(lambda: self._redis.getrange(key, 0, bytes_max - 1))

    async def put(self, key: str, value: bytes, kept_s: int) -> None:
        await self._call(lambda: self._redis.set(key, value, ex=kept_s))

    async def evaluate(self, script: str, key: str, arguments: Sequence[float]) -> Sequence[bytes]:
        return await self._call(lambda: self._evaluate(script, key, arguments))

    async def _evaluate(self, script: str, key: str, arguments: Sequence[float]) -> Sequence[bytes]:
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        found: Sequence[bytes]
        try:
            found = await self._redis.evalsha(digest, 1, key, *arguments)
        except NoScriptError:
            found = await self._redis.eval(script, 1, key, *arguments)
        return found

    async def _call(self, work: Callable[[], Awaitable[Value]]) -> Value:
        """Run some commands; they are given up in the midst when their time is over.

        Raises:
            AwayError: Redis is away, too slow, or refused the command. It may have carried it out.
        """
        await self._enter()
        try:
            async with asyncio.timeout(self._limit_s):
                found = await work()
        except ResponseError as error:
            self._calls.add(1, "refused")
            raise AwayError(_said(error)) from error
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            raise AwayError(_said(error)) from error
        finally:
            self._room.release()
        self._failures = 0
        self._calls.add(1, "done")
        return found

    async def _enter(self) -> None:
        """Wait for a connection. That there is none in time is not Redis's fault, and says nothing of it."""
        self._check()
        try:
            async with asyncio.timeout(self._limit_s):
                await self._room.acquire()
        except TimeoutError as error:
            self._calls.add(1, "crowded")
            raise AwayError("too many calls at once") from error
        try:
            self._check()
        except AwayError:
            self._room.release()
            raise

    def _check(self) -> None:
        if self._reason is not None:
            self._calls.add(1, "away")
            raise AwayError(self._reason)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        lost = isinstance(error, (RedisConnectionError, OSError)) and not isinstance(error, TimeoutError)
        self._calls.add(1, "lost" if lost else "late")
        if lost or self._failures >= FAILURES_MAX:
            self._gone(_said(error))

    def _gone(self, reason: str) -> None:
        if self._reason is None:
            LOG.warning("Redis at %s is away: %s; this process goes on alone", self.name, reason)
            self._changed_ms = _now_ms()
            self._up.set(0)
        self._reason = reason

    def _back(self) -> None:
        if self._reason is not None:
            LOG.info("Redis at %s is there", self.name)
            self._changed_ms = _now_ms()
            self._up.set(1)
        self._reason, self._failures = None, 0

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(ASK_S)
            await self._ask()

    async def _ask(self) -> None:
        """While it is away, over a new connection: those of before may be dead without knowing."""
        try:
            async with asyncio.timeout(self._limit_s if self.reachable else 2 * self._limit_s):
                if not self.reachable:
                    await self._pool.disconnect(inuse_connections=False)
                await self._redis.ping()
        except (RedisError, OSError, TimeoutError) as error:
            if self.reachable:
                self._failed(error)
            else:
                self._gone(_said(error))
            return
        self._back()


def _pool(settings: RedisSettings) -> ConnectionPool:
    """Connections without limits of their own, which are kept outside: on Python 3.11 the client's one on writing swallows it
    when a task is cancelled."""
    return ConnectionPool(
        connection_class=SSLConnection if settings.tls else Connection,
        max_connections=CONNECTIONS_MAX + 2,
        host=settings.host,
        port=settings.port,
        db=settings.database,
        username=settings.username,
        password=settings.password,
        protocol=2,
        socket_timeout=None,
        socket_connect_timeout=None,
        retry=Retry(NoBackoff(), 0),
    )


def _said(error: Exception) -> str:
    """In words for people; what Redis and the client say of a failed log-in names no password."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "it did not answer in time"
    if isinstance(error, AuthenticationError):
        return "it does not take our name and password"
    return f"{type(error).__name__}: {error}"[:200]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
