"""Rejected events in the fold: each comes out once, stops nothing, changes no other table, and the ledger knows it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.events.schemas import REJECTED, REJECTED_SCHEMA, Retention
from rta.stream.model import BatchArrived, FoldLimits
from rta.stream.saved import decode_state, state_rows
from tests.stream.rejections import record, rejected_rows
from tests.stream.shop import BY_PAGE, DAY, HOUR, MINUTE, START, TOTAL, Event, Shell, datasource, raw_rows

SOURCE = datasource()
EAGER = FoldLimits(file_rows_min=1)
LAZY = FoldLimits(file_rows_min=1000)


def held(shell: Shell) -> list[tuple[Any, ...]]:
    """What a reader sees of the rejected rows at the last cut: files and saved state."""
    waiting = state_rows(shell.cuts[-1].state, None, shell.source).rejected
    return raw_rows(pa.concat_tables([waiting, *(w.rows for w in shell.writes if w.table == REJECTED)]))


@st.composite
def logs(draw: st.DrawFn) -> list[BatchArrived]:
    """Some records of four partitions in the order of the log, each with good and bad events."""
    out = []
    append = 0
    for offset in range(draw(st.integers(1, 10))):
        append += draw(st.sampled_from([0, 1000, HOUR, DAY]))
        partition = draw(st.integers(0, 3))
        good = [Event(append, f"{offset}.{i}") for i in range(draw(st.integers(0, 3)))]
        out.append(record(SOURCE, (partition, offset), append, good, draw(st.integers(0, 3))))
    return out


@settings(max_examples=80, deadline=None)
@given(logs(), st.lists(st.integers(0, 2), min_size=10, max_size=10), st.booleans(), st.booleans())
def test_rejected_rows_come_out_once_however_the_log_is_cut(
    log: list[BatchArrived], cuts: list[int], eager: bool, restart: bool
) -> None:
    shell = Shell(SOURCE, limits=EAGER if eager else LAZY)
    waiting: list[BatchArrived] = []
    for batch, what in zip(log, cuts, strict=False):
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
    expected = raw_rows(pa.concat_tables([REJECTED_SCHEMA.empty_table(), *(b.rejected for b in log if b.rejected)]))
    assert held(shell) == expected
    assert raw_rows(pa.concat_tables([i.rejected for i in shell.increments])) == expected
    for line in shell.ledger:
        assert line.logged == line.folded + line.dropped + line.rejected
        assert line.logged_sum == (line.folded_sum + line.dropped_sum + line.rejected_sum) % 2**64
    assert sum(line.rejected for line in shell.ledger) == len(expected)


@settings(max_examples=30, deadline=None)
@given(logs())
def test_the_other_tables_are_what_they_were_without_the_rejected_rows(log: list[BatchArrived]) -> None:
    with_them, without = Shell(SOURCE, limits=EAGER), Shell(SOURCE, limits=EAGER)
    for batch in log:
        with_them.take(batch)
        without.take(BatchArrived(batch.partition, batch.offset, batch.append_time_ms, 0, 0, batch.rows))
        first, second = with_them.cut(), without.cut()
        assert first.partitions == second.partitions
        assert [w for w in first.writes if w.table != REJECTED] == list(second.writes)
    assert with_them.raw() == without.raw()
    for rollup in (BY_PAGE, TOTAL):
        assert with_them.rollup(rollup) == without.rollup(rollup)


def test_a_record_of_rejected_events_only_moves_the_partition_on() -> None:
    shell = Shell(SOURCE, limits=EAGER)
    increment = shell.take(record(SOURCE, (2, 7), 0, [], bad=2))
    assert shell.fold.offsets[2] == 8
    assert (increment.to_offsets, increment.rows.num_rows, increment.duplicates) == ({2: 8}, 0, 0)
    assert increment.rejected["offset"].to_pylist() == [7, 7]
    assert shell.fold.watermarks_ms[2] is None
    (write,) = shell.cut().writes
    assert (write.table, write.date, write.time_min_ms, write.time_max_ms) == (REJECTED, "2026-01-01", START, START)
    assert write.rows.schema.equals(REJECTED_SCHEMA)


def test_a_file_has_the_rows_of_one_date_in_the_order_of_their_offsets() -> None:
    shell = Shell(SOURCE, limits=EAGER)
    for place, append in (((3, 0), 5), ((1, 4), 6), ((1, 9), 7), ((3, 1), DAY)):
        shell.take(record(SOURCE, place, append, [], bad=1))
    first, second = shell.cut().writes
    assert (first.date, second.date) == ("2026-01-01", "2026-01-02")
    assert list(zip(first.rows["partition"].to_pylist(), first.rows["offset"].to_pylist(), strict=True)) == [
        (1, 4),
        (1, 9),
        (3, 0),
    ]
    assert second.rows["offset"].to_pylist() == [1]


def test_a_few_rows_wait_in_their_partitions_state_until_their_time_has_come() -> None:
    shell = Shell(SOURCE, limits=FoldLimits(wait_epochs_max=2))
    shell.take(record(SOURCE, (1, 0), 0, [], bad=1), record(SOURCE, (2, 0), 0, [], bad=2))
    saved = decode_state(shell.cut().state)
    assert [saved[p].rejected.num_rows for p in range(4)] == [0, 1, 2, 0]
    assert saved[2].waited == {(REJECTED, "2026-01-01"): 1}
    assert saved[2].extra == {}
    only = state_rows(shell.cuts[-1].state, [2], SOURCE)
    assert (only.rejected.num_rows, only.rows.num_rows) == (2, 0)
    shell.restart()
    assert shell.cut().writes == ()
    shell.restart()
    (write,) = shell.cut().writes
    assert (write.table, write.rows.num_rows) == (REJECTED, 3)
    assert shell.cut().writes == ()
    assert len(held(shell)) == 3


def test_rows_of_many_dates_make_few_files_in_one_epoch() -> None:
    shell = Shell(SOURCE, limits=FoldLimits(wait_epochs_max=1, waiting_files_max=3))
    for offset in range(50):
        shell.take(record(SOURCE, (0, offset), offset * DAY, [], bad=1))
    assert [len(shell.cut().writes) for _ in range(3)] == [0, 3, 3]
    assert len(held(shell)) == 50


def test_texts_that_take_much_memory_do_not_wait() -> None:
    shell = Shell(SOURCE, limits=FoldLimits(waiting_bytes=100_000))
    shell.take(record(SOURCE, (0, 0), 0, [], bad=3, text="x" * 65_536))
    assert [w.rows.num_rows for w in shell.cut().writes] == [3]


def test_rejected_rows_fill_the_epoch_in_number_and_bytes() -> None:
    shell = Shell(SOURCE)
    everything = rejected_rows([(0, k) for k in range(1000)], START, "x" * 1000)
    shell.take(BatchArrived(0, 0, START, 2, 0, SOURCE.raw_schema().empty_table(), everything.slice(10, 2), 0))
    assert shell.fold.events_in_epoch == 2
    assert 2000 < shell.fold.rejected_bytes_in_epoch < 3000
    kept = shell.increments[0].rejected
    assert kept.get_total_buffer_size() < 4000, "a slice does not hold on to all that it was cut from"
    shell.cut()
    assert (shell.fold.events_in_epoch, shell.fold.rejected_bytes_in_epoch) == (0, 0)


def test_a_datasource_that_keeps_no_rejected_events_counts_them_only() -> None:
    shell = Shell(datasource(retention=Retention(rejected_ms=None)), limits=EAGER)
    increment = shell.take(record(shell.source, (0, 0), 0, [Event(0, "1")], bad=2))
    (line,) = shell.cut().ledger
    assert (line.logged, line.folded, line.rejected) == (3, 1, 2)
    assert increment.rejected.num_rows == 0
    assert shell.fold.rejected_bytes_in_epoch == 0
    assert held(shell) == []


def test_rows_that_waited_are_let_go_of_when_they_are_no_longer_to_be_kept() -> None:
    shell = Shell(SOURCE)
    shell.take(record(SOURCE, (0, 0), MINUTE, [], bad=2))
    shell.cut()
    shell.restart(datasource(retention=Retention(rejected_ms=None), version=2))
    assert shell.cut().writes == ()
    assert held(shell) == []
