"""What every log must do, whichever it is (`rta.log.base`)."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rta.errors import BadRequestError, LogGapError, NotFoundError, UnavailableError
from rta.log.base import Header, LogReader, Outgoing, Record

from .logs import LOGS, LogUnderTest

_topic_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=sorted(LOGS))
def log(request: pytest.FixtureRequest) -> Iterator[LogUnderTest]:
    served = LOGS[request.param]()
    yield served
    served.close()


@pytest.fixture
def topic(log: LogUnderTest) -> str:
    """A topic of four partitions."""
    return make_topic(log, 4)


@pytest.fixture
def reader(log: LogUnderTest) -> Iterator[LogReader]:
    with closing(log.reader()) as opened:
        yield opened


def make_topic(log: LogUnderTest, partitions: int) -> str:
    name = f"topic-{next(_topic_numbers)}"
    with closing(log.admin()) as admin:
        admin.create(name, partitions)
    return name


def outgoing(partition: int, payload: bytes, sequence: int = 0) -> Outgoing:
    return Outgoing(partition, Header(len(payload), 2**64 - 1, 7, sequence, 3), payload)


def append(log: LogUnderTest, topic: str, *batches: Sequence[Outgoing]) -> list[dict[int, int]]:
    """Append batch after batch with one writer."""

    async def run() -> list[dict[int, int]]:
        writer = log.writer()
        try:
            return [await writer.append(topic, batch) for batch in batches]
        finally:
            await writer.close()

    return asyncio.run(run())


def read_all(reader: LogReader, topic: str, offsets: dict[int, int], bytes_max: int = 1 << 20) -> list[Record]:
    """Fetch to the end, as an aggregator does."""
    offsets, found = dict(offsets), []
    while records := reader.fetch(topic, offsets, bytes_max):
        found += records
        for record in records:
            assert record.offset >= offsets[record.partition]
            offsets[record.partition] = record.offset + 1
    return found


def payloads(records: Sequence[Record], partition: int) -> list[bytes]:
    return [record.payload for record in records if record.partition == partition]


def restart(log: LogUnderTest, end: Callable[[], None]) -> None:
    end()
    log.start()


# Topics.


def test_new_topic_has_empty_partitions_with_incarnations_of_their_own(log: LogUnderTest, reader: LogReader) -> None:
    topic = make_topic(log, 3)
    states = reader.partitions(topic)
    assert sorted(states) == [0, 1, 2]
    assert all(state.start == state.end for state in states.values())
    assert len({state.incarnation for state in states.values()}) == 3
    assert reader.fetch(topic, dict.fromkeys(range(3), 0), 1000) == []


def test_create_answers_with_what_readers_see(log: LogUnderTest, reader: LogReader) -> None:
    with closing(log.admin()) as admin:
        topic = make_topic(log, 2)
        assert admin.create(topic, 2) == reader.partitions(topic)


def test_create_leaves_an_existing_topic_as_it_is(log: LogUnderTest, topic: str, reader: LogReader) -> None:
    append(log, topic, [outgoing(1, b"kept")])
    before = reader.partitions(topic)
    with closing(log.admin()) as admin:
        assert admin.create(topic, 9) == before
    assert reader.partitions(topic) == before
    assert payloads(read_all(reader, topic, {1: 0}), 1) == [b"kept"]


def test_dropped_topic_is_unknown_and_comes_back_with_other_incarnations_and_no_records(
    log: LogUnderTest, topic: str, reader: LogReader
) -> None:
    append(log, topic, [outgoing(0, b"old")])
    before = reader.partitions(topic)
    assert payloads(read_all(reader, topic, {0: 0}), 0) == [b"old"]
    with closing(log.admin()) as admin:
        admin.drop(topic)
        assert topic not in admin.topics()
        with pytest.raises(NotFoundError):
            reader.partitions(topic)
        admin.create(topic, 4)
        assert topic in admin.topics()
    after = reader.partitions(topic)
    assert not {s.incarnation for s in before.values()} & {s.incarnation for s in after.values()}
    assert reader.fetch(topic, {0: after[0].start}, 1000) == []
    append(log, topic, [outgoing(0, b"new")])
    assert payloads(read_all(reader, topic, {0: after[0].start}), 0) == [b"new"]


def test_dropping_an_unknown_topic_is_no_error(log: LogUnderTest) -> None:
    with closing(log.admin()) as admin:
        admin.drop("never-made")


def test_unknown_topic_is_not_found_everywhere(log: LogUnderTest, reader: LogReader) -> None:
    with pytest.raises(NotFoundError, match="never-made"):
        reader.partitions("never-made")
    with pytest.raises(NotFoundError, match="never-made"):
        reader.fetch("never-made", {0: 0}, 1000)
    with pytest.raises(NotFoundError, match="never-made"):
        reader.wait("never-made", {0: 0}, 10)
    with pytest.raises(NotFoundError, match="never-made"):
        append(log, "never-made", [outgoing(0, b"x")])
    with closing(log.admin()) as admin, pytest.raises(NotFoundError, match="never-made"):
        admin.trim("never-made", {0: 0})


def test_unknown_partition_is_not_found_and_nothing_of_the_batch_is_appended(
    log: LogUnderTest, topic: str, reader: LogReader
) -> None:
    with pytest.raises(NotFoundError, match="partition 4"):
        append(log, topic, [outgoing(0, b"x"), outgoing(4, b"y")])
    with pytest.raises(NotFoundError, match="partition 4"):
        reader.fetch(topic, {4: 0}, 1000)
    with pytest.raises(NotFoundError, match="partition 4"):
        reader.wait(topic, {4: 0}, 10)
    assert read_all(reader, topic, {0: 0}) == []


@pytest.mark.parametrize(("name", "partitions"), [("fine", 0), ("fine", -1), ("a/b", 1), ("", 1), ("é", 1)])
def test_impossible_topic_is_refused(log: LogUnderTest, name: str, partitions: int) -> None:
    with closing(log.admin()) as admin, pytest.raises(BadRequestError):
        admin.create(name, partitions)


# Appending and fetching.


def test_record_comes_back_as_it_went_in(log: LogUnderTest, topic: str, reader: LogReader) -> None:
    header = Header(events=2**40, id_sum=2**64 - 1, edge=2**63, sequence=2**50, definition_version=9)
    before_ms = time.time_ns() // 1_000_000
    [ends] = append(log, topic, [Outgoing(2, header, bytes(range(256)) * 5)])
    [record] = reader.fetch(topic, {2: 0}, 1 << 20)
    assert (record.partition, record.header, record.payload) == (2, header, bytes(range(256)) * 5)
    assert ends == {2: record.offset + 1}
    assert reader.partitions(topic)[2].end == record.offset + 1
    assert before_ms <= record.append_time_ms <= time.time_ns() // 1_000_000


def test_empty_append_and_empty_payload_are_fine(log: LogUnderTest, topic: str, reader: LogReader) -> None:
    assert append(log, topic, [], [outgoing(0, b"")])[0] == {}
    assert payloads(read_all(reader, topic, {0: 0}), 0) == [b""]


def test_batch_over_several_partitions_answers_with_the_end_of_each(
    log: LogUnderTest, topic: str, reader: LogReader
) -> None:
    batch = [outgoing(number, f"{number}-{i}".encode()) for i in range(3) for number in (3, 0, 1)]
    [ends] = append(log, topic, batch)
    found = read_all(reader, topic, dict.fromkeys(range(4), 0))
    assert sorted(ends) == [0, 1, 3]
    for number in (0, 1, 3):
        assert payloads(found, number) == [f"{number}-{i}".encode() for i in range(3)]
        assert ends[number] == 1 + max(record.offset for record in found if record.partition == number)
        assert reader.partitions(topic)[number].end == ends[number]
    assert reader.partitions(topic)[2].start == reader.partitions(topic)[2].end


def test_one_writers_appends_keep_their_order_and_offsets_grow(
    log: LogUnderTest, topic: str, reader: LogReader
) -> None:
    answers = append(log, topic, *[[outgoing(i % 4, str(i).encode())] for i in range(60)])
    found = read_all(reader, topic, dict.fromkeys(range(4), 0))
    for number in range(4):
        mine = [record for record in found if record.partition == number]
        assert [int(record.payload) for record in mine] == list(range(number, 60, 4))
        assert [record.offset + 1 for record in mine] == [answer[number] for answer in answers if number in answer]
        assert all(a.offset < b.offset and a.append_time_ms <= b.append_time_ms for a, b in itertools.pairwise(mine))


def test_pipelined_appends_keep_their_order(log: LogUnderTest, topic: str, reader: LogReader) -> None:
    async def run() -> None:
        writer = log.writer()
        await asyncio.gather(*[writer.append(topic, [outgoing(0, str(i).encode())]) for i in range(500)])
        await writer.close()

    asyncio.run(run())
    assert [int(payload) for payload in payloads(read_all(reader, topic, {0: 0}), 0)] == list(range(500))


def test_many_writers_at_once_lose_and_double_nothing(log: LogUnderTest, topic: str, reader: LogReader) -> None:
    async def one(number: int) -> dict[bytes, int]:
        writer = log.writer()
        mine = {}
        for i in range(25):
            payload = f"{number}-{i}".encode()
            ends = await writer.append(topic, [outgoing(i % 4, payload)])
            mine[payload] = ends[i % 4]
        await writer.close()
        return mine

    async def run() -> dict[bytes, int]:
        answers: dict[bytes, int] = {}
        for answer in await asyncio.gather(*[one(number) for number in range(32)]):
            answers |= answer
        return answers

    acknowledged = asyncio.run(run())
    found = read_all(reader, topic, dict.fromkeys(range(4), 0), bytes_max=500)
    assert len(found) == len(acknowledged) == 800
    assert {record.payload: record.offset + 1 for record in found} == acknowledged


def test_fetch_begins_at_the_offset_and_heeds_the_partitions_asked_for(
    log: LogUnderTest, topic: str, reader: LogReader
) -> None:
    append(log, topic, *[[outgoing(0, b"a%d" % i), outgoing(1, b"b%d" % i)] for i in range(10)])
    every = payloads(read_all(reader, topic, {0: 0}), 0)
    assert every == [b"a%d" % i for i in range(10)]
    middle = [record.offset for record in reader.fetch(topic, {1: 0}, 1 << 20)][6]
    assert payloads(reader.fetch(topic, {1: middle}, 1 << 20), 1) == [b"b%d" % i for i in range(6, 10)]
    assert reader.fetch(topic, {1: reader.partitions(topic)[1].end, 3: 0}, 1 << 20) == []


def test_fetch_is_limited_in_bytes_and_always_makes_progress(log: LogUnderTest, topic: str, reader: LogReader) -> None:
    sizes = [10, 5000, 200, 70_000, 1, 300, 300, 5000]
    append(log, topic, [outgoing(i % 2, bytes([i]) * size) for i, size in enumerate(sizes)])
    offsets, found, fetches = {0: 0, 1: 0}, [], 0
    while records := reader.fetch(topic, offsets, 1000):
        fetches += 1
        found += records
        size = sum(len(record.payload) for record in records)
        assert size <= 1500 or len(records) == 1
        offsets |= {record.partition: record.offset + 1 for record in records}
    assert fetches >= 5
    assert sorted(record.payload for record in found) == sorted(bytes([i]) * n for i, n in enumerate(sizes))


def test_large_records_survive(log: LogUnderTest, topic: str, reader: LogReader) -> None:
    large = random.Random(1).randbytes(8 << 20)
    append(log, topic, [outgoing(0, large), outgoing(1, large[::-1])], [outgoing(0, b"after")])
    found = read_all(reader, topic, {0: 0, 1: 0})
    assert payloads(found, 0) == [large, b"after"]
    assert payloads(found, 1) == [large[::-1]]


# Waiting.


def test_wait_says_no_when_the_time_is_over(topic: str, reader: LogReader) -> None:
    begun = time.monotonic()
    assert not reader.wait(topic, {0: 0, 1: 0}, 80)
    assert 0.07 <= time.monotonic() - begun < 5


def test_wait_says_yes_at_once_when_there_is_something(log: LogUnderTest, topic: str, reader: LogReader) -> None:
    append(log, topic, [outgoing(2, b"x")])
    begun = time.monotonic()
    assert reader.wait(topic, {0: 0, 2: 0}, 60_000)
    assert time.monotonic() - begun < 30
    assert not reader.wait(topic, {2: reader.partitions(topic)[2].end}, 0)


def test_wait_ignores_partitions_that_were_not_named(log: LogUnderTest, topic: str, reader: LogReader) -> None:
    append(log, topic, [outgoing(1, b"x")])
    assert not reader.wait(topic, {0: 0}, 50)


def test_wait_wakes_within_milliseconds_of_an_append(log: LogUnderTest, topic: str) -> None:
    woken: list[float] = []
    waiting = threading.Semaphore(0)
    rounds = 15

    def watch() -> None:
        with closing(log.reader()) as reader:
            offset = 0
            for _ in range(rounds):
                waiting.release()
                assert reader.wait(topic, {0: offset}, 30_000)
                woken.append(time.monotonic())
                offset = reader.partitions(topic)[0].end

    async def run() -> list[float]:
        writer = log.writer()
        appended = []
        for number in range(rounds):
            await asyncio.to_thread(waiting.acquire)
            await writer.append(topic, [outgoing(0, b"x")])
            appended.append(time.monotonic())
            while len(woken) <= number:
                await asyncio.sleep(0.0005)
        await writer.close()
        return appended

    thread = threading.Thread(target=watch)
    thread.start()
    appended = asyncio.run(run())
    thread.join()
    assert sorted(after - before for after, before in zip(woken, appended, strict=True))[rounds // 2] < 0.015


# Trimming.


def test_trimmed_records_are_a_gap_and_the_others_stay(log: LogUnderTest, topic: str, reader: LogReader) -> None:
    append(log, topic, *[[outgoing(0, b"a%d" % i), outgoing(1, b"b%d" % i)] for i in range(10)])
    floor = [record.offset for record in reader.fetch(topic, {0: 0}, 1 << 20)][4]
    with closing(log.admin()) as admin:
        admin.trim(topic, {0: floor})
        states = reader.partitions(topic)
        assert states[0].start == floor
        assert states[1].start < states[1].end
        with pytest.raises(LogGapError, match=rf"partition 0 of topic '{topic}'.* offset {floor - 1} .* {floor}"):
            reader.fetch(topic, {0: floor - 1, 1: 0}, 1 << 20)
        found = read_all(reader, topic, {0: floor, 1: 0})
        assert payloads(found, 0) == [b"a%d" % i for i in range(4, 10)]
        assert payloads(found, 1) == [b"b%d" % i for i in range(10)]
        admin.trim(topic, {0: 0})
        assert reader.partitions(topic)[0].start == floor


def test_partition_trimmed_to_its_end_is_empty_and_goes_on(log: LogUnderTest, topic: str, reader: LogReader) -> None:
    [ends] = append(log, topic, [outgoing(0, b"gone")])
    with closing(log.admin()) as admin:
        admin.trim(topic, ends)
    state = reader.partitions(topic)[0]
    assert state.start == state.end == ends[0]
    assert reader.fetch(topic, ends, 1000) == []
    [more] = append(log, topic, [outgoing(0, b"next")])
    assert more[0] > ends[0]
    assert payloads(read_all(reader, topic, ends), 0) == [b"next"]


def test_trimming_beyond_the_end_is_refused(log: LogUnderTest, topic: str, reader: LogReader) -> None:
    [ends] = append(log, topic, [outgoing(0, b"x")])
    with closing(log.admin()) as admin, pytest.raises(LogGapError, match=topic):
        admin.trim(topic, {0: ends[0] + 1})
    assert payloads(read_all(reader, topic, {0: 0}), 0) == [b"x"]


# Restarts and crashes.


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_restart_keeps_records_offsets_floors_and_incarnations(
    log: LogUnderTest, topic: str, reader: LogReader, end: str
) -> None:
    append(log, topic, *[[outgoing(i % 3, b"%d" % i)] for i in range(30)])
    floor = [record.offset for record in reader.fetch(topic, {0: 0}, 1 << 20)][3]
    with closing(log.admin()) as admin:
        admin.trim(topic, {0: floor})
        before, names = reader.partitions(topic), admin.topics()
        restart(log, log.stop if end == "stop" else log.kill)
        assert admin.topics() == names
    with closing(log.reader()) as fresh:
        for states in (reader.partitions(topic), fresh.partitions(topic)):
            # A log may take up to a minute to make a floor durable (Kafka does): after a crash it can lie lower again.
            floors = {number: state.start for number, state in states.items()}
            assert end == "kill" or floors == {number: state.start for number, state in before.items()}
            assert all(floors[number] <= before[number].start for number in before)
            assert {n: s._replace(start=0) for n, s in states.items()} == {
                n: s._replace(start=0) for n, s in before.items()
            }
        [ends] = append(log, topic, [outgoing(0, b"30"), outgoing(3, b"31")])
        assert ends[0] > before[0].end
        found = read_all(fresh, topic, {0: floor, 1: 0, 2: 0, 3: 0})
    assert payloads(found, 0) == [b"%d" % i for i in [*range(9, 30, 3), 30]]
    assert payloads(found, 1) == [b"%d" % i for i in range(1, 30, 3)]
    assert payloads(found, 3) == [b"31"]


def test_what_was_acknowledged_before_a_kill_is_there_once_and_whole(
    log: LogUnderTest, topic: str, reader: LogReader
) -> None:
    acknowledged: list[tuple[tuple[int, int], bytes]] = []
    refused: list[UnavailableError] = []

    async def one(number: int) -> None:
        writer = log.writer()
        try:
            for i in itertools.count():
                payload = f"{number}-{i}-".encode() * (1 + 3000 * (i % 3))
                ends = await writer.append(topic, [outgoing(number % 4, payload)])
                acknowledged.append(((number % 4, ends[number % 4]), payload))
        except UnavailableError as error:
            refused.append(error)
        await writer.close()

    async def run() -> None:
        appending = [asyncio.create_task(one(number)) for number in range(8)]
        while len(acknowledged) < 150:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(log.kill)
        await asyncio.gather(*appending)

    asyncio.run(run())
    log.start()
    assert len(refused) == 8
    records = read_all(reader, topic, dict.fromkeys(range(4), 0))
    found = {(record.partition, record.offset + 1): record.payload for record in records}
    assert len(set(found.values())) == len(found)
    assert all(found[end] == payload for end, payload in acknowledged)
    assert len(found) - len(acknowledged) <= 8


def test_writer_reader_and_admin_outlive_a_restart_of_the_server(
    log: LogUnderTest, topic: str, reader: LogReader
) -> None:
    async def run() -> None:
        writer = log.writer()
        await writer.append(topic, [outgoing(0, b"before")])
        await asyncio.to_thread(log.kill)
        with pytest.raises(UnavailableError) as refused:
            await writer.append(topic, [outgoing(0, b"never")])
        assert refused.value.retry_after_s is not None
        await asyncio.to_thread(log.start)
        await writer.append(topic, [outgoing(0, b"after")])
        await writer.close()

    with closing(log.admin()) as admin:
        assert topic in admin.topics()
        assert not reader.wait(topic, {0: 0}, 1)
        asyncio.run(run())
        assert reader.wait(topic, {0: 0}, 1000)
        assert payloads(read_all(reader, topic, {0: 0}), 0) == [b"before", b"after"]
        assert topic in admin.topics()


def test_without_a_server_writers_and_admins_say_so(log: LogUnderTest, topic: str) -> None:
    log.stop()
    try:
        with pytest.raises(UnavailableError):
            append(log, topic, [outgoing(0, b"x")])
        with closing(log.admin()) as admin, pytest.raises(UnavailableError):
            admin.topics()
    finally:
        log.start()


# The law.

_steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3000)), max_size=6)),
        st.tuples(st.just("trim"), st.tuples(st.integers(0, 2), st.integers(0, 100))),
        st.tuples(st.just("read"), st.integers(1, 5000)),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps)
def test_any_steps_leave_what_a_list_per_partition_would_hold(
    log: LogUnderTest, steps: list[tuple[str, object]]
) -> None:
    topic = make_topic(log, 3)
    model: dict[int, list[tuple[int, bytes]]] = {0: [], 1: [], 2: []}
    numbers = itertools.count()
    with closing(log.reader()) as reader, closing(log.admin()) as admin:
        for kind, argument in steps:
            match kind, argument:
                case "append", list(wanted):
                    batch = [outgoing(n, b"%d." % next(numbers) + b"x" * size) for n, size in wanted]
                    [ends] = append(log, topic, batch)
                    seen = {n: items[-1][0] + 1 if items else 0 for n, items in model.items()}
                    records = [r for r in reader.fetch(topic, seen, 1 << 30) if r.offset >= seen[r.partition]]
                    for record in records:
                        model[record.partition].append((record.offset, record.payload))
                    assert ends == {n: model[n][-1][0] + 1 for n, _ in wanted}
                    written = {r.payload for r in records}
                    assert written == {o.payload for o in batch}
                case "trim", (int(number), int(percent)):
                    state = reader.partitions(topic)[number]
                    floor = state.start + (state.end - state.start) * percent // 100
                    admin.trim(topic, {number: floor})
                case "read", int(bytes_max):
                    starts = {n: state.start for n, state in reader.partitions(topic).items()}
                    found = read_all(reader, topic, starts, bytes_max)
                    for number, items in model.items():
                        mine = [(r.offset, r.payload) for r in found if r.partition == number]
                        assert mine == [item for item in items if item[0] >= starts[number]]
