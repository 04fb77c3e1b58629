"""The log's one writing process: a Unix socket in front of the committer.

Owns the socket, the connections, backpressure and the readers that wait for records. Its event loop never touches the
disk: the folder belongs to the thread of the committer. Whether it is hosted by an actor or by a process of its own is
no business of this module (`rta.log.embedded.__main__` is the latter).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rta.errors import BadRequestError, ConfigError, ConflictError, InvariantError, RtaError
from rta.log.embedded import wire
from rta.log.embedded.committer import AppendJob, CallJob, Committer, Outcome
from rta.log.embedded.folder import FolderLock, LogFolder, disk_free
from rta.log.embedded.settings import EmbeddedSettings
from rta.log.embedded.storage import Entry

_SOCKET_PATH_BYTES_MAX = 107
_LOCK_POLL_S = 0.05
_RATE_WINDOW_S = 10.0
_RATE_STEP_S = 1.0
_WAITS_PER_CONNECTION_MAX = 1024
_logger = logging.getLogger(__name__)


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True, eq=False)
class _Waiter:
    """A reader that waits for any of its partitions to grow beyond its offset."""

    connection: _Connection
    id: int
    topic: str
    offsets: dict[int, int]
    timer: asyncio.TimerHandle | None = None


class _Connection(wire.FrameProtocol):
    """One client. Answers of one turn of the loop leave in one write."""

    def __init__(self, server: LogServer) -> None:
        super().__init__()
        self._server = server
        self._outbox: list[bytes] = []
        self.waiters: set[_Waiter] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.disconnected(self)

    def frame_received(self, control: memoryview, body: memoryview) -> None:
        try:
            request = wire.decode_request(control)
        except msgspec.DecodeError as error:
            _logger.warning("a client of the log sent what is no request: %s", error)
            self.abort()
            return
        self._server.requested(self, request, body)

    def frame_refused(self, frame_bytes: int) -> None:
        _logger.warning("a client of the log announced a request of %d bytes and was cut off", frame_bytes)

    def answer(self, answer: wire.Answer) -> None:
        if not self._outbox:
            self._server.flush_soon(self)
        self._outbox.append(wire.encode(answer))

    def flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self.transport is not None:
            self.transport.write(b"".join(outbox))

    def pause_writing(self) -> None:
        """The client does not read its answers: take no more requests from it."""
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.transport is not None and not self._server.congested:
            self.transport.resume_reading()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class LogServer:
    """Serves one folder on one socket.

    Args:
        folder: Where the topics are; made if need be. Only one server may have it.
        socket_path: Where clients connect; at most 107 bytes long.
        settings: The limits.
        clock: Wall time in ms, for append times. It may step back; append times do not.
        free: Bytes free on the disk under a folder.
    """

    def __init__(
        self,
        folder: Path,
        socket_path: Path,
        settings: EmbeddedSettings | None = None,
        *,
        clock: Callable[[], int] = wall_clock_ms,
        free: Callable[[Path], int] = disk_free,
    ) -> None:
        self.folder = folder
        self.socket_path = socket_path
        self.congested = False
        self._settings = settings or EmbeddedSettings()
        self._clock, self._free = clock, free
        self._lock = FolderLock(folder)
        self._connections: set[_Connection] = set()
        self._unflushed: list[_Connection] = []
        self._waiters: dict[str, set[_Waiter]] = {}
        self._queued_bytes = 0
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=int(_RATE_WINDOW_S / _RATE_STEP_S) + 1)

    async def start(self) -> None:
        """Take the folder, read it, open the socket.

        Raises:
            ConflictError: another process has the folder (after `lock_wait_s`) or serves the socket.
            ConfigError: the socket's path is too long.
        """
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        _check_socket_path(self.socket_path)
        await self._take_lock()
        try:
            _remove_stale_socket(self.socket_path)
            self._log = await asyncio.to_thread(LogFolder, self.folder, self._settings, self._clock, self._free)
            self._committer = Committer(self._log, self._settings, self._deliver_soon, self._died)
            self._committer.start()
            try:
                await self._listen()
            except BaseException:
                self._committer.stop()
                raise
        except BaseException:
            self._lock.release()
            raise

    async def _listen(self) -> None:
        try:
            self.socket_path.parent.mkdir(parents=True, exist_ok=True)
            self._listener = await self._loop.create_unix_server(
                lambda: _Connection(self), path=str(self.socket_path), backlog=1024
            )
        except OSError as error:
            raise ConfigError(f"the log can't listen on '{self.socket_path}': {error}") from error
        self._begun_s = self._loop.time()
        self._sample()

    async def _take_lock(self) -> None:
        deadline = self._loop.time() + self._settings.lock_wait_s
        while True:
            try:
                self._lock.take()
            except ConflictError:
                if self._loop.time() >= deadline:
                    raise
                await asyncio.sleep(_LOCK_POLL_S)
            else:
                return

    async def serve_forever(self) -> None:
        """Return when closed. Raises InvariantError when the log can't go on; the process must then end."""
        await asyncio.shield(self._ended)

    async def close(self) -> None:
        """Answer what was received, leave the files whole, give the folder free."""
        self._listener.close()
        for connection in self._connections:
            if connection.transport is not None:
                connection.transport.pause_reading()
        await asyncio.to_thread(self._committer.stop)
        await asyncio.sleep(0)
        self._flush()
        for connection in list(self._connections):
            if connection.transport is not None:
                connection.transport.close()
        self._sampler.cancel()
        with contextlib.suppress(FileNotFoundError):
            self.socket_path.unlink()
        self._lock.release()
        if not self._ended.done():
            self._ended.set_result(None)

    def _died(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._end, InvariantError(f"the log in '{self.folder}' stopped: {error!r}"))

    def _end(self, error: RtaError) -> None:
        for connection in list(self._connections):
            connection.abort()
        if not self._ended.done():
            self._ended.set_exception(error)

    # Connections and requests.

    def connected(self, connection: _Connection) -> None:
        self._connections.add(connection)
        if self.congested and connection.transport is not None:
            connection.transport.pause_reading()

    def disconnected(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        for waiter in list(connection.waiters):
            self._forget(waiter)

    def requested(self, connection: _Connection, request: wire.Request, body: memoryview) -> None:
        match request:
            case wire.Append():
                self._append(connection, request, body)
            case wire.Wait():
                self._wait(connection, request)
            case wire.Stats():
                self._committer.submit(CallJob(connection, request.id, lambda log: self._stats(request, log), None))
            case wire.Create() | wire.Drop() | wire.Trim():
                job = CallJob(connection, request.id, lambda log: _administer(request, log), request.topic)
                self._committer.submit(job)
            case wire.Topics():
                job = CallJob(connection, request.id, lambda log: wire.Named(request.id, log.names()), None)
                self._committer.submit(job)

    def _append(self, connection: _Connection, request: wire.Append, body: memoryview) -> None:
        payloads = wire.slices(body, request.sizes)
        lengths = {len(request.partitions), len(request.headers), len(request.checksums), len(request.sizes)}
        if payloads is None or len(lengths) != 1:
            error = BadRequestError(f"an append to topic '{request.topic}' has lists that do not fit together")
            connection.answer(wire.failed(request.id, error))
            return
        entries = list(map(Entry, request.partitions, request.headers, request.checksums, payloads))
        size = len(body) + sum(map(len, request.headers))
        self._queued_bytes += size
        self._committer.submit(AppendJob(connection, request.id, request.topic, entries, size))
        if self._queued_bytes > self._settings.queue_bytes_max and not self.congested:
            self._set_congested(True)

    def _set_congested(self, congested: bool) -> None:
        self.congested = congested
        for connection in self._connections:
            if connection.transport is None or connection.transport.is_closing():
                continue
            if congested:
                connection.transport.pause_reading()
            else:
                connection.transport.resume_reading()

    # Waiting readers.

    def _wait(self, connection: _Connection, request: wire.Wait) -> None:
        waiter = _Waiter(connection, request.id, request.topic, request.offsets)
        if self._settle(waiter):
            return
        if request.timeout_ms <= 0 or len(connection.waiters) >= _WAITS_PER_CONNECTION_MAX:
            connection.answer(wire.Waited(request.id, False))
            return
        waiter.timer = self._loop.call_later(request.timeout_ms / 1000, self._wait_is_over, waiter)
        connection.waiters.add(waiter)
        self._waiters.setdefault(request.topic, set()).add(waiter)

    def _settle(self, waiter: _Waiter) -> bool:
        """Answer a waiter if there is something to say.

        The ends are the committer's own list, read across threads: a commit that comes after this look is followed by
        a delivery, which looks again.
        """
        try:
            topic = self._log.topic(waiter.topic)
            topic.document.check_partitions(waiter.offsets)
        except RtaError as error:
            waiter.connection.answer(wire.failed(waiter.id, error))
            return True
        ends = topic.ends
        if any(ends[number] > offset for number, offset in waiter.offsets.items()):
            waiter.connection.answer(wire.Waited(waiter.id, True))
            return True
        return False

    def _wait_is_over(self, waiter: _Waiter) -> None:
        waiter.connection.answer(wire.Waited(waiter.id, False))
        self._forget(waiter)

    def _forget(self, waiter: _Waiter) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
        waiter.connection.waiters.discard(waiter)
        waiting = self._waiters.get(waiter.topic)
        if waiting is not None:
            waiting.discard(waiter)
            if not waiting:
                del self._waiters[waiter.topic]

    # Answers.

    def _deliver_soon(self, outcomes: list[Outcome]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, outcomes)

    def _deliver(self, outcomes: Sequence[Outcome]) -> None:
        topics: set[str] = set()
        for job, answer in outcomes:
            if isinstance(job, AppendJob):
                self._queued_bytes -= job.bytes
            if job.topic is not None:
                topics.add(job.topic)
            job.origin.answer(answer)
        for topic in topics:
            for waiter in list(self._waiters.get(topic, ())):
                if self._settle(waiter):
                    self._forget(waiter)
        if self.congested and self._queued_bytes <= self._settings.queue_bytes_max // 2:
            self._set_congested(False)
        self._flush()

    def flush_soon(self, connection: _Connection) -> None:
        if not self._unflushed:
            self._loop.call_soon(self._flush)
        self._unflushed.append(connection)

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for connection in unflushed:
            connection.flush()

    # Figures.

    def _sample(self) -> None:
        counters = self._committer.counters
        self._samples.append((self._loop.time(), counters.records, counters.bytes))
        self._sampler = self._loop.call_later(_RATE_STEP_S, self._sample)

    def _stats(self, request: wire.Stats, log: LogFolder) -> wire.Answer:
        counters = self._committer.counters
        now_s = self._loop.time()
        then_s, records, sizes = self._samples[0]
        elapsed_s = max(now_s - then_s, 0.001)
        stats = wire.LogStats(
            topics={name: topic.stats() for name, topic in log.topics().items()},
            broken={name: str(error) for name, error in log.broken.items()},
            uptime_s=now_s - self._begun_s,
            appended_records=counters.records,
            appended_bytes=counters.bytes,
            refused_appends=counters.refused,
            appended_records_per_s=(counters.records - records) / elapsed_s,
            appended_bytes_per_s=(counters.bytes - sizes) / elapsed_s,
            commits=counters.commits,
            commit_ms_last=counters.commit_ms_last,
            commit_ms_max=counters.commit_ms_max,
            queue_bytes=self._queued_bytes,
            waiting_readers=sum(map(len, self._waiters.values())),
            disk_free_bytes=log.free_bytes(),
        )
        return wire.Measured(request.id, stats)


def _administer(request: wire.Create | wire.Drop | wire.Trim, log: LogFolder) -> wire.Answer:
    match request:
        case wire.Create():
            states = log.create(request.topic, request.partitions)
            return wire.Created(request.id, dict(states))
        case wire.Drop():
            log.drop(request.topic)
        case wire.Trim():
            log.trim(request.topic, request.offsets)
    return wire.Done(request.id)


def _check_socket_path(path: Path) -> None:
    length = len(os.fsencode(path))
    if length > _SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            f"the log's socket path '{path}' is {length} bytes long, the system allows {_SOCKET_PATH_BYTES_MAX}",
            hint="choose a shorter path, for instance below /tmp or /run",
        )


def _remove_stale_socket(path: Path) -> None:
    """Nobody else writes this folder; what listens on its socket all the same is a stranger."""
    if not path.exists():
        return
    if not path.is_socket():
        raise ConflictError(f"'{path}' is in the way of the log's socket", hint="remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ConflictError(f"'{path}' can't be taken for the log's socket: {error}", hint="remove it") from error
        else:
            raise ConflictError(f"another server listens on '{path}'", hint="choose another socket path")


__all__ = ["LogServer", "wall_clock_ms"]
