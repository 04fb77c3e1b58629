"""The small datasource of the schedules, and requests with their records ready made, so that a schedule costs little."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import pyarrow as pa

from rta.events.batch import encode
from rta.events.definition import parse_datasource
from rta.events.keys import id_sum, placed
from rta.events.schemas import TIME, Datasource
from rta.log.base import Header, Outgoing
from tests.sim.kernel import START_MS
from tests.sim.oracle import Event

PARTITIONS = 3
USERS = 9
REQUESTS = 64
REQUEST_EVENTS = 3
WINDOW_MS = 240_000
LATE_EVERY = 7
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
METRICS = [{"name": "views", "type": "count"}, {"name": "total", "type": "sum", "field": "value"}]
DOCUMENT: dict[str, Any] = {
    "name": "shop",
    "time": "time",
    "key": "user",
    "id": "id",
    "columns": {"user": "string", "id": "string", "page": "string", "value": "long"},
    "allowed_lateness": "1s",
    "dedup_window": "240s",
    "rollups": [{"name": "traffic", "granularity": "minute", "dimensions": ["page"], "metrics": METRICS}],
}
LATER = "visits"
REDEFINED: dict[str, Any] = {
    **DOCUMENT,
    "rollups": [
        *DOCUMENT["rollups"],
        {"name": LATER, "granularity": "hour", "dimensions": ["user"], "metrics": METRICS},
    ],
}
"""The same with one more rollup, which takes in what comes from then on."""


class Request(NamedTuple):
    """What one request comes to: a record per partition that it touches, with what is in it."""

    records: tuple[tuple[Outgoing, tuple[Event, ...]], ...]


@cache
def datasource() -> Datasource:
    return parse_datasource(DOCUMENT, incarnation="sim", version=0, partitions=PARTITIONS)


@cache
def request(number: int, overlapping: bool) -> Request:
    """Request `number`: three new events. With `overlapping` the last two of the request before come along."""
    first = number * REQUEST_EVENTS - (2 if overlapping and number else 0)
    return _request(range(first, (number + 1) * REQUEST_EVENTS), number)


def _request(numbers: Sequence[int], sequence: int) -> Request:
    events = [Event(f"user{i % USERS}", f"id{i}", i + 1, _time_ms(i)) for i in numbers]
    rows = _rows(events, numbers)
    identities, partitions = placed(rows, datasource())
    records = []
    for partition in range(PARTITIONS):
        mine = partitions == partition
        if mine.any():
            inside = tuple(event for event, here in zip(events, mine.tolist(), strict=True) if here)
            header = Header(len(inside), id_sum(identities[mine]), 1, sequence, 0)
            outgoing = Outgoing(partition, header, encode(rows.filter(pa.array(mine)).combine_chunks()))
            records.append((outgoing, inside))
    return Request(tuple(records))


def _time_ms(number: int) -> int:
    """Event times go up with the numbers, but for some that are a day late: those wait in the saved state."""
    return START_MS - HOUR_MS + number * 12_000 - (DAY_MS if number % LATE_EVERY == 0 else 0)


def _rows(events: Sequence[Event], numbers: Sequence[int]) -> pa.Table:
    times = [event.time_ms for event in events]
    values: dict[str, list[Any]] = {
        TIME: times,
        "user": [event.key for event in events],
        "id": [event.id for event in events],
        "page": [f"/{i % 2}" for i in numbers],
        "value": [event.value for event in events],
    }
    schema = datasource().raw_schema()
    columns = [pa.array(values.get(f.name, [None] * len(events)), f.type) for f in schema]
    return pa.table(columns, schema=schema).combine_chunks()
