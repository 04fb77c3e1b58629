"""Rejected events from the log to the answer: a real shard, committer, view and query service, and no gap between them.

The fold of these tests rejects every third event of what it is given, as the reader of a foreign topic would have.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rta.actors import shard as shards
from rta.actors.messages import Cursor, HotDelta, RowsRequest
from rta.config import Settings
from rta.errors import ViewGoneError
from rta.events.keys import id_sum, identities_of
from rta.events.schemas import REJECTED, Datasource
from rta.query.position import decode_position
from rta.serve.scan import ScanPool
from rta.serve.service import QueryService
from rta.serve.views import HotViews
from rta.store.cache import FileCache
from rta.store.versions import TableVersions
from rta.stream.fold import Fold
from rta.stream.model import BatchArrived, Increment
from tests.actors.test_shard import ACTOR, EVENTS, Bench, SteadyLog, running, wait_for
from tests.stream.rejections import rejected_rows

RECORDS = 120
COUNT: dict[str, Any] = {"datasource": "shop", "metrics": [{"name": "n", "type": "count"}], "max_staleness_ms": 0}


class Rejecting(Fold):
    """A fold whose batches have every third event rejected."""

    def fold(self, batches: Sequence[BatchArrived]) -> Increment:
        return super().fold([_rejecting(batch, self._datasource) for batch in batches])


def _rejecting(batch: BatchArrived, datasource: Datasource) -> BatchArrived:
    low = identities_of(batch.rows, datasource)
    bad = np.arange(batch.events) % 3 == 0
    place = (batch.partition, batch.offset)
    return replace(
        batch,
        id_sum=id_sum(low),
        rows=batch.rows.filter(pa.array(~bad)),
        rejected=rejected_rows([place] * int(bad.sum()), batch.append_time_ms, "x" * 500),
        rejected_sum=id_sum(low[bad]),
    )


BAD = len(range(0, EVENTS, 3))
"""Rejected events of one record."""


class Peer:
    """The one aggregator, as a replica reaches it. `asked` are the tables whose rows were fetched."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.asked: list[str] = []

    def names(self) -> Sequence[str]:
        return [ACTOR]

    async def delta(self, actor: str, cursors: Mapping[str, Cursor | None], timeout_s: float) -> list[HotDelta]:
        (cursor,) = cursors.values()
        found = self._bench.shard.delta(cursor)
        return [] if found is None else [found]

    async def rows(self, actor: str, folder: str, load: str, requests: Sequence[RowsRequest]) -> bytes:
        self.asked += [request.table for request in requests]
        return self._bench.shard.rows(load, requests)


class Definitions:
    """The one datasource; nothing else is asked of it here."""

    def __init__(self, datasource: Datasource) -> None:
        self._datasource = datasource

    async def get(self, name: str) -> Datasource:
        return self._datasource


@contextmanager
def rejecting(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Iterator[Bench]:
    monkeypatch.setattr("rta.actors.load.Fold", Rejecting)
    with running(folder, records=RECORDS, **{"epoch_ms": 150, **changes}) as bench:
        yield bench


def ask(bench: Bench, scenario: Callable[[QueryService, HotViews, Peer], Awaitable[None]]) -> None:
    async def whole() -> None:
        peer = Peer(bench)
        views = HotViews(bench.store, peer)
        scans = ScanPool(1 << 30, threads=1)
        definitions: Any = Definitions(bench.world.datasource)
        service = QueryService(views, definitions, FileCache(1 << 20), scans, Settings(), bench.store)
        try:
            await scenario(service, views, peer)
        finally:
            await service.close()
            await scans.close()

    asyncio.run(whole())


async def rows_of(service: QueryService, document: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    reply = await service.answer(document, after_header=None, if_none_match=None, accept_arrow=False)
    return json.loads(reply.body)["rows"], reply.meta


def shown(bench: Bench) -> int:
    """The offset that the shard's segments reach in partition 0."""
    delta = bench.delta()
    return 0 if delta is None else delta.reached[0]


def reached(meta: dict[str, Any]) -> int:
    """The offset in partition 0 that an answer's version names."""
    return decode_position(meta["version"]).offsets[0][1]


class GatedLog(SteadyLog):
    """Gives no more records than were let through."""

    open_to = 0

    def _end(self) -> int:
        return min(super()._end(), self.open_to)


def test_every_answer_has_each_rejected_event_up_to_its_position_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.actors.test_shard.SteadyLog", GatedLog)
    pages = {"datasource": "shop", "table": "rejected", "select": ["offset"], "limit": 7, "order_by": "offset"}
    users = {"user": [f"user{k}" for k in range(7)]}
    with rejecting(tmp_path, monkeypatch) as bench:

        async def scenario(service: QueryService, views: HotViews, peer: Peer) -> None:
            manifests = set()
            log = bench.log
            assert isinstance(log, GatedLog)
            for end in range(15, RECORDS + 1, 15):
                log.open_to = end
                wait_for(lambda: shown(bench) == log.open_to, "what was let through can be seen")
                if end == RECORDS:
                    wait_for(lambda: bench.committed() == RECORDS, "everything is committed")
                (row,), meta = await rows_of(service, {**COUNT, "table": "rejected"})
                assert (row, reached(meta)) == ({"n": BAD * end}, end)
                (row,), meta = await rows_of(service, {**COUNT, "filters": users})
                assert (row, reached(meta)) == ({"n": (EVENTS - BAD) * end}, end)
                found, _ = await rows_of(service, {**pages, "max_staleness_ms": 0})
                assert [row["offset"] for row in found] == [k // BAD for k in range(7)]
                manifests.add((await views.at(bench.world.datasource, 0, None, 5.0)).manifest)
            assert len(manifests) > 1, "some answers were of hot rows, some of committed ones"

        ask(bench, scenario)


def test_what_waits_in_the_saved_state_is_in_the_answer_and_in_the_file_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rejecting(tmp_path, monkeypatch) as bench:
        wait_for(lambda: bench.committed() == RECORDS, "everything is committed")
        manifest = bench.world.newest.number
        files = TableVersions(bench.store, bench.world.folder, bench.world.manifests).files_at(REJECTED, manifest)
        in_files = sum(file.rows for file in files)

        async def scenario(service: QueryService, views: HotViews, peer: Peer) -> None:
            (row,), _ = await rows_of(service, {**COUNT, "table": "rejected"})
            assert row == {"n": BAD * RECORDS}
            view = await views.at(bench.world.datasource, 0, None, 5.0)
            waiting = await view.rows(REJECTED)
            assert (view.manifest, waiting.num_rows) == (manifest, BAD * RECORDS - in_files)

        ask(bench, scenario)
    entry = bench.world.newest.partitions[0]
    assert (entry.logged, entry.folded, entry.dropped, entry.rejected) == (
        EVENTS * RECORDS,
        (EVENTS - BAD) * RECORDS,
        0,
        BAD * RECORDS,
    )
    assert entry.logged_sum == (entry.folded_sum + entry.rejected_sum) % 2**64


def test_a_replica_fetches_rejected_rows_only_where_there_are_some_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rejecting(tmp_path, monkeypatch, epoch_ms=60_000) as bench:
        wait_for(lambda: shown(bench) == RECORDS, "everything is folded")

        async def scenario(service: QueryService, views: HotViews, peer: Peer) -> None:
            view = await views.at(bench.world.datasource, 0, None, 5.0)
            for _ in range(2):
                assert (await view.rows(REJECTED)).num_rows == BAD * RECORDS
                assert (await view.rows("events")).num_rows == (EVENTS - BAD) * RECORDS
            assert sorted(peer.asked) == ["events", "rejected"]

        ask(bench, scenario)


def test_a_replica_fetches_nothing_where_nothing_was_rejected(tmp_path: Path) -> None:
    with running(tmp_path, records=5, epoch_ms=60_000) as bench:
        wait_for(lambda: shown(bench) == 5, "everything is folded")

        async def scenario(service: QueryService, views: HotViews, peer: Peer) -> None:
            (row,), _ = await rows_of(service, {**COUNT, "table": "rejected"})
            assert row == {"n": 0}
            assert peer.asked == []

        ask(bench, scenario)


def test_rejected_texts_end_an_epoch_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "REJECTED_BYTES", 20 * BAD * 500)
    with rejecting(tmp_path, monkeypatch, epoch_ms=60_000) as bench:
        wait_for(lambda: bench.committed() >= 60, "some epochs were ended by their rejected rows")
        assert bench.shard.next_epoch >= 2


def test_a_question_takes_a_newer_view_when_rejected_rows_were_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rta.actors.segments.COMMITTED_REJECTED_BYTES_MAX", 0)
    with rejecting(tmp_path, monkeypatch) as bench:

        def kept() -> set[int]:
            life = bench.shard._life
            assert life is not None
            return {segment.epoch for segment in life.segments._segments}

        async def scenario(service: QueryService, views: HotViews, peer: Peer) -> None:
            held: Any = await views.at(bench.world.datasource, 0, None, 5.0)
            while not any(use.rejected for use in held.moment.uses):
                held = await views.at(bench.world.datasource, 0, None, 5.0)
            first = min(use.epoch for use in held.moment.uses if use.rejected)
            wait_for(lambda: first not in kept(), "the segment was let go of")
            with pytest.raises(ViewGoneError, match=f"hot rows of epoch {first}"):
                await held.rows(REJECTED)
            (row,), meta = await rows_of(service, {**COUNT, "table": "rejected", "max_staleness_ms": 3_600_000})
            assert row == {"n": BAD * reached(meta)}

        ask(bench, scenario)
