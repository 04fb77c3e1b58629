"""The events into rta's own topic, as the edge would have written them: Arrow records with the ledger's stamp.

What the edge spends is left out. Columns that the datasource does not have are dropped; the edge would keep them as JSON
where there is a raw table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.kafka_input import ARROW_EVENTS, PARTITIONS, columns
from rta.events.batch import encode, take
from rta.events.definition import parse_datasource
from rta.events.keys import id_sum, placed
from rta.events.schemas import ID_HI, ID_LO, REST, TIME, Datasource
from rta.log.base import Header, Outgoing
from rta.log.kafka.settings import KafkaSettings
from rta.log.kafka.writer import KafkaWriter

EDGE = 1
AT_ONCE = 16


def write_own(settings: KafkaSettings, folder: str, document: dict[str, Any], events: int) -> None:
    """Append all events to the topic of a datasource, several records at a time."""
    asyncio.run(_write(settings, folder, document, events))


async def _write(settings: KafkaSettings, folder: str, document: dict[str, Any], events: int) -> None:
    datasource = parse_datasource(document, incarnation="1", version=1, partitions=PARTITIONS)
    writer = KafkaWriter(settings)
    waiting: list[Outgoing] = []
    try:
        for record in _records(datasource, events):
            waiting.append(record)
            if len(waiting) >= AT_ONCE:
                await writer.append(folder, waiting)
                waiting = []
        await writer.append(folder, waiting)
    finally:
        await writer.close()


def _records(datasource: Datasource, events: int) -> Iterator[Outgoing]:
    every = columns(events)
    each = PARTITIONS * ARROW_EVENTS
    for first in range(0, events, each):
        table = _raw(datasource, every.slice(first, each).combine_chunks(), first)
        identities, partitions = placed(table, datasource)
        for partition in range(PARTITIONS):
            mine = np.flatnonzero(partitions == partition)
            header = Header(len(mine), id_sum(identities[mine]), EDGE, first // each, 1)
            yield Outgoing(partition, header, encode(take(table, mine)))


def _raw(datasource: Datasource, rows: pa.Table, first: int) -> pa.Table:
    """The rows in the raw schema, with identities made of their numbers."""
    numbers = first + np.arange(rows.num_rows)
    found = {TIME: rows["timestamp"], REST: pa.nulls(rows.num_rows, pa.string())}
    found |= {ID_HI: pa.array(np.full(len(numbers), EDGE)), ID_LO: pa.array(numbers)}
    schema = datasource.raw_schema()
    arrays = [found[f.name] if f.name in found else rows[f.name] for f in schema]
    return pa.table(arrays, schema=schema).combine_chunks()
