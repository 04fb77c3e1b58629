"""Appending to rta's topics: `KafkaWriter`, for asyncio.

An idempotent producer with `acks=all`: a record is acknowledged when every replica in sync has it, and a retry inside
the producer adds nothing twice. kafka-python's `send` may block, for metadata or for room, so it runs in one thread, which
also keeps the order of appends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kafka.errors as kafka_errors
import msgspec
from kafka import KafkaProducer

from rta.errors import InvariantError, NotFoundError, RtaError, TooLargeError, UnavailableError
from rta.log.base import Outgoing
from rta.log.kafka.reader import HEADER
from rta.log.kafka.session import Session, to_error, unknown_topic
from rta.log.kafka.settings import RECORD_BYTES_MAX, KafkaSettings

logger = logging.getLogger(__name__)
PENDING_BYTES_MAX = 256 << 20
"""Payloads that may be on their way to the brokers; more are refused. kafka-python itself sets no bound."""
_encode_header = msgspec.msgpack.Encoder().encode


class KafkaWriter:
    """A `LogWriter`. One per process; belongs to the event loop that it is used in."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="kafka-writer")
        self._session = Session(settings)
        self._producer: KafkaProducer | None = None
        self._pending_bytes = 0

    async def append(self, topic: str, records: Sequence[Outgoing]) -> dict[int, int]:
        """See `LogWriter`."""
        if not records:
            return {}
        size = sum(len(record.payload) for record in records)
        if self._pending_bytes and self._pending_bytes + size > PENDING_BYTES_MAX:
            raise UnavailableError(
                f"{self._pending_bytes} bytes are on their way to {self._settings.name}, at most {PENDING_BYTES_MAX} may be",
                "the brokers are slow or away; send the same again",
            )
        self._pending_bytes += size
        try:
            done = await self._sent(topic, records)
        finally:
            self._pending_bytes -= size
        ends: dict[int, int] = {}
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise self._failed(topic, outcome) from outcome
            ends[outcome.partition] = max(ends.get(outcome.partition, 0), outcome.offset + 1)
        return ends

    async def _sent(self, topic: str, records: Sequence[Outgoing]) -> list[Any]:
        """What became of each record: its metadata, or an exception."""
        loop = asyncio.get_running_loop()
        futures = await loop.run_in_executor(self._sender, self._send, topic, records, loop)
        return await asyncio.gather(*futures, return_exceptions=True)

    def _send(
        self, topic: str, records: Sequence[Outgoing], loop: asyncio.AbstractEventLoop
    ) -> list[asyncio.Future[Any]]:
        """In the sending thread: hand all records to the producer; their results as futures of the loop."""
        name = self._settings.topic(topic)
        try:
            missing = sorted({r.partition for r in records} - set(self._session.topic(topic).leaders))
            if missing:
                raise NotFoundError(f"topic '{topic}' has no partition {missing[0]} at {self._settings.name}")
            producer = self._open()
            return [self._hand_over(producer, name, record, loop) for record in records]
        except RtaError:
            raise
        except (kafka_errors.KafkaError, OSError) as error:
            raise self._failed(topic, error) from error

    @staticmethod
    def _hand_over(
        producer: KafkaProducer, topic: str, record: Outgoing, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Future[Any]:
        if len(record.payload) > RECORD_BYTES_MAX:
            raise TooLargeError(f"a record of {len(record.payload)} bytes is larger than {RECORD_BYTES_MAX} bytes")
        outcome: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if outcome.done():
                return
            if error is None:
                outcome.set_result(result)
            else:
                outcome.set_exception(error)

        headers = [(HEADER, _encode_header(record.header))]
        sent = producer.send(topic, bytes(record.payload), partition=record.partition, headers=headers)
        sent.add_callback(lambda result: loop.call_soon_threadsafe(settle, result, None))
        sent.add_errback(lambda error: loop.call_soon_threadsafe(settle, None, error))
        return outcome

    def _open(self) -> KafkaProducer:
        if self._producer is None:
            settings = self._settings
            self._producer = KafkaProducer(
                **settings.client(),
                acks="all",
                enable_idempotence=True,
                allow_auto_create_topics=False,
                linger_ms=0,
                batch_size=1 << 20,
                max_request_size=RECORD_BYTES_MAX + (1 << 20),
                delivery_timeout_ms=settings.delivery_ms,
                request_timeout_ms=settings.request_ms,
                max_block_ms=settings.request_ms,
                bootstrap_timeout_ms=settings.request_ms,
                metrics_enabled=False,
            )
        return self._producer

    def _failed(self, topic: str, error: BaseException) -> RtaError:
        """In rta's words. A producer that can't go on is replaced: the next append opens another."""
        if isinstance(error, RtaError):
            return error
        if isinstance(error, (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.InvalidTopicError)):
            return unknown_topic(self._settings, topic)
        if not isinstance(error, (kafka_errors.KafkaError, OSError)):
            return InvariantError(f"appending to topic '{topic}': {type(error).__name__}: {error}")
        self._sender.submit(self._session.forget, topic)
        if not isinstance(error, (kafka_errors.RetriableError, kafka_errors.MessageSizeTooLargeError)):
            logger.warning("the producer is replaced after %s: %s", type(error).__name__, error)
            self._sender.submit(self._replace)
        return to_error(self._settings, f"appending to topic '{topic}'", error)

    def _replace(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=0)

    async def close(self) -> None:
        """What is under way gets its time; nothing is waited for beyond it."""
        await asyncio.get_running_loop().run_in_executor(self._sender, self._close)
        self._sender.shutdown(wait=False)

    def _close(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=self._settings.delivery_ms / 1000)
        self._session.close()
