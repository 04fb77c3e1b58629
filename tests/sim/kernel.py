"""One thread at a time, in an order that a seed decides, under a clock that only the simulation moves.

The actors of rta are threads that wait for queues, events and times. Here they are the same code in real threads, of
which exactly one runs: whoever waits, or touches the log or the store, hands the baton to one that the seed picks. So
every interleaving of two such steps can happen, and the same seed gives the same one. A process is a group of threads;
one that is killed meets `HaltError` at its next step and does nothing any more; one that is paused is not picked.

`installed` puts these waits, queues and clocks in the place of `threading`, `queue`, `time` and `uuid` in the modules that
are simulated. It is test code: the modules themselves know nothing of it.
"""

from __future__ import annotations

import logging
import queue as real_queue
import random
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace, TracebackType
from typing import Any

from rta.actors import aggregator, commit_queue, committer, coordinator, housekeeper, ownership, shard, watch
from rta.serve import tables, views
from rta.store import compact, fill, jobs, versions
from rta.store.model import Part

THREADED: tuple[ModuleType, ...] = (
    aggregator,
    commit_queue,
    committer,
    coordinator,
    housekeeper,
    ownership,
    shard,
    views,
    watch,
)
START_MS = 1_767_225_600_000
IDLE_QUEUE = 10.0
"""A look into an empty queue that would come back without anything is drawn out so much: it saves steps."""
STEPS_MAX = 60_000
STACK_BYTES = 1 << 20


class HaltError(BaseException):
    """This process has been killed; nothing of it goes on."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.name)
        self.process = process


class ViolationError(AssertionError):
    """What the oracle says cannot be; the schedule has failed."""


class Process:
    """Threads that die together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False


class Task:
    """One thread. It may go on when `ready` says so (None: always), or when the clock reaches `deadline_ms`."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.baton = threading.Lock()
        self.baton.acquire()
        self.ready: Callable[[], bool] | None = None
        self.deadline_ms: float | None = None
        self.timed_out = False
        self.done = False


class Kernel:
    """All tasks of one schedule; the thread that makes it is the first."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_ms = float(START_MS)
        self.whim = 0.04
        self.steps = 0
        self.trace = 0
        self.violation: BaseException | None = None
        self.driver = Task("driver", Process("driver"))
        self.current = self.driver
        self.tasks: list[Task] = [self.driver]

    # -- for what is simulated -----------------------------------------------------------------------------------------

    def point(self, process: Process | None = None) -> None:
        """A step of `process` (by default the caller's) that others may come before."""
        self._switch()
        if process is not None and not process.alive:
            raise HaltError(process)

    def wait(self, ready: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Until `ready`; false when the time was over first."""
        task = self.current
        if timeout_s is not None and timeout_s <= 0:
            self._switch()
            return ready()
        task.ready, task.timed_out = ready, False
        task.deadline_ms = None if timeout_s is None else self.now_ms + timeout_s * 1000
        try:
            self._switch()
        finally:
            task.ready, task.deadline_ms = None, None
        return not task.timed_out or ready()

    def sleep(self, seconds: float) -> None:
        self.wait(lambda: False, seconds)

    def spawn(self, name: str, process: Process, run: Callable[[], Any]) -> Task:
        """A new thread of the process; it begins when it is picked."""
        task = Task(name, process)

        def body() -> None:
            task.baton.acquire()
            try:
                if process.alive:
                    run()
            except HaltError:
                pass
            except ViolationError as error:
                self.violation = self.violation or error
            except BaseException as error:  # noqa: BLE001 - whatever it is, the schedule has failed with it
                if process.alive:
                    self.violation = self.violation or error
            task.done = True
            self.tasks.remove(task)
            self._pass_on()

        self.tasks.append(task)
        threading.Thread(target=body, name=name, daemon=True).start()
        return task

    def kill(self, process: Process) -> None:
        """Its threads go on to their next step, and end there."""
        process.alive = False
        process.paused = False

    def end(self) -> None:
        """Kill everything and wait until it is gone. For the driver."""
        if len(self.tasks) > 1:
            for task in self.tasks[1:]:
                self.kill(task.process)
            self.wait(lambda: len(self.tasks) == 1)

    # -- who is next ---------------------------------------------------------------------------------------------------

    def _switch(self) -> None:
        task = self.current
        if not task.process.alive:
            raise HaltError(task.process)
        following = self._next()
        if following is not task:
            self.current = following
            following.baton.release()
            task.baton.acquire()
        if not task.process.alive:
            raise HaltError(task.process)
        if self.violation is not None and task is self.driver:
            raise self.violation

    def _pass_on(self) -> None:
        self.current = self._next()
        self.current.baton.release()

    def _next(self) -> Task:
        self.steps += 1
        self.now_ms += 1
        if self.violation is None and self.steps > STEPS_MAX:
            self.violation = ViolationError(f"no end after {STEPS_MAX} steps: {self._waiting()}")
        if self.violation is not None:
            return self._ending()
        ready = [
            t for t in self.tasks if not t.process.paused and (t.ready is None or t.ready() or not t.process.alive)
        ]
        if not ready or self.rng.random() < self.whim:
            chosen = self._timed(bool(ready))
            if chosen is not None:
                self._mark(chosen)
                return chosen
        if not ready:
            self.violation = ViolationError(f"nobody can go on: {self._waiting()}")
            return self._ending()
        chosen = ready[int(self.rng.random() * len(ready))] if len(ready) > 1 else ready[0]
        self._mark(chosen)
        return chosen

    def _mark(self, chosen: Task) -> None:
        self.trace = hash((self.trace, len(chosen.name), self.tasks.index(chosen), int(self.now_ms)))

    def _timed(self, whim: bool) -> Task | None:
        """One that waits for a time: the next one, or any of them on a whim, as if all else were slow."""
        timed = [(t.deadline_ms, i, t) for i, t in enumerate(self.tasks) if t.deadline_ms and not t.process.paused]
        if not timed:
            return None
        deadline_ms, _, task = self.rng.choice(timed) if whim else min(timed, key=lambda x: x[:2])
        self.now_ms = max(self.now_ms, deadline_ms or 0.0)
        task.timed_out = True
        return task

    def _ending(self) -> Task:
        """After a violation: one of those that have to go yet; the driver when all others are gone."""
        others = [task for task in self.tasks if task is not self.driver]
        for task in others:
            self.kill(task.process)
        return next((task for task in others if task is not self.current), (others or [self.driver])[0])

    def _waiting(self) -> str:
        return ", ".join(f"{t.process.name}/{t.name}" for t in self.tasks)


_KERNEL: Kernel | None = None


def kernel() -> Kernel:
    """The one of the schedule that runs."""
    assert _KERNEL is not None
    return _KERNEL


# -- in the place of threading, queue, time and uuid -------------------------------------------------------------------


class Event:
    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        if self._set:
            return True
        return kernel().wait(self.is_set, timeout)


class Lock:
    def __init__(self) -> None:
        self._owner: Task | None = None

    def __enter__(self) -> bool:
        if self._taken():
            kernel().wait(lambda: not self._taken())
        self._owner = kernel().current
        return True

    def _taken(self) -> bool:
        return self._owner is not None and not self._owner.done and self._owner.process.alive

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._owner = None


class Queue:
    def __init__(self, maxsize: int = 0) -> None:
        self._items: deque[Any] = deque()
        self._max = maxsize

    def __class_getitem__(cls, item: Any) -> type[Queue]:
        return cls

    def empty(self) -> bool:
        return not self._items

    def put(self, item: Any, timeout: float | None = None) -> None:
        if self._max and len(self._items) >= self._max and not kernel().wait(self._has_room, timeout):
            raise real_queue.Full
        self._items.append(item)

    def _has_room(self) -> bool:
        return len(self._items) < self._max

    def get(self, timeout: float | None = None) -> Any:
        if not self._items and not kernel().wait(lambda: bool(self._items), timeout and timeout * IDLE_QUEUE):
            raise real_queue.Empty
        return self._items.popleft()

    def get_nowait(self) -> Any:
        if not self._items:
            raise real_queue.Empty
        return self._items.popleft()


class Thread:
    """Belongs to the process of the task that makes it."""

    def __init__(self, target: Callable[..., Any], name: str = "", args: tuple[Any, ...] = (), daemon: bool = True):
        self.name = name
        self._run = lambda: target(*args)
        self._process = kernel().current.process
        self.task: Task | None = None

    def start(self) -> None:
        self.task = kernel().spawn(self.name, self._process, self._run)

    def is_alive(self) -> bool:
        return self.task is not None and not self.task.done

    def join(self, timeout: float | None = None) -> None:
        if self.is_alive():
            kernel().wait(lambda: not self.is_alive(), timeout)


class Ticket(committer._Ticket):
    """What an offered part waits with; made when the module was loaded, its event would be a real one."""

    def __init__(self, part: Part) -> None:
        super().__init__(part, Event())  # type: ignore[arg-type]  # it is waited for and set, no more


def _current_thread() -> Any:
    return kernel().current


def _monotonic() -> float:
    return kernel().now_ms / 1000


def _time_ns() -> int:
    return int(kernel().now_ms) * 1_000_000


def _uuid4() -> uuid.UUID:
    return uuid.UUID(int=kernel().rng.getrandbits(128), version=4)


_THREADING = SimpleNamespace(Event=Event, Lock=Lock, Thread=Thread, current_thread=_current_thread)
_QUEUE = SimpleNamespace(Queue=Queue, Empty=real_queue.Empty, Full=real_queue.Full)
_TIME = SimpleNamespace(monotonic=_monotonic, time_ns=_time_ns, perf_counter=_monotonic)
_UUID = SimpleNamespace(uuid4=_uuid4)


@contextmanager
def installed(sim: Kernel) -> Iterator[Kernel]:
    """The modules that are simulated wait and look at the clock by `sim` inside the block."""
    global _KERNEL
    wanted: list[tuple[ModuleType, str, Any]] = []
    for module in THREADED:
        wanted += [(module, "threading", _THREADING), (module, "queue", _QUEUE), (module, "time", _TIME)]
    wanted += [
        (committer, "_Ticket", Ticket),
        (compact, "time", _TIME),
        (compact, "uuid", _UUID),
        (fill, "time", _TIME),
        (fill, "uuid", _UUID),
        (versions, "time", _TIME),
        (tables, "time", _TIME),
        (jobs, "uuid", _UUID),
    ]
    there = [(module, name, value, vars(module)[name]) for module, name, value in wanted if name in vars(module)]
    size = threading.stack_size(STACK_BYTES)
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    _KERNEL = sim
    try:
        for module, name, value, _ in there:
            setattr(module, name, value)
        yield sim
    finally:
        for module, name, _, before in there:
            setattr(module, name, before)
        _KERNEL = None
        logging.disable(level)
        threading.stack_size(size)
