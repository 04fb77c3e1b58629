"""What exists and who owns what: the catalog's and the assignment's chains.

Owns one chain of whole catalog documents (datasources now; schemas, rules, dashboards and keys have their room) and one
of assignments. A change is read, change, put if absent at the next number, and again on a conflict: no lock, no
database. Validates through `rta.events.definition`; starts and stops nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from rta.errors import ConflictError, CorruptFileError, NotFoundError, UnavailableError
from rta.events.definition import check_change, check_same_shape, parse_datasource
from rta.events.schemas import UNKNOWN, Datasource, Rollup, Source
from rta.store import layout
from rta.store.chain import Chain, Outcome
from rta.store.model import Assignment
from rta.store.objects import ObjectStore

ATTEMPTS_MAX = 32
DROPPED_MAX = 1000
"""Tombstones kept; the oldest purged ones go first."""
REMOVED_MAX = 256
"""Removals of rollups that are remembered of a datasource."""


class RollupLife(msgspec.Struct, frozen=True):
    """A rollup that is not as old as its datasource, or was removed: which version added it last, how often, and which
    removed it (None while it is there)."""

    shape: Rollup
    since: int
    life: int = 1
    removed: int | None = None

    @property
    def rollup(self) -> Rollup:
        return msgspec.structs.replace(self.shape, since=self.since, life=self.life)


class Definition(msgspec.Struct, frozen=True):
    """A datasource as it lies in the catalog. `later_rollups` were added after it was made, `lives` says when."""

    document: dict[str, Any]
    incarnation: str
    version: int
    partitions: int
    later_rollups: tuple[str, ...] = ()
    lives: dict[str, RollupLife] = {}


class Dropped(msgspec.Struct, frozen=True):
    """A tombstone: a datasource that was deleted and, until `purged`, still has data to remove."""

    name: str
    folder: str
    dropped_ms: int
    purged: bool = False


class CatalogDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the whole catalog. `other` are sections by name; their owners know their shape."""

    version: int
    datasources: dict[str, Definition] = {}
    dropped: tuple[Dropped, ...] = ()
    other: dict[str, dict[str, Any]] = {}
    format: int = 1


class CatalogState(msgspec.Struct, frozen=True):
    """The catalog as read: the document and the datasources that it defines."""

    document: CatalogDocument
    datasources: dict[str, Datasource]

    @property
    def version(self) -> int:
        return self.document.version

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """Deleted datasources whose data is still to be removed."""
        return tuple(entry for entry in self.document.dropped if not entry.purged)

    def section(self, name: str) -> dict[str, Any]:
        """A section other than the datasources: schemas, rules, dashboards, keys. Empty when nothing is in it."""
        return self.document.other.get(name, {})


EMPTY = CatalogState(CatalogDocument(version=-1), {})


class Catalog:
    """The catalog in a store. One per thread."""

    def __init__(self, store: ObjectStore) -> None:
        self._chain = Chain(store, layout.CATALOG)
        self._state = EMPTY

    def read(self) -> CatalogState:
        """The newest catalog. Cost: one request when nothing has changed since the last read here."""
        found = self._chain.newest(self._state.version if self._state.version >= 0 else None)
        if found is not None:
            self._state = _decode(*found, self._state)
        return self._state

    def get(self, name: str) -> Datasource:
        """Raises NotFoundError."""
        found = self.read().datasources.get(name)
        if found is None:
            raise NotFoundError(f"there is no datasource '{name}'", "GET /v1/datasources lists them")
        return found

    def create(self, document: Mapping[str, Any], partitions: int, incarnation: str | None = None) -> Datasource:
        """Define a new datasource with an incarnation of its own.

        Args:
            document: As the user wrote it.
            partitions: How many it gets where the document does not say.
            incarnation: For tests; a random one otherwise.

        Raises:
            ConflictError: the name is taken.
            InvalidDatasourceError: the document is wrong.
        """
        life = incarnation or uuid.uuid4().hex[:12]

        def change(state: CatalogState, version: int) -> CatalogDocument:
            made = parse_datasource(document, incarnation=life, version=version, partitions=partitions)
            if made.name in state.datasources:
                raise ConflictError(f"the datasource '{made.name}' exists already", "PUT changes it, DELETE removes it")
            definition = Definition(dict(document), life, version, made.partitions)
            return _with(state, version, {**state.document.datasources, made.name: definition})

        name = parse_datasource(document, incarnation=life, version=0, partitions=partitions).name
        return self.change(change).datasources[name]

    def update(self, name: str, document: Mapping[str, Any]) -> Datasource:
        """Change a definition to what `check_change` allows; unchanged documents make no new version.

        Raises:
            NotFoundError, ConflictError, InvalidDatasourceError
        """

        def change(state: CatalogState, version: int) -> CatalogDocument | None:
            old = state.datasources.get(name)
            if old is None:
                raise NotFoundError(f"there is no datasource '{name}'", "POST /v1/datasources makes one")
            if dict(document) == old.document:
                return None
            new = parse_datasource(document, incarnation=old.incarnation, version=version, partitions=old.partitions)
            check_change(old, new)
            lives = _lives(old, new, version, state.document.datasources[name].lives)
            later = tuple(r.name for r in new.rollups if _is_later(old, r.name))
            definition = Definition(dict(document), old.incarnation, version, old.partitions, later, lives)
            return _with(state, version, {**state.document.datasources, name: definition})

        return self.change(change).datasources[name]

    def grow(self, datasource: Datasource, partitions: int) -> None:
        """The topic that a datasource reads has more partitions now. Not if it was deleted, or made again, meanwhile."""
        name = datasource.name

        def change(state: CatalogState, version: int) -> CatalogDocument | None:
            entry = state.document.datasources.get(name)
            if entry is None or entry.incarnation != datasource.incarnation or entry.partitions >= partitions:
                return None
            grown = msgspec.structs.replace(entry, version=version, partitions=partitions)
            return _with(state, version, {**state.document.datasources, name: grown})

        self.change(change)

    def delete(self, name: str, now_ms: int) -> Datasource:
        """Remove a definition and leave a tombstone, by which the coordinator removes the data.

        Raises NotFoundError.
        """
        gone: list[Datasource] = []

        def change(state: CatalogState, version: int) -> CatalogDocument:
            old = state.datasources.get(name)
            if old is None:
                raise NotFoundError(f"there is no datasource '{name}'", "GET /v1/datasources lists them")
            gone[:] = [old]
            rest = {key: value for key, value in state.document.datasources.items() if key != name}
            dropped = (*state.document.dropped, Dropped(name, old.folder, now_ms))
            return msgspec.structs.replace(_with(state, version, rest), dropped=dropped)

        self.change(change)
        return gone[0]

    def purged(self, folder: str) -> None:
        """Note that nothing is left of a dropped datasource's data. The tombstone stays, so that it is done once."""

        def change(state: CatalogState, version: int) -> CatalogDocument | None:
            entries = [
                msgspec.structs.replace(entry, purged=True) if entry.folder == folder else entry
                for entry in state.document.dropped
            ]
            surplus = max(0, len(entries) - DROPPED_MAX)
            oldest = [entry for entry in entries if entry.purged][:surplus]
            kept = tuple(entry for entry in entries if entry not in oldest)
            if kept == state.document.dropped:
                return None
            return msgspec.structs.replace(_with(state, version, state.document.datasources), dropped=kept)

        self.change(change)

    def put_section(self, name: str, change_section: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Change one of the other sections; `change_section` is called again when somebody else was faster."""

        def change(state: CatalogState, version: int) -> CatalogDocument | None:
            section = change_section(dict(state.section(name)))
            if section == state.section(name):
                return None
            document = _with(state, version, state.document.datasources)
            return msgspec.structs.replace(document, other={**state.document.other, name: section})

        return self.change(change).section(name)

    def change(self, change: Callable[[CatalogState, int], CatalogDocument | None]) -> CatalogState:
        """Compare and set: `change` gets the newest state and the next version, None means that nothing is to change.

        Raises:
            UnavailableError: unknown whether it took effect, or too many others changed it meanwhile.
        """
        for _ in range(ATTEMPTS_MAX):
            state = self.read()
            document = change(state, state.version + 1)
            if document is None:
                return state
            outcome = self._chain.append(document.version, msgspec.json.encode(document))
            self._state = _decode(outcome.number, outcome.content, state)
            if outcome.done:
                return self._state
        raise UnavailableError(f"changing the catalog: {ATTEMPTS_MAX} others were faster", "try again")


def _is_later(old: Datasource, name: str) -> bool:
    known = old.rollup(name)
    return known is None or known.since != 0


def _lives(old: Datasource, new: Datasource, version: int, before: Mapping[str, RollupLife]) -> dict[str, RollupLife]:
    """What is to be remembered of rollups after a change. Raises ConflictError."""
    lives = dict(before)
    for rollup in old.rollups:
        if new.rollup(rollup.name) is None:
            lives[rollup.name] = RollupLife(rollup.shape, rollup.since, rollup.life, version)
    for rollup in new.rollups:
        if old.rollup(rollup.name) is not None:
            continue
        known = lives.get(rollup.name)
        if known is not None:
            check_same_shape(old, known.shape, rollup)
        lives[rollup.name] = RollupLife(rollup.shape, version, 1 if known is None else known.life + 1)
    removed = sum(len(_gone(life)) for life in lives.values())
    if removed > REMOVED_MAX:
        raise ConflictError(
            f"changing the datasource '{old.name}': rollups would have been removed of it {removed} times, at most "
            f"{REMOVED_MAX} are remembered",
            "make a new datasource and fill it from this one",
        )
    return lives


def _gone(life: RollupLife) -> dict[str, int]:
    """Tables of the lives that are over, with a version from which on no part has their rows."""
    last = life.life if life.removed is not None else life.life - 1
    version = life.since if life.removed is None else life.removed
    return {msgspec.structs.replace(life.shape, life=k).table: version for k in range(1, last + 1)}


def _with_lives(made: Datasource, entry: Definition) -> Datasource:
    """The datasource with what the catalog knows of its rollups' ages."""
    rollups = tuple(
        life.rollup
        if (life := entry.lives.get(r.name)) is not None
        else msgspec.structs.replace(r, since=UNKNOWN if r.name in entry.later_rollups else 0)
        for r in made.rollups
    )
    gone = {table: version for life in entry.lives.values() for table, version in _gone(life).items()}
    return msgspec.structs.replace(made, rollups=rollups, gone_tables=gone)


def _with(state: CatalogState, version: int, datasources: dict[str, Definition]) -> CatalogDocument:
    return msgspec.structs.replace(state.document, version=version, datasources=datasources)


def _decode(number: int, content: bytes, known: CatalogState) -> CatalogState:
    try:
        document = msgspec.json.decode(content, type=CatalogDocument)
    except msgspec.DecodeError as error:
        raise CorruptFileError(f"reading catalog {number}: {error}", "restore it from a backup") from error
    datasources: dict[str, Datasource] = {}
    for name, entry in document.datasources.items():
        same = known.datasources.get(name)
        if same is not None and (same.incarnation, same.version) == (entry.incarnation, entry.version):
            datasources[name] = same
            continue
        made = parse_datasource(
            entry.document, incarnation=entry.incarnation, version=entry.version, partitions=entry.partitions
        )
        datasources[name] = _with_lives(made, entry)
    return CatalogState(document, datasources)


def partitions_of(document: Mapping[str, Any], partitions: int, look_up: Callable[[Source], int]) -> int:
    """How many partitions a new datasource gets: those of the topic that it reads, or `partitions`.

    Raises InvalidDatasourceError, and what `look_up` raises.
    """
    source = parse_datasource(document, incarnation="", version=0, partitions=partitions).source
    return partitions if source is None else look_up(source)


class Assignments:
    """The chain of assignments: who owns which partition, and with which generation."""

    def __init__(self, store: ObjectStore) -> None:
        self._chain = Chain(store, layout.ASSIGNMENT)
        self._newest: Assignment | None = None

    def newest(self, hint: int | None = None) -> Assignment | None:
        """None before the first. Cost: one request when nothing has changed since the last call here.

        Args:
            hint: A number that is known to be there, for the first call.
        """
        if self._newest is None and hint is not None:
            self._newest = self._decode(hint, self._chain.get(hint))
        found = self._chain.newest(None if self._newest is None else self._newest.number)
        if found is not None:
            self._newest = self._decode(*found)
        return self._newest

    def put(self, assignment: Assignment) -> Outcome:
        """Put it at its number, which is the newest's plus one. `lost` means that somebody else decided first."""
        outcome = self._chain.append(assignment.number, msgspec.json.encode(assignment))
        self._newest = self._decode(outcome.number, outcome.content)
        return outcome

    @staticmethod
    def _decode(number: int, content: bytes) -> Assignment:
        try:
            return msgspec.json.decode(content, type=Assignment)
        except msgspec.DecodeError as error:
            raise CorruptFileError(f"reading assignment {number}: {error}", "restore it from a backup") from error
