"""Duplicates: known for the whole window and no longer, in memory or on disk alike."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.errors import InvariantError
from rta.store.model import RunRef
from rta.stream import dedup
from rta.stream.dedup import CLOSED_RUNS_MAX, RUNS_PER_STEP_MAX, STEPS, Duplicates, PartitionIds, step_ms_of
from rta.stream.identity_table import filter_add, filter_maybe, sorted_identities
from rta.stream.model import FoldLimits, Identities, IdRun
from tests.stream.shop import DAY, Event, Shell, datasource

SOURCE = datasource()
STEP = DAY // STEPS
RNG = np.random.default_rng(11)
HASHES = RNG.integers(0, 2**64, (5000, 2), dtype=np.uint64)


def identities(*numbers: int) -> Identities:
    return HASHES[list(numbers)]


def steps(step: int, count: int) -> np.ndarray:
    return np.full(count, step, np.int64)


def runs_of(ids: PartitionIds) -> tuple[list[IdRun], tuple[object, ...]]:
    writes, kept = ids.cut()
    return [IdRun(w.step, w.identities, object()) for w in writes], kept


def test_the_first_occurrence_in_a_batch_counts() -> None:
    ids = PartitionIds(0, 0)
    assert ids.admit(identities(1, 2, 1, 3, 2), steps(0, 5)).tolist() == [True, True, False, True, False]


def test_equal_halves_are_different_identities() -> None:
    a, b = np.uint64(2**63 + 5), np.uint64(2**62 + 9)
    ids = np.array([[a, b], [b, a], [a, a], [b, b], [a, b]], np.uint64)
    assert PartitionIds(0, 0).admit(ids, steps(0, 5)).tolist() == [True, True, True, True, False]


#   step   100 ........................ 148   149
#          counted                      known forgotten
@pytest.mark.parametrize(("later", "known"), [(0, True), (1, True), (STEPS, True), (STEPS + 1, False)])
def test_an_identity_is_forgotten_exactly_when_its_step_leaves_the_window(later: int, known: bool) -> None:
    ids = PartitionIds(0, 100)
    ids.admit(identities(1), steps(100, 1))
    assert ids.admit(identities(1), steps(100 + later, 1)).tolist() == [not known]


def test_a_dropped_duplicate_does_not_renew() -> None:
    ids = PartitionIds(0, 100)
    ids.admit(identities(1), steps(100, 1))
    assert not ids.admit(identities(1), steps(100 + STEPS, 1)).any()
    assert ids.admit(identities(1), steps(101 + STEPS, 1)).all()


def test_the_window_boundary_lies_in_append_time() -> None:
    shell = Shell(SOURCE)
    shell.arrive(0, STEP - 1, Event(0, "last ms of a step"))
    shell.arrive(0, STEP, Event(0, "first ms of the next"))
    assert shell.arrive(0, STEP - 1 + DAY, Event(0, "last ms of a step")).duplicates == 1
    assert shell.arrive(0, STEP + DAY, Event(0, "first ms of the next")).duplicates == 1
    assert shell.arrive(0, STEP + DAY, Event(0, "last ms of a step")).duplicates == 0
    assert shell.arrive(0, 2 * STEP + DAY - 1, Event(0, "first ms of the next")).duplicates == 1
    assert shell.arrive(0, 2 * STEP + DAY, Event(0, "first ms of the next")).duplicates == 0


@pytest.mark.parametrize("window_ms", [1, 47, 48, 49, 1000, DAY])
def test_whatever_the_window_an_identity_is_known_for_all_of_it(window_ms: int) -> None:
    step_ms = step_ms_of(window_ms)
    for counted in range(0, 3 * step_ms, max(1, step_ms // 5)):
        assert (counted + window_ms) // step_ms - counted // step_ms <= STEPS
    assert step_ms <= window_ms / STEPS + 1


def test_the_same_id_under_another_key_or_partition_is_another_event() -> None:
    shell = Shell(SOURCE)
    assert shell.arrive(0, 0, Event(0, "1", user="a"), Event(0, "1", user="b")).duplicates == 0
    assert shell.arrive(1, 0, Event(0, "1", user="a")).duplicates == 0


def test_runs_are_sorted_cut_per_step_and_named_until_they_leave_the_window() -> None:
    shell = Shell(SOURCE)
    shell.arrive(0, 0, *(Event(0, str(i)) for i in range(50)))
    shell.arrive(0, STEP, *(Event(0, str(i)) for i in range(40, 60)))
    cut = shell.cut()
    assert [(w.partition, len(w.identities)) for w in cut.run_writes] == [(0, 50), (0, 10)]
    assert cut.run_writes[1].step == cut.run_writes[0].step + 1
    for write in cut.run_writes:
        assert write.identities.tolist() == sorted(write.identities.tolist())
    shell.arrive(0, STEP * STEPS, Event(0, "later"))
    assert shell.cut().partitions[0].kept_runs == ((1, 0), (1, 1))
    shell.arrive(0, STEP * (STEPS + 1), Event(0, "later still"))
    assert shell.cut().partitions[0].kept_runs == ((1, 1), (2, 0))


def test_more_than_eight_runs_of_a_step_become_fewer_without_losing_an_identity() -> None:
    ids = PartitionIds(0, 5)
    named: dict[object, IdRun] = {}
    for epoch in range(60):
        ids.admit(HASHES[epoch * 10 : epoch * 10 + 10], steps(5, 10))
        runs, kept = runs_of(ids)
        named = {key: named[key] for key in kept} | {run.key: run for run in runs}
        ids.written(runs)
        assert len(named) <= RUNS_PER_STEP_MAX
        held = np.concatenate([run.identities for run in named.values()])
        assert sorted(held.tolist()) == sorted(HASHES[: epoch * 10 + 10].tolist())


def a_day(ids_max: int, seed: int) -> tuple[Duplicates, dict[int, list[IdRun]], int, dict[int, Identities]]:
    """More than a window of epochs of 30 s, of all sizes, small after large. Two partitions; one starts again halfway."""
    rng = np.random.default_rng(seed)
    dups = Duplicates(DAY, 20_000)
    dups.load({0: [], 1: []}, {0: 0, 1: 0})
    named: dict[int, list[IdRun]] = {0: [], 1: []}
    admitted: dict[int, list[Identities]] = {0: [], 1: []}
    most = 0
    for epoch in range(2 * 60 * 26):
        step = dups.step_of(epoch * 30_000)
        for partition, ids in dups.partitions.items():
            count = 1 + int(ids_max * ((59 - epoch % 60) / 59) ** 3)
            fresh = rng.integers(0, 2**64, (count, 2), dtype=np.uint64)
            assert ids.admit(fresh, steps(step, count)).all()
            if step > 2 * 26 - STEPS:
                admitted[partition].append(fresh)
        writes, kept = dups.cut()
        runs = [IdRun(w.step, w.identities, object()) for w in writes]
        known = {r.key: r for each in named.values() for r in each}
        named = {p: [known[key] for key in kept[p]] for p in kept}
        for write, run in zip(writes, runs, strict=True):
            named[write.partition].append(run)
        dups.written(runs)
        most = max(most, *map(len, named.values()))
        if epoch == 60 * 26:
            dups = Duplicates(DAY, 20_000)
            dups.load({p: named[p] for p in named}, dict.fromkeys(named, epoch * 30_000))
    return dups, named, most, {p: np.concatenate(each) for p, each in admitted.items()}


def test_a_day_of_epochs_leaves_a_manifest_small_and_every_identity_known() -> None:
    dups, named, most, admitted = a_day(40, seed=3)
    assert most <= CLOSED_RUNS_MAX * (STEPS + 1) + RUNS_PER_STEP_MAX
    refs = tuple(RunRef("runs/aggregator-10-100-1000000.ids", r.step, 10**9, 10**6) for r in named[0])
    assert 8 * len(msgspec.json.encode(refs)) < 100_000, "bytes of the runs of 8 partitions in a manifest"
    for partition, ids in dups.partitions.items():
        held = np.concatenate([np.asarray(r.identities) for r in named[partition]])
        assert len(np.unique(held, axis=0)) == len(held), "in one run each"
        again = admitted[partition]
        assert not ids.admit(again, steps(ids.now_step, len(again))).any()


def test_steps_that_are_over_are_closed_a_bounded_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "CLOSING_IDS_MIN", 1)
    dups = Duplicates(DAY, 1000)
    dups.load({p: [] for p in range(4)}, dict.fromkeys(range(4), 0))
    rewritten = []
    for epoch, step in enumerate([0] * 5 + [1] * 8):
        if not step:
            for partition, ids in dups.partitions.items():
                first = 100 * (5 * partition + epoch)
                ids.admit(HASHES[first : first + 100 - 19 * epoch], steps(step, 100 - 19 * epoch))
        else:
            for ids in dups.partitions.values():
                ids.admit(identities(4000 + epoch), steps(step, 1))
        writes, _ = dups.cut()
        rewritten.append(sum(len(w.identities) for w in writes if w.step < step))
        dups.written([IdRun(w.step, w.identities, object()) for w in writes])
    assert sum(1 for count in rewritten if count) == 4, "one partition in each cut"
    assert max(rewritten) <= 310


#   memory:  .  . B .      a run that only disk knows (A) is merged with one that memory knows (B);
#   disk:    A  A AB AB    when B leaves memory as well, the merged run must still be found
def test_a_merge_of_a_run_on_disk_and_one_in_memory_is_known_once_both_have_left_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rta.stream.dedup.RUNS_PER_STEP_MAX", 1)
    ids = PartitionIds(0, 5)
    for numbers in (range(10), range(10, 20)):
        ids.admit(identities(*numbers), steps(5, 10))
        runs, kept = runs_of(ids)
        assert kept == ()
        ids.written(runs)
        if numbers.start == 0:
            ids.evict(5)
    assert ids.memory_ids == 10
    ids.evict(5)
    assert ids.memory_ids == 0
    assert not ids.admit(identities(*range(20)), steps(5, 20)).any()


def test_merging_rewrites_an_identity_a_few_times_only() -> None:
    ids = PartitionIds(0, 5)
    written = 0
    for epoch in range(400):
        ids.admit(HASHES[epoch * 10 : epoch * 10 + 10], steps(5, 10))
        runs, _ = runs_of(ids)
        written += sum(len(run.identities) for run in runs)
        ids.written(runs)
    assert written / 4000 < 6


def test_a_second_cut_without_the_runs_of_the_first_is_refused() -> None:
    ids = PartitionIds(0, 5)
    ids.admit(identities(1), steps(5, 1))
    ids.cut()
    with pytest.raises(InvariantError, match="before the 1 id runs of its last cut"):
        ids.cut()


def test_runs_that_were_not_ordered_are_refused() -> None:
    shell = Shell(SOURCE)
    shell.arrive(0, 0, Event(0, "1"))
    (write,) = shell.fold.end_epoch().cut().run_writes
    with pytest.raises(InvariantError, match="0 id runs were handed back for the 1"):
        shell.fold.runs_written([])
    with pytest.raises(InvariantError, match="instead of step"):
        shell.fold.runs_written([IdRun(write.step + 1, write.identities, "key")])


SCRIPT = st.lists(
    st.tuples(
        st.lists(st.integers(0, 60), max_size=12),
        st.sampled_from([0, 0, 0, 0, 1, 3, 20, STEPS]),
        st.sampled_from(["", "", "cut", "restart"]),
    ),
    max_size=16,
)


def decisions(script: list[tuple[list[int], int, str]], memory_ids: int) -> list[bool]:
    """Which occurrences count, over two partitions, with cuts and restarts on the way."""
    duplicates = Duplicates(STEPS, memory_ids)
    duplicates.load({}, {0: 1000, 1: 1000})
    named: dict[int, dict[object, IdRun]] = {0: {}, 1: {}}
    out: list[bool] = []
    now = 1000
    for numbers, later, then in script:
        now += later
        for partition in (0, 1):
            mine = [n for n in numbers if n % 2 == partition]
            out += duplicates.partitions[partition].admit(identities(*mine), steps(now, len(mine))).tolist()
        duplicates.enforce()
        if then:
            runs = []
            for partition in (0, 1):
                new, kept = runs_of(duplicates.partitions[partition])
                named[partition] = {k: named[partition][k] for k in kept} | {r.key: r for r in new}
                runs += new
            duplicates.written(runs)
        if then == "restart":
            duplicates = Duplicates(STEPS, memory_ids)
            duplicates.load({p: tuple(r.values()) for p, r in named.items()}, {0: now, 1: now})
    return out


@settings(max_examples=200)
@given(SCRIPT, st.integers(0, 30))
def test_the_bound_on_memory_and_restarts_change_no_decision(
    script: list[tuple[list[int], int, str]], memory_ids: int
) -> None:
    expected = []
    counted: dict[int, int] = {}
    now = 1000
    for numbers, later, _ in script:
        now += later
        for number in [n for n in numbers if n % 2 == 0] + [n for n in numbers if n % 2]:
            new = number not in counted or counted[number] < now - STEPS
            if new:
                counted[number] = now
            expected.append(new)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rta.stream.dedup.RUNS_PER_STEP_MAX", 2)
        assert decisions(script, 10**6) == expected
        assert decisions(script, memory_ids) == expected


def test_memory_stays_under_its_bound_once_runs_are_written() -> None:
    shell = Shell(SOURCE, limits=FoldLimits(dedup_memory_ids=500))
    for epoch in range(12):
        shell.arrive(0, epoch * STEP // 3, *(Event(0, f"{epoch}-{i}") for i in range(200)))
        shell.cut()
        assert sum(p.memory_ids for p in shell.fold._duplicates.partitions.values()) <= 500
    repeated = shell.arrive(0, 12 * STEP // 3, *(Event(0, f"{epoch}-{i}") for epoch in range(12) for i in range(200)))
    assert repeated.duplicates == 2400
    assert repeated.rows.num_rows == 0


def test_runs_may_be_mapped_files(tmp_path: Path) -> None:
    duplicates = Duplicates(DAY, 0)
    duplicates.load({}, {0: 0})
    duplicates.partitions[0].admit(HASHES[:1000], steps(0, 1000))
    (write,), _ = duplicates.partitions[0].cut()
    path = tmp_path / "runs"
    path.write_bytes(write.identities.tobytes())
    duplicates.written([IdRun(write.step, np.memmap(path, np.uint64, "r", shape=(1000, 2)), "key")])
    assert duplicates.partitions[0].memory_ids == 0
    assert duplicates.partitions[0].admit(HASHES[500:1500], steps(0, 1000)).tolist() == [False] * 500 + [True] * 500


def test_the_table_forgets_what_has_expired_when_it_grows() -> None:
    ids = PartitionIds(0, 0)
    for step in range(0, 400, 4):
        start = step * 10
        ids.admit(HASHES[start : start + 40], steps(step, 40))
    assert len(ids._table._steps) < 4 * 1024
    assert not ids.admit(HASHES[3960:4000], steps(399, 40)).any()


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4999), max_size=300))
def test_the_filter_never_misses_what_was_added(numbers: list[int]) -> None:
    words = np.zeros(64, np.uint64)
    filter_add(words, identities(*numbers))
    assert filter_maybe(words, identities(*numbers)).all()


def test_the_filter_passes_about_one_percent_of_strangers() -> None:
    words = np.zeros(2500 // 4, np.uint64)
    filter_add(words, HASHES[:2500])
    assert filter_maybe(words, HASHES[2500:]).mean() < 0.03


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1)), max_size=30))
def test_identities_sort_by_both_halves(pairs: list[tuple[int, int]]) -> None:
    ids = np.array(pairs, np.uint64).reshape(-1, 2)
    assert sorted_identities(ids).tolist() == sorted(list(p) for p in pairs)


def test_no_identities_are_no_work() -> None:
    assert PartitionIds(0, 7).admit(HASHES[:0], steps(0, 0)).tolist() == []
