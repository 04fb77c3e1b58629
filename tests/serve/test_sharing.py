"""What the status says of quotas and the answer cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rta.config import Settings
from rta.serve.metrics import Registry
from rta.serve.sharing import sharing

QUOTAS = {"quotas": {"events_per_second": 5, "burst": 10}}


class Link:
    """Implements `rta.serve.ports.Shared` as far as it is looked at."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason

    @property
    def reachable(self) -> bool:
        return self.reason is None

    def status(self) -> dict[str, Any]:
        return {"place": "redis://a:6379/0", "reachable": self.reachable, "reason": self.reason, "since_ms": 1}

    def key(self, kind: str, name: str) -> str:
        return f"{kind}{name}"

    async def get(self, key: str, bytes_max: int) -> bytes:
        return b""

    async def put(self, key: str, value: bytes, kept_s: int) -> None:
        return None

    async def evaluate(self, script: str, key: str, arguments: Sequence[float]) -> Sequence[bytes]:
        return ()


def snapshot(up: int | None) -> Any:
    registry = Registry()
    registry.counter("rta_ingest_requests_total", "Requests by status.", "status").add(3, "200")
    if up is not None:
        registry.gauge("rta_redis_up", "Processes that reach Redis.").set(up)
    return registry.snapshot()


def test_without_redis_each_process_is_on_its_own() -> None:
    found = sharing(Settings.model_validate(QUOTAS), None, [snapshot(None)])
    assert found["redis"] is None
    assert found["cache"] == {"shared": False, "how": "per process: no 'redis' is set"}
    assert found["quotas"] == {
        "events_per_second": 5,
        "burst": 10,
        "shared": False,
        "how": "per process: no 'redis' is set",
    }
    assert sharing(Settings(), None, [])["quotas"] is None


def test_with_redis_both_are_shared() -> None:
    found = sharing(Settings.model_validate(QUOTAS), Link(), [snapshot(1), snapshot(1), snapshot(None), "nonsense"])
    assert found["cache"] == {"shared": True, "how": "shared through Redis"}
    assert (found["quotas"]["shared"], found["quotas"]["processes"]) == (True, 2)
    assert found["quotas"]["how"] == "shared through Redis"
    assert found["redis"]["place"] == "redis://a:6379/0"


def test_what_does_not_reach_redis_is_told() -> None:
    found = sharing(Settings.model_validate(QUOTAS), Link("it did not answer in time"), [snapshot(1), snapshot(0)])
    assert found["cache"] == {"shared": False, "how": "per process: Redis is away, it did not answer in time"}
    assert found["quotas"]["shared"] is False
    assert found["quotas"]["how"].startswith("per process: 1 of 2 processes")
    silent = sharing(Settings.model_validate(QUOTAS), Link(), [])
    assert silent["quotas"]["how"].startswith("not known yet")
