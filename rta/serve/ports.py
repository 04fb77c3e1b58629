"""What the HTTP apps ask of the rest of the system: a view of a datasource, its definitions, the coordinator's word.

The apps and the query service are written against these protocols; `rta.serve.views` and `rta.serve.control` implement
them over Ray actors and the store, tests by plain objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import polars as pl
import pyarrow as pa

from rta.events.schemas import Datasource, Rollup
from rta.query.position import Position
from rta.store.model import FileRef


class View(Protocol):
    """One moment of one datasource: manifest `manifest` and, per partition, the offset that the hot segments reach.

    Everything that one query reads comes from one view; a view never changes.
    """

    @property
    def datasource(self) -> Datasource: ...

    @property
    def manifest(self) -> int: ...

    @property
    def offsets(self) -> Mapping[int, tuple[str, int]]:
        """Per partition (log incarnation, offset)."""
        ...

    @property
    def version(self) -> str:
        """Opaque name of the moment: equal versions give equal answers. Usable as `after`."""
        ...

    @property
    def watermark_ms(self) -> int | None: ...

    @property
    def complete(self) -> bool:
        """False while a partition has no owner or its owner has not caught up."""
        ...

    @property
    def missing(self) -> Sequence[int]: ...

    def files(self, table: str) -> Sequence[FileRef]:
        """Immutable files of a table ("events", "rejected", `Rollup.table`); paths are relative to the table's folder.

        Raises ViewGoneError when the store no longer knows them; a newer view does.
        """
        ...

    def filled_from(self, rollup: Rollup) -> int | None:
        """The event time, in ms, from which on a rollup of the datasource holds everything that the view does.

        None for one that was added later and of which nothing is known yet. To be asked before `files`. Raises as it does.
        """
        ...

    def partials(self, rollup: str) -> Sequence[pl.DataFrame]:
        """Rollup rows beyond the files: open buckets, buffered late rows, hot segments.

        Not merged by key; they add. A frame never changes, and later views hold the very same one as long as they can.
        """
        ...

    def parts(self, table: str, start_ms: int, end_ms: int) -> Sequence[str]:
        """Names what lies beyond the files of a table and in the range. Nothing there, no names.

        Equal names of two views of one datasource, in this or another replica, mean equal rows in that range.
        """
        ...

    def hot_times(self, table: str) -> tuple[int, int] | None:
        """First and last time, both included, that rows of a table beyond its files may have; None when there are none."""
        ...

    async def rows(self, table: str) -> pa.Table:
        """Rows of a table of single rows ("events", "rejected") beyond the files, in its schema.

        Raises ViewGoneError when they have been let go of.
        """
        ...


class NotAtHandError(Exception):
    """An answer can't be given without looking into the store or waiting for somebody. Whoever asked takes the long way."""


class AwayError(Exception):
    """What processes share is not to be had now, or may or may not have changed. Whoever asked goes on without."""


class Shared(Protocol):
    """What processes share beside the store: a place that may be slow, empty or away at any time, and never blocks.

    Every call raises AwayError, soon, instead of failing otherwise.
    """

    @property
    def reachable(self) -> bool: ...

    def key(self, kind: str, name: str) -> str:
        """A key that no other system has."""
        ...

    async def get(self, key: str, bytes_max: int) -> bytes:
        """At most so many bytes of what lies there; nothing there is no bytes."""
        ...

    async def put(self, key: str, value: bytes, kept_s: int) -> None: ...

    async def evaluate(self, script: str, key: str, arguments: Sequence[float]) -> Sequence[bytes]:
        """Run a Lua script over one key, in one step."""
        ...

    def status(self) -> dict[str, Any]:
        """`place`, `reachable`, `reason` and `since_ms`."""
        ...


class Views(Protocol):
    """The hot views of this process."""

    async def at(self, datasource: Datasource, staleness_ms: int, after: Position | None, timeout_s: float) -> View:
        """A view no older than `staleness_ms` that contains all of `after`.

        Never lower than one given before. Raises TimeLimitError naming the partitions that hold it up, BadRequestError
        when `after` is of another incarnation.
        """
        ...

    def at_once(self, datasource: Datasource, staleness_ms: int, after: Position | None) -> View | None:
        """The same without waiting, if this process has such a view. May begin to take the next one beside.

        For the event loop: its `files` raise NotAtHandError where they would have to be looked up in the store.
        """
        ...

    async def renew(self, view: View) -> None:
        """The view names something that is not there any more: the next one is made of what the store says then."""
        ...


class Definitions(Protocol):
    """The catalog as this process knows it."""

    async def get(self, name: str) -> Datasource:
        """Looks again in the store before it says NotFoundError (which names the nearest valid name)."""
        ...

    def at_hand(self, name: str) -> Datasource | None:
        """The same without waiting; None where that would take a look into the store."""
        ...

    async def all(self) -> list[Datasource]: ...

    async def create(self, document: Mapping[str, Any]) -> Datasource:
        """Returns when the datasource takes events. Raises ConflictError, InvalidDatasourceError."""
        ...

    async def update(self, name: str, document: Mapping[str, Any]) -> Datasource: ...

    async def delete(self, name: str) -> None: ...


class Control(Protocol):
    """The coordinator's word, through its actor."""

    async def status(self) -> dict[str, Any]:
        """Lag, watermarks, rates, actors with their restarts and reasons; plain JSON."""
        ...

    async def ledger(self, datasource: str | None, time_range_ms: tuple[int, int] | None) -> dict[str, Any]: ...

    async def ready(self) -> tuple[str, tuple[str, ...]]:
        """Why events can't be accepted or questions answered, "" when they can; and what stands still all the same."""
        ...

    async def scale(self, aggregators: int) -> dict[str, Any]:
        """So many aggregators from now on. Raises BadRequestError."""
        ...

    async def resume(self, datasource: str, accept_loss: bool) -> dict[str, Any]:
        """What the log has lost of a datasource, and, if `accept_loss`, going on behind it."""
        ...

    async def removal(self, datasource: Datasource) -> dict[str, Any]:
        """What a DELETE of the datasource would remove: rows, files, bytes per table, and the log."""
        ...
