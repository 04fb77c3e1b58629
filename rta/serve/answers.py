"""Finished answers kept for whoever asks the same: first in this process, then in a Redis that all replicas share.

Keys name the question and exactly the data that it reads (`rta.serve.service`), so what is found here is never stale. What
Redis gives back is believed only if its checksum fits: it covers the key, the content and the form in which it is written.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec

from rta.serve.metrics import Registry
from rta.serve.ports import AwayError, Shared
from rta.serve.scan_task import Finished

FORM = b"rta answer 1\n"
"""Begins every value in Redis; changes when `Finished` does."""
DIGEST_BYTES = 16
VALUE_BYTES_MAX = 1 << 20
"""A larger answer stays in the process that computed it."""
KEPT_S = 3_600
"""How long Redis keeps an answer that nobody asks for: only so that it does not fill up."""
PUTS_MAX = 32
"""Answers on their way to Redis at once; what comes beyond is not shared."""


class AnswerCache:
    """Finished answers, bounded by the memory of their rows; what was asked for longest ago goes first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._answers: OrderedDict[bytes, Finished] = OrderedDict()
        self.bytes = 0

    def get(self, key: bytes) -> Finished | None:
        found = self._answers.get(key)
        if found is not None:
            self._answers.move_to_end(key)
        return found

    def put(self, key: bytes, answer: Finished) -> None:
        """Keep an answer, unless it alone would take a quarter of the memory."""
        if len(answer.rows) > self._bytes_max // 4 or key in self._answers:
            return
        self._answers[key] = answer
        self.bytes += _weight(answer)
        while self.bytes > self._bytes_max:
            _, oldest = self._answers.popitem(last=False)
            self.bytes -= _weight(oldest)


def _weight(answer: Finished) -> int:
    return len(answer.rows) + 1_000


class Answers:
    """Both caches as the query service uses them. Belongs to one event loop.

    Args:
        bytes_max: Of the answers in this process.
        registry: Counts hits and misses of both.
    """

    def __init__(self, bytes_max: int, registry: Registry) -> None:
        self._local = AnswerCache(bytes_max)
        self._link: Shared | None = None
        self._puts: set[asyncio.Task[None]] = set()
        self._looks = registry.counter(
            "rta_answer_cache_lookups_total", "Looks for a finished answer.", "place", "outcome"
        )
        self._bytes = registry.gauge("rta_answer_cache_bytes", "Of the finished answers in this process.")

    def share(self, link: Shared) -> None:
        """From now on also look in Redis, and put there."""
        self._link = link

    def known(self, key: bytes) -> Finished | None:
        """An answer that this process has."""
        found = self.held(key)
        self.looked(hit=found is not None)
        return found

    def held(self, key: bytes) -> Finished | None:
        """The same, not counted."""
        return self._local.get(key)

    def looked(self, *, hit: bool) -> None:
        """Count a look for an answer in this process."""
        self._looks.add(1, "process", "hit" if hit else "miss")

    def keep(self, key: bytes, answer: Finished) -> None:
        """Keep an answer that was made in less time than another replica would need to ask for it."""
        self._local.put(key, answer)
        self._bytes.set(self._local.bytes)

    async def find_or(
        self, key: bytes, shared: bool, compute: Callable[[], Awaitable[Finished]]
    ) -> tuple[Finished, bool]:
        """The answer that another replica has put into Redis, else the computed one; and whether it was the former.

        Args:
            shared: Whether it is worth asking Redis, and telling it.
        """
        link = self._link if shared else None
        found = None if link is None else await self._fetch(link, key)
        answer = found or await compute()
        self._local.put(key, answer)
        self._bytes.set(self._local.bytes)
        if link is not None and found is None:
            self._publish(link, key, answer)
        return answer, found is not None

    async def close(self) -> None:
        for task in list(self._puts):
            task.cancel()
        await asyncio.gather(*self._puts, return_exceptions=True)

    async def _fetch(self, link: Shared, key: bytes) -> Finished | None:
        name = _name(link, key)
        try:
            value = await link.get(name, VALUE_BYTES_MAX)
        except AwayError:
            self._looks.add(1, "redis", "error")
            return None
        found = unpack(key, value)
        outcome = "hit" if found is not None else "foreign" if value else "miss"
        self._looks.add(1, "redis", outcome)
        return found

    def _publish(self, link: Shared, key: bytes, answer: Finished) -> None:
        """Beside the question, which does not wait for it."""
        if len(answer.rows) > VALUE_BYTES_MAX or not link.reachable or len(self._puts) >= PUTS_MAX:
            return
        task = asyncio.get_running_loop().create_task(self._put(link, key, answer))
        self._puts.add(task)
        task.add_done_callback(self._puts.discard)

    async def _put(self, link: Shared, key: bytes, answer: Finished) -> None:
        name, value = _name(link, key), pack(key, answer)
        if len(value) > VALUE_BYTES_MAX:
            return
        try:
            await link.put(name, value, KEPT_S)
        except AwayError:
            self._looks.add(1, "redis", "not_kept")


def _name(link: Shared, key: bytes) -> str:
    return link.key("answer", hashlib.blake2b(key, digest_size=DIGEST_BYTES).hexdigest())


def pack(key: bytes, answer: Finished) -> bytes:
    """As it lies in Redis."""
    body = msgspec.msgpack.encode(answer)
    return b"".join((FORM, _digest(key, body), body))


def unpack(key: bytes, value: bytes) -> Finished | None:
    """The answer, if the value is one of ours, whole, and for this key."""
    if not value.startswith(FORM):
        return None
    digest, body = value[len(FORM) : len(FORM) + DIGEST_BYTES], value[len(FORM) + DIGEST_BYTES :]
    if digest != _digest(key, body):
        return None
    try:
        return msgspec.msgpack.decode(body, type=Finished)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _digest(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(key + b"\0" + body, digest_size=DIGEST_BYTES).digest()
