"""Parquet files, id runs and states: written durably, read back whole, named when broken."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rta.errors import BadRequestError, CorruptFileError
from rta.store import layout
from rta.store.model import FileRef, RunRef
from rta.store.objects import LocalStore
from rta.store.parquet import read_files, read_one, scan_files, sorted_by_time, write_table_file
from rta.store.runs import load_runs, load_state, write_runs, write_state
from rta.stream.model import RunWrite, TableWrite
from tests.store.world import START_MS, World, shop

FOLDER = "shop.life1"
SCHEMA = pa.schema(
    [
        pa.field("__time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("page", pa.string()),
        pa.field("items", pa.list_(pa.float64())),
        pa.field("hashes", pa.list_(pa.int64())),
        pa.field("top", pa.list_(pa.struct([pa.field("value", pa.string()), pa.field("count", pa.int64())]))),
        pa.field("sketch", pa.binary()),
        pa.field("flag", pa.bool_()),
    ]
)


def table(times: list[int]) -> pa.Table:
    columns = {
        "__time": times,
        "page": [f"p{t}" for t in times],
        "items": [[1.5, None], None, []][: len(times)] + [[2.5]] * (len(times) - 3),
        "hashes": [[-(2**63), 2**63 - 1]] * len(times),
        "top": [[{"value": "v", "count": 1}]] * len(times),
        "sketch": [b"\x00\xff"] * len(times),
        "flag": [True] * len(times),
    }
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in SCHEMA}, schema=SCHEMA)


def write(store: LocalStore, rows: pa.Table, k: int = 0) -> FileRef:
    times = rows["__time"].cast(pa.int64()).to_pylist()
    described = TableWrite("events", "2026-01-01", rows, min(times), max(times))
    return write_table_file(store, FOLDER, described, layout.parquet_name("agg-0", 3, 7, k))


def test_every_type_comes_back_as_it_was_in_order_of_time(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    rows = table([START_MS + t for t in (5, 3, 9, 4)])
    file = write(store, rows)
    expected = sorted_by_time(rows)
    assert expected["__time"].cast(pa.int64()).to_pylist() == [START_MS + t for t in (3, 4, 5, 9)]
    frame = read_files(store, FOLDER, [file], SCHEMA)
    want = pl.from_arrow(expected)
    assert isinstance(want, pl.DataFrame)
    assert frame.equals(want)
    assert read_one(store, FOLDER, file).cast(SCHEMA).equals(expected)
    assert (file.rows, file.bytes) == (4, store.size(layout.table_file(FOLDER, "events", file.path)))
    assert file.path == "date=2026-01-01/agg-0-3-7-0.parquet"


def test_rows_of_one_time_keep_their_order() -> None:
    rows = pa.table({"__time": pa.array([2, 1, 2, 1], pa.timestamp("ms", "UTC")), "n": [0, 1, 2, 3]})
    assert sorted_by_time(rows)["n"].to_pylist() == [1, 3, 0, 2]


def test_missing_columns_are_null_and_unknown_ones_left_out(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    files = [write(store, table([START_MS]).select(["__time", "page"]), 0), write(store, table([START_MS + 1]), 1)]
    schema = pa.schema([SCHEMA.field("__time"), SCHEMA.field("flag"), pa.field("fresh", pa.int64())])
    frame = read_files(store, FOLDER, files, schema)
    assert frame.columns == ["__time", "flag", "fresh"]
    assert frame["flag"].to_list() == [None, True]
    assert frame["fresh"].null_count() == 2


def test_time_range_is_half_open_and_other_files_are_not_opened(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    files = [write(store, table([START_MS + 10 * k + i for i in range(3)]), k) for k in range(3)]
    store.put(layout.table_file(FOLDER, "events", files[2].path), b"broken")
    frame = read_files(store, FOLDER, files, SCHEMA, ["page"], (START_MS + 1, START_MS + 11))
    assert frame["page"].to_list() == [f"p{START_MS + t}" for t in (1, 2, 10)]
    assert read_files(store, FOLDER, [], SCHEMA, ["page"]).schema == frame.schema
    assert scan_files(store, FOLDER, [], SCHEMA).collect().height == 0


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "missing", "flipped"])
def test_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    store = LocalStore(tmp_path)
    files = [write(store, table([START_MS + k] * 50), k) for k in range(3)]
    key = layout.table_file(FOLDER, "events", files[1].path)
    content = store.get(key)
    match damage:
        case "truncated":
            store.put(key, content[: len(content) // 2])
        case "garbage":
            store.put(key, b"PAR1" + b"\xff" * 200 + b"PAR1")
        case "empty":
            store.put(key, b"")
        case "missing":
            store.delete(key)
        case _:
            store.put(key, content[:4] + bytes(byte ^ 0xFF for byte in content[4:100]) + content[100:])
    with pytest.raises(CorruptFileError, match=files[1].path):
        read_files(store, FOLDER, files, SCHEMA)


def test_row_groups_and_statistics_let_readers_skip(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    count = 300_000
    rows = pa.table(
        {"__time": pa.array(np.arange(count) + START_MS, pa.timestamp("ms", "UTC")), "page": pa.array(["x"] * count)}
    )
    file = write(store, rows)
    meta = pq.read_metadata(store.uri(layout.table_file(FOLDER, "events", file.path)))
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [131_072, 131_072, 37_856]
    assert meta.row_group(1).column(0).statistics.has_min_max
    assert meta.row_group(0).column(0).has_offset_index
    assert file.bytes < 2 * count


def test_date_is_in_the_path_and_not_in_the_file(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    file = write(store, table([START_MS]))
    assert read_one(store, FOLDER, file).column_names == SCHEMA.names


def test_names_tell_who_wrote_a_file() -> None:
    assert layout.parse_name("date=x/agg-0-3-7-12.parquet") == ("agg-0", 3, 7)
    assert layout.parse_name(layout.state_path("agg-0", 3, 7)) == ("agg-0", 3, 7)
    assert layout.parse_name(layout.run_path("a", 30, 71)) == ("a", 30, 71)
    assert layout.parse_name("part-00000-8a5d.snappy.parquet") is None
    with pytest.raises(BadRequestError, match="'a/b'"):
        layout.parquet_name("a/b", 1, 1, 1)


def test_id_runs_come_back_slice_by_slice(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    rng = np.random.default_rng(1)
    slices = [rng.integers(0, 2**64, (n, 2), np.uint64) for n in (3, 0, 1000)]
    path = layout.run_path("agg-0", 3, 7)
    refs = write_runs(store, FOLDER, path, [RunWrite(p, p + 10, ids) for p, ids in enumerate(slices)])
    assert [(ref.step, ref.first, ref.count) for ref in refs] == [(10, 0, 3), (11, 3, 0), (12, 3, 1000)]
    for ids, expected in zip(load_runs(store, FOLDER, refs), slices, strict=True):
        assert np.array_equal(ids, expected)
    assert store.size(layout.within(FOLDER, path)) == 16 * 1003
    assert write_runs(store, FOLDER, layout.run_path("agg-0", 3, 8), []) == ()


def test_a_run_file_is_read_once_however_many_slices_it_has(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    read: list[str] = []

    class Counting(LocalStore):
        def buffer(self, key: str) -> bytes | mmap.mmap:
            read.append(key)
            return super().buffer(key)

    paths = [layout.run_path("agg-0", 3, epoch) for epoch in range(3)]
    ones = [RunWrite(p, 1, np.full((p + 1, 2), p, np.uint64)) for p in range(4)]
    refs = [ref for path in paths for ref in write_runs(store, FOLDER, path, ones)]
    found = load_runs(Counting(tmp_path), FOLDER, refs[::-1])
    assert [(len(ids), int(ids[0, 0])) for ids in found] == [(p + 1, p) for _ in paths for p in (3, 2, 1, 0)]
    assert sorted(read) == [layout.within(FOLDER, path) for path in paths]


def test_short_or_missing_run_is_named(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    (ref,) = write_runs(store, FOLDER, layout.run_path("a", 1, 1), [RunWrite(0, 1, np.ones((2, 2), np.uint64))])
    with pytest.raises(CorruptFileError, match=r"runs/a-1-1\.ids.*32 bytes.*48"):
        load_runs(store, FOLDER, [RunRef(ref.path, 1, 1, 2)])
    with pytest.raises(CorruptFileError, match="not there"):
        load_runs(store, FOLDER, [RunRef("runs/a-1-2.ids", 1, 0, 1)])


def test_a_flipped_bit_in_a_run_is_named(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    writes = [RunWrite(p, 1, np.full((4, 2), p, np.uint64)) for p in range(2)]
    whole, broken = write_runs(store, FOLDER, layout.run_path("a", 1, 1), writes)
    file = tmp_path / layout.within(FOLDER, broken.path)
    data = bytearray(file.read_bytes())
    data[16 * 5] ^= 1
    file.write_bytes(data)
    assert np.array_equal(load_runs(store, FOLDER, [whole])[0], writes[0].identities)
    with pytest.raises(CorruptFileError, match=r"runs/a-1-1\.ids.*bytes 64 to 128.*CRC"):
        load_runs(store, FOLDER, [broken])
    unchecked = RunRef(broken.path, 1, broken.first, broken.count)
    assert len(load_runs(store, FOLDER, [unchecked])[0]) == 4


def test_state_comes_back_and_a_missing_one_is_named(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    write_state(store, FOLDER, layout.state_path("a", 1, 1), b"state")
    assert load_state(store, FOLDER, layout.state_path("a", 1, 1)) == b"state"
    with pytest.raises(CorruptFileError, match="a-1-2"):
        load_state(store, FOLDER, layout.state_path("a", 1, 2))


def test_a_whole_datasource_can_be_read_through_its_schema(tmp_path: Path) -> None:
    world = World(LocalStore(tmp_path), shop())
    world.epochs(2, rows=10)
    frame = read_files(world.store, world.folder, world.expected("events", 2), world.datasource.raw_schema())
    assert frame["id"].n_unique() == 20
