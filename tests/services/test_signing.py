"""A client whose clock is wrong is refused by a bucket, and served through the proxy that signs its requests again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.clock import Clock
from tests.services.faulty import FaultyProxy
from tests.services.versitygw import SECRET, VersityGw

CODE = """
import sys
from rta.store.objects import open_store
store = open_store(sys.argv[1])
store.put("a/b=1.txt", b"x" * 100)
assert store.put_if_absent("a/c", b"2") and not store.put_if_absent("a/c", b"3")
assert sorted(info.key for info in store.list("a")) == ["a/b=1.txt", "a/c"]
assert store.part("a/b=1.txt", 1, 3) == b"xxx"
store.delete("a/c")
"""


@pytest.fixture(scope="module")
def server() -> Iterator[VersityGw]:
    made = VersityGw()
    yield made
    made.close()


def done(server: VersityGw, secret: str | None, ahead_s: int, prefix: str) -> subprocess.CompletedProcess[str]:
    """The code above in a process whose clock is so wrong, through a proxy."""
    proxy, clock = FaultyProxy(server.port, secret), Clock()
    clock.step(ahead_s)
    try:
        environment = {**os.environ, **server.environment(proxy.endpoint), **clock.environment()}
        command = [sys.executable, "-c", CODE, server.url(prefix)]
        return subprocess.run(
            command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
        )
    finally:
        clock.close()
        proxy.close()


@pytest.mark.parametrize("ahead_s", [3600, -3600, 0])
def test_requests_of_a_wrong_clock_are_signed_again(server: VersityGw, ahead_s: int) -> None:
    said = done(server, SECRET, ahead_s, f"again{ahead_s + 10_000}")
    assert said.returncode == 0, said.stderr


def test_a_bucket_refuses_a_wrong_clock(server: VersityGw) -> None:
    said = done(server, None, 3600, "refused")
    assert said.returncode != 0
    assert "UnavailableError" in said.stderr
