"""Reading topics that other producers fill: `SourceReader`, blocking, one per thread.

The same reader as for rta's own topics, by topic id and offset, but it hands out chunks of whole record batches instead of
records: their events are made from them in columns (`rta.log.kafka.batches`, `rta.events.records`). Only what is committed is
read. It never writes, trims or makes a topic, and joins no consumer group: how far it is stands in rta's manifests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from rta.log.base import PartitionState
from rta.log.kafka.batches import Aborted, Chunk, read_chunks
from rta.log.kafka.reader import EARLIEST, LATEST, KafkaReader
from rta.log.kafka.settings import KafkaSettings


class SourceReader(KafkaReader):
    """A `LogReader` of topics under their own names, whose records are `Chunk`s."""

    ISOLATION = 1

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__(msgspec.structs.replace(settings, topic_prefix=""))

    def _read(self, number: int, offset: int, part: Any) -> Sequence[Chunk]:
        aborted = [Aborted(each.producer_id, each.first_offset) for each in part.aborted_transactions or ()]
        where = f"partition {number} of topic '{self._topic}'"
        return read_chunks(where, number, offset, bytes(part.records), aborted)

    def starts(self, topic: str, start: str | int) -> dict[int, PartitionState]:
        """The partitions, each with the offset from which a datasource reads that begins at `start` now.

        Args:
            start: "earliest", "latest", or milliseconds since 1970: the first record with such a timestamp or a later one.
        """
        states = self.partitions(topic)
        if start == "earliest":
            return states
        if start == "latest":
            return {number: state._replace(start=state.end) for number, state in states.items()}
        assert isinstance(start, int)
        known = self._session.topic(topic)
        doing = f"asking for the offsets of topic '{topic}' by time"
        found = self._session.run(doing, self._offsets, topic, known, (start,))[start]
        return {
            number: state._replace(start=found[number] if found.get(number, -1) >= 0 else state.end)
            for number, state in states.items()
        }


__all__ = ["EARLIEST", "LATEST", "SourceReader"]
