"""The folder as an object store."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rta.errors import BadRequestError, NotFoundError, StoreFormatError, UnavailableError
from rta.store.objects import LocalStore, open_store


def test_put_replaces_and_put_if_absent_does_not(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b", b"1")
    store.put("a/b", b"2")
    assert store.put_if_absent("a/b", b"3") is False
    assert store.put_if_absent("a/c", b"4") is True
    assert (store.get("a/b"), store.get("a/c")) == (b"2", b"4")
    assert store.size("a/c") == 1


def test_listing_is_sorted_and_shows_no_unfinished_writes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for key in ("b/2", "a/1", "b/1/x", "b10/1"):
        store.put(key, b"x")
    (tmp_path / ".unfinished" / "left").write_bytes(b"half")
    assert [info.key for info in store.list("")] == ["a/1", "b/1/x", "b/2", "b10/1"]
    assert [info.key for info in store.list("b")] == ["b/1/x", "b/2"]
    assert list(store.list("nothing")) == []


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for read in (store.get, store.size, store.buffer):
        with pytest.raises(NotFoundError, match="'a/b'"):
            read("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")


def test_parts_of_an_object_and_several_objects_are_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"0123456789")
    store.put("b", b"")
    assert [store.part("a", *asked) for asked in ((0, 4), (4, 4), (8, 4), (20, 4), (3, 0))] == [
        b"0123",
        b"4567",
        b"89",
        b"",
        b"",
    ]
    assert [bytes(content) for content in store.buffers(["b", "a"])] == [b"", b"0123456789"]
    with pytest.raises(NotFoundError):
        store.part("c", 0, 1)


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../b", "", "a//b", ".hidden", "a\nb"])
def test_keys_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(BadRequestError, match="no object key"):
        LocalStore(tmp_path).put(key, b"x")


def test_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    def write() -> None:
        with store.writer("a/b") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert not store.exists("a/b")
    assert list((tmp_path / ".unfinished").iterdir()) == []


def test_full_disk_is_unavailable_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (store.put, store.put_if_absent):
        with pytest.raises(UnavailableError, match="disk is full"):
            write("a/b", b"x")
    assert not store.exists("a/b")
    assert list((tmp_path / ".unfinished").iterdir()) == []


def test_every_write_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    store.put("a/first", b"")
    steps: list[str] = []
    fsync, link, rename = os.fsync, os.link, Path.rename

    def seen(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            steps.append(name)
            return run(*arguments)

        return wrapped

    monkeypatch.setattr(os, "fsync", seen("sync", fsync))
    monkeypatch.setattr(os, "link", seen("name", link))
    monkeypatch.setattr(Path, "rename", seen("name", rename))
    store.put_if_absent("a/b", b"x")
    store.put("a/c", b"x")
    assert steps == ["sync", "name", "sync"] * 2


def test_of_racing_threads_one_is_told_that_it_won(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    wins: list[int] = []
    start = threading.Barrier(8)

    def race(me: int) -> None:
        start.wait()
        if store.put_if_absent("a/b", str(me).encode()):
            wins.append(me)

    threads = [threading.Thread(target=race, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.get("a/b") == str(wins[0]).encode()


def test_leftovers_of_dead_writers_are_discarded_by_age(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    left = tmp_path / ".unfinished" / "left"
    left.write_bytes(b"half")
    written_ms = left.stat().st_mtime_ns // 1_000_000
    assert store.discard_unfinished(written_ms) == 0
    assert store.discard_unfinished(written_ms + 1) == 1


def test_newer_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    open_store(tmp_path)
    open_store(str(tmp_path))
    (tmp_path / "format.json").write_text('{"format": 2}')
    with pytest.raises(StoreFormatError, match=rf"{tmp_path}.*format 2.*up to 1.*newer rta"):
        open_store(tmp_path)


def test_broken_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "format.json").write_text("{")
    with pytest.raises(StoreFormatError, match=r"can't be read"):
        open_store(tmp_path)
