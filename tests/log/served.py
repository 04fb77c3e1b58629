"""A log server in a thread of the test, with a clock and a disk that the test controls."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TypeVar

from rta.log.base import Header, LogReader, Outgoing, Record
from rta.log.embedded import EmbeddedAdmin, EmbeddedReader, EmbeddedSettings, EmbeddedWriter, LogServer
from rta.log.embedded.folder import disk_free
from rta.log.embedded.server import wall_clock_ms

T = TypeVar("T")
KIB = 1024


class Served:
    """One folder and its server, which runs in a thread until `close`. Usable as a context."""

    def __init__(
        self,
        settings: EmbeddedSettings | None = None,
        *,
        root: Path | None = None,
        clock: Callable[[], int] = wall_clock_ms,
        free: Callable[[Path], int] = disk_free,
    ) -> None:
        self._own_root = root is None
        self.root = root or Path(tempfile.mkdtemp(prefix="rta-log-"))
        self.folder, self.socket = self.root / "log", self.root / "socket"
        self.settings = settings or EmbeddedSettings()
        self.clock, self.free = clock, free
        self._loop = asyncio.new_event_loop()
        self.start()

    def start(self) -> None:
        """Raises what the server raises."""
        self.server = LogServer(self.folder, self.socket, self.settings, clock=self.clock, free=self.free)
        self._loop.run_until_complete(self.server.start())
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self._loop.run_until_complete(self.server.serve_forever())

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.close(), self._loop).result(30)
        self._thread.join(30)

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.stop()
        self._loop.close()
        if self._own_root:
            shutil.rmtree(self.root, ignore_errors=True)

    def writer(self) -> EmbeddedWriter:
        return EmbeddedWriter(self.socket)

    def reader(self) -> EmbeddedReader:
        return EmbeddedReader(self.folder, self.socket)

    def admin(self) -> EmbeddedAdmin:
        return EmbeddedAdmin(self.socket)

    def create(self, topic: str = "t", partitions: int = 2) -> None:
        admin = self.admin()
        admin.create(topic, partitions)
        admin.close()

    def trim(self, offsets: dict[int, int], topic: str = "t") -> None:
        admin = self.admin()
        admin.trim(topic, offsets)
        admin.close()

    def append(self, *batches: Sequence[Outgoing], topic: str = "t") -> list[dict[int, int]]:
        """Batch after batch, with one writer."""

        async def run() -> list[dict[int, int]]:
            writer = self.writer()
            try:
                return [await writer.append(topic, batch) for batch in batches]
            finally:
                await writer.close()

        return asyncio.run(run())

    def read(self, offsets: dict[int, int] | None = None, topic: str = "t") -> list[Record]:
        """All records from the offsets on, or from the starts."""
        reader = self.reader()
        try:
            starts = {number: state.start for number, state in reader.partitions(topic).items()}
            return drain(reader, offsets if offsets is not None else starts, topic)
        finally:
            reader.close()

    def files(self, pattern: str, topic: str = "t") -> list[Path]:
        return sorted((self.folder / topic).glob(pattern))


def outgoing(partition: int, payload: bytes, sequence: int = 0) -> Outgoing:
    return Outgoing(partition, Header(1, 2, 3, sequence, 1), payload)


def drain(reader: LogReader, offsets: dict[int, int], topic: str = "t", bytes_max: int = 1 << 20) -> list[Record]:
    """Fetch until nothing comes; `offsets` move on."""
    found: list[Record] = []
    while records := reader.fetch(topic, offsets, bytes_max):
        found += records
        offsets |= {record.partition: record.offset + 1 for record in records}
    return found


def until(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    """Wait for a condition of another thread or process."""
    deadline = time.monotonic() + limit_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        pause.wait(0.002)


def run(work: Coroutine[None, None, T]) -> T:
    return asyncio.run(work)


def disk_bytes(folder: Path) -> int:
    """As `du` counts."""
    return sum(_blocks(path) for path in folder.rglob("*"))


def _blocks(path: Path) -> int:
    """0 for a file that its owner has removed meanwhile: SQLite's own come and go."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
