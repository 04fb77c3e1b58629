"""What `GET /v1/status` says of quotas and the answer cache: whether processes share them through Redis, and if not, why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from rta.config import Settings
from rta.serve.metrics import read_snapshot
from rta.serve.ports import Shared

ALONE = "per process: no 'redis' is set"
TOGETHER = "shared through Redis"


def sharing(settings: Settings, link: Shared | None, snapshots: Iterable[Any]) -> dict[str, Any]:
    """Plain JSON.

    Args:
        link: Of this query replica.
        snapshots: Counters of the processes that take events, as they have reported them.
    """
    quotas = settings.quotas
    return {
        "redis": None if link is None else link.status(),
        "cache": {"shared": link is not None and link.reachable, "how": _how(link is None or link.status()["reason"])},
        "quotas": None
        if quotas is None
        else {"events_per_second": quotas.events_per_second, "burst": quotas.burst, **_quotas(link, snapshots)},
    }


def _how(reason: object) -> str:
    """`reason` is True without Redis, None while it is there."""
    if reason is True:
        return ALONE
    return TOGETHER if reason is None else f"per process: Redis is away, {reason}"


def _quotas(link: Shared | None, snapshots: Iterable[Any]) -> dict[str, Any]:
    if link is None:
        return {"shared": False, "how": ALONE}
    reaching = [up for up in map(_reaches, snapshots) if up is not None]
    found: dict[str, Any] = {"shared": bool(reaching) and all(reaching), "processes": len(reaching)}
    if not reaching:
        return {**found, "how": "not known yet: no process that takes events has reported"}
    away = len(reaching) - sum(reaching)
    if not away:
        return {**found, "how": TOGETHER}
    return {**found, "how": f"per process: {away} of {len(reaching)} processes that take events do not reach Redis"}


def _reaches(snapshot: Any) -> bool | None:
    """Whether a process reaches Redis, by its counters; None if they do not say."""
    try:
        families = read_snapshot(snapshot)
    except msgspec.ValidationError:
        return None
    return next((f.series[0].value > 0 for f in families if f.name == "rta_redis_up" and f.series), None)
