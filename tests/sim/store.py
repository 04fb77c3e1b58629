"""The simulated store: one set of objects, seen by each process through a network of its own.

Every operation is a step of its process: others may come before it, and a process that is killed there has done all that
came before and nothing after. An operation may fail before it took effect, or after (its answer is lost). What is
deleted is shown to whoever listens (`on_delete`).
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from rta.errors import UnavailableError
from rta.store.objects import ObjectInfo
from tests.sim.kernel import Kernel, Process
from tests.store.memory import MemoryStore

READ_SHARE = 0.6
PROBE_SHARE = 0.2
DELTA_SHARE = 0.1


@dataclass(slots=True)
class Disk:
    """What is there, whoever asks. `before_...` are called with each key and the process that acts on it."""

    kernel: Kernel
    objects: MemoryStore = field(default_factory=MemoryStore)
    written_ms: dict[str, int] = field(default_factory=dict)
    faults: float = 0.0
    """Share of the writing operations that fail, half of them after they took effect."""
    before_delete: Callable[[str, Process], None] = lambda key, process: None
    before_put_if_absent: Callable[[str, Process], None] = lambda key, process: None


class SimStore:
    """An `ObjectStore` of one process."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self.disk = disk
        self.process = process
        self._inner = disk.objects

    def get(self, key: str) -> bytes:
        self._step(DELTA_SHARE if "/_delta_log/" in key else READ_SHARE)
        return self._inner.get(key)

    def put(self, key: str, data: bytes) -> None:
        self._write(key, lambda: self._inner.put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        found: list[bool] = []
        self.disk.before_put_if_absent(key, self.process)
        self._write(key, lambda: found.append(self._inner.put_if_absent(key, data)))
        return found[0]

    def delete(self, key: str) -> None:
        self._step()
        self.disk.before_delete(key, self.process)
        self._inner.delete(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._step()
        written_ms = self.disk.written_ms
        return iter([info._replace(modified_ms=written_ms.get(info.key, 0)) for info in self._inner.list(prefix)])

    def exists(self, key: str) -> bool:
        self._step(PROBE_SHARE)
        return self._inner.exists(key)

    def size(self, key: str) -> int:
        return self._inner.size(key)

    def buffer(self, key: str) -> bytes:
        self._step()
        return self._inner.get(key)

    def buffers(self, keys: Sequence[str]) -> Sequence[bytes | mmap.mmap]:
        return [self.buffer(key) for key in keys]

    def part(self, key: str, first: int, length: int) -> bytes:
        return self.get(key)[first : first + length]

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        class Kept(io.BytesIO):
            content: bytes | None = None

            def close(self) -> None:
                self.content = self.getvalue()
                super().close()

        file = Kept()
        yield file
        data = file.content if file.content is not None else file.getvalue()
        self.put(key, data)

    def uri(self, key: str) -> str:
        return f"memory://{key}"

    def storage_options(self) -> dict[str, str]:
        return {}

    def discard_unfinished(self, before_ms: int) -> int:
        return 0

    def _step(self, share: float = 1.0) -> None:
        """Reads are a step now and then: there are many of them."""
        if share == 1.0 or self.disk.kernel.rng.random() < share:
            self.disk.kernel.point(self.process)

    def _write(self, key: str, run: Callable[[], None]) -> None:
        sim = self.disk.kernel
        sim.point(self.process)
        fault = self.disk.faults and sim.rng.random() < self.disk.faults
        if fault and sim.rng.random() < 0.5:
            raise UnavailableError(f"writing '{key}': connection refused")
        run()
        self.disk.written_ms[key] = int(sim.now_ms)
        if fault:
            raise UnavailableError(f"writing '{key}': connection lost")
