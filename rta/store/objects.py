"""Named bytes: the only interface through which the store touches a disk or a bucket.

Owns keys (relative, parts separated by `/`), atomicity and durability: what `put` and `put_if_absent` have returned
from survives a power cut, and a reader sees an object whole or not at all. Knows nothing of what the bytes mean; where
things lie is `rta.store.layout`'s. Raises NotFoundError for what is not there, UnavailableError for the rest.

`put_if_absent` is the one primitive that fences: of many writers to one key exactly one is told True. An exception
from it means *unknown*, never "not stored".
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import msgspec

from rta.errors import BadRequestError, NotFoundError, StoreFormatError, UnavailableError
from rta.store.model import STORE_FORMAT

KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=\-]*(/[A-Za-z0-9_][A-Za-z0-9_.=\-]*)*")
"""Plain names only: a key means the same on a disk, in a URL and in a Delta log."""
FORMAT_KEY = "format.json"
TEMPORARY = ".unfinished"
"""The folder of a local store where objects are written before they get their name."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class ObjectInfo(NamedTuple):
    """One line of a listing."""

    key: str
    size: int
    modified_ms: int


class ObjectStore(Protocol):
    """What the store asks of a disk or a bucket. Blocking; safe for many threads and processes at once."""

    def get(self, key: str) -> bytes:
        """Raises NotFoundError."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Replace or create, atomically."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """True: ours is there now. False: something was there already. An exception: unknown."""
        ...

    def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Everything below `prefix`, which is empty or names a whole part of keys, in the order of keys."""
        ...

    def exists(self, key: str) -> bool: ...

    def size(self, key: str) -> int:
        """Bytes. Raises NotFoundError."""
        ...

    def buffer(self, key: str) -> bytes | mmap.mmap:
        """The content for random access, memory-mapped where that is possible. Raises NotFoundError."""
        ...

    def buffers(self, keys: Sequence[str]) -> Sequence[bytes | mmap.mmap]:
        """Several of them, at the same time where each is a round trip. Raises NotFoundError."""
        ...

    def part(self, key: str, first: int, length: int) -> bytes:
        """So many bytes from byte `first` on, fewer where the object ends. Raises NotFoundError."""
        ...

    def writer(self, key: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file that becomes the object, durably, when the block ends without an exception; else nothing remains."""
        ...

    def uri(self, key: str) -> str:
        """What polars, pyarrow and deltalake call it."""
        ...

    def storage_options(self) -> dict[str, str]:
        """What polars and deltalake need besides the uri."""
        ...

    def discard_unfinished(self, before_ms: int) -> int:
        """Remove what writers that died before `before_ms` left without a name. Returns how many."""
        ...


class LocalStore:
    """A folder. Objects are written aside, fsynced and then linked or renamed; folders are fsynced too."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()
        self._unfinished = self.root / TEMPORARY
        self._known: set[Path] = set()
        self._lock = threading.Lock()
        with _named_errors(f"creating the store's folder '{self.root}'"):
            self._unfinished.mkdir(parents=True, exist_ok=True)

    def __reduce__(self) -> tuple[type[LocalStore], tuple[str]]:
        return LocalStore, (str(self.root),)

    def get(self, key: str) -> bytes:
        with _named_errors(f"reading '{key}' in '{self.root}'"):
            return self._path(key).read_bytes()

    def put(self, key: str, data: bytes) -> None:
        with self.writer(key) as file:
            file.write(data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with _named_errors(f"writing '{key}' in '{self.root}'"):
            self._make_folder(path.parent)
            aside = self._write_aside(data)
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
            finally:
                aside.unlink(missing_ok=True)
            _sync_folder(path.parent)
            return True

    def delete(self, key: str) -> None:
        with _named_errors(f"deleting '{key}' in '{self.root}'"):
            self._path(key).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        top = self._path(prefix) if prefix else self.root
        yield from self._walk(top, prefix)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def size(self, key: str) -> int:
        with _named_errors(f"reading '{key}' in '{self.root}'"):
            return self._path(key).stat().st_size

    def buffer(self, key: str) -> bytes | mmap.mmap:
        with _named_errors(f"mapping '{key}' in '{self.root}'"), self._path(key).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def buffers(self, keys: Sequence[str]) -> Sequence[bytes | mmap.mmap]:
        return [self.buffer(key) for key in keys]

    def part(self, key: str, first: int, length: int) -> bytes:
        with _named_errors(f"reading '{key}' in '{self.root}'"), self._path(key).open("rb") as file:
            return os.pread(file.fileno(), length, first)

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        path = self._path(key)
        with _named_errors(f"writing '{key}' in '{self.root}'"):
            self._make_folder(path.parent)
            aside = self._aside()
            try:
                with aside.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                aside.rename(path)
            finally:
                aside.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def uri(self, key: str) -> str:
        return str(self._path(key))

    def storage_options(self) -> dict[str, str]:
        return {}

    def discard_unfinished(self, before_ms: int) -> int:
        found = 0
        for path in self._unfinished.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime_ns // 1_000_000 < before_ms:
                    path.unlink()
                    found += 1
        return found

    def _path(self, key: str) -> Path:
        if KEY.fullmatch(key) is None:
            raise BadRequestError(f"'{key}' is no object key", "use letters, digits and _.=- in parts joined by /")
        return self.root / key

    def _walk(self, folder: Path, prefix: str) -> Iterator[ObjectInfo]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.name == TEMPORARY and not prefix:
                continue
            key = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), key)
                continue
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat()
                yield ObjectInfo(key, found.st_size, found.st_mtime_ns // 1_000_000)

    def _aside(self) -> Path:
        return self._unfinished / uuid.uuid4().hex

    def _write_aside(self, data: bytes) -> Path:
        aside = self._aside()
        try:
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        return aside

    def _make_folder(self, folder: Path) -> None:
        """Make it and its parents durable: a new folder is an entry of its parent."""
        if folder in self._known and folder.is_dir():
            return
        for ancestor in reversed([folder, *folder.parents]):
            if ancestor.is_relative_to(self.root) and not ancestor.is_dir():
                ancestor.mkdir(exist_ok=True)
                _sync_folder(ancestor.parent)
        with self._lock:
            if len(self._known) > 4096:
                self._known.clear()
            self._known.add(folder)


@contextmanager
def _named_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{doing}: it is not there") from error
    except OSError as error:
        if error.errno in FULL:
            raise UnavailableError(
                f"{doing}: the disk is full", "free space on it; nothing that was acknowledged is lost", 5
            ) from error
        raise UnavailableError(
            f"{doing}: {error.strerror or error}", "check the disk and its permissions", 5
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Format(msgspec.Struct, frozen=True):
    format: int


def open_store(url_or_path: str | os.PathLike[str]) -> ObjectStore:
    """The store in a folder or, as `s3://bucket/prefix`, in a bucket; marked with its format version when it is new.

    Raises:
        StoreFormatError: a newer rta wrote it, `format.json` is not what rta writes, or the kind of place is unknown.
        UnavailableError: the bucket can't be reached, or not be written to.
    """
    text = os.fspath(url_or_path)
    store: ObjectStore
    if text.startswith("s3://"):
        from rta.store.s3 import S3Store

        store = S3Store(text)
        check_format(store, text)
        return store
    if "://" in text and not text.startswith("file://"):
        raise StoreFormatError(
            f"the store '{text}' is of a kind that this version does not know",
            "give a local folder or s3://bucket/prefix",
        )
    store = LocalStore(text.removeprefix("file://"))
    check_format(store, str(store.root))
    return store


def check_format(store: ObjectStore, name: str) -> None:
    """Mark a new store with our format, refuse a newer one. Two processes may do this at once."""
    store.put_if_absent(FORMAT_KEY, msgspec.json.encode(_Format(STORE_FORMAT)))
    try:
        found = msgspec.json.decode(store.get(FORMAT_KEY), type=_Format).format
    except msgspec.DecodeError as error:
        raise StoreFormatError(
            f"the store '{name}' has a '{FORMAT_KEY}' that can't be read: {error}",
            "restore the file from a backup, or give another folder",
        ) from error
    if found > STORE_FORMAT:
        raise StoreFormatError(
            f"the store '{name}' has format {found}, this version of rta reads formats up to {STORE_FORMAT}",
            "use the newer rta that wrote it, or give another folder",
        )


def now_ms() -> int:
    """The wall clock, where the store itself needs one."""
    return time.time_ns() // 1_000_000
