"""What a planned question reads of a view: per stretch of time the files of its table.

Owns nothing but the finding: which table answers is the planner's, what a table has is the view's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rta.events.schemas import EVENTS, TIME, TIMESTAMP, Datasource
from rta.query import compose
from rta.query.answer import format_time
from rta.query.block import Block, Dictionaries
from rta.query.model import Query
from rta.query.plan import Part, Plan, Stock
from rta.query.planner import plan
from rta.query.position import Position, decode_position
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN
from rta.serve.ports import View
from rta.store.model import FileRef
from rta.store.parquet import within_range


@dataclass(frozen=True, slots=True)
class Read:
    """One part of a plan with its files, those in its range."""

    part: Part
    files: tuple[FileRef, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A planned question with what it reads.

    Args:
        reads: The files of each part of the plan.
        hot: Decoded rollup rows beyond them, with rows in the range; none when raw events are read.
        has_hot: Whether rows beyond the files can be in the range.
        hot_ends: Whether there can be raw ones in the ends of a rollup's question.
        shared: Whether its answer is worth sharing with other replicas. Not that of a rollup with hot rows: it is made in
            the time of asking for it, and the next event gives it another key.
        key: Of the answer.
        parts: The plain questions that a composed one is put together from; it reads nothing else, and `plan` is the first's.
    """

    plan: Plan
    view: View
    reads: tuple[Read, ...]
    hot: tuple[Block, ...]
    dictionaries: Dictionaries | None
    has_hot: bool
    hot_ends: bool
    shared: bool
    key: bytes
    parts: tuple[tuple[compose.Part, Prepared], ...] = ()

    @property
    def raw_files(self) -> tuple[FileRef, ...]:
        """Files of single rows, each once."""
        found = {file.path: file for read in self.reads if read.part.grain is None for file in read.files}
        return tuple(found.values())


def planned_for(query: Query, view: View, now_ms: int) -> Plan:
    """The question's plan for a view. Raises InvalidQueryError."""
    return plan(query, view.datasource, now_ms, stock_of(view, query))


def stock_of(view: View, query: Query) -> Stock:
    """What of the view a plan depends on."""
    datasource = view.datasource
    if query.table != EVENTS:
        return Stock()
    oldest = _oldest_ms(view) if _forgets_rollups(datasource) else None
    tables = [EVENTS, *(rollup.table for rollup in datasource.rollups)]
    hot = {table: times for table in tables if (times := view.hot_times(table)) is not None}
    # Before files are looked up: a fill goes on, and only adds to what was said to be complete.
    filled = {rollup.name: view.filled_from(rollup) for rollup in datasource.later_rollups}
    return Stock(oldest_ms=oldest, filled=filled, hot=hot)


def find_reads(planned: Plan, view: View) -> tuple[Read, ...]:
    """The files of each part. Raises ViewGoneError."""
    return tuple(Read(part, _files(part, view)) for part in planned.parts)


def inside_ms(planned: Plan) -> tuple[int, int]:
    """The time that rollup rows answer: all but the raw ends."""
    rolled = [part for part in planned.parts if part.grain is not None]
    return (rolled[0].start_ms, rolled[-1].end_ms) if rolled else (planned.start_ms, planned.start_ms)


def names_beyond(planned: Plan, view: View) -> tuple[Sequence[str], Sequence[str]]:
    """Names of what lies beyond the files, of the plan's table and of its raw ends; see `View.parts`."""
    if planned.hot_ms is None:
        return (), ()
    if planned.rollup is None:
        return view.parts(planned.query.table, planned.start_ms, planned.end_ms), ()
    ends = [name for end in planned.ends for name in view.parts(EVENTS, end.start_ms, end.end_ms)]
    return view.parts(planned.rollup.table, *inside_ms(planned)), ends


def _files(part: Part, view: View) -> tuple[FileRef, ...]:
    return tuple(within_range(view.files(part.table), (part.start_ms, part.end_ms)))


def explained(reads: Sequence[Read]) -> dict[str, Any]:
    """What is to be read, in all and per part."""
    parts = [
        {
            "table": read.part.table,
            "time_range": f"{format_time(read.part.start_ms)}/{format_time(read.part.end_ms)}",
            "files": len(read.files),
            "rows": sum(f.rows for f in read.files),
            "bytes": sum(f.bytes for f in read.files),
        }
        for read in reads
    ]
    once = {(f.table, f.path): f for read in reads for f in read.files}.values()
    return {
        "files": len(once),
        "rows": sum(f.rows for f in once),
        "bytes": sum(f.bytes for f in once),
        "reads": parts,
    }


def _forgets_rollups(datasource: Datasource) -> bool:
    """Whether some rollup keeps its rows for a shorter time than the raw table, so that the planner asks how old data is."""
    raw = datasource.retention.events_ms
    kept = datasource.retention.rollups_ms
    return raw is not None and any(kept.get(r.granularity, raw) < raw for r in datasource.rollups)


def _oldest_ms(view: View) -> int:
    return min((f.time_min_ms for f in view.files(EVENTS)), default=TIME_MS_MAX)


def in_range(rows: pa.Table, planned: Plan) -> pa.Table:
    """Those of the rows that are in the plan's range."""
    if planned.start_ms == TIME_MS_MIN and planned.end_ms == TIME_MS_MAX:
        return rows
    return rows.filter(_between(rows, planned.start_ms, planned.end_ms))


def in_ends(rows: pa.Table, planned: Plan) -> pa.Table:
    """Those that are in the raw ends of a rollup's question."""
    taken = [rows.filter(_between(rows, end.start_ms, end.end_ms)) for end in planned.ends]
    return pa.concat_tables(taken)


def _between(rows: pa.Table, start_ms: int, end_ms: int) -> pa.ChunkedArray:
    times = rows.column(TIME)
    start, end = (pa.scalar(bound, pa.int64()).cast(TIMESTAMP) for bound in (start_ms, end_ms))
    return pc.and_(pc.greater_equal(times, start), pc.less(times, end))


def position_of(query: Query, header: str | None) -> Position | None:
    """What the question and the header say together; two positions of different datasources are the view's to refuse."""
    found = [decode_position(text) for text in (query.after, header) if text]
    if len(found) == 2 and found[0].folder == found[1].folder:
        return found[0].merge(found[1])
    return found[0] if found else None
