"""An idempotent producer: records in order to their partitions' leaders, each counted once however often it is sent.

At most one request per broker is under way, and takes everything that waits for that broker's partitions; so requests
grow with the load, and a partition's batches never overtake each other. A batch that may or may not have arrived is
sent again, the same bytes with the same sequence numbers, which the broker recognises. When it is given up all the same,
the producer takes a new id: its sequence can't go on over a gap, nor use a number twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import kafka.errors as kafka_errors
import msgspec
from kafka.net.wakeup_notifier import WakeupNotifier
from kafka.protocol.producer import InitProducerIdRequest, ProduceRequest
from kafka.record.default_records import DefaultRecordBatchBuilder

from rta.errors import NotFoundError, RtaError
from rta.log.base import Outgoing
from rta.log.kafka.reader import HEADER
from rta.log.kafka.session import Session, Topic
from rta.log.kafka.settings import KafkaSettings

logger = logging.getLogger(__name__)
BATCH_BYTES = 8 << 20
REQUEST_BYTES = 48 << 20
"""A broker takes requests of up to 100 MB (`socket.request.max.bytes`)."""
PAUSE_S = 0.05
GATHER_S = 0.5
"""What comes later does not share the deadline of what waits already."""
PRODUCE_VERSION = 9
ALL_IN_SYNC = -1
_REORDERED = (
    kafka_errors.OutOfOrderSequenceNumberError,
    kafka_errors.UnknownProducerIdError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.InvalidProducerIdMappingError,
)
"""The broker has forgotten, or never knew, how far we were: nothing was appended, a new id begins anew."""
_encode_header = msgspec.msgpack.Encoder().encode


class Waiting(NamedTuple):
    """Records of one partition that wait for their end, or for an error; `settled` is called once, in the producer's thread."""

    topic: str
    partition: int
    records: tuple[Outgoing, ...]
    settled: Callable[[int | RtaError], None]


class _Identity(NamedTuple):
    id: int
    epoch: int


@dataclass(slots=True)
class _Batch:
    """What goes to one partition in one request. `encoded` stays the same over all its tries."""

    topic: str
    partition: int
    waiting: list[Waiting]
    since: float
    identity: _Identity | None = None
    encoded: bytes = b""
    tries: int = 0
    in_flight: bool = False
    last_error: Exception | None = None

    @property
    def records(self) -> Iterable[Outgoing]:
        return (record for waiting in self.waiting for record in waiting.records)

    def settle(self, base_offset: int) -> None:
        for waiting in self.waiting:
            base_offset += len(waiting.records)
            waiting.settled(base_offset)

    def fail(self, error: RtaError) -> None:
        for waiting in self.waiting:
            waiting.settled(error)


class Producer:
    """See the module. `put` and `close` may be called from any thread; the rest happens in the producer's own."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._session = Session(settings)
        self._wakeup: WakeupNotifier = self._session.notifier()
        self._new: deque[Waiting] = deque()
        self._queues: dict[tuple[str, int], deque[_Batch]] = {}
        self._busy: set[int] = set()
        self._identity: _Identity | None = None
        self._sequences: dict[tuple[str, int], int] = {}
        self._closing = False
        self._closed = threading.Event()
        self._session.start_thread()
        self._session.soon(self._run)

    def put(self, waiting: Sequence[Waiting]) -> None:
        self._new.extend(waiting)
        self._wakeup.notify()

    def look_up(self, topic: str, settled: Callable[[frozenset[int] | RtaError], None]) -> None:
        """Tell, in the producer's thread, which partitions a topic has."""
        self._session.soon(self._look_up, topic, settled)

    async def _look_up(self, topic: str, settled: Callable[[frozenset[int] | RtaError], None]) -> None:
        try:
            await self._session.patiently(self._session.connected)
            settled(frozenset((await self._session.patiently(self._session.known_topic, topic)).leaders))
        except RtaError as error:
            settled(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits is told
            settled(self._session.error(f"looking up topic '{topic}'", error))

    def close(self) -> None:
        """Give what is under way its time, then end."""
        self._closing = True
        self._wakeup.notify()
        self._closed.wait(self._settings.delivery_ms / 1000 + self._settings.request_ms / 1000)
        self._session.close()

    # -- the producer's thread ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not (self._closing and not self._new and not self._queues):
                await self._wakeup(PAUSE_S if self._queues else None)
                self._gather()
                try:
                    await self._dispatch()
                except Exception as error:  # noqa: BLE001 - whatever it is, who waits is told, and the producer goes on
                    await self._stumbled(error)
        finally:
            self._closed.set()

    def _gather(self) -> None:
        """Put what is new behind what waits already, in batches of up to `BATCH_BYTES`."""
        now = time.monotonic()
        while self._new:
            waiting = self._new.popleft()
            queue = self._queues.setdefault((waiting.topic, waiting.partition), deque())
            last = queue[-1] if queue else None
            full = last is not None and _size(last.records) + _size(waiting.records) > BATCH_BYTES
            if last is None or last.encoded or full or now - last.since > GATHER_S:
                queue.append(_Batch(waiting.topic, waiting.partition, [waiting], now))
            else:
                last.waiting.append(waiting)

    async def _dispatch(self) -> None:
        self._expire()
        if not self._queues:
            return
        await self._session.connected()
        if self._identity is None:
            self._identity = await self._new_identity()
            self._sequences.clear()
        topics = {name: await self._topic(name) for name in sorted({topic for topic, _ in self._queues})}
        by_node: dict[int, list[_Batch]] = {}
        for (name, partition), queue in list(self._queues.items()):
            topic = topics[name]
            if topic is None or partition not in topic.leaders:
                self._refuse(name, partition, topic)
            elif (node := topic.leaders[partition][0]) == -1:
                self._session.forget(name)
            elif node not in self._busy:
                by_node.setdefault(node, []).append(queue[0])
        for node, batches in by_node.items():
            taken = self._taken(batches)
            self._busy.add(node)
            self._session.soon(self._exchange, node, taken)

    async def _topic(self, name: str) -> Topic | None:
        try:
            return await self._session.known_topic(name)
        except NotFoundError:
            return None

    def _refuse(self, name: str, partition: int, topic: Topic | None) -> None:
        """Nobody can take these: the topic is not there, or has no such partition."""
        what = f"topic '{name}'" if topic is None else f"partition {partition} of topic '{name}'"
        error = NotFoundError(f"there is no {what} at {self._settings.name}", "was it deleted?")
        for batch in self._queues.pop((name, partition)):
            batch.fail(error)

    async def _new_identity(self) -> _Identity:
        request = InitProducerIdRequest(
            transactional_id=None, transaction_timeout_ms=60_000, min_version=2, max_version=4
        )
        answer = await self._session.send(request)
        error = kafka_errors.for_code(answer.error_code)
        if error is not kafka_errors.NoError:
            raise error("asking for a producer's id")
        return _Identity(answer.producer_id, answer.producer_epoch)

    def _taken(self, batches: list[_Batch]) -> list[_Batch]:
        """As many as fit into one request, ready to be sent; at least one."""
        taken: list[_Batch] = []
        room = REQUEST_BYTES
        for batch in batches:
            if not batch.encoded:
                self._encode(batch)
            room -= len(batch.encoded)
            if taken and room < 0:
                break
            taken.append(batch)
        return taken

    def _encode(self, batch: _Batch) -> None:
        assert self._identity is not None
        key = (batch.topic, batch.partition)
        sequence = self._sequences.get(key, 0)
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=False,
            producer_id=self._identity.id,
            producer_epoch=self._identity.epoch,
            base_sequence=sequence,
            batch_size=1 << 31,
        )
        now_ms = time.time_ns() // 1_000_000
        count = 0
        for record in batch.records:
            headers = [(HEADER, _encode_header(record.header))]
            builder.append(count, now_ms, None, bytes(record.payload), headers)
            count += 1
        batch.encoded = bytes(builder.build())
        batch.identity = self._identity
        self._sequences[key] = (sequence + count) & 0x7FFF_FFFF

    async def _exchange(self, node: int, batches: list[_Batch]) -> None:
        """Send the batches to a broker and take its answer."""
        shape = ProduceRequest.TopicProduceData
        by_topic: dict[str, list[_Batch]] = {}
        for batch in batches:
            by_topic.setdefault(batch.topic, []).append(batch)
            batch.tries += 1
            batch.in_flight = True
        topics = [
            shape(
                name=self._settings.topic(name),
                partition_data=[shape.PartitionProduceData(index=b.partition, records=b.encoded) for b in mine],
            )
            for name, mine in by_topic.items()
        ]
        request = ProduceRequest(
            transactional_id=None,
            acks=ALL_IN_SYNC,
            timeout_ms=self._settings.request_ms,
            topic_data=topics,
            min_version=PRODUCE_VERSION,
            max_version=PRODUCE_VERSION,
        )
        try:
            answer = await self._session.start(request, node, self._settings.request_ms)
            names = {self._settings.topic(name): name for name in by_topic}
            sent = {(batch.topic, batch.partition): batch for batch in batches}
            for topic in answer.responses:
                for part in topic.partition_responses:
                    self._answered(sent[names[topic.name], part.index], part)
        except Exception as error:  # noqa: BLE001 - the batches wait on and keep it, to say it when they are given up
            logger.info("appending at node %d: %s: %s", node, type(error).__name__, error)
            for batch in batches:
                batch.last_error = error
                self._session.forget(batch.topic)
        finally:
            for batch in batches:
                batch.in_flight = False
            if any(batch.last_error is not None for batch in batches):
                await self._session.sleep(PAUSE_S)
            self._busy.discard(node)
            self._wakeup.notify()

    def _answered(self, batch: _Batch, part: Any) -> None:
        """What a broker says of one batch: it is in, it is to be sent again, or it never will be."""
        error = kafka_errors.for_code(part.error_code)
        batch.last_error = None if error is kafka_errors.NoError else error(part.error_message or "")
        if error is kafka_errors.NoError:
            self._done(batch)
            batch.settle(part.base_offset)
        elif error in _REORDERED and batch.tries == 1:
            self._identity = None if batch.identity == self._identity else self._identity
            batch.encoded = b""
        elif issubclass(error, kafka_errors.RetriableError):
            self._session.forget(batch.topic)
        else:
            self._done(batch)
            self._give_up(batch)

    def _done(self, batch: _Batch) -> None:
        queue = self._queues[batch.topic, batch.partition]
        queue.popleft()
        if not queue:
            del self._queues[batch.topic, batch.partition]

    def _give_up(self, batch: _Batch) -> None:
        """Tell who waits. If it may have arrived, what follows goes under a new id."""
        if batch.encoded:
            self._identity = None
        error = batch.last_error or kafka_errors.KafkaTimeoutError("not acknowledged in time")
        doing = f"appending to partition {batch.partition} of topic '{batch.topic}'"
        batch.fail(self._session.error(doing, error))

    def _expire(self) -> None:
        """Give up what has waited for too long and is not on its way just now."""
        oldest = time.monotonic() - self._settings.delivery_ms / 1000
        for queue in list(self._queues.values()):
            while queue and queue[0].since < oldest and not queue[0].in_flight:
                batch = queue[0]
                self._done(batch)
                self._give_up(batch)

    async def _stumbled(self, error: Exception) -> None:
        """Brokers that are away are tried again; anything else fails what waits."""
        if not isinstance(error, (kafka_errors.KafkaError, OSError, RtaError)):
            logger.exception("the producer stumbled")
        lasting = isinstance(error, kafka_errors.AuthorizationError) or self._session.keeps_out(error)
        if lasting or not isinstance(error, (kafka_errors.KafkaError, OSError, RtaError)):
            said = error if isinstance(error, RtaError) else self._session.error("appending", error)
            for batch in [b for queue in self._queues.values() for b in queue if not b.in_flight]:
                self._queues[batch.topic, batch.partition].remove(batch)
                batch.fail(said)
            self._queues = {key: queue for key, queue in self._queues.items() if queue}
            self._identity = None
        await self._session.sleep(PAUSE_S)


def _size(records: Iterable[Outgoing]) -> int:
    return sum(len(record.payload) for record in records)
