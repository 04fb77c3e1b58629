"""Rule 8: whatever the answer of a put was, the chain says what is true."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rta.errors import UnavailableError
from rta.store.catalog import Assignments, Catalog
from rta.store.chain import Chain, Verdict
from rta.store.manifests import ManifestLog
from rta.store.model import Assignment
from rta.store.objects import LocalStore
from tests.store.memory import Fault, FaultyStore, MemoryStore, Operation
from tests.store.world import World


def failing(*faults: Fault | None) -> FaultyStore:
    """Faults of the put-if-absents in their order; none after the last."""
    left = list(faults)

    def plan(operation: Operation, _: str) -> Fault | None:
        return left.pop(0) if operation == "put_if_absent" and left else None

    return FaultyStore(MemoryStore(), plan)


def test_first_content_at_a_number_stays() -> None:
    chain = Chain(MemoryStore(), "a")
    assert chain.append(0, b"ours").done
    lost = chain.append(0, b"theirs")
    assert lost.verdict is Verdict.LOST
    assert lost.content == b"ours"
    assert chain.get(0) == b"ours"


def test_same_content_again_is_done() -> None:
    chain = Chain(MemoryStore(), "a")
    chain.append(0, b"ours")
    assert chain.append(0, b"ours").done


def test_lost_answer_is_found_out_by_reading_back() -> None:
    store = failing("after")
    assert Chain(store, "a").append(0, b"ours").done
    assert len(store.mutations) == 1


def test_error_before_storing_puts_the_same_bytes_again() -> None:
    store = failing("before")
    assert Chain(store, "a").append(0, b"ours").done
    assert len(store.mutations) == 2


def test_error_while_another_was_faster_is_lost() -> None:
    store = failing("before")
    store.inner.put("a/" + "0" * 20 + ".json", b"theirs")
    outcome = Chain(store, "a").append(0, b"ours")
    assert outcome.verdict is Verdict.LOST
    assert outcome.content == b"theirs"


def test_store_that_stays_away_is_unknown_and_can_be_asked_again() -> None:
    store = failing("before", "before", "before", "before")
    chain = Chain(store, "a")
    with pytest.raises(UnavailableError, match="unknown"):
        chain.append(0, b"ours")
    assert chain.append(0, b"ours").done


@given(st.lists(st.sampled_from(["before", "after", None]), max_size=8), st.booleans())
def test_outcome_is_what_the_number_holds_under_every_fault(faults: list[Fault | None], taken: bool) -> None:
    store = failing(*faults)
    if taken:
        store.inner.put("a/" + "0" * 20 + ".json", b"theirs")
    try:
        outcome = Chain(store, "a").append(0, b"ours")
    except UnavailableError:
        return
    assert Chain(store.inner, "a").get(0) == outcome.content
    assert outcome.done == (outcome.content == b"ours")
    assert outcome.done != taken


@given(st.integers(0, 200), st.one_of(st.none(), st.integers(-1, 199)))
def test_newest_is_what_lies_beyond_any_number_that_is_known(length: int, known: int | None) -> None:
    chain = Chain(MemoryStore(), "a")
    for number in range(length):
        chain.append(number, str(number).encode())
    assume(known is None or known < length)
    nothing_new = length == 0 or known == length - 1
    assert chain.newest(known) == (None if nothing_new else (length - 1, str(length - 1).encode()))


class CountingStore(MemoryStore):
    """Counts what a bucket would be asked."""

    requests = 0

    def get(self, key: str) -> bytes:
        self.requests += 1
        return super().get(key)

    def exists(self, key: str) -> bool:
        self.requests += 1
        return super().exists(key)


def test_following_a_chain_costs_one_request_and_one_more_for_each_new_number() -> None:
    store = CountingStore()
    chain = Chain(store, "a")
    for number in range(1000):
        chain.append(number, b"%d" % number)
    for known, requests in ((999, 1), (998, 2), (996, 4), (0, 27), (None, 23)):
        store.requests = 0
        assert chain.newest(known) == (None if known == 999 else (999, b"999"))
        assert store.requests <= requests, known


def test_who_follows_manifests_definitions_and_assignments_asks_once_a_look() -> None:
    store = CountingStore()
    world = World(store)
    world.epochs(3)
    catalog, assignments = Catalog(store), Assignments(store)
    catalog.create({"name": "clicks", "time": "at", "key": "who", "columns": {"who": "string"}}, 2)
    assignments.put(Assignment(number=0, coordinator=1, actors={}, created_ms=0, run="", fleet=()))
    manifests = ManifestLog(store, world.datasource.folder)
    looks: list[Callable[[], object]] = [manifests.newest, catalog.read, assignments.newest]
    for look in looks:
        before = look()
        store.requests = 0
        assert look() is before
        assert store.requests == 1
    world.epochs(1)
    store.requests = 0
    newest = manifests.newest()
    assert newest is not None
    assert (newest.number, store.requests) == (world.newest.number, 2)


def _race(root: str, name: str, wins: multiprocessing.Queue[tuple[str, int]]) -> None:
    chain = Chain(LocalStore(root), "a")
    for number in range(30):
        if chain.append(number, f"{name} {number}".encode()).done:
            wins.put((name, number))


def test_of_racing_processes_exactly_one_wins_each_number(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    wins: multiprocessing.Queue[tuple[str, int]] = context.Queue()
    racers = [context.Process(target=_race, args=(str(tmp_path), f"p{i}", wins)) for i in range(3)]
    for racer in racers:
        racer.start()
    found: dict[int, str] = {}
    for _ in range(30):
        name, number = wins.get(timeout=60)
        assert number not in found
        found[number] = name
    for racer in racers:
        racer.join(timeout=60)
        assert racer.exitcode == 0
    assert wins.empty()
    chain = Chain(LocalStore(tmp_path), "a")
    assert {number: chain.get(number).decode() for number in range(30)} == {
        number: f"{name} {number}" for number, name in found.items()
    }
