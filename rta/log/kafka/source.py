"""Reading topics that other producers fill: `SourceReader`, blocking, one per thread.

The same reader as for rta's own topics, by topic id and offset, but it hands out chunks of whole record batches instead of
records: their events are made from them in columns (`rta.log.kafka.batches`, `rta.events.records`). Only what is committed is
read. It never writes, trims or makes a topic, and joins no consumer group: how far it is stands in rta's manifests.
"""

from __future__ import annotations

import time
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
        return read_chunks(where, number, offset, bytes(part.records), aborted, time.time_ns() // 1_000_000)

    def starts(self, topic: str, start: str | int) -> dict[int, PartitionState]:
        """Like `partitions`, each with the offset from which a datasource reads that begins at `start` now.

        Args:
            start: "earliest", "latest", or milliseconds since 1970: the first record with such a timestamp or a later one.
        """
        asked = {"earliest": EARLIEST, "latest": LATEST}.get(start, start) if isinstance(start, str) else start
        assert isinstance(asked, int)
        known, found = self._look_up(topic, tuple({EARLIEST, LATEST, asked}))
        return {
            number: PartitionState(
                known.incarnation(number),
                # Where no record has such a timestamp yet, the next one will.
                found[asked][number] if found[asked][number] >= 0 else found[LATEST][number],
                found[LATEST][number],
            )
            for number in known.leaders
        }
