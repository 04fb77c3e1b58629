"""rta over some minutes at a steady rate: memory, question latency, files per table, log space.

Starts a system of its own. `python -m benchmarks.soak --minutes 5 --rate 5000`. Every line is one interval; the last lines
compare the last third with the middle one. At the end the ledger must say 0 and 0.
"""

from __future__ import annotations

import argparse
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from deltalake import DeltaTable

from benchmarks.http import ALL_TIME, Bench
from benchmarks.input import BATCH, CHUNK, lines
from benchmarks.load import Asker, request
from benchmarks.running import Running, running

INTERVAL_S = 15.0
ASK_EVERY_S = 0.2
STORED_S_MAX = 120.0


class Interval(NamedTuple):
    """What one interval showed."""

    seconds: float
    events: int
    pss_gb: float
    p50_ms: float
    p99_ms: float
    files: int
    log_mb: float
    store_mb: float


class Sender(threading.Thread):
    """Sends batches of 1,000 at a steady rate until it is stopped."""

    def __init__(self, bench: Bench, rate: int) -> None:
        super().__init__(daemon=True)
        self._bench = bench
        self._rate = rate
        self._ending = threading.Event()
        self.sent = 0
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            path, url = f"/v1/events/{self._bench.name}", self._bench.system.url
            asker, due_s = Asker(url), time.monotonic()
            for body in self._batches():
                due_s += BATCH / self._rate
                if self._ending.wait(max(0.0, due_s - time.monotonic())):
                    return
                asker.ask(request(url, path, body, "application/x-ndjson"))
                self.sent += BATCH
        except (RuntimeError, OSError) as error:
            self.problem = error

    def _batches(self) -> Iterator[bytes]:
        for first in itertools.count(0, CHUNK):
            rows = lines(first, CHUNK).splitlines(keepends=True)
            yield from (b"".join(rows[at : at + BATCH]) for at in range(0, CHUNK, BATCH))

    def finish(self) -> None:
        self._ending.set()
        self.join()
        if self.problem is not None:
            raise self.problem


def disk_mb(folder: Path) -> float:
    """Bytes of all files below a folder; files that go away meanwhile count as gone."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_blocks * 512
            except FileNotFoundError:
                continue
    return total / 1e6


def live_files(folder: Path, datasource: str) -> int:
    """Files of the table that has the most."""
    tables = {path.parent for path in folder.glob(f"data/store/{datasource}.*/tables/*/_delta_log")}
    return max((len(DeltaTable(str(table)).file_uris()) for table in tables), default=0)


def ask_for_a_while(bench: Bench, seconds: float) -> list[float]:
    """Latencies in ms of D1 and of D4 in turn, asked now and then."""
    spent: list[float] = []
    end_s = time.monotonic() + seconds
    for turn in itertools.count():
        if time.monotonic() >= end_s:
            return spent
        question = (bench.d1 if turn % 2 else bench.d4)() | {"time_range": ALL_TIME}
        begun_s = time.perf_counter()
        bench.asker.ask(bench.request_of(question))
        spent.append((time.perf_counter() - begun_s) * 1000)
        time.sleep(ASK_EVERY_S)
    raise AssertionError("not reached")


def intervals(bench: Bench, sender: Sender, minutes: float) -> Iterator[Interval]:
    folder = bench.system.folder
    assert folder is not None
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < minutes * 60:
        before = sender.sent
        spent = ask_for_a_while(bench, INTERVAL_S)
        p50, p99 = np.percentile(spent, [50, 99])
        yield Interval(
            seconds=time.monotonic() - begun_s,
            events=sender.sent - before,
            pss_gb=(bench.system.pss_bytes() or 0) / 1e9,
            p50_ms=float(p50),
            p99_ms=float(p99),
            files=live_files(folder, bench.name),
            log_mb=disk_mb(folder / "data" / "log"),
            store_mb=disk_mb(folder / "data" / "store"),
        )


def measure(system: Running, minutes: float, rate: int) -> None:
    bench = Bench(system, CHUNK, INTERVAL_S)
    bench.warm()
    sender = Sender(bench, rate)
    sender.start()
    found: list[Interval] = []
    print(
        f"{'s':>6} {'events/s':>9} {'GB PSS':>7} {'ms p50':>7} {'ms p99':>7} {'files':>6} {'log MB':>7} {'store MB':>8}"
    )
    for each in intervals(bench, sender, minutes):
        found.append(each)
        print(
            f"{each.seconds:>6.0f} {each.events / INTERVAL_S:>9,.0f} {each.pss_gb:>7.2f} {each.p50_ms:>7.1f} "
            f"{each.p99_ms:>7.1f} {each.files:>6} {each.log_mb:>7.0f} {each.store_mb:>8.0f}",
            flush=True,
        )
    sender.finish()
    bench.until_stored(sender.sent)
    third = max(len(found) // 3, 1)
    middle, last = found[third : 2 * third] or found, found[-third:]
    for name in ("pss_gb", "p50_ms", "p99_ms", "files", "log_mb"):
        a, b = (float(np.mean([getattr(i, name) for i in part])) for part in (middle, last))
        print(f"{name:<8} middle third {a:.2f}, last third {b:.2f}")
    print(f"{sender.sent:,} events stored, lost 0, duplicated 0")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=int, default=5_000, help="events per second")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {options.rate:,} events/s for {options.minutes:g} minutes", flush=True)
    with running(None) as system:
        measure(system, options.minutes, options.rate)


if __name__ == "__main__":
    main()
