"""Exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rta
from rta import cli
from rta.config import Settings
from rta.errors import ConflictError
from tests.cli.fake_server import FakeServer

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rta.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, **options)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings file and no data folder of the checkout."""
    monkeypatch.chdir(tmp_path)


def test_version_and_help_go_to_standard_output() -> None:
    assert run("--version").stdout == f"rta {rta.__version__}\n"
    help_text = run("--help")
    assert help_text.returncode == 0
    for word in ("demo", "up", "down", "status", "send", "query", "sql", "generate"):
        assert word in help_text.stdout


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, rta.cli; rta.cli.build_parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    loaded = set(done.stdout.split())
    assert "rta.cli" in loaded
    assert not loaded & {"ray", "polars", "pyarrow", "numpy", "numba", "httpx", "pydantic", "rich"}


@pytest.mark.parametrize("module", ["rta.client", "rta.send", "rta.terminal", "rta.generate.run", "rta.demo.play"])
def test_clients_do_not_import_ray(module: str) -> None:
    code = f"import sys, {module}; print('ray' in sys.modules, 'rta.serve' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["send"],
        ["up", "--port", "many"],
        ["generate", "--rate", "-1"],
        ["generate", "-o", "-"],
        ["generate", "--rate", "0", "--history", "1h"],
        ["generate", "--start", "yesterday", "--seconds", "1"],
    ],
)
def test_bad_usage_is_exit_code_2_and_says_why(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = cli.main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    shown = capsys.readouterr()
    assert code == 2
    assert shown.out == ""
    assert "error:" in shown.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["send", "no-such-file"], "'no-such-file' can't be read"),
        (["query", "no-such-file"], "'no-such-file' can't be read"),
        (["query", "{not json"], "is no JSON"),
        (["query", "[1]"], "can't be read"),
        (["status", "--url", "here"], "is no address"),
        (["status", "--url", "http://127.0.0.1:1"], "nothing listens there"),
        (["generate", "--seconds", "1", "-o", "no/such/folder"], "can't be written"),
        (["up", "--config", "no-such.yaml"], "no-such.yaml"),
    ],
)
def test_failures_are_exit_code_1_with_a_hint(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert words in shown.err
    assert "hint: " in shown.err


def test_send_prints_counts_and_the_refused(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text('{"a": 1}\n{"bad": 1}\n')
    assert cli.main(["send", str(path), "--url", server.url]) == 1
    shown = capsys.readouterr()
    assert shown.out == "2 events: 1 successful, 1 failed\n"
    assert "event 2: wrong_type: bad is bad" in shown.err
    path.write_text('{"a": 1}\n')
    assert cli.main(["send", str(path), "--url", server.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["successful"] == 1


def test_send_waits_with_the_position(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text('{"a": 1}\n')
    assert cli.main(["send", str(path), "--url", server.url, "--wait"]) == 0
    assert len(server.queries) == 1
    assert server.queries[0]["after"]


def test_send_reads_a_pipe(server: FakeServer) -> None:
    done = run("send", "-", "--url", server.url, input='[{"a": 1}, {"a": 2}]')
    assert (done.returncode, done.stdout) == (0, "2 events: 2 successful, 0 failed\n")


def test_query_takes_json_a_file_and_a_pipe(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = {"rows": [{"n": 1234}], "meta": {"complete": False, "sources": ["hot"], "elapsed_ms": 1.0}}
    (tmp_path / "question.json").write_text('{"datasource": "file"}')
    assert cli.main(["query", '{"datasource": "text"}', "--url", server.url]) == 0
    shown = capsys.readouterr()
    assert "1,234" in shown.out
    assert "not complete" in shown.err
    assert cli.main(["query", "question.json", "--url", server.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [{"n": 1234}]
    assert run("query", "-", "--url", server.url, input='{"datasource": "pipe"}').returncode == 0
    assert [question["datasource"] for question in server.queries] == ["text", "file", "pipe"]


def test_sql_takes_a_statement_or_a_pipe(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    meta = {"complete": True, "sources": ["events"], "elapsed_ms": 1.0, "truncated": True, "row_limit": 1}
    server.answer = {"rows": [{"n": 1234}], "meta": meta}
    assert cli.main(["sql", "SELECT 1", "--url", server.url]) == 0
    shown = capsys.readouterr()
    assert "1,234" in shown.out
    assert "at most 1 rows" in shown.err
    assert cli.main(["sql", "SELECT 2", "--url", server.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [{"n": 1234}]
    assert run("sql", "-", "--url", server.url, input="SELECT 3").returncode == 0
    assert [question["query"] for question in server.queries] == ["SELECT 1", "SELECT 2", "SELECT 3"]


def test_status_is_a_table_or_json(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--url", server.url]) == 0
    assert "aggregator-0" in capsys.readouterr().out
    assert cli.main(["status", "--url", server.url, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["datasources"]["events"]["lag_ms"] == 12
    assert shown["ledger"]["events"]["lost"] == 0


def test_the_address_comes_from_the_settings(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTA_PORT", server.url.rpartition(":")[2])
    assert cli.main(["status", "--json"]) == 0


def test_generate_writes_a_file_or_a_pipe(tmp_path: Path) -> None:
    done = run("generate", "--rate", "100", "--seconds", "2", "-o", "-")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 200
    assert cli.main(["generate", "--rate", "1", "--history", "100s", "-o", "events.ndjson"]) == 0
    lines = (tmp_path / "events.ndjson").read_text().splitlines()
    assert len(lines) == 100
    begun = ["generate", "--rate", "1", "--seconds", "10", "--start", "2026-01-01T00:00:00Z", "-o", "then.ndjson"]
    assert cli.main(begun) == 0
    assert json.loads((tmp_path / "then.ndjson").read_text().splitlines()[-1])["timestamp"] < "2026-01-01T00:00:10"


def test_generate_sends_what_it_says(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "--rate", "2000", "--seconds", "0.5", "--url", server.url]) == 0
    assert "1,000 events, 0 refused" in capsys.readouterr().err
    assert len(server.events()) == 1000


def test_generate_stops_cleanly_on_a_signal() -> None:
    command = [sys.executable, "-m", "rta.cli", "generate", "--rate", "100", "--url", "http://127.0.0.1:1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stderr is not None
    assert "waiting" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert "not acknowledged" in rest
    assert "Traceback" not in rest


def fake_launch(monkeypatch: pytest.MonkeyPatch, up: Callable[..., int]) -> None:
    launch = types.ModuleType("rta.launch")
    launch.up = up  # type: ignore[attr-defined]  # a module is what the command imports
    launch.down = lambda settings: 0  # type: ignore[attr-defined]  # see above
    monkeypatch.setitem(sys.modules, "rta.launch", launch)
    monkeypatch.setattr(rta, "launch", launch, raising=False)


def test_up_and_down_hand_over_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Settings] = []

    def up(settings: Settings) -> int:
        seen.append(settings)
        return 0

    fake_launch(monkeypatch, up)
    assert cli.main(["up", "--port", "9001", "--data-dir", "here"]) == 0
    assert (seen[0].port, seen[0].data_dir) == (9001, tmp_path / "here")
    assert cli.main(["down"]) == 0


def test_a_refused_start_is_a_message_not_a_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def up(settings: Settings) -> int:
        raise ConflictError(f"port {settings.port} is held by process 1", "choose another with --port")

    fake_launch(monkeypatch, up)
    assert cli.main(["up"]) == 1
    shown = capsys.readouterr().err
    assert shown == "error: port 8000 is held by process 1\nhint: choose another with --port\n"


def demo_against(server: FakeServer, monkeypatch: pytest.MonkeyPatch, until: Callable[[], bool]) -> int:
    """Run the demo with the fake server in place of a whole system; ends when `until` holds or it gave up."""

    def up(settings: Settings, on_ready: Callable[[str], None]) -> int:
        ended = threading.Event()
        monkeypatch.setattr(os, "kill", lambda *_: ended.set())
        thread = threading.Thread(target=on_ready, args=(server.url,), daemon=True)
        thread.start()
        for _ in range(3000):
            if until() or ended.wait(0.02):
                return 0
        raise AssertionError("the demo did not get that far")

    fake_launch(monkeypatch, up)
    return cli.main(["demo"])


def test_the_demo_loads_compares_and_keeps_the_shop_open(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rta.demo.play import EDITS, published_pages

    server.answer["rows"] = [{"page": page, "edits": edits} for page, edits in published_pages()]
    code = demo_against(server, monkeypatch, lambda: any(taken.datasource == "events" for taken in server.taken))
    shown = capsys.readouterr().err
    assert code == 0
    assert "matches the published answer" in shown
    assert "Wikipedia:Vandalismusmeldung" in shown
    assert f"{server.url}/docs" in shown
    assert len([event for event in server.events() if "channel" in event]) == EDITS
    assert server.datasources["wikipedia"]["time"] == "time"


def test_the_demo_fails_when_the_answer_differs(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer["rows"] = [{"page": "Jeremy Corbyn", "edits": 28}]
    assert demo_against(server, monkeypatch, lambda: False) == 1
    assert "differ from the published ones" in capsys.readouterr().err
