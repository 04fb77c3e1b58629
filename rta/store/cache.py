"""Rollup files kept decoded in memory, so that a small question reads no file.

Files are immutable, so a path is a key and nothing is ever stale. Owns the bound on memory and what is let go first
(what was asked for longest ago). The form of the rows is `rta.query.block`'s; which files a question needs is the
view's word.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from rta.events.schemas import Datasource, Rollup
from rta.query.block import Block, Dictionaries
from rta.store.model import FileRef
from rta.store.objects import ObjectStore
from rta.store.parquet import read_files

DECODED_SHARE = 1.7
"""What a block costs when all its columns are decoded, as a multiple of its frame: of lists also codes and bins of the items."""
DICTIONARY_SHARE_MAX = 0.25
"""A table whose dictionaries take more than this share of the memory begins new ones."""

Table = tuple[str, str]
"""A datasource's folder and a table."""


class FileCache:
    """Decoded rollup files of all datasources. Safe for threads.

    Args:
        bytes_max: Bound on the estimated memory of blocks and dictionaries together. A single question may pass it
        while
            it runs: what it reads is its own.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._blocks: OrderedDict[tuple[Table, str], Block] = OrderedDict()
        self._dictionaries: dict[Table, Dictionaries] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    @property
    def bytes(self) -> int:
        """Estimated memory of everything that is kept."""
        return self._bytes + sum(d.bytes for d in list(self._dictionaries.values()))

    def dictionaries(self, datasource: Datasource, rollup: Rollup) -> Dictionaries:
        """Those that all blocks of the rollup share at present; rows beyond the files are encoded with them too."""
        table = (datasource.folder, rollup.table)
        with self._lock:
            found = self._dictionaries.get(table)
            if found is not None and found.bytes > self._bytes_max * DICTIONARY_SHARE_MAX:
                self._forget(table)
                found = None
            if found is None:
                found = self._dictionaries[table] = Dictionaries()
            return found

    def blocks(
        self,
        store: ObjectStore,
        datasource: Datasource,
        rollup: Rollup,
        files: Sequence[FileRef],
        dictionaries: Dictionaries,
    ) -> list[Block]:
        """The files' rows, read where they are not here yet.

        Raises:
            CorruptFileError: a file can't be read; it is named.
        """
        table = (datasource.folder, rollup.table)
        found = [self._known(table, file, dictionaries) for file in files]
        out: list[Block] = []
        for file, block in zip(files, found, strict=True):
            if block is None:
                frame = read_files(store, datasource.folder, [file], datasource.rollup_schema(rollup))
                block = Block(frame, dictionaries)
                self._keep(table, file, block)
            out.append(block)
        return out

    def known_blocks(
        self, datasource: Datasource, rollup: Rollup, files: Sequence[FileRef], dictionaries: Dictionaries
    ) -> list[Block] | None:
        """The files' rows if all of them are here; reads nothing."""
        table = (datasource.folder, rollup.table)
        with self._lock:
            keys = [(table, file.path) for file in files]
            found = [block for key in keys if (block := self._blocks.get(key)) is not None]
            if len(found) < len(keys) or any(block.dictionaries is not dictionaries for block in found):
                return None
            self.hits += len(found)
            for key in keys:
                self._blocks.move_to_end(key)
            return found

    def _known(self, table: Table, file: FileRef, dictionaries: Dictionaries) -> Block | None:
        with self._lock:
            block = self._blocks.get((table, file.path))
            if block is None or block.dictionaries is not dictionaries:
                self.misses += 1
                return None
            self.hits += 1
            self._blocks.move_to_end((table, file.path))
            return block

    def _keep(self, table: Table, file: FileRef, block: Block) -> None:
        with self._lock:
            if self._dictionaries.get(table) is not block.dictionaries:
                return
            before = self._blocks.pop((table, file.path), None)
            self._bytes += _cost(block) - (_cost(before) if before is not None else 0)
            self._blocks[table, file.path] = block
            while self._blocks and self._bytes > self._bytes_max:
                _, oldest = self._blocks.popitem(last=False)
                self._bytes -= _cost(oldest)

    def _forget(self, table: Table) -> None:
        """Under the lock."""
        self._dictionaries.pop(table, None)
        for key in [k for k in self._blocks if k[0] == table]:
            self._bytes -= _cost(self._blocks.pop(key))


def _cost(block: Block) -> int:
    return int(block.frame_bytes * DECODED_SHARE)
