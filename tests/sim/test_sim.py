"""The commit protocol holds in every schedule, and each of its rules is needed for that.

A failing seed is shown again by `python -m tests.sim --schedules 1 --seed N [--rule NAME]`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.rules import RULES, broken
from tests.sim.schedule import run_schedule

SCHEDULES = 300
PIECE = 50
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", range(0, SCHEDULES, PIECE))
def test_nothing_is_lost_doubled_or_stuck_in_any_schedule(first: int) -> None:
    for seed in range(first, first + PIECE):
        outcome = run_schedule(seed)
        assert outcome.violation is None, f"python -m tests.sim --schedules 1 --seed {seed}: {outcome.violation}"


@pytest.mark.parametrize("name", sorted(RULES))
def test_without_the_rule_some_schedule_fails(name: str) -> None:
    """One that passes with the rule, as all below `SCHEDULES` do."""
    rule = RULES[name]
    assert all(seed < SCHEDULES for seed in rule.seeds)
    for seed in (*rule.seeds, *range(SCHEDULES)):
        violation = run_schedule(seed, broken(name)).violation
        if violation is not None and violation.startswith(rule.damage):
            return
    pytest.fail(f"rule {name} ({rule.broken}) is broken, and no schedule notices")


def test_a_seed_is_the_same_schedule_in_every_process() -> None:
    code = "from tests.sim.schedule import run_schedule; print([run_schedule(s) for s in (7, 55)])"
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert said[0] == said[1]
