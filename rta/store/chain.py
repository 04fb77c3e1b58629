"""A chain of numbered objects: the store's only way to decide who was first.

Owns rule 8 and rule 9 of the commit protocol: numbers are dense from 0, each is put if absent, none is ever free again,
and an error of the put means *unknown* until the number has been read back. There is no pointer to the newest and no
listing: since no number is free below the newest, it is found by galloping and halving.

Whoever follows a chain asks for the next number only: one request, since what was there once stays there.

Does not know what the contents mean. Manifests, catalog and assignments are chains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from rta.errors import NotFoundError, RtaError, UnavailableError
from rta.store.layout import number_key
from rta.store.model import commit_id
from rta.store.objects import ObjectStore

ATTEMPTS_MAX = 4
STEPS_MAX = 4
"""Who has fallen further behind than so many numbers jumps."""


class Verdict(StrEnum):
    """What became of an append."""

    DONE = "done"
    LOST = "lost"
    """Another's content holds the number, for ever."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`content` is what holds the number now: ours when done, the winner's when lost."""

    verdict: Verdict
    number: int
    content: bytes

    @property
    def done(self) -> bool:
        return self.verdict is Verdict.DONE

    @property
    def commit_id(self) -> str:
        return commit_id(self.content)


class Chain:
    """The chain below `prefix`. Keeps no state of its own: any number of processes may work on one."""

    def __init__(self, store: ObjectStore, prefix: str, resolve: Callable[[bytes], bytes] | None = None) -> None:
        """`resolve` turns an object as stored into its content, where contents may have moved to an archive."""
        self._store = store
        self.prefix = prefix
        self._resolve = resolve or (lambda stored: stored)

    def get(self, number: int) -> bytes:
        """Raises NotFoundError when nobody has put this number yet."""
        return self._resolve(self._store.get(number_key(self.prefix, number)))

    def exists(self, number: int) -> bool:
        return self._store.exists(number_key(self.prefix, number))

    def newest(self, known: int | None = None) -> tuple[int, bytes] | None:
        """The highest number and its content; None when there is none beyond `known`.

        Args:
            known: A number that has been seen to be there; it stays there. None: the chain has not been looked at.

        Cost: one get when there is nothing new, two when there is one more; else 2 log2 of the distance in probes, and a get.
        """
        low, content = -1 if known is None else known, None
        for _ in range(0 if known is None else STEPS_MAX):
            try:
                content = self.get(low + 1)
            except NotFoundError:
                return None if content is None else (low, content)
            low += 1
        number = self._highest(low)
        if number == low and content is not None:
            return low, content
        return None if number < 0 else (number, self.get(number))

    def _highest(self, low: int) -> int:
        """From a number that is there, or -1; by galloping and halving."""
        high, step = low + 1, 1
        while self.exists(high):
            low, high, step = high, high + step, step * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.exists(middle) else (low, middle)
        return low

    def append(self, number: int, content: bytes) -> Outcome:
        """Put `content` at `number` if nobody has, and find out what became of it whatever the answer was.

        Raises:
            UnavailableError: the store could not be asked; it is still unknown whether the content is there. Calling
                again with the same bytes is safe and the only way to know.
        """
        failure: Exception | None = None
        for _ in range(ATTEMPTS_MAX):
            try:
                if self._store.put_if_absent(number_key(self.prefix, number), content):
                    return Outcome(Verdict.DONE, number, content)
                return self._compare(number, content)
            except (OSError, RtaError) as error:
                failure = error
            try:
                return self._compare(number, content)
            except NotFoundError:
                continue
            except (OSError, RtaError) as error:
                failure = error
        raise UnavailableError(
            f"appending number {number} to '{self.prefix}': unknown after {ATTEMPTS_MAX} attempts whether it is there: "
            f"{failure}",
            "offer the same content again",
        ) from failure

    def _compare(self, number: int, content: bytes) -> Outcome:
        there = self.get(number)
        verdict = Verdict.DONE if commit_id(there) == commit_id(content) else Verdict.LOST
        return Outcome(verdict, number, there)
