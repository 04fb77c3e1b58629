"""What is said of rollups that were added later, and when a view lets questions be answered from them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rta.errors import UnavailableError
from rta.events.definition import parse_datasource
from rta.events.schemas import UNKNOWN, Datasource
from rta.query.time import TIME_MS_MIN
from rta.serve.filling import notes, with_filling
from rta.serve.hot import Moment, SegmentUse
from rta.serve.views import ReplicaView
from rta.store.model import Manifest
from tests.serve.fakes import FakeControl

pytestmark = pytest.mark.anyio
ROLLUP: dict[str, Any] = {"name": "by_x", "granularity": "hour", "dimensions": ["x"], "metrics": []}
NOON_MS = 1_767_268_800_000
"""2026-01-01T12:00:00Z."""


def defined(*rollups: dict[str, Any], **more: Any) -> Datasource:
    document = {"name": "shop", "time": "t", "columns": {"x": "string"}, "rollups": list(rollups), **more}
    return parse_datasource(document, incarnation="1", version=5, partitions=1)


def later(since: int = 5) -> Datasource:
    made = defined(ROLLUP)
    return msgspec.structs.replace(made, rollups=(msgspec.structs.replace(made.rollups[0], since=since),))


class Tables:
    """The tables of a datasource: what is asked for is complete from noon on."""

    def filled_at_hand(self, table: str, number: int) -> None:
        return None

    def filled_from(self, table: str, number: int) -> int:
        assert (table, number) == ("rollup_by_x_hour", 7)
        return NOON_MS


class Owner:
    tables = Tables()


def view(manifest_version: int, *segments: int) -> ReplicaView:
    """At a manifest of one version of the definition, with segments that were folded with others."""
    manifest = Manifest(
        number=7,
        datasource="shop.1",
        previous="",
        definition_version=manifest_version,
        coordinator=1,
        created_ms=0,
        partitions=(),
        parts=(),
        files=(),
        ledger=(),
    )
    uses = tuple(SegmentUse("l", "a", n, 1, 0, 0, {}, {}, version) for n, version in enumerate(segments))
    owner: Any = Owner()
    return ReplicaView(later(), Moment(manifest, {}, uses, frozenset()), (), {}, None, (), owner)


@pytest.mark.parametrize(
    ("since", "manifest", "segments", "expected"),
    [
        (0, 1, (1,), TIME_MS_MIN),
        (5, 5, (5, 6), NOON_MS),
        (5, 4, (5,), None),
        (5, 6, (6, 4), None),
        (UNKNOWN, 9, (), None),
    ],
)
def test_a_view_with_rows_of_an_older_definition_knows_nothing_of_the_rollup(
    since: int, manifest: int, segments: tuple[int, ...], expected: int | None
) -> None:
    assert view(manifest, *segments).filled_from(later(since).rollups[0]) == expected


class Control(FakeControl):
    def __init__(self, filling: dict[str, Any] | None) -> None:
        super().__init__()
        self._filling = filling

    async def status(self) -> dict[str, Any]:
        if self._filling is None:
            raise UnavailableError("the coordinator is away")
        return {"datasources": {"shop": {"filling": self._filling}}}


def fill(done: float, from_ms: int | None, partial: bool = False) -> dict[str, Any]:
    return {"by_x": {"done": done, "complete_from_ms": from_ms, "partial": partial}}


@pytest.mark.parametrize(
    ("filling", "shown"),
    [
        (fill(0.0, None), {"done": 0.0, "complete_from": None}),
        (fill(0.4, NOON_MS), {"done": 0.4, "complete_from": "2026-01-01T12:00:00.000Z"}),
        (
            fill(1.0, NOON_MS, partial=True),
            {"done": 1.0, "complete_from": "2026-01-01T12:00:00.000Z", "history": "none: no raw events are kept"},
        ),
    ],
)
async def test_the_definition_says_how_far_a_rollup_is(filling: dict[str, Any], shown: dict[str, Any]) -> None:
    found = await with_filling(later(), Control(filling))
    assert found == {**later().document, "filling": {"by_x": shown}}


async def test_nothing_is_said_of_what_is_complete_or_as_old_as_its_datasource() -> None:
    assert await with_filling(later(), Control(fill(1.0, TIME_MS_MIN))) == later().document
    assert await with_filling(defined(ROLLUP), Control(None)) == defined(ROLLUP).document


async def test_the_definition_is_shown_while_the_coordinator_is_away() -> None:
    found = await with_filling(later(), Control(None))
    assert found["notes"] == ["how far rollups are filled is not known at the moment"]


def test_a_change_says_what_becomes_of_its_rollups() -> None:
    (filled,) = notes(defined(), defined(ROLLUP))
    assert "'by_x' is being filled from history" in filled
    (never,) = notes(defined(), defined(ROLLUP, retention={"events": None}))
    assert "'by_x' holds what comes from now on and can't be filled: no raw events are kept" in never
    (gone,) = notes(defined(ROLLUP), defined())
    assert "'by_x' is no longer used" in gone
    assert notes(defined(ROLLUP), defined(ROLLUP)) == []
