"""The table of rejected events in the store: projected, read by others, compacted, kept for its time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import polars as pl
from deltalake import DeltaTable

from rta.actors.commit_queue import _line
from rta.events.schemas import REJECTED, REJECTED_SCHEMA
from rta.store import layout
from rta.store.audit import Audit
from rta.store.compact import REJECTED_ROWS_MAX, choose_files
from rta.store.ledger import read_ledger
from rta.store.maintain import removal
from rta.store.model import FileRef, Manifest
from rta.store.objects import LocalStore
from rta.stream.model import MinuteCounts
from tests.store.memory import MemoryStore
from tests.store.test_maintain import House
from tests.store.world import DAY_MS, START_MS, altered
from tests.stream.rejections import rejected_rows


def reject(house: House, offsets: list[int], day: int = 0) -> Manifest:
    """An epoch that rejects these offsets of partition 1, with a ledger line that says so."""
    world = house.world
    part = world.part(3)
    rows = rejected_rows([(1, offset) for offset in offsets], START_MS + day * DAY_MS)
    file = world.write(REJECTED, rows, day, 9)
    count = len(offsets)
    sums = 5 * count
    line = _line(MinuteCounts(1, world.now_ms // 60_000 * 60_000, count, sums, 0, 0, 0, 0, count, sums))
    return world.commit(altered(part, files=(*part.files, file), ledger=(*part.ledger, line)))


def test_another_reader_of_delta_tables_sees_every_row_once(tmp_path: Path) -> None:
    house = House(LocalStore(tmp_path))
    for first in (0, 10, 20):
        reject(house, [first, first + 1], day=first // 20)
    house.project()
    house.project()
    table = DeltaTable(house.world.store.uri(layout.table(house.world.folder, REJECTED)))
    rows = pl.DataFrame(table.to_pyarrow_table()).sort("offset")
    assert rows["offset"].to_list() == [0, 1, 10, 11, 20, 21]
    assert set(rows["date"].cast(pl.String)) == {"2026-01-01", "2026-01-02"}
    assert rows.columns[:8] == REJECTED_SCHEMA.names
    assert {f.name: f.nullable for f in table.schema().fields}["__time"] is False


def test_compaction_keeps_every_row_in_the_order_of_offsets() -> None:
    house = House(MemoryStore())
    for first in (40, 0, 20, 60):
        reject(house, [first, first + 5])
    house.project()
    reports = house.work()
    assert (REJECTED, 4) in [(r.table, r.files_in) for r in reports if r.kind == "compact"]
    assert len(house.files(REJECTED)) == 1
    rows = house.rows(REJECTED)
    assert rows["offset"].to_pylist() == [0, 5, 20, 25, 40, 45, 60, 65]
    assert rows.column_names == REJECTED_SCHEMA.names


def test_files_of_rejected_events_stay_small_enough_to_be_rewritten() -> None:
    files = [FileRef(REJECTED, f"date=d/{k}", "d", 4_500, 1, k, k) for k in range(10)]
    assert len(choose_files(files, 8, None, REJECTED_ROWS_MAX)) == 2
    full = [msgspec.structs.replace(file, rows=REJECTED_ROWS_MAX // 2) for file in files]
    assert choose_files(full, 8, None, REJECTED_ROWS_MAX) == ()


def test_rejected_events_leave_after_their_own_retention() -> None:
    house = House(MemoryStore())
    reject(house, [1, 2])
    house.project()
    house.work(START_MS + 29 * DAY_MS)
    assert len(house.files(REJECTED)) == 1
    house.work(START_MS + 32 * DAY_MS)
    assert house.files(REJECTED) == []
    assert house.maintenance.expired()[REJECTED] == 2
    house.work(START_MS + 32 * DAY_MS + 10_000)
    assert house.keys(REJECTED) == set()


def test_a_deletion_says_how_many_rejected_events_it_would_remove() -> None:
    house = House(MemoryStore())
    assert removal(house.world.store, house.world.datasource)[REJECTED]["rows"] == 0
    reject(house, [1, 2, 3])
    house.project()
    assert removal(house.world.store, house.world.datasource)[REJECTED]["rows"] == 3


def test_the_ledger_counts_rejected_events_and_still_adds_up() -> None:
    house = House(MemoryStore())
    world = house.world
    for offsets in ([1, 2], [3]):
        manifest = reject(house, offsets)
    assert (manifest.partitions[1].rejected, manifest.partitions[1].rejected_sum) == (3, 15)
    Audit(world.store, world.datasource).advance(world.manifests, manifest.number)
    for time_range_ms in (None, (START_MS, START_MS + DAY_MS)):
        report = read_ledger(world.store, world.datasource).report(time_range_ms)
        assert (report["lost"], report["duplicated"], report["mismatches"]) == (0, 0, [])
        assert report["rejected"] == 3
        assert report["stages"] == {"accepted": 9, "logged": 9, "folded": 6, "committed": 6}


def test_a_rejected_event_that_no_line_accounts_for_shows_as_lost() -> None:
    house = House(MemoryStore())
    world = house.world
    part = world.part(3)
    line = _line(MinuteCounts(1, world.now_ms // 60_000 * 60_000, 2, 10, 0, 0, 0, 0, 1, 5))
    manifest = world.commit(altered(part, ledger=(*part.ledger, line)))
    Audit(world.store, world.datasource).advance(world.manifests, manifest.number)
    assert read_ledger(world.store, world.datasource).report()["lost"] == 1
