"""What lies in Redis is believed only if it is whole, ours, and for this question; and nothing there can break an answer."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rta.serve import answers as answers_module
from rta.serve.answers import DIGEST_BYTES, FORM, VALUE_BYTES_MAX, Answers, pack, unpack
from rta.serve.metrics import Registry
from rta.serve.scan_task import Finished
from tests.serve.shared import linked, until
from tests.services.redis import RedisServer

pytestmark = pytest.mark.anyio
ANSWER = Finished(b'[{"n":1}]', {"u": {"relative_error": 0.016}}, True, "cursor", 1)
OTHER = Finished(b'[{"n":2}]', {}, False, None, 1)
KEY = b"a key"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@given(st.binary(), st.binary(), st.booleans(), st.none() | st.text())
def test_an_answer_comes_back_as_it_was(key: bytes, rows: bytes, more: bool, following: str | None) -> None:
    answer = Finished(rows, {"m": {"rank_error": 0.01}}, more, following, 3)
    assert unpack(key, pack(key, answer)) == answer
    assert unpack(key + b"x", pack(key, answer)) is None


@given(st.data())
def test_a_changed_byte_or_a_missing_end_is_noticed(data: st.DataObject) -> None:
    whole = pack(KEY, ANSWER)
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    assert unpack(KEY, bytes(changed)) is None
    assert unpack(KEY, whole[:place]) is None
    assert unpack(KEY, whole + b"x") is None


@given(st.binary(max_size=200))
def test_foreign_values_are_no_answers(value: bytes) -> None:
    assert unpack(KEY, value) is None
    assert unpack(KEY, FORM + value) is None


class Computing:
    """Counts how often it was asked."""

    def __init__(self, answer: Finished = ANSWER) -> None:
        self.answer = answer
        self.asked = 0

    async def __call__(self) -> Finished:
        self.asked += 1
        return self.answer


def lookups(registry: Registry) -> dict[str, float]:
    family = next(f for f in registry.families() if f.name == "rta_answer_cache_lookups_total")
    return {" ".join(series.labels): series.value for series in family.series}


async def put(redis: RedisServer, identity: str, key: bytes, answer: Finished) -> str:
    """As a replica does that computed it; the key in Redis."""
    link = await linked(redis, identity)
    answers = Answers(1 << 20, Registry())
    answers.share(link)
    await answers.find_or(key, True, Computing(answer))
    await until(lambda: not answers._puts, "the answer is in Redis")
    await link.close()
    (name,) = redis.keys(f"rta:{identity}:answer:*")
    return name


async def found(
    redis: RedisServer, identity: str, key: bytes, registry: Registry | None = None
) -> tuple[Finished, bool]:
    """What another replica gets, that would come to another answer."""
    link = await linked(redis, identity)
    answers = Answers(1 << 20, registry or Registry())
    answers.share(link)
    got = await answers.find_or(key, True, Computing(OTHER))
    await answers.close()
    await link.close()
    return got


async def test_one_replica_finds_what_another_has_computed(redis: RedisServer) -> None:
    registry = Registry()
    name = await put(redis, "one", KEY, ANSWER)
    assert await found(redis, "one", KEY, registry) == (ANSWER, True)
    assert lookups(registry) == {"redis hit": 1}
    assert await found(redis, "one", b"another key") == (OTHER, False)
    assert await found(redis, "two", KEY) == (OTHER, False)
    ttl = int((await asyncio.to_thread(redis.command, "TTL", name)).decode().strip(":\r\n"))
    assert 0 < ttl <= answers_module.KEPT_S


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        FORM,
        FORM + b"\0" * DIGEST_BYTES + b"\x85",
        pack(b"of another question", ANSWER),
        pack(KEY, ANSWER)[:-1],
        pack(KEY, ANSWER).replace(b"answer 1", b"answer 2"),
        struct.pack(">I", 7) * (VALUE_BYTES_MAX // 2),
    ],
)
async def test_what_is_not_the_answer_is_computed_and_mended(redis: RedisServer, value: bytes) -> None:
    redis.command("FLUSHALL")
    name = await put(redis, "spoiled", KEY, ANSWER)
    redis.command("SET", name, value)
    assert await found(redis, "spoiled", KEY) == (OTHER, False)
    redis.command("SET", name, value)
    assert await put(redis, "spoiled", KEY, ANSWER) == name
    assert await found(redis, "spoiled", KEY) == (ANSWER, True)
    redis.command("DEL", name)
    redis.command("LPUSH", name, "of another type")
    assert await found(redis, "spoiled", KEY) == (OTHER, False)


async def test_large_answers_stay_at_home(redis: RedisServer) -> None:
    link = await linked(redis, "large")
    answers = Answers(64 << 20, Registry())
    answers.share(link)
    large = Finished(b"x" * (VALUE_BYTES_MAX + 1), {}, False, None, 1)
    assert await answers.find_or(KEY, True, Computing(large)) == (large, False)
    assert answers.known(KEY) is large
    assert redis.keys("rta:large:*") == []
    await answers.close()
    await link.close()


async def test_what_is_not_worth_it_is_neither_asked_for_nor_put(redis: RedisServer) -> None:
    registry = Registry()
    link = await linked(redis, "unshared", registry)
    answers = Answers(1 << 20, registry)
    answers.share(link)
    assert await answers.find_or(KEY, False, Computing()) == (ANSWER, False)
    assert lookups(registry) == {}
    assert redis.keys("rta:unshared:*") == []
    await link.close()


async def test_without_redis_answers_are_computed() -> None:
    redis = RedisServer()
    try:
        registry = Registry()
        link = await linked(redis, "away", registry)
        answers = Answers(1 << 20, registry)
        answers.share(link)
        redis.freeze()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for n in range(100):
            assert await answers.find_or(b"%d" % n, True, Computing()) == (ANSWER, False)
        assert loop.time() - began < 2.0
        redis.kill()
        assert await answers.find_or(b"killed", True, Computing()) == (ANSWER, False)
        redis.start()
        await until(lambda: link.reachable, "Redis is found again")
        assert await answers.find_or(b"back", True, Computing()) == (ANSWER, False)
        await until(lambda: redis.keys("rta:away:*") != [], "answers are shared again")
        await answers.close()
        await link.close()
    finally:
        redis.close()
