"""`POST /v1/query` against DuckDB on the same events: random questions, which rollups, raw events and both together answer."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from rta.query.periods import parse_instant_ms
from tests.differential.desk import desk
from tests.differential.questions import Check, Measure, Question, Row, Tree, draw, expected, ordered, same
from tests.differential.shop import Shop, build, make_shop
from tests.query.world import World

QUESTIONS = 120
SEEDS = (1, 2, 3)


def document(question: Question) -> dict[str, Any]:
    """As `POST /v1/query` takes it."""
    found: dict[str, Any] = {
        "datasource": "shop",
        "time_range": question.interval,
        "granularity": question.step,
        "timezone": question.zone,
        "metrics": [_metric(m) for m in question.measures],
        "group_by": list(question.group_by),
    }
    if question.where is not None:
        found["where"] = _where(question.where)
    return found


def _metric(measure: Measure) -> dict[str, Any]:
    kind = {"unique": "unique_count"}.get(measure.kind, measure.kind)
    extra = {"q": measure.q} if kind == "quantile" else {}
    return {"name": measure.name, "type": kind, **({"field": measure.field} if measure.field else {}), **extra}


def _where(part: Tree | Check) -> dict[str, Any]:
    if isinstance(part, Tree):
        inner = [_where(each) for each in part.parts]
        return {part.op: inner[0] if part.op == "not" else inner}
    if part.op == "null":
        return {"field": part.field, "op": "is_null"}
    return {"field": part.field, "op": part.op, "value": list(part.values) if part.op == "in" else part.values[0]}


def rows_of(question: Question, body: dict[str, Any]) -> list[Row]:
    names = [*question.group_by, *(m.name for m in question.measures)]
    step = question.step != "all"
    return ordered(
        [((parse_instant_ms(r["time"]),) if step else ()) + tuple(r[name] for name in names) for r in body["rows"]]
    )


async def ask_all(world: World, shop: Shop, rng: random.Random) -> dict[str, int]:
    """Ask, compare, and count which tables answered."""
    used: dict[str, int] = {}
    async with desk(world) as ask:
        for _ in range(QUESTIONS):
            question = draw(rng, shop)
            asked = document(question)
            body = await ask.query(asked)
            found, wanted = rows_of(question, body), expected(shop, question)
            assert same(found, wanted, question.keys), f"{json.dumps(asked)}\nfound {found[:5]}\nwanted {wanted[:5]}"
            for source in body["meta"]["sources"]:
                used[source] = used.get(source, 0) + 1
    return used


@pytest.mark.parametrize("seed", SEEDS)
def test_random_questions_are_answered_as_by_duckdb(tmp_path: Path, seed: int) -> None:
    shop = make_shop(seed)
    used = asyncio.run(ask_all(build(tmp_path, shop), shop, random.Random(seed)))
    # Nothing is shown by questions that all go one way.
    assert min(used.get(name, 0) for name in ("rollup_by_country_minute", "rollup_hourly_hour", "events", "hot")) > 3
