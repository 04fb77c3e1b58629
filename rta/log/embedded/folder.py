"""The folder of a log: its lock, its topics, making and dropping them. Blocking; for the one writing thread.

What happens inside a topic is `rta.log.embedded.storage`'s. Topics are folders; names that begin with '.' are the log's
own: the lock, the reserve, and topics that are half made or half gone, which the next start removes.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from rta.errors import ConflictError, RtaError
from rta.log.base import PartitionState
from rta.log.embedded import segments
from rta.log.embedded.checkpoints import Checkpoints
from rta.log.embedded.settings import EmbeddedSettings
from rta.log.embedded.storage import Reserve, StorageContext, TopicStorage
from rta.log.embedded.topic import (
    new_document,
    read_document,
    sync_folder,
    unknown_topic,
    write_document,
)

_LOCK = ".lock"
_RESERVE = ".reserve"
_CREATING = ".creating-"
_DROPPED = ".dropped-"
_logger = logging.getLogger(__name__)


class FolderLock:
    """Makes this process the folder's only writer, for as long as it lives or until `release`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handle: int | None = None

    def take(self) -> None:
        """Raises ConflictError that names the process which has it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            raise ConflictError(
                f"the log in '{self._folder}' is being written by process {holder}",
                hint="stop that process, or use another folder",
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._handle = handle

    def release(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def disk_free(folder: Path) -> int:
    """Bytes that this process may still write to the disk under a folder."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


class LogFolder:
    """All topics of one log. A topic that can't be opened is set aside with its error and harms no other."""

    def __init__(
        self,
        folder: Path,
        settings: EmbeddedSettings,
        clock: Callable[[], int],
        free: Callable[[Path], int] = disk_free,
    ) -> None:
        self.folder = folder
        self._clock = clock
        self._context = StorageContext(settings, Checkpoints(), clock, free, Reserve(folder / _RESERVE))
        self._topics: dict[str, TopicStorage] = {}
        self.broken: dict[str, RtaError] = {}
        self._open()

    def _open(self) -> None:
        """Read what is there; finish what a crash interrupted."""
        self._context.reserve.keep()
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith((_CREATING, _DROPPED)):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir() and not path.name.startswith("."):
                self._open_topic(path.name)

    def _open_topic(self, name: str) -> None:
        folder = self.folder / name
        try:
            topic = TopicStorage(folder, read_document(folder, name), self._context)
            topic.sweep()
        except RtaError as error:
            _logger.error("topic '%s' can't be opened: %s", name, error)
            self.broken[name] = error
        else:
            self._topics[name] = topic

    def topic(self, name: str) -> TopicStorage:
        """Raises NotFoundError, or whatever keeps the topic from being opened."""
        topic = self._topics.get(name)
        if topic is None:
            raise self.broken.get(name) or unknown_topic(name)
        return topic

    def names(self) -> list[str]:
        return sorted([*self._topics, *self.broken])

    def create(self, name: str, partitions: int) -> dict[int, PartitionState]:
        """A topic appears whole or not at all; one that is there stays as it is."""
        if name in self._topics or name in self.broken:
            return self.topic(name).states()
        document = new_document(name, partitions, self._clock())
        making = self.folder / f"{_CREATING}{document.id}"
        try:
            making.mkdir()
            page_bytes = self._context.settings.page_bytes
            segments.create_segment(making / document.file_name(document.segments[0]), page_bytes)
            write_document(making, document)
            making.rename(self.folder / name)
            sync_folder(self.folder)
        except OSError as error:
            shutil.rmtree(making, ignore_errors=True)
            raise segments.storage_error(error, self.folder / name, "could not make topic") from error
        self._topics[name] = TopicStorage(self.folder / name, document, self._context)
        return self._topics[name].states()

    def drop(self, name: str) -> None:
        """Gone as soon as its folder has another name; the rest is cleaning up."""
        topic = self._topics.get(name)
        if topic is None and name not in self.broken:
            return
        gone = self.folder / f"{_DROPPED}{uuid.uuid4().hex}"
        try:
            (self.folder / name).rename(gone)
            sync_folder(self.folder)
        except OSError as error:
            raise segments.storage_error(error, self.folder / name, "could not drop topic") from error
        self.broken.pop(name, None)
        if topic is not None:
            del self._topics[name]
            topic.close(finish=False)
        shutil.rmtree(gone, ignore_errors=True)
        self._context.reserve.keep()

    def trim(self, name: str, offsets: Mapping[int, int]) -> None:
        self.topic(name).trim(offsets)

    def topics(self) -> Mapping[str, TopicStorage]:
        return self._topics

    def free_bytes(self) -> int:
        return self._context.disk_free(self.folder)

    def close(self) -> None:
        """Leave every file whole, without a write-ahead log."""
        for topic in self._topics.values():
            topic.close(finish=True)
        self._context.checkpoints.close()
