"""Late events of many dates wait for company; none of it changes what a reader sees."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rta.events.keys import identities_of
from rta.stream.filing import DateRows, choose_dates
from rta.stream.model import FoldLimits
from tests.stream.shop import BY_PAGE, DAY, HOUR, Event, Shell, datasource, folded_at_once, raw_rows, table_of

SOURCE = datasource()
LIMITS = FoldLimits(file_rows_min=10, wait_epochs_max=3)


def raw_files(shell: Shell) -> list[tuple[str, int]]:
    return [(w.date, w.rows.num_rows) for w in shell.cuts[-1].writes if w.table == "events"]


def test_few_rows_of_an_old_date_wait_and_are_queryable_meanwhile() -> None:
    shell = Shell(SOURCE, limits=LIMITS)
    events = [Event(0, "now"), *(Event(-DAY * k, f"{k}") for k in range(1, 6))]
    shell.arrive(1, HOUR, *events)
    (_, cut, *_) = shell.cut().partitions
    assert raw_files(shell) == [("2026-01-01", 1)]
    assert cut.buffered == 5
    low = identities_of(table_of(events[1:]), SOURCE)[:, 1]
    assert cut.buffered_sum == int(low.sum(dtype=np.uint64))
    assert shell.raw() == raw_rows(table_of(events))
    assert shell.rollup(BY_PAGE) == folded_at_once(events, BY_PAGE, SOURCE)


def test_an_old_date_with_company_is_written_at_once() -> None:
    shell = Shell(SOURCE, limits=LIMITS)
    shell.arrive(0, HOUR, Event(0, "now"), *(Event(-DAY + k, f"a{k}") for k in range(6)))
    shell.cut()
    assert raw_files(shell) == [("2026-01-01", 1)]
    shell.restart()
    shell.arrive(1, HOUR, Event(0, "now"), *(Event(-DAY + k, f"b{k}") for k in range(4)))
    shell.cut()
    assert raw_files(shell) == [("2025-12-31", 10), ("2026-01-01", 1)]
    assert [p.buffered for p in shell.cuts[-1].partitions] == [0, 0, 0, 0]


def test_rows_wait_no_longer_than_their_epochs_also_over_restarts() -> None:
    shell = Shell(SOURCE, limits=LIMITS)
    shell.arrive(0, HOUR, Event(0, "now"), Event(-DAY, "old"))
    seen = []
    for _ in range(5):
        shell.cut()
        seen.append(raw_files(shell))
        shell.restart()
    assert seen == [[("2026-01-01", 1)], [], [], [("2025-12-31", 1)], []]


def test_revisions_of_many_dates_make_no_file_each_per_epoch() -> None:
    shell = Shell(SOURCE, limits=FoldLimits())
    files = 0
    for epoch in range(20):
        late = [Event(-DAY * k, f"{epoch}-{k}") for k in range(1, 31)]
        shell.arrive(0, epoch * 1000, Event(epoch * 1000, f"{epoch}"), *late)
        files += len(shell.cut().writes)
    assert files == 20
    assert sum(dict(row)["events"] for row in shell.rollup(BY_PAGE)) == 20 * 31


def test_a_full_buffer_lets_its_largest_dates_go() -> None:
    shell = Shell(SOURCE, limits=FoldLimits(waiting_rows=12))
    old = [Event(-DAY, f"a{i}", page="a") for i in range(9)] + [Event(-2 * DAY, f"b{i}", page="b") for i in range(5)]
    shell.arrive(0, HOUR, Event(0, "now"), *old)
    shell.cut()
    assert raw_files(shell) == [("2025-12-31", 9), ("2026-01-01", 1)]
    assert shell.raw() == raw_rows(table_of([Event(0, "now"), *old]))


def test_a_history_read_in_order_is_written_as_it_comes() -> None:
    shell = Shell(SOURCE, limits=LIMITS)
    for day in range(3):
        shell.arrive(0, 40 * DAY, Event(day * DAY, f"{day}"))
        shell.cut()
        assert raw_files(shell) == [(f"2026-01-0{day + 1}", 1)]


HELD = st.dictionaries(
    st.tuples(st.sampled_from(["events", "rollup"]), st.integers(0, 40)),
    st.builds(DateRows, st.integers(1, 30), st.integers(1, 3000)),
    max_size=40,
)


@given(HELD, st.sets(st.integers(0, 40), max_size=3), st.dictionaries(st.integers(0, 40), st.integers(0, 5)))
def test_what_waits_is_bounded_and_nothing_large_or_current_waits(
    held: dict[tuple[str, int], DateRows], current: set[int], epochs: dict[int, int]
) -> None:
    limits = FoldLimits(file_rows_min=20, wait_epochs_max=3, waiting_files_max=2, waiting_rows=100, waiting_bytes=9000)
    waited = {key: epochs.get(key[1], 0) for key in held}
    chosen = choose_dates(held, current, waited, limits)
    rest = {key: it for key, it in held.items() if key not in chosen}
    assert chosen <= held.keys()
    assert sum(it.rows for it in rest.values()) <= 100
    assert sum(it.bytes for it in rest.values()) <= 9000
    assert all(it.rows < 20 and key[1] not in current for key, it in rest.items())
    overdue = [k for k in chosen if waited[k] >= 3 and held[k].rows < 20 and k[1] not in current]
    assert len(overdue) >= min(
        2, sum(waited[k] >= 3 and it.rows < 20 and k[1] not in current for k, it in held.items())
    )
