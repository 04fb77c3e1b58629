"""What the commit path costs: a manifest, a projection, `files_at`, compaction, and bytes per stored event.

Run `python -m benchmarks.commit`. Wall time where the disk decides, CPU time where the processor does. The events have the
shape of `POST /v1/events` in the interface: about 800 bytes as JSON.
"""

from __future__ import annotations

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from rta.events.builtin import events_document
from rta.events.definition import parse_datasource
from rta.events.schemas import Datasource
from rta.log.base import PartitionState
from rta.store import layout
from rta.store.commit import genesis, next_manifest, sealed
from rta.store.compact import Compactor
from rta.store.manifests import ManifestLog
from rta.store.model import FileRef, Manifest, Part, PartitionPart, RunRef
from rta.store.objects import LocalStore
from rta.store.parquet import write_table_file
from rta.store.tables import DeltaProjection
from rta.store.versions import TableVersions
from rta.stream.model import TableWrite

START_MS = 1_767_225_600_000
PARTITIONS = 8
RUNS = 100
"""Id runs of a partition inside its window."""


def measured_ms(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    begin = clock()
    run()
    return (clock() - begin) * 1000


def spread(name: str, samples: list[float]) -> None:
    ordered = sorted(samples)
    p95 = ordered[int(len(ordered) * 0.95)]
    print(f"{name:46s} p50 {statistics.median(ordered):8.2f} ms   p95 {p95:8.2f} ms")


def shop_events(
    datasource: Datasource, count: int, seed: int, start_ms: int = START_MS, span_ms: int = 30_000
) -> pa.Table:
    """Events of a web shop in the raw schema, as they come out of the log: almost in the order of time."""
    rng = np.random.default_rng(seed)
    countries = ["US", "DE", "VN", "FR", "GB", "IN", "BR", "JP"]
    agents = [
        f"Mozilla/5.0 (X11; Linux x86_64; rv:{n}) AppleWebKit/537.36 Chrome/{n}.0.0.0 Safari/537.36" for n in range(40)
    ]
    pages = [f"/product/{n}" for n in range(2000)]
    page = rng.zipf(1.3, count) % len(pages)
    visitor = rng.integers(0, 50_000, count)
    words = rng.integers(0, 2**32, (count, 4), np.uint64)
    prices = np.round(rng.integers(99, 9999, count) / 100, 2)
    values: dict[str, object] = {
        "__time": np.sort(rng.integers(0, span_ms, count)) + start_ms,
        "event_id": [
            f"{a:08x}-{b >> 16:04x}-4{b & 0xFFF:03x}-8{c & 0xFFF:03x}-{c >> 12:05x}{d:07x}"
            for a, b, c, d in words.tolist()
        ],
        "event_type": np.array(["page_view", "search", "add_to_cart", "purchase"])[rng.integers(0, 4, count)],
        "user_id": [f"user_{v}" for v in visitor],
        "session_id": [f"session_{v * 7919 + 11}" for v in visitor],
        "page_url": [f"https://shop.example.com{pages[p]}?ref={r}" for p, r in zip(page, visitor % 20, strict=True)],
        "page_title": [f"Product number {p}, best offers of the year" for p in page],
        "referrer": np.array(["https://google.com/search", "https://news.example.com/today", ""])[
            rng.integers(0, 3, count)
        ],
        "user_agent": [agents[v % 40] for v in visitor],
        "ip_address": [f"192.0.{v % 250}.{v // 250}" for v in visitor],
        "country": [countries[v % 8] for v in visitor],
        "device_type": np.array(["desktop", "mobile", "tablet"])[visitor % 3],
        "browser": np.array(["Chrome", "Firefox", "Safari"])[visitor % 3],
        "browser_version": [f"{v % 40}.0" for v in visitor],
        "os": np.array(["Linux", "Android", "iOS"])[visitor % 3],
        "referrer_host": np.array(["google.com", "news.example.com"])[rng.integers(0, 2, count)],
        "page_host": ["shop.example.com"] * count,
        "page_path": [pages[p] for p in page],
        "is_bot": visitor % 50 == 0,
        "price": prices,
        "processed_at": np.sort(rng.integers(0, span_ms, count)) + start_ms,
        "__rest": [f'{{"custom_properties":{{"product_id":"{p}","category":"electronics"}}}}' for p in page],
    }
    schema = datasource.raw_schema()
    columns = []
    for field in schema:
        found = values.get(field.name)
        if found is None:
            columns.append(pa.nulls(count, field.type))
        else:
            texts = found.tolist() if isinstance(found, np.ndarray) and found.dtype.kind == "U" else found
            columns.append(pa.array(texts).cast(field.type))
    return pa.table(columns, schema=schema)


def part_of(previous: Manifest, datasource: Datasource, epoch: int, files: tuple[FileRef, ...]) -> Part:
    pieces = tuple(
        PartitionPart(
            partition=entry.partition,
            log_incarnation=entry.log_incarnation,
            from_offset=entry.to_offset,
            to_offset=entry.to_offset + 100,
            based_on=entry.part,
            watermark_ms=START_MS,
            append_time_ms=START_MS,
            runs=tuple(RunRef(f"runs/agg-0-1-{n}.ids", n, n * 1000, 1000) for n in range(RUNS)),
            buffered=0,
            buffered_sum=0,
        )
        for entry in previous.partitions
    )
    return sealed(
        Part(
            id="",
            datasource=datasource.folder,
            actor="agg-0",
            generation=1,
            epoch=epoch,
            definition_version=0,
            partitions=pieces,
            files=files,
            state=layout.state_path("agg-0", 1, epoch),
            ledger=(),
        )
    )


def bench_manifests(store: LocalStore, datasource: Datasource, rows: pa.Table, epochs: int = 200) -> None:
    """Epochs with a small file each; the tables follow every 10th."""
    folder = datasource.folder
    manifests, reader_log = ManifestLog(store, folder), ManifestLog(store, folder)
    states = {n: PartitionState(f"log{n}", 0, 0) for n in range(PARTITIONS)}
    previous = genesis(datasource, states, 1, START_MS)
    manifests.put(previous)
    projection = DeltaProjection(store, folder, datasource)
    versions = TableVersions(store, folder, reader_log)
    puts, projections, finds, finds_cpu = [], [], [], []
    small = rows.slice(0, 200)
    for epoch in range(1, epochs + 1):
        write = TableWrite("events", "2026-01-01", small, START_MS, START_MS + 30_000)
        file = write_table_file(store, folder, write, layout.parquet_name("agg-0", 1, epoch, 0))
        manifest = next_manifest(previous, [part_of(previous, datasource, epoch, (file,))], 1, START_MS)
        puts.append(measured_ms(lambda m=manifest: manifests.put(m)))  # type: ignore[misc]  # bound on purpose
        if epoch % 10 == 0:
            projections.append(measured_ms(lambda e=epoch: projection.advance(manifests, e, START_MS)))  # type: ignore[misc]  # bound on purpose
        finds.append(measured_ms(lambda e=epoch: versions.files_at("events", e)))  # type: ignore[misc]  # bound on purpose
        finds_cpu.append(measured_ms(lambda e=epoch: versions.files_at("events", e), time.process_time))  # type: ignore[misc]  # bound on purpose
        previous = manifest
    print(f"a manifest of {PARTITIONS} partitions with {RUNS} id runs each has {len(previous.encode()):,} bytes")
    spread("manifest put (fsynced)", puts)
    spread("projection of 10 manifests (fsynced)", projections)
    spread("files_at a new manifest", finds)
    spread("files_at the same manifest again (CPU)", finds_cpu)


def bench_large_table(store: LocalStore, datasource: Datasource, files: int = 10_000) -> None:
    """Commits and files_at on a table of many files. The files are named only, so nothing checks them."""
    from rta.store.delta_log import DeltaLog, NewCommit
    from rta.store.tables import definition

    folder = f"{datasource.folder}.large"
    log = DeltaLog(store, folder, "events")
    refs = [
        FileRef("events", f"date=2026-01-01/agg-0-1-{n}-0.parquet", "2026-01-01", 1, 1, START_MS, START_MS)
        for n in range(files)
    ]
    shape = definition(log.state, datasource.raw_schema(), "events", START_MS)
    log.commit(lambda _: NewCommit("WRITE", START_MS, txns=((folder, 1),), add=tuple(refs), definition=shape))
    log.write_checkpoint(START_MS)
    one = [msgspec.structs.replace(refs[0], path=f"date=2026-01-01/agg-0-2-{n}-0.parquet") for n in range(30)]
    spread(
        f"Delta commit at {files:,} files",
        [measured_ms(lambda f=f: log.commit(lambda _: NewCommit("WRITE", START_MS, add=(f,)))) for f in one],  # type: ignore[misc]  # bound on purpose
    )
    cold = [measured_ms(lambda: DeltaLog(store, folder, "events").refresh()) for _ in range(3)]
    spread(f"opening a table of {files:,} files", cold)


def bench_bytes(store: LocalStore, datasource: Datasource, rows: pa.Table) -> None:
    """Bytes per event of one epoch's raw file and its rollup rows."""
    from rta.stream.rollups import finest_partials

    write = TableWrite("events", "2026-01-02", rows, START_MS, START_MS + 30_000)
    refs: list[FileRef] = []
    cpu_ms = measured_ms(
        lambda: refs.append(
            write_table_file(store, datasource.folder, write, layout.parquet_name("agg-0", 1, 9999, 0))
        ),
        time.process_time,
    )
    raw = refs[0].bytes / rows.num_rows
    rollup = datasource.rollups[0]
    partials = finest_partials(rows, rollup, datasource)
    table = partials.to_arrow().cast(datasource.rollup_schema(rollup))
    times = (START_MS, START_MS + 60_000)
    described = TableWrite(rollup.table, "2026-01-02", table, *times)
    rolled = write_table_file(store, datasource.folder, described, layout.parquet_name("agg-0", 1, 9999, 1))
    share = rolled.bytes / rows.num_rows
    print(f"raw {raw:.1f} bytes/event, rollup {share:.1f} ({table.num_rows:,} rows), together {raw + share:.1f}")
    print(f"raw file written at {rows.num_rows / cpu_ms * 1000:,.0f} events per CPU-second")


def bench_compaction(store: LocalStore, datasource: Datasource, count: int = 16, rows_each: int = 20_000) -> None:
    folder = datasource.folder
    log = DeltaProjection(store, folder, datasource).log("events")
    refs = []
    for n in range(count):
        rows = shop_events(datasource, rows_each, n, START_MS + n * 30_000)
        write = TableWrite("events", "2026-01-03", rows, START_MS, START_MS + 30_000)
        refs.append(write_table_file(store, folder, write, layout.parquet_name("agg-0", 1, 5000 + n, 0)))
    from rta.store.delta_log import NewCommit

    log.commit(lambda _: NewCommit("WRITE", START_MS, add=tuple(refs)))
    compactor = Compactor(store, datasource, 1)
    cpu_ms = measured_ms(lambda: compactor.compact(log, refs, START_MS), time.process_time)
    total = count * rows_each
    print(f"compaction of {count} files with {total:,} events: {total / cpu_ms * 1000:,.0f} events per CPU-second")


def main() -> None:
    root = Path(tempfile.mkdtemp(prefix="rta-bench-"))
    try:
        store = LocalStore(root)
        datasource = parse_datasource(events_document(), incarnation="bench", version=0, partitions=PARTITIONS)
        rows = shop_events(datasource, 200_000, 1)
        bench_bytes(store, datasource, rows)
        bench_manifests(store, datasource, rows)
        bench_large_table(store, datasource)
        bench_compaction(store, datasource)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
