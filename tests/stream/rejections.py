"""Records with rejected events in them, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rta.events.keys import identities_of
from rta.events.schemas import REJECTED_SCHEMA, Datasource
from rta.stream.model import BatchArrived
from tests.stream.shop import START, Event, table_of

REASONS = ("invalid_json", "missing_field", "wrong_type")


def rejected_rows(places: Sequence[tuple[int, int]], time_ms: int, text: str = "{") -> pa.Table:
    """One row for each (partition, offset), all appended at one time."""
    columns: dict[str, list[Any]] = {
        "__time": [time_ms] * len(places),
        "reason": [REASONS[offset % 3] for _, offset in places],
        "detail": [f"at {offset}" for _, offset in places],
        "event": [text] * len(places),
        "event_id": [None if offset % 2 else f"e{offset}" for _, offset in places],
        "topic": ["clicks"] * len(places),
        "partition": [partition for partition, _ in places],
        "offset": [offset for _, offset in places],
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in REJECTED_SCHEMA], schema=REJECTED_SCHEMA)


def record(
    source: Datasource, place: tuple[int, int], append: int, good: Sequence[Event], bad: int, text: str = "{"
) -> BatchArrived:
    """The record at (partition, offset), `append` ms after START: some good events and some that were rejected."""
    rows = table_of(good, source)
    good_sum = int(identities_of(rows, source)[:, 1].sum(dtype=np.uint64))
    partition, offset = place
    bad_sum = sum(1 << (60 + i) for i in range(bad)) % 2**64
    return BatchArrived(
        partition=partition,
        offset=offset,
        append_time_ms=START + append,
        events=len(good) + bad,
        id_sum=(good_sum + bad_sum) % 2**64,
        rows=rows,
        rejected=rejected_rows([place] * bad, START + append, text) if bad else None,
        rejected_sum=bad_sum,
    )
