"""What the embedded log can do on this machine: `python -m benchmarks.log`.

The server is a process of its own on the real disk; appenders are connections of one client process, so that both share
the machine's cores as they do in `rta up`. CPU is measured beside wall time: on a busy machine only that can be
compared between runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from rta.log.base import Header, Outgoing
from rta.log.embedded import EmbeddedAdmin, EmbeddedReader, EmbeddedWriter

KB = 1000
SIZES = (1 * KB, 100 * KB, 1000 * KB)
APPENDERS = (1, 8, 64)
EVENT_BYTES = 150
TARGET_EVENTS_PER_S = 200_000
RECORD_BYTES = 150 * KB
PARTITIONS = 8
_HEADER = Header(events=1000, id_sum=2**63, edge=1, sequence=1, definition_version=1)


@dataclass(frozen=True, slots=True)
class Server:
    """A running log server and how to reach it."""

    folder: Path
    socket: Path
    process: psutil.Process

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def serve(under: Path | None) -> Iterator[Server]:
    """A log server in a fresh folder, which is removed again."""
    with tempfile.TemporaryDirectory(prefix="rta-log-", dir=under) as made:
        folder, socket = Path(made) / "log", Path(made) / "socket"
        command = [sys.executable, "-m", "rta.log.embedded", "--folder", str(folder), "--socket", str(socket)]
        process = subprocess.Popen([*command, "--parent", str(os.getpid())], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            if "serving" not in process.stdout.readline():
                raise SystemExit("the log server did not start")
            yield Server(folder, socket, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.communicate()


def percentiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] * 1000, ordered[int(len(ordered) * 0.99)] * 1000


async def append_for(server: Server, size: int, appenders: int, seconds: float) -> str:
    """One line of figures: so many connections append records of one size, each waiting for its answer."""
    payload = os.urandom(size)
    took: list[float] = []
    cpu_s, server_cpu_s, begun = time.process_time(), server.cpu_s(), time.perf_counter()
    until = begun + seconds

    async def one(number: int) -> None:
        writer = EmbeddedWriter(server.socket)
        record = [Outgoing(number % PARTITIONS, _HEADER, payload)]
        while (sent := time.perf_counter()) < until:
            await writer.append("appends", record)
            took.append(time.perf_counter() - sent)
        await writer.close()

    await asyncio.gather(*[one(number) for number in range(appenders)])
    elapsed_s = time.perf_counter() - begun
    p50, p99 = percentiles_ms(took)
    client_us = (time.process_time() - cpu_s) / len(took) * 1e6
    server_us = (server.cpu_s() - server_cpu_s) / len(took) * 1e6
    return (
        f"{size / KB:7.0f} {appenders:9d} {len(took) / elapsed_s:10,.0f} {len(took) * size / elapsed_s / 1e6:8.1f} "
        f"{p50:8.2f} {p99:8.2f} {client_us:10.0f} {server_us:10.0f}"
    )


def show_appends(server: Server, seconds: float) -> None:
    print("append, each answered after its fsync; CPU per append")
    print(f"{'KB':>7} {'appenders':>9} {'appends/s':>10} {'MB/s':>8} {'p50 ms':>8} {'p99 ms':>8}", end=" ")
    print(f"{'client µs':>10} {'server µs':>10}")
    with closing(EmbeddedAdmin(server.socket)) as admin:
        for size in SIZES:
            for appenders in APPENDERS:
                admin.create("appends", PARTITIONS)
                print(asyncio.run(append_for(server, size, appenders, seconds)), flush=True)
                admin.drop("appends")


def show_events(server: Server, seconds: float) -> None:
    """A steady stream in records as the edge makes them, appended and read back at the same time."""
    events_per_record = RECORD_BYTES // EVENT_BYTES
    per_s = TARGET_EVENTS_PER_S / events_per_record
    payload = os.urandom(RECORD_BYTES)
    cpu_s, server_cpu_s = time.process_time(), server.cpu_s()
    count = int(per_s * seconds)
    read: list[int] = []

    async def produce() -> float:
        writer, begun = EmbeddedWriter(server.socket), time.perf_counter()
        under_way: set[asyncio.Task[dict[int, int]]] = set()
        for number in range(count):
            await asyncio.sleep(max(0.0, begun + number / per_s - time.perf_counter()))
            work = writer.append("events", [Outgoing(number % PARTITIONS, _HEADER, payload)])
            under_way.add(asyncio.create_task(work))
        await asyncio.gather(*under_way)
        elapsed_s = time.perf_counter() - begun
        await writer.close()
        return elapsed_s

    def consume() -> None:
        with closing(EmbeddedReader(server.folder, server.socket)) as reader:
            offsets = dict.fromkeys(range(PARTITIONS), 0)
            while len(read) < count and reader.wait("events", offsets, 10_000):
                for record in reader.fetch("events", offsets, 8_000_000):
                    offsets[record.partition] = record.offset + 1
                    read.append(len(record.payload))

    with closing(EmbeddedAdmin(server.socket)) as admin:
        admin.create("events", PARTITIONS)
        consumer = threading.Thread(target=consume)
        consumer.start()
        elapsed_s = asyncio.run(produce())
        consumer.join()
        admin.drop("events")
    print(
        f"stream of {RECORD_BYTES // KB} KB records, written and read: {len(read) * events_per_record / elapsed_s:,.0f}"
        f" events/s of {EVENT_BYTES} bytes; cores used: server {(server.cpu_s() - server_cpu_s) / elapsed_s:.2f},"
        f" writer and reader {(time.process_time() - cpu_s) / elapsed_s:.2f}",
        flush=True,
    )


def show_fetch(server: Server) -> None:
    with closing(EmbeddedAdmin(server.socket)) as admin:
        for size, count in ((1 * KB, 40_000), (RECORD_BYTES, 1500)):
            admin.create("fetches", PARTITIONS)
            asyncio.run(fill(server, size, count))
            with closing(EmbeddedReader(server.folder, server.socket)) as reader:
                offsets, records = dict.fromkeys(range(PARTITIONS), 0), 0
                cpu_s, begun = time.process_time(), time.perf_counter()
                while found := reader.fetch("fetches", offsets, 8_000_000):
                    records += len(found)
                    offsets |= {record.partition: record.offset + 1 for record in found}
                elapsed_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu_s
                begun = time.perf_counter()
                for _ in range(500):
                    reader.fetch("fetches", offsets, 8_000_000)
                empty_us = (time.perf_counter() - begun) / 500 * 1e6
            print(
                f"fetch of {size // KB} KB records: {records * size / elapsed_s / 1e6:,.0f} MB/s,"
                f" {records / elapsed_s:,.0f} records/s, {cpu_s / records * 1e6:.0f} µs CPU each;"
                f" a fetch that finds nothing in {PARTITIONS} partitions {empty_us:.0f} µs",
                flush=True,
            )
            admin.drop("fetches")


async def fill(server: Server, size: int, count: int) -> None:
    writer, payload = EmbeddedWriter(server.socket), os.urandom(size)
    batch = 100
    for first in range(0, count, batch):
        await writer.append(
            "fetches", [Outgoing(i % PARTITIONS, _HEADER, payload) for i in range(first, first + batch)]
        )
    await writer.close()


def show_wake_up(server: Server, rounds: int) -> None:
    """From the call of append, and from its answer, until a waiting reader is told."""
    woken = [0.0] * rounds
    ready = threading.Semaphore(0)
    seen = threading.Semaphore(0)

    def follow() -> None:
        with closing(EmbeddedReader(server.folder, server.socket)) as reader:
            offset = 0
            for number in range(rounds):
                ready.release()
                reader.wait("wakes", {0: offset}, 10_000)
                woken[number] = time.perf_counter()
                offset = reader.partitions("wakes")[0].end
                seen.release()

    async def produce() -> tuple[list[float], list[float]]:
        writer, called, answered = EmbeddedWriter(server.socket), [], []
        record = [Outgoing(0, _HEADER, b"x" * KB)]
        for _ in range(rounds):
            await asyncio.to_thread(ready.acquire)
            await asyncio.sleep(0.001)
            called.append(time.perf_counter())
            await writer.append("wakes", record)
            answered.append(time.perf_counter())
            await asyncio.to_thread(seen.acquire)
        await writer.close()
        return called, answered

    with closing(EmbeddedAdmin(server.socket)) as admin:
        admin.create("wakes", 1)
        follower = threading.Thread(target=follow)
        follower.start()
        called, answered = asyncio.run(produce())
        follower.join()
        admin.drop("wakes")
    for what, since in (("call of append", called), ("answer to append", answered)):
        p50, p99 = percentiles_ms([at - before for at, before in zip(woken, since, strict=True)])
        print(f"{what} → waiting reader is told: p50 {p50:.2f} ms, p99 {p99:.2f} ms", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.log", description="Measure the embedded log.")
    parser.add_argument("--seconds", type=float, default=2.0, help="per line of appends")
    parser.add_argument("--folder", type=Path, default=None, help="below which folder; default the temporary one")
    options = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with serve(options.folder) as server:
        show_appends(server, options.seconds)
        show_events(server, options.seconds * 2)
        show_fetch(server)
        show_wake_up(server, 300)


if __name__ == "__main__":
    main()
