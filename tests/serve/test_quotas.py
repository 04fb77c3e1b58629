"""Token buckets: what one process admits alone, and what several admit together through a real Redis, whatever becomes of it."""

from __future__ import annotations

import asyncio
import math
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rta.config import QuotaSettings
from rta.errors import QuotaExceededError, TooLargeError
from rta.serve import quotas as quotas_module
from rta.serve.metrics import Registry
from rta.serve.quotas import LEASE_S, Quotas
from rta.serve.redis_link import RedisLink
from tests.serve.shared import linked, until
from tests.services.redis import RedisServer

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@asynccontextmanager
async def sharing(
    redis: RedisServer, quota: QuotaSettings, identity: str, count: int = 2
) -> AsyncIterator[list[Quotas]]:
    """The quotas of so many processes, each with connections of its own."""
    made: list[tuple[RedisLink, Quotas]] = []
    for _ in range(count):
        link = await linked(redis, identity)
        made.append((link, Quotas(quota, Registry(), link)))
    try:
        yield [quotas for _, quotas in made]
    finally:
        for link, quotas in made:
            await quotas.close()
            await link.close()


async def admitted(quotas: Quotas, source: str, events: int) -> bool:
    try:
        await quotas.admit(source, events)
    except QuotaExceededError:
        return False
    return True


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


QUOTA = QuotaSettings(events_per_second=10, burst=50)


async def test_a_burst_is_admitted_then_the_rate_and_the_wait_is_told() -> None:
    clock = Clock()
    quotas = Quotas(QUOTA, Registry(), clock_s=clock)
    await quotas.admit("a", 50)
    with pytest.raises(QuotaExceededError) as refused:
        await quotas.admit("a", 15)
    assert (refused.value.status, refused.value.retry_after_s) == (429, 2)
    assert "'a'" in refused.value.message
    assert "10 events/s" in refused.value.message
    clock.now_s += 1.4
    assert not await admitted(quotas, "a", 15)
    assert await admitted(quotas, "a", 14)
    await quotas.admit("b", 50)


async def test_what_never_fits_is_told_apart_from_what_does_not_fit_now() -> None:
    quotas = Quotas(QUOTA, Registry(), clock_s=Clock())
    with pytest.raises(TooLargeError, match="50 at once"):
        await quotas.admit("a", 51)
    await quotas.admit("a", 50)
    await quotas.admit("a", 0)


async def test_what_did_not_reach_the_log_does_not_count() -> None:
    quotas = Quotas(QUOTA, Registry(), clock_s=Clock())
    await quotas.admit("a", 50)
    quotas.give_back("a", 50)
    await quotas.admit("a", 50)
    quotas.give_back("a", 500)
    await quotas.admit("a", 50)
    assert not await admitted(quotas, "a", 1)


async def test_what_was_let_in_without_redis_is_not_given_back_to_it() -> None:
    redis = RedisServer()
    try:
        async with sharing(redis, QuotaSettings(events_per_second=0.001, burst=50), "alone") as (one, other):
            redis.kill()
            await until(lambda: not reachable(one), "Redis is missed")
            await one.admit("a", 50)
            redis.start()
            await until(lambda: reachable(one) and reachable(other), "Redis is found again")
            one.give_back("a", 50)
            await other.admit("a", 50)
            await until(lambda: one._returning is None or one._returning.done(), "what is to be given back was")
            assert not await admitted(other, "a", 50)
    finally:
        redis.close()


def reachable(quotas: Quotas) -> bool:
    return quotas._link is not None and quotas._link.reachable


async def test_the_sources_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "SOURCES_MAX", 10)
    quotas = Quotas(QUOTA, Registry(), clock_s=Clock())
    for number in range(100):
        await quotas.admit(f"source {number}", 50)
    assert len(quotas._sources) == 10
    assert not await admitted(quotas, "source 99", 1)
    assert await admitted(quotas, "source 0", 1)


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 60)), max_size=60), st.floats(0.5, 100), st.integers(1, 60))
def test_no_window_holds_more_than_a_burst_and_its_share_of_the_rate(
    asks: list[tuple[float, int]], rate: float, burst: int
) -> None:
    async def scenario() -> None:
        clock = Clock()
        quotas = Quotas(QuotaSettings(events_per_second=rate, burst=burst), Registry(), clock_s=clock)
        taken: list[tuple[float, int]] = []
        waits: list[int] = []
        never: list[int] = []
        for pause_s, events in asks:
            clock.now_s += pause_s
            try:
                await quotas.admit("a", events)
                taken.append((clock.now_s, events))
            except QuotaExceededError as error:
                waits.append(error.retry_after_s or 0)
            except TooLargeError:
                never.append(events)
        assert all(1 <= wait <= math.ceil(burst / rate) for wait in waits)
        assert all(events > burst for events in never)
        for first, (start, _) in enumerate(taken):
            total = 0
            for moment, events in taken[first:]:
                total += events
                assert total <= burst + (moment - start) * rate + 1e-3

    asyncio.run(scenario())


async def test_processes_admit_together_no_more_than_one_quota(redis: RedisServer) -> None:
    quota = QuotaSettings(events_per_second=2_000, burst=1_000)
    command = [sys.executable, "-m", "tests.serve.quota_process", str(redis.port), "2000", "1000"]
    processes = [await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, cwd=ROOT) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    said = [out.split() for out, _ in await asyncio.gather(*(process.communicate(b"go\n") for process in processes))]
    taken = [int(events) for events, _, _ in said]
    began, ended = min(float(b) for _, b, _ in said), max(float(e) for _, _, e in said)
    most = quota.burst + (ended - began) * quota.events_per_second
    assert sum(taken) <= most
    assert sum(taken) >= 0.6 * most
    assert all(taken)


async def test_a_busy_source_costs_few_calls(redis: RedisServer) -> None:
    registry = Registry()
    link = await linked(redis, "busy", registry)
    quotas = Quotas(QuotaSettings(events_per_second=1e6, burst=10**7), Registry(), link)
    loop = asyncio.get_running_loop()
    end, requests = loop.time() + 1.0, 0
    while loop.time() < end:
        await quotas.admit("a", 100)
        requests += 1
        await asyncio.sleep(0.001)
    calls = next(f for f in registry.families() if f.name == "rta_redis_calls_total").series
    assert requests > 100
    assert sum(s.value for s in calls) < requests / 3
    await quotas.close()
    await link.close()


async def test_tokens_that_one_process_does_not_use_come_back_to_the_others(redis: RedisServer) -> None:
    quota = QuotaSettings(events_per_second=1, burst=1_600)
    async with sharing(redis, quota, "returned") as (one, other):
        for _ in range(8):
            await one.admit("a", 100)
        held = one._sources["a"].leased
        assert 0 <= held <= 100
        await until(lambda: not one._lent, "leases are given back")
        assert await admitted(other, "a", 800)
        assert not await admitted(one, "a", 100)


async def test_the_quota_of_one_store_is_not_that_of_another(redis: RedisServer) -> None:
    async with sharing(redis, QUOTA, "store-1", 1) as (one,), sharing(redis, QUOTA, "store-2", 1) as (other,):
        assert await admitted(one, "a", 50)
        assert not await admitted(one, "a", 50)
        assert await admitted(other, "a", 50)


async def test_sources_are_not_readable_in_redis(redis: RedisServer) -> None:
    async with sharing(redis, QUOTA, "hidden", 1) as (one,):
        await one.admit("203.0.113.9", 1)
        keys = redis.keys("rta:hidden:*")
        assert len(keys) == 1
        assert "203.0.113.9" not in keys[0]


@pytest.mark.parametrize(
    "spoil",
    [
        ("SET", "{key}", "something else"),
        ("HSET", "{key}", "tokens", "many", "at", "nan"),
        ("HSET", "{key}", "tokens", "nan", "at", "1"),
        ("HSET", "{key}", "tokens", "1e300", "at", "99999999999999999"),
        ("LPUSH", "{key}", "1"),
    ],
)
async def test_what_is_no_bucket_is_a_full_one(redis: RedisServer, spoil: tuple[str, ...]) -> None:
    identity = "-".join(spoil).replace("{key}", "spoiled")
    async with sharing(redis, QUOTA, identity, 1) as (one,):
        await one.admit("a", 30)
        (key,) = redis.keys(one._link.key("quota", "*") if one._link else "")
        redis.command("DEL", key)
        redis.command(*(word.format(key=key) for word in spoil))
        await asyncio.sleep(2 * LEASE_S)
        assert await admitted(one, "a", 50)
        assert not await admitted(one, "a", 50)
        assert await asyncio.to_thread(redis.command, "TYPE", key) == b"+hash\r\n"


async def test_without_redis_each_process_goes_by_its_own_bucket_and_back() -> None:
    redis = RedisServer()
    try:
        quota = QuotaSettings(events_per_second=5, burst=100)
        async with sharing(redis, quota, "fault") as (one, other):
            assert await admitted(one, "a", 60)
            redis.kill()
            assert await admitted(one, "a", 30)
            assert not await admitted(one, "a", 60)
            assert await admitted(other, "a", 90)
            redis.start()
            await until(lambda: all(q._link is not None and q._link.reachable for q in (one, other)), "Redis is back")
            assert await admitted(one, "b", 60)
            assert not await admitted(other, "b", 60)
    finally:
        redis.close()


async def test_a_frozen_redis_holds_nobody_up() -> None:
    redis = RedisServer()
    try:
        quota = QuotaSettings(events_per_second=1_000_000, burst=2_000_000)
        async with sharing(redis, quota, "frozen", 1) as (one,):
            loop = asyncio.get_running_loop()
            await one.admit("a", 1)
            redis.freeze()
            began = loop.time()
            await asyncio.gather(*(one.admit(f"source {n}", 1) for n in range(200)))
            assert loop.time() - began < 1.0
            began = loop.time()
            for n in range(200):
                await one.admit(f"source {n}", 1)
            assert loop.time() - began < 0.3
            redis.thaw()
            assert one._link is not None
            link = one._link
            await until(lambda: link.reachable, "Redis is back")
    finally:
        redis.close()
