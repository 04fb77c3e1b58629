"""A store in memory, and one that fails on command. Both behave as `rta.store.objects` says."""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Literal, TypeVar

from rta.errors import NotFoundError
from rta.store.objects import ObjectInfo, ObjectStore

Operation = Literal["get", "put", "put_if_absent", "delete"]
T = TypeVar("T")
Fault = Literal["before", "after", "crash_before", "crash_after"]
"""An error before or after it took effect, or the death of the process at that point."""


class CrashError(BaseException):
    """The process ends here."""


class MemoryStore:
    """Objects in a dict; `modified_ms` is the number of writes so far."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._modified: dict[str, int] = {}
        self._writes = 0

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise NotFoundError(f"reading '{key}': it is not there")
        return self.objects[key]

    def put(self, key: str, data: bytes) -> None:
        self._writes += 1
        self.objects[key] = bytes(data)
        self._modified[key] = self._writes

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if key in self.objects:
            return False
        self.put(key, data)
        return True

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for key in sorted(self.objects):
            if not prefix or key.startswith(prefix + "/"):
                yield ObjectInfo(key, len(self.objects[key]), self._modified[key])

    def exists(self, key: str) -> bool:
        return key in self.objects

    def size(self, key: str) -> int:
        return len(self.get(key))

    def buffer(self, key: str) -> bytes | mmap.mmap:
        return self.get(key)

    def buffers(self, keys: Sequence[str]) -> Sequence[bytes | mmap.mmap]:
        return [self.buffer(key) for key in keys]

    def part(self, key: str, first: int, length: int) -> bytes:
        return self.get(key)[first : first + length]

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        class Kept(io.BytesIO):
            def close(self) -> None:
                self.content = self.getvalue()
                super().close()

        file = Kept()
        yield file
        self.put(key, file.content if file.closed else file.getvalue())

    def uri(self, key: str) -> str:
        return f"memory://{key}"

    def storage_options(self) -> dict[str, str]:
        return {}

    def discard_unfinished(self, before_ms: int) -> int:
        return 0


class FaultyStore:
    """Another store, seen through a bad network: `plan` says what goes wrong with each operation."""

    def __init__(self, inner: ObjectStore, plan: Callable[[Operation, str], Fault | None]) -> None:
        self.inner = inner
        self.plan = plan
        self.mutations: list[tuple[Operation, str]] = []

    def get(self, key: str) -> bytes:
        return self._through("get", key, lambda: self.inner.get(key))

    def put(self, key: str, data: bytes) -> None:
        self._through("put", key, lambda: self.inner.put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._through("put_if_absent", key, lambda: self.inner.put_if_absent(key, data))

    def delete(self, key: str) -> None:
        self._through("delete", key, lambda: self.inner.delete(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def size(self, key: str) -> int:
        return self.inner.size(key)

    def buffer(self, key: str) -> bytes | mmap.mmap:
        return self.inner.buffer(key)

    def buffers(self, keys: Sequence[str]) -> Sequence[bytes | mmap.mmap]:
        return [self.buffer(key) for key in keys]

    def part(self, key: str, first: int, length: int) -> bytes:
        return self.get(key)[first : first + length]

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        self._through("put", key, lambda: None, effect=False)
        with self.inner.writer(key) as file:
            yield file

    def uri(self, key: str) -> str:
        return self.inner.uri(key)

    def storage_options(self) -> dict[str, str]:
        return self.inner.storage_options()

    def discard_unfinished(self, before_ms: int) -> int:
        return self.inner.discard_unfinished(before_ms)

    def _through(self, operation: Operation, key: str, run: Callable[[], T], effect: bool = True) -> T:
        if operation != "get":
            self.mutations.append((operation, key))
        fault = self.plan(operation, key)
        if fault == "before":
            raise OSError(f"{operation} {key}: connection refused")
        if fault == "crash_before" or (fault is not None and not effect):
            raise CrashError(f"{operation} {key}")
        answer = run()
        if fault == "after":
            raise OSError(f"{operation} {key}: connection lost")
        if fault == "crash_after":
            raise CrashError(f"{operation} {key}")
        return answer
