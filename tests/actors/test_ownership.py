"""Assignments: every partition has one owner, the loads are even, and little moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rta.actors.ownership import Ownership, spread
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
