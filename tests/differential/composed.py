"""Questions with metrics of their own conditions, sets, tops by a metric, quotients and the period before, drawn at random, and
their answers in plain Python: the oracle says only which events a condition takes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.differential.questions import Check, Question, Tree, condition, draw
from tests.differential.shop import Shop

Event = Mapping[str, Any]
Where = Tree | Check | None
RANKED = ("count", "sum", "max", "unique_count")


@dataclass(frozen=True)
class Wanted:
    """A metric. `sets` are the operands of a theta, `by` the type that a top ranks by."""

    name: str
    kind: str
    field: str = ""
    where: Where = None
    op: str = ""
    sets: tuple[Where, ...] = ()
    by: str = ""


@dataclass(frozen=True)
class Composed:
    """A question with these metrics in place of its measures. `ratio` divides the first metric by the second."""

    base: Question
    metrics: tuple[Wanted, ...]
    ratio: bool
    previous: bool


def draw_composed(rng: random.Random, shop: Shop) -> Composed:
    base = draw(rng, shop)
    previous = rng.random() < 0.3 and base.end_ms - base.start_ms < 10**9
    if previous:
        base = replace(base, step="all", zone="UTC")
    if rng.random() < 0.3:
        # What adds up, over what every rollup has.
        base = replace(base, group_by=(), where=rng.choice((None, Check("country", "eq", ("US",)))))
        kinds = rng.sample((("count", ""), ("sum", "n"), ("avg", "price"), ("min", "price"), ("max", "price")), 2)
        plain = tuple(Wanted(f"m{i}", kind, field) for i, (kind, field) in enumerate(kinds))
        return Composed(base, plain, rng.random() < 0.3, previous)
    numbers = tuple(_number(rng, shop, f"m{i}") for i in range(rng.randrange(1, 4)))
    tops = () if previous or rng.random() < 0.6 else (_top(rng, shop),)
    return Composed(base, (*numbers, *tops), len(numbers) > 1 and rng.random() < 0.5, previous)


def _condition(rng: random.Random, shop: Shop, chance: float) -> Where:
    """Half of them are of what every rollup row knows."""
    if rng.random() > chance:
        return None
    found = draw(rng, shop).where
    return found if rng.random() < 0.5 else Check("country", "in", ("US", rng.choice(("DE", "", "東京"))))


def _number(rng: random.Random, shop: Shop, name: str) -> Wanted:
    kind = rng.choice(("count", "count", "sum", "avg", "min", "max", "unique_count", "quantile", "theta", "theta"))
    field = {
        "count": rng.choice(("", "n")),
        "unique_count": "user",
        "theta": rng.choice(("user", "user", "device")),
    }.get(kind, rng.choice(("price", "n") if kind in ("sum", "avg") else ("price",)))
    where = _condition(rng, shop, 0.6)
    if kind != "theta":
        return Wanted(name, kind, field, where)
    sets = tuple(_condition(rng, shop, 0.9) for _ in range(rng.randrange(2, 4)))
    return Wanted(name, kind, field, where, rng.choice(("union", "intersect", "not")), sets)


def _top(rng: random.Random, shop: Shop) -> Wanted:
    field = rng.choice(("user", "user", "country"))
    return Wanted("best", "top", field, _condition(rng, shop, 0.5), by=rng.choice(("", *RANKED)))


def document(question: Composed, where: Any) -> dict[str, Any]:
    """As `POST /v1/query` takes it; `where` writes a condition."""
    base = question.base
    metrics = [_written(m, where) for m in question.metrics]
    if question.ratio:
        metrics.append({"name": "ratio", "type": "ratio", "of": ["m0", "m1"]})
    return {
        "datasource": "shop",
        "time_range": base.interval,
        "granularity": base.step,
        "timezone": base.zone,
        "group_by": [g for g in base.group_by if g not in (m.field for m in question.metrics if m.by)],
        "metrics": metrics,
        **({"where": where(base.where)} if base.where is not None else {}),
        **({"compare": "previous"} if question.previous else {}),
    }


def _written(metric: Wanted, where: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"name": metric.name, "type": metric.kind}
    if metric.field:
        found["field"] = metric.field
    if metric.where is not None:
        found["where"] = where(metric.where)
    if metric.kind == "quantile":
        found["q"] = 0.5
    if metric.kind == "theta":
        found |= {"op": metric.op, "of": [{} if s is None else {"where": where(s)} for s in metric.sets]}
    if metric.kind == "top":
        found["k"] = 3
        if metric.by:
            found["by"] = {"name": "r", **_ranking(metric.by)}
    return found


def _ranking(kind: str) -> dict[str, Any]:
    return {"type": kind, **({} if kind == "count" else {"field": "device" if kind == "unique_count" else "price"})}


def answer(question: Composed, shop: Shop, count: int, groups: Sequence[str]) -> list[dict[str, Any]]:
    """From the first `count` events."""
    base = question.base
    now = _period(question, shop, count, groups, (base.start_ms, base.end_ms))
    if not question.previous:
        return list(now.values())
    length = base.end_ms - base.start_ms
    if base.start_ms % 86_400_000 == base.end_ms % 86_400_000 == 0:
        length = -(-length // 86_400_000) * 86_400_000
    before = _period(question, shop, count, groups, (base.start_ms - length, base.end_ms - length))
    nothing = _row(question, [])
    rows = []
    for key in {**now, **before}:
        row = dict(zip(groups, key, strict=True))
        left, right = now.get(key, {**row, **nothing}), before.get(key, {**row, **nothing})
        row |= {name: left[name] for name in nothing}
        rows.append(row | {f"{name}_previous": right[name] for name in nothing})
    return rows


def _period(
    question: Composed, shop: Shop, count: int, groups: Sequence[str], times: tuple[int, int]
) -> dict[tuple[Any, ...], dict[str, Any]]:
    base = question.base
    step = f'"{base.step}|{base.zone}"' if base.step != "all" else "NULL"
    conditions = [c for m in question.metrics for c in (m.where, *m.sets) if c is not None]
    flags = {c: f"c{i}" for i, c in enumerate(dict.fromkeys(conditions))}
    columns = [f"{step} AS step", "country", "device", "vip", '"user"', "n", "price"]
    columns += [f"({condition(c)}) AS {name}" for c, name in flags.items()]
    where = f"rowid < {count} AND ms >= {times[0]} AND ms < {times[1]}"
    where += f" AND ({condition(base.where)})" if base.where is not None else ""
    found = shop.oracle.execute(f"SELECT {', '.join(columns)} FROM shop WHERE {where}")
    names = [d[0] for d in found.description or ()]
    by_key: dict[tuple[Any, ...], list[Event]] = {}
    keys = [*(["step"] if base.step != "all" else []), *groups]
    if not keys:
        by_key[()] = []
    for values in found.fetchall():
        event = dict(zip(names, values, strict=True))
        event["flags"] = {c: bool(event[name]) for c, name in flags.items()}
        by_key.setdefault(tuple(event[k] for k in keys), []).append(event)
    return {
        key: {**{"time" if k == "step" else k: v for k, v in zip(keys, key, strict=True)}, **_row(question, events)}
        for key, events in by_key.items()
    }


def _row(question: Composed, events: Sequence[Event]) -> dict[str, Any]:
    row = {m.name: _value(m, [e for e in events if m.where is None or e["flags"][m.where]]) for m in question.metrics}
    if question.ratio:
        row["ratio"] = row["m0"] / row["m1"] if row["m0"] is not None and row["m1"] else None
    return row


def _value(metric: Wanted, events: Sequence[Event]) -> Any:
    if metric.kind == "theta":
        sets = [{e[metric.field] for e in events if s is None or e["flags"][s]} - {None} for s in metric.sets]
        first, *others = sets
        match metric.op:
            case "union":
                return len(first.union(*others))
            case "intersect":
                return len(first.intersection(*others))
            case _:
                return len(first.difference(*others))
    if metric.kind == "top":
        return _best(metric, events)
    return _number_of(metric.kind, metric.field, events)


def _number_of(kind: str, field: str, events: Sequence[Event]) -> Any:
    values: list[Any] = [e[field] for e in events if e[field] is not None] if field else [*events]
    match kind:
        case "count":
            return len(values)
        case "unique_count":
            return len(set(values))
        case _ if not values:
            return None
        case "sum":
            return sum(values)
        case "avg":
            return sum(values) / len(values)
        case "min":
            return min(values)
        case "max":
            return max(values)
        case _:
            return sorted(values)[max(-(-len(values) // 2) - 1, 0)]


def _best(metric: Wanted, events: Sequence[Event]) -> list[dict[str, Any]]:
    of: dict[str, list[Event]] = {}
    for event in events:
        if event[metric.field] is not None:
            of.setdefault(event[metric.field], []).append(event)
    ranking = _ranking(metric.by or "count")
    name = "r" if metric.by else "count"
    rows = [{"value": v, name: _number_of(ranking["type"], ranking.get("field", ""), es)} for v, es in of.items()]
    rows = [row for row in rows if row[name] is not None]
    return sorted(rows, key=lambda row: (-row[name], row["value"]))[:3]
