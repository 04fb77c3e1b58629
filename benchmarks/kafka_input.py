"""The events of `benchmarks.input` as a topic that other producers have filled, and as columns to check answers with.

Owns the files in the temporary folder that hold what is made once: the events as columns, and per kind of topic the
record batches of each partition. Partitions are picked by `user_id` as Java's producer does, `CreateTime` is the event
time, retention is off. A topic of JSON has an event in each record; one of Arrow has an IPC stream of about 5,000 in each.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.input import CHUNK, START_MS, USERS, lines

import kafka.errors as kafka_errors  # isort: skip
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from kafka.admin import KafkaAdminClient
from kafka.partitioner.default import murmur2
from kafka.protocol.producer import ProduceRequest

from benchmarks.kafka_batches import batch, batches_of, records_in
from rta.log.kafka.session import Session
from rta.log.kafka.settings import KafkaSettings

Format = Literal["json", "arrow"]
PARTITIONS = 4
BLOCK = 200_000
"""Events that are made at once; a multiple of `CHUNK`. A batch holds events of one block."""
ARROW_EVENTS = 5_000
IN_FLIGHT = 5
REQUEST_MS = 30_000
CACHE_VERSION = 1
FLAT = {
    **{name: (name,) for name in ("event_id", "event_type", "user_id", "session_id")},
    **{
        name: ("properties", name)
        for name in (
            "page_url",
            "page_path",
            "page_title",
            "referrer",
            "user_agent",
            "ip_address",
            "country",
            "device_type",
        )
    },
    **{name: ("custom_properties", name) for name in ("product_id", "category", "price")},
}
"""Every member of an event but its time, by the name that its column has."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a topic holds. `batch_kb` is about what a batch takes once it is compressed."""

    events: int
    format: Format = "json"
    batch_kb: int = 64

    @property
    def label(self) -> str:
        return f"{self.format}-{self.batch_kb}" if self.format == "json" else self.format


# -- made once -------------------------------------------------------------------------------------------------------


def columns(events: int) -> pa.Table:
    """The events as columns: `timestamp` in milliseconds and those of `FLAT`."""
    return pq.read_table(_events_file(events))


def batch_files(shape: Shape) -> list[Path]:
    """One file of record batches for each partition."""
    folder = _folder(shape.events)
    files = [folder / f"{shape.label}-{partition}.batches" for partition in range(PARTITIONS)]
    if not all(file.exists() for file in files):
        with tempfile.TemporaryDirectory(dir=folder) as made:
            parts = [Path(made) / file.name for file in files]
            for block in _blocks(shape):
                for part, batches in zip(parts, block, strict=True):
                    with part.open("ab") as growing:
                        growing.writelines(batches)
            for part, file in zip(parts, files, strict=True):
                part.replace(file)
    return files


def _folder(events: int) -> Path:
    folder = Path(tempfile.gettempdir()) / f"rta-benchmark-{os.getuid()}-kafka-{CACHE_VERSION}-{events}"
    folder.mkdir(exist_ok=True)
    return folder


def _events_file(events: int) -> Path:
    path = _folder(events) / "events.parquet"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        with pq.ParquetWriter(partial, _flat(lines(0, 1)).schema, compression="zstd") as writer:
            for first in range(0, events, BLOCK):
                writer.write_table(_flat(_text(first, min(BLOCK, events - first))))
        partial.replace(path)
    return path


def _text(first: int, count: int) -> bytes:
    return b"".join(lines(at, min(CHUNK, first + count - at)) for at in range(first, first + count, CHUNK))


def _flat(text: bytes) -> pa.Table:
    """NDJSON as columns, by a reader that rta does not use."""
    frame = pl.read_ndjson(io.BytesIO(text), infer_schema_length=None)
    nested = [
        (pl.col(path[0]) if len(path) == 1 else pl.col(path[0]).struct.field(path[1])).alias(name)
        for name, path in FLAT.items()
    ]
    at = pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%S%.3fZ", time_unit="ms", time_zone="UTC")
    table = frame.select(at, *nested).with_columns(pl.col("price").cast(pl.Float64)).to_arrow()
    texts = [pa.field(f.name, pa.string() if pa.types.is_large_string(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(texts)).combine_chunks()


def partition_of_users() -> dict[str, int]:
    """Where Java's default partitioner puts each of the users."""
    names = [f"user_{number}" for number in range(USERS)]
    return {name: (murmur2(name.encode()) & 0x7FFF_FFFF) % PARTITIONS for name in names}


def _blocks(shape: Shape) -> Iterator[list[list[bytes]]]:
    """Batches of each partition, block by block."""
    users = partition_of_users()
    known = pl.DataFrame({"user_id": list(users), "partition": list(users.values())})
    every = columns(shape.events)
    for first in range(0, shape.events, BLOCK):
        rows = every.slice(first, BLOCK)
        placed = pl.DataFrame({"user_id": pl.Series(rows["user_id"])}).join(known, on="user_id", maintain_order="left")
        numbers = placed["partition"].to_numpy()
        values: pa.Array | None = None
        if shape.format == "json":
            values = pa.array(_text(first, rows.num_rows).splitlines(), pa.binary())
        yield [
            _batches(shape, rows.take(pa.array(mine)), values.take(pa.array(mine)) if values is not None else None)
            for mine in (np.flatnonzero(numbers == partition) for partition in range(PARTITIONS))
        ]


def _batches(shape: Shape, rows: pa.Table, values: pa.Array | None) -> list[bytes]:
    times = rows["timestamp"].cast(pa.int64()).to_numpy()
    if values is None:
        each = -(-rows.num_rows // max(1, round(rows.num_rows / ARROW_EVENTS)))
        streams = [(stream(rows.slice(at, each)), times[at : at + 1]) for at in range(0, rows.num_rows, each)]
        return [batch(None, pa.array([data], pa.binary()), at) for data, at in streams]
    keys = rows["user_id"].combine_chunks()
    tried = batch(keys[:100], values[:100], times[:100])
    each = max(1, shape.batch_kb * 1024 * 100 // len(tried))
    return [
        batch(keys[at : at + each], values[at : at + each], times[at : at + each]) for at in range(0, len(values), each)
    ]


def stream(rows: pa.Table) -> bytes:
    """One Arrow IPC stream of one record batch, as `pyarrow` writes it when it is not told otherwise."""
    sink = pa.BufferOutputStream()
    whole = rows.combine_chunks()
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    data: bytes = sink.getvalue().to_pybytes()
    return data


# -- into the broker -------------------------------------------------------------------------------------------------


def create_topic(servers: str, name: str) -> None:
    configs = {"retention.ms": "-1", "message.timestamp.type": "CreateTime", "max.message.bytes": str(32 << 20)}
    # Event times of the past or the future are what a producer may send.
    configs |= {"message.timestamp.before.max.ms": str(2**63 - 1), "message.timestamp.after.max.ms": str(2**63 - 1)}
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        wanted: Any = {name: {"num_partitions": PARTITIONS, "replication_factor": 1, "configs": configs}}
        admin.create_topics(wanted, wait_for_metadata=True)
    finally:
        admin.close()


class Producer:
    """Sends batches that are ready, in order, a few requests at a time; every replica in sync has them when it returns.

    Belongs to one thread.
    """

    def __init__(self, servers: str, topic: str) -> None:
        settings = KafkaSettings(servers=(servers,), topic_prefix="", request_ms=REQUEST_MS)
        self._session = Session(settings)
        self._topic = topic
        self._leaders = self._session.topic(topic).leaders

    def send(self, partitions: list[Iterator[bytes]]) -> int:
        """Send everything; a request holds the next batch of each partition. Returns how many records that were.

        Raises:
            KafkaError: a broker refused something.
        """
        return self._session.run(f"filling '{self._topic}'", self._send, partitions)

    async def _send(self, partitions: list[Iterator[bytes]]) -> int:
        under_way: deque[Any] = deque()
        records = 0
        for turn in itertools.zip_longest(*partitions):
            batches = {partition: each for partition, each in enumerate(turn) if each}
            records += records_in(list(batches.values()))
            under_way.append(self._session.start(self._request(batches), self._leaders[0][0], REQUEST_MS))
            if len(under_way) >= IN_FLIGHT:
                _check(await under_way.popleft())
        while under_way:
            _check(await under_way.popleft())
        return records

    def _request(self, batches: dict[int, bytes]) -> ProduceRequest:
        shape = ProduceRequest.TopicProduceData
        data = [shape.PartitionProduceData(index=number, records=each) for number, each in batches.items()]
        return ProduceRequest(
            transactional_id=None,
            acks=-1,
            timeout_ms=REQUEST_MS,
            topic_data=[shape(name=self._topic, partition_data=data)],
            min_version=9,
            max_version=9,
        )

    def close(self) -> None:
        self._session.close()


def _check(answer: Any) -> None:
    for part in [part for topic in answer.responses for part in topic.partition_responses]:
        error = kafka_errors.for_code(part.error_code)
        if error is not kafka_errors.NoError:
            raise error(f"partition {part.index}: {part.error_message}")


def fill(servers: str, topic: str, shape: Shape, times: int = 1) -> float:
    """Make a topic and put the events into it, `times` over. Returns the seconds that took."""
    files = batch_files(shape)
    create_topic(servers, topic)
    producer = Producer(servers, topic)
    begun_s = time.monotonic()
    try:
        for _ in range(times):
            producer.send([batches_of(file) for file in files])
    finally:
        producer.close()
    return time.monotonic() - begun_s


class Feed(threading.Thread):
    """Events at a steady rate into a topic, gathered for `GATHER_S` as a producer does with `linger.ms`."""

    GATHER_S = 0.01

    def __init__(self, servers: str, topic: str, rate: int, first: int = 0) -> None:
        super().__init__(daemon=True)
        self._servers, self._topic, self._rate, self._first = servers, topic, rate, first
        self._users = partition_of_users()
        self._ending = threading.Event()
        self.sent = 0
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            producer = Producer(self._servers, self._topic)
            try:
                self._feed(producer)
            finally:
                producer.close()
        except Exception as error:  # noqa: BLE001 - told by `finish`
            self.problem = error

    def _feed(self, producer: Producer) -> None:
        each = max(1, round(self._rate * self.GATHER_S))
        due_s = time.monotonic()
        for first in itertools.count(self._first, CHUNK):
            values = lines(first // CHUNK * CHUNK, CHUNK).splitlines()
            for at in range(0, CHUNK, each):
                due_s += each / self._rate
                if self._ending.wait(max(0.0, due_s - time.monotonic())):
                    return
                some = values[at : at + each]
                producer.send([iter([b] if b else []) for b in self._parts(some)])
                self.sent += len(some)

    def _parts(self, values: list[bytes]) -> list[bytes]:
        """A batch for each partition; an empty one where nothing is for it."""
        now_ms = time.time_ns() // 1_000_000
        mine: list[list[tuple[str, bytes]]] = [[] for _ in range(PARTITIONS)]
        for value in values:
            user = value.split(b'"user_id":"', 1)[1].split(b'"', 1)[0].decode()
            mine[self._users[user]].append((user, value))
        return [_live_batch(pairs, now_ms) if pairs else b"" for pairs in mine]

    def finish(self) -> None:
        self._ending.set()
        self.join()
        if self.problem is not None:
            raise self.problem


def _live_batch(pairs: list[tuple[str, bytes]], now_ms: int) -> bytes:
    keys, values = pa.array([user for user, _ in pairs]), pa.array([value for _, value in pairs], pa.binary())
    return batch(keys, values, np.full(len(pairs), now_ms))


def send_one(producer: Producer, user: str, value: bytes, partition: int) -> None:
    """One record, acknowledged when it returns."""
    ready = _live_batch([(user, value)], time.time_ns() // 1_000_000)
    producer.send([iter([ready] if number == partition else []) for number in range(PARTITIONS)])


def forget(events: int) -> None:
    """Remove what was made for so many events."""
    shutil.rmtree(_folder(events), ignore_errors=True)


__all__ = [
    "PARTITIONS",
    "START_MS",
    "Feed",
    "Producer",
    "Shape",
    "batch_files",
    "columns",
    "create_topic",
    "fill",
    "forget",
    "send_one",
]
