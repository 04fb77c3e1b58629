"""`GET /v1/advise`: the record of the last questions' shapes, and the rollups that they would have wanted.

Owns the record of one query replica, bounded and in memory, and the estimates: it samples raw events of the newest day
and folds them into each proposal, so that rows and bytes are of this data. What to propose is `rta.query.advise`'s.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa

from rta.events.schemas import EVENTS, TIME, Datasource, Grain
from rta.query.advise import Asked, Proposal, Wish, groups_of_a_day, propose, rollup_document, rollup_of, wish_of
from rta.query.plan import Plan
from rta.serve.ports import Definitions, Views
from rta.serve.reads import Prepared, Read
from rta.store.model import FileRef
from rta.store.objects import ObjectStore
from rta.store.parquet import read_one, write_parquet
from rta.stream.columns import Columns, fit
from rta.stream.rollups import build_partials

SHAPES_MAX = 512
"""Shapes of questions that are remembered, of all datasources; the one asked for longest ago goes."""
SAMPLE_ROWS = 100_000
SAMPLE_FILES = 4
ROW_S = 20e-9
"""What answering from a rollup costs a row, a few metrics and a group by."""
ANSWER_S = 0.001
STALENESS_MS = 60_000
VIEW_S = 5.0
DAY_MS = 86_400_000
T = TypeVar("T")
_Key = tuple[str, Wish | None, str]


@dataclass(slots=True)
class _Entry:
    """Of one shape, since it was first asked."""

    count: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    days: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was asked of one datasource: what a rollup could answer, how many questions in all, and for how long."""

    asked: tuple[Asked, ...]
    total: int
    watched_s: float


class Record:
    """What was asked, and what it took. Belongs to one event loop."""

    def __init__(self) -> None:
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._quick: OrderedDict[str, int] = OrderedDict()
        self._began_s = time.monotonic()

    def note(self, plan: Plan, reads: Sequence[Read], seconds: float) -> None:
        """A question was computed; one that a cache answered costs nothing and is not counted."""
        key = (plan.datasource.folder, wish_of(plan), plan.table)
        entry = self._entries.pop(key, None) or _Entry()
        self._entries[key] = entry
        while len(self._entries) > SHAPES_MAX:
            self._entries.popitem(last=False)
        files = [file for read in reads for file in read.files]
        entry.count += 1
        entry.rows += sum(file.rows for file in files)
        entry.bytes += sum(file.bytes for file in files)
        entry.seconds += seconds
        times = [t for f in files for t in (f.time_min_ms, f.time_max_ms)]
        held = (max(times) - min(times)) if times else 0
        entry.days += min(plan.end_ms - plan.start_ms, held) / DAY_MS

    def quick(self, folder: str) -> None:
        """One was computed from few decoded rollup rows: no other rollup would have helped, and time matters here."""
        self._quick[folder] = self._quick.get(folder, 0) + 1
        if len(self._quick) > SHAPES_MAX:
            self._quick.popitem(last=False)

    def of(self, folder: str) -> Seen:
        """Of one datasource."""
        mine = [(wish, table, e) for (of, wish, table), e in self._entries.items() if of == folder]
        found = [
            Asked(wish, table, e.count, e.rows, e.bytes, e.seconds, e.days)
            for wish, table, e in mine
            if wish is not None
        ]
        total = sum(e.count for _, _, e in mine) + self._quick.get(folder, 0)
        return Seen(tuple(found), total, time.monotonic() - self._began_s)


class Adviser:
    """The record of a query replica and the advice that comes of it. Belongs to its event loop.

    Args:
        looking: The one thread that looks up files.
    """

    def __init__(self, views: Views, definitions: Definitions, store: ObjectStore, looking: Executor) -> None:
        self.record = Record()
        self._views = views
        self._definitions = definitions
        self._store = store
        self._looking = looking

    def noting(self, prepared: Prepared, compute: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        """The same, noting what it took; nothing where it fails. A composed question is noted by its parts."""

        async def noted() -> T:
            begun = time.perf_counter()
            found = await compute()
            if not prepared.parts:
                self.record.note(prepared.plan, prepared.reads, time.perf_counter() - begun)
            return found

        return noted

    async def advise(self, name: str | None) -> dict[str, Any]:
        """Advice for one datasource or for all. Raises NotFoundError, CorruptFileError, TimeLimitError."""
        wanted = await self._definitions.all() if name is None else [await self._definitions.get(name)]
        loop = asyncio.get_running_loop()
        found = []
        for datasource in wanted:
            view = await self._views.at(datasource, STALENESS_MS, None, VIEW_S)
            files = await loop.run_in_executor(self._looking, view.files, EVENTS)
            seen = self.record.of(datasource.folder)
            found.append(await asyncio.to_thread(advise, seen, datasource, files, self._store))
        return {"datasources": found}


def advise(seen: Seen, datasource: Datasource, files: Sequence[FileRef], store: ObjectStore) -> dict[str, Any]:
    """The advice for one datasource. Blocking: reads up to `SAMPLE_ROWS` of its raw events, which are in `files`.

    Raises CorruptFileError.
    """
    asked = seen.asked
    document: dict[str, Any] = {
        "datasource": datasource.name,
        "watched_s": round(seen.watched_s, 1),
        "questions": seen.total,
        "from_raw_events": sum(a.count for a in asked if a.table == EVENTS),
        "proposals": [],
        "put": None,
    }
    if not asked:
        return document
    sample = _sample(files, store, datasource)
    counted = cache(
        lambda dimensions, grain: groups_of_a_day(sample.frame, sample.per_day, dimensions, grain, datasource)
    )

    def rows_per_day(dimensions: Collection[str], grain: Grain) -> float:
        return counted(frozenset(dimensions), grain)

    taken = {rollup.name for rollup in datasource.rollups}
    for proposal in propose(asked, datasource.rollups, rows_per_day):
        made = rollup_document(proposal.wish, taken)
        taken.add(made["name"])
        rows = rows_per_day(proposal.wish.dimensions, proposal.wish.grain)
        document["proposals"].append(_described(proposal, made, rows, sample, datasource, seen))
    added = [p["rollup"] for p in document["proposals"]]
    if added:
        document["put"] = {**datasource.document, "rollups": [*(datasource.document.get("rollups") or []), *added]}
    return document


@dataclass(frozen=True, slots=True)
class _Sample:
    """Raw events of the newest day that has some, and how many a day has."""

    rows: pa.Table
    frame: pl.DataFrame
    per_day: float


def _sample(files: Sequence[FileRef], store: ObjectStore, datasource: Datasource) -> _Sample:
    by_date: dict[str, list[FileRef]] = {}
    for file in files:
        by_date.setdefault(file.date, []).append(file)
    rows = {date: sum(f.rows for f in of_date) for date, of_date in by_date.items()}
    # The newest days may have only begun: the one with the most of the last three stands for a day.
    day = max(sorted(rows)[-3:], key=lambda date: rows[date], default=None)
    schema = datasource.raw_schema()
    tables = [schema.empty_table()]
    left = SAMPLE_ROWS
    for file in sorted(by_date.get(day or "", []), key=lambda f: -f.rows)[:SAMPLE_FILES]:
        share = max(1, left // SAMPLE_FILES) if file.rows > left // SAMPLE_FILES else file.rows
        found = fit(read_one(store, datasource.folder, file), schema)
        step = max(1, found.num_rows // share)
        tables.append(found.take(pa.array(range(0, found.num_rows, step))))
    table = pa.concat_tables(tables).combine_chunks()
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return _Sample(table, frame, float(rows.get(day or "", 0)))


def _described(
    proposal: Proposal, made: Mapping[str, Any], rows: float, sample: _Sample, datasource: Datasource, seen: Seen
) -> dict[str, Any]:
    count = sum(asked.count for asked in proposal.serves)
    days = sum(asked.days for asked in proposal.serves)
    after_s = count * ANSWER_S + days * rows * ROW_S
    per_day = 86_400 / max(seen.watched_s, 1.0)
    return {
        "rollup": dict(made),
        "rows_per_day": round(rows),
        "bytes_per_day": round(rows * _row_bytes(made, sample, datasource)),
        "raw_events_per_day": round(sample.per_day),
        "questions": count,
        "share": round(count / max(seen.total, 1), 3),
        "rows_read": sum(asked.rows for asked in proposal.serves),
        "bytes_read": sum(asked.bytes for asked in proposal.serves),
        "seconds_used": round(proposal.seconds, 3),
        "seconds_saved_per_day": round(max(0.0, proposal.seconds - after_s) * per_day, 1),
        "shapes": len(proposal.serves),
    }


def _row_bytes(made: Mapping[str, Any], sample: _Sample, datasource: Datasource) -> float:
    """Bytes of a row as it lies in a file, by folding the sample."""
    if not sample.rows.num_rows:
        return 0.0
    rollup = rollup_of(made)
    fields = [m.field for m in rollup.metrics if m.field is not None]
    schema = pa.schema([sample.rows.schema.field(n) for n in dict.fromkeys((TIME, *rollup.dimensions, *fields))])
    partials = build_partials(Columns(fit(sample.rows, schema).combine_chunks()), rollup, datasource)
    file = io.BytesIO()
    write_parquet(partials, file)
    return len(file.getvalue()) / max(partials.num_rows, 1)
