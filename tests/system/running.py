"""A real `rta up` in a process of its own, and the people around it: a sender, somebody who asks all the time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil

from tests.services.places import free_port

READY_S = 240.0
AGGREGATOR = "ray::AggregatorActor"
COORDINATOR = "ray::CoordinatorActor"
LOG_HOST = "ray::LogHost"
INGEST = "ray::ServeReplica:ingest"
QUERY = "ray::ServeReplica:query"


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Until the condition holds. Raises AssertionError that says what was waited for."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        pause.wait(0.05)


def is_warm(process: psutil.Process) -> bool:
    """Whether a worker process has loaded what an actor needs: the compiler of the kernels is in its memory."""
    try:
        return any("llvmlite" in region.path for region in process.memory_maps())
    except psutil.Error:
        return False


class Running:
    """`rta up` on a folder. Start, stop, kill; ask and send over HTTP."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None, **settings: Any) -> None:
        self.folder = folder
        self.environment = environment
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=30)
        self.config = folder / "rta.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        document = {"port": self.port, "data_dir": str(folder / "data"), "aggregators": 2, "epoch": "2s", **settings}
        self.config.write_text(json.dumps(document))
        self.log = folder / "up.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "rta.cli", *arguments]

    def start(self) -> Running:
        self.launch()
        wait_for(self.ready, f"'rta up' is ready (see {self.log})", READY_S)
        return self

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("up", "--config", str(self.config)),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
            )

    def ready(self) -> bool:
        """Raises AssertionError when it has ended."""
        assert self.process is not None
        assert self.process.poll() is None, f"'rta up' ended: {self.log.read_text()[-3000:]}"
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> int:
        """As Ctrl-C does; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)

    def kill_everything(self) -> None:
        """kill -9 of every process at once."""
        assert self.process is not None
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(timeout=30)
        psutil.wait_procs(family, timeout=30)

    def processes(self, title: str) -> list[psutil.Process]:
        """Processes of this system whose command line begins with the title."""
        assert self.process is not None
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self, title: str) -> int:
        """kill -9 of one process of this kind, waiting for one to be there; its pid."""
        wait_for(lambda: bool(self.processes(title)), f"a process '{title}' runs")
        victim = self.processes(title)[0]
        os.kill(victim.pid, signal.SIGKILL)
        return victim.pid

    # -- over HTTP ---------------------------------------------------------------------------------------------------

    def query(self, document: dict[str, Any], timeout_s: float = 60.0) -> dict[str, Any]:
        """Ask until there is an answer: a replica may be on its way up."""
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while True:
            try:
                answer = self.http.post("/v1/query", json=document)
                if answer.status_code == 200:
                    found: dict[str, Any] = answer.json()
                    return found
                assert answer.status_code in (500, 503, 504), answer.text
                said = answer.text
            except httpx.TransportError as error:
                said = repr(error)
            assert time.monotonic() < deadline, f"no answer within {timeout_s:.0f} s: {said}"
            pause.wait(0.1)

    def rows(self, **document: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.query(document)["rows"]
        return found

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/v1/status").json()
        return found

    def ledger(self, datasource: str) -> dict[str, Any]:
        answer = self.http.get("/v1/ledger", params={"datasource": datasource})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait_committed(self, datasource: str, events: int, timeout_s: float = 90.0) -> dict[str, Any]:
        """Until the ledger has this many events committed; the ledger."""
        found: list[dict[str, Any]] = []

        def committed() -> bool:
            """The coordinator may be on its way up."""
            answer = self.http.get("/v1/ledger", params={"datasource": datasource})
            if answer.status_code == 200:
                found[:] = [answer.json()]
            return bool(found) and found[0]["stages"]["committed"] >= events

        wait_for(committed, f"{events} events of '{datasource}' are committed", timeout_s)
        return found[0]


@dataclass
class Sender(threading.Thread):
    """Sends batches at a steady rate; whatever is not acknowledged is sent again, the same, until it is."""

    running: Running
    rate: int
    seed: int
    batch: int = 500
    sent: int = 0
    acknowledged: dict[str, float] = field(default_factory=dict)
    position: str | None = None
    resent: int = 0
    refused: list[str] = field(default_factory=list)
    last: str = ""
    """What the newest request that was not acknowledged was told."""

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._stop_now = threading.Event()
        self._random = random.Random(self.seed)

    def __hash__(self) -> int:
        return id(self)

    def stop(self) -> None:
        """Stop as soon as possible; what is under way may stay unacknowledged."""
        self._stop_now.set()

    def finish(self, timeout_s: float = 90.0) -> None:
        """Stop after the batch under way has been acknowledged."""
        self._stop_now.set()
        self.join(timeout_s)
        assert not self.is_alive(), "the last batch was never acknowledged"

    def run(self) -> None:
        began = time.monotonic()
        with httpx.Client(base_url=self.running.url, timeout=20) as http:
            while not self._stop_now.is_set():
                events = self._events()
                body = b"\n".join(json.dumps(e).encode() for e in events)
                self.sent += len(events)
                self._send(http, body, len(events))
                self.acknowledged.update({e["event_id"]: e["custom_properties"]["price"] for e in events})
                ahead = self.sent / self.rate - (time.monotonic() - began)
                if ahead > 0:
                    self._stop_now.wait(ahead)

    def _events(self) -> list[dict[str, Any]]:
        now_ms = time.time_ns() // 1_000_000
        draw = self._random
        return [
            {
                "event_id": f"{self.seed}-{self.sent + k}",
                "timestamp": now_ms - draw.randrange(2000),
                "event_type": draw.choice(["page_view", "purchase", "search", "error"]),
                "user_id": f"user-{draw.randrange(2000)}",
                "properties": {"country": draw.choice(["US", "DE", "VN"]), "page_path": f"/p/{draw.randrange(50)}"},
                "custom_properties": {"price": draw.randrange(20_000) / 100},
            }
            for k in range(self.batch)
        ]

    def _send(self, http: httpx.Client, body: bytes, count: int) -> None:
        pause = threading.Event()
        while True:
            try:
                answer = http.post("/v1/events", content=body, headers={"content-type": "application/x-ndjson"})
                if answer.status_code == 200:
                    said = answer.json()
                    assert said["successful"] == count, said
                    self.position = said["position"]
                    return
                self.last = answer.text
                if answer.status_code not in (429, 500, 502, 503, 504):
                    self.refused.append(answer.text)
            except httpx.TransportError as error:
                self.last = repr(error)
            self.resent += 1
            pause.wait(0.1)


class Sends(Protocol):
    """Who sends, as the watcher sees it."""

    @property
    def sent(self) -> int: ...


class Watcher(threading.Thread):
    """Asks for count and sum all the time; they may only grow, and never pass what has been sent."""

    def __init__(self, running: Running, senders: Sequence[Sends]) -> None:
        super().__init__(daemon=True)
        self.running = running
        self.senders = senders
        self.answers = 0
        self.wrong: list[str] = []
        self._stop_now = threading.Event()
        self.count = 0
        self.sum = 0.0

    def finish(self) -> None:
        self._stop_now.set()
        self.join(30)

    def run(self) -> None:
        question = {
            "datasource": "events",
            "time_range": "2000-01-01T00:00:00Z/2100-01-01T00:00:00Z",
            "metrics": [
                {"name": "n", "type": "count"},
                {"name": "s", "type": "sum", "field": "custom_properties.price"},
            ],
        }
        with httpx.Client(base_url=self.running.url, timeout=20) as http:
            while not self._stop_now.wait(0.02):
                try:
                    answer = http.post("/v1/query", json=question)
                except httpx.TransportError:
                    continue
                if answer.status_code != 200:
                    continue
                self._check(answer.json()["rows"][0], sum(s.sent for s in self.senders))

    def _check(self, row: dict[str, Any], sent: int) -> None:
        self.answers += 1
        total = row["s"] or 0.0
        if row["n"] < self.count or total < self.sum - 1e-3:
            self.wrong.append(f"went back from {self.count}, {self.sum} to {row['n']}, {total}")
        if row["n"] > sent:
            self.wrong.append(f"counted {row['n']}, only {sent} were sent")
        self.count, self.sum = max(self.count, row["n"]), max(self.sum, total)
