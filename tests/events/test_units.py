"""Durations and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rta.errors import BadRequestError
from rta.events.units import DURATION_UNITS_MS, SIZE_UNITS_BYTES, parse_duration_ms, parse_size_bytes


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("500ms", 500),
        ("30s", 30_000),
        ("1.5h", 5_400_000),
        ("30d", 2_592_000_000),
        (" 2 w ", 1_209_600_000),
        ("5y", 157_680_000_000),
    ],
)
def test_durations_become_milliseconds(text: str, milliseconds: int) -> None:
    assert parse_duration_ms(text) == milliseconds


@pytest.mark.parametrize(
    ("text", "size"), [("16MiB", 1 << 24), ("1GB", 10**9), ("512", 512), (7, 7), ("1.5KiB", 1536), ("10b", 10)]
)
def test_sizes_become_bytes(text: str | int, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "d", "5", "5 fortnights", "-1d", "1e3s", "0.0001s", "20000y", "١d"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(BadRequestError):
        parse_duration_ms(text)


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5", "0.3B", "5 bananas", "9999999TiB"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(BadRequestError):
        parse_size_bytes(text)


@given(st.integers(0, 10**6), st.sampled_from(sorted(DURATION_UNITS_MS)), st.sampled_from(sorted(SIZE_UNITS_BYTES)))
def test_a_whole_number_of_units_is_exact(count: int, duration: str, size: str) -> None:
    if count * DURATION_UNITS_MS[duration] <= 10_000 * DURATION_UNITS_MS["y"]:
        assert parse_duration_ms(f"{count}{duration}") == count * DURATION_UNITS_MS[duration]
    assert parse_size_bytes(f"{count}{size}") == count * SIZE_UNITS_BYTES[size]
