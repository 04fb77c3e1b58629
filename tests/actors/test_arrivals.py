"""From chunks of a topic to the fold's batches: in order, in parts that fit into memory, refused events with their place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rta.actors.arrivals import SourceArrivals
from rta.errors import CorruptLogError
from rta.events.keys import id_sum, identities_of
from rta.events.schemas import REJECTED_SCHEMA
from rta.log.kafka.batches import Chunk, read_chunks
from rta.stream.fold import Fold
from rta.stream.model import BatchArrived, FoldLimits, PartitionLoaded
from tests.events.made_records import PARTITION, TOPIC, reading
from tests.events.test_records import PLAIN
from tests.log.made_batches import NOW_MS, ZSTD, Batch, Made, joined

DATASOURCE = reading(PLAIN)


def event(number: int) -> bytes:
    return b'{"t": 1, "n": %d}' % number


def chunks(*batches: Batch, offset: int = 0) -> list[Chunk]:
    return read_chunks("made", PARTITION, offset, joined(batches), (), NOW_MS)


def arrived(found: list[Chunk]) -> list[list[BatchArrived]]:
    return list(SourceArrivals(DATASOURCE, {PARTITION: "x"}, 1 << 20).batches(found))


def test_refused_events_come_with_topic_partition_and_offset() -> None:
    values = [event(0), b"garbage", None, event(3)]
    [[batch]] = arrived(chunks(Batch(70, tuple(Made(i, v) for i, v in enumerate(values)))))
    assert (batch.partition, batch.offset, batch.events) == (PARTITION, 73, 4)
    assert batch.rows["n"].to_pylist() == [0, 3]
    assert batch.rejected is not None
    assert batch.rejected.schema.equals(REJECTED_SCHEMA)
    rows = batch.rejected.drop_columns(["__time", "detail"]).to_pylist()
    same = {"reason": "invalid_json", "event_id": None, "topic": TOPIC, "partition": PARTITION}
    assert rows == [{**same, "event": "garbage", "offset": 71}, {**same, "event": None, "offset": 72}]
    kept = id_sum(identities_of(batch.rows, DATASOURCE))
    assert batch.id_sum == (kept + batch.rejected_sum) % (1 << 64)


def test_sums_of_all_events_do_not_depend_on_how_they_are_cut() -> None:
    values = [event(i) if i % 3 else b"bad" for i in range(30)]
    whole = arrived(chunks(Batch(0, tuple(Made(i, v) for i, v in enumerate(values)))))
    single = [Batch(i, (Made(0, v),)) for i, v in enumerate(values)]
    apart = [b for i, one in enumerate(single) for [b] in arrived(chunks(one, offset=i))]
    [[together]] = whole
    assert sum(b.id_sum for b in apart) % (1 << 64) == together.id_sum
    assert sum(b.rejected_sum for b in apart) % (1 << 64) == together.rejected_sum


def test_much_comes_in_parts_whose_offsets_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rta.events.records.RECORDS_AT_ONCE", 7)
    monkeypatch.setattr("rta.actors.arrivals.ROWS_BYTES", 1)
    monkeypatch.setattr("rta.log.kafka.batches.UNPACKED_BYTES", 100)
    made = [Batch(20 * n, tuple(Made(i, event(20 * n + i)) for i in range(20)), ZSTD, last_delta=19) for n in range(3)]
    parts = arrived(chunks(*made))
    assert len(parts) > 3
    offsets = [b.offset for part in parts for b in part]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] == 59
    ends = [-1, *offsets]
    for part, before in zip((b for p in parts for b in p), ends, strict=False):
        assert part.rows["n"].to_pylist() == list(range(before + 1, part.offset + 1))


def test_refused_events_take_room_like_good_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rta.actors.arrivals.ROWS_BYTES", 10_000)
    monkeypatch.setattr("rta.log.kafka.batches.UNPACKED_BYTES", 5_000)
    made = [Batch(50 * n, tuple(Made(i, b"x" * 100) for i in range(50)), ZSTD) for n in range(20)]
    parts = arrived(chunks(*made))
    sizes = [sum(b.rejected.nbytes for b in part if b.rejected is not None) for part in parts]
    assert sum(b.events for part in parts for b in part) == 1_000
    assert max(sizes) < 50_000


def test_offsets_without_records_are_covered() -> None:
    [[batch]] = arrived(chunks(Batch(5, (), last_delta=4)))
    assert (batch.offset, batch.events, batch.rows.num_rows, batch.id_sum) == (9, 0, 0, 0)


def test_what_is_in_front_of_a_damaged_batch_arrives_before_that_is_said() -> None:
    good, bad = Batch(0, (Made(0, event(0)),)), Batch(1, (Made(0, event(1)),))
    parts = SourceArrivals(DATASOURCE, {PARTITION: "x"}, 1 << 20).batches(chunks(good, replace(bad, count=2)))
    [batch] = next(parts)
    assert (batch.offset, batch.rows["n"].to_pylist()) == (0, [0])
    with pytest.raises(CorruptLogError, match="offset 1"):
        next(parts)


@pytest.mark.parametrize(("event_id", "kept"), [("s", ["a", "b", "c"]), (None, ["a", "b", "a", "a", "c"])])
def test_repetitions_within_a_partition_are_dropped_by_their_id_alone(event_id: str | None, kept: list[str]) -> None:
    datasource = reading({**PLAIN, "id": event_id})
    made = [Made(i, b'{"t": 1, "s": "%s"}' % s) for i, s in enumerate((b"a", b"b", b"a"))]
    later = [Made(i, b'{"t": 2, "s": "%s"}' % s) for i, s in enumerate((b"a", b"c"))]
    loaded = PartitionLoaded(partition=PARTITION, offset=0, append_time_ms=0, watermark_ms=None, state=None, runs=())
    fold = Fold(datasource, [loaded], FoldLimits())
    arrivals = SourceArrivals(datasource, {PARTITION: "x"}, 1 << 20)
    found: list[str] = []
    for chunk in chunks(Batch(0, tuple(made)), Batch(3, tuple(later))):
        for batches in arrivals.batches([chunk]):
            found += fold.fold(batches).rows["s"].to_pylist()
    assert found == kept
    assert fold.offsets == {PARTITION: 5}
