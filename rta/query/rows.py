"""Raw rows: which ones a page holds, in which order, and what they show. Frames in, an answer out; no I/O.

Where the order begins with the time, files are read from the wanted end and no further than the page needs; without a
condition the keys are read first and the other columns only of the rows that can be in the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from rta.events.schemas import TIME, ColumnType
from rta.query import cursor as cursors
from rta.query.answer import TIME_TYPE, Answer
from rta.query.cursor import Cursor, SortKey
from rta.query.fields import FieldKind
from rta.query.paths import json_key, with_paths
from rta.query.plan import Plan
from rta.query.raw import Frame, matching

REST_MEMBERS = "*"


@dataclass(frozen=True, slots=True)
class Source:
    """Raw rows and the event times that they lie between (ms, both included)."""

    frame: Frame
    time_min_ms: int
    time_max_ms: int
    check: Callable[[], None] | None = None
    """To be called before the frame is read; it raises when the file is not whole."""

    def checked(self) -> Frame:
        if self.check is not None:
            self.check()
        return self.frame


def run_rows(plan: Plan, sources: Sequence[Source]) -> Answer:
    """One page of raw rows.

    Args:
        plan: Of a question with `select`.
        sources: In any order; rows beyond the files are just more sources.
    """
    keys = cursors.sort_keys(plan)
    cursor = cursors.decode(plan.query.cursor, keys) if plan.query.cursor else None
    assert plan.rows_max is not None
    wanted = plan.rows_max + (cursor.seen if cursor else 0)
    found = _first(plan, sources, keys, cursor, wanted)
    if cursor is not None:
        found = cursors.skipped(found, keys, cursor)
    more = found.height > plan.query.limit
    page = found.head(plan.query.limit)
    following = cursors.encode(cursors.from_row(page, keys, cursor), keys) if more else None
    frame, spliced = _shown(page, plan)
    return Answer(frame, {}, more, following, spliced)


def stored_columns(plan: Plan) -> list[str]:
    """The stored columns that the page's rows need."""
    wanted = [*plan.columns, *(k.column for k in cursors.sort_keys(plan))]
    if "*" in plan.query.select:
        wanted += [c.name for c in plan.shape.columns]
        wanted += [plan.shape.rest] if plan.shape.rest else []
    return list(dict.fromkeys(wanted))


def _first(
    plan: Plan, sources: Sequence[Source], keys: tuple[SortKey, ...], cursor: Cursor | None, wanted: int
) -> pl.DataFrame:
    """The first rows of the order, at or after the cursor."""
    if keys[0].column != TIME:
        return _sorted(plan, [s.checked() for s in sources], keys, cursor, wanted)
    descending = keys[0].descending
    inside = [s for s in sources if s.time_max_ms >= plan.start_ms and s.time_min_ms < plan.end_ms]
    inside = [s for s in inside if not _before_cursor(s, cursor, descending)]
    inside.sort(key=lambda s: -s.time_max_ms if descending else s.time_min_ms)
    found: pl.DataFrame | None = None
    taken, step = 0, 1
    while taken < len(inside):
        frames: list[Frame] = [s.checked() for s in inside[taken : taken + step]]
        if found is not None:
            frames.append(found)
        found = _sorted(plan, frames, keys, cursor, wanted)
        taken, step = taken + step, step * 2
        if found.height == wanted and taken < len(inside):
            last = found.get_column(TIME).dt.epoch("ms")[-1]
            following = inside[taken]
            if following.time_max_ms < last if descending else following.time_min_ms > last:
                break
    return found if found is not None else _sorted(plan, [], keys, cursor, wanted)


def _before_cursor(source: Source, cursor: Cursor | None, descending: bool) -> bool:
    if cursor is None or not isinstance(cursor.values[0], int):
        return False
    return source.time_min_ms > cursor.values[0] if descending else source.time_max_ms < cursor.values[0]


def _sorted(
    plan: Plan, frames: Sequence[Frame], keys: tuple[SortKey, ...], cursor: Cursor | None, wanted: int
) -> pl.DataFrame:
    columns = stored_columns(plan)
    if plan.where is None and plan.pushed is None and keys[0].column == TIME:
        edge = _take(matching_keys(plan, frames), keys, cursor, wanted)
        if edge.height == wanted:
            bound = pl.lit(edge.get_column(TIME)[-1]).cast(TIME_TYPE)
            beyond = pl.col(TIME) >= bound if keys[0].descending else pl.col(TIME) <= bound
            return _take(matching(plan, [f.lazy().filter(beyond) for f in frames], columns), keys, cursor, wanted)
    return _take(matching(plan, frames, columns), keys, cursor, wanted)


def matching_keys(plan: Plan, frames: Sequence[Frame]) -> pl.LazyFrame:
    keys = [k.column for k in cursors.sort_keys(plan)]
    return matching(plan, frames, keys).select(keys)


def _take(events: pl.LazyFrame, keys: tuple[SortKey, ...], cursor: Cursor | None, wanted: int) -> pl.DataFrame:
    if cursor is not None:
        events = events.filter(cursors.at_or_after(cursor, keys))
    names = [k.column for k in keys]
    order = [k.descending for k in keys]
    return events.sort(names, descending=order, nulls_last=True).head(wanted).collect(engine="streaming")


def _shown(page: pl.DataFrame, plan: Plan) -> tuple[pl.DataFrame, dict[str, str]]:
    """The columns that the question selects, and which of them are JSON text."""
    paths = {f.key: f for name, f in plan.fields.items() if f.kind is FieldKind.PATH and name in plan.query.select}
    missing = [f for f in paths.values() if json_key(f) not in page.columns]
    page = with_paths(page.lazy(), missing).collect() if missing else page
    columns: list[pl.Expr] = []
    spliced: dict[str, str] = {}
    names: list[str] = []
    for name in plan.query.select:
        if name == "*":
            everything = [("time", TIME, ColumnType.TIMESTAMP)]
            everything += [(c.name, c.name, c.type) for c in plan.shape.columns]
            for shown, stored, kind in everything:
                if shown not in names:
                    names.append(shown)
                    columns.append(pl.col(stored).alias(shown))
                    if kind is ColumnType.JSON:
                        spliced[shown] = shown
            if plan.shape.rest:
                columns.append(pl.col(plan.shape.rest))
                spliced[plan.shape.rest] = REST_MEMBERS
            continue
        if name in names:
            continue
        field = plan.fields[name]
        pathed = field.kind is FieldKind.PATH
        columns.append(pl.col(json_key(field) if pathed else field.column).alias(name))
        names.append(name)
        if pathed or field.type is ColumnType.JSON:
            spliced[name] = name
    return page.select(columns), spliced
