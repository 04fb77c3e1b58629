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

from rta.errors import CorruptLogError
from rta.events.records import KEY, RECORD_FIELDS, Records
from rta.events.simd import PADDING
from rta.log.kafka import framing
from rta.log.kafka.framing import Longs

UNPACKED_BYTES = 4 << 20
"""When so many bytes have been unpacked they are handed out, whatever they were compressed to."""
BATCH_BYTES_MAX = 128 << 20
"""No batch may become larger: the brokers' limit for a compressed one is 1 MB by default, a producer's for what it packs
into one 16 KB. Zeros pack 30,000:1, so without a limit a batch of 1 MB could ask for all memory there is."""
BATCH_RECORDS_MAX = 1 << 22
EXPANSION_GUESS = 8
_NONE, _GZIP, _SNAPPY, _LZ4, _ZSTD = range(5)
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_ABORT = 0
_END, _LAST = 1, 6
SKIP_HINT = (
    "delete the topic's records through it (kafka-delete-records), then accept the gap: rta resume --accept-loss"
)


class Chunk(NamedTuple):
    """Whole batches of one partition as they came, in one piece.

    Args:
        offset: The last offset that they cover, whether a record has it or not.
        from_offset: Records before it were read already.
        append_time_ms: The latest of the batches' times; one that a producer set is not after they were fetched.
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


def read_chunks(
    where: str, partition: int, offset: int, data: bytes, aborted: Sequence[Aborted], now_ms: int
) -> list[Chunk]:
    """The batches of a fetch's answer, cut into pieces that are unpacked together.

    Args:
        where: The topic and partition, for errors.
        offset: The one that was asked for; the first batch may begin before it.
        now_ms: When the answer came.

    Raises:
        CorruptLogError: a checksum does not match, a batch is of a format older than Kafka 0.11, or there is none at all.
    """
    found = _checked(where, data, _find_batches(where, offset, np.frombuffer(data, np.uint8)))
    counted = _counted(data, found, aborted)
    cuts = _cuts(found)
    view = memoryview(data)
    chunks = []
    for first, end in itertools.pairwise(cuts):
        last = int(found[end - 1, framing.LAST_OFFSET])
        if last < offset:
            continue
        start, stop = int(found[first, framing.START]), int(found[end - 1, framing.END])
        latest_ms = _time_ms(found[first:end], now_ms)
        batches = found[first:end][counted[first:end]]
        batches[:, [framing.START, framing.END]] -= start
        chunks.append(Chunk(partition, last, latest_ms, view[start:stop], offset, batches))
    return chunks


def _time_ms(found: Longs, now_ms: int) -> int:
    """The latest time of the batches. Producers set it as they like: one from the future would push the log's time there
    for good, so it counts as now, and so does none. The broker's time is taken as it is, whatever our clock says."""
    times = found[:, framing.MAX_MS]
    by_broker = (found[:, framing.ATTRIBUTES] & framing.APPEND_TIME) != 0
    return int(np.where((times < 0) | ((times > now_ms) & ~by_broker), now_ms, times).max())


def _find_batches(where: str, offset: int, buf: npt.NDArray[np.uint8]) -> Longs:
    room = len(buf) // 4096 + 16
    while True:
        found = np.empty((room, framing.BATCH_FIELDS), np.int64)
        count = framing.walk_batches(buf, len(buf), offset, found)
        if count == framing.OLD_FORMAT:
            raise CorruptLogError(
                f"{where}: it has batches in a format older than Kafka 0.11",
                "copy the topic to a new one with a current client",
            )
        if count == framing.DISORDER:
            raise CorruptLogError(f"{where}: behind offset {offset} are batches in no order", SKIP_HINT)
        if count == 0 and len(buf):
            raise CorruptLogError(f"{where}: no whole batch came for offset {offset}", SKIP_HINT)
        if count <= room:
            return found[:count]
        room = count


def _checked(where: str, data: bytes, found: Longs) -> Longs:
    """The batches in front of the first one that is damaged; that one says so when it is the first that is asked for."""
    view = memoryview(data)
    columns = [framing.START, framing.END, framing.BASE_OFFSET, framing.CRC]
    for row, (start, end, base, crc) in enumerate(found[:, columns].tolist()):
        if crc32c.crc32c(view[start + framing.CRC_FROM : end]) == crc:
            continue
        if row == 0:
            raise CorruptLogError(f"{where}: the checksum of the batch at offset {base} is wrong", SKIP_HINT)
        return found[:row]
    return found


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


class Unpacked(NamedTuple):
    """Records of some batches; `offset` is the last one that they cover."""

    records: Records
    offset: int


@dataclass(slots=True)
class Unpacker:
    """Scratch memory of one thread. What `unpack` hands out is good until the next is asked for."""

    _buf: npt.NDArray[np.uint8]
    _fields: Longs

    @classmethod
    def make(cls) -> Unpacker:
        return cls(np.zeros(1 << 20, np.uint8), np.empty((RECORD_FIELDS, 1 << 10), np.int64))

    def unpack(self, where: str, chunk: Chunk) -> Iterator[Unpacked]:
        """The records of a chunk: at once, or in several parts where they become more than was to be expected.

        Raises:
            CorruptLogError: a batch can't be unpacked, or its records are not what it says.
        """
        spans: list[tuple[int, ...]] = []
        for batch in chunk.batches.tolist():
            at = spans[-1][_END] if spans else 0
            if at >= UNPACKED_BYTES:
                yield from self._walked(where, spans, chunk.from_offset, spans[-1][_LAST])
                spans, at = [], 0
            packed = chunk.payload[batch[framing.START] + framing.HEADER_BYTES : batch[framing.END]]
            try:
                span = _span(where, batch, at, self._append(where, packed, batch, at))
            except CorruptLogError:
                if spans:
                    yield from self._walked(where, spans, chunk.from_offset, spans[-1][_LAST])
                raise
            spans.append(span)
        yield from self._walked(where, spans, chunk.from_offset, chunk.offset)

    def _walked(self, where: str, spans: list[tuple[int, ...]], first: int, last: int) -> Iterator[Unpacked]:
        """The records of these batches, from offset `first` on; up to the first that is not what it says, before that is said."""
        rows = np.array(spans, np.int64).reshape(-1, framing.SPAN_FIELDS)
        end = spans[-1][_END] if spans else 0
        self._make_room(end, 0)
        self._buf[end : end + PADDING] = 0
        # One more than there are: a record that was read before is noted where the next one will be.
        wanted = int(rows[:, 2].sum()) + 1
        if self._fields.shape[1] < wanted:
            self._fields = np.empty((RECORD_FIELDS, wanted), np.int64)
        count = int(framing.walk_records(self._buf, rows, first, self._fields))
        bad = ~count if count < 0 else len(spans)
        if bad < len(spans):
            count = int(rows[bad - 1, framing.SPAN_FIELDS - 1]) if bad else 0
            last = spans[bad - 1][_LAST] if bad else first - 1
        if bad or not spans:
            yield Unpacked(Records(self._buf[: end + PADDING], self._fields[:, :count]), last)
        if bad < len(spans):
            raise _not_as_said(where, int(rows[bad, 3]))

    def _append(self, where: str, packed: memoryview, batch: list[int], at: int) -> int:
        """Unpack one batch's records behind the others; where they end."""
        kind = batch[framing.ATTRIBUTES] & framing.COMPRESSION
        size = len(packed)
        if kind != _NONE:
            size = min(max(EXPANSION_GUESS * size, 1 << 16), BATCH_BYTES_MAX)
        while True:
            self._make_room(at, size)
            target = self._buf[at : at + size]
            try:
                return at + sum(_unpack_into(kind, packed, target))
            except (cramjam.DecompressionError, OSError, ValueError) as error:
                # Too little room and damage look alike; what is damaged stays so with all the room there may be.
                if size >= BATCH_BYTES_MAX or kind == _NONE:
                    base = batch[framing.BASE_OFFSET]
                    said = (
                        f"{where}: the batch at offset {base} can't be unpacked into {BATCH_BYTES_MAX:,} bytes: {error}"
                    )
                    raise CorruptLogError(said, SKIP_HINT) from error
            size = min(4 * size, BATCH_BYTES_MAX)

    def _make_room(self, at: int, size: int) -> None:
        wanted = at + size + PADDING
        if wanted > len(self._buf):
            larger = np.empty(max(wanted, 2 * len(self._buf)), np.uint8)
            larger[:at] = self._buf[:at]
            self._buf = larger


def _span(where: str, batch: list[int], at: int, end: int) -> tuple[int, ...]:
    """A batch as `framing.walk_records` takes it. Raises CorruptLogError: it can't have as many records as it says."""
    count = batch[framing.COUNT]
    if not 0 <= count <= min((end - at) // framing.RECORD_BYTES_MIN, BATCH_RECORDS_MAX):
        raise _not_as_said(where, batch[framing.BASE_OFFSET])
    append_ms = batch[framing.MAX_MS] if batch[framing.ATTRIBUTES] & framing.APPEND_TIME else -1
    base, last = batch[framing.BASE_OFFSET], batch[framing.LAST_OFFSET]
    return (at, end, count, base, batch[framing.BASE_MS], append_ms, last, 0)


def _not_as_said(where: str, base: int) -> CorruptLogError:
    return CorruptLogError(f"{where}: the records of the batch at offset {base} are not what it says", SKIP_HINT)


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
