"""Datasources and events for the tests of this room, and an oracle that reads JSON with the standard library only."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from rta.events.bodies import Body, Limits
from rta.events.decode import Decoded, Edge, Outcome, decode
from rta.events.definition import events_document, parse_datasource
from rta.events.schemas import Datasource
from rta.events.verdicts import Verdict

NOW_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z"""
TYPED = {
    "name": "typed",
    "time": "t",
    "key": ["k", "o.k"],
    "id": "id",
    "columns": {
        "id": "string",
        "k": "string",
        "o.k": "string",
        "s": "string",
        "n": "long",
        "d": {"path": "o.d", "type": "double"},
        "b": {"path": "o.deep.b", "type": "boolean"},
        "at": {"path": "o.at", "type": "timestamp"},
        "tags": "string[]",
        "j": "json",
    },
}


def events_datasource(partitions: int = 8) -> Datasource:
    return parse_datasource(events_document(), incarnation="i", version=1, partitions=partitions)


def typed_datasource(**changes: Any) -> Datasource:
    return parse_datasource({**TYPED, **changes}, incarnation="i", version=1, partitions=8)


def event(**changes: Any) -> dict[str, Any]:
    """A valid event of `events`; a change to None takes the field away."""
    base = {"event_id": "e1", "timestamp": "2026-01-01T00:00:00.000Z", "event_type": "page_view", "user_id": "u1"}
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def run(datasource: Datasource, *bodies: Body | bytes | str, limits: Limits | None = None, edge: int = 1) -> Decoded:
    made = [b if isinstance(b, Body) else Body(b.encode() if isinstance(b, str) else b) for b in bodies]
    decoded = decode(datasource, made, Edge(edge), NOW_MS, limits)
    decoded.rows.validate(full=True)
    assert decoded.rows.schema.equals(datasource.raw_schema())
    assert len(decoded.partitions) == len(decoded.identities) == decoded.rows.num_rows
    return decoded


def run_one(body: Body | bytes | str, datasource: Datasource | None = None, limits: Limits | None = None) -> Outcome:
    return run(datasource or events_datasource(), body, limits=limits).outcomes[0]


def verdict_of(body: Body | bytes | str, datasource: Datasource | None = None, limits: Limits | None = None) -> Verdict:
    """The one verdict on a body's only event."""
    outcome = run_one(body, datasource, limits)
    assert outcome.error is None
    assert (outcome.total, outcome.successful) == (1, 0)
    return outcome.verdicts[0]


def rows_of(decoded: Decoded) -> list[dict[str, Any]]:
    """Rows with times as milliseconds and JSON texts parsed."""
    table = decoded.rows
    out = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if str(column.type).startswith("timestamp"):
            table = table.set_column(table.column_names.index(name), name, column.cast("int64"))
    for row in table.to_pylist():
        for name in ("__rest", "j"):
            if row.get(name) is not None:
                row[name] = json.loads(row[name])
        out.append(row)
    return out


def ndjson(*texts: str) -> Body:
    return Body("\n".join(texts).encode(), "application/x-ndjson")


plain_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.one_of(st.sampled_from(["a", "id", "t", "k", "o", "n", "deep", "ü", 'q"', "\\", "a.b"]), plain_text)
numbers = st.one_of(
    st.integers(-(1 << 70), 1 << 70),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 1e22, 1e23, 5e-324, 1.7976931348623157e308, 0.1, 9007199254740993]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, plain_text)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=8,
)
times = st.one_of(
    st.integers(0, NOW_MS),
    st.sampled_from(
        [
            "2026-01-01T00:00:00Z",
            "2025-12-31T23:59:59.9999+00:00",
            "2024-02-29t12:30:00.5-05:30",
            "0001-01-01T00:00:00Z",
            "1969-12-31 23:59:59.001z",
            "2025-06-01T10:00+0200",
            "2025-06-01T10:00:01,25+02",
        ]
    ),
)


@st.composite
def typed_events(draw: st.DrawFn) -> dict[str, Any]:
    """Mostly valid events of `TYPED`, with undeclared members anywhere, in any order."""
    deep = draw(st.fixed_dictionaries({}, optional={"b": st.booleans() | st.none(), "x": values}))
    inside = st.fixed_dictionaries(
        {},
        optional={
            "d": numbers | st.none(),
            "at": times,
            "k": plain_text | st.none(),
            "deep": st.just(deep) | scalars,
            "more": values,
        },
    )
    event = draw(
        st.fixed_dictionaries(
            {"id": plain_text.filter(bool), "t": times},
            optional={
                "k": plain_text | st.none(),
                "s": plain_text,
                "n": st.integers(-(1 << 63), (1 << 63) - 1),
                "o": inside | scalars,
                "tags": st.lists(plain_text, max_size=3) | st.none(),
                "j": values,
            },
        )
    )
    extra = draw(
        st.dictionaries(names.filter(lambda n: n not in TYPED["columns"] and n not in ("t", "o")), values, max_size=4)
    )
    members = draw(st.permutations([*event.items(), *extra.items()]))
    return dict(members)


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """A JSON text of the value: escaped or not, spaced or not."""
    ascii_only = draw(st.booleans())
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " :\r ")]))
    return json.dumps(value, ensure_ascii=ascii_only, separators=separators)


texts = typed_events().flatmap(lambda e: written(e))
