"""Assignments: every partition has one owner, the loads are even, and little moves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rta.actors.ownership import Ownership, fleet_names, spread
from rta.errors import UnavailableError
from rta.store.objects import LocalStore
from tests.store.memory import MemoryStore


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 40), min_size=1), st.integers(1, 7))
def test_every_partition_has_exactly_one_owner_and_loads_are_even(partitions: dict[str, int], count: int) -> None:
    actors = [f"aggregator-{k}" for k in range(count)]
    shares = spread(partitions, actors, {})
    for folder, number in partitions.items():
        owned = [p for share in shares.values() for p in share[folder]]
        assert sorted(owned) == list(range(number))
        sizes = [len(share[folder]) for share in shares.values()]
        assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 64), st.integers(1, 6), st.integers(1, 6))
def test_partitions_stay_where_they_are_as_far_as_evenness_allows(number: int, before: int, after: int) -> None:
    old = spread({"d": number}, [f"a{k}" for k in range(before)], {})
    new = spread({"d": number}, [f"a{k}" for k in range(after)], old)
    stayed = sum(len(set(old.get(a, {}).get("d", ())) & set(share["d"])) for a, share in new.items())
    most = -(-number // after)
    assert stayed == sum(min(most, len(share["d"])) for a, share in old.items() if a in new)


def test_nothing_moves_when_nothing_changes() -> None:
    actors = ["a0", "a1", "a2"]
    first = spread({"x": 8, "y": 3}, actors, {})
    assert spread({"x": 8, "y": 3}, actors, first) == first


def test_an_aggregator_that_joins_gets_its_share_when_it_has_registered(tmp_path: Path) -> None:
    ownership = Ownership(LocalStore(tmp_path), fleet_names(2), "run")
    ownership.register("aggregator-0")
    ownership.register("aggregator-1")
    ownership.assign({"d": 8}, 1)
    assert ownership.scale(4) == fleet_names(4)
    ownership.assign({"d": 8}, 1)
    assert shares(ownership) == {"aggregator-0": 4, "aggregator-1": 4}
    ownership.register("aggregator-2")
    ownership.assign({"d": 8}, 1)
    assert shares(ownership) == {"aggregator-0": 3, "aggregator-1": 3, "aggregator-2": 2}


def test_an_aggregator_that_leaves_gives_up_its_share_at_once_and_can_not_come_back(tmp_path: Path) -> None:
    ownership = Ownership(LocalStore(tmp_path), fleet_names(2), "run")
    ownership.assign({"d": 8}, 1)
    ownership.scale(1)
    ownership.assign({"d": 8}, 1)
    assert shares(ownership) == {"aggregator-0": 8, "aggregator-1": 0}
    with pytest.raises(UnavailableError, match="aggregator-1"):
        ownership.register("aggregator-1")


def test_a_generation_is_never_used_twice_by_aggregators_that_leave_and_come_back(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    ownership = Ownership(store, fleet_names(2), "run")
    first = ownership.register("aggregator-1").generation
    ownership.scale(1)
    ownership.assign({"d": 8}, 1)
    ownership.scale(2)
    second = ownership.register("aggregator-1").generation
    ownership = Ownership(store, fleet_names(1), "next run")
    ownership.assign({"d": 8}, 1)
    third = Ownership(store, fleet_names(2), "a third").register("aggregator-1").generation
    assert first < second < third


def test_a_fleet_outlives_the_coordinator_and_not_the_run(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    Ownership(store, fleet_names(2), "run").scale(3)
    assert Ownership(store, fleet_names(2), "run").fleet == fleet_names(3)
    assert Ownership(store, fleet_names(2), "next run").fleet == fleet_names(2)


def shares(ownership: Ownership) -> dict[str, int]:
    return {name: len(actor.partitions.get("d", ())) for name, actor in ownership.current.actors.items()}


def test_the_generation_of_an_actor_that_left_goes_on_when_it_comes_back() -> None:
    store = MemoryStore()
    first = Ownership(store, ("a", "b"))
    first.assign({"d": 4}, 0)
    assert first.register("b").generation == 1
    without = Ownership(store, ("a",))
    without.assign({"d": 4}, 0)
    assert without.current.actors["b"].partitions == {}
    assert without.current.actors["a"].partitions == {"d": (0, 1, 2, 3)}
    again = Ownership(store, ("a", "b"))
    again.assign({"d": 4}, 0)
    assert again.current.actors["b"].generation == 1
    assert again.register("b").generation == 2
