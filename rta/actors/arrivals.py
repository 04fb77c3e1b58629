"""What a reader hands out as what the fold takes in: batches of rows. One of these for each load.

rta's own topics hold rows already. Of a topic that other producers fill, whole record batches are unpacked and decoded here, in
columns, and what is refused goes on as rows of the table `rejected`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from rta.events.batch import read
from rta.events.keys import id_sum, identities_of
from rta.events.records import OFFSET, DecodedRecords, RecordDecoder, Records, texts
from rta.events.schemas import REJECTED_SCHEMA, TIMESTAMP, Datasource
from rta.log.base import Record
from rta.stream.model import BatchArrived

WORD = 1 << 64


class Arrivals(Protocol):
    """Records as a `LogReader` hands them out → batches, in the same order of offsets."""

    def batches(self, records: Sequence[Any]) -> list[BatchArrived]: ...


class OwnArrivals:
    """Records of rta's own topics."""

    def __init__(self, datasource: Datasource) -> None:
        self._datasource = datasource

    def batches(self, records: Sequence[Record]) -> list[BatchArrived]:
        """Raises CorruptFileError: a payload is no Arrow stream."""
        return [
            BatchArrived(
                partition=r.partition,
                offset=r.offset,
                append_time_ms=r.append_time_ms,
                events=r.header.events,
                id_sum=r.header.id_sum,
                rows=read(r.payload, self._datasource),
            )
            for r in records
        ]


class SourceArrivals:
    """Chunks of another producer's topic.

    Args:
        datasource: As the fold needs it.
        incarnations: Of the partitions of this load, in the log.
        event_bytes: What one event may have.
    """

    def __init__(self, datasource: Datasource, incarnations: Mapping[int, str], event_bytes: int) -> None:
        from rta.log.kafka.batches import Unpacker

        self._datasource = datasource
        self._unpacker = Unpacker.make()
        self._decoders = {
            partition: RecordDecoder(datasource, partition, incarnation, event_bytes)
            for partition, incarnation in incarnations.items()
        }

    def batches(self, records: Sequence[Any]) -> list[BatchArrived]:
        """Raises CorruptFileError: a batch is not what it says."""
        return [self._batch(chunk) for chunk in records]

    def _batch(self, chunk: Any) -> BatchArrived:
        where = f"partition {chunk.partition} of topic '{self._datasource.topic}'"
        records = self._unpacker.unpack(where, chunk)
        decoder = self._decoders[chunk.partition]
        decoded = decoder.decode(records, chunk.append_time_ms)
        hashes = decoder.refused_hashes(decoded, records)
        refused_sum = id_sum(hashes)
        kept_sum = id_sum(identities_of(decoded.rows, self._datasource)) if decoded.rows.num_rows else 0
        return BatchArrived(
            partition=chunk.partition,
            offset=chunk.offset,
            append_time_ms=chunk.append_time_ms,
            events=decoded.events,
            id_sum=(kept_sum + refused_sum) % WORD,
            rows=decoded.rows,
            rejected=self._rejected(decoded, records, chunk.partition, chunk.append_time_ms),
            rejected_sum=refused_sum,
        )

    def _rejected(
        self, decoded: DecodedRecords, records: Records, partition: int, append_time_ms: int
    ) -> pa.Table | None:
        refused = decoded.refused
        if not refused:
            return None
        count = len(refused)
        offsets = records.fields[OFFSET, [each.record for each in refused]]
        return pa.Table.from_arrays(
            [
                pa.array(np.full(count, append_time_ms, np.int64)).view(TIMESTAMP),
                pa.array([each.verdict.reason for each in refused], pa.string()),
                pa.array([each.verdict.detail for each in refused], pa.string()),
                texts(refused),
                pa.array([each.verdict.event_id for each in refused], pa.string()),
                pa.array([self._datasource.topic] * count, pa.string()),
                pa.array(np.full(count, partition, np.int32)),
                pa.array(offsets),
            ],
            schema=REJECTED_SCHEMA,
        )


def arrivals_of(datasource: Datasource, incarnations: Mapping[int, str], event_bytes: int) -> Arrivals:
    """For one load of the datasource, as its fold needs it."""
    if datasource.source is None:
        return OwnArrivals(datasource)
    return SourceArrivals(datasource, incarnations, event_bytes)
