"""A system of its own for a benchmark: `rta up` on a new folder and port, and what it costs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

READY_S_MAX = 180.0
STOP_S_MAX = 90.0
EPOCH = "5s"
"""Shorter than the default, so that "stored" is not a question of waiting for the clock."""


@dataclass(frozen=True, slots=True)
class Running:
    """`pid` and `folder` are None for a system that somebody else started."""

    url: str
    pid: int | None = None
    folder: Path | None = None
    ready_s: float | None = None

    def pss_bytes(self) -> int | None:
        """Memory of all its processes, shared pages counted once."""
        if self.pid is None:
            return None
        parent = psutil.Process(self.pid)
        total = 0
        for process in (parent, *parent.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
        return total

    def cpu_s(self) -> float | None:
        """CPU seconds of all its processes so far."""
        if self.pid is None:
            return None
        parent = psutil.Process(self.pid)
        total = 0.0
        for process in (parent, *parent.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def table_bytes(self, datasource: str) -> int | None:
        """Bytes of the live Parquet files of all tables of a datasource, once everything is in the Delta tables."""
        if self.folder is None:
            return None
        from deltalake import DeltaTable

        tables = {path.parent for path in self.folder.glob(f"data/store/{datasource}.*/tables/*/_delta_log")}
        sizes = (DeltaTable(str(table)).get_add_actions(flatten=True) for table in tables)
        return sum(sum(column.to_pylist()) for table in sizes for column in [table.column("size_bytes")])


@contextmanager
def running(url: str | None, **settings: Any) -> Iterator[Running]:
    """The system at `url`, or one of our own, with these settings, that ends with the block.

    Raises:
        RuntimeError: it did not become ready; with the end of what it said.
    """
    if url is not None:
        yield Running(url.rstrip("/"))
        return
    with tempfile.TemporaryDirectory(prefix="rta-benchmark-") as name:
        folder = Path(name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        config = folder / "rta.yaml"
        config.write_text(json.dumps({"port": port, "data_dir": str(folder / "data"), "epoch": EPOCH, **settings}))
        with (folder / "up.log").open("wb") as log:
            begun_s = time.monotonic()
            command = [sys.executable, "-m", "rta.cli", "up", "--config", str(config)]
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            try:
                _wait_ready(process, f"http://127.0.0.1:{port}", folder / "up.log")
                ready_s = time.monotonic() - begun_s
                yield Running(f"http://127.0.0.1:{port}", process.pid, folder, ready_s)
            finally:
                process.terminate()
                try:
                    process.wait(STOP_S_MAX)
                except subprocess.TimeoutExpired:
                    process.kill()


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"'rta up' is not ready: {log.read_text(errors='replace')[-2000:]}")
