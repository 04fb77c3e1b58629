"""Appending to rta's topics: `KafkaWriter`, for asyncio.

All the talking is done by one thread (`rta.log.kafka.produce`); what is acknowledged has been acknowledged by every replica
in sync.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from rta.errors import NotFoundError, RtaError, TooLargeError, UnavailableError
from rta.log.base import Outgoing
from rta.log.kafka.produce import Producer, Waiting
from rta.log.kafka.settings import RECORD_BYTES_MAX, KafkaSettings

T = TypeVar("T")
PENDING_BYTES_MAX = 256 << 20
"""Payloads that may be on their way to the brokers; more are refused."""


class KafkaWriter:
    """A `LogWriter`. One per process; belongs to the event loop that it is used in."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer = Producer(settings)
        self._partitions: dict[str, frozenset[int]] = {}
        self._looking: dict[str, asyncio.Future[frozenset[int]]] = {}
        self._pending_bytes = 0

    async def append(self, topic: str, records: Sequence[Outgoing]) -> dict[int, int]:
        """See `LogWriter`."""
        if not records:
            return {}
        size = self._checked_size(records)
        await self._check_partitions(topic, {record.partition for record in records})
        loop = asyncio.get_running_loop()
        by_partition: dict[int, list[Outgoing]] = {}
        for record in records:
            by_partition.setdefault(record.partition, []).append(record)
        outcomes: list[asyncio.Future[int]] = [loop.create_future() for _ in by_partition]

        def settled(outcome: asyncio.Future[int], end: int | RtaError) -> None:
            loop.call_soon_threadsafe(_settle, outcome, end)

        self._pending_bytes += size
        try:
            self._producer.put(
                [
                    Waiting(topic, number, tuple(mine), lambda end, outcome=outcome: settled(outcome, end))  # type: ignore[misc]  # mypy can't infer a default's type
                    for (number, mine), outcome in zip(by_partition.items(), outcomes, strict=True)
                ]
            )
            done = await asyncio.gather(*outcomes, return_exceptions=True)
        finally:
            self._pending_bytes -= size
        for end in done:
            if isinstance(end, BaseException):
                if isinstance(end, NotFoundError):
                    self._partitions.pop(topic, None)
                raise end
        return {number: end for number, end in zip(by_partition, done, strict=True) if isinstance(end, int)}

    async def _check_partitions(self, topic: str, wanted: set[int]) -> None:
        """Raises NotFoundError before anything is sent."""
        known = self._partitions.get(topic)
        if known is None:
            looking = self._looking.get(topic)
            if looking is None:
                looking = self._looking[topic] = asyncio.ensure_future(self._look_up(topic))
                looking.add_done_callback(lambda _: self._looking.pop(topic, None))
            known = await asyncio.shield(looking)
        if missing := sorted(wanted - known):
            raise NotFoundError(f"topic '{topic}' has no partition {missing[0]} at {self._settings.name}")

    async def _look_up(self, topic: str) -> frozenset[int]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[frozenset[int]] = loop.create_future()

        def tell(outcome: frozenset[int] | RtaError) -> None:
            loop.call_soon_threadsafe(_settle, found, outcome)

        self._producer.look_up(topic, tell)
        known = self._partitions[topic] = await found
        return known

    def _checked_size(self, records: Sequence[Outgoing]) -> int:
        """Bytes of the payloads. Raises TooLargeError, or UnavailableError when too much is on its way already."""
        largest = max(len(record.payload) for record in records)
        if largest > RECORD_BYTES_MAX:
            raise TooLargeError(
                f"a record of {largest} bytes is larger than {RECORD_BYTES_MAX} bytes", "send less at once"
            )
        size = sum(len(record.payload) for record in records)
        if self._pending_bytes and self._pending_bytes + size > PENDING_BYTES_MAX:
            raise UnavailableError(
                f"{self._pending_bytes} bytes are on their way to {self._settings.name}, at most {PENDING_BYTES_MAX} may be",
                "the brokers are slow or away; send the same again",
            )
        return size

    async def close(self) -> None:
        """What is under way gets its time; nothing is waited for beyond it."""
        await asyncio.to_thread(self._producer.close)


def _settle(outcome: asyncio.Future[T], end: T | RtaError) -> None:
    if outcome.done():
        return
    if isinstance(end, RtaError):
        outcome.set_exception(end)
    else:
        outcome.set_result(end)
