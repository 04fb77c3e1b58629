"""The ledger of a datasource as `/v1/ledger` shows it.

Owns the shape of the answer and how a range of minutes is cut out of the manifests' ledger lines. Reads manifests and
what the audit wrote down, no tables; judges nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from rta.events.schemas import Datasource
from rta.store.audit import AuditState, read_audit
from rta.store.expired import read_expired
from rta.store.manifests import ManifestLog
from rta.store.model import LedgerLine, Manifest
from rta.store.objects import ObjectStore

SCANNED_MAX = 20_000
"""Manifests that one question about a time range reads."""
SKEW_MS = 600_000
"""The log's clock and the coordinator's differ by less."""


def read_ledger(store: ObjectStore, datasource: Datasource) -> Ledger:
    """The ledger as the store has it now."""
    expired = {table: entry.rows for table, entry in read_expired(store, datasource.folder).items()}
    return Ledger(ManifestLog(store, datasource.folder), read_audit(store, datasource), expired)


@dataclass(frozen=True, slots=True)
class Stages:
    """Counts of one datasource, of all its life or of a range of minutes."""

    logged: int
    folded: int
    dropped: int
    rejected: int
    buffered: int


class Ledger:
    """Answers `/v1/ledger` for one datasource from manifests and audit; reads no tables."""

    def __init__(self, manifests: ManifestLog, audit: AuditState, expired: dict[str, int] | None = None) -> None:
        """`expired` are the rows that retention has removed, by table."""
        self._manifests = manifests
        self._audit = audit
        self._expired = expired or {}

    def report(
        self, time_range_ms: tuple[int, int] | None = None, log_ends: dict[int, int] | None = None
    ) -> dict[str, Any]:
        """The ledger through the last audited manifest, in the shape of the interface.

        Args:
            time_range_ms: Half-open, by the minute in which the log took the records; None is everything.
            log_ends: Per partition the log's end now: one that has been read to its end holds nothing back.
        """
        if self._audit.through < 0:
            return _document(Stages(0, 0, 0, 0, 0), AuditState(), None)
        manifest = self._manifests.get(self._audit.through)
        complete_ms = _complete_through(manifest, log_ends or {})
        if time_range_ms is None:
            document = _document(_totals(manifest), self._audit, complete_ms)
        else:
            document = _document(self._within(manifest, time_range_ms), self._audit, complete_ms, time_range_ms)
        return {**document, "manifest": manifest.number, "expired": self._expired}

    def _within(self, newest: Manifest, time_range_ms: tuple[int, int]) -> Stages:
        start, end = time_range_ms
        lines = [line for line in self._lines(newest.number, start) if start <= line.minute_ms < end]
        waiting = sum(entry.buffered for entry in newest.partitions if entry.append_time_ms >= start)
        folded = sum(line.folded for line in lines)
        return Stages(
            logged=sum(line.logged for line in lines),
            folded=folded,
            dropped=sum(line.dropped for line in lines),
            rejected=sum(line.rejected for line in lines),
            buffered=min(waiting, folded) if newest.created_ms < end + SKEW_MS else 0,
        )

    def _lines(self, newest: int, start_ms: int) -> Iterator[LedgerLine]:
        """Lines of the manifests from the newest back to those that were made before the range began."""
        for number in range(newest, max(-1, newest - SCANNED_MAX), -1):
            manifest = self._manifests.get(number)
            yield from manifest.ledger
            if manifest.created_ms < start_ms - SKEW_MS:
                return


def _totals(manifest: Manifest) -> Stages:
    entries = manifest.partitions
    return Stages(
        logged=sum(entry.logged for entry in entries),
        folded=sum(entry.folded for entry in entries),
        dropped=sum(entry.dropped for entry in entries),
        rejected=sum(entry.rejected for entry in entries),
        buffered=sum(entry.buffered for entry in entries),
    )


def _document(
    stages: Stages, audit: AuditState, complete_ms: int | None, time_range_ms: tuple[int, int] | None = None
) -> dict[str, Any]:
    """With a range, committed is what was folded in it, less what waits, corrected by the mismatches found in it."""
    mismatches = [found for found in audit.mismatches if _inside(found.minute_ms, time_range_ms)]
    found = [entry for entry in mismatches if entry.stage == "committed"]
    if time_range_ms is None:
        committed, lost, duplicated = audit.committed, audit.lost, audit.duplicated
    else:
        committed = stages.folded - stages.buffered + sum(entry.found - entry.expected for entry in found)
        lost = sum(max(0, m.expected - m.found) or int(m.expected == m.found) for m in mismatches)
        duplicated = sum(max(0, m.found - m.expected) or int(m.expected == m.found) for m in mismatches)
    return {
        "lost": lost,
        "duplicated": duplicated,
        "complete_through": None if complete_ms is None else _iso(complete_ms),
        "stages": {
            "accepted": stages.logged,
            "logged": stages.logged,
            "folded": stages.folded,
            "committed": committed if audit.counted else stages.folded - stages.buffered,
        },
        "buffered": stages.buffered,
        "duplicates_dropped": stages.dropped,
        "rejected": stages.rejected,
        "gaps": [
            {**msgspec.to_builtins(gap), "records": gap.records, "accepted": _iso(gap.accepted_ms)}
            for gap in audit.gaps
        ],
        "mismatches": [{**msgspec.to_builtins(m), "minute": _iso(m.minute_ms)} for m in mismatches],
    }


def _inside(minute_ms: int, time_range_ms: tuple[int, int] | None) -> bool:
    return time_range_ms is None or time_range_ms[0] <= minute_ms < time_range_ms[1]


def _complete_through(manifest: Manifest, log_ends: dict[int, int]) -> int | None:
    """The append time up to which every partition is in the manifest; None when nothing has been logged yet."""
    times = [
        manifest.created_ms if log_ends.get(entry.partition, -1) == entry.to_offset else entry.append_time_ms
        for entry in manifest.partitions
        if entry.logged or log_ends.get(entry.partition, entry.to_offset) != entry.to_offset
    ]
    return min(times, default=None)


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
