"""A store, a view and definitions made by hand: what the query service needs, without actors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from rta.errors import NotFoundError
from rta.events.schemas import REJECTED_SCHEMA, TIME, Datasource, Rollup
from rta.query.position import Position
from rta.serve.ports import View
from rta.serve.spans import times_of_frame, times_of_rows, within
from rta.store.model import FileRef
from rta.store.objects import LocalStore
from rta.store.parquet import write_table_file
from rta.stream.model import TableWrite
from tests.query import wikipedia


@dataclass
class FixedView:
    datasource: Datasource
    by_table: dict[str, list[FileRef]]
    hot: pa.Table
    rejected: pa.Table = field(default_factory=REJECTED_SCHEMA.empty_table)
    position: int = 1
    manifest: int = 1
    watermark_ms: int | None = wikipedia.NOW_MS
    complete: bool = True
    missing: Sequence[int] = ()

    @property
    def offsets(self) -> Mapping[int, tuple[str, int]]:
        return {0: ("log", self.position)}

    @property
    def version(self) -> str:
        return Position(self.datasource.folder, self.offsets).encode()

    def files(self, table: str) -> Sequence[FileRef]:
        return self.by_table.get(table, [])

    filled: dict[str, int | None] = field(default_factory=dict)

    def filled_from(self, rollup: Rollup) -> int | None:
        return self.filled.get(rollup.name)

    def partials(self, rollup: str) -> list[pl.DataFrame]:
        return [wikipedia.partials(self.hot, rollup)]

    def hot_times(self, table: str) -> tuple[int, int] | None:
        rollup = next((r.name for r in self.datasource.rollups if r.table == table), None)
        if rollup is not None:
            return times_of_frame(wikipedia.partials(self.hot, rollup))
        return times_of_rows({"events": self.hot, "rejected": self.rejected}[table])

    def parts(self, table: str, start_ms: int, end_ms: int) -> list[str]:
        times = self.hot_times(table)
        return [f"hot {self.position}"] if within(times, start_ms, end_ms) else []

    async def rows(self, table: str) -> pa.Table:
        return {"events": self.hot, "rejected": self.rejected}[table]


@dataclass
class World:
    """Implements `Views` and `Definitions` over one datasource; `asked` is what views were asked for."""

    store: LocalStore
    view: FixedView
    asked: list[tuple[int, Position | None]] = field(default_factory=list)
    later: list[FixedView] = field(default_factory=list)
    """The views that follow when one is renewed; the last one stays."""
    renewed: int = 0

    async def at(self, datasource: Datasource, staleness_ms: int, after: Position | None, timeout_s: float) -> View:
        self.asked.append((staleness_ms, after))
        return self.view

    def at_once(self, datasource: Datasource, staleness_ms: int, after: Position | None) -> View | None:
        return self.view

    async def renew(self, view: View) -> None:
        self.renewed += 1
        if self.later:
            self.view = self.later.pop(0)

    async def get(self, name: str) -> Datasource:
        if name != self.view.datasource.name:
            raise NotFoundError(f"no datasource '{name}'", f"did you mean '{self.view.datasource.name}'?")
        return self.view.datasource

    def at_hand(self, name: str) -> Datasource | None:
        return self.view.datasource if name == self.view.datasource.name else None

    async def all(self) -> list[Datasource]:
        return [self.view.datasource]

    async def create(self, document: Mapping[str, Any]) -> Datasource:
        raise NotFoundError("definitions are fixed here")

    async def update(self, name: str, document: Mapping[str, Any]) -> Datasource:
        raise NotFoundError("definitions are fixed here")

    async def delete(self, name: str) -> None:
        raise NotFoundError("definitions are fixed here")


def build_world(folder: Path, cuts: Sequence[int] = (15_000, 30_000)) -> World:
    """The Wikipedia rows, cut at these positions: all but the last piece in files, the last beyond them."""
    store = LocalStore(folder)
    rows = wikipedia.raw_rows()
    bounds = [0, *cuts, rows.num_rows]
    pieces = [rows.slice(a, b - a) for a, b in pairwise(bounds)]
    source = wikipedia.datasource()
    files: dict[str, list[FileRef]] = {"events": []}
    for number, piece in enumerate(pieces[:-1]):
        files["events"].append(write(store, "events", piece, number))
        for rollup in source.rollups:
            table = wikipedia.partials(piece, rollup.name).to_arrow(compat_level=pl.CompatLevel.oldest())
            files.setdefault(rollup.table, []).append(write(store, rollup.table, table, number))
    return World(store, FixedView(source, files, pieces[-1]))


def write(store: LocalStore, table: str, rows: pa.Table, number: int) -> FileRef:
    return write_to(store, wikipedia.datasource(), table, rows, number)


def write_to(store: LocalStore, source: Datasource, table: str, rows: pa.Table, number: int) -> FileRef:
    times = rows.column(TIME).cast(pa.int64()).to_numpy()
    write = TableWrite(table, "2015-09-12", rows, int(times.min()), int(times.max()))
    return write_table_file(store, source.folder, write, f"test-1-{number}-0.parquet")
