"""From bytes to records: decode, validate, identity, split by partition and encode, in events per CPU-second.

One core, 806-byte events. Beside it `pyarrow.json` with an explicit schema, which parses the same bytes into the same
columns and does nothing else: it keeps no undeclared member, judges no event, knows no identity.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import pyarrow.json as pj

from benchmarks.input import START_MS, document, lines
from rta.events.batch import encode, split
from rta.events.bodies import Body
from rta.events.decode import Edge, decode, warm_up
from rta.events.definition import parse_datasource
from rta.events.schemas import ARROW_TYPES, Datasource

PARTITIONS = 8
SIZES = (1, 10, 125, 1_000, 10_000)
TARGETS = {1_000: 120_000, 10_000: 250_000}
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Rate:
    """Events per CPU-second, and bytes of log per event where records were made."""

    events_per_s: float
    bytes_per_event: float = 0.0


def rate(run: Callable[[], int], events: int, seconds: float) -> Rate:
    """The best of several repetitions: what else the machine does can only make one slower."""
    best = float("inf")
    size = run()
    spent = 0.0
    while spent < seconds:
        begin = time.process_time()
        size = run()
        took = time.process_time() - begin
        spent += took
        best = min(best, took)
    return Rate(events / best, size / events)


def edge(datasource: Datasource, bodies: list[Body]) -> int:
    """The whole way of some requests; returns the bytes of their records."""
    decoded = decode(datasource, bodies, Edge(1), START_MS)
    assert all(o.error is None and not o.verdicts for o in decoded.outcomes)
    return sum(len(encode(rows)) for _, rows, _ in split(decoded, datasource.partitions))


def explicit_schema(datasource: Datasource) -> pa.Schema:
    """The declared columns, nested as they are in the events, for `pyarrow.json`."""
    tree: dict[str, object] = {datasource.time_path[0]: pa.string()}
    for column in datasource.columns:
        inside = tree
        for key in column.path[:-1]:
            inside = inside.setdefault(key, {})  # type: ignore[assignment]  # inner nodes are dicts
        inside[column.path[-1]] = ARROW_TYPES[column.type]
    return pa.schema(list(_struct(tree)))


def _struct(tree: dict[str, object]) -> pa.DataType:
    fields = [pa.field(k, _struct(v) if isinstance(v, dict) else v) for k, v in tree.items()]
    return pa.struct(fields)


def arrow_only(data: bytes, options: pj.ParseOptions) -> int:
    read = pj.ReadOptions(use_threads=False, block_size=1 << 24)
    return pj.read_json(io.BytesIO(data), read, options).num_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU time for each line")
    seconds = parser.parse_args().seconds
    pa.set_cpu_count(1)
    datasource = parse_datasource(document(), incarnation="bench", version=1, partitions=PARTITIONS)
    warm_up()
    every = lines(0, SIZES[-1]).splitlines(keepends=True)
    options = pj.ParseOptions(explicit_schema=explicit_schema(datasource), unexpected_field_behavior="ignore")
    print(f"{sum(map(len, every)) / len(every):.0f} bytes an event, {PARTITIONS} partitions, one core")
    print(f"{'events a batch':>16} {'events/CPU-s':>14} {'bytes logged':>13} {'pyarrow.json':>13} {'target':>9}")
    for size in SIZES:
        data = b"".join(every[:size])
        ours = rate(partial(edge, datasource, [Body(data, NDJSON)]), size, seconds)
        theirs = rate(partial(arrow_only, data, options), size, seconds)
        target = f"{TARGETS[size]:,}" if size in TARGETS else ""
        print(
            f"{size:>16,} {ours.events_per_s:>14,.0f} {ours.bytes_per_event:>13,.0f} {theirs.events_per_s:>13,.0f} {target:>9}"
        )
    print("requests of one event, coalesced:")
    for size in (125, 1_000):
        ours = rate(partial(edge, datasource, [Body(event) for event in every[:size]]), size, seconds)
        print(f"{size:>16,} {ours.events_per_s:>14,.0f} {ours.bytes_per_event:>13,.0f}")


if __name__ == "__main__":
    main()
