"""Topics of other producers at a real broker: what their clients write is read, only what is committed, and never past a gap."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from rta.errors import LogGapError, NotFoundError
from rta.log.kafka.batches import Unpacker
from rta.log.kafka.settings import KafkaSettings
from rta.log.kafka.source import SourceReader
from tests.log.test_kafka_batches import Read, records_of
from tests.services.kafka import Kafka

LIMIT_S = 30.0
BYTES = 8 << 20
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    kafka = Kafka()
    yield kafka
    kafka.close()


@pytest.fixture
def admin(broker: Kafka) -> Iterator[KafkaAdminClient]:
    with closing(KafkaAdminClient(bootstrap_servers=broker.servers)) as client:
        yield client


@pytest.fixture
def reader(broker: Kafka) -> Iterator[SourceReader]:
    with closing(SourceReader(KafkaSettings(servers=(broker.servers,), request_ms=3000))) as opened:
        yield opened


@pytest.fixture
def topic(admin: KafkaAdminClient, reader: SourceReader) -> str:
    """A topic of two partitions."""
    return make(admin, reader, f"foreign-{next(_numbers)}", 2)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline, pause = time.monotonic() + LIMIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT_S:.0f} s"
        pause.wait(0.05)


def is_there(reader: SourceReader, topic: str, partitions: int) -> bool:
    try:
        return len(reader.partitions(topic)) == partitions
    except NotFoundError:
        return False


def make(admin: KafkaAdminClient, reader: SourceReader, name: str, partitions: int, **configs: str) -> str:
    """A topic that the broker knows by now."""
    configured = {key.replace("_", "."): value for key, value in configs.items()}
    wanted = NewTopic(name, partitions, 1, topic_configs=configured)
    until(lambda: is_made(admin, wanted), f"topic '{name}' is made")
    until(lambda: is_there(reader, name, partitions), f"topic '{name}' is there")
    return name


def is_made(admin: KafkaAdminClient, wanted: NewTopic) -> bool:
    """A broker that was started again may not take it at once; one that said nothing may have made it."""
    try:
        admin.create_topics([wanted])
    except TopicAlreadyExistsError:
        return True
    except KafkaError as error:
        if error.retriable:
            return False
        raise
    return True


def producer(broker: Kafka, **options: Any) -> KafkaProducer:
    return KafkaProducer(bootstrap_servers=broker.servers, linger_ms=20, **options)


def put(broker: Kafka, topic: str, *values: bytes, partition: int = 0, **options: Any) -> list[int]:
    """Write records as other producers do; their offsets."""
    with closing(producer(broker, **options)) as client:
        sent = [client.send(topic, value, partition=partition) for value in values]
        return [each.get(timeout=LIMIT_S).offset for each in sent]


def read_on(reader: SourceReader, topic: str, offsets: dict[int, int], count: int, wait_ms: int = 500) -> list[Read]:
    """Exactly so many records, from the offsets on, which go on with them."""
    unpacker = Unpacker.make()
    found: list[Read] = []

    def enough() -> bool:
        reader.wait(topic, offsets, wait_ms)
        chunks: Sequence[Any] = reader.fetch(topic, offsets, BYTES)
        for chunk in chunks:
            for records, _ in unpacker.unpack("here", chunk):
                found.extend(records_of(records))
            offsets[chunk.partition] = chunk.offset + 1
        return len(found) >= count

    until(enough, f"{count} records of '{topic}'")
    assert len(found) == count
    return found


def has_nothing(reader: SourceReader, topic: str, offsets: dict[int, int]) -> bool:
    return not reader.fetch(topic, offsets, BYTES) and not reader.wait(topic, offsets, 200)


@pytest.mark.parametrize("codec", [None, "gzip", "lz4", "zstd"])
def test_every_codec_of_a_client_is_read(broker: Kafka, topic: str, reader: SourceReader, codec: str | None) -> None:
    values = [b"value %d " % i * (i % 50) for i in range(500)]
    with closing(producer(broker, compression_type=codec)) as client:
        for i, value in enumerate(values):
            client.send(topic, value, key=b"k%d" % i, headers=[("h", b"x"), ("n", b"%d" % i)], partition=i % 2)
        client.flush()
    offsets = {0: 0, 1: 0}
    found = read_on(reader, topic, offsets, 500)
    by_key = {read.key: read for read in found}
    assert [by_key[b"k%d" % i].value for i in range(500)] == values
    assert by_key[b"k7"].headers == ((b"h", b"x"), (b"n", b"7"))
    assert offsets == {0: 250, 1: 250} == {p: s.end for p, s in reader.partitions(topic).items()}


def test_topic_that_is_not_there_is_said(reader: SourceReader) -> None:
    with pytest.raises(NotFoundError, match="no topic 'nowhere'") as caught:
        reader.partitions("nowhere")
    assert caught.value.hint == "make the topic first, or name another one"


def test_broker_may_compress_with_snappy(
    broker: Kafka, admin: KafkaAdminClient, reader: SourceReader, topic: str
) -> None:
    """The Java code of the broker packs again what came in another codec: its framing of snappy."""
    name = make(admin, reader, f"snappy-{next(_numbers)}", 1, compression_type="snappy")
    values = [b"value %d " % i * 50 for i in range(1000)]
    put(broker, name, *values)
    assert [read.value for read in read_on(reader, name, {0: 0}, 1000)] == values
    payloads = b"".join(bytes(chunk.payload) for chunk in reader.fetch(name, {0: 0}, BYTES))
    assert b"\x82SNAPPY\x00" in payloads


def test_append_time_of_the_broker_is_the_records_time(
    broker: Kafka, admin: KafkaAdminClient, reader: SourceReader
) -> None:
    name = make(admin, reader, f"appended-{next(_numbers)}", 1, message_timestamp_type="LogAppendTime")
    with closing(producer(broker)) as client:
        client.send(name, b"v", timestamp_ms=12_345).get(timeout=LIMIT_S)
    [read] = read_on(reader, name, {0: 0}, 1)
    assert abs(read.time_ms - time.time() * 1000) < 60_000


# -- transactions ----------------------------------------------------------------------------------------------------


def test_only_what_is_committed_is_read_and_an_open_transaction_holds_the_end(
    broker: Kafka, topic: str, reader: SourceReader
) -> None:
    offsets = {0: 0}
    with closing(producer(broker, transactional_id=f"t-{topic}")) as client:
        client.init_transactions()
        client.begin_transaction()
        client.send(topic, b"aborted", partition=0)
        client.flush()
        client.abort_transaction()
        client.begin_transaction()
        client.send(topic, b"committed", partition=0)
        client.flush()
        client.commit_transaction()
        assert [r.value for r in read_on(reader, topic, offsets, 1)] == [b"committed"]
        until(lambda: has_nothing(reader, topic, offsets), "the markers are read")
        assert offsets[0] == reader.partitions(topic)[0].end == 4

        client.begin_transaction()
        client.send(topic, b"open", partition=0)
        client.flush()
        put(broker, topic, b"behind it")
        assert has_nothing(reader, topic, offsets)
        assert reader.partitions(topic)[0].end == 4
        client.commit_transaction()
    assert [r.value for r in read_on(reader, topic, offsets, 2)] == [b"open", b"behind it"]


# -- where to start --------------------------------------------------------------------------------------------------


def test_start_is_the_earliest_the_latest_or_a_time(broker: Kafka, topic: str, reader: SourceReader) -> None:
    with closing(producer(broker)) as client:
        for i in range(10):
            client.send(topic, b"v", partition=0, timestamp_ms=1_000_000 + i).get(timeout=LIMIT_S)
    for start, first in (
        ("earliest", (0, 0)),
        ("latest", (10, 0)),
        (0, (0, 0)),
        (1_000_004, (4, 0)),
        (1_000_009, (9, 0)),
        (1_000_010, (10, 0)),
    ):
        states = reader.starts(topic, start)
        assert {p: s.start for p, s in states.items()} == dict(enumerate(first)), start
        assert {p: (s.end, s.incarnation) for p, s in states.items()} == {
            p: (s.end, s.incarnation) for p, s in reader.partitions(topic).items()
        }


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_reading_goes_on_after_the_broker_was_killed(broker: Kafka, topic: str, reader: SourceReader) -> None:
    put(broker, topic, b"before", acks="all")
    offsets = {0: 0, 1: 0}
    assert [r.value for r in read_on(reader, topic, offsets, 1)] == [b"before"]
    broker.kill()
    broker.start()
    put(broker, topic, b"after", partition=1)
    assert [r.value for r in read_on(reader, topic, offsets, 1)] == [b"after"]


def gap(reader: SourceReader, topic: str, offsets: dict[int, int]) -> str:
    """What is said of the gap; nothing while there is none."""
    try:
        reader.wait(topic, offsets, 100)
        reader.fetch(topic, offsets, BYTES)
    except LogGapError as error:
        return error.message
    except NotFoundError:
        return ""
    return ""


def test_topic_made_again_is_a_gap(broker: Kafka, admin: KafkaAdminClient, topic: str, reader: SourceReader) -> None:
    put(broker, topic, b"old")
    offsets = {0: 0}
    read_on(reader, topic, offsets, 1)
    before = reader.partitions(topic)[0].incarnation
    admin.delete_topics([topic])
    with closing(SourceReader(KafkaSettings(servers=(broker.servers,)))) as other:
        until(lambda: not is_there(other, topic, 2), "the topic is gone")
        make(admin, other, topic, 2)
        put(broker, topic, b"new", b"newer")
        until(lambda: "was deleted and made again" in gap(reader, topic, offsets), "the gap is seen")
        assert other.partitions(topic)[0].incarnation != before


def test_retention_that_overtakes_is_a_gap_with_both_offsets(
    broker: Kafka, admin: KafkaAdminClient, topic: str, reader: SourceReader
) -> None:
    put(broker, topic, *[b"v"] * 10)
    offsets = {0: 0}
    read_on(reader, topic, offsets, 10)
    admin.delete_records({TopicPartition(topic, 0): 7})
    assert reader.partitions(topic)[0].start == 7
    assert len(read_on(reader, topic, {0: 7}, 3)) == 3
    with pytest.raises(LogGapError, match=r"offset 4 comes next, but its records begin at 7 and end at 10"):
        reader.fetch(topic, {0: 4}, BYTES)


def test_partitions_that_are_added_are_seen(
    broker: Kafka, admin: KafkaAdminClient, topic: str, reader: SourceReader
) -> None:
    before = reader.partitions(topic)
    admin.create_partitions({topic: 3})
    until(lambda: is_there(reader, topic, 3), "the third partition is there")
    now = reader.partitions(topic)
    assert {p: now[p].incarnation for p in before} == {p: s.incarnation for p, s in before.items()}
    put(broker, topic, b"new", partition=2)
    assert [r.value for r in read_on(reader, topic, {0: 0, 1: 0, 2: 0}, 1)] == [b"new"]


def test_a_partition_that_is_far_behind_keeps_none_of_the_others_waiting(
    broker: Kafka, admin: KafkaAdminClient, reader: SourceReader
) -> None:
    topic = make(admin, reader, f"foreign-{next(_numbers)}", 3)
    for partition in range(3):
        put(broker, topic, *([b"x" * 200_000] * 10), partition=partition, batch_size=1)
    offsets = dict.fromkeys(range(3), 0)
    seen: list[int] = []
    while len(seen) < 6:
        for chunk in reader.fetch(topic, offsets, 400_000):
            offsets[chunk.partition] = chunk.offset + 1
            seen.append(chunk.partition)
    assert set(seen) == {0, 1, 2}
