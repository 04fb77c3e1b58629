"""CPU cost of `IngestApp` alone: requests in process, a log that takes everything at once.

Prints requests/s and CPU microseconds per event for requests of 1 and of 1,000 events, with 1 and with 64 requests
under way. Everything but the socket is in it: reading, gathering, decoding, splitting, encoding, the answer. CPU time
is that of the whole process (`time.process_time`), so that other load on the machine does not count.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence

from rta.events.builtin import events_document
from rta.events.decode import Edge, warm_up
from rta.events.definition import parse_datasource
from rta.events.schemas import Datasource
from rta.log.base import Outgoing
from rta.serve.http import Message, Scope
from rta.serve.ingest import IngestApp
from rta.serve.intake import Intake, IntakeLimits

NOW_MS = 1_767_261_600_000
SECONDS = 3.0


class OneDatasource:
    """`Definitions` of the built-in datasource alone."""

    def __init__(self) -> None:
        self.only = parse_datasource(events_document(), incarnation="bench", version=1, partitions=8)

    async def get(self, name: str) -> Datasource:
        return self.only

    def at_hand(self, name: str) -> Datasource:
        return self.only

    async def all(self) -> list[Datasource]:
        return [self.only]

    async def create(self, document: object) -> Datasource:
        return self.only

    async def update(self, name: str, document: object) -> Datasource:
        return self.only

    async def delete(self, name: str) -> None:
        return None


class Sink:
    """`LogWriter` that takes everything, after one turn of the loop."""

    def __init__(self) -> None:
        self.appends = 0

    async def append(self, topic: str, records: Sequence[Outgoing]) -> dict[int, int]:
        self.appends += 1
        await asyncio.sleep(0)
        return {record.partition: self.appends for record in records}

    async def close(self) -> None:
        return None


async def incarnations(_: str) -> dict[int, str]:
    return dict.fromkeys(range(8), "0123456789abcdef0123456789abcdef")


def event(i: int) -> dict[str, object]:
    """About 800 bytes, as the interface shows it."""
    return {
        "event_id": f"3f0e9a52-7c1d-4b8e-9f6a-{i:012d}",
        "timestamp": "2026-01-01T09:59:00.000Z",
        "event_type": "page_view",
        "user_id": f"user_{i % 5000}",
        "session_id": f"session_{i % 9000}",
        "properties": {
            "page_url": f"https://example.com/product/{i % 500}?utm_source=newsletter&utm_campaign=spring",
            "page_title": "Linen shirt, long sleeves, six colours - Example shop",
            "referrer": "https://www.google.com/search?q=linen+shirt",
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0",
            "ip_address": "192.0.2.1",
            "country": "US",
            "device_type": "desktop",
            "page_path": f"/product/{i % 500}",
        },
        "custom_properties": {"product_id": str(i % 500), "category": "clothing", "price": 59.9},
    }


async def post(app: IngestApp, body: bytes) -> None:
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/events",
        "query_string": b"",
        "headers": [
            (b"host", b"localhost:8000"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
        "client": ("127.0.0.1", 50000),
    }
    status = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    if status != 200:
        raise RuntimeError(f"status {status}")


async def measure(events: int, under_way: int) -> None:
    sink = Sink()
    app = IngestApp(Intake(OneDatasource(), sink, Edge(1), IntakeLimits(), lambda: NOW_MS, incarnations))
    bodies = [json.dumps([event(i * events + j) for j in range(events)]).encode() for i in range(16)]
    done = 0

    async def client(number: int, until: float) -> None:
        nonlocal done
        while time.perf_counter() < until:
            await post(app, bodies[(done + number) % len(bodies)])
            done += 1

    await asyncio.gather(*(client(i, time.perf_counter() + 0.5) for i in range(under_way)))
    done, sink.appends = 0, 0
    cpu, begun = time.process_time(), time.perf_counter()
    await asyncio.gather(*(client(i, begun + SECONDS) for i in range(under_way)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - begun
    await app.close()
    print(
        f"{events:>5} events, {under_way:>2} under way: {done / wall:>8,.0f} requests/s,"
        f" {done * events / wall:>9,.0f} events/s, {cpu / done / events * 1e6:>7.2f} CPU µs/event,"
        f" {done / sink.appends:>5.1f} requests per append"
    )


def main() -> None:
    warm_up()
    for events in (1, 1000):
        for under_way in (1, 64 if events == 1 else 8):
            asyncio.run(measure(events, under_way))


if __name__ == "__main__":
    main()
