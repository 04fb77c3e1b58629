"""Tests that await run on asyncio; plain objects stand for the rest of the system."""

from __future__ import annotations

import pytest

from tests.serve.fakes import FakeControl, FakeDefinitions, FakeService, FakeWriter


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def definitions() -> FakeDefinitions:
    return FakeDefinitions()


@pytest.fixture
def writer() -> FakeWriter:
    return FakeWriter()


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()
