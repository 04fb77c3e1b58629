"""Whatever is posted, the answer is a documented one, and what it says it accepted is what the log holds."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import httpx
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rta.events.bodies import Limits
from rta.events.decode import Edge
from rta.serve.ingest import IngestApp
from rta.serve.intake import Intake, IntakeLimits
from tests.serve.fakes import NOW_MS, FakeDefinitions, FakeWriter, incarnations

LIMITS = IntakeLimits(Limits(body_bytes=1 << 20, unpacked_bytes=4 << 20, event_bytes=1 << 18), threads=1)
DOCUMENTED = {200, 400, 404, 413, 415, 422}
ODD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        2**63,
        -(2**63),
        10**400,
        1e308,
        "",
        "\u0000",
        "x" * 200,
        "2026-01-01T09:00:00Z",
        "9999-12-31T00:00:00Z",
    ]
)
VALUES = st.recursive(
    ODD | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["event_id", "timestamp", "event_type", "user_id", "session_id", "properties", "custom_properties", "events", "x"]
)
EVENTS = st.dictionaries(FIELDS, VALUES, max_size=6) | st.fixed_dictionaries(
    {"event_id": st.text(min_size=1, max_size=5), "timestamp": st.just(NOW_MS), "event_type": VALUES},
    optional={"x": VALUES},
)
DOCUMENTS = (
    EVENTS | st.lists(EVENTS, max_size=4) | st.fixed_dictionaries({"events": st.lists(EVENTS, max_size=3)}) | VALUES
)
JSON_BODIES = DOCUMENTS.map(lambda document: json.dumps(document).encode())
LINES = st.lists(EVENTS | VALUES, max_size=4).map(lambda events: "\n".join(map(json.dumps, events)).encode())
BODIES = st.binary(max_size=60) | JSON_BODIES | LINES
TYPES = st.sampled_from(
    [
        "",
        "application/json",
        "text/plain",
        "application/x-ndjson",
        "application/vnd.apache.arrow.stream",
        "image/png",
        ";",
    ]
)


def post(bodies: list[bytes], headers: dict[str, str], path: str) -> tuple[list[httpx.Response], FakeWriter]:
    """Send the bodies at once, to an app of its own."""
    writer = FakeWriter()

    async def main() -> list[httpx.Response]:
        app = IngestApp(Intake(FakeDefinitions(), writer, Edge(1), LIMITS, lambda: NOW_MS, incarnations))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://rta") as client:
            calls = [client.post(path, content=body, headers=headers) for body in bodies]
            answers = await asyncio.gather(*calls)
        await app.close()
        assert app.intake.budget.bytes_used == 0
        return answers

    return asyncio.run(main()), writer


def check(answers: list[httpx.Response], writer: FakeWriter) -> None:
    accepted = 0
    for answer in answers:
        assert answer.status_code in DOCUMENTED, (answer.status_code, answer.text)
        document: dict[str, Any] = answer.json()
        if answer.status_code not in (200, 422):
            assert set(document) == {"error", "message", "hint"}
            continue
        assert document["successful"] + document["failed"] == document["total"]
        assert len(document["errors"]) == document["failed"]
        assert (answer.status_code == 200) == (document["successful"] > 0)
        assert [e["index"] for e in document["errors"]] == sorted({e["index"] for e in document["errors"]})
        assert all(0 <= e["index"] < document["total"] for e in document["errors"])
        accepted += document["successful"]
    assert writer.events == accepted


@settings(max_examples=200, deadline=None)
@given(
    bodies=st.lists(BODIES, min_size=1, max_size=4),
    content_type=TYPES,
    path=st.sampled_from(["/v1/events", "/v1/events/clicks", "/v1/events?ids=generate"]),
    key=st.none() | st.just("again"),
)
@example(bodies=[b"[" * 100_000], content_type="application/json", path="/v1/events", key=None)
@example(bodies=[b'{"event_id":"\\ud800"}', b'{"a":NaN}'], content_type="", path="/v1/events/clicks", key=None)
def test_any_bodies_get_documented_answers(bodies: list[bytes], content_type: str, path: str, key: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    if key is not None:
        headers["Idempotency-Key"] = key
    check(*post(bodies, headers, path))


@settings(max_examples=60, deadline=None)
@given(
    body=BODIES, cut=st.integers(0, 40), flips=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3)
)
@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_damaged_packed_bodies_get_documented_answers(
    encoding: str, body: bytes, cut: int, flips: list[tuple[int, int]]
) -> None:
    pack = gzip.compress if encoding == "gzip" else zstandard.ZstdCompressor().compress
    packed = bytearray(pack(body))
    for at, value in flips:
        packed[at % len(packed)] = value
    check(*post([bytes(packed[: len(packed) - cut])], {"Content-Encoding": encoding}, "/v1/events"))
