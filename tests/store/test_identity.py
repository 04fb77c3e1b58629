"""A store's own name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rta.errors import StoreFormatError
from rta.store import layout
from rta.store.identity import identity
from rta.store.objects import open_store


def test_a_store_keeps_its_name_and_no_other_has_it(tmp_path: Path) -> None:
    first = identity(open_store(str(tmp_path / "a")))
    assert len(first) == 32
    assert identity(open_store(str(tmp_path / "a"))) == first
    assert identity(open_store(str(tmp_path / "b"))) != first


def test_all_who_ask_at_once_get_one_name(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: identity(store), range(32)))) == 1


def test_a_name_that_can_not_be_read_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put(layout.IDENTITY, b"{}")
    with pytest.raises(StoreFormatError, match=r"'identity\.json' can't be read"):
        identity(store)
