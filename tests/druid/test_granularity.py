"""Granularities: where buckets start, on the clock of a zone, from an origin; and how instants and intervals are written."""

from __future__ import annotations

from typing import Any

import pytest

from rta.druid.granularity import bucket_stamp, buckets, parse_granularity
from rta.druid.periods import parse_instant, parse_interval, parse_intervals, stamp
from rta.druid.problems import InvalidInputError, UnsupportedError


def starts(granularity: Any, interval: str) -> list[str]:
    parsed = parse_granularity(granularity)
    return [bucket_stamp(start, parsed) for start in buckets(parse_interval(interval), parsed)]


def period(text: str, zone: str | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "period", "period": text, **({"timeZone": zone} if zone else {}), **more}


@pytest.mark.parametrize(
    ("granularity", "interval", "expected"),
    [
        ("second", "2026-01-01T00:00:00.500/PT1S", ["2026-01-01T00:00:00.000Z", "2026-01-01T00:00:01.000Z"]),
        ("FIFTEEN_MINUTE", "2026-01-01T00:20/PT20M", ["2026-01-01T00:15:00.000Z", "2026-01-01T00:30:00.000Z"]),
        ("six_hour", "2026-01-01T07/PT6H", ["2026-01-01T06:00:00.000Z", "2026-01-01T12:00:00.000Z"]),
        ("day", "2026-01-01T07/P1D", ["2026-01-01T00:00:00.000Z", "2026-01-02T00:00:00.000Z"]),
        ("week", "2026-01-01/P7D", ["2025-12-29T00:00:00.000Z", "2026-01-05T00:00:00.000Z"]),
        ("month", "2026-01-31/P1D", ["2026-01-01T00:00:00.000Z"]),
        ("quarter", "2026-02-01/P3M", ["2026-01-01T00:00:00.000Z", "2026-04-01T00:00:00.000Z"]),
        ("year", "2026-02-01/P1Y", ["2026-01-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z"]),
        (period("PT1H", "Etc/UTC"), "2026-01-01T00:30/PT1H", ["2026-01-01T00:00:00.000Z", "2026-01-01T01:00:00.000Z"]),
        (period("P1D", "Asia/Kolkata"), "2026-01-01T00/PT1H", ["2026-01-01T00:00:00.000+05:30"]),
        (period("PT1H", "Asia/Kolkata"), "2026-01-01T00:10/PT1M", ["2026-01-01T05:00:00.000+05:30"]),
        (
            period("P1D", "America/New_York"),
            "2026-03-07T12/2026-03-09T12",
            ["2026-03-07T00:00:00.000-05:00", "2026-03-08T00:00:00.000-05:00", "2026-03-09T00:00:00.000-04:00"],
        ),
        (
            period("P1D", "America/Sao_Paulo"),
            "2018-11-03T12/2018-11-05T12",
            ["2018-11-03T00:00:00.000-03:00", "2018-11-04T01:00:00.000-02:00", "2018-11-05T00:00:00.000-02:00"],
        ),
        (
            period("PT1H", "Europe/Berlin"),
            "2026-10-25T00:00/PT3H",
            ["2026-10-25T02:00:00.000+02:00", "2026-10-25T02:00:00.000+01:00", "2026-10-25T03:00:00.000+01:00"],
        ),
        (period("P1W", "Europe/Berlin"), "2026-01-01/P1D", ["2025-12-29T00:00:00.000+01:00"]),
        (
            period("P2D", origin="2026-01-02T00:00:00Z"),
            "2026-01-03/P2D",
            ["2026-01-02T00:00:00.000Z", "2026-01-04T00:00:00.000Z"],
        ),
        (period("P1W", origin="2026-01-04"), "2026-01-05/P1D", ["2026-01-04T00:00:00.000Z"]),
        (
            period("P1M", origin="2026-01-15"),
            "2026-02-01/P1M",
            ["2026-01-15T00:00:00.000Z", "2026-02-15T00:00:00.000Z"],
        ),
        (period("P1DT12H"), "1970-01-02/P1D", ["1970-01-01T00:00:00.000Z", "1970-01-02T12:00:00.000Z"]),
        (
            {"type": "duration", "duration": 7_200_000},
            "2026-01-01T01/PT2H",
            ["2026-01-01T00:00:00.000Z", "2026-01-01T02:00:00.000Z"],
        ),
        (
            {"type": "duration", "duration": "3600000", "origin": "2026-01-01T00:30:00Z"},
            "2026-01-01T01/PT1H",
            ["2026-01-01T00:30:00.000Z", "2026-01-01T01:30:00.000Z"],
        ),
    ],
    ids=str,
)
def test_buckets_start_at(granularity: Any, interval: str, expected: list[str]) -> None:
    assert starts(granularity, interval) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2015-09-12", "2015-09-12T00:00:00.000Z"),
        ("2015", "2015-01-01T00:00:00.000Z"),
        ("2015-09-12T00Z", "2015-09-12T00:00:00.000Z"),
        ("2015-09-12T10:30", "2015-09-12T10:30:00.000Z"),
        ("2015-09-12T10:30:01.5+02:00", "2015-09-12T08:30:01.500Z"),
        ("2015-09-12 10:30:01", "2015-09-12T10:30:01.000Z"),
        ("2015-09-12T24:00", "2015-09-13T00:00:00.000Z"),
    ],
)
def test_instants_are_read_in_any_precision(text: str, expected: str) -> None:
    assert stamp(parse_instant(text)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2015-09-12/P1D", ["2015-09-12T00:00:00.000Z/2015-09-13T00:00:00.000Z"]),
        ("P1M/2015-03-31", ["2015-02-28T00:00:00.000Z/2015-03-31T00:00:00.000Z"]),
        (["2015-09-13/P1D", "2015-09-12/P1D"], ["2015-09-12T00:00:00.000Z/2015-09-14T00:00:00.000Z"]),
        (
            {"type": "intervals", "intervals": ["2015-09-12T00Z/2015-09-12T01Z"]},
            ["2015-09-12T00:00:00.000Z/2015-09-12T01:00:00.000Z"],
        ),
    ],
)
def test_intervals_are_put_together(value: Any, expected: list[str]) -> None:
    assert [f"{stamp(start)}/{stamp(end)}" for start, end in parse_intervals(value)] == expected


@pytest.mark.parametrize(
    ("granularity", "error"),
    [
        ("decade", InvalidInputError),
        ({"type": "uniform", "segmentGranularity": "day"}, UnsupportedError),
        (period("P1M2D"), InvalidInputError),
        (period("PX"), InvalidInputError),
        (period("P1D", "Mars/Olympus"), InvalidInputError),
        ({"type": "duration", "duration": 0}, InvalidInputError),
    ],
    ids=str,
)
def test_what_is_no_granularity_is_refused(granularity: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_granularity(granularity)


def test_too_many_buckets_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="buckets"):
        buckets(parse_interval("1900/2100"), parse_granularity("second"))
