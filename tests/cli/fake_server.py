"""A stand-in for rta's HTTP side: remembers what came, counts an event once per key, fails when told to."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa

from rta.query.position import Position


@dataclass
class Taken:
    """A request for `POST /v1/events/{datasource}` as it came."""

    datasource: str
    key: str
    body: bytes
    encoding: str


@dataclass
class FakeServer:
    """`failures` are answered first, one a request: (status, error code, Retry-After); 0 drops the connection."""

    url: str = ""
    datasources: dict[str, dict[str, Any]] = field(default_factory=lambda: {"events": {}})
    failures: list[tuple[int, str, str | None]] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    refused: list[Taken] = field(default_factory=list)
    counted: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Events by key: what came twice is here once."""
    queries: list[dict[str, Any]] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=lambda: {"rows": [], "meta": {"complete": True, "sources": []}})
    lock: threading.Lock = field(default_factory=threading.Lock)

    def events(self) -> list[dict[str, Any]]:
        return [event for events in self.counted.values() for event in events]

    def take(self, taken: Taken) -> tuple[int, dict[str, Any]]:
        text = gzip.decompress(taken.body) if taken.encoding == "gzip" else taken.body
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        bad = [i for i, row in enumerate(rows) if "bad" in row]
        self.taken.append(taken)
        self.counted[taken.key] = [row for row in rows if "bad" not in row]
        offset = len(self.taken)
        return 422 if len(bad) == len(rows) else 200, {
            "total": len(rows),
            "successful": len(rows) - len(bad),
            "failed": len(bad),
            "errors": [{"index": i, "event_id": None, "reason": "wrong_type", "detail": "bad is bad"} for i in bad],
            "position": Position(f"{taken.datasource}.1", {0: ("log", offset)}).encode(),
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeServer

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _answer(self, status: int, document: Any, retry_after: str | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)

    def _answer_arrow(self, answer: dict[str, Any]) -> None:
        table, sink = pa.Table.from_pylist(answer["rows"]), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        body = bytes(sink.getvalue())
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("RTA-Meta", json.dumps(answer["meta"]))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/v1/datasources":
            self._answer(200, {"datasources": [{"name": name} for name in self.fake.datasources]})
        elif self.path == "/v1/status":
            lag = {"lag_ms": 12, "events_folded": 1}
            self._answer(200, {"datasources": {"events": lag}, "actors": {"aggregator-0": {"restarts": 1}}, "log": {}})
        elif self.path == "/v1/ledger":
            self._answer(200, {"lost": 0, "datasources": {"events": {"lost": 0, "duplicated": 0}}})
        else:
            self._answer(404, {"error": "not_found", "message": f"no such path '{self.path}'", "hint": ""})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        with self.fake.lock:
            self._post(body)

    def _post(self, body: bytes) -> None:
        fake = self.fake
        _, _, name = self.path.partition("/v1/events/")
        taken = Taken(name, self.headers.get("Idempotency-Key", ""), body, self.headers.get("Content-Encoding", ""))
        if fake.failures:
            status, code, retry_after = fake.failures.pop(0)
            fake.refused.append(taken)
            if status == 0:
                self.close_connection = True
                return
            self._answer(status, {"error": code, "message": f"fails with {status}", "hint": "wait"}, retry_after)
        elif name:
            if name in fake.datasources:
                self._answer(*fake.take(taken))
            else:
                self._answer(404, {"error": "not_found", "message": f"no datasource '{name}'", "hint": ""})
        elif self.path == "/v1/query":
            fake.queries.append(json.loads(body))
            self._answer(200, fake.answer)
        elif self.path == "/v1/sql":
            fake.queries.append(json.loads(body))
            if "arrow" in self.headers.get("Accept", ""):
                self._answer_arrow(fake.answer)
            else:
                self._answer(200, fake.answer)
        elif self.path == "/v1/datasources":
            document = json.loads(body)
            if document["name"] in fake.datasources:
                self._answer(409, {"error": "conflict", "message": "it exists already", "hint": ""})
            else:
                fake.datasources[document["name"]] = document
                self._answer(201, document)


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    fake = FakeServer()
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
