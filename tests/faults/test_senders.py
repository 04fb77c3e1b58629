"""The oracle's own arithmetic: what a sender says it sent is what is in its bodies."""

from __future__ import annotations

import json

import numpy as np

from tests.faults.senders import ID_WIDTH, body_of, cents_of


def test_a_body_holds_the_events_that_its_numbers_say() -> None:
    events = [json.loads(line) for line in body_of(42, 998, 1500, 1_700_000_000_000).splitlines()]
    numbers = np.arange(998, 998 + 1500)
    assert [e["event_id"] for e in events] == [f"00000042-{k:09}" for k in numbers]
    assert {len(e["event_id"]) for e in events} == {ID_WIDTH}
    assert [round(e["custom_properties"]["price"] * 100) for e in events] == cents_of(42, numbers).tolist()
    assert min(e["timestamp"] for e in events) > 1_699_999_997_000
    assert max(e["timestamp"] for e in events) <= 1_700_000_000_000
    assert {e["event_type"] for e in events} == {"search", "basket", "refund", "signup"}
    assert len({e["user_id"] for e in events}) > 500
