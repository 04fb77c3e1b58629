"""The sweep: takes files that nothing has named for longer than any query or view may live (rule 16).

Owns who counts as naming a file: the newest Delta version, the manifests beyond it, the newest manifests' states and
runs, registered jobs, unfinished fills, and an aggregator of the newest assignment that may still offer the part. A file
is listed first and the names are read afterwards, so that whatever is written in between is safe; it is taken only when
it was found unnamed for `grace_ms`, of which a small document keeps the beginning across restarts. Only the coordinator
that wrote the newest manifest sweeps: what a stalled predecessor has in hand can then no longer be put.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from rta.errors import CorruptFileError, NotFoundError
from rta.store import layout
from rta.store.jobs import registered
from rta.store.manifests import ManifestLog
from rta.store.model import Assignment, Manifest
from rta.store.objects import ObjectInfo, ObjectStore
from rta.store.versions import TableVersions

MANIFESTS_MAX = 500
"""Manifests read in one step to learn which epochs were committed."""
RECENT = 8
"""States and runs of this many newest manifests stay: somebody may be loading one."""
DELETED_MAX = 2000
"""Files taken in one step."""
AREAS = ("state", "runs")


class Committed(msgspec.Struct):
    """Epochs of an actor's generation that manifests have taken, as ranges `[first, last]`."""

    generation: int
    epochs: list[list[int]]

    def add(self, epoch: int) -> None:
        self.epochs.append([epoch, epoch])
        self.epochs.sort()
        merged: list[list[int]] = []
        for first, last in self.epochs:
            if merged and first <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], last)
            else:
                merged.append([first, last])
        self.epochs = merged

    def has(self, epoch: int) -> bool:
        return any(first <= epoch <= last for first, last in self.epochs)


class _Memory(msgspec.Struct):
    """What outlives a restart. `unnamed` says since when each unnamed key has been so, per area."""

    cursor: int = -1
    committed: dict[str, Committed] = msgspec.field(default_factory=dict)
    unnamed: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)


@dataclass(slots=True)
class SweepReport:
    """What one step did in one area."""

    area: str
    listed: int = 0
    unnamed: int = 0
    deleted: list[str] = field(default_factory=list)


class Sweep:
    """Sweeps one datasource. One per thread; only one in the system is meant to run, more do no harm."""

    def __init__(self, store: ObjectStore, folder: str, generation: int, grace_ms: int) -> None:
        """`generation` is the coordinator's. `grace_ms` is the longest query plus the longest that a view is held."""
        self._store = store
        self._folder = folder
        self._generation = generation
        self._grace_ms = grace_ms
        self._memory: _Memory | None = None

    def step(self, area: str, assignment: Assignment, now_ms: int, pinned: frozenset[str] = frozenset()) -> SweepReport:
        """Sweep one area: "state", "runs" or a table's name. Does nothing while somebody else coordinates.

        Args:
            assignment: The newest, read after the previous step.
            pinned: Keys that unfinished work still has to read.
        """
        report = SweepReport(area)
        listed = [info.key for info in self._list(area)]
        report.listed = len(listed)
        manifests = ManifestLog(self._store, self._folder)
        newest = manifests.newest()
        if newest is None or newest.coordinator != self._generation or assignment.coordinator != self._generation:
            return report
        memory = self._remembered()
        self._learn(memory, manifests, newest)
        named = self._named(area, manifests, newest, now_ms) | pinned
        before = memory.unnamed.get(area, {})
        unnamed = {
            key: min(before.get(key, now_ms), now_ms)
            for key in listed
            if key not in named and not self._may_be_offered(key, memory, assignment)
        }
        for key, since_ms in list(unnamed.items()):
            if now_ms - since_ms > self._grace_ms and len(report.deleted) < DELETED_MAX:
                self._store.delete(key)
                report.deleted.append(key)
                del unnamed[key]
        report.unnamed = len(unnamed)
        if unnamed != before:
            memory.unnamed[area] = unnamed
        self._store.put(layout.document(self._folder, "sweep"), msgspec.json.encode(memory))
        return report

    def _list(self, area: str) -> Iterator[ObjectInfo]:
        if area in AREAS:
            yield from self._store.list(layout.within(self._folder, area))
            return
        for info in self._store.list(layout.table(self._folder, area)):
            if not info.key.startswith(layout.delta_log(self._folder, area)):
                yield info

    def _named(self, area: str, manifests: ManifestLog, newest: Manifest, now_ms: int) -> set[str]:
        named: set[str] = set()
        for job in registered(self._store, self._folder):
            if now_ms <= job.lease_until_ms:
                named.update(job.outputs)
        if area not in AREAS:
            versions = TableVersions(self._store, self._folder, manifests)
            files = versions.files_at(area, newest.number)
            return named | {layout.table_file(self._folder, area, file.path) for file in files}
        for manifest in manifests.read(max(0, newest.number - RECENT), newest.number):
            for entry in manifest.partitions:
                if entry.state is not None:
                    named.add(layout.within(self._folder, entry.state))
                named.update(layout.within(self._folder, run.path) for run in entry.runs)
        return named

    def _may_be_offered(self, key: str, memory: _Memory, assignment: Assignment) -> bool:
        """Whether a part with this file may still come: of a current or newer generation, not committed so far."""
        name = layout.parse_name(key)
        if name is None or name.actor == layout.COMPACTION:
            return False
        owner = assignment.actors.get(name.actor)
        if owner is None or name.generation < owner.generation:
            return False
        if name.generation > owner.generation:
            return True
        committed = memory.committed.get(name.actor)
        return committed is None or committed.generation != name.generation or not committed.has(name.epoch)

    def _learn(self, memory: _Memory, manifests: ManifestLog, newest: Manifest) -> None:
        """A part is committed as a whole: what a manifest names of an epoch says so for all its files."""
        last = min(newest.number, memory.cursor + MANIFESTS_MAX)
        for manifest in manifests.read(memory.cursor + 1, last):
            taken = set(manifest.parts)
            paths = [file.path for file in manifest.files]
            paths += [entry.state for entry in manifest.partitions if entry.part in taken and entry.state is not None]
            for path in paths:
                name = layout.parse_name(path)
                if name is None:
                    continue
                known = memory.committed.get(name.actor)
                if known is None or known.generation < name.generation:
                    known = memory.committed[name.actor] = Committed(name.generation, [])
                if known.generation == name.generation and not known.has(name.epoch):
                    known.add(name.epoch)
        memory.cursor = max(memory.cursor, last)

    def _remembered(self) -> _Memory:
        if self._memory is None:
            key = layout.document(self._folder, "sweep")
            try:
                self._memory = msgspec.json.decode(self._store.get(key), type=_Memory)
            except NotFoundError:
                self._memory = _Memory()
            except msgspec.DecodeError as error:
                raise CorruptFileError(f"reading '{key}': {error}", "delete it; sweeping begins anew") from error
        return self._memory
