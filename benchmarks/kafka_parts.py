"""What each step from a fetch's bytes to the fold costs, in this process: events per CPU-second of one core.

The record batches of one partition of the benchmark's topic, in answers of 8 MB as the reader asks for them. No broker and
no Ray. Checksums, unpacking, decoding into a datasource's columns and folding are timed apart. Beside it kafka-python's
own iteration over the same records, which only makes objects of them.

    POLARS_MAX_THREADS=1 python -m benchmarks.kafka_parts --only w1
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
from kafka.record import MemoryRecords

from benchmarks.input import EVENTS
from benchmarks.kafka_batches import batches_of
from benchmarks.kafka_input import Format, Shape, batch_files
from benchmarks.kafka_workloads import WORKLOADS, Workload
from rta.actors.arrivals import arrivals_of
from rta.events.definition import parse_datasource
from rta.events.schemas import Datasource
from rta.events.sources import narrowed
from rta.log.kafka.batches import Unpacker, read_chunks
from rta.stream.fold import Fold
from rta.stream.model import FoldLimits, PartitionLoaded

ANSWER_BYTES = 8 << 20
ITERATED = 50_000
INCARNATION = "0" * 32 + "-0"
EVENT_BYTES = 1 << 20
CASES: tuple[tuple[str, Format], ...] = (
    ("w1", "json"),
    ("w2", "json"),
    ("w3", "json"),
    ("raw", "json"),
    ("w1", "arrow"),
    ("w2", "arrow"),
    ("raw", "arrow"),
)


class Spent(NamedTuple):
    """CPU seconds. `decode` is from chunks to rows, with the unpacking in it."""

    checksums: float
    unpack: float
    decode: float
    fold: float
    cut: float
    events: int

    @property
    def whole(self) -> float:
        return self.checksums + self.decode + self.fold + self.cut


def answers(shape: Shape) -> list[bytes]:
    """One partition's batches as the broker would answer with them: whole ones, with the offsets that it gives them."""
    found, offset, last = list[list[bytes]](), 0, bytearray()
    parts: list[bytes] = []
    for each in batches_of(batch_files(shape)[0]):
        placed = offset.to_bytes(8, "big") + each[8:]
        offset += int.from_bytes(each[57:61], "big")
        if parts and len(last) + len(placed) > ANSWER_BYTES:
            found.append(parts)
            parts, last = [], bytearray()
        parts.append(placed)
        last += placed
    return [b"".join(some) for some in [*found, parts]]


def datasource_of(workload: Workload, kind: Format) -> Datasource:
    document = workload.document("bench", {"topic": "shop", "format": kind, "start": "earliest"})
    return narrowed(parse_datasource(document, incarnation="1", version=1, partitions=1))


def run(source: Datasource, data: list[bytes]) -> Spent:
    """Read all answers as one epoch, and cut it."""
    arrivals = arrivals_of(source, {0: INCARNATION}, EVENT_BYTES)
    fold = Fold(source, [PartitionLoaded(0, 0, 0, None, None, ())], FoldLimits())
    unpacker = Unpacker.make()
    checksums = unpack = decode = folding = 0.0
    offset = events = 0
    for answer in data:
        at = time.process_time()
        chunks = read_chunks("partition 0", 0, offset, answer, ())
        checksums, at = checksums + time.process_time() - at, time.process_time()
        for chunk in chunks:
            unpacker.unpack("partition 0", chunk)
        unpack, at = unpack + time.process_time() - at, time.process_time()
        batches = arrivals.batches(chunks)
        decode, at = decode + time.process_time() - at, time.process_time()
        fold.fold(batches)
        folding += time.process_time() - at
        offset = chunks[-1].offset + 1
        events += sum(batch.events for batch in batches)
    at = time.process_time()
    fold.end_epoch().cut()
    return Spent(checksums, unpack, decode, folding, time.process_time() - at, events)


def iterated(data: list[bytes], most: int) -> float:
    """Records per CPU-second that kafka-python makes of the same bytes, checksums and unpacking in it."""
    begun, count = time.process_time(), 0
    for answer in data:
        records = MemoryRecords(answer)
        while (batch := records.next_batch()) is not None and count < most:
            assert batch.validate_crc()
            count += sum(1 for record in batch if record.value)
    return count / (time.process_time() - begun)


def measure(repeat: int, events: int, batch_kb: int, cases: list[tuple[str, Format]]) -> Iterator[str]:
    loaded: dict[Format, list[bytes]] = {}
    for name, kind in cases:
        data = loaded.setdefault(kind, answers(Shape(events, kind, batch_kb)))
        source = datasource_of(WORKLOADS[name], kind)
        run(source, data[:1])
        best = min((run(source, data) for _ in range(repeat)), key=lambda spent: spent.whole)
        parts = (best.checksums, best.unpack, best.decode - best.unpack, best.fold, best.cut)
        shares = " ".join(f"{seconds / best.events * 1e9:>9,.0f}" for seconds in parts)
        yield f"{name + ' ' + kind:<14} {best.events / best.whole:>14,.0f} {shares}"
    if "json" in loaded:
        yield f"kafka-python iterates over {iterated(loaded['json'], ITERATED):,.0f} records per CPU-second"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kafka_parts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--events", type=int, default=EVENTS, help="in four partitions; one of them is read")
    parser.add_argument("--batch-kb", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--repeat", type=int, default=3, help="the best counts")
    options = parser.parse_args()
    pa.set_cpu_count(1)
    heads = ("checksums", "unpack", "decode", "fold", "cut")
    print(f"{'':<14} {'events/CPU-s':>14} {' '.join(f'{head:>9}' for head in heads)}   ns an event")
    cases = [case for case in CASES if case[0] in options.only]
    for line in measure(options.repeat, options.events, options.batch_kb, cases):
        print(line, flush=True)


if __name__ == "__main__":
    main()
