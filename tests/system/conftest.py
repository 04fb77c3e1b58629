"""One running system for the tests that only ask and send; tests that kill start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.running import Running


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("system")).start()
    yield running
    assert running.stop() == 0


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    return tmp_path / "own"
