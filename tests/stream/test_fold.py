"""The fold as a whole: what it counts, when it writes, and that no cut, split or restart changes an answer."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.errors import InvalidDatasourceError, InvariantError
from rta.events.keys import identities_of
from rta.events.schemas import MetricSpec, MetricType, Rollup
from rta.stream.fold import Fold
from rta.stream.model import BatchArrived, FoldLimits, PartitionLoaded
from rta.stream.rollups import merge_partials
from tests.stream.shop import (
    BY_PAGE,
    DAY,
    EVENTS,
    HOUR,
    METRICS,
    MINUTE,
    START,
    TOTAL,
    Arrival,
    Event,
    Shell,
    canonical,
    datasource,
    first_occurrences,
    folded_at_once,
    no_raw,
    raw_rows,
    records,
    table_of,
)

SOURCE = datasource()
FINITE = EVENTS.map(lambda e: e if e.price is None or math.isfinite(e.price) else e._replace(price=None))
ARRIVALS = st.lists(
    st.builds(
        Arrival,
        partition=st.integers(0, 3),
        append=st.integers(0, 5 * MINUTE),
        events=st.lists(FINITE, max_size=8).map(tuple),
    ),
    max_size=12,
)
EAGER = FoldLimits(deferred_rows=1, file_rows_min=3, wait_epochs_max=1)
LAZY = FoldLimits(deferred_rows=10, file_rows_min=1000)


def in_log_order(arrivals: list[Arrival]) -> list[BatchArrived]:
    return records(sorted(arrivals, key=lambda a: a.append), SOURCE)


def run(batches: list[BatchArrived], cuts: list[int], limits: FoldLimits, restart: bool = False) -> Shell:
    """Fold in pieces: `cuts[i]` says what happens after batch i: nothing yet, a fold, or a fold and a cut."""
    shell = Shell(SOURCE, limits=limits)
    waiting: list[BatchArrived] = []
    for batch, what in zip(batches, cuts, strict=False):
        waiting.append(batch)
        if what:
            shell.take(*waiting)
            waiting = []
        if what == 2:
            shell.cut()
            if restart:
                shell.restart()
    shell.take(*waiting)
    shell.cut()
    return shell


@settings(max_examples=80)
@given(ARRIVALS, st.lists(st.integers(0, 2), min_size=12, max_size=12), st.booleans(), st.booleans())
def test_any_cut_into_folds_and_epochs_gives_the_rows_of_one_batch(
    arrivals: list[Arrival], cuts: list[int], eager: bool, restart: bool
) -> None:
    batches = in_log_order(arrivals)
    shell = run(batches, cuts, EAGER if eager else LAZY, restart)
    counted = first_occurrences(sorted(arrivals, key=lambda a: a.append))
    for rollup in (BY_PAGE, TOTAL):
        assert shell.rollup(rollup) == folded_at_once(counted, rollup, SOURCE)
        added_up = merge_partials([i.partials[rollup.name] for i in shell.increments], rollup, SOURCE)
        assert canonical(added_up, rollup) == shell.rollup(rollup)
    assert shell.raw() == raw_rows(table_of(counted))
    assert raw_rows(pa.concat_tables([i.rows for i in shell.increments])) == shell.raw()
    assert sum(i.duplicates for i in shell.increments) == sum(len(a.events) for a in arrivals) - len(counted)


@settings(max_examples=40)
@given(ARRIVALS, st.lists(st.integers(0, 2), min_size=12, max_size=12))
def test_a_partition_does_not_depend_on_the_others_of_its_actor(arrivals: list[Arrival], cuts: list[int]) -> None:
    batches = in_log_order(arrivals)
    together = run(batches, cuts, LAZY)
    for partition in range(4):
        alone = Shell(SOURCE, (partition,), LAZY)
        alone.take(*(b for b in batches if b.partition == partition))
        cut = alone.cut()
        theirs = next(p for p in together.cuts[-1].partitions if p.partition == partition)
        mine = cut.partitions[0]
        assert (mine.to_offset, mine.watermark_ms, mine.append_time_ms) == (
            theirs.to_offset,
            theirs.watermark_ms,
            theirs.append_time_ms,
        )
        counted = first_occurrences(a for a in sorted(arrivals, key=lambda a: a.append) if a.partition == partition)
        assert alone.rollup(BY_PAGE) == folded_at_once(counted, BY_PAGE, SOURCE)


@settings(max_examples=40)
@given(ARRIVALS, st.lists(st.integers(0, 2), min_size=12, max_size=12))
def test_the_ledger_balances_in_counts_and_sums(arrivals: list[Arrival], cuts: list[int]) -> None:
    shell = run(in_log_order(arrivals), cuts, LAZY, restart=True)
    for line in shell.ledger:
        assert line.logged == line.folded + line.dropped
        assert line.logged_sum == (line.folded_sum + line.dropped_sum) % 2**64
    counted = first_occurrences(sorted(arrivals, key=lambda a: a.append))
    assert sum(line.folded for line in shell.ledger) == len(counted)
    low = identities_of(table_of(counted), SOURCE)[:, 1]
    assert sum(line.folded_sum for line in shell.ledger) % 2**64 == int(low.sum(dtype=np.uint64))


def test_a_header_that_disagrees_with_its_rows_shows_in_the_ledger() -> None:
    shell = Shell(SOURCE)
    (batch,) = records([Arrival(0, 0, (Event(0, "1"), Event(0, "2")))], SOURCE)
    shell.take(BatchArrived(0, 0, batch.append_time_ms, 3, batch.id_sum + 7, batch.rows))
    (line,) = shell.cut().ledger
    assert (line.logged, line.folded, line.dropped) == (3, 2, 0)
    assert line.logged_sum == (line.folded_sum + 7) % 2**64


def test_ledger_lines_are_by_partition_and_minute_of_append_time() -> None:
    shell = Shell(SOURCE)
    shell.arrive(0, 10, Event(0, "1"))
    shell.arrive(0, MINUTE - 1, Event(0, "1"), Event(0, "2"))
    shell.arrive(0, MINUTE, Event(0, "3"))
    shell.arrive(1, 10, Event(0, "1"))
    lines = shell.cut().ledger
    assert [(x.partition, x.minute_ms - START, x.logged, x.folded, x.dropped) for x in lines] == [
        (0, 0, 3, 2, 1),
        (0, MINUTE, 1, 1, 0),
        (1, 0, 1, 1, 0),
    ]
    assert shell.cut().ledger == ()


#      0          1          2          3 min        event time ->
#      |-- b0 ----|-- b1 ----|-- b2 ----|            lateness 1 min
#      e1         .          .                       watermark -1 min: nothing closes
#      .          .       e2 .                       watermark just under 1 min: b0 open
#      .          .          e3                      watermark 1 min: b0 closes
#      e4 (late)                                     one more row of b0
def test_a_bucket_is_written_when_the_watermark_passes_its_end_and_a_late_event_adds_a_row() -> None:
    shell = Shell(SOURCE)
    table = BY_PAGE.table

    def minutes(cut_writes: object) -> list[int]:
        return [(w.time_min_ms - START) // MINUTE for w in shell.cuts[-1].writes if w.table == table]

    shell.arrive(0, 3 * MINUTE, Event(0, "e1"))
    shell.arrive(0, 3 * MINUTE, Event(2 * MINUTE - 1, "e2"))
    assert minutes(shell.cut()) == []
    shell.arrive(0, 3 * MINUTE, Event(2 * MINUTE, "e3"))
    assert minutes(shell.cut()) == [0]
    shell.arrive(0, 3 * MINUTE, Event(5, "e4"))
    assert minutes(shell.cut()) == [0]
    assert [w.rows["events"].to_pylist() for w in shell.writes if w.table == table] == [[1], [1]]
    counts = {dict(row)["__time"].minute: dict(row)["events"] for row in shell.rollup(BY_PAGE)}
    assert counts == {0: 2, 1: 1, 2: 1}


def test_an_event_in_the_future_does_not_close_buckets_before_their_append_time() -> None:
    shell = Shell(SOURCE)
    shell.arrive(0, 1000, Event(0, "1"), Event(20 * MINUTE, "2"))
    assert shell.cut().partitions[0].watermark_ms == START + 1000 - MINUTE
    shell.arrive(0, 3 * MINUTE, Event(500, "3"))
    assert shell.cut().partitions[0].watermark_ms == START + 2 * MINUTE
    assert [w.rows["events"].to_pylist() for w in shell.writes if w.table == BY_PAGE.table] == [[2]]


def test_the_watermark_goes_on_after_a_restart_as_if_it_had_not_stopped() -> None:
    stopped, going = Shell(SOURCE), Shell(SOURCE)
    for shell in (stopped, going):
        shell.arrive(0, 0, Event(20 * MINUTE, "1"))
        shell.cut()
    stopped.restart()
    for shell in (stopped, going):
        shell.arrive(0, 15 * MINUTE, Event(0, "2"))
        assert shell.cut().partitions[0].watermark_ms == START + 14 * MINUTE


def test_the_watermark_and_append_time_never_go_back() -> None:
    shell = Shell(SOURCE)
    shell.arrive(0, 10 * MINUTE, Event(10 * MINUTE, "1"))
    shell.arrive(0, 5 * MINUTE, Event(0, "2"))
    (cut, *_) = shell.cut().partitions
    assert (cut.watermark_ms, cut.append_time_ms) == (START + 9 * MINUTE, START + 10 * MINUTE)


def test_an_idle_partition_closes_nothing() -> None:
    shell = Shell(SOURCE)
    shell.arrive(0, 0, Event(0, "1"))
    shell.arrive(1, 0, Event(0, "1"))
    shell.cut()
    shell.arrive(1, HOUR, Event(HOUR, "2"))
    writes = [w for w in shell.cut().writes if w.table == BY_PAGE.table]
    assert [w.rows["events"].to_pylist() for w in writes] == [[1]]
    watermarks = {p.partition: p.watermark_ms for p in shell.cuts[-1].partitions}
    assert watermarks == {0: START - MINUTE, 1: START + HOUR - MINUTE, 2: None, 3: None}


def test_closed_rows_of_several_partitions_are_one_row_in_the_file() -> None:
    shell = Shell(SOURCE)
    for partition in range(3):
        shell.arrive(partition, HOUR, Event(0, "1", price=float(partition)), Event(HOUR, "2"))
    (write,) = [w for w in shell.cut().writes if w.table == BY_PAGE.table]
    assert write.rows["events"].to_pylist() == [3]
    assert write.rows["price__items"].to_pylist() == [[0.0, 1.0, 2.0]]
    assert write.rows.schema.equals(SOURCE.rollup_schema(BY_PAGE))


def test_an_epoch_with_nothing_keeps_its_offsets_and_state() -> None:
    shell = Shell(SOURCE)
    shell.arrive(2, 0, Event(0, "1"))
    first, second = shell.cut(), shell.cut()
    assert [(p.from_offset, p.to_offset) for p in second.partitions] == [(0, 0), (0, 0), (1, 1), (0, 0)]
    assert second.writes == ()
    assert second.run_writes == ()
    assert second.state == first.state
    assert shell.take().partials["total"].height == 0


def test_offsets_may_have_gaps_but_never_go_back() -> None:
    fold = Shell(SOURCE).fold
    rows = table_of([Event(0, "1")])
    fold.fold([BatchArrived(1, 10, START, 1, 0, rows)])
    assert fold.offsets == {0: 0, 1: 11, 2: 0, 3: 0}
    with pytest.raises(InvariantError, match="offset 10 after everything below 11"):
        fold.fold([BatchArrived(1, 10, START, 1, 0, rows)])
    with pytest.raises(InvariantError, match="partition 9 is not one of"):
        fold.fold([BatchArrived(9, 0, START, 1, 0, rows)])


def test_events_and_bytes_count_up_to_the_cut() -> None:
    shell = Shell(SOURCE)
    shell.arrive(0, 0, Event(0, "1"), Event(0, "1"), Event(0, "2"))
    assert shell.fold.events_in_epoch == 3
    assert 0 < shell.fold.bytes_in_epoch < 10_000
    shell.cut()
    assert (shell.fold.events_in_epoch, shell.fold.bytes_in_epoch) == (0, 0)


def test_a_datasource_without_raw_retention_writes_and_buffers_no_raw_rows() -> None:
    shell = Shell(datasource(retention=no_raw()))
    increment = shell.arrive(0, HOUR, *(Event(-k * DAY, str(k)) for k in range(5)), Event(HOUR, "now"))
    cut = shell.cut()
    assert increment.rows.num_rows == 0
    assert {w.table for w in cut.writes} <= {BY_PAGE.table, TOTAL.table}
    assert cut.partitions[0].buffered == 0
    assert shell.raw() == []
    assert sum(dict(row)["events"] for row in shell.rollup(BY_PAGE)) == 6


def test_a_datasource_without_rollups_writes_raw_rows() -> None:
    shell = Shell(datasource(rollups=()))
    shell.arrive(0, 0, Event(0, "1"))
    assert [(w.table, w.date, w.rows.num_rows) for w in shell.cut().writes] == [("events", "2026-01-01", 1)]


def test_rows_of_an_older_definition_are_fitted_to_the_present_one() -> None:
    shell = Shell(SOURCE)
    old = table_of([Event(0, "1")]).drop_columns(["price"])
    shell.take(BatchArrived(0, 0, START, 1, 0, old))
    (write,) = shell.cut().writes
    assert write.rows.schema.equals(SOURCE.raw_schema())
    assert write.rows["price"].to_pylist() == [None]


def test_a_definition_with_an_impossible_metric_is_refused_at_the_start() -> None:
    rollup = Rollup("r", BY_PAGE.granularity, (), (METRICS[0], MetricSpec("m", MetricType.SUM, "nothing")))
    with pytest.raises(InvalidDatasourceError, match="column 'nothing', which is unknown"):
        Fold(datasource((rollup,)), [PartitionLoaded(0, 0, 0, None, None, ())], FoldLimits())


def test_too_many_open_rows_are_written_early_and_still_add_up() -> None:
    shell = Shell(SOURCE, limits=FoldLimits(open_rows=5))
    events = [Event(i, str(i), page=f"p{i}") for i in range(20)]
    shell.arrive(0, 0, *events[:10])
    assert [w.rows.num_rows for w in shell.cut().writes if w.table == BY_PAGE.table] == [10]
    shell.arrive(0, 0, *events[5:])
    shell.cut()
    assert shell.rollup(BY_PAGE) == folded_at_once(events, BY_PAGE, SOURCE)


def test_many_merges_on_the_way_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rta.stream.unwritten.MERGE_ROWS", 3)
    shell = Shell(SOURCE, limits=FoldLimits(deferred_rows=2))
    events = [Event(i * 7000, str(i), page=f"p{i % 3}", user=f"u{i}") for i in range(40)]
    for i, event in enumerate(events):
        shell.arrive(i % 4, i * 7000, event)
    shell.cut()
    assert shell.rollup(BY_PAGE) == folded_at_once(events, BY_PAGE, SOURCE)


def test_rows_with_an_identity_of_their_own_are_told_apart_by_it() -> None:
    source = datasource(id=None)
    rows = table_of([Event(0, "x"), Event(0, "x"), Event(0, "x")], datasource())
    rng = np.random.default_rng(3)
    bits = rng.integers(-(2**63), 2**63 - 1, (2, 2))
    rows = rows.append_column("__id_hi", pa.array(bits[[0, 1, 0], 0])).append_column(
        "__id_lo", pa.array(bits[[0, 1, 0], 1])
    )
    shell = Shell(source)
    assert shell.take(BatchArrived(0, 0, START, 3, 0, rows)).duplicates == 1
    assert shell.take(BatchArrived(0, 1, START, 3, 0, rows)).duplicates == 3


def test_a_partition_is_idle_when_its_log_was_read_to_the_end_and_held_nothing_for_long_enough() -> None:
    shell = Shell(SOURCE)
    shell.arrive(0, 0, Event(0, "1"))
    shell.arrive(1, MINUTE, Event(0, "2"))
    after = START + SOURCE.idle_after_ms
    assert shell.fold.idle({}) == frozenset()
    assert shell.fold.idle(dict.fromkeys(range(4), after - 1)) == {2, 3}
    assert shell.fold.idle(dict.fromkeys(range(4), after)) == {0, 2, 3}
    assert shell.fold.idle({0: START, 1: after + MINUTE}) == {1}, "partition 0 lags, 2 and 3 were not looked at"
    shell.cut()
    shell.restart()
    assert shell.fold.idle(dict.fromkeys(range(4), after)) == {0, 2, 3}
    shell.arrive(0, 2 * MINUTE, Event(0, "1"))
    assert shell.fold.idle(dict.fromkeys(range(4), after)) == {2, 3}, "a duplicate is input too"
