"""How many events a source may send: a token bucket each, in this process or, through Redis, for all processes together.

With Redis the buckets lie there. A process takes tokens out in one atomic step, for a busy source so many that they last
some 100 ms, and gives back what is left of them then; so a busy source costs ten calls a second, not one a request. What is
taken out and not known to have arrived is lost to the source, never granted twice: all processes together admit no more
than the quota. While Redis is away, each process goes by a bucket of its own, which it has kept beside: the full rate for
each. Nothing here waits for longer than the link's limit.

Knows nothing of HTTP. What a source is, the caller says.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from rta.config import QuotaSettings
from rta.errors import QuotaExceededError, TooLargeError
from rta.serve.metrics import Registry
from rta.serve.ports import AwayError, Shared

LEASE_S = 0.1
"""How long tokens that were taken out are held, and how long a refusal by Redis is believed."""
LEASE_SHARE = 16
"""At most this part of a burst is taken out ahead of need."""
SOURCES_MAX = 65_536
"""Sources that are remembered; the one that has been silent for longest is forgotten, and begins anew with a full bucket."""
ROUNDING = 1e-6
KEPT_S_MAX = 400 * 86_400

# What lies there is not believed blindly: what is no bucket is a full one. Times are Redis's own.
TAKE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000
local rate, burst, back = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local least, most, kept = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local held = redis.pcall('HMGET', KEYS[1], 'tokens', 'at')
if held.err then
  redis.call('DEL', KEYS[1])
  held = {false, false}
end
local tokens, at = tonumber(held[1] or ''), tonumber(held[2] or '')
if not tokens or not at or tokens ~= tokens or at ~= at then
  tokens, at = burst, now
end
if at > now then at = now end
tokens = math.max(0, math.min(burst, tokens + (now - at) * rate / 1000 + back))
local granted = 0
if tokens + 1e-6 >= least then
  granted = math.min(math.max(tokens, least), most)
  tokens = math.max(0, tokens - granted)
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.17g', now))
redis.call('PEXPIRE', KEYS[1], kept)
return {string.format('%.17g', granted), string.format('%.17g', tokens)}
"""


@dataclass(slots=True)
class Bucket:
    """Tokens that come back with time."""

    tokens: float
    at_s: float

    def fill(self, quota: QuotaSettings, now_s: float) -> float:
        """The tokens now."""
        come = max(0.0, now_s - self.at_s) * quota.events_per_second
        self.tokens, self.at_s = min(float(quota.burst), self.tokens + come), now_s
        return self.tokens


@dataclass(slots=True, eq=False)
class _Source:
    """One source in this process.

    Args:
        own: What this process would let in alone.
        leased: Tokens taken out of Redis and not yet used.
        leased_s: When they were taken out.
        used: Events admitted since then.
        refused: What Redis had when it refused the last time; it is believed for `LEASE_S`.
        alone: Whether the last decision was made without Redis: then there is nothing there to give back to.
    """

    own: Bucket
    leased: float = 0.0
    leased_s: float = -math.inf
    used: int = 0
    refused: Bucket | None = None
    alone: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Quotas:
    """The buckets of one process and event loop.

    Args:
        quota: Of every source.
        registry: Counts what was refused, and how it was decided.
        link: To the Redis that processes share; None decides alone.
        clock_s: Monotonic.
    """

    def __init__(
        self,
        quota: QuotaSettings,
        registry: Registry,
        link: Shared | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quota = quota
        self._link = link
        self._clock_s = clock_s
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._lent: dict[str, _Source] = {}
        self._returning: asyncio.Task[None] | None = None
        kept_s = min(quota.burst / quota.events_per_second + 60.0, KEPT_S_MAX)
        self._arguments = (quota.events_per_second, quota.burst, math.ceil(kept_s * 1000))
        self._decided = registry.counter("rta_quota_requests_total", "Requests by who decided on them.", "decided")
        self._refused = registry.counter("rta_quota_refused_events_total", "Events of requests over their quota.")
        self._known = registry.gauge("rta_quota_sources", "Sources that are remembered.")

    async def admit(self, source: str, events: int) -> None:
        """Let a request's events in, all of them or none.

        Raises:
            TooLargeError: more events than the quota can ever admit at once.
            QuotaExceededError: not now; it says when.
        """
        quota = self._quota
        if events > quota.burst:
            raise TooLargeError(
                f"accepting events: the request has {events:,}, a source may send {quota.burst:,} at once",
                "send fewer events a request, or raise 'quotas.burst' in rta.yaml",
            )
        if events <= 0:
            return
        wait_s = await self._wait_s(source, self._source(source), events)
        if wait_s > 0:
            self._refused.add(events)
            raise QuotaExceededError(
                f"accepting events: source '{source[:64]}' is over its quota of {quota.events_per_second:,g} events/s "
                f"with bursts of {quota.burst:,}; {events:,} more fit in {wait_s:.1f} s; nothing was accepted",
                "send the same again after the time in 'Retry-After'",
                math.ceil(wait_s),
            )

    def give_back(self, source: str, events: int) -> None:
        """Events that were let in and did not get into the log."""
        state = self._source(source)
        state.own.tokens = min(float(self._quota.burst), state.own.tokens + events)
        if self._link is not None and not state.alone:
            state.leased += events
            self._lent[source] = state
            self._return_later()

    async def close(self) -> None:
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
        await self._give_up_leases(math.inf)

    def _source(self, source: str) -> _Source:
        found = self._sources.get(source)
        if found is not None:
            self._sources.move_to_end(source)
            return found
        if len(self._sources) >= SOURCES_MAX:
            self._sources.popitem(last=False)
        found = self._sources[source] = _Source(Bucket(float(self._quota.burst), self._clock_s()))
        self._known.set(len(self._sources))
        return found

    async def _wait_s(self, source: str, state: _Source, events: int) -> float:
        """0 when the events are let in, else the time until they would fit."""
        link = self._link
        if link is not None and link.reachable:
            try:
                wait_s = await self._shared_wait_s(link, source, state, events)
            except AwayError:
                state.leased = 0.0  # whether the tokens were taken out or given back, nobody knows
            else:
                self._decided.add(1, "together")
                state.alone = False
                if not wait_s:
                    state.own.tokens = max(0.0, state.own.fill(self._quota, self._clock_s()) - events)
                return wait_s
        self._decided.add(1, "alone")
        state.alone = True
        return _take(state.own, self._quota, events, self._clock_s())

    async def _shared_wait_s(self, link: Shared, source: str, state: _Source, events: int) -> float:
        """One asks at a time for a source; what it brings back the next ones use."""
        async with state.lock:
            now_s = self._clock_s()
            held_s = now_s - state.leased_s
            if held_s <= LEASE_S and state.leased + ROUNDING >= events:
                return self._use(source, state, events)
            if state.refused is not None and now_s - state.leased_s <= LEASE_S and not state.leased:
                wait_s = _wait_s(state.refused, self._quota, events, now_s)
                if wait_s:
                    return wait_s
            ahead = min(self._ahead(state, held_s), self._quota.burst / LEASE_SHARE)
            granted, left = await self._take_out(link, source, state, events, max(float(events), ahead))
            state.leased, state.leased_s, state.used = granted, self._clock_s(), 0
            if not granted:
                state.refused = Bucket(left, state.leased_s)
                return max((events - left) / self._quota.events_per_second, 1e-3)
            state.refused = None
            return self._use(source, state, events)

    def _ahead(self, state: _Source, held_s: float) -> float:
        """What the source will send within a lease if it goes on like this, at most what its rate allows."""
        if not state.used or held_s > 10 * LEASE_S:
            return 0.0
        most = self._quota.events_per_second * LEASE_S
        return min(state.used / max(held_s, LEASE_S / 10) * LEASE_S, most)

    def _use(self, source: str, state: _Source, events: int) -> float:
        state.leased = max(0.0, state.leased - events)
        state.used += events
        if state.leased:
            self._lent[source] = state
            self._return_later()
        else:
            self._lent.pop(source, None)
        return 0.0

    async def _take_out(
        self, link: Shared, source: str, state: _Source, least: float, most: float
    ) -> tuple[float, float]:
        """Give back what is held and take out anew: what was granted (0, or at least `least`), and what is left there."""
        back, state.leased = state.leased, 0.0
        self._lent.pop(source, None)
        rate, burst, kept_ms = self._arguments
        key = link.key("quota", hashlib.blake2b(source.encode(), digest_size=16).hexdigest())
        granted, left = await link.evaluate(TAKE, key, (rate, burst, back, least, most, kept_ms))
        return float(granted), float(left)

    def _return_later(self) -> None:
        if self._returning is None or self._returning.done():
            self._returning = asyncio.get_running_loop().create_task(self._return_leases())

    async def _return_leases(self) -> None:
        while self._lent:
            await asyncio.sleep(LEASE_S)
            await self._give_up_leases(LEASE_S)

    async def _give_up_leases(self, held_s_max: float) -> None:
        """Give back what has been held for too long (or, at the end, all of it)."""
        now_s, link = self._clock_s(), self._link
        for source, state in list(self._lent.items()):
            if link is None or (held_s_max != math.inf and now_s - state.leased_s <= held_s_max):
                continue
            async with state.lock:
                try:
                    await self._take_out(link, source, state, 0.0, 0.0)
                except AwayError:
                    state.leased = 0.0


def _take(bucket: Bucket, quota: QuotaSettings, events: int, now_s: float) -> float:
    """Take the events out of a bucket; 0, or the time until they would fit."""
    wait_s = _wait_s(bucket, quota, events, now_s)
    if not wait_s:
        bucket.tokens = max(0.0, bucket.tokens - events)
    return wait_s


def _wait_s(bucket: Bucket, quota: QuotaSettings, events: int, now_s: float) -> float:
    missing = events - bucket.fill(quota, now_s)
    return 0.0 if missing <= ROUNDING else missing / quota.events_per_second
