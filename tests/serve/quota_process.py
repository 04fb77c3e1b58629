"""`python -m tests.serve.quota_process PORT RATE BURST`: one process that sends as much as a shared quota lets it.

Says "ready" and waits for a line to begin. Prints how many events were let in, and when it began and ended (`time.time`).
"""

from __future__ import annotations

import asyncio
import sys
import time

from rta.config import QuotaSettings
from rta.errors import QuotaExceededError
from rta.serve.metrics import Registry
from rta.serve.quotas import Quotas
from rta.serve.redis_link import RedisLink
from tests.serve.shared import settings_of

SECONDS = 2.0
EVENTS = 7


async def send(port: int, rate: float, burst: int) -> None:
    link = RedisLink(settings_of(port), "processes", Registry(), 1.0)
    await link.start()
    quotas = Quotas(QuotaSettings(events_per_second=rate, burst=burst), Registry(), link)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began, taken = time.time(), 0
    while time.time() - began < SECONDS:
        try:
            await quotas.admit("a", EVENTS)
            taken += EVENTS
        except QuotaExceededError:
            await asyncio.sleep(0.0005)
    ended = time.time()
    assert link.reachable
    await quotas.close()
    await link.close()
    print(taken, began, ended)


if __name__ == "__main__":
    asyncio.run(send(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
