"""Answers that wait for nothing: from views that are young enough, while segments grow and become files, nothing twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rta.config import Settings
from rta.events.schemas import EVENTS as RAW
from rta.events.schemas import Datasource
from rta.query.position import Position, decode_position
from rta.serve.ports import NotAtHandError
from rta.serve.scan import ScanPool
from rta.serve.service import QueryService
from rta.serve.views import HotViews
from rta.store.cache import FileCache
from tests.actors.test_rejected import Peer
from tests.actors.test_shard import EVENTS, Bench, running, wait_for

RECORDS = 200
STALENESS_MS = 5
PLAIN: dict[str, Any] = {"after_header": None, "if_none_match": None, "accept_arrow": False}


class OneDefinition:
    def __init__(self, datasource: Datasource) -> None:
        self._datasource = datasource

    async def get(self, name: str) -> Datasource:
        return self._datasource

    def at_hand(self, name: str) -> Datasource:
        return self._datasource


def ask(bench: Bench, scenario: Callable[[QueryService, HotViews, Peer], Awaitable[None]]) -> None:
    async def whole() -> None:
        peer = Peer(bench)
        views = HotViews(bench.store, peer)
        scans = ScanPool(1 << 30, threads=1)
        definitions: Any = OneDefinition(bench.world.datasource)
        service = QueryService(views, definitions, FileCache(1 << 20), scans, Settings(), bench.store)
        try:
            await scenario(service, views, peer)
        finally:
            await service.close()
            await scans.close()

    asyncio.run(whole())


async def answered(service: QueryService, document: dict[str, Any], ways: Counter[str]) -> tuple[Any, int]:
    """The rows and the offset in partition 0 that they reach, as `rta.serve.front` gets them."""
    body = msgspec.json.encode(document)
    reply, way = service.answer_again(body, **PLAIN), "again"
    if reply is None:
        reply, way = service.answer_now(document, body=body, **PLAIN), "now"
    if reply is None:
        reply, way = await service.answer(document, **PLAIN), "waited"
    ways[way] += 1
    return json.loads(reply.body)["rows"], decode_position(reply.meta["version"]).offsets[0][1]


def test_while_events_come_and_are_committed_every_answer_has_each_of_its_events_once(tmp_path: Path) -> None:
    count = {"datasource": "shop", "metrics": [{"name": "n", "type": "count"}], "max_staleness_ms": STALENESS_MS}
    ways: Counter[str] = Counter()

    async def scenario(service: QueryService, views: HotViews, peer: Peer) -> None:
        last, turn = 0, 0
        while last < RECORDS:
            turn += 1
            question = count if turn % 2 else {**count, "limit": turn}
            (row,), reached = await answered(service, question, ways)
            assert row["n"] == reached * EVENTS
            assert reached >= last
            last = reached
        wait_for(lambda: bench.committed() == RECORDS, "everything is committed")
        for _ in range(10):
            assert (await answered(service, {**count, "max_staleness_ms": 0}, ways))[0] == [{"n": RECORDS * EVENTS}]
        ways.clear()
        for turn in range(6):
            found = await answered(service, {**count, "max_staleness_ms": 60_000, "limit": 1 + turn // 2}, ways)
            assert found == ([{"n": RECORDS * EVENTS}], RECORDS)
        assert ways == {"now": 3, "again": 3}

    with running(tmp_path, records=RECORDS, epoch_ms=150) as bench:
        ask(bench, scenario)


def test_a_view_is_at_hand_while_it_is_young_enough_and_contains_what_is_asked_for(tmp_path: Path) -> None:
    async def scenario(service: QueryService, views: HotViews, peer: Peer) -> None:
        datasource = bench.world.datasource
        assert views.at_once(datasource, 60_000, None) is None
        view = await views.at(datasource, 0, None, 5.0)
        held = views.at_once(datasource, 60_000, None)
        assert held is not None
        assert held.version == view.version
        assert views.at_once(datasource, 0, None) is None
        assert views.at_once(msgspec.structs.replace(datasource, version=9), 60_000, None) is None
        position = decode_position(view.version)
        assert views.at_once(datasource, 60_000, position) is not None
        incarnation, offset = position.offsets[0]
        later = Position(position.folder, {0: (incarnation, offset + 1)})
        assert views.at_once(datasource, 60_000, later) is None
        with pytest.raises(NotAtHandError):
            held.files(RAW)
        looked_up = view.files(RAW)
        assert held.files(RAW) == looked_up
        await views.renew(view)
        with pytest.raises(NotAtHandError):
            held.files(RAW)

    with running(tmp_path, records=3, epoch_ms=60_000) as bench:
        wait_for(lambda: bench.shard.status().offsets.get(0) == 3, "everything is folded")
        ask(bench, scenario)
