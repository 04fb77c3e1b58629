"""How the SQL engine reaches the store's files: those of a folder by itself, those of a bucket through the store.

A file in a folder is opened by the engine under its path, which is the fastest. A bucket, or a path that the engine would take
for a pattern, is read through a file system of ours, which asks the store for parts of objects and knows nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

if TYPE_CHECKING:
    import duckdb

    from rta.store.objects import ObjectStore

PROTOCOL = "rtastore"
BLOCK_BYTES = 1 << 20
_PATTERN = frozenset("*?[")


def engine_path(store: ObjectStore, key: str) -> str:
    """What the engine calls an object."""
    uri = store.uri(key)
    return uri if uri.startswith("/") and not _PATTERN & set(uri) else f"{PROTOCOL}://{key}"


def engine_folders(store: ObjectStore) -> list[str]:
    """What the names of `engine_path` begin with."""
    root = store.uri("x").removesuffix("x")
    return [f"{PROTOCOL}://", *([root] if root.startswith("/") else [])]


def add_files(connection: duckdb.DuckDBPyConnection, store: ObjectStore) -> None:
    """Let the engine read the store's objects by the names of `engine_path`."""
    connection.register_filesystem(_Objects(store))


class _Objects(AbstractFileSystem):
    """The store, read only, as the engine's file systems are written."""

    protocol = PROTOCOL
    cachable = False

    def __init__(self, store: ObjectStore) -> None:
        super().__init__()
        self.store = store

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        key = self._strip_protocol(path)
        return {"name": key, "size": self.store.size(key), "type": "file"}

    def exists(self, path: str, **_: Any) -> bool:
        return self.store.exists(self._strip_protocol(path))

    def glob(self, path: str, **_: Any) -> list[str]:
        """Names are names here, never patterns."""
        return [self._strip_protocol(path)]

    def modified(self, path: str) -> Any:
        from datetime import UTC, datetime

        return datetime(1970, 1, 1, tzinfo=UTC)  # objects never change

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> _Object:
        if mode != "rb":
            raise PermissionError(f"'{path}' can only be read")
        return _Object(self, self._strip_protocol(path), mode, block_size or BLOCK_BYTES)


class _Object(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        store: ObjectStore = self.fs.store
        return store.part(self.path, start, end - start)
