"""The ledger's last stage: what is committed, counted from the Parquet files themselves.

Owns, per datasource and partition, cumulative counts and id sums of the rows that manifests have added to the raw
table,
kept in a small document so that a restart goes on where it was, and the equation that they must satisfy manifest by
manifest: folded = committed + what the saved state came to buffer. A file is counted once, when its manifest is
audited; compaction and retention come later (`maintain` touches only what the audit has covered) and change nothing
here. Does not trust the fold: it reads keys and ids back and hashes them again. The answer of `/v1/ledger` is made from
it in `rta.store.ledger`.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from rta.errors import CorruptFileError, NotFoundError
from rta.events.keys import placed
from rta.events.schemas import EVENTS, ID_HI, ID_LO, Datasource
from rta.store import layout
from rta.store.commit import WORD
from rta.store.manifests import ManifestLog
from rta.store.model import Gap, LedgerLine, Manifest, PartitionEntry
from rta.store.objects import ObjectStore
from rta.store.parquet import read_one
from rta.stream.columns import fit

MISMATCHES_MAX = 100
STEP_MAX = 64
"""Manifests audited in one call."""


class Tally(msgspec.Struct):
    """Rows of one partition in the files of a datasource's manifests."""

    committed: int = 0
    committed_sum: int = 0


class Mismatch(msgspec.Struct, frozen=True):
    """A manifest and partition where a stage does not add up. `minute_ms` is the first of its records."""

    manifest: int
    partition: int
    minute_ms: int
    stage: str
    expected: int
    found: int


class AuditState(msgspec.Struct):
    """All that is known through manifest `through`. `lost` and `duplicated` are net counts over the mismatches."""

    through: int = -1
    counted: bool = True
    """False where the datasource keeps no raw table, or kept none for a while: there is nothing to count."""
    partitions: dict[int, Tally] = msgspec.field(default_factory=dict)
    lost: int = 0
    duplicated: int = 0
    mismatches: list[Mismatch] = msgspec.field(default_factory=list)
    gaps: list[Gap] = msgspec.field(default_factory=list)

    @property
    def committed(self) -> int:
        return sum(tally.committed for tally in self.partitions.values())


class Audit:
    """Counts one datasource. One per thread, by the coordinator.

    Args:
        generation: The coordinator's. Each writes down what it counted under its own, and who reads takes what reaches furthest:
            one that stood still and goes on for a moment must not put its older count in the place of its successor's, whose
            files are compacted by then.
    """

    def __init__(self, store: ObjectStore, datasource: Datasource, generation: int = 0) -> None:
        self._store = store
        self._generation = generation
        self._alone = False
        self._datasource = datasource
        self._folder = datasource.folder
        self._keeps_raw = datasource.retention.events_ms is not None
        self._state: AuditState | None = None

    @property
    def state(self) -> AuditState:
        """As of the last manifest that was audited, by whatever process."""
        if self._state is None:
            self._state = read_audit(self._store, self._datasource)
        return self._state

    @property
    def through(self) -> int:
        """The last manifest that was audited, -1 before the first."""
        return self.state.through

    def redefine(self, datasource: Datasource) -> None:
        """The definition has a new version. Where it ends the raw table, counting ends for good: what comes from here on is
        in no file, and what waits in the state will be in none."""
        self._datasource = datasource
        self._keeps_raw = self._keeps_raw and datasource.retention.events_ms is not None

    def ledger(
        self, time_range_ms: tuple[int, int] | None = None, log_ends: dict[int, int] | None = None
    ) -> dict[str, Any]:
        """The answer of `/v1/ledger`, from what is in the store; from any thread. See `rta.store.ledger`."""
        from rta.store.ledger import read_ledger

        return read_ledger(self._store, self._datasource).report(time_range_ms, log_ends)

    def advance(self, manifests: ManifestLog, through: int, limit: int = STEP_MAX) -> AuditState:
        """Audit the next manifests, at most `limit` of them, and write down what was found.

        Raises:
            CorruptFileError: a raw file that a manifest names can't be read; the audit stays before that manifest.
        """
        state = self.state
        state.counted = state.counted and self._keeps_raw
        last = min(through, state.through + limit)
        if state.through >= last:
            return state
        before = manifests.get(state.through) if state.through >= 0 else None
        begun = state.through
        try:
            for manifest in manifests.read(state.through + 1, last):
                self._audit(state, before, manifest)
                before = manifest
        finally:
            if state.through > begun:
                self._write_down(state)
        return state

    def _write_down(self, state: AuditState) -> None:
        """What can't be written down is counted again: nothing may be compacted that a successor has to count."""
        self._state = None
        self._store.put(layout.audit(self._folder, self._generation), msgspec.json.encode(state))
        self._state = state
        if not self._alone:
            for key in _written(self._store, self._folder):
                if key < layout.audit(self._folder, self._generation):
                    self._store.delete(key)
            self._alone = True

    def _audit(self, state: AuditState, before: Manifest | None, manifest: Manifest) -> None:
        found = self._count(manifest) if state.counted else {}
        earlier = {entry.partition: entry for entry in before.partitions} if before is not None else {}
        for entry in manifest.partitions:
            old = earlier.get(entry.partition) or _empty(entry)
            lines = [line for line in manifest.ledger if line.partition == entry.partition]
            _judge_lines(state, manifest.number, lines)
            tally = state.partitions.setdefault(entry.partition, Tally())
            new = found.pop(entry.partition, Tally())
            if state.counted:
                _judge_files(state, manifest.number, old, entry, new, lines)
            tally.committed += new.committed
            tally.committed_sum = (tally.committed_sum + new.committed_sum) % WORD
        for partition, stray in found.items():
            _note(
                state, Mismatch(manifest.number, partition, manifest.created_ms, "committed", 0, stray.committed), False
            )
        state.gaps.extend(manifest.gaps)
        state.through = manifest.number

    def _count(self, manifest: Manifest) -> dict[int, Tally]:
        """Rows and id sums by partition in the raw files that a manifest added."""
        schema = self._datasource.raw_schema()
        names = [*self._datasource.keys, *([self._datasource.id] if self._datasource.id else [])]
        names += [ID_HI, ID_LO] if self._datasource.has_places else []
        wanted = pa.schema([schema.field(name) for name in dict.fromkeys(names)])
        tallies: dict[int, Tally] = {}
        for file in manifest.files:
            if file.table != EVENTS:
                continue
            rows = fit(read_one(self._store, self._folder, file, wanted.names), wanted).combine_chunks()
            identities, partitions = placed(rows, self._datasource)
            for partition in np.unique(partitions):
                low = identities[partitions == partition, 1]
                tally = tallies.setdefault(int(partition), Tally())
                tally.committed += len(low)
                tally.committed_sum = (tally.committed_sum + int(low.sum(dtype=np.uint64))) % WORD
        return tallies


def read_audit(store: ObjectStore, datasource: Datasource) -> AuditState:
    """What reaches furthest of what was written down; whoever holds it may change it. Raises CorruptFileError."""
    found: list[AuditState] = []
    keys = _written(store, datasource.folder)
    for key in [*keys, layout.document(datasource.folder, "audit")]:
        try:
            found.append(msgspec.json.decode(store.get(key), type=AuditState))
        except NotFoundError:
            continue  # a newer coordinator has put its own in the place of it
        except msgspec.DecodeError as error:
            raise CorruptFileError(f"reading '{key}': {error}", "restore it from a backup") from error
    if keys and not found:
        return read_audit(store, datasource)
    nothing = AuditState(counted=datasource.retention.events_ms is not None)
    return max(found, key=lambda state: state.through, default=nothing)


def _written(store: ObjectStore, folder: str) -> list[str]:
    """One document of each coordinator that has counted lately."""
    return [info.key for info in store.list(layout.audits(folder))]


def _empty(entry: PartitionEntry) -> PartitionEntry:
    return PartitionEntry(
        partition=entry.partition,
        log_incarnation=entry.log_incarnation,
        from_offset=entry.from_offset,
        to_offset=entry.from_offset,
        part="",
        state=None,
    )


def _judge_lines(state: AuditState, number: int, lines: list[LedgerLine]) -> None:
    """Within a line: logged = folded + dropped + rejected, in counts and sums."""
    for line in lines:
        accounted = line.folded + line.dropped + line.rejected
        sums = (line.folded_sum + line.dropped_sum + line.rejected_sum) % WORD
        if accounted != line.logged or sums != line.logged_sum % WORD:
            same = accounted == line.logged
            _note(state, Mismatch(number, line.partition, line.minute_ms, "folded", line.logged, accounted), same)


def _judge_files(
    state: AuditState, number: int, old: PartitionEntry, new: PartitionEntry, found: Tally, lines: list[LedgerLine]
) -> None:
    """Between two manifests: what was folded is in files, or came to wait in the state."""
    expected = (new.folded - old.folded) + old.buffered - new.buffered
    expected_sum = (new.folded_sum - old.folded_sum + old.buffered_sum - new.buffered_sum) % WORD
    if expected != found.committed or expected_sum != found.committed_sum:
        minute_ms = min((line.minute_ms for line in lines), default=new.append_time_ms)
        same = expected == found.committed
        _note(state, Mismatch(number, new.partition, minute_ms, "committed", expected, found.committed), same)


def _note(state: AuditState, mismatch: Mismatch, same_count: bool) -> None:
    """Equal counts with different sums mean that at least one event stands in another's place."""
    state.lost += 1 if same_count else max(0, mismatch.expected - mismatch.found)
    state.duplicated += 1 if same_count else max(0, mismatch.found - mismatch.expected)
    if len(state.mismatches) < MISMATCHES_MAX:
        state.mismatches.append(mismatch)
