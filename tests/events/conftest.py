"""Compiled once before any test: no law's first example may pay for it."""

from __future__ import annotations

import pytest
from hypothesis import settings

from rta.events.decode import warm_up

settings.register_profile("rta-events", deadline=None)
settings.load_profile("rta-events")


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    warm_up()
