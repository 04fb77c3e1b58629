"""What people see."""

from __future__ import annotations

from typing import Any

import pytest

from rta.terminal import cell, lost_range, show_rows, show_status


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (True, "yes"), (1234567, "1,234,567"), (1.5, "1.5"), (2.0, "2"), ([1, 2], "1, 2"), ({"a": 1}, "a 1")],
)
def test_cells_are_short_and_readable(value: object, text: str) -> None:
    assert cell(value) == text


def test_data_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([{"page": "\x1b[2J[red]gone[/red]\x07"}])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b[2J[red]gone[/red]\\x07" in shown


def test_status_shows_lag_restarts_and_what_was_lost(capsys: pytest.CaptureFixture[str]) -> None:
    document = {
        "actors": {"aggregator-0": {"alive": True, "restarts": 2, "reason": "did not answer for 10 s"}},
        "datasources": {"events": {"events_folded": 12345, "lag_ms": 7, "watermark_ms": 1_767_225_600_000}},
        "log": {"alive": True, "topics": {"events.1": {"bytes": 1}}},
    }
    show_status(document, {"events": {"lost": 3, "duplicated": 0}})
    shown = capsys.readouterr().out
    for word in ("aggregator-0", "did not answer for 10 s", "12,345", "2026-01-01 00:00:00", "lost", "3"):
        assert word in shown


def test_status_says_what_is_shared_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    redis = {"place": "redis://cache:6379/0", "reachable": False, "reason": "it did not answer in time"}
    cache = {"shared": False, "how": "per process: Redis is away, it did not answer in time"}
    show_status({"sharing": {"redis": redis, "cache": cache, "quotas": None}}, {})
    shown = capsys.readouterr().out
    for text in ("no quotas are set", "redis://cache:6379/0", "away: it did not answer in time", cache["how"]):
        assert str(text) in shown


def test_nothing_to_show_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([])
    show_status({}, {})
    assert "Traceback" not in capsys.readouterr().out


def test_a_lost_range_of_the_log_is_told_with_the_command_that_goes_on() -> None:
    gaps: list[dict[str, Any]] = [
        {"partition": 3, "from_offset": 10, "to_offset": 1_017, "records": 1_007},
        {"partition": 4, "from_offset": 10, "to_offset": 8, "records": 2},
        {"partition": 5, "from_offset": 10, "to_offset": None, "records": None},
    ]
    said = lost_range("clicks", gaps)
    assert "partition 3 from offset 10 to 1,017 (1,007 records)" in said
    assert "partition 4 from offset 10 (it ends 2 records before what is committed)" in said
    assert "partition 5 from offset 10 (another log, or none" in said
    assert "rta resume --datasource clicks --accept-loss" in said
    assert "and 12 more partitions" in lost_range("clicks", gaps[:1] * 20)
