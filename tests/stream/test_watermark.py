"""The watermark of a datasource out of those of its partitions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rta.stream.watermark import combine

MARKS = st.dictionaries(st.integers(0, 3), st.none() | st.integers(0, 100), max_size=4)
IDLE = st.frozensets(st.integers(0, 3))


def test_the_slowest_partition_that_is_not_idle_decides() -> None:
    marks: dict[int, int | None] = {0: 50, 1: 20, 2: 70}
    assert combine(marks, (), 3, None) == 20
    assert combine(marks, {1}, 3, None) == 50
    assert combine(marks, {0, 1}, 3, None) == 70


def test_a_partition_that_never_had_an_event_holds_nobody_up_once_it_is_idle() -> None:
    assert combine({0: 50, 1: None}, {1}, 2, None) == 50
    assert combine({0: 50, 1: None}, (), 2, None) is None


def test_a_partition_that_nobody_speaks_for_leaves_the_watermark_where_it_was() -> None:
    assert combine({0: 50}, (), 2, None) is None
    assert combine({0: 50}, (), 2, 40) == 40


def test_all_idle_is_as_far_as_anybody_came() -> None:
    assert combine({0: 50, 1: 20}, {0, 1}, 2, None) == 50
    assert combine({0: None, 1: None}, {0, 1}, 2, None) is None


def test_a_partition_that_wakes_up_with_old_events_does_not_take_it_back() -> None:
    assert combine({0: 50, 1: 20}, (), 2, 50) == 50


@given(st.lists(st.tuples(MARKS, IDLE), max_size=6))
def test_it_never_goes_back(steps: list[tuple[dict[int, int | None], frozenset[int]]]) -> None:
    now: int | None = None
    for marks, idle in steps:
        after = combine(marks, idle, 4, now)
        assert now is None or (after is not None and after >= now)
        now = after
