"""One system on a store: a second one is refused, a dead one is followed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import msgspec
import pytest

from rta.errors import ConflictError
from rta.store import layout, lease
from rta.store.lease import Holder, Lease
from tests.store.memory import MemoryStore


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_S", 0.5)
    monkeypatch.setattr(lease, "LOOK_S", 0.02)


def test_a_second_system_is_refused_while_the_first_renews() -> None:
    store = MemoryStore()
    first = Lease(store, "first", os.getpid(), "http://one")
    first.take()
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(0.05):
            assert first.renew()

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(ConflictError, match=rf"process {os.getpid()} on .*http://one"):
            Lease(store, "second", 1, "http://two").take()
    finally:
        stop.set()
        thread.join()
    assert first.renew()


def test_one_that_no_longer_renews_is_followed_and_then_says_nothing_any_more() -> None:
    store = MemoryStore()
    first = Lease(store, "first", os.getpid(), "http://one")
    first.take()
    second = Lease(store, "second", os.getpid(), "http://two")
    second.take()
    assert not first.renew()
    first.release()
    holder = second.holder()
    assert holder is not None
    assert holder.run == "second"


def test_one_whose_process_has_ended_here_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_S", 60.0)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    store = MemoryStore()
    Lease(store, "first", ended.pid, "http://one").take()
    Lease(store, "second", os.getpid(), "http://two").take()
    assert msgspec.json.decode(store.get(layout.LEASE), type=Holder).run == "second"


def test_a_system_that_stopped_leaves_the_store_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_S", 60.0)
    store = MemoryStore()
    first = Lease(store, "first", os.getpid(), "http://one")
    first.take()
    first.release()
    Lease(store, "second", os.getpid(), "http://two").take()
    assert store.exists(layout.LEASE)


def test_its_own_coordinator_takes_the_store_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_S", 60.0)
    store = MemoryStore()
    Lease(store, "run", os.getpid(), "http://one").take()
    Lease(store, "run", os.getpid(), "http://one").take()
    holder = Lease(store, "run", 0, "").holder()
    assert holder is not None
    assert holder.beats == 2
