"""The writing side of the embedded log for asyncio: `EmbeddedWriter`.

Owns one connection, made when it is needed and again after it broke, and the promise that every append is answered:
with its offsets, or with an error that says whether it may have taken effect. It coalesces nothing and retries nothing:
the server coalesces, and a retry is the caller's, who knows whether its records may be sent twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import crc32c
import msgspec

from rta.errors import InvariantError, RtaError, UnavailableError
from rta.log.base import Outgoing
from rta.log.embedded import wire
from rta.log.embedded.segments import header_encoder
from rta.log.embedded.settings import MIB

_JOINED_BYTES_MAX = 64 * 1024
"""Bodies up to this size are copied next to their control part, to leave in one write with other small ones."""
_WATCH_STEP_S = 1.0


class _Pending(NamedTuple):
    future: asyncio.Future[dict[int, int]]
    size: int
    begun_s: float


class _ByteBudget:
    """Lets so many bytes be under way at once, first come first served; one that is larger goes alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def acquire(self, size: int) -> None:
        if not self._waiting and self._fits(size):
            self._used += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(size)
            raise

    def release(self, size: int) -> None:
        self._used -= size
        while self._waiting and (self._waiting[0][0].done() or self._fits(self._waiting[0][1])):
            turn, waiting = self._waiting.popleft()
            if not turn.done():
                self._used += waiting
                turn.set_result(None)

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._limit


class _Link(wire.FrameProtocol):
    """One connection and the appends that are under way on it."""

    def __init__(self, socket_path: Path, budget: _ByteBudget, timeout_s: float) -> None:
        super().__init__()
        self._path, self._budget, self._timeout_s = socket_path, budget, timeout_s
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, _Pending] = {}
        self._outbox: list[bytes] = []
        self._next_id = 0
        self._watch: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def send(self, topic: str, records: Sequence[Outgoing], size: int) -> asyncio.Future[dict[int, int]]:
        """Raises TooLargeError; then nothing was sent."""
        self._next_id += 1
        request = wire.Append(
            self._next_id,
            topic,
            [record.partition for record in records],
            [header_encoder.encode(record.header) for record in records],
            [crc32c.crc32c(record.payload) for record in records],
            [len(record.payload) for record in records],
        )
        self._write(wire.encode(request, size), [record.payload for record in records], size)
        future: asyncio.Future[dict[int, int]] = self._loop.create_future()
        self._pending[request.id] = _Pending(future, size, self._loop.time())
        if self._watch is None:
            self._watch = self._loop.call_later(_WATCH_STEP_S, self._look_at_oldest)
        return future

    def _write(self, front: bytes, payloads: Sequence[bytes], size: int) -> None:
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(front)
        if size <= _JOINED_BYTES_MAX:
            self._outbox.extend(payloads)
            return
        self._flush()
        if self.transport is not None:
            for payload in payloads:
                self.transport.write(payload)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if outbox and self.transport is not None:
            self.transport.write(b"".join(outbox))

    def frame_received(self, control: memoryview, body: memoryview) -> None:
        try:
            answer = wire.decode_answer(control)
        except msgspec.DecodeError as error:
            self._fail(InvariantError(f"the log server at '{self._path}' sent what is no answer: {error}"))
            return
        pending = self._pending.pop(answer.id, None)
        if pending is None:
            return
        self._budget.release(pending.size)
        if pending.future.done():
            return
        match answer:
            case wire.Appended():
                pending.future.set_result(answer.ends)
            case wire.Failed():
                pending.future.set_exception(wire.to_error(answer))
            case _:
                pending.future.set_exception(InvariantError(f"append was answered with '{type(answer).__name__}'"))

    def _look_at_oldest(self) -> None:
        """A server that is there and says nothing counts as lost; the oldest append is the first of the dict."""
        self._watch = None
        if not self._pending:
            return
        oldest = next(iter(self._pending.values()))
        if self._loop.time() - oldest.begun_s > self._timeout_s:
            self._fail(self._lost(f"did not answer within {self._timeout_s} s"))
        else:
            self._watch = self._loop.call_later(_WATCH_STEP_S, self._look_at_oldest)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._fail(self._lost("went away"))

    def _lost(self, what: str) -> UnavailableError:
        return UnavailableError(
            f"the log server at '{self._path}' {what}: whether the records were appended is unknown",
            hint="send them again; duplicates are dropped by their ids",
        )

    def _fail(self, error: RtaError) -> None:
        pending, self._pending = self._pending, {}
        for entry in pending.values():
            self._budget.release(entry.size)
            if not entry.future.done():
                entry.future.set_exception(error)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self.transport is not None:
            self.transport.abort()


class EmbeddedWriter:
    """A `LogWriter`. Belongs to one event loop; connects on the first append.

    Args:
        socket_path: The server's.
        in_flight_bytes_max: Payload bytes that may be under way; further appends wait their turn.
        timeout_s: A server that leaves an append unanswered for so long counts as lost.
    """

    def __init__(self, socket_path: Path, *, in_flight_bytes_max: int = 64 * MIB, timeout_s: float = 30.0) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s
        self._budget = _ByteBudget(in_flight_bytes_max)
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    async def append(self, topic: str, records: Sequence[Outgoing]) -> dict[int, int]:
        """See `LogWriter`. Raises also NotFoundError and TooLargeError: then nothing was appended."""
        if not records:
            return {}
        size = sum(len(record.payload) for record in records)
        await self._budget.acquire(size)
        try:
            link = self._link
            if link is None or not link.is_open:
                link = await self._connect()
            future = link.send(topic, records, size)
        except BaseException:
            self._budget.release(size)
            raise
        return await future

    async def _connect(self) -> _Link:
        async with self._connecting:
            if self._closed:
                raise UnavailableError("the log writer is closed", retry_after_s=None)
            if self._link is not None and self._link.is_open:
                return self._link
            try:
                _, link = await asyncio.get_running_loop().create_unix_connection(
                    lambda: _Link(self._path, self._budget, self._timeout_s), path=str(self._path)
                )
            except OSError as error:
                raise _unreachable(self._path, error) from error
            self._link = link
            return link

    async def close(self) -> None:
        """Appends that are still under way fail."""
        self._closed = True
        link, self._link = self._link, None
        if link is not None and link.transport is not None:
            link.transport.abort()
            await asyncio.sleep(0)


def _unreachable(path: Path, error: OSError) -> UnavailableError:
    """Nothing was sent, because nobody listens."""
    return UnavailableError(
        f"no log server answers at '{path}': {error.strerror or error}", hint="it may be starting; try again"
    )
