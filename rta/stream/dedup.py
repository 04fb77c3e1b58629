"""Which events were counted before: identities in memory, in runs on disk, and when they are forgotten.

Log time is cut into steps of a 48th of `dedup_window`, counted from the epoch of time. An identity that was counted in
step s is known through step s + 48 and forgotten in step s + 49: at least `dedup_window`, at most a 48th longer. The
step of the counted occurrence decides; a dropped duplicate does not renew it. Every decision depends on the records of
one partition alone; whether an identity is found in memory or in its run changes nothing.

An identity counted in an epoch is in memory until the cut has put it into a run and the run has been handed back
(`runs_written`). From then on it may leave memory when the actor holds too many, the oldest steps first; a filter in
front of the runs spares most searches. Runs are sorted and are read only through the arrays they came in.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rta.errors import InvariantError
from rta.stream.grouping import ALL_VALID, Flags, Ints, Longs, readable
from rta.stream.identity_table import (
    FREE,
    admit,
    filter_add,
    filter_maybe,
    live_entries,
    move,
    search_run,
    sorted_identities,
)
from rta.stream.model import Identities, IdRun, RunWrite

STEPS = 48
"""Steps for which an identity is known besides its own."""
RUNS_PER_STEP_MAX = 8
CLOSED_RUNS_MAX = 2
"""Runs of a step that is over: every manifest names the runs of all 49 steps of every partition."""
CLOSING_IDS_MIN = 65_536
"""Identities that a cut may rewrite for steps that are over, where the epoch itself brought fewer."""
LOAD_MAX = 0.7
LOAD_AFTER_GROWTH = 0.47
CAPACITY_MIN = 1024
FILTER_IDS_PER_WORD = 4
"""16 bits per identity: about 1 % of the identities that are not in a run are searched for in vain."""


def step_ms_of(window_ms: int) -> int:
    """Length of a step; rounded up, so that 48 of them are never shorter than the window."""
    return max(1, -(-window_ms // STEPS))


class IdTable:
    """Identities in memory, each with the step in which it was counted."""

    def __init__(self) -> None:
        self._ids: Identities = np.empty((CAPACITY_MIN, 2), np.uint64)
        self._steps: Ints = np.full(CAPACITY_MIN, FREE, np.int32)
        self._used = 0

    def admit(self, ids: Identities, steps: Longs, refused: Flags) -> Flags:
        """Which of the identities are new; they are in the table now."""
        oldest = int(steps[0]) - STEPS if len(steps) else 0
        if self._used + len(ids) > LOAD_MAX * len(self._steps):
            self._rebuild(oldest, len(ids))
        new, filled = admit(self._ids, self._steps, readable(ids), readable(steps), readable(refused), STEPS)
        self._used += filled
        return new

    def keep(self, oldest: int) -> None:
        """Drop all entries of older steps and give their memory back."""
        self._rebuild(oldest, 0)

    def _rebuild(self, oldest: int, room: int) -> None:
        live = int(live_entries(self._steps, oldest))
        capacity = max(CAPACITY_MIN, int((live + room) / LOAD_AFTER_GROWTH))
        ids: Identities = np.empty((capacity, 2), np.uint64)
        steps = np.full(capacity, FREE, np.int32)
        self._used = int(move(self._ids, self._steps, ids, steps, oldest))
        self._ids, self._steps = ids, steps


class RunFilter:
    """Says of most identities at once that no searched run holds them."""

    def __init__(self) -> None:
        self._words: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._added = 0

    def add(self, ids: Identities, searched: Sequence[IdRun]) -> None:
        """Take in identities; `searched` are all runs that must stay known, for when the filter is made anew."""
        if self._added + len(ids) <= len(self._words) * FILTER_IDS_PER_WORD:
            filter_add(self._words, readable(ids))
            self._added += len(ids)
            return
        every = [np.asarray(r.identities) for r in searched] + [ids]
        self._added = sum(map(len, every))
        self._words = np.zeros(max(64, 2 * self._added // FILTER_IDS_PER_WORD), np.uint64)
        for each in every:
            filter_add(self._words, readable(each))

    def maybe(self, ids: Identities) -> Flags:
        return filter_maybe(self._words, readable(ids))


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A run that a cut has ordered: what it replaces, and the identities in it that no other run holds."""

    write: RunWrite
    fresh: Identities
    replaces: tuple[IdRun, ...]


class PartitionIds:
    """The identities of one partition."""

    def __init__(self, partition: int, now_step: int) -> None:
        self.partition = partition
        self.now_step = now_step
        self._table = IdTable()
        self._in_memory: dict[int, int] = {}
        self._runs: list[IdRun] = []
        self._searched: list[IdRun] = []
        self._filter = RunFilter()
        self._fresh: list[tuple[Identities, Longs]] = []
        self._awaited: list[_Awaited] = []

    @property
    def oldest_step(self) -> int:
        """Identities of older steps are forgotten."""
        return self.now_step - STEPS

    @property
    def memory_ids(self) -> int:
        return sum(self._in_memory.values())

    def admit(self, ids: Identities, steps: Longs) -> Flags:
        """Decide on identities in the order of the log.

        Args:
            ids: (n, 2).
            steps: The step of each one's record, never falling, never below an earlier call's.

        Returns:
            Which of them are new, and counted from now on.
        """
        if not len(ids):
            return np.zeros(0, np.bool_)
        self.now_step = int(steps[-1])
        new = self._table.admit(ids, steps, self._in_runs(ids, steps))
        if new.all():
            self._fresh.append((ids, steps))
        else:
            self._fresh.append((ids[new], steps[new]))
        self._count(self._fresh[-1][1])
        return new

    def _count(self, steps: Longs) -> None:
        for step, first, end in _spans(steps):
            self._in_memory[step] = self._in_memory.get(step, 0) + end - first

    def forget(self) -> None:
        """Let go of what has left the window."""
        oldest = self.oldest_step
        self._in_memory = {s: n for s, n in self._in_memory.items() if s >= oldest}
        self._runs = [r for r in self._runs if r.step >= oldest]
        self._searched = [r for r in self._searched if r.step >= oldest]

    def _in_runs(self, ids: Identities, steps: Longs) -> Flags:
        if not self._searched:
            return ALL_VALID
        maybe = self._filter.maybe(ids)
        found = np.zeros(len(ids), np.bool_)
        if maybe.any():
            for run in self._searched:
                wanted = maybe & (steps <= run.step + STEPS)
                if wanted.any():
                    search_run(readable(np.asarray(run.identities)), readable(ids), found, wanted)
        return found

    # Memory

    def take(self, run: IdRun, into_memory: bool) -> None:
        """A run that a manifest names."""
        self._runs.append(run)
        if not into_memory:
            self._search(run)
            return
        steps = np.full(len(run.identities), run.step, np.int64)
        new = self._table.admit(np.asarray(run.identities), steps, ALL_VALID)
        self._in_memory[run.step] = self._in_memory.get(run.step, 0) + int(new.sum())

    def _search(self, run: IdRun) -> None:
        self._filter.add(np.asarray(run.identities), self._searched)
        self._searched.append(run)

    def evictable_step(self) -> int | None:
        """The oldest step with identities in memory that are in a run as well."""
        written = dict(self._in_memory)
        for _, steps in self._unwritten():
            for step, first, end in _spans(steps):
                written[step] = written.get(step, 0) - (end - first)
        return min((step for step, count in written.items() if count > 0), default=None)

    def evict(self, step: int) -> None:
        """Drop from memory what runs hold of this step and older ones; from now on those runs are searched."""
        searched = {id(r) for r in self._searched}
        for run in [r for r in self._runs if r.step <= step and id(r) not in searched]:
            self._search(run)
        self._table.keep(step + 1)
        self._in_memory = {s: n for s, n in self._in_memory.items() if s > step}
        for ids, steps in self._unwritten():
            if len(steps) and steps[0] <= step:
                end = int(np.searchsorted(steps, step, side="right"))
                self._table.admit(ids[:end], steps[:end], ALL_VALID)
                self._count(steps[:end])

    def _unwritten(self) -> Iterable[tuple[Identities, Longs]]:
        """Identities that are in no run yet, with their steps, which never fall."""
        for a in self._awaited:
            yield a.fresh, np.full(len(a.fresh), a.write.step, np.int64)
        yield from self._fresh

    # Runs

    @property
    def fresh_ids(self) -> int:
        """Identities counted since the last cut."""
        return sum(len(ids) for ids, _ in self._fresh)

    def cut(self, room: int = 0) -> tuple[list[RunWrite], tuple[object, ...]]:
        """Runs to write for the epoch, and the keys of the older ones that still count beside them.

        Args:
            room: About so many identities of steps that are over may be written again, in fewer runs.
        """
        if self._awaited:
            raise InvariantError(
                f"partition {self.partition} was cut again before the {len(self._awaited)} id runs of its last cut "
                "were handed back",
                "call runs_written() with the written runs before the next cut()",
            )
        self.forget()
        if self._fresh:
            ids = np.concatenate([ids for ids, _ in self._fresh])
            steps = np.concatenate([steps for _, steps in self._fresh])
            alive = [span for span in _spans(steps) if span[0] >= self.oldest_step]
            self._awaited = [self._planned(step, ids[first:end]) for step, first, end in alive]
            self._fresh = []
        self._close_steps(room)
        replaced = {id(r) for a in self._awaited for r in a.replaces}
        kept = tuple(r.key for r in self._runs if id(r) not in replaced)
        return [a.write for a in self._awaited], kept

    def _planned(self, step: int, fresh: Identities) -> _Awaited:
        """The run to write for a step: alone, or merged with smaller ones when there are too many already.

        Runs that are no larger than what they merge into are taken, at least one: so an identity is rewritten a few
        times in its life and not with every epoch.
        """
        runs = sorted((r for r in self._runs if r.step == step), key=lambda r: len(r.identities))
        merged: list[IdRun] = []
        count = len(fresh)
        while len(runs) - len(merged) >= RUNS_PER_STEP_MAX or (
            merged and len(merged) < len(runs) and len(runs[len(merged)].identities) <= count
        ):
            merged.append(runs[len(merged)])
            count += len(merged[-1].identities)
        ids = np.concatenate([fresh, *(np.asarray(r.identities) for r in merged)]) if merged else fresh
        return _Awaited(RunWrite(self.partition, step, sorted_identities(ids)), fresh, tuple(merged))

    def _close_steps(self, room: int) -> None:
        """Leave two runs of a step that is over, the oldest steps first. The largest stays if it is half of it or more."""
        busy = {self.now_step, *(a.write.step for a in self._awaited)}
        by_step: dict[int, list[IdRun]] = {}
        for run in self._runs:
            if run.step not in busy:
                by_step.setdefault(run.step, []).append(run)
        for step, runs in sorted(by_step.items()):
            if len(runs) > CLOSED_RUNS_MAX and room > 0:
                *smaller, largest = sorted(runs, key=lambda r: len(r.identities))
                count = sum(len(r.identities) for r in smaller)
                merged = smaller if count <= len(largest.identities) else runs
                ids = np.concatenate([np.asarray(r.identities) for r in merged])
                write = RunWrite(self.partition, step, sorted_identities(ids))
                self._awaited.append(_Awaited(write, np.empty((0, 2), np.uint64), tuple(merged)))
                room -= len(ids)

    @property
    def rewritten_ids(self) -> int:
        """Identities that the last cut wrote again for steps that are over."""
        return sum(len(a.write.identities) for a in self._awaited if not len(a.fresh))

    def written(self, runs: Sequence[IdRun]) -> None:
        """The runs of the last cut, in its order, as they can be read now."""
        awaited, self._awaited = self._awaited, []
        for plan, run in zip(awaited, runs, strict=True):
            if run.step != plan.write.step or len(run.identities) != len(plan.write.identities):
                raise InvariantError(
                    f"id run of partition {self.partition} came back with step {run.step} and {len(run.identities)} "
                    f"identities instead of step {plan.write.step} and {len(plan.write.identities)}",
                    "hand runs back in the order of run_writes",
                )
            replaced = {id(r) for r in plan.replaces}
            searched = any(id(r) in replaced for r in self._searched)
            self._runs = [*(r for r in self._runs if id(r) not in replaced), run]
            self._searched = [r for r in self._searched if id(r) not in replaced]
            if searched:
                self._filter.add(np.asarray(run.identities), self._searched)
                self._searched.append(run)

    @property
    def awaited(self) -> int:
        return len(self._awaited)


def _spans(steps: Longs) -> list[tuple[int, int, int]]:
    """(step, first, end) of each stretch of equal steps; steps never fall."""
    if not len(steps):
        return []
    if steps[0] == steps[-1]:
        return [(int(steps[0]), 0, len(steps))]
    edges = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
    return [(int(steps[a]), a, b) for a, b in itertools.pairwise(edges)]


class Duplicates:
    """The identities of all partitions of an actor, under one bound."""

    def __init__(self, window_ms: int, memory_ids: int) -> None:
        self._step_ms = step_ms_of(window_ms)
        self._memory_ids = memory_ids
        self.partitions: dict[int, PartitionIds] = {}

    def step_of(self, append_time_ms: int) -> int:
        return append_time_ms // self._step_ms

    def load(self, runs: dict[int, Sequence[IdRun]], append_times_ms: dict[int, int]) -> None:
        """Begin with the runs that a manifest names: the youngest into memory, as many as it may hold."""
        for partition, time_ms in append_times_ms.items():
            self.partitions[partition] = PartitionIds(partition, self.step_of(time_ms))
        alive = [
            (run.step, partition, run)
            for partition, each in runs.items()
            for run in each
            if run.step >= self.partitions[partition].oldest_step
        ]
        room = self._memory_ids
        for _, partition, run in sorted(alive, key=lambda entry: (-entry[0], entry[1])):
            room -= len(run.identities)
            self.partitions[partition].take(run, into_memory=room >= 0)

    def enforce(self) -> None:
        """Keep to the bound: the oldest steps leave memory, as far as runs hold them."""
        while sum(p.memory_ids for p in self.partitions.values()) > self._memory_ids:
            steps = [(s, p) for p, ids in self.partitions.items() if (s := ids.evictable_step()) is not None]
            if not steps:
                return
            step, partition = min(steps)
            self.partitions[partition].evict(step)

    def cut(self) -> tuple[list[RunWrite], dict[int, tuple[object, ...]]]:
        """What `PartitionIds.cut` says of each partition, ascending. Rewrites no more than the epoch brought, about."""
        room = max(CLOSING_IDS_MIN, sum(p.fresh_ids for p in self.partitions.values()))
        writes: list[RunWrite] = []
        kept: dict[int, tuple[object, ...]] = {}
        for partition, ids in sorted(self.partitions.items()):
            ordered, kept[partition] = ids.cut(room)
            writes += ordered
            room -= ids.rewritten_ids
        return writes, kept

    def written(self, runs: Sequence[IdRun]) -> None:
        """The runs of the last cut, one for each of its `run_writes`, in that order."""
        expected = sum(p.awaited for p in self.partitions.values())
        if len(runs) != expected:
            raise InvariantError(f"{len(runs)} id runs were handed back for the {expected} that the cut ordered")
        at = 0
        for partition in sorted(self.partitions):
            ids = self.partitions[partition]
            count = ids.awaited
            ids.written(runs[at : at + count])
            at += count
        self.enforce()
