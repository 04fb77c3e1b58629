"""Id runs and saved states: the files of an epoch that are no tables.

A run file is raw little-endian uint64 pairs (high, low half of an identity), slice after slice; a slice is sorted and
belongs to one partition and step. Owns writing them durably before a part names them and mapping them back. What is in
them, and when a run is forgotten, is the fold's business.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from crc32c import crc32c

from rta.errors import CorruptFileError, NotFoundError
from rta.store import layout
from rta.store.model import RunRef
from rta.store.objects import ObjectStore
from rta.stream.model import Identities, RunWrite

IDENTITY_BYTES = 16
PAIR = np.dtype("<u8")


def write_runs(store: ObjectStore, folder: str, path: str, writes: Sequence[RunWrite]) -> tuple[RunRef, ...]:
    """Write the slices of one epoch into one file, durable on return, and say where each lies, in the same order.

    Args:
        path: From `layout.run_path`; nothing is written when there are no slices.
    """
    if not writes:
        return ()
    refs: list[RunRef] = []
    first = 0
    with store.writer(layout.within(folder, path)) as file:
        for write in writes:
            count = len(write.identities)
            pairs = np.ascontiguousarray(write.identities, dtype=PAIR).data
            file.write(pairs)
            refs.append(RunRef(path, write.step, first, count, crc32c(pairs)))
            first += count
    return tuple(refs)


def load_runs(store: ObjectStore, folder: str, runs: Sequence[RunRef]) -> list[Identities]:
    """The identities of each slice, shape (n, 2), mapped and not copied where the store can.

    A file is read once, however many slices of it are asked for. Raises CorruptFileError.
    """
    paths = sorted({run.path for run in runs})
    keys = [layout.within(folder, path) for path in paths]
    try:
        buffers = dict(zip(paths, store.buffers(keys), strict=True))
    except NotFoundError as error:
        raise CorruptFileError(f"loading id runs of '{folder}': {error.message}", "restore it from a backup") from error
    return [_slice(layout.within(folder, run.path), buffers[run.path], run) for run in runs]


def _slice(key: str, buffer: bytes | mmap.mmap, run: RunRef) -> Identities:
    end = (run.first + run.count) * IDENTITY_BYTES
    if len(buffer) < end:
        raise CorruptFileError(f"loading the id run '{key}': it has {len(buffer)} bytes, the slice ends at {end}")
    begin = run.first * IDENTITY_BYTES
    if run.crc is not None and (found := crc32c(memoryview(buffer)[begin:end])) != run.crc:
        raise CorruptFileError(
            f"loading the id run '{key}': the bytes {begin} to {end} have the CRC {found:08x}, {run.crc:08x} was written",
            "restore it from a backup",
        )
    flat = np.frombuffer(buffer, dtype=PAIR, count=run.count * 2, offset=begin)
    return flat.reshape(-1, 2)


def write_state(store: ObjectStore, folder: str, path: str, state: bytes) -> None:
    """Write a saved state, durable on return. `path` is from `layout.state_path`."""
    store.put(layout.within(folder, path), state)


@contextmanager
def naming_state(folder: str, path: str) -> Iterator[None]:
    """Around the decoding of a state: what can't be read is named."""
    try:
        yield
    except CorruptFileError as error:
        raise CorruptFileError(
            f"loading the state '{layout.within(folder, path)}': {error.message}", "restore it from a backup"
        ) from error


def load_state(store: ObjectStore, folder: str, path: str) -> bytes:
    """Raises CorruptFileError when what a manifest names is not there."""
    try:
        return store.get(layout.within(folder, path))
    except NotFoundError as error:
        raise CorruptFileError(
            f"loading the state '{folder}/{path}': it is not there", "restore it from a backup"
        ) from error
