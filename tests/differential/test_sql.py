"""`POST /v1/sql` against DuckDB on the same events: plain SQL, which rollups answer where they can."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from rta.query.periods import parse_instant_ms
from tests.differential.desk import desk
from tests.differential.questions import Measure, Question, Row, condition, draw, expected, iso, ordered, same
from tests.differential.shop import Shop, build, make_shop
from tests.query.world import World

QUESTIONS = 60
STEPS = ("minute", "hour", "day", "week", "month")
"""What `date_trunc` knows."""


def text(question: Question) -> str:
    keys = [f'"{name}"' for name in question.group_by]
    if question.step != "all":
        keys.insert(0, f"date_trunc('{question.step}', __time)")
    where = f"__time >= TIMESTAMPTZ '{iso(question.start_ms)}' AND __time < TIMESTAMPTZ '{iso(question.end_ms)}'"
    where += f" AND ({condition(question.where)})" if question.where is not None else ""
    chosen = ", ".join([f"{key} AS k{i}" for i, key in enumerate(keys)] + [_measure(m) for m in question.measures])
    places = ", ".join(str(i + 1) for i in range(len(keys)))
    return f"SELECT {chosen} FROM shop WHERE {where}" + (f" GROUP BY {places}" if keys else "")


def _measure(measure: Measure) -> str:
    match measure.kind:
        case "count":
            found = "count(*)"
        case "unique":
            found = f'count(DISTINCT "{measure.field}")'
        case "quantile":
            found = f'quantile_disc("{measure.field}", {measure.q})'
        case kind:
            found = f'{kind}("{measure.field}")'
    return f"{found} AS {measure.name}"


def rows_of(question: Question, rows: list[dict[str, object]]) -> list[Row]:
    step = question.step != "all"
    return ordered(
        [
            (parse_instant_ms(str(values[0])), *values[1:]) if step else tuple(values)
            for values in (list(row.values()) for row in rows)
        ]
    )


async def ask_all(world: World, shop: Shop, rng: random.Random) -> dict[str, int]:
    used: dict[str, int] = {}
    async with desk(world) as ask:
        asked = 0
        while asked < QUESTIONS:
            question = draw(rng, shop, zones=("UTC",))
            if question.step not in ("all", *STEPS):
                continue
            asked += 1
            body = await ask.sql(text(question))
            found, wanted = rows_of(question, body["rows"]), expected(shop, question)
            assert same(found, wanted, question.keys), f"{text(question)}\nfound {found[:5]}\nwanted {wanted[:5]}"
            for source in body["meta"]["sources"]:
                used[source] = used.get(source, 0) + 1
    return used


@pytest.mark.parametrize("seed", [4, 5])
def test_random_statements_are_answered_as_by_duckdb(tmp_path: Path, seed: int) -> None:
    shop = make_shop(seed)
    used = asyncio.run(ask_all(build(tmp_path, shop), shop, random.Random(seed)))
    assert min(used.get(name, 0) for name in ("rollup_by_country_minute", "events", "hot")) > 3
