"""Crash points: armed by a setting once, or by a file in a running system, and only where the setting says so."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from rta.actors.crash import BY_FILE, FILES_WRITTEN, MANIFEST_PUT, CrashPoints, arming_file
from rta.errors import ConfigError
from tests.actors.test_watch import site

CODE = """
import sys, msgspec
from pathlib import Path
from rta.actors.crash import CrashPoints
from rta.actors.links import Site
points = CrashPoints(msgspec.json.decode(sys.argv[1], type=Site))
for point in sys.argv[2:]:
    points.reach(point)
"""


def reached(folder: Path, crash_at: str | None, *points: str) -> int:
    """How a process ends that reaches these points."""

    made = msgspec.structs.replace(site(folder, 1), crash_at=crash_at)
    command = [sys.executable, "-c", CODE, msgspec.json.encode(made).decode(), *points]
    return subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode


def test_a_file_arms_one_crash_of_a_running_system(tmp_path: Path) -> None:
    armed = arming_file(tmp_path, MANIFEST_PUT)
    assert reached(tmp_path, BY_FILE, MANIFEST_PUT) == 0
    armed.touch()
    assert reached(tmp_path, BY_FILE, FILES_WRITTEN) == 0
    assert reached(tmp_path, BY_FILE, FILES_WRITTEN, MANIFEST_PUT) == -signal.SIGKILL
    assert not armed.exists()
    assert reached(tmp_path, BY_FILE, MANIFEST_PUT) == 0


def test_without_the_setting_a_file_means_nothing(tmp_path: Path) -> None:
    arming_file(tmp_path, MANIFEST_PUT).touch()
    assert reached(tmp_path, None, MANIFEST_PUT) == 0


def test_the_setting_counts_and_crashes_once(tmp_path: Path) -> None:
    assert reached(tmp_path, f"{MANIFEST_PUT}:2", MANIFEST_PUT) == 0
    assert reached(tmp_path, f"{MANIFEST_PUT}:2", MANIFEST_PUT, MANIFEST_PUT) == -signal.SIGKILL
    assert reached(tmp_path, f"{MANIFEST_PUT}:2", MANIFEST_PUT, MANIFEST_PUT) == 0


def test_an_unknown_point_is_refused(tmp_path: Path) -> None:

    with pytest.raises(ConfigError, match="'tomorrow'"):
        CrashPoints(msgspec.structs.replace(site(tmp_path, 1), crash_at="tomorrow"))
