"""Checksums of pages: a flipped bit is noticed wherever it is, and only in the columns that are asked for."""

from __future__ import annotations

import io
import random
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rta.errors import CorruptFileError
from rta.store import layout
from rta.store.model import FileRef
from rta.store.objects import LocalStore
from rta.store.pages import SEAL, Checked, PageError, _check_chunk, check_pages
from rta.store.parquet import check_files, file_schema, read_files, read_one, write_parquet, write_table_file
from rta.stream.model import TableWrite

ROWS = 20_000
FOLDER = "shop.life1"


def content() -> bytes:
    draw = np.random.default_rng(1)
    rows = pa.table(
        {
            "__time": pa.array(np.arange(ROWS) + 1_700_000_000_000, pa.timestamp("ms", "UTC")),
            "id": [f"id-{number}" for number in draw.integers(0, 10**12, ROWS)],
            "price": draw.integers(0, 20_000, ROWS) / 100,
            "country": pa.array([("US", "DE", None)[k % 3] for k in range(ROWS)]),
            "items": pa.array([[1.5, None], None, []] * (ROWS // 3) + [[2.0]] * (ROWS % 3)),
        }
    )
    sink = io.BytesIO()
    write_parquet(rows, sink)
    return sink.getvalue()


def part(data: bytes, first: int, length: int) -> bytes:
    return data[first : first + length]


ALL = ("__time", "id", "price", "country", "items")
WHOLE = content()


def test_a_whole_file_passes_with_every_column_and_with_unknown_ones() -> None:
    check_pages(partial(part, WHOLE), len(WHOLE), [*ALL, "later"])


def test_a_flipped_bit_of_any_page_is_noticed() -> None:
    metadata = pq.read_metadata(pa.BufferReader(WHOLE))
    group = metadata.row_group(0)
    end = max(
        group.column(k).data_page_offset + group.column(k).total_compressed_size for k in range(group.num_columns)
    )
    draw = random.Random(7)
    noticed = 0
    for _ in range(400):
        place = draw.randrange(4, min(end, len(WHOLE)))
        broken = bytearray(WHOLE)
        broken[place] ^= 1 << draw.randrange(8)
        try:
            check_pages(partial(part, bytes(broken)), len(broken), ALL)
        except PageError:
            noticed += 1
    # The few that pass are in page headers, which have no checksum: counts that engines compare with their columns.
    assert noticed >= 395


def test_a_flipped_bit_of_the_footer_is_noticed_before_an_engine_reads_it() -> None:
    """Of 200 of them one would end the process, and seven would rename a column or hide rows."""
    footer = int.from_bytes(WHOLE[-8:-4], "little") + 8
    for place in range(len(WHOLE) - footer, len(WHOLE)):
        broken = bytearray(WHOLE)
        broken[place] ^= 1 << place % 8
        with pytest.raises(PageError):
            check_pages(partial(part, bytes(broken)), len(broken), ALL)


def test_a_footer_without_a_checksum_is_read_as_other_readers_read_one() -> None:
    footer = int.from_bytes(WHOLE[-8:-4], "little") + 8
    bare = WHOLE[: -footer - len(SEAL) - 4] + WHOLE[-footer:]
    check_pages(partial(part, bare), len(bare), ALL)
    assert pq.read_table(io.BytesIO(WHOLE)).equals(pq.read_table(io.BytesIO(bare)))


@pytest.mark.parametrize("header", [b"\x1c" * 5_000, b"\x15" + b"\xff" * 1_000_000])
def test_a_page_header_that_never_ends_is_named(header: bytes) -> None:
    with pytest.raises(PageError, match="header"):
        _check_chunk(header, "price", 4)


def test_only_the_columns_that_are_asked_for_are_read() -> None:
    read: list[int] = []

    def counted(first: int, length: int) -> bytes:
        read.append(length)
        return part(WHOLE, first, length)

    check_pages(counted, len(WHOLE), ["country"])
    assert sum(read) < len(WHOLE) // 2 + (64 << 10)
    assert len(read) == 2


@pytest.mark.parametrize("broken", [b"", b"PAR1", WHOLE[: len(WHOLE) // 2], WHOLE[:-8] + b"\xff\xff\xff\x7fPAR1"])
def test_what_is_no_parquet_file_is_named_as_such(broken: bytes) -> None:
    with pytest.raises(PageError):
        check_pages(partial(part, broken), len(broken), ALL)


def test_a_file_is_looked_at_once_and_columns_by_themselves() -> None:
    checked = Checked()
    assert checked.unknown("a", ["x", "y"]) == {"x", "y"}
    checked.add("a", ["x"])
    assert checked.unknown("a", ["x", "y"]) == {"y"}
    assert checked.unknown("b", ["x"]) == {"x"}


def test_a_flipped_bit_of_the_footer_is_named_with_its_file_by_every_reader(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    rows = pq.read_table(io.BytesIO(WHOLE))
    file = write_table_file(
        store,
        FOLDER,
        TableWrite("events", "2023-11-14", rows, 1_700_000_000_000, 1_700_000_000_000 + ROWS),
        "a-1-1-0.parquet",
    )
    key = layout.table_file(FOLDER, "events", file.path)
    data = store.get(key)
    place = data.rindex(b"country")
    store.put(key, data[:place] + b"d" + data[place + 1 :])
    for read in (
        lambda: read_files(store, FOLDER, [file], rows.schema),
        lambda: read_one(store, FOLDER, file),
        lambda: file_schema(store, FOLDER, file),
    ):
        with pytest.raises(CorruptFileError, match=file.path):
            read()


def test_a_flipped_bit_that_polars_does_not_notice_is_named(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    schema = pa.schema([pa.field("__time", pa.timestamp("ms", "UTC")), pa.field("price", pa.float64())])
    times = pa.array(np.arange(ROWS) + 1_700_000_000_000, schema.field("__time").type)
    rows = pa.table({"__time": times, "price": pa.array(np.arange(ROWS) / 8)}, schema=schema)
    described = TableWrite("events", "2023-11-14", rows, 1_700_000_000_000, 1_700_000_000_000 + ROWS)
    file: FileRef = write_table_file(store, FOLDER, described, layout.parquet_name("agg-0", 3, 7, 0))
    key = layout.table_file(FOLDER, "events", file.path)
    data = store.get(key)
    chunk = pq.read_metadata(pa.BufferReader(data)).row_group(0).column(1)
    place = chunk.data_page_offset + chunk.total_compressed_size // 2
    store.put(key, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    for read in (
        lambda: read_files(store, FOLDER, [file], schema),
        lambda: read_one(store, FOLDER, file),
        lambda: check_files(store, FOLDER, [file], ["price"]),
    ):
        with pytest.raises(CorruptFileError, match=file.path):
            read()
    assert read_files(store, FOLDER, [file], schema, columns=["__time"]).height == ROWS
    store.put(key, data)
    assert read_files(store, FOLDER, [file], schema).height == ROWS
