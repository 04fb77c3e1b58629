"""What people see."""

from __future__ import annotations

import pytest

from rta.terminal import cell, show_document, show_rows


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


def test_a_document_shows_plain_values_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    show_document({"lag_ms": 5, "actors": [{"name": "a", "restarts": 2}], "datasources": {"events": {"rows": 7}}})
    shown = capsys.readouterr().out
    for word in ("lag_ms", "actors", "restarts", "datasources", "events", "rows", "7"):
        assert word in shown


def test_no_rows_are_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([])
    show_document({})
    assert "Traceback" not in capsys.readouterr().out
