"""The end of an epoch: which rows become files, which stay in the saved state.

Owns the order of a cut. It takes what the fold holds, writes nothing itself, and leaves behind what stays.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rta.events.keys import identities_of
from rta.events.schemas import GRAIN_MS, TIME, Datasource, Rollup
from rta.stream.columns import numbers
from rta.stream.filing import DAY_MS, DateRows, choose_dates, count_dates, date_text, is_chosen, split_by_day
from rta.stream.grouping import Flags, Ints, Longs
from rta.stream.model import PARTITION, FoldLimits, TableWrite
from rta.stream.partition import Partition
from rta.stream.rollups import merge_tables
from rta.stream.saved import StateTables, encode_state
from rta.stream.unwritten import UnwrittenRollup, UnwrittenRows

RAW_TABLE = "events"


@dataclass(frozen=True, slots=True)
class Held:
    """What a fold holds at the end of an epoch. `raw` is None where no raw rows are kept."""

    datasource: Datasource
    partitions: Mapping[int, Partition]
    rollups: Mapping[str, UnwrittenRollup]
    raw: UnwrittenRows | None
    waited: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`buffered` gives per partition the raw rows that wait, and the sum of their identities' low halves."""

    writes: tuple[TableWrite, ...]
    state: bytes
    waited: dict[tuple[str, str], int]
    buffered: Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Rows of one table: which may be written, the date and partition of each. `rollup` is None for raw rows."""

    table: str
    rollup: Rollup | None
    rows: pa.Table
    partition: Ints
    days: Longs
    ready: Flags | None
    """None when all are."""

    def ready_rows(self) -> tuple[pa.Table, Longs]:
        if self.ready is None:
            return self.rows, self.days
        return self.rows.filter(pa.array(self.ready)), self.days[self.ready]


def cut_epoch(held: Held, limits: FoldLimits) -> Outcome:
    """Choose what is written, take it out of what is held, and encode the rest."""
    candidates = [_rollup_candidates(u, held.partitions, limits) for u in held.rollups.values()]
    if held.raw is not None:
        candidates.append(_raw_candidates(held.raw))
    ready = {c.table: c.ready_rows() for c in candidates}
    dates: dict[tuple[str, int], DateRows] = {}
    for table, (rows, days) in ready.items():
        dates.update({(table, day): it for day, it in count_dates(days, rows).items()})
    waited = {(table, _day(date)): epochs for (table, date), epochs in held.waited.items()}
    chosen = choose_dates(dates, _current_days(held.partitions), waited, limits)
    writes: list[TableWrite] = []
    rest: dict[str, tuple[pa.Table, Ints]] = {}
    for each in candidates:
        days_chosen = {day for table, day in chosen if table == each.table}
        writes += _writes(each, split_by_day(*ready[each.table], days_chosen), held.datasource)
        rest[each.table] = _rest(each, days_chosen)
    _put_back(held, rest)
    still = {key: waited.get(key, 0) + 1 for key in dates if key not in chosen}
    state = _state(held, candidates, rest, still)
    texts = {(table, date_text(day)): epochs for (table, day), epochs in still.items()}
    return Outcome(tuple(writes), encode_state(state), texts, _buffered(held.datasource, rest.get(RAW_TABLE)))


def _rollup_candidates(
    unwritten: UnwrittenRollup, partitions: Mapping[int, Partition], limits: FoldLimits
) -> _Candidates:
    """A row may be written once its partition's watermark has passed its bucket's end."""
    rows = unwritten.merged()
    partition, buckets = _longs(rows, PARTITION).astype(np.int32), _longs(rows, TIME)
    watermarks = np.full(max(partitions, default=0) + 1, np.iinfo(np.int64).min)
    for number, each in partitions.items():
        if each.watermark.now_ms is not None:
            watermarks[number] = each.watermark.now_ms
    ready = buckets + GRAIN_MS[unwritten.rollup.granularity] <= watermarks[partition]
    everything = int((~ready).sum()) > limits.open_rows
    return _Candidates(
        unwritten.rollup.table, unwritten.rollup, rows, partition, buckets // DAY_MS, None if everything else ready
    )


def _raw_candidates(raw: UnwrittenRows) -> _Candidates:
    rows, partition = raw.all()
    return _Candidates(RAW_TABLE, None, rows, partition, _longs(rows, TIME) // DAY_MS, None)


def _longs(table: pa.Table, name: str) -> Longs:
    chunks = [numbers(chunk) for chunk in table.column(name).chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int64)


def _current_days(partitions: Mapping[int, Partition]) -> set[int]:
    """The dates at which the partitions are that had records in this epoch."""
    fronts = [p.watermark.front_ms for p in partitions.values() if p.to_offset > p.from_offset]
    return {front // DAY_MS for front in fronts if front is not None}


def _writes(each: _Candidates, by_day: Mapping[int, pa.Table], datasource: Datasource) -> list[TableWrite]:
    out = []
    for day, rows in by_day.items():
        if each.rollup is not None:
            rows = merge_tables([rows], each.rollup, datasource)
        times = _longs(rows, TIME)
        out.append(TableWrite(each.table, date_text(day), rows, int(times.min()), int(times.max())))
    return out


def _rest(each: _Candidates, chosen: set[int]) -> tuple[pa.Table, Ints]:
    gone = is_chosen(each.days, chosen)
    if each.ready is not None:
        gone &= each.ready
    if gone.all():
        return each.rows.schema.empty_table(), np.zeros(0, np.int32)
    if not gone.any():
        return each.rows, each.partition
    return each.rows.filter(pa.array(~gone)), each.partition[~gone]


def _put_back(held: Held, rest: Mapping[str, tuple[pa.Table, Ints]]) -> None:
    for unwritten in held.rollups.values():
        unwritten.replace(rest[unwritten.rollup.table][0])
    if held.raw is not None:
        held.raw.replace(*rest[RAW_TABLE])


def _state(
    held: Held,
    candidates: list[_Candidates],
    rest: Mapping[str, tuple[pa.Table, Ints]],
    waited: Mapping[tuple[str, int], int],
) -> dict[int, StateTables]:
    open_rows: dict[int, dict[str, pa.Table]] = {p: {} for p in held.partitions}
    raw_rows: dict[int, pa.Table] = {}
    waits: dict[int, dict[tuple[str, str], int]] = {p: {} for p in held.partitions}
    for each in candidates:
        rows, partition = rest[each.table]
        parts = _by_partition(rows, partition)
        for number, part in parts.items():
            _note_waits(waits[number], each.table, _longs(part, TIME) // DAY_MS, waited)
            if each.rollup is None:
                raw_rows[number] = part
            else:
                open_rows[number][each.table] = part.drop_columns([PARTITION])
    return {
        number: StateTables(
            open=open_rows[number],
            rows=raw_rows.get(number),
            extra=each.extra,
            event_time_max_ms=each.watermark.event_time_max_ms,
            waited=waits[number],
        )
        for number, each in held.partitions.items()
    }


def _note_waits(
    out: MutableMapping[tuple[str, str], int], table: str, days: Longs, waited: Mapping[tuple[str, int], int]
) -> None:
    if waited:
        for day in np.unique(days).tolist():
            if (table, day) in waited:
                out[table, date_text(day)] = waited[table, day]


def _by_partition(rows: pa.Table, partition: Ints) -> dict[int, pa.Table]:
    if not len(partition):
        return {}
    if (partition == partition[0]).all():
        return {int(partition[0]): rows}
    order = np.argsort(partition, kind="stable")
    found, firsts = np.unique(partition[order], return_index=True)
    edges = [*firsts.tolist(), len(partition)]
    return {number: rows.take(pa.array(order[edges[i] : edges[i + 1]])) for i, number in enumerate(found.tolist())}


def _buffered(datasource: Datasource, raw: tuple[pa.Table, Ints] | None) -> dict[int, tuple[int, int]]:
    if raw is None or not len(raw[1]):
        return {}
    rows, partition = raw
    low = identities_of(rows.combine_chunks(), datasource)[:, 1]
    out = {}
    for number in np.unique(partition).tolist():
        mine = low[partition == number]
        out[number] = (len(mine), int(mine.sum(dtype=np.uint64)))
    return out


def _day(date: str) -> int:
    return int(np.datetime64(date, "D").astype(np.int64))
