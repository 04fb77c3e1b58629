"""Steps of time on a zone's clock, and the ranges that relative words mean."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rta.query.periods import absolute_range, parse_granularity, parse_time_range
from rta.query.time import bucket_start, bucket_starts, divides, next_start

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Havana",
)
STEPS = ("minute", "15m", "hour", "PT6H", "day", "P3D", "week", "month", "P3M", "year")
INSTANTS = st.integers(-2_000_000_000_000, 4_000_000_000_000)


def ms(text: str, zone: str = "UTC", fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


def local(instant_ms: int, zone: str) -> str:
    return datetime.fromtimestamp(instant_ms / 1000, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S")


@given(INSTANTS, st.sampled_from(STEPS), st.sampled_from(ZONES))
def test_a_step_holds_its_instants_and_its_neighbour_begins_where_it_ends(at: int, text: str, zone: str) -> None:
    step = parse_granularity(text)
    start = bucket_start(at, step, zone)
    end = next_start(start, step, zone)
    assert start <= at < end
    assert bucket_start(start, step, zone) == start
    assert bucket_start(end - 1, step, zone) == start


@given(st.lists(INSTANTS, min_size=1, max_size=20), st.sampled_from(STEPS), st.sampled_from(ZONES))
def test_many_instants_get_the_steps_that_each_gets_alone(times: list[int], text: str, zone: str) -> None:
    step = parse_granularity(text)
    together = bucket_starts(np.array(times, np.int64), step, zone).tolist()
    assert together == [bucket_start(t, step, zone) for t in times]


@given(INSTANTS, st.sampled_from(ZONES))
def test_a_day_starts_at_the_first_instant_of_its_date(at: int, zone: str) -> None:
    start = bucket_start(at, parse_granularity("day"), zone)
    assert local(start, zone)[:10] == local(at, zone)[:10] != local(start - 1, zone)[:10]


@pytest.mark.parametrize(
    ("zone", "at", "step", "start"),
    [
        ("Europe/Berlin", ms("2026-03-29T12:00", "Europe/Berlin"), "day", ms("2026-03-28T23:00")),
        ("Europe/Berlin", ms("2026-10-25T12:00", "Europe/Berlin"), "day", ms("2026-10-24T22:00")),
        ("Europe/Berlin", ms("2026-03-29T03:30", "Europe/Berlin"), "hour", ms("2026-03-29T01:00")),
        ("Europe/Berlin", ms("2026-10-25T02:30", "Europe/Berlin", fold=0), "hour", ms("2026-10-25T00:00")),
        ("Europe/Berlin", ms("2026-10-25T02:30", "Europe/Berlin", fold=1), "hour", ms("2026-10-25T01:00")),
        ("Europe/Berlin", ms("2026-10-25T05:30", "Europe/Berlin"), "PT6H", ms("2026-10-24T22:00")),
        ("America/Sao_Paulo", ms("2018-11-04T12:00", "America/Sao_Paulo"), "day", ms("2018-11-04T03:00")),
        ("America/Havana", ms("2014-11-02T00:30", "America/Havana", fold=1), "day", ms("2014-11-02T04:00")),
        ("Asia/Kathmandu", ms("2026-01-01T10:10", "Asia/Kathmandu"), "hour", ms("2026-01-01T04:15")),
        ("UTC", ms("2026-01-01T10:10"), "week", ms("2025-12-29T00:00")),
        ("UTC", ms("2026-05-31T10:10"), "P3M", ms("2026-04-01T00:00")),
        ("UTC", ms("1969-12-31T23:59"), "hour", ms("1969-12-31T23:00")),
    ],
)
def test_a_step_starts_where_the_clock_on_the_wall_says(zone: str, at: int, step: str, start: int) -> None:
    assert bucket_start(at, parse_granularity(step), zone) == start


def test_a_day_of_a_changing_clock_has_23_or_25_hours() -> None:
    day = parse_granularity("day")
    spring, autumn = ms("2026-03-29T00:00", "Europe/Berlin"), ms("2026-10-25T00:00", "Europe/Berlin")
    assert next_start(spring, day, "Europe/Berlin") - spring == 23 * 3_600_000
    assert next_start(autumn, day, "Europe/Berlin") - autumn == 25 * 3_600_000


@pytest.mark.parametrize(
    ("grain_ms", "step", "zone", "fits"),
    [
        (60_000, "minute", "UTC", True),
        (60_000, "second", "UTC", False),
        (3_600_000, "15m", "UTC", False),
        (3_600_000, "day", "Europe/Berlin", True),
        (3_600_000, "day", "Asia/Kolkata", False),
        (60_000, "day", "Asia/Kolkata", True),
        (86_400_000, "day", "UTC", True),
        (86_400_000, "day", "Europe/Berlin", False),
        (86_400_000, "month", "UTC", True),
        (3_600_000, "all", "Asia/Kolkata", True),
    ],
)
def test_a_grain_divides_a_step_only_if_every_start_is_a_multiple(
    grain_ms: int, step: str, zone: str, fits: bool
) -> None:
    assert divides(grain_ms, parse_granularity(step), zone, ms("2026-01-01T00:00"), ms("2027-01-01T00:00")) is fits


NOW = "2026-03-29T13:07:42.500"
"""In Berlin 15:07, the day the clock went forward."""


@pytest.mark.parametrize(
    ("text", "step", "zone", "start", "end"),
    [
        ("last 15m", "all", "UTC", "2026-03-29T12:52", "2026-03-29T13:08"),
        ("last 30s", "all", "UTC", "2026-03-29T13:07:12", "2026-03-29T13:07:43"),
        ("last 24h", "hour", "UTC", "2026-03-28T13:00", "2026-03-29T13:08"),
        ("today", "all", "UTC", "2026-03-29T00:00", "2026-03-30T00:00"),
        ("today", "all", "Europe/Berlin", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("yesterday", "all", "Europe/Berlin", "2026-03-27T23:00", "2026-03-28T23:00"),
        ("this month", "all", "UTC", "2026-03-01T00:00", "2026-04-01T00:00"),
        ("previous week", "all", "UTC", "2026-03-16T00:00", "2026-03-23T00:00"),
        ("2026-01-31T00:00:00Z/P1M", "all", "UTC", "2026-01-31T00:00", "2026-02-28T00:00"),
        ("PT1H/2026-01-31T00:00:00+01:00", "all", "UTC", "2026-01-30T22:00", "2026-01-30T23:00"),
        ("2026-01-01/2026-01-02", "all", "UTC", "2026-01-01T00:00", "2026-01-02T00:00"),
    ],
)
def test_a_range_becomes_absolute(text: str, step: str, zone: str, start: str, end: str) -> None:
    found = absolute_range(parse_time_range(text), parse_granularity(step), zone, ms(NOW))
    assert found == (ms(start), ms(end))
