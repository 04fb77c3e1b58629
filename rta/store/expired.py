"""How many rows retention has removed, per table: a small document beside the tables.

The Delta log says it first, in the commit that removes the files; here it is added up, each version once.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rta.errors import CorruptFileError, NotFoundError
from rta.store import layout
from rta.store.objects import ObjectStore


class Expired(msgspec.Struct, frozen=True):
    """Rows that retention has removed from a table, through its Delta version `version`."""

    version: int = -1
    rows: int = 0


def read_expired(store: ObjectStore, folder: str) -> dict[str, Expired]:
    """Per table that has lost rows. Raises CorruptFileError."""
    key = layout.document(folder, "expired")
    try:
        return msgspec.json.decode(store.get(key), type=dict[str, Expired])
    except NotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise CorruptFileError(f"reading '{key}': {error}", "restore it from a backup") from error


def note_expired(store: ObjectStore, folder: str, table: str, commits: Sequence[tuple[int, int]]) -> None:
    """Add what commits (version, rows removed) say; those that were added before are known by their version."""
    known = read_expired(store, folder)
    entry = known.get(table, Expired())
    fresh = [(version, rows) for version, rows in commits if version > entry.version and rows]
    if fresh:
        total = entry.rows + sum(rows for _, rows in fresh)
        known[table] = Expired(version=max(version for version, _ in fresh), rows=total)
        store.put(layout.document(folder, "expired"), msgspec.json.encode(known))
