"""The server as a process: its lock, its socket, its parent, its limits, and what clients see when it misbehaves."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rta.errors import ConfigError, ConflictError, NotFoundError, TooLargeError, UnavailableError
from rta.log.embedded import EmbeddedReader, EmbeddedSettings, EmbeddedWriter, LogServer

from .served import KIB, Served, outgoing, until


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rta-log-") as made:
        yield Path(made)


def start_process(root: Path, *options: str, name: str = "log") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rta.log.embedded", "--folder", str(root / name), "--socket", str(root / "s")]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def serving(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return "serving" in process.stdout.readline()


def test_second_writer_of_a_folder_is_refused_with_the_pid_of_the_first(root: Path) -> None:
    with Served(root=root) as log:
        second = LogServer(log.folder, root / "other")
        with pytest.raises(ConflictError, match=rf"'{log.folder}' is being written by process {os.getpid()}"):
            asyncio.run(second.start())
        process = start_process(root)
        _, error = process.communicate(timeout=30)
        assert process.returncode == 1
        assert f"process {os.getpid()}" in error
        log.create()
        assert log.append([outgoing(0, b"still mine")])


def test_second_writer_waits_for_a_predecessor_that_is_going_away(root: Path) -> None:
    first = start_process(root)
    try:
        assert serving(first)
        threading.Timer(0.3, first.kill).start()
        with Served(EmbeddedSettings(lock_wait_s=30), root=root) as log:
            log.create()
    finally:
        first.kill()
        first.communicate()


def test_socket_that_a_killed_server_left_is_replaced_and_a_live_one_is_not(root: Path) -> None:
    first = start_process(root)
    try:
        assert serving(first)
        with pytest.raises(ConflictError, match="another server listens"):
            asyncio.run(LogServer(root / "other", root / "s").start())
        first.kill()
        first.wait()
        assert (root / "s").exists()
        second = start_process(root)
        assert serving(second)
        second.terminate()
        second.communicate(timeout=30)
        assert second.returncode == 0
        assert not (root / "s").exists()
    finally:
        first.kill()
        first.communicate()


def test_refused_server_leaves_the_folder_free(root: Path) -> None:
    async def twice() -> None:
        with pytest.raises(ConfigError, match="107"):
            await LogServer(root / "log", root / ("x" * 120)).start()
        (root / "taken").mkdir()
        with pytest.raises(ConflictError, match="in the way"):
            await LogServer(root / "log", root / "taken").start()
        server = LogServer(root / "log", root / "s")
        await server.start()
        await server.close()

    asyncio.run(twice())


def test_server_ends_with_its_parent(root: Path) -> None:
    parent = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    process = start_process(root, "--parent", str(parent.pid))
    try:
        assert serving(process)
        parent.kill()
        parent.wait()
        process.communicate(timeout=30)
        assert process.returncode == 0
    finally:
        parent.communicate()
        process.kill()
        process.wait()


def test_wrong_setting_on_the_command_line_is_named(root: Path) -> None:
    process = start_process(root, "--page-bytes", "5000")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "'page_bytes' is 5000" in error


def test_close_answers_what_was_received(root: Path) -> None:
    async def run(log: Served) -> list[object]:
        writer = log.writer()
        work = [asyncio.ensure_future(writer.append("t", [outgoing(0, b"x" * KIB)])) for _ in range(200)]
        await work[0]
        await asyncio.to_thread(log.stop)
        answers: list[object] = list(await asyncio.gather(*work, return_exceptions=True))
        await writer.close()
        return answers

    with Served(root=root) as log:
        log.create()
        answers = asyncio.run(run(log))
        assert all(isinstance(answer, dict | UnavailableError) for answer in answers)
        log.start()
        ends = {record.offset + 1 for record in log.read()}
        assert {answer[0] for answer in answers if isinstance(answer, dict)} <= ends


# Limits.


def test_small_queue_slows_writers_down_and_loses_nothing(root: Path) -> None:
    async def run(log: Served) -> int:
        writers = [log.writer() for _ in range(4)]
        work = [writer.append("t", [outgoing(0, b"x" * 60 * KIB)]) for writer in writers for _ in range(30)]
        answers = await asyncio.gather(*work)
        for writer in writers:
            await writer.close()
        return len({answer[0] for answer in answers})

    with Served(EmbeddedSettings(queue_bytes_max=100 * KIB, commit_bytes_max=64 * KIB), root=root) as log:
        log.create()
        assert asyncio.run(run(log)) == 120


def test_writer_limits_what_is_under_way(root: Path) -> None:
    async def run(log: Served) -> None:
        writer = EmbeddedWriter(log.socket, in_flight_bytes_max=10 * KIB)
        await writer.append("t", [outgoing(0, b"x" * 100 * KIB)])
        answers = await asyncio.gather(*[writer.append("t", [outgoing(0, b"x" * 4 * KIB)]) for _ in range(50)])
        assert [answer[0] for answer in answers] == list(range(2, 52))
        cancelled = [asyncio.ensure_future(writer.append("t", [outgoing(0, b"x" * 4 * KIB)])) for _ in range(20)]
        await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        await asyncio.wait_for(writer.append("t", [outgoing(0, b"x" * 9 * KIB)]), 30)
        await writer.close()

    with Served(root=root) as log:
        log.create()
        asyncio.run(run(log))


def test_append_beyond_the_frame_limit_is_refused_before_it_is_sent(root: Path) -> None:
    with Served(root=root) as log:
        log.create()
        half = b"x" * (33 << 20)
        with pytest.raises(TooLargeError, match="67108864"):
            log.append([outgoing(0, half), outgoing(0, half)])
        assert log.append([outgoing(0, b"x")]) == [{0: 1}]


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n" * 10, struct.pack("<II", 5, 0) + b"\xc1" * 5, struct.pack("<II", 1, 2**31)],
    ids=["http", "no msgpack", "far too large"],
)
def test_client_that_talks_nonsense_is_cut_off_and_harms_nobody(root: Path, data: bytes) -> None:
    with Served(root=root) as log:
        log.create()
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(30)
            stranger.connect(str(log.socket))
            stranger.sendall(data)
            assert stranger.recv(100) == b""
        assert log.append([outgoing(0, b"x")]) == [{0: 1}]


# Servers that are away or silent.


def test_silent_server_counts_as_lost_after_the_time_limit(root: Path) -> None:
    process = start_process(root)
    try:
        assert serving(process)
        os.kill(process.pid, signal.SIGSTOP)

        async def run() -> None:
            writer = EmbeddedWriter(root / "s", timeout_s=0.2)
            with pytest.raises(UnavailableError, match="unknown"):
                await writer.append("t", [outgoing(0, b"x")])
            os.kill(process.pid, signal.SIGCONT)
            with pytest.raises(NotFoundError):
                await writer.append("t", [outgoing(0, b"x")])
            await writer.close()

        asyncio.run(run())
    finally:
        process.kill()
        process.communicate()


def test_reader_needs_no_server_and_wakes_up_when_it_is_back(root: Path) -> None:
    with Served(root=root) as log, closing(log.reader()) as reader:
        log.create()
        log.append([outgoing(0, b"x")])
        log.stop()
        assert [record.payload for record in reader.fetch("t", {0: 0}, 1000)] == [b"x"]
        assert reader.wait("t", {0: 0}, 1000)
        assert not reader.wait("t", {0: 1}, 60)
        with pytest.raises(NotFoundError):
            reader.wait("unknown", {0: 0}, 60)

        def come_back() -> None:
            log.start()
            log.append([outgoing(0, b"y")])

        timer = threading.Timer(0.1, come_back)
        timer.start()
        assert reader.wait("t", {0: 1}, 60_000)
        timer.join()
        assert [record.payload for record in reader.fetch("t", {0: 1}, 1000)] == [b"y"]


def test_wait_ends_when_its_topic_is_dropped(root: Path) -> None:
    failures: list[Exception] = []

    def watch(reader: EmbeddedReader) -> None:
        with closing(reader):
            try:
                reader.wait("t", {0: 0}, 60_000)
            except NotFoundError as error:
                failures.append(error)

    with Served(root=root) as log, closing(log.admin()) as admin:
        log.create()
        thread = threading.Thread(target=watch, args=(log.reader(),))
        thread.start()
        until(lambda: admin.stats().waiting_readers == 1, "the reader waits")
        admin.drop("t")
        thread.join(30)
        assert len(failures) == 1
        assert admin.stats().waiting_readers == 0


def test_waiting_reader_that_goes_away_is_forgotten(root: Path) -> None:
    with Served(root=root) as log, closing(log.admin()) as admin:
        log.create()
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys, pathlib; from rta.log.embedded import EmbeddedReader;"
                "EmbeddedReader(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])).wait('t', {0: 0}, 60000)",
                str(log.folder),
                str(log.socket),
            ]
        )
        until(lambda: admin.stats().waiting_readers == 1, "the reader waits")
        process.kill()
        process.wait()
        until(lambda: admin.stats().waiting_readers == 0, "the reader is forgotten")


def test_stats_tell_what_happened(root: Path) -> None:
    with Served(root=root) as log, closing(log.admin()) as admin:
        log.create("a", 3)
        log.append([outgoing(0, b"x" * 1000), outgoing(1, b"y" * 500)], topic="a")
        with pytest.raises(NotFoundError):
            log.append([outgoing(7, b"x")], topic="a")
        stats = admin.stats()
        topic = stats.topics["a"]
        assert (topic.partitions, topic.segments, topic.end) == (3, 1, 2)
        assert 1500 < topic.backlog_bytes == stats.appended_bytes < 1600
        assert topic.bytes >= topic.backlog_bytes
        assert (stats.appended_records, stats.refused_appends, stats.commits, stats.queue_bytes) == (2, 1, 1, 0)
        assert 0 < stats.commit_ms_last <= stats.commit_ms_max
        assert stats.appended_records_per_s > 0
        assert stats.disk_free_bytes > 0
        begun = time.monotonic()
        assert admin.stats().uptime_s <= time.monotonic() - begun + stats.uptime_s + 5
