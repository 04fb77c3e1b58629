"""Compiles, or loads from numba's cache, every kernel, on a handful of made-up events.

A process does this before it serves, so that neither an event nor a question waits for a compiler. Run as a program it
fills the cache once per installation: `make setup` does, and `rta up` where nobody has.
"""

from __future__ import annotations

import functools

import msgspec
import numpy as np
import polars as pl

from rta.events.batch import encode, read, split
from rta.events.builtin import events_document
from rta.events.decode import Body, Edge, decode
from rta.events.definition import parse_datasource
from rta.events.schemas import MetricType, Rollup
from rta.query.block import Block, Dictionaries
from rta.query.coded import count_distinct_coded, parts_of, ranks_coded
from rta.query.execute import run_rollup
from rta.query.parse import parse_query
from rta.query.planner import plan
from rta.stream.fold import Fold
from rta.stream.model import BatchArrived, FoldLimits, IdRun, PartitionLoaded
from rta.stream.rollups import merge_partials

EVENTS = 64
NOW_MS = 1_700_000_000_000


QUESTION = {
    "datasource": "warm",
    "time_range": "2023-11-14T00:00:00Z/2023-11-16T00:00:00Z",
    "granularity": "hour",
    "group_by": ["event_type"],
    "metrics": [
        {"name": "n", "type": "count"},
        {"name": "s", "type": "sum", "field": "custom_properties.price"},
        {"name": "p", "type": "quantile", "field": "custom_properties.price", "q": 0.95},
        {"name": "u", "type": "unique_count", "field": "user_id"},
    ],
}


def warm_up() -> None:
    """Decode, fold, end an epoch, fold the same again as duplicates, merge, ask."""
    datasource = parse_datasource({"name": "warm", **events_document()}, incarnation="warm", version=0, partitions=2)
    body = b"\n".join(
        msgspec.json.encode(
            {
                "event_id": f"e{k}",
                "timestamp": NOW_MS + k,
                "event_type": "warm",
                "user_id": f"u{k % 7}",
                "custom_properties": {"price": k / 4, "more": k},
            }
        )
        for k in range(EVENTS)
    )
    decoded = decode(datasource, [Body(body)], Edge(1), NOW_MS)
    loaded = [PartitionLoaded(p, 0, 0, None, None, ()) for p in range(datasource.partitions)]
    fold = Fold(datasource, loaded, FoldLimits())
    partials = []
    for offset in range(2):
        batches = [
            BatchArrived(partition, offset, NOW_MS + offset, rows.num_rows, id_sum, read(encode(rows), datasource))
            for partition, rows, id_sum in split(decoded, datasource.partitions)
        ]
        partials.append(fold.fold(batches).partials)
        cut = fold.end_epoch().cut()
        fold.runs_written([IdRun(w.step, w.identities, k) for k, w in enumerate(cut.run_writes)])
    planned = plan(parse_query(QUESTION), datasource, NOW_MS)
    for rollup in datasource.rollups:
        merged = merge_partials([p[rollup.name] for p in partials if rollup.name in p], rollup, datasource)
        if planned.rollup == rollup:
            run_rollup(planned, [merged])
            _warm_up_coded(merged, rollup)


def _warm_up_coded(rows: pl.DataFrame, rollup: Rollup) -> None:
    """What only questions over many items come to."""
    part = list(parts_of([(Block(rows, Dictionaries()), 0, rows.height)], None, np.zeros(rows.height, np.int32)))
    for metric in rollup.metrics:
        if metric.type is MetricType.QUANTILE:
            ranks_coded(part, metric.items, 1, 1 << 20, 0.5)
        elif metric.type is MetricType.UNIQUE:
            count_distinct_coded(part, metric.items, 1, 1 << 20)


def warm_up_sources() -> None:
    """Unpack and decode a chunk of another producer's topic, with everything put into its records' text."""
    from kafka.record.default_records import DefaultRecordBatchBuilder

    from rta.actors.arrivals import SourceArrivals
    from rta.log.kafka.batches import read_chunks

    document = {
        "name": "warm",
        "time": "time",
        "columns": {
            "key": {"path": "__kafka.key", "type": "string"},
            "header": {"path": "__kafka.headers.h", "type": "string"},
        },
        "source": {"kafka": {"topic": "warm", "format": "cloudevents"}},
    }
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for k, headers in enumerate(([], [("ce_specversion", b"1.0"), ("content-type", b"text/plain")])):
        builder.append(k, NOW_MS, b"key", b'{"time": 1}', headers)
    for narrow in (False, True):
        retention = {"retention": {"events": None}} if narrow else {}
        datasource = parse_datasource({**document, **retention}, incarnation="warm", version=0, partitions=1)
        chunks = read_chunks("warm", 0, 0, bytes(builder.build()), [], NOW_MS)
        for _ in SourceArrivals(datasource, {0: "warm"}, 1 << 20).batches(chunks):
            pass


@functools.cache
def warm_up_once(sources: bool) -> None:
    """All that an aggregator needs, unless this process has done it before; with what reading other producers' topics takes."""
    warm_up()
    if sources:
        warm_up_sources()


if __name__ == "__main__":
    from rta.events.decode import warm_up as warm_up_decoder

    warm_up_decoder()
    warm_up()
    warm_up_sources()
