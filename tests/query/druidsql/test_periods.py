"""Steps of periods: what is computed here of known times is what the engine computes of columns."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rta.query.druidsql import periods
from rta.query.druidsql.kinds import INSTANT, TIMESTAMP
from rta.query.druidsql.typed import Typed, instant, parse_time
from tests.query.druidsql.asking import engine

ZONES = ("UTC", "America/Los_Angeles", "Asia/Kolkata", "-08:00")
PERIODS = (
    "PT1S",
    "PT5M",
    "PT7M",
    "PT1H",
    "PT6H",
    "PT1H30M",
    "P1D",
    "P3D",
    "P1W",
    "P2W",
    "P1M",
    "P2M",
    "P3M",
    "P1Y",
    "P5Y",
)
ORIGIN_MS = 1_442_016_000_000


@settings(max_examples=25, deadline=None)
@given(
    times=st.lists(st.integers(-200_000_000_000, 2_000_000_000_000), min_size=1, max_size=20),
    period=st.sampled_from(PERIODS),
    zone=st.sampled_from(ZONES),
    origin_ms=st.sampled_from((None, ORIGIN_MS)),
)
def test_constants_and_columns_agree(times: list[int], period: str, zone: str, origin_ms: int | None) -> None:
    wanted = periods.parse_period(period)
    expressions = []
    for column in (Typed("n", TIMESTAMP), Typed("z", INSTANT)):
        expressions += [
            periods.floor(column, wanted, origin_ms, zone).sql,
            periods.ceil(column, wanted, origin_ms, zone).sql,
            periods.shift(column, wanted, -2, zone).sql,
        ]
    chosen = ", ".join(f"epoch_ms({e})" for e in expressions)
    source = (
        "SELECT make_timestamp_ms(m) AS n, timezone('UTC', make_timestamp_ms(m)) AS z FROM (SELECT unnest($1) AS m)"
    )
    for ms, found in zip(times, engine().execute(f"SELECT {chosen} FROM ({source})", [times]).fetchall(), strict=True):
        known = instant(ms)
        expected = (
            periods.floor(known, wanted, origin_ms, zone).ms,
            periods.ceil(known, wanted, origin_ms, zone).ms,
            periods.shift(known, wanted, -2, zone).ms,
        )
        assert found == expected * 2, (ms, period, zone)


def test_a_step_begins_no_later_than_its_times_and_the_next_one_later() -> None:
    for period in PERIODS:
        wanted = periods.parse_period(period)
        for zone in ZONES:
            for ms in range(ORIGIN_MS, ORIGIN_MS + 400 * periods.DAY_MS, 37 * periods.DAY_MS + 12_345):
                start = periods.floor_ms(ms, wanted, None, zone)
                assert start <= ms
                assert periods.floor_ms(start, wanted, None, zone) == start


def test_times_are_read_as_clients_write_them() -> None:
    written = {
        "2015": 1_420_070_400_000,
        "2015-09": 1_441_065_600_000,
        "2015-09-12": ORIGIN_MS,
        "2015-9-12": ORIGIN_MS,
        "2015-09-12T00": ORIGIN_MS,
        "2015-09-12T00Z": ORIGIN_MS,
        "2015-09-12 00:00:00": ORIGIN_MS,
        "2015-09-12T00:00:00.000Z": ORIGIN_MS,
        "2015-09-11T17:00:00-07:00": ORIGIN_MS,
    }
    assert {text: parse_time(text, "UTC") for text in written} == written
    assert parse_time("2015-09-11T17:00:00", "America/Los_Angeles") == ORIGIN_MS
    assert parse_time("2015-09-11T16:00:00", "-08:00") == ORIGIN_MS
    assert parse_time("tomorrow", "UTC") is None
