"""From a fetch's bytes to records: checksums, transactions, compression.

Owns which batches count (those of aborted transactions do not, control batches never) and the scratch memory into which
they are unpacked. Knows nothing of what a record's value means.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cramjam
import crc32c
import numpy as np
import numpy.typing as npt

from rta.errors import CorruptFileError
from rta.events.records import KEY, RECORD_FIELDS, Records
from rta.events.simd import PADDING
from rta.log.kafka import framing
from rta.log.kafka.framing import Longs

UNPACKED_BYTES = 48 << 20
"""About so many bytes are handed out at once, whatever they were compressed to."""
BATCH_BYTES_MAX = 1 << 30
"""No batch may become larger: the brokers' limit for a compressed one is 1 MB by default."""
EXPANSION_GUESS = 8
_NONE, _GZIP, _SNAPPY, _LZ4, _ZSTD = range(5)
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_ABORT = 0


class Chunk(NamedTuple):
    """Whole batches of one partition as they came, in one piece.

    Args:
        offset: The last offset that they cover, whether a record has it or not.
        from_offset: Records before it were read already.
        append_time_ms: The latest of the batches' times.
        batches: As `framing.walk_batches` finds them in `payload`, only those that count.
    """

    partition: int
    offset: int
    append_time_ms: int
    payload: memoryview
    from_offset: int
    batches: Longs


class Aborted(NamedTuple):
    """A transaction that was given up: what its producer wrote from `first_offset` to its marker does not count."""

    producer: int
    first_offset: int


def read_chunks(where: str, partition: int, offset: int, data: bytes, aborted: Sequence[Aborted]) -> list[Chunk]:
    """The batches of a fetch's answer, cut into pieces that are unpacked together.

    Args:
        where: The topic and partition, for errors.
        offset: The one that was asked for; the first batch may begin before it.

    Raises:
        CorruptFileError: a checksum does not match, or a batch is of a format older than Kafka 0.11.
    """
    found = _find_batches(where, np.frombuffer(data, np.uint8))
    _check_sums(where, data, found)
    counted = _counted(data, found, aborted)
    cuts = _cuts(found)
    view = memoryview(data)
    chunks = []
    for first, end in itertools.pairwise(cuts):
        last = int(found[end - 1, framing.LAST_OFFSET])
        if last < offset:
            continue
        start, stop = int(found[first, framing.START]), int(found[end - 1, framing.END])
        latest_ms = int(found[first:end, framing.MAX_MS].max())
        batches = found[first:end][counted[first:end]]
        batches[:, [framing.START, framing.END]] -= start
        chunks.append(Chunk(partition, last, max(0, latest_ms), view[start:stop], offset, batches))
    return chunks


def _find_batches(where: str, buf: npt.NDArray[np.uint8]) -> Longs:
    room = len(buf) // 4096 + 16
    while True:
        found = np.empty((room, framing.BATCH_FIELDS), np.int64)
        count = framing.walk_batches(buf, len(buf), found)
        if count == framing.OLD_FORMAT:
            raise CorruptFileError(
                f"{where}: it has batches in a format older than Kafka 0.11",
                "copy the topic to a new one with a current client",
            )
        if count <= room:
            return found[:count]
        room = count


def _check_sums(where: str, data: bytes, found: Longs) -> None:
    view = memoryview(data)
    for start, end, base, crc in found[:, [framing.START, framing.END, framing.BASE_OFFSET, framing.CRC]].tolist():
        if crc32c.crc32c(view[start + framing.CRC_FROM : end]) != crc:
            raise CorruptFileError(f"{where}: the checksum of the batch at offset {base} is wrong")


def _counted(data: bytes, found: Longs, aborted: Sequence[Aborted]) -> npt.NDArray[np.bool_]:
    """Which batches hold records that count."""
    attributes = found[:, framing.ATTRIBUTES]
    counted: npt.NDArray[np.bool_] = (attributes & framing.CONTROL) == 0
    if not aborted:
        return counted
    waiting = sorted(aborted, key=lambda each: each.first_offset)
    open_ones: set[int] = set()
    for row in np.flatnonzero(attributes & framing.TRANSACTIONAL).tolist():
        producer = int(found[row, framing.PRODUCER])
        while waiting and waiting[0].first_offset <= int(found[row, framing.LAST_OFFSET]):
            open_ones.add(waiting.pop(0).producer)
        if counted[row]:
            counted[row] = producer not in open_ones
        elif producer in open_ones and _is_abort(data, int(found[row, framing.START])):
            open_ones.discard(producer)
    return counted


def _is_abort(data: bytes, start: int) -> bool:
    """Whether the control batch is an abort marker: its one record's key is a version and a type, two bytes each."""
    fields = np.empty((RECORD_FIELDS, 1), np.int64)
    at = start + framing.HEADER_BYTES
    content = np.frombuffer(bytes(data[at : at + 64]) + bytes(PADDING), np.uint8).copy()
    if framing.walk_record(content, 0, 64, (0, 0), fields, 0) < 0:
        return True
    key = int(fields[KEY, 0])
    return int.from_bytes(content[key + 2 : key + 4].tobytes(), "big") == _ABORT


def _cuts(found: Longs) -> list[int]:
    """Where to cut, so that each piece is of a size that is unpacked together."""
    compressed = (found[:, framing.ATTRIBUTES] & framing.COMPRESSION) != _NONE
    sizes = (found[:, framing.END] - found[:, framing.START]) * np.where(compressed, EXPANSION_GUESS, 1)
    pieces = np.cumsum(sizes) // UNPACKED_BYTES
    edges = np.flatnonzero(np.diff(pieces)) + 1
    return [0, *edges.tolist(), len(found)] if len(found) else [0]


@dataclass(slots=True)
class Unpacker:
    """Scratch memory of one thread. What `unpack` hands out is good until it is called again."""

    _buf: npt.NDArray[np.uint8]
    _fields: Longs

    @classmethod
    def make(cls) -> Unpacker:
        return cls(np.zeros(1 << 20, np.uint8), np.empty((RECORD_FIELDS, 1 << 10), np.int64))

    def unpack(self, where: str, chunk: Chunk) -> Records:
        """The records of a chunk.

        Raises:
            CorruptFileError: a batch can't be unpacked, or its records are not what it says.
        """
        spans = np.empty((len(chunk.batches), 6), np.int64)
        at = 0
        for row, batch in enumerate(chunk.batches.tolist()):
            start = batch[framing.START] + framing.HEADER_BYTES
            end = self._append(where, chunk.payload[start : batch[framing.END]], batch, at)
            append_ms = batch[framing.MAX_MS] if batch[framing.ATTRIBUTES] & framing.APPEND_TIME else -1
            spans[row] = (at, end, batch[framing.COUNT], batch[framing.BASE_OFFSET], batch[framing.BASE_MS], append_ms)
            at = end
        self._buf[at : at + PADDING] = 0
        count = self._walk(spans, chunk.from_offset)
        if count < 0:
            base = int(chunk.batches[~count, framing.BASE_OFFSET])
            raise CorruptFileError(f"{where}: the records of the batch at offset {base} are not what it says")
        return Records(self._buf, self._fields[:, :count])

    def _walk(self, spans: Longs, from_offset: int) -> int:
        wanted = min(int(spans[:, 2].sum()), int((spans[:, 1] - spans[:, 0]).sum())) + 1 if len(spans) else 1
        if self._fields.shape[1] < wanted:
            self._fields = np.empty((RECORD_FIELDS, 2 * wanted), np.int64)
        return int(framing.walk_records(self._buf, spans, from_offset, self._fields))

    def _append(self, where: str, packed: memoryview, batch: list[int], at: int) -> int:
        """Unpack one batch's records behind the others; where they end."""
        kind = batch[framing.ATTRIBUTES] & framing.COMPRESSION
        size = len(packed) if kind == _NONE else max(EXPANSION_GUESS * len(packed), 1 << 16)
        while True:
            self._make_room(at, size)
            target = self._buf[at : at + size]
            try:
                return at + sum(_unpack_into(kind, packed, target))
            except (cramjam.DecompressionError, OSError, ValueError) as error:
                # Too little room and damage look alike; what is damaged stays so with all the room there may be.
                if size >= BATCH_BYTES_MAX or (kind == _NONE):
                    base = batch[framing.BASE_OFFSET]
                    raise CorruptFileError(f"{where}: unpacking the batch at offset {base}: {error}") from error
            size = min(4 * size, BATCH_BYTES_MAX)

    def _make_room(self, at: int, size: int) -> None:
        wanted = at + size + PADDING
        if wanted > len(self._buf):
            larger = np.empty(max(wanted, 2 * len(self._buf)), np.uint8)
            larger[:at] = self._buf[:at]
            self._buf = larger


def _unpack_into(kind: int, packed: memoryview, target: Any) -> Iterator[int]:
    """Unpack into `target`; yields the sizes of the parts, which follow each other."""
    match kind:
        case 0:
            target[: len(packed)] = np.frombuffer(packed, np.uint8)
            yield len(packed)
        case 1:
            yield cramjam.gzip.decompress_into(packed, target)
        case 2:
            yield from _unpack_snappy(packed, target)
        case 3:
            yield cramjam.lz4.decompress_into(packed, target)
        case 4:
            yield cramjam.zstd.decompress_into(packed, target)
        case _:
            raise ValueError(f"compression {kind} is not known")


def _unpack_snappy(packed: memoryview, target: Any) -> Iterator[int]:
    """One block, or many in the framing that the Java clients use."""
    if bytes(packed[: len(_XERIAL)]) != _XERIAL:
        yield cramjam.snappy.decompress_raw_into(packed, target)
        return
    at, done = _XERIAL_HEADER_BYTES, 0
    while at < len(packed):
        size = int.from_bytes(packed[at : at + 4], "big")
        at += 4
        wrote = cramjam.snappy.decompress_raw_into(packed[at : at + size], target[done:])
        yield wrote
        done += wrote
        at += size
