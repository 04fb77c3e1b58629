"""`kill -9` of the log server: at random moments, and between any two steps of its file handling."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rta.errors import UnavailableError
from rta.log.base import Record
from rta.log.embedded import EmbeddedAdmin, EmbeddedReader, EmbeddedWriter

from .crashing import Crashing
from .served import KIB, drain, outgoing

SEED = 20150912
ROUNDS = 110


@pytest.fixture
def server() -> Iterator[Crashing]:
    root = Path(tempfile.mkdtemp(prefix="rta-log-"))
    crashing = Crashing(
        root,
        segment_bytes=64 * KIB,
        checkpoint_bytes=16 * KIB,
        lock_wait_s=5,
        disk_free_bytes_min=0,
    )
    yield crashing
    crashing.close()
    shutil.rmtree(root)


async def append_until_gone(
    server: Crashing, rng: random.Random, round_number: int, kill_after: int
) -> dict[tuple[int, int], bytes]:
    """Four writers; the server is killed in the middle of it. Answers with what was acknowledged, by end."""
    acknowledged: dict[tuple[int, int], bytes] = {}
    enough = asyncio.Event()

    async def one(number: int) -> None:
        writer = EmbeddedWriter(server.socket)
        try:
            for i in itertools.count():
                batch = [
                    outgoing(rng.randrange(3), b"%d-%d-%d-%d." % (round_number, number, i, k) * rng.choice([1, 9, 700]))
                    for k in range(rng.choice([1, 1, 2, 4]))
                ]
                ends = await writer.append("t", batch)
                acknowledged.update({(o.partition, ends[o.partition]): o.payload for o in batch})
                if len(acknowledged) >= kill_after:
                    enough.set()
        except UnavailableError:
            pass
        await writer.close()

    writers = [asyncio.create_task(one(number)) for number in range(4)]
    await enough.wait()
    server.kill()
    await asyncio.gather(*writers)
    return acknowledged


def check_round(found: list[Record], acknowledged: dict[tuple[int, int], bytes], seen: set[bytes]) -> None:
    by_end = {(record.partition, record.offset + 1): record.payload for record in found}
    for end, payload in acknowledged.items():
        assert by_end.get(end) == payload, f"acknowledged record before {end} is lost or torn"
    for record in found:
        assert record.payload not in seen, "a record is there twice"
        seen.add(record.payload)
        name = record.payload.partition(b".")[0]
        assert record.payload == (name + b".") * (len(record.payload) // (len(name) + 1)), "a record is torn"


def test_no_kill_at_a_random_moment_loses_doubles_or_tears_a_record(server: Crashing) -> None:
    rng = random.Random(SEED)
    offsets = dict.fromkeys(range(3), 0)
    seen: set[bytes] = set()
    reader = EmbeddedReader(server.folder, server.socket)
    with closing(EmbeddedAdmin(server.socket)) as admin, closing(reader):
        for round_number in range(ROUNDS):
            assert server.start()
            assert sorted(admin.create("t", 3)) == [0, 1, 2]
            if rng.random() < 0.3:
                admin.trim("t", offsets)
            where = f"seed {SEED}, round {round_number}"
            acknowledged = asyncio.run(append_until_gone(server, rng, round_number, rng.randrange(1, 40)))
            if rng.random() < 0.5:
                assert server.start(), where
            # With or without a server, and with a reader that has been there all the time.
            found = drain(reader, offsets)
            check_round(found, acknowledged, seen)
            assert all(a.offset < b.offset for a, b in itertools.pairwise(found) if a.partition == b.partition), where
            if rng.random() < 0.5:
                with closing(EmbeddedReader(server.folder, server.socket)) as fresh:
                    assert [state.end for state in fresh.partitions("t").values()] >= list(offsets.values()), where
            if server.running:
                server.kill()


@dataclass
class Oracle:
    """What was promised, and what may or may not have happened."""

    acknowledged: dict[tuple[str, int, int], bytes] = field(default_factory=dict)
    floors_promised: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    floors_asked: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    dropping: bool = False
    created: set[str] = field(default_factory=set)


async def scripted(server: Crashing, oracle: Oracle) -> None:
    """Create, append over several files, trim, drop, create again. Raises UnavailableError where the server dies."""
    admin, writer = EmbeddedAdmin(server.socket), EmbeddedWriter(server.socket)
    ends = {0: 0, 1: 0}

    async def append(topic: str, number: int, name: str) -> None:
        payload = f"{name}.".encode() * 3000
        answer = await writer.append(topic, [outgoing(number, payload)])
        oracle.acknowledged[topic, number, answer[number]] = payload
        ends[number] = answer[number]

    async def trim(floors: dict[int, int]) -> None:
        oracle.floors_asked |= floors
        await asyncio.to_thread(admin.trim, "t", floors)
        oracle.floors_promised |= floors

    async def create(topic: str) -> None:
        await asyncio.to_thread(admin.create, topic, 2)
        oracle.created.add(topic)

    try:
        await create("t")
        for i in range(13):
            await append("t", i % 2, f"a{i}")
        await trim({0: ends[0], 1: ends[1] - 8})
        for i in range(5):
            await append("t", i % 2, f"b{i}")
        await create("u")
        oracle.dropping = True
        await asyncio.to_thread(admin.drop, "u")
        await create("u")
        await trim(dict(ends))
        oracle.dropping = False
        await append("u", 0, "c")
        await append("t", 1, "d")
    finally:
        await writer.close()
        admin.close()


def check_script(server: Crashing, oracle: Oracle) -> None:
    reader = EmbeddedReader(server.folder, server.socket)
    with closing(EmbeddedAdmin(server.socket)) as admin, closing(reader):
        names = admin.topics()
        if not oracle.dropping:
            assert oracle.created <= set(names)
        for topic in names:
            states = reader.partitions(topic)
            if topic == "t":
                for number, state in states.items():
                    assert state.start in (oracle.floors_promised[number], oracle.floors_asked[number])
            starts = {number: state.start for number, state in states.items()}
            found = {(r.partition, r.offset + 1): r.payload for r in drain(reader, dict(starts), topic)}
            for (of, number, end), payload in oracle.acknowledged.items():
                if of == topic and end > starts[number]:
                    assert found.get((number, end)) == payload
        if "t" in names:
            asyncio.run(append_one(server, oracle))
    document = (server.folder / "t" / "topic.json").read_text() if "t" in names else ""
    for path in server.folder.glob("t/*.db*"):
        assert f'"first":{int(path.name.partition("-")[0])},' in document, "a file is left over"
    assert list(server.folder.glob(".creating-*")) + list(server.folder.glob(".dropped-*")) == []


async def append_one(server: Crashing, oracle: Oracle) -> None:
    writer = EmbeddedWriter(server.socket)
    ends = await writer.append("t", [outgoing(0, b"after")])
    assert ends[0] > max((end for topic, _, end in oracle.acknowledged if topic == "t"), default=0)
    await writer.close()


def test_a_kill_between_any_two_file_steps_keeps_every_promise(server: Crashing) -> None:
    for die_at in itertools.count(1):
        shutil.rmtree(server.folder, ignore_errors=True)
        oracle = Oracle()
        if server.start(die_at):
            try:
                asyncio.run(scripted(server, oracle))
            except UnavailableError:
                server.wait_ended()
            else:
                server.kill()
                assert die_at > 40, "the script has fewer steps than it should"
                return
        assert server.start(), f"no start after a kill at step {die_at}"
        check_script(server, oracle)
        server.kill()
