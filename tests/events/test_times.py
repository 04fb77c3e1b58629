"""Times as most are written are read eight bytes at once; what comes out is what the exact decoder says, for every text."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from rta.events.decode import Body, Edge, decode
from rta.events.definition import parse_datasource
from rta.events.exact import iso_ms
from rta.events.times import TIME_MAX_MS, TIME_MIN_MS

DATASOURCE = parse_datasource(
    {"name": "times", "time": "t", "limits": {"in_the_future": "3600000d"}}, incarnation="x", version=1, partitions=1
)
USUAL = st.builds(
    "{:04d}-{:02d}-{:02d}T{:02d}:{:02d}:{:02d}.{:03d}Z".format,
    st.integers(0, 9999),
    st.integers(0, 13),
    st.integers(0, 32),
    st.integers(0, 25),
    st.integers(0, 61),
    st.integers(0, 61),
    st.integers(0, 999),
)


def damaged(text: str, at: int, letter: str) -> str:
    return text[:at] + letter + text[at + 1 :]


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(USUAL, st.builds(damaged, USUAL, st.integers(0, 23), st.sampled_from("/:;?@ 09-TZtz.é,+"))),
        min_size=1,
        max_size=20,
    )
)
def test_every_time_is_read_as_the_exact_decoder_reads_it(texts: list[str]) -> None:
    body = "\n".join(json.dumps({"t": text}, ensure_ascii=False) for text in [*texts, texts[0]]).encode()
    decoded = decode(DATASOURCE, [Body(body, "application/x-ndjson")], Edge(1), 0)
    expected = [iso_ms(text) for text in [*texts, texts[0]]]
    good = [ms for ms in expected if ms is not None and TIME_MIN_MS <= ms <= TIME_MAX_MS]
    assert decoded.rows.column("__time").cast("int64").to_pylist() == good
    assert decoded.outcomes[0].successful == len(good)
