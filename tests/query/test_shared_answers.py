"""Two query replicas over one store and one Redis: an answer is computed once, and never an old one is given."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rta.config import Settings
from rta.serve.redis_link import RedisLink
from tests.query.test_service import COUNT, OLD, Asker
from tests.query.world import FixedView, World, build_world
from tests.serve.shared import linked, until
from tests.services.redis import RedisServer

RAW_OLD: dict[str, Any] = {**OLD, "group_by": ["user"], "order_by": "-n", "limit": 3}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


class Replicas:
    """Askers over one world. `views` are what each sees; by default the same."""

    def __init__(self, world: World, links: list[RedisLink], runs: Sequence[str]) -> None:
        settings = Settings.model_validate({"limits": {"query_time": "120s"}})
        self.askers = [Asker(World(world.store, world.view), settings, run) for run in runs]
        for asker, link in zip(self.askers, links, strict=True):
            asker.service.answers.share(link)

    async def settled(self) -> None:
        """What was computed has been put into Redis."""
        await until(lambda: not any(a.service.answers._puts for a in self.askers), "answers are in Redis")

    async def close(self) -> None:
        for asker in self.askers:
            await asker.service.close()
            await asker.scans.close()


def run(
    folder: Path,
    redis: RedisServer,
    scenario: Callable[[Replicas], Awaitable[None]],
    runs: Sequence[str] = ("one", "one"),
) -> None:
    async def whole() -> None:
        links = [await linked(redis, "store") for _ in range(2)]
        replicas = Replicas(build_world(folder), links, runs)
        try:
            await scenario(replicas)
        finally:
            await replicas.close()
            for link in links:
                await link.close()

    asyncio.run(whole())


def rows(body: bytes) -> Any:
    return json.loads(body)["rows"]


@pytest.mark.parametrize("question", [OLD, RAW_OLD], ids=["rollup", "raw"])
@pytest.mark.parametrize("arrow", [False, True], ids=["json", "arrow"])
def test_two_replicas_share_an_answer(
    tmp_path: Path, redis: RedisServer, question: dict[str, Any], arrow: bool
) -> None:
    async def scenario(replicas: Replicas) -> None:
        one, other = replicas.askers
        first = await one(question, arrow=arrow)
        assert first.meta["cached"] is False
        await replicas.settled()
        second = await other(question, arrow=arrow)
        assert second.meta["cached"] is True
        assert second.etag == first.etag
        assert other.cache.misses == 0
        if arrow:
            assert second.body == first.body
        else:
            assert rows(second.body) == rows(first.body)
        assert (await other(question, arrow=not arrow)).meta["cached"] is False

    run(tmp_path, redis, scenario)


def test_a_replica_that_sees_more_does_not_take_the_older_answer(tmp_path: Path, redis: RedisServer) -> None:
    async def scenario(replicas: Replicas) -> None:
        one, other = replicas.askers
        question = {**COUNT, "group_by": ["user"], "order_by": "-n", "limit": 3}
        other.world.view = dataclasses.replace(other.world.view, hot=other.world.view.hot.slice(0, 10), position=2)
        first = rows((await one(question)).body)
        await replicas.settled()
        second = await other(question)
        assert second.meta["cached"] is False
        assert rows(second.body) != first
        await replicas.settled()
        other.world.view = one.world.view
        third = await other(question)
        assert third.meta["cached"] is True
        assert rows(third.body) == first

    run(tmp_path, redis, scenario)


def test_another_version_of_the_definition_is_another_question(tmp_path: Path, redis: RedisServer) -> None:
    async def scenario(replicas: Replicas) -> None:
        one, other = replicas.askers
        await one(OLD)
        await replicas.settled()
        view: FixedView = other.world.view
        changed = msgspec.structs.replace(view.datasource, version=view.datasource.version + 1)
        other.world.view = dataclasses.replace(view, datasource=changed)
        assert (await other(OLD)).meta["cached"] is False

    run(tmp_path, redis, scenario)


def test_another_run_of_the_system_does_not_take_the_answer(tmp_path: Path, redis: RedisServer) -> None:
    """Its store may have been put back from a backup: then names of files come again, with other rows in them."""

    async def scenario(replicas: Replicas) -> None:
        one, other = replicas.askers
        first = await one(OLD)
        await replicas.settled()
        second = await other(OLD, etag=first.etag)
        assert (second.status, second.meta["cached"]) == (200, False)
        assert second.etag != first.etag

    run(tmp_path, redis, scenario, ("before", "after"))


def test_equal_questions_look_into_redis_once(tmp_path: Path, redis: RedisServer) -> None:
    async def scenario(replicas: Replicas) -> None:
        one, other = replicas.askers
        await one(OLD)
        await replicas.settled()
        replies = await asyncio.gather(*(other(OLD) for _ in range(20)))
        assert all(reply.meta["cached"] for reply in replies)
        looks = next(f for f in other.service.registry.families() if f.name == "rta_answer_cache_lookups_total")
        assert {s.labels: s.value for s in looks.series}["redis", "hit"] == 1

    run(tmp_path, redis, scenario)


def test_questions_go_on_while_redis_is_frozen_killed_and_back(tmp_path: Path, redis: RedisServer) -> None:
    async def scenario(replicas: Replicas) -> None:
        one, other = replicas.askers
        expected = rows((await one(OLD)).body)
        await replicas.settled()
        redis.freeze()
        tasks = [asyncio.create_task(other({**OLD, "limit": 1_000 + n})) for n in range(30)]
        assert all(rows(reply.body) == expected for reply in await asyncio.gather(*tasks))
        redis.thaw()
        redis.kill()
        assert rows((await other({**OLD, "limit": 2_000})).body) == expected
        redis.start()
        link = other.service.answers._link
        assert link is not None
        await until(lambda: link.reachable, "Redis is found again")
        assert rows((await other(OLD)).body) == expected

    run(tmp_path, redis, scenario)
