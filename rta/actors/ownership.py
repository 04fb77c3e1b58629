"""Who owns which partition: the assignment chain, written by the one coordinator that its newest entry names.

Partitions stay where they are when something changes, as far as the loads stay even; an actor that has not registered yet
still gets its share, because it is about to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from rta.actors.messages import Registration
from rta.errors import FencedError, UnavailableError
from rta.store.catalog import Assignments
from rta.store.model import ActorAssignment, Assignment
from rta.store.objects import ObjectStore


def spread(
    partitions: Mapping[str, int], actors: Sequence[str], before: Mapping[str, Mapping[str, Sequence[int]]]
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Partitions of each datasource over the actors, evenly, moving as few as possible.

    Args:
        partitions: Number of partitions by datasource folder.
        actors: Names of those who take part.
        before: Actor → folder → partitions, as it was.
    """
    result: dict[str, dict[str, tuple[int, ...]]] = {actor: {} for actor in actors}
    for folder, count in sorted(partitions.items()):
        kept = {a: [p for p in before.get(a, {}).get(folder, ()) if p < count] for a in actors}
        most = -(-count // len(actors))
        owned = {a: ps[:most] for a, ps in kept.items()}
        free = sorted(set(range(count)) - {p for ps in owned.values() for p in ps})
        for partition in free:
            poorest = min(actors, key=lambda a: (len(owned[a]), actors.index(a)))
            owned[poorest].append(partition)
        for actor, mine in owned.items():
            result[actor][folder] = tuple(sorted(mine))
    return result


def fleet_names(count: int) -> tuple[str, ...]:
    """What so many aggregators are called."""
    return tuple(f"aggregator-{k}" for k in range(count))


class Ownership:
    """Writes assignments; takes the next coordinator generation when it is made.

    Args:
        run: Name of this start of the system. A fleet that was scaled in it is kept, one of an earlier start is not.
        actors: The fleet that a start begins with.
    """

    def __init__(self, store: ObjectStore, actors: Sequence[str], run: str = "") -> None:
        self._lock = threading.Lock()
        self._initial = tuple(actors)
        self._run = run
        self._assignments = Assignments(store)
        self._catalog_version = -1
        self._current = self._take_over()
        self._here = {a for a, x in self._current.actors.items() if a in self._current.fleet and x.partitions}

    @property
    def generation(self) -> int:
        return self._current.coordinator

    @property
    def current(self) -> Assignment:
        """The newest assignment that this coordinator put."""
        return self._current

    @property
    def fleet(self) -> tuple[str, ...]:
        """The aggregators that are to run."""
        return self._current.fleet

    @property
    def number(self) -> int:
        return self._current.number

    def _take_over(self) -> Assignment:
        while True:
            newest = self._assignments.newest()
            actors = {} if newest is None else dict(newest.actors)
            same_run = newest is not None and bool(self._run) and newest.run == self._run
            assignment = Assignment(
                number=0 if newest is None else newest.number + 1,
                coordinator=1 if newest is None else newest.coordinator + 1,
                actors=actors,
                created_ms=_now_ms(),
                run=self._run,
                fleet=newest.fleet if newest is not None and same_run else self._initial,
            )
            if self._assignments.put(assignment).done:
                return assignment

    def register(self, actor: str) -> Registration:
        """A new life of an actor: its generation grows, so that whatever its older lives still do is refused.

        Raises UnavailableError for one that does not take part: it is about to be ended, or a newer start of it is.
        """
        with self._lock:
            if actor not in self._current.fleet:
                raise UnavailableError(f"aggregator '{actor}' takes no part any more", "it will be ended")
            self._here.add(actor)
            known = self._current.actors.get(actor, ActorAssignment(generation=0, partitions={}))
            renewed = ActorAssignment(generation=known.generation + 1, partitions=known.partitions)
            self._put({**self._current.actors, actor: renewed})
            return Registration(generation=renewed.generation, number=self._current.number)

    def assign(self, partitions: Mapping[str, int], catalog_version: int) -> None:
        """Spread the datasources' partitions; a newer catalog makes a new assignment even when nothing moves.

        An actor that no longer takes part stays, without partitions: its generations go on when it comes back, so that
        the names of its files never recur.
        """
        with self._lock:
            before = {a: x.partitions for a, x in self._current.actors.items()}
            shares = spread(partitions, self._takers(), before)
            generations = {a: x.generation for a, x in self._current.actors.items()}
            actors = {
                a: ActorAssignment(generation=generations.get(a, 0), partitions=shares.get(a, {}))
                for a in {**generations, **shares}
            }
            if actors != self._current.actors or catalog_version != self._catalog_version:
                self._put(actors)
                self._catalog_version = catalog_version

    def scale(self, count: int) -> tuple[str, ...]:
        """So many aggregators from now on; their names. Shares follow with the next `assign`.

        One that leaves gives up its partitions at once; one that joins gets some when it has registered, so that nothing
        waits for a process that is only starting.
        """
        with self._lock:
            self._here &= set(fleet_names(count))
            if fleet_names(count) != self._current.fleet:
                self._put(dict(self._current.actors), fleet_names(count))
            return self._current.fleet

    def _takers(self) -> list[str]:
        """Those of the fleet that run, or are about to: the ones that a start begins with, and who has registered since."""
        return [a for a in self._current.fleet if a in self._here or a in self._initial] or list(self._current.fleet)

    def _put(self, actors: dict[str, ActorAssignment], fleet: tuple[str, ...] | None = None) -> None:
        following = Assignment(
            number=self._current.number + 1,
            coordinator=self._current.coordinator,
            actors=actors,
            created_ms=_now_ms(),
            run=self._run,
            fleet=self._current.fleet if fleet is None else fleet,
        )
        if not self._assignments.put(following).done:
            raise FencedError(
                f"assignment {following.number} was written by somebody else than coordinator {self.generation}",
                "another coordinator took over; this one stands down",
            )
        self._current = following


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
