"""What a replica knows of the tables of one datasource: their files at a manifest, and how far a rollup is filled.

Owns what may be taken as known without looking into the store, for whoever must not wait. `files_at` and `filled_from`
look, in the one thread that looks up files; the others may be asked from any.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from rta.store.manifests import ManifestLog
from rta.store.model import FileRef
from rta.store.objects import ObjectStore
from rta.store.versions import TableVersions

FILLED_S = 1.0
"""So long it is not looked again how far a rollup is filled, while there is no new manifest."""


class Filled(NamedTuple):
    """From when on a rollup that was added later is complete at a manifest, and until when (monotonic) that is taken as known."""

    number: int
    from_ms: int | None
    until: float


class Tables:
    """See the module. One that named files which are gone is replaced by another."""

    def __init__(self, store: ObjectStore, folder: str) -> None:
        self._versions = TableVersions(store, folder, ManifestLog(store, folder))
        self._files: dict[str, tuple[int, Sequence[FileRef]]] = {}
        self._filled: dict[str, Filled] = {}

    def files_at(self, table: str, number: int) -> Sequence[FileRef]:
        """Raises NotFoundError."""
        found = self._versions.files_at(table, number)
        self._files[table] = (number, found)
        return found

    def files_at_hand(self, table: str, number: int) -> Sequence[FileRef] | None:
        """What `files_at` last said, if it was asked the same."""
        at, files = self._files.get(table, (-1, ()))
        return files if at == number else None

    def filled_from(self, table: str, number: int) -> int | None:
        """Raises NotFoundError. Files that are at hand from before are forgotten first: they may lack what is said here."""
        from_ms, final = self._versions.filled_from(table, number)
        known = self._filled.get(table)
        if known is None or known.from_ms != from_ms:
            self._files.pop(table, None)
        self._filled[table] = Filled(number, from_ms, math.inf if final else time.monotonic() + FILLED_S)
        return from_ms

    def filled_at_hand(self, table: str, number: int) -> Filled | None:
        """What `filled_from` last said, if it was asked the same and that is not long ago."""
        known = self._filled.get(table)
        return known if known is not None and known.number == number and time.monotonic() < known.until else None
