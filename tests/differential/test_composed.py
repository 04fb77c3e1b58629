"""Composed questions against plain Python on the same events, while the view moves: each is asked three times of every view, so
that caches and decoded rows answer too."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rta.query.periods import parse_instant_ms
from tests.differential.composed import answer, document, draw_composed
from tests.differential.desk import Desk, desk
from tests.differential.shop import Shop, build, make_shop
from tests.differential.test_query import _where
from tests.query.world import FixedView, World

QUESTIONS = 16
SHARES = (0.0, 0.4, 0.7, 0.85, 1.0)


def views(world: World, count: int) -> list[tuple[FixedView, int]]:
    """Views in which more and more is in files, with the number of events that each has."""
    whole = world.view
    bounds = [int(share * count) for share in SHARES]
    found = []
    rows = whole.hot
    for number, (low, high) in enumerate(pairwise(bounds)):
        files = {table: list(refs[:number]) for table, refs in whole.by_table.items()}
        found.append(
            (
                replace(
                    whole, by_table=files, hot=rows.slice(low, high - low), position=number + 1, manifest=number + 1
                ),
                high,
            )
        )
    return found


async def ask(desk: Desk, asked: dict[str, Any]) -> dict[str, Any]:
    """As `rta.serve.front` asks."""
    wants: dict[str, Any] = {"after_header": None, "if_none_match": None, "accept_arrow": False}
    body = json.dumps(asked).encode()
    found = desk.queries.answer_again(body, **wants) or desk.queries.answer_now(asked, body=body, **wants)
    reply = found or await desk.queries.answer(asked, **wants)
    return dict(json.loads(reply.body))


def comparable(rows: list[dict[str, Any]]) -> list[str]:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [{k: plain(v) for k, v in each.items()} for each in value]
        return f"{value:.9g}" if isinstance(value, float | int) and not isinstance(value, bool) else value

    return sorted(json.dumps({k: plain(v) for k, v in row.items()}, sort_keys=True) for row in rows)


def cleaned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: parse_instant_ms(v) if k == "time" else v for k, v in row.items() if not k.endswith("_change")}
        for row in rows
    ]


async def ask_all(world: World, shop: Shop, rng: random.Random) -> dict[str, int]:
    used: dict[str, int] = {}
    questions = [draw_composed(rng, shop) for _ in range(QUESTIONS)]
    moments = views(world, shop.rows.num_rows)
    async with desk(world) as at:
        for view, count in moments:
            world.view = view
            for question in questions:
                asked = document(question, _where)
                wanted = comparable(answer(question, shop, count, asked["group_by"]))
                for _ in range(3):
                    body = await ask(at, asked)
                    found = comparable(cleaned(body["rows"]))
                    assert found == wanted, (
                        f"{json.dumps(asked)}\n{body['meta']}\n"
                        f"found {[r for r in found if r not in wanted][:5]}\nwanted {[r for r in wanted if r not in found][:5]}"
                    )
                for source in body["meta"]["sources"]:
                    used[source] = used.get(source, 0) + 1
    return used


@pytest.mark.parametrize("seed", [1, 2])
def test_composed_questions_are_answered_as_by_plain_python(tmp_path: Path, seed: int) -> None:
    shop = make_shop(seed)
    world = build(tmp_path, shop, SHARES[1:-1])
    world.view.hot = shop.rows
    used = asyncio.run(ask_all(world, shop, random.Random(seed)))
    assert min(used.get(name, 0) for name in ("rollup_by_country_minute", "rollup_hourly_hour", "events", "hot")) > 3
