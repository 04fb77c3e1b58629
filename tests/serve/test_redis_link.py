"""The way to a real Redis: away, back, frozen, refusing, and never a secret in what is said."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator

import pytest

from rta.serve.metrics import Registry
from rta.serve.ports import AwayError
from rta.serve.redis_link import CONNECTIONS_MAX, RedisLink
from tests.serve.shared import linked, settings_of, until
from tests.services.redis import RedisServer

pytestmark = pytest.mark.anyio
PASSWORD = "correct horse:@/#?"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


async def works(link: RedisLink) -> bool:
    try:
        await link.put(link.key("test", "k"), b"value", 60)
        return await link.get(link.key("test", "k"), 100) == b"value"
    except AwayError:
        return False


async def test_it_is_there_goes_away_and_comes_back(redis: RedisServer) -> None:
    link = await linked(redis, "s")
    assert await works(link)
    assert link.status()["place"] == f"redis://127.0.0.1:{redis.port}/0"
    redis.kill()
    assert not await works(link)
    assert not link.reachable
    assert link.status()["reason"]
    redis.start()
    await until(lambda: link.reachable, "Redis is found again")
    assert await works(link)
    assert link.status()["reason"] is None
    await link.close()


async def test_that_it_has_gone_is_noticed_without_calls(redis: RedisServer) -> None:
    link = await linked(redis, "s")
    redis.kill()
    await until(lambda: not link.reachable, "Redis is missed")
    await link.close()


async def test_a_process_starts_without_it_and_finds_it_later(redis: RedisServer) -> None:
    redis.kill()
    link = await linked(redis, "s")
    assert not await works(link)
    redis.start()
    await until(lambda: link.reachable, "Redis is found")
    assert await works(link)
    await link.close()


async def test_a_frozen_redis_costs_no_more_than_the_limit_and_soon_nothing(redis: RedisServer) -> None:
    registry = Registry()
    link = await linked(redis, "s", registry, limit_s=0.1)
    loop = asyncio.get_running_loop()
    redis.freeze()
    for _ in range(6):
        began = loop.time()
        assert not await works(link)
        assert loop.time() - began < 0.4
    assert not link.reachable
    assert link.status()["reason"] == "it did not answer in time"
    began = loop.time()
    for _ in range(1_000):
        assert not await works(link)
    assert loop.time() - began < 0.5
    redis.thaw()
    await until(lambda: link.reachable, "Redis is found again")
    found = await asyncio.gather(*(works(link) for _ in range(CONNECTIONS_MAX * 4)))
    assert all(found)
    await link.close()


async def test_calls_that_are_given_up_leave_no_answer_to_the_next_one(redis: RedisServer) -> None:
    link = await linked(redis, "s", limit_s=0.2)
    await asyncio.gather(*(link.put(link.key("n", str(n)), b"%d" % n, 60) for n in range(50)))
    for round_ in range(30):
        tasks = [asyncio.create_task(link.get(link.key("n", str(n)), 10)) for n in range(50)]
        await asyncio.sleep(0.0003 * (round_ % 7))
        for task in tasks[::2]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        wrong = [(n, value) for n, value in enumerate(found) if isinstance(value, bytes) and value != b"%d" % n]
        assert wrong == []
    await until(lambda: link.reachable, "Redis is there")
    assert await works(link)
    await link.close()


async def test_a_value_is_never_read_further_than_asked(redis: RedisServer) -> None:
    link = await linked(redis, "s")
    key = link.key("test", "large")
    redis.command("SET", key, b"x" * 1_000_000)
    assert await link.get(key, 1_000) == b"x" * 1_000
    assert await link.get(link.key("test", "none"), 1_000) == b""
    await link.close()


async def test_what_redis_refuses_is_no_reason_to_leave_it(redis: RedisServer) -> None:
    link = await linked(redis, "s")
    key = link.key("test", "list")
    redis.command("LPUSH", key, "1")
    with pytest.raises(AwayError, match="WRONGTYPE"):
        await link.get(key, 100)
    assert link.reachable
    redis.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(AwayError, match="OutOfMemory"):
        await link.put(link.key("test", "k"), b"value", 60)
    assert link.reachable
    await link.close()


async def test_keys_of_two_stores_differ(redis: RedisServer) -> None:
    one, other = await linked(redis, "store-1"), await linked(redis, "store-2")
    await one.put(one.key("a", "k"), b"1", 60)
    assert await other.get(other.key("a", "k"), 10) == b""
    await one.close()
    await other.close()


async def test_the_password_opens_it_and_is_said_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    redis = RedisServer(PASSWORD)
    try:
        registry = Registry()
        for password, opens in ((PASSWORD, True), ("wrong horse", False), (None, False)):
            settings = settings_of(redis.port, password)
            link = RedisLink(settings, "s", registry, 0.25)
            await link.start()
            assert await works(link) is opens
            said = f"{link.status()}{settings!r}{settings.name}{caplog.text}"
            assert "horse" not in said
            if not opens:
                assert "password" in str(link.status()["reason"]) or "Authentication" in str(link.status()["reason"])
            await link.close()
    finally:
        redis.close()


async def test_a_server_that_is_no_redis_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = await asyncio.start_server(_talk_nonsense, sock=listening)
        link = RedisLink(settings_of(listening.getsockname()[1]), "s", Registry(), 0.25)
        await link.start()
        assert not await works(link)
        await link.close()
        server.close()


async def _talk_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()
