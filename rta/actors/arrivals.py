"""What a reader hands out as what the fold takes in: batches of rows. One of these for each load.

rta's own topics hold rows already. Of a topic that other producers fill, whole record batches are unpacked and decoded here, in
columns, and what is refused goes on as rows of the table `rejected`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from rta.errors import CorruptLogError
from rta.events.batch import read
from rta.events.keys import id_sum, identities_of
from rta.events.records import OFFSET, ROWS_BYTES, DecodedRecords, RecordDecoder, Records, texts
from rta.events.schemas import REJECTED_SCHEMA, TIMESTAMP, Datasource
from rta.log.base import Record
from rta.stream.model import BatchArrived

WORD = 1 << 64


class Arrivals(Protocol):
    """Records as a `LogReader` hands them out → batches, in the same order of offsets; those of one list fit into memory
    together."""

    def batches(self, records: Sequence[Any]) -> Iterator[list[BatchArrived]]: ...


class OwnArrivals:
    """Records of rta's own topics."""

    def __init__(self, datasource: Datasource) -> None:
        self._datasource = datasource

    def batches(self, records: Sequence[Record]) -> Iterator[list[BatchArrived]]:
        """Raises CorruptFileError: a payload is no Arrow stream."""
        yield [
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

    def batches(self, records: Sequence[Any]) -> Iterator[list[BatchArrived]]:
        """Raises CorruptLogError: a batch is not what it says; after those that are in front of it."""
        gathered: list[BatchArrived] = []
        size = 0
        try:
            for batch in itertools.chain.from_iterable(map(self._batches, records)):
                gathered.append(batch)
                size += batch.rows.nbytes + (0 if batch.rejected is None else batch.rejected.nbytes)
                if size >= ROWS_BYTES:
                    yield gathered
                    gathered, size = [], 0
        except CorruptLogError:
            if gathered:
                yield gathered
            raise
        if gathered:
            yield gathered

    def _batches(self, chunk: Any) -> Iterator[BatchArrived]:
        where = f"partition {chunk.partition} of topic '{self._datasource.topic}'"
        decoder = self._decoders[chunk.partition]
        for records, last in self._unpacker.unpack(where, chunk):
            for decoded in decoder.decode(records, chunk.append_time_ms):
                is_all = decoded.end == records.fields.shape[1]
                offset = last if is_all else int(records.fields[OFFSET, decoded.end - 1])
                hashes = decoder.refused_hashes(decoded, records)
                yield self._batch(chunk, offset, decoded, self._rejected(decoded, records, chunk), id_sum(hashes))

    def _batch(
        self, chunk: Any, offset: int, decoded: DecodedRecords, rejected: pa.Table | None, rejected_sum: int
    ) -> BatchArrived:
        kept_sum = id_sum(identities_of(decoded.rows, self._datasource)) if decoded.rows.num_rows else 0
        return BatchArrived(
            partition=chunk.partition,
            offset=offset,
            append_time_ms=chunk.append_time_ms,
            events=decoded.events,
            id_sum=(kept_sum + rejected_sum) % WORD,
            rows=decoded.rows,
            rejected=rejected,
            rejected_sum=rejected_sum,
        )

    def _rejected(self, decoded: DecodedRecords, records: Records, chunk: Any) -> pa.Table | None:
        refused = decoded.refused
        if not refused:
            return None
        count = len(refused)
        offsets = records.fields[OFFSET, [each.record for each in refused]]
        return pa.Table.from_arrays(
            [
                pa.array(np.full(count, chunk.append_time_ms, np.int64)).view(TIMESTAMP),
                pa.array([each.verdict.reason for each in refused], pa.string()),
                pa.array([each.verdict.detail for each in refused], pa.string()),
                texts(refused),
                pa.array([each.verdict.event_id for each in refused], pa.string()),
                pa.array([self._datasource.topic] * count, pa.string()),
                pa.array(np.full(count, chunk.partition, np.int32)),
                pa.array(offsets),
            ],
            schema=REJECTED_SCHEMA,
        )


def arrivals_of(datasource: Datasource, incarnations: Mapping[int, str], event_bytes: int) -> Arrivals:
    """For one load of the datasource, as its fold needs it."""
    if datasource.source is None:
        return OwnArrivals(datasource)
    return SourceArrivals(datasource, incarnations, event_bytes)
