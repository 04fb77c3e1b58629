"""What the cache of answers rests on: whatever two views, replicas or lives call by the same names is the same in that range."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl
import pyarrow as pa

from rta.events.schemas import EVENTS, TIME
from rta.serve.views import ReplicaView
from tests.sim import shop
from tests.sim.kernel import START_MS, ViolationError

QUARTER_MS = shop.HOUR_MS // 4
RANGES = (
    (START_MS - 2 * shop.DAY_MS, START_MS - shop.HOUR_MS),
    (START_MS - shop.HOUR_MS, START_MS - shop.HOUR_MS + QUARTER_MS),
    (START_MS - shop.HOUR_MS + QUARTER_MS, START_MS - shop.HOUR_MS + 2 * QUARTER_MS),
    (START_MS - shop.HOUR_MS + 2 * QUARTER_MS, START_MS),
    (START_MS, START_MS + shop.DAY_MS),
    (START_MS - 2 * shop.DAY_MS, START_MS + shop.DAY_MS),
)
"""Late events, four pieces of the others, and everything."""


class Names:
    """Of one schedule: what each list of names has stood for so far."""

    def __init__(self) -> None:
        self._meant: dict[tuple[object, ...], Any] = {}
        self.repeated = 0
        """How often names came again."""

    def rollup(self, view: ReplicaView) -> None:
        """Raises ViolationError when names that were seen before stand for something else now."""
        rollup = shop.datasource().rollups[0]
        frames = [f.select(TIME, "page", "views", "total") for f in view.partials(rollup.name)]
        for start, end in RANGES:
            inside = [f.filter(pl.col(TIME).dt.epoch("ms").is_between(start, end, closed="left")) for f in frames]
            self._check(view, rollup.table, (start, end), _sums(inside))

    def raw(self, view: ReplicaView, rows: pa.Table) -> None:
        times = rows.column(TIME).cast(pa.int64()).to_pylist()
        pairs = list(zip(times, rows.column("user").to_pylist(), rows.column("id").to_pylist(), strict=True))
        for start, end in RANGES:
            self._check(view, EVENTS, (start, end), Counter(p for p in pairs if start <= p[0] < end))

    def _check(self, view: ReplicaView, table: str, times: tuple[int, int], found: Any) -> None:
        parts = tuple(view.parts(table, *times))
        if not parts and found:
            raise ViolationError(f"names: {found} of '{table}' in {times} has no name")
        key = (view.datasource.version, table, times, parts)
        if key in self._meant:
            self.repeated += 1
        before = self._meant.setdefault(key, found)
        if before != found:
            raise ViolationError(f"names: {parts} of '{table}' in {times} were {before}, are {found}")


def _sums(frames: list[pl.DataFrame]) -> Counter[tuple[int, str, str]]:
    """Per bucket and page the views and the total; rows of one key may be merged in one view and apart in another."""
    found: Counter[tuple[int, str, str]] = Counter()
    for frame in frames:
        for moment, page, views, total in frame.with_columns(pl.col(TIME).dt.epoch("ms")).iter_rows():
            found[moment, page, "views"] += views
            found[moment, page, "total"] += total
    return found
