"""The saved state: read as written, in newer and older versions, and never when it is damaged."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rta.errors import CorruptFileError, StoreFormatError
from rta.events.schemas import Column, ColumnType, Grain, Rollup
from rta.stream.model import PartitionLoaded
from rta.stream.saved import StateTables, decode_state, encode_state, state_rows
from tests.stream.shop import BY_PAGE, DAY, HOUR, METRICS, TOTAL, Event, Shell, datasource, raw_rows, table_of

SOURCE = datasource()
WAITING = [Event(-DAY, "w1"), Event(-2 * DAY, "w2", user=None)]


def state() -> bytes:
    shell = Shell(SOURCE)
    shell.arrive(0, HOUR, Event(0, "1"), Event(HOUR, "2"), *WAITING)
    shell.arrive(2, HOUR, Event(HOUR, "3", page="only in 2"))
    return shell.cut().state


def test_a_state_is_read_as_it_was_written() -> None:
    saved = decode_state(state())
    assert sorted(saved) == [0, 1, 2, 3]
    assert raw_rows(saved[0].rows) == raw_rows(table_of(WAITING))
    assert saved[0].waited == {("events", "2025-12-31"): 1, ("events", "2025-12-30"): 1} | {
        (t.table, d): 1 for t in (BY_PAGE, TOTAL) for d in ("2025-12-31", "2025-12-30")
    }
    assert saved[2].open[BY_PAGE.table]["page"].to_list() == ["only in 2"]
    assert saved[1].event_time_max_ms is None
    assert saved[1].open == {}


def test_readers_get_rows_of_the_partitions_that_they_name() -> None:
    frames, rows, _ = state_rows(state(), [2], SOURCE)
    assert frames["by_page"]["page"].to_list() == ["only in 2"]
    assert rows.num_rows == 0
    frames, rows, _ = state_rows(state(), None, SOURCE)
    assert "__partition" not in frames["total"].columns
    assert frames["total"]["events"].sum() == 5
    assert rows.num_rows == 2
    assert state_rows(state(), [77], SOURCE)[0]["total"].height == 0


def test_a_state_of_nothing_is_a_state() -> None:
    assert decode_state(encode_state({})) == {}


def _reheadered(data: bytes, change: Any) -> bytes:
    """The same state with its header changed, as another version might write it."""
    import zlib

    magic, version, length, _ = struct.unpack_from("<8sIII", data)
    header = msgspec.msgpack.decode(data[20 : 20 + length])
    change(header)
    new = msgspec.msgpack.encode(header)
    return struct.pack("<8sIII", magic, version, len(new), zlib.crc32(new)) + new + data[20 + length :]


def test_a_section_of_a_newer_version_is_carried_along() -> None:
    newer = encode_state({1: StateTables(open={}, extra={"sessions": b"\x00later", "open_sessions/x": b"more"})})
    saved = decode_state(newer)[1]
    assert saved.extra == {"sessions": b"\x00later", "open_sessions/x": b"more"}
    shell = Shell(SOURCE, (1,))
    shell.fold = type(shell.fold)(SOURCE, [PartitionLoaded(1, 5, 0, None, saved, ())], shell.limits)
    shell.arrive(1, 0, Event(0, "1"))
    again = decode_state(shell.cut().state)[1]
    assert again.extra == saved.extra
    assert again.open.keys() == {BY_PAGE.table, TOTAL.table}


def test_fields_of_a_newer_header_are_passed_over_and_missing_ones_default() -> None:
    def change(header: dict[str, Any]) -> None:
        header["written_by"] = "2.0"
        for entry in header["partitions"].values():
            entry["tide"] = 3
            entry.pop("waited", None)
            entry.pop("event_time_max_ms", None)

    saved = decode_state(_reheadered(state(), change))
    assert saved[0].rows.num_rows == 2
    assert saved[0].waited == {}
    assert saved[0].event_time_max_ms is None


def test_another_layout_is_refused_as_newer() -> None:
    data = bytearray(state())
    struct.pack_into("<I", data, 8, 2)
    with pytest.raises(StoreFormatError, match="format 2, this rta reads up to 1"):
        decode_state(bytes(data))


DATA = state()


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_damaged_byte_is_noticed(at: int, bits: int) -> None:
    damaged = bytearray(DATA)
    damaged[at] ^= bits
    with pytest.raises((CorruptFileError, StoreFormatError)):
        decode_state(bytes(damaged))


@given(st.integers(0, len(DATA) - 1))
def test_a_truncated_state_is_noticed(length: int) -> None:
    with pytest.raises(CorruptFileError):
        decode_state(DATA[:length])


def test_a_new_rollup_starts_empty_a_dropped_one_is_left_out_and_a_new_column_is_null() -> None:
    shell = Shell(SOURCE)
    shell.arrive(0, 0, Event(0, "1"), *WAITING)
    shell.cut()
    new = Rollup("by_user", Grain.MINUTE, ("user",), METRICS[:1])
    columns = (*SOURCE.columns, Column("browser", ColumnType.STRING, ("browser",)))
    changed = datasource((BY_PAGE, new), columns=columns, version=2)
    shell.restart(changed)
    cut = shell.cut()
    saved = decode_state(cut.state)[0]
    assert saved.open.keys() == {BY_PAGE.table}
    assert saved.rows["browser"].to_pylist() == [None, None]
    assert saved.rows.schema.equals(changed.raw_schema())
    shell.arrive(0, 0, Event(0, "2"))
    frames, rows, _ = state_rows(shell.cut().state, None, changed)
    assert frames["by_user"]["events"].to_list() == [1]
    assert frames["by_page"]["events"].sum() == 4
    assert isinstance(rows, pa.Table)


def test_a_rollup_of_another_grain_is_another_table_and_starts_empty() -> None:
    shell = Shell(SOURCE)
    shell.arrive(0, 0, Event(0, "1"))
    shell.cut()
    shell.restart(datasource((Rollup("by_page", Grain.HOUR, BY_PAGE.dimensions, METRICS),)))
    shell.arrive(0, 0, Event(0, "2"))
    assert state_rows(shell.cut().state, None, shell.source)[0]["by_page"]["events"].to_list() == [1]
