"""What a replica may publish: exactly what lies between the manifest and the offsets, and never less than before.

The simulated log holds one event per offset, whose value is its offset; so a view's segments must hold, per partition,
every offset from the manifest's `to` up to the view's, once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rta.actors.messages import Cursor, HotDelta, SegmentDelta
from rta.events.schemas import TIME
from rta.serve.hot import HotState, Moment
from rta.store.model import GENESIS, Manifest, PartitionEntry

SCHEMA = {"p": pl.Int64, "v": pl.Int64}


def manifest(number: int, ends: dict[int, int]) -> Manifest:
    entries = tuple(
        PartitionEntry(partition=p, log_incarnation="i", from_offset=0, to_offset=o, part=GENESIS, state=None)
        for p, o in sorted(ends.items())
    )
    return Manifest(
        number=number,
        datasource="d.1",
        previous="",
        definition_version=1,
        coordinator=1,
        created_ms=0,
        partitions=entries,
        parts=(),
        files=(),
        ledger=(),
    )


@dataclass
class Owner:
    """One load of one aggregator: a list of epochs, each a list of chunks of (partition, offset) pairs."""

    load: str
    actor: str
    start: dict[int, int]
    epochs: list[list[list[tuple[int, int]]]] = field(default_factory=lambda: [[]])
    first_epoch: int = 0
    watermarks_ms: dict[int, int | None] = field(default_factory=dict)
    idle: frozenset[int] = frozenset()

    def offsets(self, epochs: int | None = None, chunks: int | None = None) -> dict[int, int]:
        found = dict(self.start)
        for index, epoch in enumerate(self.epochs if epochs is None else self.epochs[: epochs + 1]):
            last = epochs is not None and index == epochs
            for chunk in epoch[:chunks] if last else epoch:
                for partition, offset in chunk:
                    found[partition] = offset + 1
        return found

    def delta(self, cursor: Cursor | None) -> HotDelta:
        same = cursor is not None and cursor.load == self.load
        parts = []
        for index, epoch in enumerate(self.epochs):
            if index < self.first_epoch:
                continue
            first = 0
            if same and cursor is not None:
                if index < cursor.epoch:
                    continue
                first = cursor.chunk if index == cursor.epoch else 0
            rows = [pair for chunk in epoch[first:] for pair in chunk]
            frame = pl.DataFrame(rows, schema=SCHEMA, orient="row").with_columns(
                pl.from_epoch("v", time_unit="s").cast(pl.Datetime("ms", "UTC")).alias(TIME)
            )
            parts.append(
                SegmentDelta(
                    epoch=index,
                    first_chunk=first,
                    next_chunk=len(epoch),
                    closed=index < len(self.epochs) - 1,
                    from_offsets=self.offsets(index, 0),
                    to_offsets=self.offsets(index, len(epoch)),
                    partials={"r": frame.write_ipc_stream(None).getvalue()},
                    rows=len(rows),
                    rows_ms=(min(v for _, v in rows) * 1000, max(v for _, v in rows) * 1000) if rows else None,
                )
            )
        return HotDelta(
            folder="d.1",
            actor=self.actor,
            load=self.load,
            generation=1,
            reset=not same,
            incarnations=dict.fromkeys(self.start, "i"),
            watermarks_ms=self.watermarks_ms,
            idle=self.idle,
            reached=self.offsets(len(self.epochs) - 1, len(self.epochs[-1])),
            segments=tuple(parts),
            caught_up=True,
        )


def check(moment: Moment, before: Moment | None) -> None:
    ends = {e.partition: e.to_offset for e in moment.manifest.partitions}
    shown: dict[int, list[int]] = {p: [] for p in ends}
    for use in moment.uses:
        for frame in use.partials.get("r", ()):
            for partition, value in frame.select(*SCHEMA).iter_rows():
                shown[partition].append(value)
    for partition, end in ends.items():
        assert sorted(shown[partition]) == list(range(end, moment.offsets[partition]))
    if before is not None:
        assert all(moment.offsets[p] >= offset for p, offset in before.offsets.items())


def joined(_: str, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(frames)


class World:
    """Two actors over four partitions, one replica; every step is drawn."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.log_end = dict.fromkeys(range(4), 0)
        self.ends = dict.fromkeys(range(4), 0)
        self.number = 0
        self.lives = 0
        self.owners: dict[str, Owner] = {}
        self.offered: dict[str, list[tuple[Owner, int]]] = {"a": [], "b": []}
        self.shares = {"a": [0, 1], "b": [2, 3]}
        for actor in self.shares:
            self.crash(actor)
        self.state = HotState(joined)
        self.moment: Moment | None = None

    def crash(self, actor: str) -> None:
        self.lives += 1
        start = {p: self.ends[p] for p in self.shares[actor]}
        self.owners[actor] = Owner(f"{actor}.{self.lives}", actor, start)
        self.offered[actor] = []

    def append(self) -> None:
        self.log_end[self.random.randrange(4)] += self.random.randint(1, 3)

    def fold(self) -> None:
        owner = self.owners[self.random.choice("ab")]
        chunk = []
        for partition, offset in owner.offsets().items():
            upto = min(self.log_end[partition], offset + self.random.randint(0, 2))
            chunk += [(partition, o) for o in range(offset, upto)]
        if chunk:
            owner.epochs[-1].append(chunk)

    def cut(self) -> None:
        owner = self.owners[self.random.choice("ab")]
        if owner.epochs[-1]:
            self.offered[owner.actor].append((owner, len(owner.epochs) - 1))
            owner.epochs.append([])

    def commit(self) -> None:
        actor = self.random.choice("ab")
        if self.offered[actor]:
            owner, epoch = self.offered[actor].pop(0)
            self.ends.update(owner.offsets(epoch, len(owner.epochs[epoch])))
            self.number += 1

    def let_go(self) -> None:
        """An aggregator forgets committed epochs, whether the replica has read them or not."""
        owner = self.owners[self.random.choice("ab")]
        while owner.first_epoch < len(owner.epochs) - 1:
            done = owner.offsets(owner.first_epoch, len(owner.epochs[owner.first_epoch]))
            if any(done[p] > self.ends[p] for p in done):
                break
            owner.first_epoch += 1

    def move(self) -> None:
        """A partition changes hands; both owners load again."""
        partition = self.random.randrange(4)
        giver, taker = ("a", "b") if partition in self.shares["a"] else ("b", "a")
        if len(self.shares[giver]) > 1:
            self.shares[giver].remove(partition)
            self.shares[taker].append(partition)
            self.crash("a")
            self.crash("b")

    def refresh(self) -> None:
        cursors = self.state.cursors()
        for actor, owner in self.owners.items():
            if self.random.random() < 0.8:
                self.state.apply(owner.delta(cursors.get(actor)))
        before = self.moment
        self.moment = self.state.publish(manifest(self.number, self.ends))
        check(self.moment, before)

    def settle(self) -> None:
        for _ in range(200):
            for actor in "ab":
                owner = self.owners[actor]
                for partition, offset in owner.offsets().items():
                    if offset < self.log_end[partition]:
                        owner.epochs[-1].append([(partition, o) for o in range(offset, self.log_end[partition])])
        cursors = self.state.cursors()
        for actor, owner in self.owners.items():
            self.state.apply(owner.delta(cursors.get(actor)))
        self.moment = self.state.publish(manifest(self.number, self.ends))


STEPS = (
    ("append",) * 4 + ("fold",) * 6 + ("cut",) * 2 + ("commit",) * 2 + ("refresh",) * 4 + ("let_go", "crash", "move")
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_a_view_holds_exactly_its_offsets_and_never_goes_back(seed: int) -> None:
    world = World(seed)
    for _ in range(120):
        step = world.random.choice(STEPS)
        if step == "crash":
            world.crash(world.random.choice("ab"))
        else:
            getattr(world, step)()
    world.settle()
    assert world.moment is not None
    check(world.moment, None)
    assert dict(world.moment.offsets) == world.log_end, f"seed {seed}: the view does not catch up"


def test_segments_that_do_not_begin_at_the_manifest_are_not_shown() -> None:
    state = HotState(joined)
    owner = Owner("a.1", "a", {0: 5}, [[[(0, 5), (0, 6)]]])
    state.apply(owner.delta(None))
    moment = state.publish(manifest(3, {0: 4}))
    assert moment.uses == ()
    assert moment.offsets == {0: 4}


def test_old_segments_stay_until_the_new_load_has_passed_them() -> None:
    state = HotState(joined)
    old = Owner("a.1", "a", {0: 0}, [[[(0, 0), (0, 1), (0, 2)]]])
    state.apply(old.delta(None))
    assert state.publish(manifest(0, {0: 0})).offsets == {0: 3}
    new = Owner("a.2", "a", {0: 0}, [[[(0, 0)]]])
    state.apply(new.delta(None))
    assert state.publish(manifest(0, {0: 0})).offsets == {0: 3}
    new.epochs[0].append([(0, 1), (0, 2), (0, 3)])
    state.apply(new.delta(state.cursors()["a"]))
    moment = state.publish(manifest(0, {0: 0}))
    assert moment.offsets == {0: 4}
    assert moment.loads == {"a.2"}


def test_a_delta_that_skips_chunks_is_refused() -> None:
    state = HotState(joined)
    owner = Owner("a.1", "a", {0: 0}, [[[(0, 0)], [(0, 1)]]])
    state.apply(owner.delta(None))
    with pytest.raises(Exception, match="chunk"):
        state.apply(owner.delta(Cursor("a.1", 0, 0)))


def test_a_partition_is_idle_only_as_its_newest_load_says_and_only_while_its_owner_answers() -> None:
    state = HotState(joined)
    state.apply(Owner("a.1", "a", {0: 0, 1: 0}, watermarks_ms={0: 5, 1: 9}, idle=frozenset({0, 1})).delta(None))
    state.apply(Owner("b.1", "b", {2: 0}, watermarks_ms={2: 7}, idle=frozenset({2})).delta(None))
    assert state.watermarks_ms() == {0: 5, 1: 9, 2: 7}
    assert state.idle(["a", "b"]) == {0, 1, 2}
    assert state.idle(["b"]) == {2}
    state.apply(Owner("a.2", "a", {0: 0, 1: 0}, watermarks_ms={0: 6, 1: 9}, idle=frozenset({1})).delta(None))
    assert state.watermarks_ms() == {0: 6, 1: 9, 2: 7}
    assert state.idle(["a", "b"]) == {1, 2}
