"""Record batches of other producers: read as kafka-python reads them, and refused where they are not what they say."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record import MemoryRecords

from rta.errors import CorruptLogError
from rta.events.records import HEADER_COUNT, HEADERS, KEY, KEY_BYTES, OFFSET, TIME_MS, VALUE, VALUE_BYTES, Records
from rta.events.wrapping import header_at
from rta.log.kafka import batches as unpacking
from rta.log.kafka.batches import BATCH_BYTES_MAX, UNPACKED_BYTES, Aborted, Unpacker, read_chunks
from tests.log.made_batches import (
    ABORT,
    APPEND_TIME,
    COMMIT,
    GZIP,
    LZ4,
    NONE,
    NOW_MS,
    PACKERS,
    SNAPPY,
    ZSTD,
    Batch,
    Header,
    Made,
    data,
    framed,
    joined,
    marker,
    packed,
    record,
    varint,
)

WHERE = "partition 3 of topic 'shop'"


class Read(NamedTuple):
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]


def part(records: Records, start: int, size: int) -> bytes | None:
    return None if size < 0 else records.buf[start : start + size].tobytes()


def records_of(records: Records) -> Iterator[Read]:
    for row in records.fields.T.tolist():
        headers = []
        at = row[HEADERS]
        for _ in range(row[HEADER_COUNT]):
            header = header_at(records.buf, at)
            name = part(records, header.name, header.name_bytes)
            assert name is not None
            headers.append((name, part(records, header.value, header.value_bytes)))
            at = header.end
        value = part(records, row[VALUE], row[VALUE_BYTES])
        assert records.buf[row[VALUE] + max(0, row[VALUE_BYTES])] == 0
        yield Read(row[OFFSET], row[TIME_MS], part(records, row[KEY], row[KEY_BYTES]), value, tuple(headers))


def read(content: bytes, offset: int = 0, aborted: Sequence[Aborted] = ()) -> list[Read]:
    """Every record, through the same unpacker; what it says it covers only rises."""
    unpacker = Unpacker.make()
    found: list[Read] = []
    covered = offset - 1
    for chunk in read_chunks(WHERE, 3, offset, content, aborted, NOW_MS):
        assert chunk.partition == 3
        for records, last in unpacker.unpack(WHERE, chunk):
            assert last > covered
            covered = last
            found += records_of(records)
    assert [r.offset for r in found] == sorted({r.offset for r in found})
    assert not found or found[-1].offset <= covered
    return found


def read_by_kafka(content: bytes, offset: int = 0) -> list[Read]:
    found = []
    batches = MemoryRecords(content)
    while (batch := batches.next_batch()) is not None:
        for each in batch:
            headers = tuple((name.encode(), value) for name, value in each.headers)
            found.append(Read(each.offset, each.timestamp, each.key, each.value, headers))
    return [each for each in found if each.offset >= offset]


def expected(batches: Sequence[Batch]) -> list[Read]:
    return [
        Read(
            batch.base + made.delta,
            batch.max_ms if batch.attributes & APPEND_TIME and batch.max_ms else batch.base_ms + made.later_ms,
            made.key,
            made.value,
            made.headers,
        )
        for batch in batches
        for made in batch.records
    ]


contents = st.one_of(st.none(), st.binary(max_size=12), st.binary(min_size=60, max_size=300))
headers = st.lists(
    st.tuples(st.text("aü\0", max_size=8).map(str.encode), st.none() | st.binary(max_size=8)),
    max_size=3,
).map(tuple)


@st.composite
def some_batches(draw: st.DrawFn, codecs: Sequence[int] = tuple(PACKERS)) -> list[Batch]:
    """Batches as a topic may hold them: compacted ones lack offsets, at their ends too, or are empty."""
    found = []
    base = draw(st.integers(0, 1 << 40))
    for _ in range(draw(st.integers(1, 4))):
        deltas = sorted(draw(st.sets(st.integers(0, 40), max_size=12)))
        made = tuple(
            Made(d, draw(contents), draw(contents), draw(headers), draw(st.integers(-(1 << 33), 1 << 33)))
            for d in deltas
        )
        last = max(deltas, default=0) + draw(st.integers(0, 3))
        codec = draw(st.sampled_from(codecs))
        stamped = draw(st.booleans())
        found.append(
            Batch(
                base,
                made,
                codec,
                APPEND_TIME if stamped else 0,
                last_delta=last,
                max_ms=NOW_MS + 5 if stamped else None,
                java_snappy=codec == SNAPPY and draw(st.booleans()),
            )
        )
        base += last + 1 + draw(st.integers(0, 5))
    return found


@given(some_batches())
def test_every_codec_gives_back_the_records_that_were_packed(batches: list[Batch]) -> None:
    assert read(joined(batches)) == expected(batches)


@given(some_batches(codecs=(NONE, GZIP, LZ4, ZSTD)), st.data())
def test_records_are_the_ones_that_kafka_python_reads(batches: list[Batch], choice: st.DataObject) -> None:
    content = joined(batches)
    first, last = batches[0].base, batches[-1].base + (batches[-1].last_delta or 0)
    offset = choice.draw(st.integers(first, last))
    assert read(content, offset) == read_by_kafka(content, offset)


@given(some_batches(), st.data())
def test_batch_cut_off_at_the_end_of_an_answer_comes_with_the_next_one(
    batches: list[Batch], choice: st.DataObject
) -> None:
    content = joined([*batches, data(1 << 42, b"cut off")])
    behind = len(content) - len(joined(batches))
    cut = choice.draw(st.integers(1, behind))
    assert read(content[: len(content) - cut]) == expected(batches)


@given(some_batches(), st.data())
def test_flipped_bit_never_becomes_a_record(batches: list[Batch], choice: st.DataObject) -> None:
    """What its checksum covers is refused; the few bytes before it only say where and how long the batch is."""
    content = bytearray(joined(batches))
    at = choice.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << choice.draw(st.integers(0, 7))
    whole = expected(batches)
    try:
        found = read(bytes(content))
    except CorruptLogError:
        return
    start = 0
    for number, batch in enumerate(batches):
        end = start + len(packed(batch))
        if start <= at < end:
            before = expected(batches[:number])
            if at - start >= 17:
                assert found == before
            else:
                assert found[: len(before)] == before
                assert [r[1:] for r in found[len(before) :]] in ([], [r[1:] for r in whole[len(before) :]])
        start = end


def test_damaged_batch_is_refused_after_the_ones_in_front_of_it() -> None:
    content = bytearray(joined([data(0, b"a"), data(1, b"b"), data(2, b"c")]))
    content[len(packed(data(0, b"a"))) + 65] ^= 1
    assert [r.value for r in read(bytes(content))] == [b"a"]
    with pytest.raises(CorruptLogError, match=r"partition 3 of topic 'shop': the checksum of the batch at offset 1"):
        read(bytes(content[len(packed(data(0, b"a"))) :]), 1)


def test_remedy_for_damage_is_named() -> None:
    content = bytearray(packed(data(0, b"a")))
    content[-1] ^= 1
    with pytest.raises(CorruptLogError) as caught:
        read(bytes(content))
    assert "kafka-delete-records" in str(caught.value.hint)


def lies(batch: Batch, content: bytes) -> list[Read]:
    return read(framed(batch, content))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="no record at all"),
        pytest.param(record(Made(0, b"v"))[:-1], id="cut off"),
        pytest.param(record(Made(0, b"v")) + b"\0", id="a byte too many"),
        pytest.param(varint(-5) + record(Made(0, b"v"))[1:], id="negative length"),
        pytest.param(varint(1 << 40) + record(Made(0, b"v"))[1:], id="length beyond the batch"),
        pytest.param(b"\xff" * 40, id="endless number"),
        pytest.param(varint(10) + b"\0\0\0" + varint(1 << 62) + b"\0" * 6, id="key beyond the record"),
        pytest.param(varint(10) + b"\0\0\0" + varint(-1) + varint(1 << 31) + b"\0" * 4, id="value beyond the record"),
        pytest.param(varint(7) + b"\0\0\0" + varint(-1) + varint(-1) + varint(1 << 20), id="headers beyond the record"),
        pytest.param(varint(9) + b"\0\0\0" + varint(-1) * 2 + varint(1) + varint(-1) * 3, id="header without a name"),
        pytest.param(record(Made(5, b"v")), id="offset behind the batch"),
        pytest.param(record(Made(-1, b"v")), id="offset before the batch"),
    ],
)
def test_batch_that_is_not_what_it_says_is_refused(content: bytes) -> None:
    with pytest.raises(CorruptLogError, match="batch at offset 7 are not what it says"):
        lies(Batch(7, (Made(0, b"v"),)), content)


@pytest.mark.parametrize("count", [-1, 0, 1, 3, 1 << 30, -(1 << 31), (1 << 31) - 1])
def test_batch_of_another_count_of_records_is_refused(count: int) -> None:
    with pytest.raises(CorruptLogError, match="not what it says"):
        read(packed(replace(data(7, b"a", b"b"), count=count)))


def test_offsets_that_do_not_rise_are_refused() -> None:
    twice = Batch(0, (Made(0, b"a"), Made(0, b"b")), last_delta=4)
    with pytest.raises(CorruptLogError, match="not what it says"):
        read(packed(twice))


def test_batches_that_do_not_follow_each_other_are_refused() -> None:
    with pytest.raises(CorruptLogError, match="in no order"):
        read(joined([data(5, b"a", b"b"), data(6, b"c")]))
    with pytest.raises(CorruptLogError, match="in no order"):
        read(packed(replace(data(5, b"a"), last_delta=-1)))


def test_records_in_front_of_a_lying_batch_are_read_before_it_is_refused() -> None:
    for codec in (NONE, ZSTD):
        chunks = read_chunks(
            WHERE, 3, 0, joined([data(0, b"a", b"b"), Batch(2, (Made(9, b"c"),), codec, last_delta=0)]), (), 0
        )
        parts = Unpacker.make().unpack(WHERE, chunks[0])
        records, last = next(parts)
        assert ([r.value for r in records_of(records)], last) == ([b"a", b"b"], 1)
        with pytest.raises(CorruptLogError, match="offset 2"):
            next(parts)


@given(st.binary(max_size=200), st.sampled_from(list(PACKERS)), st.integers(0, 4))
def test_arbitrary_content_under_a_right_checksum_is_read_or_refused(content: bytes, codec: int, count: int) -> None:
    batch = Batch(0, (Made(0, b""),), codec, count=count, last_delta=10)
    for packer in (bytes, PACKERS[codec]):
        try:
            found = read(framed(batch, packer(content)))
        except CorruptLogError:
            continue
        assert len(found) == count


@given(some_batches(codecs=(NONE,)), st.data())
def test_wrong_lengths_under_a_right_checksum_never_reach_beyond_the_batch(
    batches: list[Batch], choice: st.DataObject
) -> None:
    content = bytearray(b"".join(map(record, batches[0].records)))
    for _ in range(choice.draw(st.integers(1, 3))):
        if content:
            content[choice.draw(st.integers(0, len(content) - 1))] = choice.draw(
                st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])
            )
    try:
        found = read(framed(batches[0], bytes(content)))
    except CorruptLogError:
        return
    assert len(found) == len(batches[0].records)


@pytest.mark.parametrize("magic", [0, 1, 3])
@pytest.mark.parametrize("rest", [0, 17, 200])
def test_other_formats_are_refused_by_name(magic: int, rest: int) -> None:
    message = struct.pack(">qiib", 0, 6 + rest, 0, magic) + bytes(1 + rest)
    with pytest.raises(CorruptLogError, match=r"older than Kafka 0\.11"):
        read(message)


def test_batches_in_front_of_one_of_another_format_are_read_before_it_is_refused() -> None:
    old = packed(data(4, b"a", b"b")) + struct.pack(">qiib", 6, 106, 0, 1) + bytes(101)
    assert [r.value for r in read(old, 4)] == [b"a", b"b"]
    with pytest.raises(CorruptLogError, match=r"older than Kafka 0\.11"):
        read(old, 6)


def test_answer_without_a_whole_batch_is_refused_instead_of_asked_for_for_ever() -> None:
    with pytest.raises(CorruptLogError, match="no whole batch came for offset 4"):
        read(packed(data(4, b"abc"))[:-1], 4)


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_batch_that_becomes_too_large_is_refused(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "BATCH_BYTES_MAX", 1 << 20)
    small = Batch(0, (Made(0, bytes((1 << 20) - 100)),), codec)
    assert len(read(packed(small))) == 1
    with pytest.raises(CorruptLogError, match=r"can't be unpacked into 1,048,576 bytes"):
        read(packed(replace(small, records=(Made(0, bytes(1 << 20)),))))


def test_batches_that_unpack_to_far_more_than_they_are_come_in_parts() -> None:
    """16 batches of 20 KB become 16 MB each: no more than the limit and one batch lie in memory at a time."""
    big = Batch(0, tuple(Made(d, bytes(1 << 20)) for d in range(16)), ZSTD)
    content = joined([replace(big, base=16 * n) for n in range(16)])
    assert len(content) < 1 << 20
    unpacker = Unpacker.make()
    offsets: list[int] = []
    parts = 0
    for chunk in read_chunks(WHERE, 3, 0, content, (), NOW_MS):
        for records, last in unpacker.unpack(WHERE, chunk):
            assert len(records.buf) <= UNPACKED_BYTES + (17 << 20)
            offsets += records.fields[OFFSET].tolist()
            assert offsets[-1] == last
            parts += 1
    assert offsets == list(range(256))
    assert parts >= 4
    assert BATCH_BYTES_MAX <= 128 << 20


# -- transactions ----------------------------------------------------------------------------------------------------

A, B = 71, 72


@pytest.mark.parametrize(
    ("batches", "aborted", "kept"),
    [
        pytest.param([data(0, b"a", producer=A), marker(1, A, COMMIT)], [], [b"a"], id="committed"),
        pytest.param([data(0, b"a", producer=A), marker(1, A, ABORT)], [(A, 0)], [], id="aborted"),
        pytest.param(
            [data(0, b"a", producer=A), data(1, b"b", producer=B), marker(2, A, ABORT), marker(3, B, COMMIT)],
            [(A, 0)],
            [b"b"],
            id="two producers, the first gives up",
        ),
        pytest.param(
            [
                data(0, b"a1", producer=A),
                data(1, b"b1", producer=B),
                data(2, b"a2", producer=A),
                marker(3, B, ABORT),
                data(4, b"b2", producer=B),
                marker(5, A, COMMIT),
                marker(6, B, COMMIT),
            ],
            [(B, 1)],
            [b"a1", b"a2", b"b2"],
            id="interleaved, and the one that gave up goes on",
        ),
        pytest.param(
            [
                data(0, b"a1", producer=A),
                marker(1, A, COMMIT),
                data(2, b"a2", producer=A),
                marker(3, A, ABORT),
                data(4, b"a3", producer=A),
                marker(5, A, COMMIT),
            ],
            [(A, 2)],
            [b"a1", b"a3"],
            id="given up after one that was committed",
        ),
        pytest.param(
            [data(0, b"plain"), data(1, b"a", producer=A), data(2, b"plain too"), marker(3, A, ABORT)],
            [(A, 1)],
            [b"plain", b"plain too"],
            id="records outside of transactions count",
        ),
        pytest.param(
            [data(7, b"a2", producer=A), marker(8, A, ABORT), data(9, b"a3", producer=A), marker(10, A, COMMIT)],
            [(A, 2)],
            [b"a3"],
            id="began before what was asked for",
        ),
        pytest.param(
            [
                data(0, b"a1", producer=A),
                marker(1, A, ABORT),
                data(2, b"a2", producer=A),
                marker(3, A, ABORT),
                data(4, b"b", producer=B),
                marker(5, B, COMMIT),
            ],
            [(A, 2), (A, 0)],
            [b"b"],
            id="one gives up twice, told in another order",
        ),
        pytest.param([marker(0, A, COMMIT), marker(1, B, ABORT)], [], [], id="markers alone are no records"),
    ],
)
def test_only_what_was_committed_is_read(
    batches: list[Batch], aborted: list[tuple[int, int]], kept: list[bytes]
) -> None:
    found = read(joined(batches), batches[0].base, [Aborted(*each) for each in aborted])
    assert [r.value for r in found] == kept


def test_markers_at_the_end_are_covered() -> None:
    content = joined([data(0, b"a", producer=A), marker(1, A, ABORT)])
    [chunk] = read_chunks(WHERE, 3, 0, content, [Aborted(A, 0)], NOW_MS)
    assert chunk.offset == 1
    assert len(chunk.batches) == 0


# -- the log's time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_ms", "time_ms"),
    [
        pytest.param(NOW_MS - 5000, NOW_MS - 5000, id="the producer's"),
        pytest.param(NOW_MS * 1000, NOW_MS, id="microseconds by mistake: not after it was read"),
        pytest.param((1 << 63) - 1, NOW_MS, id="the last there is"),
        pytest.param(-1, NOW_MS, id="none"),
    ],
)
def test_time_of_the_log_is_never_after_it_was_read(base_ms: int, time_ms: int) -> None:
    [chunk] = read_chunks(WHERE, 3, 0, packed(replace(data(0, b"a"), base_ms=base_ms)), (), NOW_MS)
    assert chunk.append_time_ms == time_ms


@settings(max_examples=20)
@given(some_batches())
def test_unpacker_is_used_again_without_traces(batches: list[Batch]) -> None:
    unpacker = Unpacker.make()
    content = joined(batches)
    reads = []
    for _ in range(2):
        chunks = read_chunks(WHERE, 3, 0, content, (), NOW_MS)
        reads.append([r for c in chunks for records, _ in unpacker.unpack(WHERE, c) for r in records_of(records)])
    assert reads[0] == reads[1] == expected(batches)


def test_the_brokers_time_is_taken_as_it_is() -> None:
    """Also while the reader's clock is behind: good events would lie in the future."""
    stamped = Batch(0, (Made(0, b"a"),), attributes=APPEND_TIME, max_ms=NOW_MS + 3_600_000)
    [chunk] = read_chunks(WHERE, 3, 0, joined([stamped]), (), NOW_MS)
    assert chunk.append_time_ms == NOW_MS + 3_600_000
