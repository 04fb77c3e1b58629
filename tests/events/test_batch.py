"""Splitting by partition, records, and reading them with another definition."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rta.errors import CorruptFileError
from rta.events.batch import encode, read, split
from rta.events.keys import id_sum
from tests.events.samples import event, events_datasource, ndjson, run, texts, typed_datasource

EVENTS = events_datasource()
TYPED = typed_datasource()


@given(st.lists(texts, max_size=20))
def test_split_parts_are_the_whole_and_keep_their_order(events: list[str]) -> None:
    decoded = run(TYPED, ndjson("{}", *events))
    parts = split(decoded, TYPED.partitions)
    assert [p for p, _, _ in parts] == sorted(set(decoded.partitions.tolist()))
    for partition, rows, total in parts:
        mask = decoded.partitions == partition
        assert rows.equals(decoded.rows.filter(pa.array(mask)))
        assert total == id_sum(decoded.identities[mask])


@given(st.lists(texts, max_size=10))
def test_records_are_read_back_as_they_were_written(events: list[str]) -> None:
    for _, rows, _ in split(run(TYPED, ndjson("{}", *events)), TYPED.partitions):
        found = read(encode(rows), TYPED)
        assert found.schema.equals(TYPED.raw_schema())
        assert found.equals(rows)


def test_column_that_the_writer_did_not_have_is_null() -> None:
    rows = run(EVENTS, ndjson(*(json.dumps(event(event_id=f"{i}")) for i in range(10)))).rows
    older = rows.drop_columns(["price", "country"])
    found = read(encode(older), EVENTS)
    assert found.schema.equals(EVENTS.raw_schema())
    assert found["price"].null_count == 10
    assert found["event_id"].equals(rows["event_id"])


def test_column_that_this_definition_does_not_have_is_left_out() -> None:
    rows = run(EVENTS, json.dumps(event())).rows
    newer = rows.append_column("later", pa.array([1]))
    assert read(encode(newer), EVENTS).equals(rows)


@pytest.mark.parametrize("payload", [b"", b"nonsense", encode(run(EVENTS, json.dumps(event())).rows)[:-40]])
def test_damaged_record_is_named(payload: bytes) -> None:
    with pytest.raises(CorruptFileError, match="'events'"):
        read(payload, EVENTS)


def test_order_within_a_partition_is_the_order_of_arrival() -> None:
    decoded = run(EVENTS, ndjson(*(json.dumps(event(event_id=f"{i:04}", user_id=f"u{i % 50}")) for i in range(500))))
    for _, rows, _ in split(decoded, 8):
        ids = rows["event_id"].to_pylist()
        assert ids == sorted(ids)
    assert np.bincount(decoded.partitions, minlength=8).min() > 0
