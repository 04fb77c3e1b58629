"""Laws of decoding: both decoders agree, cuts do not matter, nothing of an event gets lost."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rta.events.bodies import Body
from rta.events.exact import TIME_MAX_MS, TIME_MIN_MS, Judge, judge
from rta.events.schemas import Datasource
from rta.events.verdicts import Verdict
from tests.events.samples import NOW_MS, ndjson, rows_of, run, texts, typed_datasource, typed_events, values, written

TYPED = typed_datasource()
RULES = Judge(TYPED, TIME_MIN_MS, min(TIME_MAX_MS, NOW_MS + TYPED.in_the_future_ms), 1 << 20)


def exact_row(text: str, index: int = 0, datasource: Datasource = TYPED) -> dict[str, Any] | Verdict:
    found = judge(text.encode(), RULES, index)
    if isinstance(found, Verdict):
        return found
    row = dict(zip([f.name for f in datasource.raw_schema()], found, strict=True))
    for name in ("__rest", "j"):
        row[name] = None if row[name] is None else json.loads(row[name])
    return row


def same(a: Any, b: Any) -> bool:
    """Equality that tells -0.0 from 0.0 and lists compare by their elements."""
    return repr(a) == repr(b)


@given(texts)
def test_fast_and_exact_decoder_agree_on_random_events(text: str) -> None:
    decoded = run(TYPED, ndjson(text))
    expected = exact_row(text)
    if isinstance(expected, Verdict):
        assert decoded.outcomes[0].verdicts == [expected]
    else:
        assert same(rows_of(decoded), [expected])


PUT = ["", ",", "}", "{", "]", '"', "\\", "\\u12", "\\ud800", "1", "-", ".", "e9", "NaN", "\x01", "\x7f"]


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """An event's text with one place cut out, doubled or replaced."""
    text = draw(texts)
    at = draw(st.integers(0, len(text)))
    width = draw(st.integers(0, 3))
    put = draw(
        st.sampled_from(
            ["", ",", "}", "{", "]", '"', "\\", "\\u12", "\\ud800", "1", "-", ".", "e9", "NaN", "\x01", "\x7f"]
        )
    )
    return (text[:at] + put + text[at + width :]).replace("\n", " ")


@given(mangled())
def test_fast_and_exact_decoder_agree_on_damaged_events(text: str) -> None:
    decoded = run(TYPED, ndjson(text))
    if not text.strip(" \t\r"):
        return
    expected = exact_row(text.strip(" \t\r"))
    if isinstance(expected, Verdict):
        assert decoded.outcomes[0].verdicts == [expected]
    else:
        assert same(rows_of(decoded), [expected])


@given(st.lists(st.tuples(st.sampled_from(["id", "k", "n", "s", "x", "o", "t"]), values), max_size=8), st.data())
def test_of_a_repeated_member_the_last_one_counts(extra: list[tuple[str, Any]], data: st.DataObject) -> None:
    event = data.draw(typed_events())
    members = data.draw(st.permutations([*event.items(), *extra]))
    text = "{" + ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in members) + "}"
    last = json.dumps(dict(members))
    decoded = run(TYPED, ndjson(text))
    expected = exact_row(last)
    if isinstance(expected, Verdict):
        assert decoded.outcomes[0].verdicts == [expected]
    else:
        assert same(rows_of(decoded), [expected])


@given(st.lists(texts, min_size=1, max_size=12), st.data())
def test_any_cut_of_events_into_bodies_gives_the_same_rows(events: list[str], data: st.DataObject) -> None:
    whole = run(TYPED, ndjson(*events))
    bodies: list[Body] = []
    left = list(events)
    while left:
        count = data.draw(st.integers(1, len(left)))
        shape = data.draw(st.sampled_from(["lines", "array", "envelope", "single"]))
        count = 1 if shape == "single" else count
        part, left = left[:count], left[count:]
        joined = ",".join(part)
        text = {"lines": "\n".join(part) + "\n", "array": f" [{joined}] ", "envelope": f'{{"events": [{joined}]}}'}.get(
            shape, joined
        )
        bodies.append(Body(text.encode(), "application/x-ndjson" if shape == "lines" else "application/json"))
    cut = run(TYPED, *bodies)
    assert cut.rows.equals(whole.rows)
    assert np.array_equal(cut.identities, whole.identities)
    assert np.array_equal(cut.partitions, whole.partitions)
    assert sum(o.total for o in cut.outcomes) == whole.outcomes[0].total == len(events)
    assert sum(o.successful for o in cut.outcomes) == whole.rows.num_rows
    firsts = [o.first_row for o in cut.outcomes]
    assert firsts == [sum(o.successful for o in cut.outcomes[:i]) for i in range(len(bodies))]


def without_nulls(event: dict[str, Any]) -> dict[str, Any]:
    """What of an event can be told from its row: nulls and declared objects without members are as good as absent."""

    def pruned(inside: dict[str, Any], declared: dict[str, Any]) -> dict[str, Any]:
        out = {}
        for key, value in inside.items():
            if value is None:
                continue
            if isinstance(declared.get(key), dict) and isinstance(value, dict):
                value = pruned(value, declared[key])
                if not value:
                    continue
            out[key] = value
        return out

    return pruned(event, {"o": {"deep": {}}})


@given(typed_events().flatmap(lambda e: written(e)))
def test_columns_and_rest_reproduce_the_event(text: str) -> None:
    decoded = run(TYPED, ndjson(text))
    if not decoded.rows.num_rows:
        return
    (row,) = rows_of(decoded)
    rebuilt: dict[str, Any] = row["__rest"] or {}
    for column in TYPED.columns:
        if row[column.name] is not None:
            inside = rebuilt
            for key in column.path[:-1]:
                inside = inside.setdefault(key, {})
            inside[column.path[-1]] = row[column.name]
    original = without_nulls(json.loads(text))
    times = {"t": original.pop("t"), "at": None}
    if isinstance(original.get("o"), dict):
        times["at"] = original["o"].pop("at", None)
        rebuilt.get("o", {}).pop("at", None)
        if isinstance(original["o"].get("d"), int):
            original["o"]["d"] = float(original["o"]["d"])
        if not original["o"]:
            del original["o"]
            rebuilt.pop("o", None)
    assert without_nulls(rebuilt) == original
    assert row["__time"] == judge_time(times["t"])


def judge_time(value: Any) -> int:
    found = judge(json.dumps({"id": "x", "t": value}).encode(), RULES, 0)
    assert isinstance(found, list)
    return int(found[0])


@given(typed_events(), values, st.integers(0, 3))
def test_partition_depends_only_on_key_and_id(event: dict[str, Any], other: Any, edge: int) -> None:
    changed = {**event, "zz": other, "s": "different"}
    before = run(TYPED, ndjson(json.dumps(event)), edge=0)
    after = run(TYPED, ndjson("{}", json.dumps(changed)), edge=edge)
    if before.rows.num_rows and after.rows.num_rows:
        assert before.partitions.tolist() == after.partitions.tolist()
        assert before.identities.tolist() == after.identities.tolist()
