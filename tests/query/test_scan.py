"""Scans of raw events in processes of their own: answers, limits that really end them, and what is said then."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rta.errors import CorruptFileError, OutOfMemoryError, RtaError, TimeLimitError, UnavailableError
from rta.query.planner import Plan
from rta.serve.scan import SLOW_NICENESS, ScanPool
from rta.serve.scan_task import Finished, ScanTask, rows_stream
from rta.store.layout import table_file
from rta.store.model import FileRef
from tests.query import wikipedia
from tests.query.world import World, build_world

GIB = 1 << 30
BY_USER: dict[str, Any] = {
    "metrics": [{"type": "count", "name": "n"}],
    "group_by": ["user"],
    "order_by": "-n",
    "limit": 3,
}
SLOW: dict[str, Any] = {
    "metrics": [{"type": "count"}],
    "where": {"field": "comment", "op": "regex", "value": "(a|b|c)+.*(x|y)+.*z$"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("store"))


def run(scenario: Callable[[ScanPool], Awaitable[None]], memory_bytes: int = GIB) -> None:
    async def whole() -> None:
        pool = ScanPool(memory_bytes, threads=1)
        try:
            await scenario(pool)
        finally:
            await pool.close()
            assert pool.pids == []

    asyncio.run(whole())


async def scan(
    pool: ScanPool, world: World, document: dict[str, Any], copies: int = 1, time_limit_s: float = 60
) -> Finished:
    plan: Plan = wikipedia.planned(document)
    files = [f for _ in range(copies) for f in world.view.by_table["events"]]
    hot = rows_stream(world.view.hot)
    return await pool.run(ScanTask(plan, world.store, tuple(files), hot, False, time_limit_s))


async def until(condition: Callable[[], bool], limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        await asyncio.sleep(0.005)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_files_and_rows_beyond_them_add_up_and_the_worker_stays(world: World) -> None:
    expected = wikipedia.oracle()["user"].value_counts(sort=True)["count"][:3].to_list()

    async def scenario(pool: ScanPool) -> None:
        first = await scan(pool, world, BY_USER)
        assert [r["n"] for r in json.loads(first.rows)] == expected
        worker = pool.pids
        pathed = {"metrics": [{"type": "sum", "field": "extra.price", "name": "s"}], "filters": {"odd": True}}
        found = await scan(pool, world, pathed)
        total = sum(i % 7 + 0.5 for i in range(39_244) if i % 2)
        assert json.loads(found.rows) == [{"s": total}]
        newest = await scan(pool, world, {"select": ["time"], "limit": 2})
        assert json.loads(newest.rows)[0] == {"time": "2015-09-12T23:59:59.200Z"}
        assert newest.next is not None
        assert pool.pids == worker

    run(scenario)


def test_a_scan_is_killed_when_its_time_is_over_and_the_next_is_answered(world: World) -> None:
    async def scenario(pool: ScanPool) -> None:
        await pool.warm_up()
        worker = pool.pids[0]
        begun = time.monotonic()
        with pytest.raises(TimeLimitError, match=r"longer than 0\.5 s") as caught:
            await scan(pool, world, SLOW, copies=400, time_limit_s=0.5)
        assert time.monotonic() - begun < 10
        assert "shorter time range" in caught.value.hint
        assert gone(worker)
        assert json.loads((await scan(pool, world, BY_USER)).rows)

    run(scenario)


def test_a_question_that_reads_little_does_not_wait_for_one_that_reads_much(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rta.serve.scan.QUICK_CELLS_MAX", 1_000_000)

    async def scenario(pool: ScanPool) -> None:
        await pool.warm_up()
        quick = pool.pids
        months = asyncio.create_task(scan(pool, world, SLOW, copies=400))
        await until(lambda: len(pool.pids) == 2 or months.done(), 60)
        assert json.loads((await scan(pool, world, BY_USER)).rows)
        assert not months.done()
        (slow,) = set(pool.pids) - set(quick)
        priority = os.getpriority(os.PRIO_PROCESS, quick[0])
        assert os.getpriority(os.PRIO_PROCESS, slow) == min(priority + SLOW_NICENESS, 19)
        months.cancel()
        await asyncio.gather(months, return_exceptions=True)
        assert gone(slow)
        assert pool.pids == quick

    run(scenario)


def test_a_scan_whose_client_is_gone_is_killed(world: World) -> None:
    async def scenario(pool: ScanPool) -> None:
        await pool.warm_up()
        worker = pool.pids[0]
        idle = cpu_s(worker)
        task = asyncio.create_task(scan(pool, world, SLOW, copies=400))
        await until(lambda: cpu_s(worker) > idle + 0.3 or task.done(), 60)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gone(worker)

    run(scenario)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_scan_that_needs_too_much_memory_ends_alone_and_says_so(world: World) -> None:
    async def scenario(pool: ScanPool) -> None:
        with pytest.raises(OutOfMemoryError) as caught:
            await scan(pool, world, {"select": ["*"], "order_by": "page", "limit": 100_000}, copies=20)
        assert "more memory" in caught.value.message
        assert "fewer groups" in caught.value.hint
        await until(lambda: pool.pids == [])

    run(scenario, memory_bytes=8 << 20)


def test_a_worker_that_dies_is_named_and_replaced(world: World) -> None:
    async def scenario(pool: ScanPool) -> None:
        await pool.warm_up()
        worker = pool.pids[0]
        idle_s = cpu_s(worker)
        task = asyncio.create_task(scan(pool, world, SLOW, copies=400))
        await until(lambda: cpu_s(worker) > idle_s + 0.3, 60)
        os.kill(worker, signal.SIGTERM)
        with pytest.raises(UnavailableError, match="ended with code -15"):
            await task
        assert json.loads((await scan(pool, world, BY_USER)).rows)
        idle = pool.pids[0]
        os.kill(idle, signal.SIGKILL)
        await until(lambda: pool.pids == [])
        assert json.loads((await scan(pool, world, BY_USER)).rows)

    run(scenario)


@pytest.mark.parametrize("damage", ["truncated", "garbled", "missing"])
def test_a_broken_file_is_named(tmp_path: Path, damage: str) -> None:
    broken = build_world(tmp_path, (20_000,))
    file: FileRef = broken.view.by_table["events"][0]
    path = Path(broken.store.uri(table_file(wikipedia.datasource().folder, "events", file.path)))
    data = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "garbled":
        path.write_bytes(data[:4] + bytes(len(data) - 300) + data[-296:])

    async def scenario(pool: ScanPool) -> None:
        documents: list[dict[str, Any]] = [BY_USER, {"select": ["*"], "limit": 5, "order_by": "page"}]
        for document in documents:
            with pytest.raises(CorruptFileError) as caught:
                await scan(pool, broken, document)
            assert file.path in caught.value.message
        sound: RtaError | None = None
        broken.view.by_table["events"] = []
        assert json.loads((await scan(pool, broken, BY_USER)).rows), sound

    run(scenario)
