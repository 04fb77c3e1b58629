"""Reading rta's topics: `KafkaReader`, blocking, one per thread.

Fetches are asked by topic id and offset (protocol version 13), never by name: records of a topic that was deleted and
made again can't be taken for the old one's. At most one fetch per leading broker is under way; while one waits at a
broker for something to arrive, answers of the others are handed out, and an empty answer means that every broker has
said so.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import kafka.errors as kafka_errors
import msgspec
from kafka.protocol.consumer import FetchRequest, ListOffsetsRequest
from kafka.record import MemoryRecords

from rta.errors import CorruptFileError, LogGapError, NotFoundError, UnavailableError
from rta.log.base import Header, PartitionState, Record
from rta.log.kafka.session import Session, Topic
from rta.log.kafka.settings import KafkaSettings

HEADER = "rta"
"""Name of the record header that carries `rta.log.base.Header`."""
FETCH_BYTES = 8 << 20
REASK_MS = 50
"""How long a broker that had nothing may hold the next fetch while another one is still being waited for."""
EARLIEST, LATEST = -2, -1
GAP_HINT = "the log was trimmed, lost or replaced; see 'log_gap' in docs/operations.md"
_decode_header = msgspec.msgpack.Decoder(Header).decode


class _LeaderMovedError(Exception):
    """A broker is not, or not yet, the one to ask."""


class _OutOfRangeError(Exception):
    """A partition does not hold an offset."""

    def __init__(self, partition: int, offset: int) -> None:
        super().__init__(partition, offset)
        self.partition, self.offset = partition, offset


class _Asked(NamedTuple):
    """A fetch under way at one broker."""

    topic: str
    id: object
    offsets: dict[int, int]
    future: Any


@dataclass(slots=True)
class _Held:
    """Records of one partition that have arrived and were not asked for yet; the answer to a fetch at `offset`."""

    offset: int
    records: deque[Any] = field(default_factory=deque)


class KafkaReader:
    """A `LogReader`. Connects when it is asked something.

    `ISOLATION` 1 reads what is committed only: of a topic in which producers use transactions.
    """

    ISOLATION = 0

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._session = Session(settings)
        self._asked: dict[int, _Asked] = {}
        self._held: dict[int, _Held] = {}
        self._topic = ""
        self._fetch_bytes = FETCH_BYTES
        self._turn = 0
        self._first_asked = 0

    def partitions(self, topic: str) -> dict[int, PartitionState]:
        """See `LogReader`. What `fetch` reads from here on is the topic that had the name at this moment."""
        known, found = self._look_up(topic, (EARLIEST, LATEST))
        return {
            number: PartitionState(known.incarnation(number), found[EARLIEST][number], found[LATEST][number])
            for number in known.leaders
        }

    def _look_up(self, topic: str, times: Sequence[int]) -> tuple[Topic, dict[int, dict[int, int]]]:
        """The topic that has the name now, and its `_offsets`. Raises NotFoundError, UnavailableError."""
        deadline = time.monotonic() + self._settings.request_ms / 1000
        doing = f"asking for the offsets of topic '{topic}'"
        while True:
            known = self._session.topic(topic, fresh=True)
            try:
                return known, self._session.run(doing, self._offsets, topic, known, times)
            except _LeaderMovedError as error:
                if time.monotonic() > deadline:
                    raise UnavailableError(f"{doing} at {self._settings.name}: {error}", "it is tried again") from error
                self._session.pause()

    async def _offsets(self, name: str, topic: Topic, times: Sequence[int]) -> dict[int, dict[int, int]]:
        """Per time (or EARLIEST, LATEST) and partition the first offset that is not before it; -1 where there is none."""
        nodes = sorted({node for node, _ in topic.leaders.values()})
        if nodes[:1] == [-1]:
            raise _LeaderMovedError("a partition has no leader")
        waiting = [
            (time_ms, self._session.start(self._list(name, topic, node, time_ms), node, self._settings.request_ms))
            for node in nodes
            for time_ms in times
        ]
        found: dict[int, dict[int, int]] = {time_ms: {} for time_ms in times}
        for time_ms, future in waiting:
            for entry in (await future).topics[0].partitions:
                error = kafka_errors.for_code(entry.error_code)
                if error is not kafka_errors.NoError:
                    said = f"partition {entry.partition_index}"
                    retriable = issubclass(error, kafka_errors.RetriableError)
                    raise _LeaderMovedError(f"{said}: {error.__name__}") if retriable else error(said)
                found[time_ms][entry.partition_index] = entry.offset
        return found

    def _list(self, name: str, topic: Topic, node: int, time_ms: int) -> Any:
        shape = ListOffsetsRequest.ListOffsetsTopic
        partitions = [
            shape.ListOffsetsPartition(partition_index=number, current_leader_epoch=-1, timestamp=time_ms)
            for number, (leader, _) in topic.leaders.items()
            if leader == node
        ]
        topics = [shape(name=self._settings.topic(name), partitions=partitions)]
        return ListOffsetsRequest(
            replica_id=-1, isolation_level=self.ISOLATION, topics=topics, min_version=4, max_version=7
        )

    def fetch(self, topic: str, offsets: Mapping[int, int], bytes_max: int) -> list[Record]:
        """See `LogReader`. Raises LogGapError also when the topic is another one than before, or ends before an offset."""
        self._fetch_bytes = bytes_max
        if not self._has(topic, offsets):
            self._receive(topic, offsets, 0)
        return self._hand_out(offsets, bytes_max)

    def wait(self, topic: str, offsets: Mapping[int, int], timeout_ms: int) -> bool:
        """See `LogReader`. What arrives is kept for the next `fetch`."""
        if not self._has(topic, offsets):
            self._receive(topic, offsets, timeout_ms)
        return self._has(topic, offsets)

    def close(self) -> None:
        self._session.close()

    # -- what has arrived --------------------------------------------------------------------------------------------

    def _has(self, topic: str, offsets: Mapping[int, int]) -> bool:
        """Whether something of what is asked is here already. What does not continue the offsets is thrown away."""
        if topic != self._topic:
            self._topic, self._held, self._asked = topic, {}, {}
        self._held = {p: h for p, h in self._held.items() if offsets.get(p, h.offset) == h.offset}
        return any(self._held[p].records for p in offsets if p in self._held)

    def _hand_out(self, offsets: Mapping[int, int], bytes_max: int) -> list[Record]:
        """Records of about `bytes_max`, at least one; partitions take turns in being the first."""
        numbers = [p for p in sorted(offsets) if p in self._held and self._held[p].records]
        self._turn += 1
        first = self._turn % len(numbers) if numbers else 0
        taken: list[Record] = []
        room = bytes_max
        for number in numbers[first:] + numbers[:first]:
            held = self._held[number]
            while held.records and (not taken or len(held.records[0].payload) <= room):
                record = held.records.popleft()
                held.offset = record.offset + 1
                room -= len(record.payload)
                taken.append(record)
        return taken

    # -- fetching ----------------------------------------------------------------------------------------------------

    def _receive(self, topic: str, offsets: Mapping[int, int], wait_ms: int) -> None:
        """Until something has arrived, or `wait_ms` are over and every broker has said that it has nothing."""
        began = time.monotonic()
        while True:
            known = self._session.topic(topic)
            missing = sorted(set(offsets) - set(known.leaders))
            if missing:
                raise NotFoundError(f"topic '{topic}' has no partition {missing[0]}")
            left_ms = max(0, wait_ms - round((time.monotonic() - began) * 1000))
            doing = f"reading topic '{topic}'"
            try:
                self._session.run(doing, self._rounds, known, dict(offsets), left_ms)
                return
            except _OutOfRangeError as error:
                self._check_range(topic, known, error)
            except _LeaderMovedError as error:
                if (time.monotonic() - began) * 1000 > self._settings.request_ms + wait_ms:
                    raise UnavailableError(f"{doing} at {self._settings.name}: {error}", "it is tried again") from error
            self._session.pause()
            self._check_same(topic, known)

    def _check_range(self, topic: str, before: Topic, error: _OutOfRangeError) -> None:
        """Raises LogGapError unless the broker only was not up to date."""
        self._check_same(topic, before)
        state = self.partitions(topic)[error.partition]
        if not state.start <= error.offset <= state.end:
            raise LogGapError(
                f"partition {error.partition} of topic '{topic}': offset {error.offset} comes next, "
                f"but its records begin at {state.start} and end at {state.end}",
                GAP_HINT,
            )

    def _check_same(self, name: str, before: Topic) -> None:
        """Raises LogGapError, or NotFoundError, when the topic is not the one that has been read so far."""
        now = self._session.topic(name, fresh=True)
        if now.id != before.id:
            raise LogGapError(
                f"topic '{name}' was deleted and made again: it is '{now.id.hex}', not '{before.id.hex}'",
                "what the old one held and was not committed is lost; see 'log_gap' in docs/operations.md",
            )

    async def _rounds(self, topic: Topic, offsets: dict[int, int], wait_ms: int) -> None:
        """Fetch. Raises _LeaderMovedError when the brokers have to be looked up again, _OutOfRangeError."""
        began = time.monotonic()
        answered: set[int] = set()
        nodes = {topic.leaders[p][0] for p in offsets}
        if -1 in nodes:
            raise _LeaderMovedError("a partition has no leader")
        while True:
            left_ms = max(0, wait_ms - round((time.monotonic() - began) * 1000))
            self._ask(topic, offsets, answered, left_ms)
            await self._session.first_of([a.future for a in self._asked.values()], self._settings.request_ms + wait_ms)
            for node in [n for n, asked in self._asked.items() if asked.future.is_done]:
                asked = self._asked.pop(node)
                self._take(asked, offsets)
                answered.add(node)
            if any(self._held[p].records for p in offsets if p in self._held):
                return
            if nodes <= answered and (time.monotonic() - began) * 1000 >= wait_ms:
                return

    def _ask(self, topic: Topic, offsets: dict[int, int], answered: set[int], wait_ms: int) -> None:
        """See to it that every leader of what is wanted has a fetch of ours.

        A broker fills its answer from the first partition that is named; so each is named first in its turn.
        """
        numbers = sorted(offsets)
        first = self._first_asked % len(numbers) if numbers else 0
        by_node: dict[int, dict[int, int]] = {}
        for number in numbers[first:] + numbers[:first]:
            by_node.setdefault(topic.leaders[number][0], {})[number] = offsets[number]
        self._asked = {
            node: asked
            for node, asked in self._asked.items()
            if asked.id == topic.id and asked.offsets == by_node.get(node)
        }
        for node, wanted in by_node.items():
            if node not in self._asked:
                self._first_asked += 1
                held_ms = max(wait_ms, REASK_MS) if node in answered else wait_ms
                future = self._session.start(
                    self._request(topic, wanted, held_ms), node, self._settings.request_ms + held_ms
                )
                self._asked[node] = _Asked(self._topic, topic.id, wanted, future)

    def _request(self, topic: Topic, offsets: dict[int, int], wait_ms: int) -> Any:
        shape = FetchRequest.FetchTopic
        partitions = [
            shape.FetchPartition(
                partition=number,
                current_leader_epoch=topic.leaders[number][1],
                fetch_offset=offset,
                last_fetched_epoch=-1,
                log_start_offset=-1,
                partition_max_bytes=self._fetch_bytes,
            )
            for number, offset in offsets.items()
        ]
        return FetchRequest(
            max_wait_ms=wait_ms,
            min_bytes=1,
            max_bytes=self._fetch_bytes,
            isolation_level=self.ISOLATION,
            session_id=0,
            session_epoch=-1,
            topics=[shape(topic_id=topic.id, partitions=partitions)],
            forgotten_topics_data=[],
            rack_id="",
            min_version=13,
            max_version=13,
        )

    def _take(self, asked: _Asked, offsets: dict[int, int]) -> None:
        """Keep what an answer brought."""
        if asked.future.failed():
            error = asked.future.exception
            raise _LeaderMovedError(f"{error}") if isinstance(error, kafka_errors.RetriableError) else error
        for part in [part for entry in asked.future.value.responses for part in entry.partitions]:
            number, error_type = part.partition_index, kafka_errors.for_code(part.error_code)
            if error_type is kafka_errors.OffsetOutOfRangeError:
                raise _OutOfRangeError(number, asked.offsets[number])
            if error_type is not kafka_errors.NoError:
                said = f"partition {number} of topic '{self._topic}': {error_type.__name__}"
                raise (
                    _LeaderMovedError(said) if issubclass(error_type, kafka_errors.RetriableError) else error_type(said)
                )
            if part.records and offsets.get(number) == asked.offsets[number]:
                records = self._read(number, asked.offsets[number], part)
                self._held[number] = _Held(asked.offsets[number], deque(records))

    def _read(self, number: int, offset: int, part: Any) -> Sequence[Any]:
        """What one partition's part of an answer holds, from `offset` on."""
        return read_records(self._topic, number, offset, part.records)


def read_records(topic: str, partition: int, offset: int, data: bytes) -> list[Record]:
    """The records of a fetch's answer, from `offset` on.

    Raises:
        CorruptFileError: a checksum does not match, or a record is none of rta's.
    """
    found: list[Record] = []
    batches = MemoryRecords(bytes(data))
    while (batch := batches.next_batch()) is not None:
        if not batch.validate_crc():
            raise CorruptFileError(
                f"partition {partition} of topic '{topic}': checksum of offset {batch.base_offset} is wrong"
            )
        if batch.is_control_batch:
            continue
        for entry in batch:
            if entry.offset < offset:
                continue
            header = next((value for name, value in entry.headers if name == HEADER), None)
            if header is None or entry.value is None:
                raise CorruptFileError(
                    f"partition {partition} of topic '{topic}', offset {entry.offset}: this record is none of rta's",
                    "nobody else may write to rta's topics; read other producers' topics by a datasource's 'source'",
                )
            found.append(Record(partition, entry.offset, entry.timestamp, _decode_header(header), entry.value))
    return found
