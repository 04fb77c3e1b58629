"""The name of a store: made once, at random, and kept in it. What systems share elsewhere is told apart by it."""

from __future__ import annotations

import uuid

import msgspec

from rta.errors import StoreFormatError
from rta.store import layout
from rta.store.objects import ObjectStore


class _Identity(msgspec.Struct, frozen=True):
    id: str


def identity(store: ObjectStore) -> str:
    """The store's name; two processes that make it at once get the same. Raises UnavailableError, StoreFormatError."""
    store.put_if_absent(layout.IDENTITY, msgspec.json.encode(_Identity(uuid.uuid4().hex)))
    try:
        return msgspec.json.decode(store.get(layout.IDENTITY), type=_Identity).id
    except msgspec.DecodeError as error:
        raise StoreFormatError(
            f"the store's '{layout.IDENTITY}' can't be read: {error}", "remove the file: it is made again"
        ) from error
