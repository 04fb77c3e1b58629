"""The pool of scan workers: where questions run that read raw events, in whatever language they are asked.

Owns the processes: started when first needed, kept warm, killed when a question's time is over, when its client is gone
or when it takes too much memory, and replaced. What a worker does is `rta.serve.scan_worker`'s. polars can't be stopped
or bounded from inside, therefore processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import rta
from rta.errors import OutOfMemoryError, RtaError, TimeLimitError, UnavailableError
from rta.serve.scan_protocol import LENGTH, NARROWER, Result, Task

WAITING_MAX = 256
QUICK_CELLS_MAX = 30_000_000
"""Values; 0.3-0.6 s of CPU time."""
SLOW_NICENESS = 10
"""A scan of months takes every core that nobody else wants, and a tenth of one that somebody does."""
START_S = 30.0
STDERR_BYTES_MAX = 4_096
THREAD_VARIABLES = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "ARROW_NUM_THREADS")


class _Lane:
    """Workers of one kind, so that who reads little never waits for who reads much."""

    def __init__(self, workers: int, niceness: int) -> None:
        self.slots = asyncio.Semaphore(workers)
        self.niceness = niceness
        self.idle: list[_Worker] = []


class ScanPool:
    """Worker processes for scans of raw events. Belongs to one event loop.

    Args:
        memory_bytes: What a question may use beyond what an idle worker has.
        workers: Processes at most for questions that read little; each runs one at a time. One more is for the others.
        threads: Threads of each; by default as many as there are cores.
    """

    def __init__(self, memory_bytes: int, workers: int = 1, threads: int | None = None) -> None:
        self._memory_bytes = memory_bytes
        self._threads = threads or os.cpu_count() or 2
        self._workers: set[_Worker] = set()
        self._quick = _Lane(workers, 0)
        self._slow = _Lane(1, SLOW_NICENESS)
        self._waiting = 0
        self._closed = False

    async def run(self, task: Task[Result]) -> Result:
        """What the task comes to in a worker.

        Raises:
            TimeLimitError: the time is over; the worker was killed.
            OutOfMemoryError: the question needed more than `memory_bytes`.
            CorruptFileError: a file can't be read; it is named.
            UnavailableError: too many questions wait, or a worker died of something else.
            RtaError: whatever else the task says.
        """
        payload = pickle.dumps(task)
        limit_s = task.time_limit_s
        try:
            lane = self._slow if task.cells > QUICK_CELLS_MAX else self._quick
            async with asyncio.timeout(limit_s), self._worker(lane) as worker:
                found: Result = await worker.ask(payload)
                return found
        except TimeoutError as error:
            raise TimeLimitError(f"the query took longer than {limit_s:.1f} s reading raw events", NARROWER) from error

    @property
    def pids(self) -> list[int]:
        """Processes that are alive, busy or not."""
        return sorted(w.pid for w in self._workers if w.alive)

    async def warm_up(self) -> None:
        """Start a worker, so that the first question does not wait for it (about a second)."""
        async with self._worker(self._quick):
            pass

    async def close(self) -> None:
        """End all workers, the busy ones too."""
        self._closed = True
        self._quick.idle, self._slow.idle = [], []
        for worker in list(self._workers):
            await worker.kill()

    @asynccontextmanager
    async def _worker(self, lane: _Lane) -> AsyncIterator[_Worker]:
        """A worker of one's own; it is killed if anything but an answer or a named error comes out of it."""
        if self._closed:
            raise UnavailableError("the server is stopping")
        if self._waiting >= WAITING_MAX:
            raise UnavailableError(f"{self._waiting} queries wait for a scan of raw events", "try again later")
        self._waiting += 1
        try:
            await lane.slots.acquire()
        finally:
            self._waiting -= 1
        try:
            worker = await self._take(lane)
            async with worker.killed_on_failure():
                yield worker
            if self._closed or not worker.alive:
                await worker.kill()
            else:
                lane.idle.append(worker)
        finally:
            lane.slots.release()

    async def _take(self, lane: _Lane) -> _Worker:
        """One that waits, else a new one; those that died meanwhile are forgotten."""
        while lane.idle:
            worker = lane.idle.pop()
            if worker.alive:
                return worker
            self._workers.discard(worker)
        worker = await _Worker.start(self._memory_bytes, self._threads, lane.niceness)
        self._workers = {w for w in self._workers if w.alive} | {worker}
        return worker


class _Worker:
    """One process and what it said on standard error."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._said = b""
        self._listening = asyncio.create_task(self._listen())

    @staticmethod
    async def start(memory_bytes: int, threads: int, niceness: int) -> _Worker:
        environment = dict(os.environ)
        environment.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        # Arrow's own allocator reserves 1 GiB of address space at its first use, which is what a question may have.
        environment["ARROW_DEFAULT_MEMORY_POOL"] = "system"
        root = str(Path(next(iter(rta.__path__))).parent)
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, environment.get("PYTHONPATH")) if p)
        command = (sys.executable, "-m", "rta.serve.scan_worker", str(memory_bytes), str(niceness))
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment, start_new_session=True
        )
        worker = _Worker(process)
        async with worker.killed_on_failure(), asyncio.timeout(START_S):
            await worker.read()
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, payload: bytes) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(LENGTH.pack(len(payload)) + payload)
            await self._process.stdin.drain()
            result = pickle.loads(await self.read())
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise await self._death() from error
        if isinstance(result, RtaError):
            if result.status >= 500 or isinstance(result, OutOfMemoryError):
                # Something went wrong inside: what is left of it, memory above all, goes with the process.
                await self.kill()
            raise result
        return result

    async def read(self) -> bytes:
        assert self._process.stdout is not None
        head = await self._process.stdout.readexactly(LENGTH.size)
        return await self._process.stdout.readexactly(LENGTH.unpack(head)[0])

    @asynccontextmanager
    async def killed_on_failure(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException as error:
            if not isinstance(error, RtaError) or not self.alive:
                await asyncio.shield(self.kill())
            raise

    async def kill(self) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _death(self) -> RtaError:
        code = await self._process.wait()
        await asyncio.gather(self._listening, return_exceptions=True)
        said = self._said.decode(errors="replace").strip()
        if code in (-signal.SIGKILL, -signal.SIGABRT) or "memory" in said.lower():
            return OutOfMemoryError("the query needs more memory than it may have", NARROWER)
        return UnavailableError(f"the scan of raw events ended with code {code}: {said[-300:] or 'no message'}")

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(STDERR_BYTES_MAX):
            self._said = (self._said + data)[-STDERR_BYTES_MAX:]
