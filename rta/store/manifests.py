"""The manifests of one datasource as every process reads them, and as the coordinator puts them.

Owns the decoding, a bounded cache (a manifest never changes) and the archive: old contents move into compressed blocks
while an object stays at every number (rule 9). What a manifest may say is `rta.store.commit`'s.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import msgspec
import zstandard

from rta.errors import CorruptFileError, InvariantError, NotFoundError
from rta.store import layout
from rta.store.chain import Chain, Outcome
from rta.store.model import Manifest
from rta.store.objects import ObjectStore

CACHED_MAX = 64
BLOCK = 1000
"""Manifests of one archive block."""


class _Archived(msgspec.Struct, frozen=True):
    """What stays at the number of a manifest whose content has moved."""

    archived: int
    number: int


class ManifestLog:
    """The chain of one datasource's manifests. Safe to share between threads only for reading."""

    def __init__(self, store: ObjectStore, folder: str) -> None:
        self.folder = folder
        self._store = store
        self._chain = Chain(store, layout.manifests(folder), self._resolve)
        self._cache: OrderedDict[int, Manifest] = OrderedDict()
        self._newest: int | None = None
        self._block: tuple[int, list[msgspec.Raw]] | None = None

    def newest(self) -> Manifest | None:
        """The newest manifest in the store now; None before the first. Cost: one request when nothing is new."""
        found = self._chain.newest(self._newest)
        if found is None:
            return None if self._newest is None else self.get(self._newest)
        self._newest, content = found
        return self._cache.get(self._newest) or self._remember(self._decode(self._newest, content))

    def get(self, number: int) -> Manifest:
        """Raises NotFoundError for a number that nobody has put yet."""
        known = self._cache.get(number)
        if known is not None:
            self._cache.move_to_end(number)
            return known
        return self._remember(self._decode(number, self._chain.get(number)))

    def read(self, first: int, last: int) -> Iterator[Manifest]:
        """Manifests `first` through `last`, in order."""
        for number in range(first, last + 1):
            yield self.get(number)

    def put(self, manifest: Manifest) -> Outcome:
        """Put it if its number is free. `done` means that it is there, whoever's answer was lost; `lost` is fenced.

        Raises:
            UnavailableError: unknown. Put the very same manifest again.
            InvariantError: it does not follow its predecessor.
        """
        if manifest.number > 0:
            previous = self.get(manifest.number - 1)
            if manifest.previous != previous.commit_id:
                raise InvariantError(
                    f"manifest {manifest.number} of '{self.folder}' follows '{manifest.previous}', "
                    f"number {previous.number} is '{previous.commit_id}'"
                )
        outcome = self._chain.append(manifest.number, manifest.encode())
        self._newest = max(manifest.number, self._newest or 0)
        self._remember(manifest if outcome.done else self._decode(manifest.number, outcome.content))
        return outcome

    def archive(self, below: int) -> int:
        """Move the contents of one whole block that lies below `below`, the oldest first. Returns how many moved.

        An object stays at every number, so that a put of a stalled coordinator still finds it taken. Safe to repeat
        after a crash at any point: the block is written before the first number points to it.
        """
        block = self._first_unarchived_block()
        first = block * BLOCK
        if first + BLOCK > below:
            return 0
        contents = [self._chain.get(number) for number in range(first, first + BLOCK)]
        packed = zstandard.ZstdCompressor(level=9).compress(b"[" + b",".join(contents) + b"]")
        self._store.put(layout.archive(self.folder, block), packed)
        for number in range(first, first + BLOCK):
            stub = msgspec.json.encode(_Archived(archived=block, number=number))
            self._store.put(layout.number_key(self._chain.prefix, number), stub)
        return BLOCK

    def _first_unarchived_block(self) -> int:
        """Blocks are archived in order and their numbers in order, so the last number of each tells."""
        blocks = sorted(info.key for info in self._store.list(f"{self.folder}/archive"))
        if not blocks:
            return 0
        last = int(blocks[-1].rpartition("/")[2].split(".")[0])
        stored = self._store.get(layout.number_key(self._chain.prefix, (last + 1) * BLOCK - 1))
        return last + 1 if stored.startswith(b'{"archived"') else last

    def _resolve(self, stored: bytes) -> bytes:
        if not stored.startswith(b'{"archived"'):
            return stored
        stub = msgspec.json.decode(stored, type=_Archived)
        if self._block is None or self._block[0] != stub.archived:
            key = layout.archive(self.folder, stub.archived)
            try:
                raw = zstandard.ZstdDecompressor().decompress(self._store.get(key), max_output_size=1 << 31)
                self._block = (stub.archived, msgspec.json.decode(raw, type=list[msgspec.Raw]))
            except (zstandard.ZstdError, msgspec.DecodeError, NotFoundError) as error:
                raise CorruptFileError(f"reading archived manifests in '{key}': {error}") from error
        return bytes(self._block[1][stub.number - stub.archived * BLOCK])

    def _decode(self, number: int, content: bytes) -> Manifest:
        try:
            return msgspec.json.decode(content, type=Manifest)
        except msgspec.DecodeError as error:
            key = layout.number_key(self._chain.prefix, number)
            raise CorruptFileError(f"reading manifest '{key}': {error}", "restore it from a backup") from error

    def _remember(self, manifest: Manifest) -> Manifest:
        self._cache[manifest.number] = manifest
        while len(self._cache) > CACHED_MAX:
            self._cache.popitem(last=False)
        return manifest
