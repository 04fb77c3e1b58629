"""Readers beside the writer: while files are rolled, checkpointed and deleted."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from typing import Any

import pytest

from rta.errors import LogGapError
from rta.log.embedded import EmbeddedReader, EmbeddedSettings, segments

from .served import KIB, Served, drain, outgoing, until

RESTLESS = EmbeddedSettings(segment_bytes=48 * KIB, checkpoint_bytes=8 * KIB)
RECORDS = 1500


class Follower(threading.Thread):
    """Follows partitions from their start to a number of records, and keeps what it saw."""

    def __init__(self, reader: EmbeddedReader, partitions: list[int], bytes_max: int) -> None:
        super().__init__()
        self.reader, self.bytes_max = reader, bytes_max
        self.offsets = dict.fromkeys(partitions, 0)
        self.seen: dict[int, list[int]] = {number: [] for number in partitions}
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while sum(map(len, self.seen.values())) < RECORDS * len(self.offsets) // 3:
                self.reader.wait("t", self.offsets, 200)
                for record in self.reader.fetch("t", self.offsets, self.bytes_max):
                    self.offsets[record.partition] = record.offset + 1
                    self.seen[record.partition].append(int(record.payload.partition(b".")[0]))
        except BaseException as error:  # noqa: BLE001 - the test's thread asserts that there is none
            self.failure = error
        finally:
            self.reader.close()


async def write(log: Served, trim_at: int) -> None:
    """Record i goes to partition i % 3; slow enough for followers to be in the middle of it."""
    writer, admin = log.writer(), log.admin()
    for i in range(0, RECORDS, 5):
        await writer.append("t", [outgoing(k % 3, b"%d." % k + b"x" * (k % 7 * 300)) for k in range(i, i + 5)])
        if trim_at and i % trim_at == 0:
            ends = {number: state.end for number, state in admin.create("t", 3).items()}
            admin.trim("t", {3 - 1: ends[2]})
    await writer.close()
    admin.close()


def test_followers_see_every_record_once_while_files_roll_and_are_checkpointed() -> None:
    with Served(RESTLESS) as log:
        log.create(partitions=3)
        followers = [
            Follower(log.reader(), [0, 1, 2], 1 << 20),
            Follower(log.reader(), [1], 3000),
            Follower(log.reader(), [0, 2], 1),
        ]
        for follower in followers:
            follower.start()
        asyncio.run(write(log, 0))
        for follower in followers:
            follower.join(120)
            assert follower.failure is None
            for number, seen in follower.seen.items():
                assert seen == list(range(number, RECORDS, 3))
        assert len(log.files("*.db")) > 10


def test_follower_that_lags_behind_trimming_sees_a_gap_or_everything() -> None:
    gaps = 0
    with Served(RESTLESS) as log, closing(log.reader()) as reader:
        log.create(partitions=3)
        offsets, seen = {0: 0, 1: 0, 2: 0}, dict[int, list[int]]({0: [], 1: [], 2: []})
        writing = threading.Thread(target=lambda: asyncio.run(write(log, 50)))
        writing.start()
        while sum(map(len, seen.values())) + gaps == 0 or writing.is_alive() or reader.wait("t", offsets, 0):
            try:
                records = reader.fetch("t", offsets, 20_000)
            except LogGapError:
                gaps += 1
                offsets[2] = reader.partitions("t")[2].start
                seen[2].append(-1)
                continue
            for record in records:
                offsets[record.partition] = record.offset + 1
                seen[record.partition].append(int(record.payload.partition(b".")[0]))
        writing.join()
    assert seen[0] == list(range(0, RECORDS, 3))
    assert seen[1] == list(range(1, RECORDS, 3))
    runs = " ".join(map(str, seen[2])).split("-1")
    for run in runs:
        numbers = [int(word) for word in run.split()]
        assert numbers == list(range(numbers[0], numbers[-1] + 1, 3)) if numbers else True


@pytest.mark.parametrize("records", [1, 8])
def test_fetch_that_trimming_overtakes_is_a_gap_and_not_an_answer_with_a_hole(
    monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    with Served(RESTLESS) as log, closing(log.reader()) as reader:
        log.create(partitions=1)
        ends = log.append(*[[outgoing(0, b"x" * 50 * KIB)] for _ in range(records)])
        assert len(log.files("*.db")) == records
        read = segments.read

        def read_after_trimming(*arguments: Any) -> segments.Cut:
            log.append([outgoing(0, b"begins another file")])
            log.trim(ends[-1])
            return read(*arguments)

        monkeypatch.setattr(segments, "read", read_after_trimming)
        with pytest.raises(LogGapError, match=str(ends[-1][0])):
            reader.fetch("t", {0: 0}, 1 << 20)


def test_idle_readers_do_not_keep_pages_in_the_write_ahead_log() -> None:
    with Served(RESTLESS) as log, closing(log.reader()) as reader:
        log.create(partitions=1)
        log.append([outgoing(0, b"x")])
        offsets = {0: 0}
        drain(reader, offsets)
        # Still open, reading nothing: a transaction held here would stop every checkpoint of this file.
        log.append(*[[outgoing(0, b"y" * 10 * KIB)] for _ in range(12)])
        sealed = log.files("*.db")[:-1]
        assert len(sealed) >= 1
        logs = [log.folder / "t" / f"{path.name}-wal" for path in sealed]
        until(lambda: all(not path.exists() or path.stat().st_size == 0 for path in logs), "logs are emptied")
        assert len(drain(reader, offsets)) == 12


def test_write_ahead_log_of_a_file_that_grows_slowly_is_emptied_now_and_then() -> None:
    settings = EmbeddedSettings(checkpoint_bytes=256 * KIB)
    with Served(settings) as log, closing(log.reader()) as reader:
        log.create(partitions=1)
        offsets = {0: 0}
        for _ in range(30):
            log.append(*[[outgoing(0, b"x" * 50)] for _ in range(20)])
            drain(reader, offsets)
        assert len(log.files("*.db")) == 1
        assert log.files("*.db-wal")[0].stat().st_size < 4 * 256 * KIB


@pytest.mark.parametrize("partitions", [1, 64])
def test_fetch_of_one_lagging_partition_is_not_slowed_by_the_others(partitions: int) -> None:
    with Served() as log, closing(log.reader()) as reader:
        log.create(partitions=partitions)
        batch = [outgoing(number % partitions, b"%d" % number) for number in range(6400)]
        log.append(batch)
        found = drain(reader, {0: 0}, bytes_max=1000)
        assert [record.payload for record in found] == [o.payload for o in batch if o.partition == 0]
