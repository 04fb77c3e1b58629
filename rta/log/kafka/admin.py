"""Making, dropping and trimming rta's topics: `KafkaAdmin`, blocking, one per thread.

Own topics stamp records with the broker's clock (`LogAppendTime`): with the producer's, retention would delete a late event
as soon as it arrives. `retention.ms` is a bound for a system that stands still; what is committed goes by `trim`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import kafka.errors as kafka_errors
from kafka.protocol.admin import CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest
from kafka.protocol.metadata import MetadataRequest

from rta.errors import BadRequestError, LogGapError, NotFoundError, UnavailableError
from rta.log.base import PartitionState
from rta.log.kafka.reader import KafkaReader
from rta.log.kafka.session import Session
from rta.log.kafka.settings import RECORD_BYTES_MAX, KafkaSettings

PARTITIONS_MAX = 1024
_NO_ID = uuid.UUID(int=0)
VISIBLE_S = 10.0
"""So long a new or dropped topic may take to be seen as such by the brokers that are asked."""


class KafkaAdmin:
    """A `LogAdmin`. Every method raises UnavailableError when no broker answers."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._session = Session(settings)
        self._reader = KafkaReader(settings)

    def create(self, topic: str, partitions: int) -> dict[int, PartitionState]:
        """See `LogAdmin`. Raises BadRequestError for an impossible name or number, or what the brokers refuse."""
        if not 1 <= partitions <= PARTITIONS_MAX:
            raise BadRequestError(f"topic '{topic}' can't have {partitions} partitions", f"use 1 to {PARTITIONS_MAX}")
        if not topic:
            raise BadRequestError("a topic's name can't be empty")
        self._session.run(f"creating topic '{topic}'", self._create, topic, partitions)
        return self._seen(lambda: self._reader.partitions(topic), (NotFoundError, UnavailableError))

    async def _create(self, topic: str, partitions: int) -> None:
        shape = CreateTopicsRequest.CreatableTopic
        values = {
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": str(self._settings.retention_ms),
            "retention.bytes": "-1",
            "cleanup.policy": "delete",
            "max.message.bytes": str(RECORD_BYTES_MAX + (1 << 20)),
            "compression.type": "producer",
        }
        if self._settings.in_sync is not None:
            values["min.insync.replicas"] = str(self._settings.in_sync)
        wanted = shape(
            name=self._settings.topic(topic),
            num_partitions=partitions,
            replication_factor=-1 if self._settings.replication is None else self._settings.replication,
            assignments=[],
            configs=[shape.CreatableTopicConfig(name=name, value=value) for name, value in values.items()],
        )
        request = CreateTopicsRequest(
            topics=[wanted], timeout_ms=self._settings.request_ms, validate_only=False, min_version=5, max_version=7
        )
        [answer] = (await self._to_controller(request, lambda r: r.topics[0].error_code)).topics
        error = kafka_errors.for_code(answer.error_code)
        if error in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
            return
        if issubclass(error, kafka_errors.RetriableError):
            raise error(answer.error_message)
        raise BadRequestError(
            f"creating topic '{wanted.name}' at {self._settings.name}: {error.__name__}: {answer.error_message}",
            "see the brokers' settings and rta's under 'kafka'",
        )

    def drop(self, topic: str) -> None:
        """See `LogAdmin`."""
        name = self._settings.topic(topic)
        doing = f"dropping topic '{topic}'"

        async def work() -> None:
            shape = DeleteTopicsRequest.DeleteTopicState
            request = DeleteTopicsRequest(
                topics=[shape(name=name, topic_id=_NO_ID)],
                timeout_ms=self._settings.request_ms,
                min_version=6,
                max_version=6,
            )
            answer = await self._to_controller(request, lambda r: r.responses[0].error_code)
            error = kafka_errors.for_code(answer.responses[0].error_code)
            if error not in (kafka_errors.NoError, kafka_errors.UnknownTopicOrPartitionError):
                raise error(answer.responses[0].error_message)

        self._session.run(doing, work)
        deadline = time.monotonic() + VISIBLE_S
        while topic in self.topics():
            if time.monotonic() > deadline:
                raise UnavailableError(f"{doing}: it is still there after {VISIBLE_S:.0f} s", "it is tried again")
            self._session.pause()

    def topics(self) -> list[str]:
        """See `LogAdmin`: those with rta's prefix."""
        prefix = self._settings.topic_prefix

        async def work() -> list[str]:
            request = MetadataRequest(topics=None, allow_auto_topic_creation=False, min_version=9, max_version=12)
            found = (await self._session.send(request)).topics
            ours = [t.name for t in found if not t.error_code and t.name.startswith(prefix)]
            return sorted(name.removeprefix(prefix) for name in ours)

        return self._session.run("listing topics", work)

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        """See `LogAdmin`. Raises LogGapError for an offset beyond a partition's end, NotFoundError."""
        states = self._reader.partitions(topic)
        for number, offset in offsets.items():
            if number not in states:
                raise NotFoundError(f"topic '{topic}' has no partition {number}")
            if offset > states[number].end:
                raise LogGapError(
                    f"partition {number} of topic '{topic}' ends at {states[number].end}, it can't be trimmed to {offset}",
                    "the log was lost or replaced; see 'log_gap' in docs/operations.md",
                )
        wanted = {number: offset for number, offset in offsets.items() if offset > states[number].start}
        if wanted:
            self._session.run(f"trimming topic '{topic}'", self._trim, topic, wanted)

    async def _trim(self, topic: str, offsets: dict[int, int]) -> None:
        leaders = (await self._session.look_up(topic)).leaders
        shape = DeleteRecordsRequest.DeleteRecordsTopic
        for node in sorted({leaders[number][0] for number in offsets}):
            partitions = [
                shape.DeleteRecordsPartition(partition_index=number, offset=offset)
                for number, offset in offsets.items()
                if leaders[number][0] == node
            ]
            request = DeleteRecordsRequest(
                topics=[shape(name=self._settings.topic(topic), partitions=partitions)],
                timeout_ms=self._settings.request_ms,
                min_version=1,
                max_version=2,
            )
            for entry in (await self._session.send(request, node)).topics[0].partitions:
                error = kafka_errors.for_code(entry.error_code)
                if error is not kafka_errors.NoError:
                    raise error(f"partition {entry.partition_index}")

    async def _to_controller(self, request: Any, code: Callable[[Any], int]) -> Any:
        """Send to the controller, whichever it is by now."""
        deadline = time.monotonic() + self._settings.request_ms / 1000
        while True:
            found = await self._session.send(MetadataRequest(topics=[], min_version=9, max_version=12))
            answer = await self._session.send(request, found.controller_id)
            moved = code(answer) == kafka_errors.NotControllerError.errno
            if not moved or time.monotonic() > deadline:
                return answer
            await self._session.sleep(0.1)

    def _seen(
        self, look: Callable[[], dict[int, PartitionState]], not_yet: tuple[type[Exception], ...]
    ) -> dict[int, PartitionState]:
        deadline = time.monotonic() + VISIBLE_S
        while True:
            try:
                return look()
            except not_yet:
                if time.monotonic() > deadline:
                    raise
            self._session.pause()

    def close(self) -> None:
        self._session.close()
        self._reader.close()
