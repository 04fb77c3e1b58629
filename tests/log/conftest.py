"""Compiled once before any test: no law's first example may pay for it."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.log.made_batches import data, marker, packed

settings.register_profile("rta-log", deadline=None)
settings.load_profile("rta-log")


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    from rta.log.kafka.batches import Aborted, Unpacker, read_chunks

    content = packed(data(0, b"v", producer=1)) + packed(marker(1, 1, 0))
    [chunk] = read_chunks("warm", 0, 0, content, [Aborted(2, 0)], 0)
    for _ in Unpacker.make().unpack("warm", chunk):
        pass
