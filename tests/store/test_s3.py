"""The bucket as an object store, on a real S3 server, with everything that can go wrong between it and us."""

from __future__ import annotations

import itertools
import os
import pickle
import threading
from collections.abc import Iterator

import deltalake
import pytest

from rta.errors import BadRequestError, ConfigError, NotFoundError, UnavailableError
from rta.store import layout
from rta.store.chain import Chain, Verdict
from rta.store.objects import ObjectStore, open_store
from rta.store.s3 import S3Store
from rta.store.tables import DeltaProjection
from tests.services.faulty import Faults, FaultyProxy
from tests.services.versitygw import VersityGw
from tests.store.world import START_MS, World

_prefixes = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[VersityGw]:
    served = VersityGw()
    yield served
    served.close()


@pytest.fixture
def proxy(server: VersityGw) -> Iterator[FaultyProxy]:
    between = FaultyProxy(server.port)
    yield between
    between.close()


@pytest.fixture
def store(server: VersityGw, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A place of its own in the bucket, through the proxy."""
    for name, value in server.environment(proxy.endpoint).items():
        monkeypatch.setenv(name, value)
    return S3Store(server.url(f"test/{next(_prefixes)}"))


# What every store does.


def test_put_replaces_and_put_if_absent_does_not(store: S3Store) -> None:
    store.put("a/b", b"1")
    store.put("a/b", b"2")
    assert store.put_if_absent("a/b", b"3") is False
    assert store.put_if_absent("a/c", b"4") is True
    assert (store.get("a/b"), store.get("a/c"), bytes(store.buffer("a/c"))) == (b"2", b"4", b"4")
    assert store.size("a/c") == 1


def test_listing_is_sorted_and_takes_whole_parts_of_keys(store: S3Store) -> None:
    for key in ("b/2", "a/1", "b/1/x", "b10/1"):
        store.put(key, b"x")
    assert [info.key for info in store.list("")] == ["a/1", "b/1/x", "b/2", "b10/1"]
    assert [info.key for info in store.list("b")] == ["b/1/x", "b/2"]
    assert list(store.list("nothing")) == []


def test_listing_goes_beyond_one_page(store: S3Store) -> None:
    for number in range(1100):
        store.put(f"many/{number:05d}", b"")
    assert [info.key for info in store.list("many")] == [f"many/{number:05d}" for number in range(1100)]


def test_what_is_not_there_is_not_found(store: S3Store) -> None:
    for read in (store.get, store.size, store.buffer):
        with pytest.raises(NotFoundError, match="'a/b'"):
            read("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../b", "", "a//b", ".hidden", "a\nb"])
def test_keys_cannot_leave_the_prefix(store: S3Store, key: str) -> None:
    with pytest.raises(BadRequestError, match="no object key"):
        store.put(key, b"x")


def test_writer_makes_large_objects_and_one_that_fails_makes_none(store: S3Store) -> None:
    data = os.urandom(70 << 20)
    with store.writer("a/large=1.bin") as file:
        file.write(data)
    assert store.get("a/large=1.bin") == data

    def write() -> None:
        with store.writer("a/b") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert not store.exists("a/b")


def test_many_objects_and_parts_of_one_are_read(store: S3Store) -> None:
    keys = [f"many/{number}" for number in range(20)]
    for key in keys:
        store.put(key, key.encode() * 10)
    assert [bytes(content) for content in store.buffers(keys)] == [key.encode() * 10 for key in keys]
    assert store.buffers([]) == []
    with pytest.raises(NotFoundError, match="many/99"):
        store.buffers([*keys, "many/99"])
    assert store.part("many/3", 0, 6) == b"many/3"
    assert store.part("many/3", 54, 100) == b"many/3"
    assert store.part("many/3", 6, 0) == b""
    with pytest.raises(NotFoundError):
        store.part("many/99", 0, 1)


def test_of_racing_writers_one_is_told_that_it_won(store: S3Store) -> None:
    wins: list[int] = []
    start = threading.Barrier(8)

    def race(me: int) -> None:
        start.wait()
        if store.put_if_absent("a/b", str(me).encode()):
            wins.append(me)

    threads = [threading.Thread(target=race, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.get("a/b") == str(wins[0]).encode()


def test_a_store_travels_by_its_name(store: S3Store) -> None:
    store.put("a", b"1")
    assert pickle.loads(pickle.dumps(store)).get("a") == b"1"
    assert store.uri("a") == f"{store.url}/a"


@pytest.mark.parametrize("url", ["s3://", "s3://ab/x", "s3://bucket/a//b", "s3://bucket/../x", "gs://bucket/x"])
def test_a_place_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        S3Store(url)


# What goes wrong.


def test_a_server_that_is_down_is_unavailable_within_seconds_and_fine_when_it_is_back(
    store: S3Store, proxy: FaultyProxy
) -> None:
    store.put("a", b"1")
    proxy.faults = Faults(down=True)
    for call in (store.get, store.size, store.exists, lambda key: store.put(key, b"2")):
        with pytest.raises(UnavailableError, match="'a' in 's3://") as refused:
            call("a")
        assert refused.value.retry_after_s == 5
    proxy.faults = Faults()
    assert store.get("a") == b"1"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_every_third_request_may_fail(store: S3Store, proxy: FaultyProxy, status: int) -> None:
    proxy.faults = Faults(every=3, status=status)
    tries = 0
    for number in range(20):
        while True:
            tries += 1
            assert tries < 60
            try:
                store.put(f"a/{number}", str(number).encode())
                break
            except UnavailableError:
                continue
    proxy.faults = Faults()
    assert [store.get(f"a/{number}") for number in range(20)] == [str(number).encode() for number in range(20)]


def test_a_slow_server_is_only_slow(store: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults = Faults(delay_s=0.5)
    assert store.put_if_absent("a", b"1")
    assert store.get("a") == b"1"


def test_wrong_credentials_are_named(server: VersityGw, store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UnavailableError, match="AWS_SECRET_ACCESS_KEY"):
        S3Store(server.url("denied")).put("a", b"1")


def test_a_bucket_that_is_not_there_is_said_when_the_store_is_opened(store: S3Store) -> None:
    with pytest.raises(UnavailableError, match=r"s3://no-such-bucket/x.*there is no such bucket"):
        open_store("s3://no-such-bucket/x")


def test_an_append_whose_answer_was_lost_is_found_again(store: S3Store, proxy: FaultyProxy) -> None:
    lost = itertools.count()
    proxy.faults = Faults(forget=lambda method, path: method == "PUT" and next(lost) < 1)
    outcome = Chain(store, "chain").append(0, b"ours")
    assert proxy.forgotten == 1
    assert outcome.verdict is Verdict.DONE
    assert store.get(layout.number_key("chain", 0)) == b"ours"


def test_an_append_whose_answers_are_all_lost_is_found_by_reading(store: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults = Faults(forget=lambda method, path: method == "PUT")
    assert Chain(store, "chain").append(0, b"ours").verdict is Verdict.DONE
    assert proxy.forgotten >= 1


def test_an_append_that_came_second_is_lost_also_when_its_answer_is(store: S3Store, proxy: FaultyProxy) -> None:
    assert Chain(store, "chain").append(0, b"theirs").verdict is Verdict.DONE
    proxy.faults = Faults(forget=lambda method, path: method == "PUT")
    outcome = Chain(store, "chain").append(0, b"ours")
    assert (outcome.verdict, outcome.content) == (Verdict.LOST, b"theirs")


def test_appends_of_racing_coordinators_make_one_chain(store: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults = Faults(every=5)
    done: dict[int, list[bytes]] = {me: [] for me in range(3)}

    def run(me: int) -> None:
        chain, number = Chain(store, "chain"), 0
        while number < 12:
            content = f"{me} at {number}".encode()
            try:
                if chain.append(number, content).verdict is Verdict.DONE:
                    done[me].append(content)
                number += 1
            except UnavailableError:
                continue

    threads = [threading.Thread(target=run, args=(me,)) for me in done]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    proxy.faults = Faults()
    there = {store.get(layout.number_key("chain", number)) for number in range(12)}
    assert there == {content for contents in done.values() for content in contents}
    assert sum(len(contents) for contents in done.values()) == 12


def test_tables_on_a_bucket_are_read_by_deltalake(store: S3Store) -> None:
    world = World(store)
    world.epochs(2, rows=20)
    newest = world.newest.number
    DeltaProjection(store, world.folder, world.datasource).advance(world.manifests, newest, START_MS)
    uri = store.uri(layout.table(world.folder, "events"))
    table = deltalake.DeltaTable(uri, storage_options=store.storage_options())
    assert table.to_pyarrow_table().num_rows == sum(file.rows for file in world.expected("events", newest)) > 0


def same(store: ObjectStore) -> ObjectStore:
    """mypy's word that a bucket is an object store."""
    return store


def test_a_bucket_is_an_object_store(store: S3Store) -> None:
    assert same(store) is store
