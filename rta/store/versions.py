"""Which files a table has at a manifest: rule 13 of the commit protocol.

Owns the pin: the newest Delta version whose app transaction is at most `n`, and beside it the files of the manifests
from there through `n`. Cached and incremental, so that a replica that sees a new manifest several times a second pays
for the new manifest only. No listing, no Delta library. Reads no data.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from rta.store.delta_log import DeltaLog
from rta.store.manifests import ManifestLog
from rta.store.model import FileRef
from rta.store.objects import ObjectStore
from rta.store.tables import read_floor

FILL_REACH = "rtaFillReach"
"""Delta app transaction of a table that is filled from history: minus the event time, in ms, from which on it is complete."""
FILL_DONE = "rtaFillDone"
"""Likewise, 1 once it has been filled as far as it ever will be."""
LOOK_S = 1.0
"""How often a table that is being filled is looked at while there is no new manifest."""
INDEXED_MAX = 8192
"""Manifests whose files are kept by table."""
BEYOND_MAX = 64
"""With this many manifests beyond a table's last commit it is checked whether its log was cleaned meanwhile."""


@dataclass(slots=True)
class _Answer:
    number: int
    pinned: int
    version: int
    files: list[FileRef]


class TableVersions:
    """The tables of one datasource as views read them. One per thread."""

    def __init__(self, store: ObjectStore, folder: str, manifests: ManifestLog) -> None:
        self._store = store
        self._folder = folder
        self._manifests = manifests
        self._logs: dict[str, DeltaLog] = {}
        self._floors: dict[str, int] = {}
        self._looked: dict[str, int] = {}
        self._index: OrderedDict[int, dict[str, tuple[FileRef, ...]]] = OrderedDict()
        self._answers: dict[str, _Answer] = {}
        self._filled_looked: dict[str, float] = {}

    def filled_from(self, table: str, number: int) -> tuple[int | None, bool]:
        """The event time, in ms, from which on a rollup that was added later holds everything through manifest `number`.

        Of the files that `files_at` gives afterwards; None as long as nothing is known. The other is whether it will stay
        so. Raises NotFoundError as it does.
        """
        log = self._log(table, number)
        if FILL_DONE not in log.state.txns and time.monotonic() - self._filled_looked.get(table, -LOOK_S) >= LOOK_S:
            self._filled_looked[table] = time.monotonic()
            log.refresh()
        txns, _ = log.at(self._folder, number)
        reach = txns.get(FILL_REACH)
        return (None if reach is None else -reach), FILL_DONE in txns

    def files_at(self, table: str, number: int) -> list[FileRef]:
        """The files that hold exactly the table's rows through manifest `number`.

        Raises:
            NotFoundError: the manifest is not there yet, or so old that the table's log does not reach back to it.
        """
        log = self._log(table, number)
        last = self._answers.get(table)
        version, projected = log.state.version, log.state.txns.get(self._folder, -1)
        if last is not None and last.version == version and last.pinned == projected <= last.number <= number:
            files = last.files + self._between(table, last.number, number)
            self._answers[table] = _Answer(number, projected, version, files)
            return list(files)
        pinned, at_version = log.files_at(self._folder, number)
        begin = max(pinned, self._floors[table]) if pinned == projected else pinned
        files = list(at_version.values()) + self._between(table, begin, number)
        self._answers[table] = _Answer(number, pinned, version, files)
        return list(files)

    def forget(self, table: str) -> None:
        """Read the table's log anew next time: after a file of it was not there any more."""
        for kept in (self._logs, self._floors, self._looked, self._answers, self._filled_looked):
            kept.pop(table, None)

    def _log(self, table: str, number: int) -> DeltaLog:
        log = self._logs.get(table)
        if log is None:
            # The floor first: the table is then at least as far as the floor says.
            self._floors[table] = read_floor(self._store, self._folder)
            log = self._logs[table] = DeltaLog(self._store, self._folder, table)
        if number > self._looked.get(table, -1):
            before = log.state.version
            log.refresh()
            behind = number - max(log.state.txns.get(self._folder, -1), self._looked.get(table, -1))
            if log.state.version == before and behind >= BEYOND_MAX and log.fell_behind():
                log.reload()
            self._looked[table] = number
        return log

    def _between(self, table: str, after: int, through: int) -> list[FileRef]:
        found: list[FileRef] = []
        for number in range(after + 1, through + 1):
            found += self._files_of(number).get(table, ())
        return found

    def _files_of(self, number: int) -> dict[str, tuple[FileRef, ...]]:
        known = self._index.get(number)
        if known is not None:
            return known
        by_table: dict[str, list[FileRef]] = {}
        for file in self._manifests.get(number).files:
            by_table.setdefault(file.table, []).append(file)
        index = {table: tuple(files) for table, files in by_table.items()}
        self._index[number] = index
        while len(self._index) > INDEXED_MAX:
            self._index.popitem(last=False)
        return index
