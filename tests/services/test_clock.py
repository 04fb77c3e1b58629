"""The stepped clock itself: what day it is moves, waiting does not, in Python and in what is below it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.services.clock import Clock

CODE = """
import sys, threading, time
for line in sys.stdin:
    began = time.monotonic()
    threading.Event().wait(0.05)
    time.sleep(0.05)
    print(time.time(), time.monotonic() - began, flush=True)
"""


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    yield made
    made.close()


def test_a_step_moves_the_day_and_no_waiting(clock: Clock) -> None:
    environment = {**os.environ, **clock.environment()}
    with subprocess.Popen(
        [sys.executable, "-c", CODE], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for ahead_s in (0, 3600, -3600, 0):
            clock.step(ahead_s)
            process.stdin.write("\n")
            process.stdin.flush()
            said, waited = map(float, process.stdout.readline().split())
            assert said - time.time() == pytest.approx(ahead_s, abs=2)
            assert 0.1 <= waited < 2
        process.stdin.close()
