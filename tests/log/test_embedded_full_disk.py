"""A disk that is really full: the log refuses, stays up, loses nothing, and goes on when there is room."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from rta.errors import LogFullError
from rta.log.embedded import EmbeddedSettings, segments

from .served import KIB, Served, outgoing

SETTINGS = EmbeddedSettings(segment_bytes=512 * KIB, checkpoint_bytes=256 * KIB, disk_free_bytes_min=0)
RECORD = b"x" * 100 * KIB


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond the size: writes fail, as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of 8 MiB where mounting is allowed; else a folder in which no file may pass 600 KiB."""
    root = Path(tempfile.mkdtemp(prefix="rta-log-"))
    mounted = shutil.which("mount") is not None and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(root)], stderr=subprocess.DEVNULL
    )
    try:
        if mounted:
            yield root
        else:
            with files_limited_to(600 * KIB):
                yield root
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(root)], check=True)
        shutil.rmtree(root, ignore_errors=True)


def fill_until_refused(log: Served) -> list[dict[int, int]]:
    answers: list[dict[int, int]] = []
    with pytest.raises(LogFullError) as refused:
        append_for_ever(log, answers)
    assert refused.value.retry_after_s
    return answers


def append_for_ever(log: Served, answers: list[dict[int, int]]) -> None:
    while len(answers) < 1000:
        answers += log.append([outgoing(0, RECORD)])


def test_full_disk_refuses_and_loses_nothing_and_trimming_alone_makes_room() -> None:
    with small_disk() as root, Served(SETTINGS, root=root) as log:
        log.create(partitions=1)
        answers = fill_until_refused(log)
        assert len(answers) >= 3
        found = log.read()
        assert [record.payload for record in found] == [RECORD] * len(answers)
        assert [{0: record.offset + 1} for record in found] == answers
        with closing(log.admin()) as admin:
            assert admin.stats().refused_appends == 1
        if len(log.files("*.db")) > 1:
            log.trim(answers[-1])
            log.append([outgoing(0, b"again")])
            assert [record.payload for record in log.read()] == [b"again"]


def test_log_on_a_full_disk_starts_and_can_be_read_and_trimmed() -> None:
    with small_disk() as root, Served(SETTINGS, root=root) as log:
        log.create(partitions=1)
        answers = fill_until_refused(log)
        log.restart()
        assert len(log.read()) == len(answers)
        log.trim(answers[-1])
        assert log.read() == []


def test_log_goes_on_by_itself_when_writing_is_possible_again() -> None:
    with Served(SETTINGS) as log:
        log.create(partitions=1)
        with files_limited_to(300 * KIB):
            answers = fill_until_refused(log)
        answers += log.append([outgoing(0, RECORD)], [outgoing(0, RECORD)])
        found = log.read()
        assert [{0: record.offset + 1} for record in found] == answers
        assert all(record.payload == RECORD for record in found)


def test_sqlite_full_is_log_full_and_leaves_the_file_usable(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    segments.create_segment(path, 4096)

    def row(offset: int, size: int) -> segments.Row:
        return (offset, 0, 1, size, 0, b"h", memoryview(b"x" * size))

    with closing(segments.open_for_writing(path)) as connection:
        connection.execute("PRAGMA max_page_count = 6")
        segments.insert(connection, [row(0, 100)])
        with pytest.raises(sqlite3.Error) as failed:
            segments.insert(connection, [row(1, 100_000)])
        error = segments.storage_error(failed.value, path, "could not append to")
        assert isinstance(error, LogFullError)
        assert str(path) in error.message
    with closing(segments.open_for_writing(path)) as connection:
        segments.insert(connection, [row(1, 100_000)])
        assert segments.totals(connection).newest == (1, 1)
