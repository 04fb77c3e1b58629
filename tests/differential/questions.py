"""A question before it is in any language, drawn at random, and its answer by the oracle."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tests.differential.shop import COUNTRIES, DAY_MS, DEVICES, HOUR_MS, STEPS, ZONES, Shop, literal

FIELDS = ("country", "device", "vip")
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Check:
    """One comparison. `op` is eq, in, like, lt, gte or null; `values` has one value but for `in`."""

    field: str
    op: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Tree:
    """`op` is and, or, not."""

    op: str
    parts: tuple[Tree | Check, ...]


@dataclass(frozen=True)
class Measure:
    """`kind` is count, sum, min, max, avg, unique or quantile; `q` only of the last."""

    name: str
    kind: str
    field: str = ""
    q: float = 0.5


MEASURES = (
    Measure("events", "count"),
    Measure("n_sum", "sum", "n"),
    Measure("price_sum", "sum", "price"),
    Measure("price_min", "min", "price"),
    Measure("price_max", "max", "price"),
    Measure("price_avg", "avg", "price"),
    Measure("users", "unique", "user"),
    Measure("p95", "quantile", "price", 0.95),
    Measure("p50", "quantile", "price", 0.5),
)


@dataclass(frozen=True)
class Question:
    """Half-open range in ms. No order and no limit: answers are compared as sets of rows."""

    start_ms: int
    end_ms: int
    step: str
    zone: str
    group_by: tuple[str, ...]
    measures: tuple[Measure, ...]
    where: Tree | Check | None

    @property
    def keys(self) -> int:
        """How many columns of a row say which group it is."""
        return len(self.group_by) + (self.step != "all")

    @property
    def interval(self) -> str:
        return f"{iso(self.start_ms)}/{iso(self.end_ms)}"


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def draw(rng: random.Random, shop: Shop, zones: Sequence[str] = ZONES) -> Question:
    start, end = _range(rng, shop)
    step = rng.choice(("all", *STEPS))
    measures = tuple(rng.sample(MEASURES, rng.randrange(1, 5)))
    return Question(
        start,
        end,
        step,
        rng.choice(zones) if step != "all" else "UTC",
        tuple(rng.sample(FIELDS, rng.choice((0, 0, 1, 1, 2, 3)))),
        measures,
        _tree(rng, 2) if rng.random() < 0.6 else None,
    )


def _range(rng: random.Random, shop: Shop) -> tuple[int, int]:
    kind = rng.randrange(5)
    if kind == 0:
        return shop.begin_ms - 50 * DAY_MS, shop.end_ms + DAY_MS
    if kind == 1:
        return shop.end_ms + DAY_MS, shop.end_ms + 2 * DAY_MS
    unit = (1, 60_000, HOUR_MS)[kind - 2]
    start = shop.begin_ms + rng.randrange(2 * DAY_MS) // unit * unit
    return start, start + max(unit, rng.randrange(2 * DAY_MS) // unit * unit)


def _tree(rng: random.Random, depth: int) -> Tree | Check:
    if depth == 0 or rng.random() < 0.5:
        return _test(rng)
    op = rng.choice(("and", "or", "not"))
    return Tree(op, tuple(_tree(rng, depth - 1) for _ in range(1 if op == "not" else rng.randrange(2, 4))))


def _test(rng: random.Random) -> Check:
    field = rng.choice((*FIELDS, "user", "n"))
    if rng.random() < 0.15:
        return Check(field, "null")
    if field == "vip":
        return Check(field, "eq", (rng.choice((True, False)),))
    if field == "n":
        return Check(field, rng.choice(("eq", "lt", "gte")), (rng.randrange(-5, 100),))
    known: Sequence[str | None] = {"country": COUNTRIES, "device": DEVICES}.get(field, ("user 7", "user 33", "nobody"))
    values = [v for v in known if v is not None]
    op = rng.choice(("eq", "in", "like", "lt", "gte"))
    if op == "in":
        return Check(field, op, tuple(rng.sample(values, 2)))
    if op == "like":
        return Check(field, op, (rng.choice(("%e%", "U_", "d%", "%", "user 1%", "%'s")),))
    return Check(field, op, (rng.choice(values),))


def expected(shop: Shop, question: Question) -> list[Row]:
    """By the oracle: (step in ms,)? + groups + measures, sorted."""
    keys = [f'"{question.step}|{question.zone}"'] if question.step != "all" else []
    keys += [f'"{name}"' for name in question.group_by]
    measures = [_oracle_measure(m) for m in question.measures]
    where = f"ms >= {question.start_ms} AND ms < {question.end_ms}"
    if question.where is not None:
        where += f" AND ({condition(question.where)})"
    text = f"SELECT {', '.join([*keys, *measures])} FROM shop WHERE {where}"
    text += f" GROUP BY {', '.join(keys)}" if keys else ""
    return ordered(shop.oracle.execute(text).fetchall())


def _oracle_measure(measure: Measure) -> str:
    match measure.kind:
        case "count":
            return "count(*)"
        case "unique":
            return f'count(DISTINCT "{measure.field}")'
        case "quantile":
            return f'quantile_disc("{measure.field}", {measure.q})'
        case kind:
            return f'{kind}("{measure.field}")'


def condition(part: Tree | Check) -> str:
    """The condition in SQL, which the oracle and SQL share."""
    if isinstance(part, Tree):
        inner = [f"({condition(each)})" for each in part.parts]
        return f"NOT {inner[0]}" if part.op == "not" else f" {part.op.upper()} ".join(inner)
    field = f'"{part.field}"'
    match part.op:
        case "null":
            return f"{field} IS NULL"
        case "in":
            return f"{field} IN ({', '.join(map(literal, part.values))})"
        case op:
            sign = {"eq": "=", "lt": "<", "gte": ">=", "like": "LIKE"}[op]
            return f"{field} {sign} {literal(part.values[0])}"


def ordered(rows: Sequence[Sequence[Any]]) -> list[Row]:
    return sorted((tuple(row) for row in rows), key=lambda row: [(v is not None, str(v)) for v in row])


def keyed(rows: Sequence[Row], keys: int) -> dict[Row, Row]:
    found = {row[:keys]: row[keys:] for row in rows}
    assert len(found) == len(rows), "a group is there twice"
    return found


def same(found: Sequence[Row], wanted: Sequence[Row], keys: int) -> bool:
    """Whether the groups and all measures are equal; sums and averages of doubles up to their last digits."""
    left, right = keyed(found, keys), keyed(wanted, keys)
    return left.keys() == right.keys() and all(
        len(left[key]) == len(right[key]) and all(map(_close, left[key], right[key])) for key in left
    )


def bounded(found: Sequence[Row], shop: Shop, question: Question) -> str:
    """Where the answer of something that estimates is off by more than it may be; "" if nowhere.

    Uniques may be off by a twentieth and one, quantiles by two hundredths of the rank; everything else has to be equal.
    """
    wanted = keyed(expected(shop, question), question.keys)
    edges = [
        keyed(
            expected(shop, replace(question, measures=tuple(_moved(m, by) for m in question.measures))), question.keys
        )
        for by in (-0.02, 0.02)
    ]
    answer = keyed(found, question.keys)
    if answer.keys() != wanted.keys():
        missing, odd = wanted.keys() - answer.keys(), answer.keys() - wanted.keys()
        return f"missing groups {sorted(map(str, missing))[:5]}, odd groups {sorted(map(str, odd))[:5]}"
    for key, row in answer.items():
        for place, measure in enumerate(question.measures):
            value, right = row[place], wanted[key][place]
            low, high = edges[0][key][place], edges[1][key][place]
            if measure.kind == "unique":
                good = abs(value - right) <= right / 20 + 1
            elif measure.kind == "quantile" and right is not None:
                good = low <= value <= high
            else:
                good = _close(value, right)
            if not good:
                return f"{measure.name} of {key} is {value!r} and should be {right!r}"
    return ""


def _moved(measure: Measure, by: float) -> Measure:
    return replace(measure, q=min(1.0, max(0.0, measure.q + by)))


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-7)
    return type(a) is type(b) and bool(a == b)
