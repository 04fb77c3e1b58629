"""What a query replica knows beyond the files, and when it may show it. No Ray, no I/O: deltas and manifests in, views out.

The rules are protocol.md's 11-13: an answer is always files through manifest `n`, plus what the state that `n` names
holds, plus the segments beyond `n`'s offsets. `n` is published only if every load's segments begin exactly at `n`'s
offsets, and a view is never lower than one published before, in any partition.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import polars as pl

from rta.actors.messages import Cursor, HotDelta, SegmentDelta
from rta.errors import InvariantError
from rta.serve.spans import RAW, Span, Times, extended, last_within, times_of_frame
from rta.store.model import Manifest

FAN_IN = 4
"""So many frames of one level are merged into one of the next: a row is merged again log4(frames) times in its life."""
Merge = Callable[[str, Sequence[pl.DataFrame]], pl.DataFrame]
"""(rollup name, partials) -> one partial with one row per key."""


@dataclass(slots=True)
class Frames:
    """Partials of one rollup and segment, merged by key as they come, so that readers see few frames and few rows.

    A frame never changes, so what a reader has made of it stays good.
    """

    levels: list[list[pl.DataFrame]] = field(default_factory=list)

    def add(self, frame: pl.DataFrame, merge: Callable[[Sequence[pl.DataFrame]], pl.DataFrame]) -> None:
        for level in range(len(self.levels) + 1):
            if level == len(self.levels):
                self.levels.append([])
            self.levels[level].append(frame)
            if len(self.levels[level]) < FAN_IN:
                return
            frame = merge(self.levels[level])
            self.levels[level] = []

    def all(self) -> tuple[pl.DataFrame, ...]:
        return tuple(frame for level in self.levels for frame in level)


@dataclass(slots=True)
class Segment:
    """A replica's copy of one epoch of one load; it only grows."""

    epoch: int
    from_offsets: dict[int, int]
    to_offsets: dict[int, int]
    next_chunk: int = 0
    closed: bool = False
    rows: int = 0
    rejected: int = 0
    partials: dict[str, Frames] = field(default_factory=dict)
    spans: dict[str | None, tuple[Span, ...]] = field(default_factory=dict)

    def extend(self, delta: SegmentDelta, merge: Merge) -> None:
        if delta.first_chunk != self.next_chunk:
            raise InvariantError(f"chunk {delta.first_chunk} of epoch {self.epoch} came, {self.next_chunk} was next")
        self.next_chunk = delta.next_chunk
        self.to_offsets = delta.to_offsets
        self.closed = delta.closed
        self.rows += delta.rows
        self.rejected += delta.rejected
        self._touch(RAW, delta.rows_ms)
        for name, data in delta.partials.items():
            frames = self.partials.setdefault(name, Frames())
            frame = pl.read_ipc_stream(data)
            self._touch(name, times_of_frame(frame))
            frames.add(frame, partial(merge, name))

    def _touch(self, table: str | None, times: Times | None) -> None:
        self.spans[table] = extended(self.spans.get(table, ()), self.next_chunk, times)


@dataclass(slots=True)
class LoadCopy:
    """A replica's copy of one load: what its segments add, in order."""

    load: str
    actor: str
    incarnations: dict[int, str]
    arrived: int
    version: int = 0
    segments: list[Segment] = field(default_factory=list)
    watermarks_ms: dict[int, int | None] = field(default_factory=dict)
    idle: frozenset[int] = frozenset()
    caught_up: bool = False

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(self.incarnations)

    @property
    def cursor(self) -> Cursor:
        if not self.segments:
            return Cursor(self.load, 0, 0)
        last = self.segments[-1]
        return Cursor(self.load, last.epoch, last.next_chunk)

    def apply(self, delta: HotDelta, merge: Merge) -> None:
        self.watermarks_ms = delta.watermarks_ms
        self.idle = delta.idle
        self.caught_up = delta.caught_up
        for part in delta.segments:
            if not self.segments or part.epoch > self.segments[-1].epoch:
                self.segments.append(Segment(part.epoch, dict(part.from_offsets), dict(part.from_offsets)))
            self.segments[-1].extend(part, merge)

    def beyond(self, offsets: Mapping[int, int]) -> list[Segment] | None:
        """The segments that begin exactly at the offsets; None when the load does not fit them.

        A segment that ends at or before them in every partition is in the files already.
        """
        for index, segment in enumerate(self.segments):
            if all(segment.from_offsets[p] == offsets.get(p) for p in self.partitions):
                return self._contiguous(index)
            if not all(segment.to_offsets[p] <= offsets.get(p, -1) for p in self.partitions):
                return None
        return []

    def _contiguous(self, index: int) -> list[Segment]:
        """From there on as far as nothing is missing: what the aggregator let go of before it was read here is a gap."""
        found = [self.segments[index]]
        for segment in self.segments[index + 1 :]:
            if segment.from_offsets != found[-1].to_offsets:
                break
            found.append(segment)
        return found


@dataclass(frozen=True, slots=True)
class SegmentUse:
    """How much of a segment a view uses; the frames are those of that moment, `spans` the times that its chunks touch.

    `version` is that of the definition that it was folded with: what a later one added is not in it.
    """

    load: str
    actor: str
    epoch: int
    next_chunk: int
    rows: int
    rejected: int
    partials: Mapping[str, tuple[pl.DataFrame, ...]]
    spans: Mapping[str | None, tuple[Span, ...]]
    version: int = 0

    def part(self, table: str | None, start_ms: int, end_ms: int) -> str | None:
        """Names what the segment holds of a table in a range (`spans.RAW` for raw rows); None when that is nothing."""
        last = last_within(self.spans.get(table, ()), start_ms, end_ms)
        return f"{self.load} {self.epoch} {last}" if last else None


@dataclass(frozen=True, slots=True)
class Moment:
    """A publishable pair: manifest and offsets, with the segments between them."""

    manifest: Manifest
    offsets: Mapping[int, int]
    uses: tuple[SegmentUse, ...]
    loads: frozenset[str]


class HotState:
    """All loads of one datasource that a replica has copies of, and the newest moment that it published."""

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self._loads: list[LoadCopy] = []
        self._arrivals = 0
        self.moment: Moment | None = None

    def cursors(self) -> dict[str, Cursor]:
        """Per actor, how far its newest load has been read."""
        return {load.actor: load.cursor for load in self._loads}

    def apply(self, delta: HotDelta) -> None:
        """Take what an aggregator said. A new load stands beside the old one until it has passed it."""
        newest = self._newest(delta.actor)
        if newest is None or newest.load != delta.load:
            if not delta.reset:
                raise InvariantError(f"'{delta.actor}' went on with load '{delta.load}', which is unknown here")
            self._arrivals += 1
            newest = LoadCopy(delta.load, delta.actor, dict(delta.incarnations), self._arrivals, delta.version)
            self._loads.append(newest)
        newest.apply(delta, self._merge)

    def reaches(self, deltas: Iterable[HotDelta]) -> bool:
        """Whether the published moment holds everything that the aggregators had folded when they said this."""
        offsets = {} if self.moment is None else self.moment.offsets
        return all(offsets.get(p, -1) >= reached for delta in deltas for p, reached in delta.reached.items())

    def _newest(self, actor: str) -> LoadCopy | None:
        mine = [load for load in self._loads if load.actor == actor]
        return max(mine, key=lambda load: load.arrived, default=None)

    def publish(self, newest: Manifest) -> Moment:
        """The newest moment that may be shown; the one before when nothing newer fits together."""
        candidates = [newest]
        if self.moment is not None and self.moment.manifest.number != newest.number:
            candidates.append(self.moment.manifest)
        for manifest in candidates:
            found = self._assemble(manifest)
            if found is not None:
                self.moment = found
                self._forget(found)
                return found
        if self.moment is None:
            raise InvariantError("a first moment always fits: no segments, the manifest alone")
        return self.moment

    def _assemble(self, manifest: Manifest) -> Moment | None:
        ends = {e.partition: e.to_offset for e in manifest.partitions}
        logs = {e.partition: e.log_incarnation for e in manifest.partitions}
        floor = self._floor(logs)
        offsets = dict(ends)
        uses: list[SegmentUse] = []
        taken: set[int] = set()
        chosen: set[str] = set()
        for load in sorted(self._loads, key=lambda x: -x.arrived):
            if any(logs.get(p) != incarnation for p, incarnation in load.incarnations.items()):
                continue
            segments = load.beyond(ends)
            if segments is None or load.partitions & taken:
                continue
            reached = segments[-1].to_offsets if segments else {p: ends[p] for p in load.partitions}
            if any(reached[p] < floor.get(p, -1) for p in load.partitions):
                continue
            offsets.update({p: reached[p] for p in load.partitions})
            taken |= load.partitions
            chosen.add(load.load)
            uses += [_use(load, segment) for segment in segments if segment.next_chunk]
        if any(offsets[p] < low for p, low in floor.items()):
            return None
        return Moment(manifest, offsets, tuple(uses), frozenset(chosen))

    def _floor(self, logs: Mapping[int, str]) -> dict[int, int]:
        """Below which a view would be a step back; offsets of another log under the same name do not compare."""
        if self.moment is None:
            return {}
        shown = {e.partition: e.log_incarnation for e in self.moment.manifest.partitions}
        return {p: offset for p, offset in self.moment.offsets.items() if shown.get(p) == logs.get(p)}

    def _forget(self, moment: Moment) -> None:
        """Drop what the published moment will never need again."""
        ends = {e.partition: e.to_offset for e in moment.manifest.partitions}
        newest = {load.actor: load.load for load in sorted(self._loads, key=lambda x: x.arrived)}
        kept = []
        for load in self._loads:
            if load.load not in moment.loads and load.load != newest[load.actor]:
                continue
            remaining = load.beyond(ends)
            if remaining:
                load.segments = remaining
            elif remaining is not None and load.segments:
                load.segments = load.segments[-1:]
            kept.append(load)
        self._loads = kept

    def watermarks_ms(self) -> dict[int, int | None]:
        """Per partition, as its newest load said last."""
        return {p: m for load in self._by_arrival() for p, m in load.watermarks_ms.items()}

    def idle(self, live: Collection[str]) -> frozenset[int]:
        """Partitions without input, as their newest load says, if its owner is among `live`: else nobody knows."""
        newest = {p: load for load in self._by_arrival() for p in load.partitions}
        return frozenset(p for p, load in newest.items() if load.actor in live and p in load.idle)

    def caught_up(self, live: Iterable[str]) -> frozenset[int]:
        """Partitions whose owner is among `live` and has caught up with the log."""
        names = set(live)
        return frozenset(p for x in self._by_arrival() if x.actor in names and x.caught_up for p in x.partitions)

    def _by_arrival(self) -> list[LoadCopy]:
        return sorted(self._loads, key=lambda load: load.arrived)


def _use(load: LoadCopy, segment: Segment) -> SegmentUse:
    partials = {name: frames.all() for name, frames in segment.partials.items()}
    return SegmentUse(
        load=load.load,
        actor=load.actor,
        epoch=segment.epoch,
        next_chunk=segment.next_chunk,
        rows=segment.rows,
        rejected=segment.rejected,
        partials=partials,
        spans=dict(segment.spans),
        version=load.version,
    )
