"""The end of an epoch: which rows become files, which stay in the saved state.

Owns the order of a cut. It takes what an epoch added and what earlier ones left, writes nothing itself, and leaves behind
what stays. The fold goes on meanwhile: nothing here is shared with it.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rta.errors import InvariantError
from rta.events.keys import identities_of
from rta.events.schemas import EVENTS, GRAIN_MS, REJECTED, TIME, Datasource, Rollup
from rta.stream.columns import numbers
from rta.stream.filing import DAY_MS, DateRows, choose_dates, count_dates, date_text, is_chosen, split_by_day
from rta.stream.grouping import Flags, Ints, Longs
from rta.stream.model import PARTITION, EpochCut, FoldLimits, MinuteCounts, PartitionCut, RunWrite, TableWrite
from rta.stream.partition import Partition
from rta.stream.rollups import merge_tables
from rta.stream.saved import StateTables, encode_state
from rta.stream.unwritten import Unwritten, UnwrittenRollup, UnwrittenRows


@dataclass(frozen=True, slots=True)
class PartitionEnd:
    """Where one partition stands at the end of an epoch."""

    partition: int
    from_offset: int
    to_offset: int
    watermark_ms: int | None
    front_ms: int | None
    event_time_max_ms: int | None
    append_time_ms: int
    extra: Mapping[str, bytes]
    kept_runs: tuple[object, ...]

    @classmethod
    def of(cls, partition: Partition, kept_runs: tuple[object, ...]) -> PartitionEnd:
        mark = partition.watermark
        return cls(
            partition=partition.partition,
            from_offset=partition.from_offset,
            to_offset=partition.to_offset,
            watermark_ms=mark.now_ms,
            front_ms=mark.front_ms,
            event_time_max_ms=mark.event_time_max_ms,
            append_time_ms=mark.append_time_ms,
            extra=partition.extra,
            kept_runs=kept_runs,
        )


class Carried:
    """What goes from one epoch's cut to the next one's: the rows that are in no file yet, and for how long."""

    def __init__(self, unwritten: Unwritten) -> None:
        self.unwritten = unwritten
        self.waited: dict[tuple[str, str], int] = {}
        """Per (table, date) with rows that wait, how many epochs they have."""
        self._begun = 0
        self._cut = 0

    def begin(self) -> int:
        """The number of the epoch that ends now."""
        self._begun += 1
        return self._begun

    def follow(self, number: int) -> None:
        """Raises InvariantError unless epochs are cut one after the other, each once."""
        if number != self._cut + 1:
            raise InvariantError(f"epoch {number} of a fold was cut after epoch {self._cut}")
        self._cut = number


@dataclass(frozen=True, slots=True)
class EndedEpoch:
    """All that an epoch added, on its way into files. May be used in another thread than the fold's.

    Args:
        run_writes: Identities to write; they can be written before the cut.
    """

    datasource: Datasource
    limits: FoldLimits
    number: int
    ends: tuple[PartitionEnd, ...]
    unwritten: Unwritten
    carried: Carried
    run_writes: tuple[RunWrite, ...]
    ledger: tuple[MinuteCounts, ...]

    def cut(self) -> EpochCut:
        """Choose what is written; the rest goes into the state, and on to the next epoch's cut.

        Raises:
            InvariantError: the epochs of a fold are not cut in their order, or one is cut twice.

        Cost: 0.1-0.35 s for 500,000 events and one or two rollups.
        """
        self.carried.follow(self.number)
        self.unwritten.settle()
        self.unwritten.absorb(self.carried.unwritten)
        writes, state, buffered = _cut(self)
        cuts = tuple(_partition_cut(end, buffered.get(end.partition, (0, 0))) for end in self.ends)
        return EpochCut(cuts, writes, state, self.run_writes, self.ledger)


def _partition_cut(end: PartitionEnd, buffered: tuple[int, int]) -> PartitionCut:
    return PartitionCut(
        partition=end.partition,
        from_offset=end.from_offset,
        to_offset=end.to_offset,
        watermark_ms=end.watermark_ms,
        append_time_ms=end.append_time_ms,
        kept_runs=end.kept_runs,
        buffered=buffered[0],
        buffered_sum=buffered[1],
    )


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Rows of one table: which may be written, the date and partition of each. `rollup` is None for single rows."""

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


def _cut(epoch: EndedEpoch) -> tuple[tuple[TableWrite, ...], bytes, Mapping[int, tuple[int, int]]]:
    """The writes, the encoded state, and per partition the raw rows that wait with the sum of their ids' low halves."""
    carried, limits, unwritten = epoch.carried, epoch.limits, epoch.unwritten
    candidates = [_rollup_candidates(u, epoch.ends, limits) for u in unwritten.rollups.values()]
    if unwritten.raw is not None:
        candidates.append(_row_candidates(EVENTS, unwritten.raw))
    if unwritten.rejected is not None:
        candidates.append(_row_candidates(REJECTED, unwritten.rejected))
    ready = {c.table: c.ready_rows() for c in candidates}
    dates: dict[tuple[str, int], DateRows] = {}
    for table, (rows, days) in ready.items():
        dates.update({(table, day): it for day, it in count_dates(days, rows).items()})
    waited = {(table, _day(date)): epochs for (table, date), epochs in carried.waited.items()}
    chosen = choose_dates(dates, _current_days(epoch.ends), waited, limits)
    writes: list[TableWrite] = []
    rest: dict[str, tuple[pa.Table, Ints]] = {}
    for each in candidates:
        days_chosen = {day for table, day in chosen if table == each.table}
        writes += _writes(each, split_by_day(*ready[each.table], days_chosen), epoch.datasource)
        rest[each.table] = _rest(each, days_chosen)
    _carry_on(carried.unwritten, rest)
    still = {key: waited.get(key, 0) + 1 for key in dates if key not in chosen}
    carried.waited = {(table, date_text(day)): epochs for (table, day), epochs in still.items()}
    state = _state(epoch.ends, candidates, rest, still)
    return tuple(writes), encode_state(state), _buffered(epoch.datasource, rest.get(EVENTS))


def _rollup_candidates(unwritten: UnwrittenRollup, ends: Sequence[PartitionEnd], limits: FoldLimits) -> _Candidates:
    """A row may be written once its partition's watermark has passed its bucket's end."""
    rows = unwritten.merged()
    partition, buckets = _longs(rows, PARTITION).astype(np.int32), _longs(rows, TIME)
    watermarks = np.full(max((end.partition for end in ends), default=0) + 1, np.iinfo(np.int64).min)
    for end in ends:
        if end.watermark_ms is not None:
            watermarks[end.partition] = end.watermark_ms
    ready = buckets + GRAIN_MS[unwritten.rollup.granularity] <= watermarks[partition]
    everything = int((~ready).sum()) > limits.open_rows
    return _Candidates(
        unwritten.rollup.table, unwritten.rollup, rows, partition, buckets // DAY_MS, None if everything else ready
    )


def _row_candidates(table: str, unwritten: UnwrittenRows) -> _Candidates:
    rows, partition = unwritten.all()
    return _Candidates(table, None, rows, partition, _longs(rows, TIME) // DAY_MS, None)


def _longs(table: pa.Table, name: str) -> Longs:
    chunks = [numbers(chunk) for chunk in table.column(name).chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int64)


def _current_days(ends: Sequence[PartitionEnd]) -> set[int]:
    """The dates at which the partitions are that had records in this epoch."""
    fronts = [end.front_ms for end in ends if end.to_offset > end.from_offset]
    return {front // DAY_MS for front in fronts if front is not None}


def _writes(each: _Candidates, by_day: Mapping[int, pa.Table], datasource: Datasource) -> list[TableWrite]:
    out = []
    for day, rows in by_day.items():
        if each.rollup is not None:
            rows = merge_tables([rows], each.rollup, datasource)
        elif each.table == REJECTED:
            rows = rows.sort_by([("partition", "ascending"), ("offset", "ascending")])
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


def _carry_on(carried: Unwritten, rest: Mapping[str, tuple[pa.Table, Ints]]) -> None:
    for unwritten in carried.rollups.values():
        unwritten.replace(rest[unwritten.rollup.table][0])
    if carried.raw is not None:
        carried.raw.replace(*rest[EVENTS])
    if carried.rejected is not None:
        carried.rejected.replace(*rest[REJECTED])


def _state(
    ends: Sequence[PartitionEnd],
    candidates: list[_Candidates],
    rest: Mapping[str, tuple[pa.Table, Ints]],
    waited: Mapping[tuple[str, int], int],
) -> dict[int, StateTables]:
    open_rows: dict[int, dict[str, pa.Table]] = {end.partition: {} for end in ends}
    single_rows: dict[str, dict[int, pa.Table]] = {EVENTS: {}, REJECTED: {}}
    waits: dict[int, dict[tuple[str, str], int]] = {end.partition: {} for end in ends}
    for each in candidates:
        rows, partition = rest[each.table]
        parts = _by_partition(rows, partition)
        for number, part in parts.items():
            _note_waits(waits[number], each.table, _longs(part, TIME) // DAY_MS, waited)
            if each.rollup is None:
                single_rows[each.table][number] = part
            else:
                open_rows[number][each.table] = part.drop_columns([PARTITION])
    return {
        end.partition: StateTables(
            open=open_rows[end.partition],
            rows=single_rows[EVENTS].get(end.partition),
            rejected=single_rows[REJECTED].get(end.partition),
            extra=end.extra,
            event_time_max_ms=end.event_time_max_ms,
            waited=waits[end.partition],
        )
        for end in ends
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
