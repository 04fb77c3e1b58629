"""Druid's native queries and its SQL against DuckDB on the same events; what Druid estimates within its bounds."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from tests.differential.desk import desk
from tests.differential.druid import native, rows_of_native, rows_of_sql, sql
from tests.differential.questions import bounded, draw
from tests.differential.shop import Shop, build, make_shop
from tests.query.world import World

QUESTIONS = 60


async def ask_all(world: World, shop: Shop, rng: random.Random) -> None:
    async with desk(world) as ask:
        for _ in range(QUESTIONS):
            question = draw(rng, shop)
            document = native(question)
            found = rows_of_native(question, await ask.native(document))
            if not found and not question.keys:
                continue  # of nothing Druid gives no row where SQL gives one
            wrong = bounded(found, shop, question)
            assert not wrong, f"{wrong}\n{json.dumps(document)}"


@pytest.mark.parametrize("seed", [6, 7])
def test_random_native_queries_are_answered_as_by_duckdb(tmp_path: Path, seed: int) -> None:
    shop = make_shop(seed)
    asyncio.run(ask_all(build(tmp_path, shop), shop, random.Random(seed)))


async def state_all(world: World, shop: Shop, rng: random.Random) -> None:
    async with desk(world) as ask:
        for _ in range(QUESTIONS):
            question = draw(rng, shop)
            statement = sql(question)
            wrong = bounded(rows_of_sql(question, await ask.druid_statement(statement)), shop, question)
            assert not wrong, f"{wrong}\n{statement}"


@pytest.mark.parametrize("seed", [8, 9])
def test_random_druid_sql_is_answered_as_by_duckdb(tmp_path: Path, seed: int) -> None:
    shop = make_shop(seed)
    asyncio.run(state_all(build(tmp_path, shop), shop, random.Random(seed)))
