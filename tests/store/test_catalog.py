"""Definitions change by compare and set; a name that is made again is another datasource."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from rta.errors import ConflictError, CorruptFileError, InvalidDatasourceError, NotFoundError
from rta.events.schemas import Datasource
from rta.store.catalog import Assignments, Catalog
from rta.store.model import ActorAssignment, Assignment
from tests.store.memory import Fault, FaultyStore, MemoryStore
from tests.store.world import DOCUMENT


def document(name: str = "shop", **changes: object) -> dict[str, object]:
    return {**DOCUMENT, "name": name, **changes}


def test_created_datasource_is_seen_by_everybody() -> None:
    store = MemoryStore()
    other = Catalog(store)
    assert other.read().datasources == {}
    made = Catalog(store).create(document(), partitions=4)
    assert other.get("shop") == made
    assert (made.partitions, made.version) == (4, 0)


def test_name_can_be_taken_once() -> None:
    catalog = Catalog(MemoryStore())
    catalog.create(document(), 4)
    with pytest.raises(ConflictError, match="'shop' exists already"):
        catalog.create(document(), 4)


def test_name_made_again_gets_another_folder() -> None:
    catalog = Catalog(MemoryStore())
    first = catalog.create(document(), 4)
    assert catalog.delete("shop", 77).folder == first.folder
    second = catalog.create(document(), 4)
    assert second.folder != first.folder
    assert [(entry.folder, entry.dropped_ms) for entry in catalog.read().dropped] == [(first.folder, 77)]
    catalog.purged(first.folder)
    assert catalog.read().dropped == ()


def test_update_keeps_incarnation_and_partitions_and_grows_the_version() -> None:
    catalog = Catalog(MemoryStore())
    made = catalog.create(document(), 4)
    catalog.create(document("other"), 4)
    columns = {"user": "string", "id": "string", "page": "string", "price": "double", "coupon": "string"}
    changed = catalog.update("shop", document(columns=columns))
    assert (changed.folder, changed.partitions, changed.version) == (made.folder, 4, 2)
    assert catalog.read().datasources["other"].version == 1
    assert catalog.update("shop", document(columns=columns)).version == 2
    assert catalog.read().version == 2


def rollup(name: str, *dimensions: str) -> dict[str, Any]:
    metrics = [{"name": "n", "type": "count"}]
    return {"name": name, "granularity": "hour", "dimensions": list(dimensions), "metrics": metrics}


def ages(made: Datasource) -> dict[str, tuple[int, str]]:
    return {r.name: (r.since, r.table) for r in made.rollups}


def test_rollups_that_came_later_are_told_apart_for_good() -> None:
    store = MemoryStore()
    catalog = Catalog(store)
    first, second = rollup("a"), rollup("b")
    assert catalog.create(document(rollups=[first]), 4).later_rollups == ()
    added = {"a": (0, "rollup_a_hour"), "b": (1, "rollup_b_hour")}
    assert ages(catalog.update("shop", document(rollups=[first, second]))) == added
    assert ages(catalog.update("shop", document(rollups=[second, first]))) == added
    assert ages(Catalog(store).read().datasources["shop"]) == added


def test_a_rollup_that_was_removed_comes_back_with_an_empty_table() -> None:
    store = MemoryStore()
    catalog = Catalog(store)
    catalog.create(document(rollups=[rollup("a")]), 4)
    catalog.update("shop", document(rollups=[rollup("a"), rollup("b")]))
    assert catalog.update("shop", document(rollups=[])).gone_tables == {"rollup_a_hour": 2, "rollup_b_hour": 2}
    back = catalog.update("shop", document(rollups=[rollup("b"), rollup("a")]))
    assert ages(back) == {"b": (3, "rollup_b_hour_2"), "a": (3, "rollup_a_hour_2")}
    assert Catalog(store).get("shop") == back
    assert back.gone_tables == {"rollup_a_hour": 3, "rollup_b_hour": 3}


@pytest.mark.parametrize("removed", [False, True])
def test_a_name_stands_for_one_shape_for_good(removed: bool) -> None:
    catalog = Catalog(MemoryStore())
    catalog.create(document(rollups=[rollup("a", "page")]), 4)
    if removed:
        catalog.update("shop", document(rollups=[]))
    with pytest.raises(ConflictError) as caught:
        catalog.update("shop", document(rollups=[rollup("a", "page", "user")]))
    assert "dimensions of rollup 'a' would go from 'page' to 'page, user'" in caught.value.message
    assert "'a_2'" in caught.value.hint


def test_wrong_and_breaking_documents_change_nothing() -> None:
    catalog = Catalog(MemoryStore())
    catalog.create(document(), 4)
    with pytest.raises(ConflictError):
        catalog.update("shop", document(key="page"))
    with pytest.raises(InvalidDatasourceError):
        catalog.update("shop", document(columns={"user": "text"}))
    with pytest.raises(NotFoundError, match="'nobody'"):
        catalog.update("nobody", document("nobody"))
    with pytest.raises(NotFoundError):
        catalog.delete("nobody", 0)
    assert catalog.read().version == 0


def test_changes_of_many_at_once_all_take_effect() -> None:
    store = MemoryStore()
    failures: list[BaseException] = []

    def create(number: int) -> None:
        try:
            Catalog(store).create(document(f"d{number}"), 2)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    state = Catalog(store).read()
    assert sorted(state.datasources) == [f"d{number}" for number in range(8)]
    assert state.version == 7


@pytest.mark.parametrize("fault", ["before", "after"])
def test_creation_whose_answer_was_lost_is_there_once(fault: Fault) -> None:
    faults: list[Fault | None] = [fault]
    store = FaultyStore(MemoryStore(), lambda op, _: faults.pop() if op == "put_if_absent" and faults else None)
    made = Catalog(store).create(document(), 4)
    assert Catalog(store).get("shop") == made
    assert Catalog(store).read().version == 0


def test_other_sections_change_beside_the_datasources() -> None:
    store = MemoryStore()
    catalog = Catalog(store)
    catalog.create(document(), 4)
    catalog.put_section("rules", lambda rules: {**rules, "a": {"threshold": 1}})
    Catalog(store).put_section("rules", lambda rules: {**rules, "b": {"threshold": 2}})
    state = catalog.read()
    assert sorted(state.section("rules")) == ["a", "b"]
    assert sorted(state.datasources) == ["shop"]
    assert state.section("keys") == {}


def test_broken_catalog_is_named() -> None:
    store = MemoryStore()
    Catalog(store).create(document(), 4)
    store.put("catalog/" + "0" * 20 + ".json", b"{")
    with pytest.raises(CorruptFileError, match="catalog 0"):
        Catalog(store).read()


def test_assignment_is_decided_by_the_first() -> None:
    store = MemoryStore()
    ours, theirs = Assignments(store), Assignments(store)
    assert ours.newest() is None
    first = Assignment(number=0, coordinator=1, actors={"a": ActorAssignment(1, {"f": (0, 1)})}, created_ms=5)
    assert ours.put(first).done
    outcome = theirs.put(msgspec.structs.replace(first, coordinator=2))
    assert not outcome.done
    assert theirs.newest() == first
    assert theirs.put(msgspec.structs.replace(first, number=1, coordinator=2)).done
    newest = ours.newest()
    assert newest is not None
    assert newest.coordinator == 2
