"""A coordinator that says nothing is ended: soon when it stands still, later while it is starting, and never another process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from rta.actors.silence import MISSES_MAX, STARTING_MISSES_MAX, Silence
from tests.system.running import wait_for


@pytest.fixture
def process() -> Iterator[psutil.Process]:
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield psutil.Process(started.pid)
    started.kill()
    started.wait()


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def missed(silence: Silence, times: int) -> None:
    for _ in range(times):
        silence.missed()


def test_one_that_has_answered_is_ended_after_its_last_chance(process: psutil.Process) -> None:
    silence = Silence(lambda: [process])
    silence.answered(process.pid)
    missed(silence, MISSES_MAX - 1)
    silence.answered(process.pid)
    missed(silence, MISSES_MAX - 1)
    assert alive(process)
    silence.missed()
    process.wait(10)
    assert not alive(process)


def test_one_that_froze_before_its_first_answer_is_ended_as_soon(process: psutil.Process) -> None:
    silence = Silence(lambda: [process] if alive(process) else [])
    silence.answered(2**22 + 1)
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED, "it stands still")
    missed(silence, MISSES_MAX)
    process.wait(10)
    assert not alive(process)


def test_one_that_is_starting_is_given_time(process: psutil.Process) -> None:
    silence = Silence(lambda: [process])
    missed(silence, STARTING_MISSES_MAX - 1)
    assert alive(process)
    silence.missed()
    process.wait(10)


def test_the_silence_of_a_predecessor_is_not_held_against_a_successor(process: psutil.Process) -> None:
    found: list[psutil.Process] = []
    silence = Silence(lambda: found)
    missed(silence, STARTING_MISSES_MAX)
    found.append(process)
    silence.missed()
    assert alive(process)
