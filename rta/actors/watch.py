"""Watches the aggregators: asks each for its status, ends those that no longer answer, remembers why they came back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rta.actors.links import Site
from rta.actors.messages import AggregatorStatus, ShardStatus

logger = logging.getLogger(__name__)
EVERY_S = 0.5
ANSWER_S = 2.0
MISSES_MAX = 5
STALE_S = 3.0
WITHOUT_A_WORD = "ended without a word (killed, or out of memory)"


def _plain(shard: ShardStatus) -> Any:
    """As JSON has it: keys are texts."""
    return msgspec.json.decode(msgspec.json.encode(shard))


class _Watched:
    """One aggregator: its last answer, and its lives."""

    def __init__(self) -> None:
        self.answer: AggregatorStatus | None = None
        self.answered_at = 0.0
        self.misses = 0
        self.lives = 0
        self.reason: str | None = None
        self.registered_ms = 0
        self.rate = 0.0


class _Lives(msgspec.Struct, frozen=True):
    lives: int
    reason: str | None
    registered_ms: int


class _Run(msgspec.Struct, frozen=True):
    """What is kept of the aggregators of one run, which is named by the process that holds it up."""

    pid: int
    aggregators: dict[str, _Lives]


class Watch:
    """See the module. `ask` answers None when the aggregator does not; `kill` ends its process."""

    def __init__(
        self, site: Site, ask: Callable[[str, float], AggregatorStatus | None], kill: Callable[[str, int], None]
    ) -> None:
        self._site = site
        self._ask = ask
        self._kill = kill
        self._watched = {name: _Watched() for name in site.aggregators}
        self._recall()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def follow(self, names: Sequence[str]) -> None:
        """Watch these from now on, and no others."""
        self._watched = {name: self._watched.get(name) or _Watched() for name in names}

    def registered(self, actor: str, pid: int, generation: int) -> None:
        """A new process of this aggregator; what the one before it said last is the reason."""
        watched = self._watched.setdefault(actor, _Watched())
        watched.lives += 1
        watched.misses = 0
        watched.registered_ms = time.time_ns() // 1_000_000
        path = self._site.reasons / f"{actor}.txt"
        if path.exists():
            watched.reason = path.read_text(errors="replace").strip()
            path.unlink(missing_ok=True)
        elif watched.lives > 1 and watched.reason is None:
            watched.reason = WITHOUT_A_WORD
        self._remember()
        logger.info("aggregator %s is process %d, generation %d", actor, pid, generation)

    def _remember(self) -> None:
        """The lives of this run, for a coordinator that takes over; a newer run begins at none."""
        lives = {name: _Lives(w.lives, w.reason, w.registered_ms) for name, w in self._watched.items()}
        try:
            self._site.lives.parent.mkdir(parents=True, exist_ok=True)
            aside = self._site.lives.with_suffix(".new")
            aside.write_bytes(msgspec.json.encode(_Run(self._site.pid, lives)))
            aside.replace(self._site.lives)
        except OSError as error:
            # Only for people; an aggregator is not refused because the disk is full.
            logger.warning("a coordinator that takes over will not know the restarts: %s", error)

    def _recall(self) -> None:
        try:
            run = msgspec.json.decode(self._site.lives.read_bytes(), type=_Run)
        except FileNotFoundError:
            return
        except msgspec.DecodeError as error:
            logger.warning("earlier restarts are not known: '%s' can't be read: %s", self._site.lives, error)
            return
        if run.pid != self._site.pid:
            return
        for name, lives in run.aggregators.items():
            watched = self._watched.setdefault(name, _Watched())
            watched.lives, watched.reason, watched.registered_ms = lives.lives, lives.reason, lives.registered_ms

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            for name, watched in list(self._watched.items()):
                self._look(name, watched)

    def _look(self, name: str, watched: _Watched) -> None:
        answer = self._ask(name, ANSWER_S)
        now = time.monotonic()
        if answer is not None:
            if watched.answer is not None and watched.answer.pid == answer.pid:
                events = sum(s.events for s in answer.shards) - sum(s.events for s in watched.answer.shards)
                watched.rate = max(0.0, events / max(now - watched.answered_at, 1e-3))
            watched.answer, watched.answered_at, watched.misses = answer, now, 0
            return
        watched.misses += 1
        if watched.misses >= MISSES_MAX and watched.answer is not None:
            seconds = MISSES_MAX * ANSWER_S
            watched.reason = f"did not answer for {seconds:.0f} s and was ended"
            logger.error("aggregator %s %s", name, watched.reason)
            pid = watched.answer.pid
            watched.misses = 0
            watched.answer = None
            self._kill(name, pid)

    # -- for the status ----------------------------------------------------------------------------------------------

    def actors(self) -> dict[str, Any]:
        return {name: self._actor(watched) for name, watched in self._watched.items()}

    def _actor(self, watched: _Watched) -> dict[str, Any]:
        answer = watched.answer
        return {
            "alive": self._fresh(watched),
            "pid": None if answer is None else answer.pid,
            "generation": None if answer is None else answer.generation,
            "started_ms": watched.registered_ms or None,
            "restarts": max(0, watched.lives - 1),
            "reason": watched.reason,
            "reloads": 0 if answer is None else answer.reloads,
            "last_reload": None if answer is None else answer.last_reload,
            "events_per_s": round(watched.rate, 1),
            "shards": {} if answer is None else {s.folder: _plain(s) for s in answer.shards},
        }

    @staticmethod
    def _fresh(watched: _Watched) -> bool:
        return watched.answer is not None and time.monotonic() - watched.answered_at < STALE_S

    def datasource(self, folder: str, partitions: int) -> dict[str, Any]:
        """What the owners of a datasource's partitions said last, together."""
        shares: list[ShardStatus] = []
        for watched in self._watched.values():
            if watched.answer is not None and self._fresh(watched):
                shares += [s for s in watched.answer.shards if s.folder == folder]
        shards = [s for s in shares if s.load]
        offsets = {p: o for s in shards for p, o in s.offsets.items()}
        return {
            "watermarks_ms": {str(p): m for s in shards for p, m in s.watermarks_ms.items()},
            "idle": sorted({p for s in shards for p in s.idle}),
            "offsets": {str(p): o for p, o in sorted(offsets.items())},
            "log_ends": {str(p): e for s in shards for p, e in s.log_ends.items()},
            "lag_ms": max((s.lag_ms for s in shards), default=None),
            "pending_parts": sum(s.pending_parts for s in shards),
            "duplicates_dropped": sum(s.duplicates for s in shards),
            "caught_up": bool(shards) and all(s.caught_up for s in shards),
            "alarms": [s.alarm for s in shares if s.alarm is not None],
            "ownerless": sorted(set(range(partitions)) - set(offsets)),
        }
