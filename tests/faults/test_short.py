"""Every fault once, briefly: the short form of `make faults`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.campaign import campaign
from tests.faults.faults import possible

SEED = int(os.environ.get("FAULT_SEED", "20260101"))


@pytest.mark.timeout(900)
def test_no_fault_loses_or_doubles_anything(tmp_path: Path) -> None:
    outcomes = campaign(tmp_path, possible(), seed=SEED, rate=4_000, hold_s=6.0, minutes=0.0)
    assert {outcome.name for outcome in outcomes} == set(possible())
