"""The generator at work: when events happen, how fast they leave, and where they go.

Owns pacing and the two ways out, a file or an rta. A plan without a range makes events of now, at its rate; one with a
range makes events of that time, as fast as they are taken. The shop itself is `rta.generate.shop`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np

from rta.client import Client, Receipt
from rta.generate.shop import Ints, Shop, busyness

BATCH_EVENTS = 2_000
BATCHES_PER_S = 4
IN_FLIGHT = 4
SESSION_PAUSE_S = 20
"""Between two events of one session, at the plan's rate."""
SESSIONS_MIN = 2 * BATCH_EVENTS
SESSIONS_MAX = 65_536
LATE_SHARE = 0.01
LATE_S_MEAN = 4.0
LATE_S_MAX = 30.0
"""Phones that were out of reach for a moment."""
CATCH_UP_S = 10.0
"""What was not made during a longer outage is left out."""
CURVE_STEP_MS = 60_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to generate.

    Args:
        rate: Events per second; 0 means as fast as they are taken.
        seconds: For how long; None means until stopped.
        events: How many at most.
        seed: Same seed, same shop.
        range_ms: Event times [from, to) to fill, `rate` being the mean over it; None means now.
    """

    rate: float
    seconds: float | None = None
    events: int | None = None
    seed: int = 0
    range_ms: tuple[int, int] | None = None


@dataclass(slots=True)
class Counts:
    """So far. `made` events were handed over, `acknowledged` are durable, `refused` were turned down."""

    made: int = 0
    acknowledged: int = 0
    refused: int = 0
    position: str | None = None


class Sink(Protocol):
    def put(self, events: int, body: bytes) -> None:
        """Take events; waits while too many are on their way."""
        ...

    def finish(self) -> None:
        """Wait until all are there."""
        ...


Report = Callable[[Counts], None]


def generate(plan: Plan, sink: Sink, counts: Counts, report: Report, stop: threading.Event) -> None:
    """Make events until the plan is done or `stop` is set; `report` is called after each batch."""
    sessions = int(min(SESSIONS_MAX, max(SESSIONS_MIN, plan.rate * SESSION_PAUSE_S))) if plan.rate else SESSIONS_MAX
    shop = Shop(plan.seed, uuid.uuid4().hex[:12], sessions)
    batches = _now(plan, stop) if plan.range_ms is None else _range(plan, plan.range_ms)
    for times_ms in batches:
        if plan.events is not None:
            times_ms = times_ms[: plan.events - counts.made]
        if stop.is_set() or len(times_ms) == 0:
            break
        sink.put(len(times_ms), shop.events(times_ms))
        counts.made += len(times_ms)
        report(counts)
    if not stop.is_set():
        sink.finish()
    report(counts)


def _now(plan: Plan, stop: threading.Event) -> Iterator[Ints]:
    """Event times of now, a batch whenever it is due."""
    rng = np.random.default_rng(plan.seed)
    batch = BATCH_EVENTS if plan.rate == 0 else int(min(BATCH_EVENTS, max(1, plan.rate / BATCHES_PER_S)))
    begun_s = due_s = time.monotonic()
    while plan.seconds is None or due_s - begun_s < plan.seconds:
        yield _late(rng, np.full(batch, time.time_ns() // 1_000_000, dtype=np.int64))
        now_s = time.monotonic()
        due_s = max(due_s + batch / plan.rate, now_s - CATCH_UP_S) if plan.rate else now_s
        if stop.wait(max(0.0, due_s - now_s)):
            return


def _late(rng: np.random.Generator, times_ms: Ints) -> Ints:
    is_late = rng.random(len(times_ms)) < LATE_SHARE
    lateness_s = np.minimum(rng.exponential(LATE_S_MEAN, len(times_ms)), LATE_S_MAX)
    return np.where(is_late, times_ms - (lateness_s * 1000).astype(np.int64), times_ms)


def _range(plan: Plan, range_ms: tuple[int, int]) -> Iterator[Ints]:
    """Event times spread over the range as the shop is busy, ascending."""
    start_ms, end_ms = range_ms
    total = round(plan.rate * (end_ms - start_ms) / 1000) if plan.rate else plan.events or 0
    steps = np.append(np.arange(start_ms, end_ms, CURVE_STEP_MS), end_ms)
    cumulated = np.concatenate(([0.0], np.cumsum(busyness(steps[:-1]) * np.diff(steps))))
    for first in range(0, total, BATCH_EVENTS):
        places = (np.arange(first, min(first + BATCH_EVENTS, total)) + 0.5) / total
        yield np.interp(places * cumulated[-1], cumulated, steps).astype(np.int64)


class FileSink:
    """Writes NDJSON."""

    def __init__(self, stream: BinaryIO, counts: Counts) -> None:
        self._stream = stream
        self._counts = counts

    def put(self, events: int, body: bytes) -> None:
        self._stream.write(body)
        self._counts.acknowledged += events

    def finish(self) -> None:
        self._stream.flush()


class ServerSink:
    """Sends to an rta, several requests at a time; what is not acknowledged goes again, as it was, until it is."""

    def __init__(self, client: Client, datasource: str, counts: Counts) -> None:
        self._client = client
        self._datasource = datasource
        self._counts = counts
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="generate")
        self._waiting: deque[Future[Receipt]] = deque()

    def put(self, events: int, body: bytes) -> None:
        while self._waiting and (len(self._waiting) == IN_FLIGHT or self._waiting[0].done()):
            self._settle()
        self._waiting.append(self._pool.submit(self._client.send, body, self._datasource))

    def finish(self) -> None:
        while self._waiting:
            self._settle()

    def close(self) -> None:
        """Requests that wait for a server that is away are given up."""
        self._client.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _settle(self) -> None:
        receipt = self._waiting.popleft().result()
        self._counts.acknowledged += receipt.successful
        self._counts.refused += receipt.failed
        self._counts.position = receipt.position or self._counts.position
