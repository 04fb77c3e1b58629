from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from rta.serve.coalesce import Coalescer, GatherLimits

pytestmark = pytest.mark.anyio


@dataclass
class Batches:
    """Remembers the batches; each waits for `gate` and answers its items doubled. A negative item fails alone."""

    seen: list[tuple[str, list[int]]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None

    async def process(self, key: str, items: list[int]) -> Sequence[int | Exception]:
        self.seen.append((key, items))
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return [ValueError(f"negative {item}") if item < 0 else 2 * item for item in items]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def submit(coalescer: Coalescer[int, int], *items: int, key: str = "k", size: int = 1) -> list[asyncio.Task[int]]:
    return [asyncio.ensure_future(coalescer.submit(key, item, size)) for item in items]


async def test_a_lone_item_is_processed_in_the_same_turn_of_the_loop() -> None:
    batches = Batches()
    tasks = submit(Coalescer(batches.process, GatherLimits(gather_ms=60_000)), 1)
    await settle()
    assert batches.seen == [("k", [1])]
    batches.gate.set()
    assert await tasks[0] == 2


async def test_items_of_one_turn_share_a_batch_and_get_their_own_results() -> None:
    batches = Batches()
    batches.gate.set()
    results = await asyncio.gather(*submit(Coalescer(batches.process), 5, 3, 9))
    assert batches.seen == [("k", [5, 3, 9])]
    assert results == [10, 6, 18]


async def test_while_a_batch_is_under_way_the_next_gathers_until_it_is_done() -> None:
    batches = Batches()
    coalescer = Coalescer(batches.process, GatherLimits(gather_ms=60_000))
    first = submit(coalescer, 1)
    await settle()
    later = submit(coalescer, 2)
    await settle()
    later += submit(coalescer, 3)
    await settle()
    assert batches.seen == [("k", [1])]
    batches.gate.set()
    assert await asyncio.gather(*first, *later) == [2, 4, 6]
    assert batches.seen == [("k", [1]), ("k", [2, 3])]


async def test_a_gathered_batch_starts_beside_the_first_after_the_gather_time() -> None:
    batches = Batches()
    coalescer = Coalescer(batches.process, GatherLimits(gather_ms=1, parallel=2))
    tasks = submit(coalescer, 1)
    await settle()
    tasks += submit(coalescer, 2)
    async with asyncio.timeout(10):
        while len(batches.seen) < 2:
            await asyncio.sleep(0.001)
    batches.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4]


async def test_a_gathered_batch_starts_beside_the_first_once_it_holds_enough_bytes() -> None:
    batches = Batches()
    coalescer = Coalescer(batches.process, GatherLimits(gather_ms=60_000, bytes_start=10, parallel=2))
    tasks = submit(coalescer, 1)
    await settle()
    tasks += submit(coalescer, 2, size=9)
    await settle()
    assert len(batches.seen) == 1
    tasks += submit(coalescer, 3)
    await settle()
    assert batches.seen[1:] == [("k", [2, 3])]
    tasks += submit(coalescer, 4, size=99)
    await settle()
    assert len(batches.seen) == 2
    batches.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]


async def test_no_batch_holds_much_more_than_its_bytes_however_much_waits() -> None:
    batches = Batches()
    coalescer = Coalescer(batches.process, GatherLimits(bytes_batch=4, parallel=1))
    tasks = submit(coalescer, *range(10))
    batches.gate.set()
    assert await asyncio.gather(*tasks) == [2 * i for i in range(10)]
    assert [len(items) for _, items in batches.seen] == [4, 4, 2]


async def test_keys_do_not_wait_for_each_other() -> None:
    batches = Batches()
    coalescer = Coalescer(batches.process, GatherLimits(gather_ms=60_000))
    tasks = submit(coalescer, 1, key="a") + submit(coalescer, 2, key="b")
    await settle()
    assert sorted(batches.seen) == [("a", [1]), ("b", [2])]
    batches.gate.set()
    await asyncio.gather(*tasks)


async def test_an_item_that_fails_alone_does_not_fail_the_others() -> None:
    batches = Batches()
    batches.gate.set()
    good, bad, other = submit(Coalescer(batches.process), 1, -1, 2)
    assert await good == 2
    with pytest.raises(ValueError, match="negative -1"):
        await bad
    assert await other == 4


async def test_a_batch_that_fails_fails_its_items_and_not_the_next_batch() -> None:
    batches = Batches(failure=OSError("gone"))
    coalescer = Coalescer(batches.process)
    tasks = submit(coalescer, 1, 2)
    batches.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["gone", "gone"]
    batches.failure = None
    assert await submit(coalescer, 4)[0] == 8


async def test_a_caller_that_leaves_before_its_batch_takes_its_item_with_it() -> None:
    batches = Batches()
    coalescer = Coalescer(batches.process, GatherLimits(parallel=1))
    tasks = submit(coalescer, 1)
    await settle()
    tasks += submit(coalescer, 2, 3)
    await settle()
    tasks[1].cancel()
    batches.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert batches.seen == [("k", [1]), ("k", [3])]
    assert [results[0], results[2]] == [2, 6]


async def test_a_caller_that_leaves_during_its_batch_does_not_disturb_the_others() -> None:
    batches = Batches()
    tasks = submit(Coalescer(batches.process), 1, 2)
    await settle()
    tasks[0].cancel()
    batches.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] == 4


async def test_close_waits_for_what_is_under_way_and_nothing_is_kept_for_an_idle_key() -> None:
    batches = Batches()
    coalescer = Coalescer(batches.process)
    tasks = submit(coalescer, 1)
    await settle()
    closing = asyncio.ensure_future(coalescer.close())
    await settle()
    assert not closing.done()
    batches.gate.set()
    await asyncio.wait_for(closing, 10)
    assert await tasks[0] == 2
    assert not coalescer._lanes
