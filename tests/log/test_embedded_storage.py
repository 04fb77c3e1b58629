"""What the embedded log's files do: rolling, retention, time, limits, damage."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from rta.errors import ConfigError, CorruptFileError, LogFullError, StoreFormatError, UnavailableError
from rta.log.embedded import EmbeddedReader, EmbeddedSettings, segments

from .served import KIB, Served, disk_bytes, drain, outgoing, until

SMALL = EmbeddedSettings(segment_bytes=64 * KIB, checkpoint_bytes=32 * KIB)


def fill(log: Served, files: int, *, partitions: int = 2, topic: str = "t") -> None:
    """Append records of 8 KiB until the topic has so many files."""
    for number in itertools.count():
        log.append([outgoing(number % partitions, bytes([number % 251]) * 8 * KIB)], topic=topic)
        if len(log.files("*.db", topic)) >= files:
            return


def test_commits_are_fsynced_and_never_pay_for_a_checkpoint(tmp_path: Path) -> None:
    segments.create_segment(tmp_path / "a.db", 8192)
    with closing(segments.open_for_writing(tmp_path / "a.db")) as connection:
        pragmas = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "wal_autocheckpoint", "page_size")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "wal_autocheckpoint": 0, "page_size": 8192}


def test_offsets_and_order_go_on_over_many_files_and_restarts() -> None:
    with Served(SMALL) as log:
        log.create(partitions=3)
        for part in range(4):
            log.append(*[[outgoing(i % 3, b"%d." % (part * 40 + i) + b"x" * 4000)] for i in range(40)])
            log.restart()
        assert len(log.files("*.db")) >= 8
        found = log.read()
        for number in range(3):
            mine = [record for record in found if record.partition == number]
            assert [int(r.payload.split(b".")[0]) for r in mine] == [i for i in range(160) if i % 40 % 3 == number]
            assert all(a.offset < b.offset for a, b in itertools.pairwise(mine))
        assert sorted(record.offset for record in found) == list(range(160))


def test_clean_stop_leaves_no_write_ahead_log_behind() -> None:
    with Served(SMALL) as log:
        log.create()
        fill(log, 3)
        log.stop()
        assert [path for path in log.files("*.db-wal") if path.stat().st_size] == []
        log.start()
        assert len(log.read()) > 8


def test_append_time_never_goes_back_with_the_clock_nor_over_files_and_restarts() -> None:
    times = iter([5000, 4000, 6000, 10, 10, 7000, 20])
    now = [1000]
    with Served(SMALL, clock=lambda: now[0]) as log:
        log.create(partitions=1)
        for now_ms in times:
            now[0] = now_ms
            log.append([outgoing(0, b"x" * 40 * KIB)])
            if now_ms == 6000:
                log.restart()
        assert [record.append_time_ms for record in log.read()] == [5000, 5000, 6000, 6000, 6000, 7000, 7000]
        assert len(log.files("*.db")) >= 3


def test_append_time_survives_in_a_file_that_is_still_empty() -> None:
    now = [9000]
    with Served(SMALL, clock=lambda: now[0]) as log:
        log.create(partitions=1)
        ends = log.append(*[[outgoing(0, b"x" * 70 * KIB)] for _ in range(3)])
        log.stop()
        # As after a crash between beginning a file and the first commit to it.
        with closing(sqlite3.connect(log.files("*.db")[-1])) as connection:
            connection.execute("DELETE FROM record")
            connection.commit()
        now[0] = 100
        log.start()
        assert log.append([outgoing(0, b"y")]) == [ends[-1]]
        assert log.read()[-1].append_time_ms == 9000


def test_appends_that_wait_at_the_same_moment_share_a_commit() -> None:
    async def burst(log: Served) -> None:
        writer = log.writer()
        await asyncio.gather(*[writer.append("t", [outgoing(0, b"x")]) for _ in range(400)])
        await writer.close()

    with Served() as log, closing(log.admin()) as admin:
        log.create()
        asyncio.run(burst(log))
        stats = admin.stats()
        assert stats.appended_records == 400
        assert stats.commits <= 100


# Retention.


def test_trimming_gives_the_space_back() -> None:
    with Served(SMALL) as log, closing(log.admin()) as admin:
        log.create()
        fill(log, 10)
        before, states = disk_bytes(log.folder / "t"), admin.create("t", 2)
        log.trim({number: state.end for number, state in states.items()})
        assert len(log.files("*.db")) == 1
        assert {path.name.partition(".")[0] for path in log.files("*.db*")} == {log.files("*.db")[0].stem}
        until(lambda: disk_bytes(log.folder / "t") < before / 4, "space comes back")
        assert log.read() == []


def test_files_go_one_by_one_and_nothing_above_a_floor_is_deleted() -> None:
    with Served(SMALL) as log:
        log.create()
        fill(log, 6)
        every = log.read()
        for cut in range(0, len(every), 3):
            floors = {
                n: next(r.offset for r in every[cut:] if r.partition == n)
                for n in (0, 1)
                if any(r.partition == n for r in every[cut:])
            }
            log.trim(floors)
            expected = [r for r in every if r.offset >= floors.get(r.partition, 0)] if len(floors) == 2 else None
            if expected is not None:
                assert sorted(log.read(), key=lambda r: r.offset) == sorted(expected, key=lambda r: r.offset)
        assert len(log.files("*.db")) <= 2


def test_one_partition_that_lags_keeps_its_files() -> None:
    with Served(SMALL) as log, closing(log.admin()) as admin:
        log.create()
        log.append([outgoing(1, b"first")])
        fill(log, 5, partitions=1)
        log.trim({0: admin.create("t", 2)[0].end})
        assert len(log.files("*.db")) == 5
        assert [record.payload for record in log.read() if record.partition == 1] == [b"first"]
        log.trim({1: admin.create("t", 2)[1].end})
        assert len(log.files("*.db")) == 1


def test_reader_lets_go_of_deleted_files() -> None:
    def deleted() -> list[str]:
        names = []
        for entry in Path("/proc/self/fd").iterdir():
            try:
                names.append(os.readlink(entry))
            except FileNotFoundError:
                continue
        return [name for name in names if name.endswith("(deleted)") and str(log.folder) in name]

    with Served(SMALL) as log, closing(log.reader()) as reader, closing(log.admin()) as admin:
        log.create()
        fill(log, 5)
        offsets = {0: 0, 1: 0}
        drain(reader, offsets)
        log.trim(offsets)
        reader.fetch("t", offsets, 1000)
        until(lambda: not deleted(), "no open deleted file")
        admin.drop("t")
        with pytest.raises(Exception, match="no topic 't'"):
            reader.fetch("t", offsets, 1000)
        until(lambda: not deleted(), "no open deleted file")


def test_backlog_counts_the_bytes_above_the_floors_also_after_a_restart() -> None:
    with Served(SMALL) as log:
        log.create()
        fill(log, 5)
        for percent in (0, 30, 65, 100):
            every = log.read({0: 0, 1: 0} if percent == 0 else None)
            kept = every[len(every) * percent // 100 :] if percent else every
            with closing(log.admin()) as admin:
                ends = {number: state.end for number, state in admin.create("t", 2).items()}
                floors = {n: min((r.offset for r in kept if r.partition == n), default=ends[n]) for n in (0, 1)}
                log.trim(floors)
                above = [r for r in every if r.offset >= floors[r.partition]]
                expected = sum(len(r.payload) + len(msgspec.msgpack.encode(r.header)) for r in above)
                assert admin.stats().topics["t"].backlog_bytes == expected
                log.restart()
                assert admin.stats().topics["t"].backlog_bytes == expected


def test_what_a_crash_left_half_done_is_cleaned_up() -> None:
    with Served(SMALL) as log:
        log.create()
        fill(log, 2)
        log.stop()
        orphan = log.folder / "t" / "00000000000000009999-deadbeef.db"
        for companion in ("", "-wal", "-shm"):
            Path(f"{orphan}{companion}").write_bytes(b"half")
        for name in (".creating-1", ".dropped-2"):
            shutil.copytree(log.folder / "t", log.folder / name)
        log.start()
        assert log.files(f"{orphan.name}*") == []
        assert sorted(path.name for path in log.folder.iterdir() if path.is_dir()) == ["t"]
        assert len(log.read()) > 1


# Limits.


def test_backlog_limit_refuses_with_the_figures_and_trimming_helps() -> None:
    settings = EmbeddedSettings(segment_bytes=64 * KIB, backlog_bytes_max=100 * KIB)
    with Served(settings) as log, closing(log.admin()) as admin:
        log.create()
        ends = log.append(*[[outgoing(0, b"x" * 30 * KIB)] for _ in range(3)])
        with pytest.raises(LogFullError, match=r"'t' is \d+ bytes behind, limit 102400 bytes") as refused:
            log.append([outgoing(0, b"x" * 30 * KIB)])
        assert refused.value.retry_after_s
        assert admin.stats().refused_appends == 1
        log.trim(ends[-1])
        log.append([outgoing(0, b"y" * 30 * KIB)])
        assert len(log.read()) == 1


def test_appends_that_come_together_do_not_pass_the_limit_together() -> None:
    async def burst(log: Served) -> list[object]:
        writer = log.writer()
        work = [writer.append("t", [outgoing(0, b"x" * 10 * KIB)]) for _ in range(50)]
        answers: list[object] = list(await asyncio.gather(*work, return_exceptions=True))
        await writer.close()
        return answers

    with Served(EmbeddedSettings(backlog_bytes_max=105 * KIB)) as log:
        log.create()
        answers = asyncio.run(burst(log))
        assert sum(isinstance(answer, dict) for answer in answers) == 10
        assert sum(isinstance(answer, LogFullError) for answer in answers) == 40
        assert len(log.read()) == 10


def test_log_leaves_room_on_the_disk_to_others_and_recovers_by_itself() -> None:
    free = [10_000_000]
    with Served(EmbeddedSettings(disk_free_bytes_min=1_000_000), free=lambda _: free[0]) as log:
        log.create()
        log.append([outgoing(0, b"a")])
        free[0] = 1_000_500
        log.append([outgoing(0, b"b")])
        with pytest.raises(LogFullError, match="1000500 bytes free"):
            log.append([outgoing(0, b"x" * 1000)])
        free[0] = 10_000_000
        log.append([outgoing(0, b"c")])
        assert [record.payload for record in log.read()] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("given", [{"segment_bytes": 0}, {"backlog_bytes_max": -1}, {"page_bytes": 5000}])
def test_impossible_settings_are_named(given: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        EmbeddedSettings(**given)


# Damage.


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def damaged(log: Served, damage: Callable[[Path], None]) -> Path:
    """A topic `t` of several files of which the oldest is damaged, and a sound topic `sound`."""
    log.create()
    log.create("sound")
    log.append([outgoing(0, b"fine")], topic="sound")
    fill(log, 3)
    log.stop()
    oldest = log.files("*.db")[0]
    damage(oldest)
    log.start()
    return oldest


def test_changed_payload_byte_is_noticed_and_the_file_named() -> None:
    def flip(path: Path) -> None:
        overwrite(path, path.read_bytes().index(bytes([3]) * 1000) + 500, b"\x07")

    with Served(SMALL) as log:
        oldest = damaged(log, flip)
        with pytest.raises(CorruptFileError, match=oldest.name):
            log.read()
        assert [record.payload for record in log.read(topic="sound")] == [b"fine"]


def test_file_that_is_no_database_is_named() -> None:
    def scribble(path: Path) -> None:
        path.write_bytes(b"nonsense" * 5000)

    with Served(SMALL) as log:
        oldest = damaged(log, scribble)
        with pytest.raises(CorruptFileError, match=oldest.name):
            log.read()


def test_file_that_lacks_records_is_named() -> None:
    def cut(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DELETE FROM record WHERE offset = (SELECT max(offset) FROM record)")
            connection.commit()

    with Served(SMALL) as log:
        oldest = damaged(log, cut)
        with pytest.raises(CorruptFileError, match=f"{oldest.name}' lacks records"):
            log.read()


def test_missing_file_is_named() -> None:
    with Served(SMALL) as log:
        oldest = damaged(log, Path.unlink)
        with pytest.raises(CorruptFileError, match=oldest.name):
            log.read()


@pytest.mark.parametrize("which", ["newest file", "document"])
def test_topic_that_cannot_be_opened_is_set_aside_with_its_error(which: str) -> None:
    with Served(SMALL) as log, closing(log.admin()) as admin:
        log.create()
        log.create("sound")
        fill(log, 2)
        log.stop()
        path = log.files("*.db")[-1] if which == "newest file" else log.folder / "t" / "topic.json"
        path.write_bytes(b"nonsense" * 5000)
        log.start()
        with pytest.raises(CorruptFileError, match=path.name):
            log.append([outgoing(0, b"x")])
        log.append([outgoing(0, b"x")], topic="sound")
        assert admin.topics() == ["sound", "t"]
        assert path.name in admin.stats().broken["t"]
        admin.drop("t")
        log.create()
        log.append([outgoing(0, b"new")])
        assert [record.payload for record in log.read()] == [b"new"]


def test_folder_of_a_newer_version_is_refused() -> None:
    with Served() as log, closing(log.reader()) as reader:
        log.create()
        log.stop()
        document = log.folder / "t" / "topic.json"
        document.write_bytes(document.read_bytes().replace(b'"format":1', b'"format":2'))
        log.start()
        with pytest.raises(StoreFormatError, match="newer rta"):
            log.append([outgoing(0, b"x")])
        with pytest.raises(StoreFormatError, match="newer rta"):
            reader.partitions("t")


def test_reader_of_no_log_at_all_says_so(tmp_path: Path) -> None:
    with closing(EmbeddedReader(tmp_path / "none", tmp_path / "socket")) as reader, pytest.raises(UnavailableError):
        reader.partitions("t")
