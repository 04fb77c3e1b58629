"""The hot segments of one load: what each epoch adds, kept until its manifest has been read and the grace is over.

One thread appends (the fold), others read; a lock guards the lists, the chunks themselves never change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from rta.actors.messages import Cursor, RowsRequest, SegmentDelta
from rta.errors import NotFoundError
from rta.events.schemas import REJECTED, TIME
from rta.stream.model import Increment

MergePartials = Callable[[str, Sequence[pl.DataFrame]], pl.DataFrame]
"""(rollup name, partials) -> one partial."""
COMMITTED_BYTES_MAX = 32 << 20
"""Raw rows of committed segments that are kept for queries that still read an older view; one that comes too late takes a
newer one."""
COMMITTED_REJECTED_BYTES_MAX = 64 << 20
"""The same for rejected rows, which hold whole events."""


@dataclass(slots=True)
class Segment:
    """One epoch. `chunks` only grows, until `closed`."""

    epoch: int
    from_offsets: dict[int, int]
    to_offsets: dict[int, int]
    chunks: list[Increment] = field(default_factory=list)
    closed: bool = False
    committed_ms: int | None = None

    @property
    def rows(self) -> int:
        return sum(c.rows.num_rows for c in self.chunks)

    @property
    def rows_bytes(self) -> int:
        return sum(c.rows.nbytes for c in self.chunks)

    @property
    def rejected_bytes(self) -> int:
        return sum(c.rejected.nbytes for c in self.chunks)


class HotSegments:
    """All segments of a load that somebody may still need, oldest first."""

    def __init__(self, from_offsets: Mapping[int, int], merge: MergePartials, epoch: int = 0) -> None:
        self._lock = threading.Lock()
        self._merge = merge
        self._segments = [Segment(epoch, dict(from_offsets), dict(from_offsets))]
        self._merged: dict[tuple[int, int, int, str], bytes] = {}

    @property
    def open(self) -> Segment:
        return self._segments[-1]

    @property
    def reached(self) -> dict[int, int]:
        """Per partition the offset that comes next."""
        with self._lock:
            return dict(self.open.to_offsets)

    def append(self, increment: Increment) -> None:
        with self._lock:
            segment = self.open
            segment.chunks.append(increment)
            segment.to_offsets = {**segment.to_offsets, **increment.to_offsets}

    def close_epoch(self) -> int:
        """End the open segment and begin the next; the number of the one that ended."""
        with self._lock:
            ended = self.open
            ended.closed = True
            self._segments.append(Segment(ended.epoch + 1, dict(ended.to_offsets), dict(ended.to_offsets)))
            return ended.epoch

    def committed(self, epoch: int, now_ms: int) -> None:
        """The manifest that holds this epoch has been read."""
        with self._lock:
            for segment in self._segments:
                if segment.epoch <= epoch and segment.closed and segment.committed_ms is None:
                    segment.committed_ms = now_ms

    def forget(self, now_ms: int, grace_ms: int) -> None:
        """Drop committed segments whose grace is over, or beyond the rows that are kept."""
        with self._lock:
            rows_bytes = rejected_bytes = 0
            kept: list[Segment] = []
            for segment in reversed(self._segments):
                if segment.committed_ms is not None:
                    rows_bytes += segment.rows_bytes
                    rejected_bytes += segment.rejected_bytes
                    full = rows_bytes > COMMITTED_BYTES_MAX or rejected_bytes > COMMITTED_REJECTED_BYTES_MAX
                    if full or now_ms - segment.committed_ms > grace_ms:
                        continue
                kept.append(segment)
            self._segments = kept[::-1]
            alive = {s.epoch for s in kept}
            self._merged = {k: v for k, v in self._merged.items() if k[0] in alive}

    def since(self, cursor: Cursor | None) -> tuple[SegmentDelta, ...]:
        """What lies beyond the cursor; everything uncommitted when there is none."""
        with self._lock:
            wanted = [
                (s, self._first_chunk(s, cursor), len(s.chunks), s.closed, dict(s.to_offsets)) for s in self._segments
            ]
        deltas = []
        for segment, first, count, closed, to_offsets in wanted:
            if first is None or (first == count and count and not closed):
                continue
            deltas.append(self._delta(segment, (first, count), closed, to_offsets))
        return tuple(deltas)

    @staticmethod
    def _first_chunk(segment: Segment, cursor: Cursor | None) -> int | None:
        if cursor is None:
            return None if segment.committed_ms is not None else 0
        if segment.epoch < cursor.epoch:
            return None
        return cursor.chunk if segment.epoch == cursor.epoch else 0

    def _delta(self, segment: Segment, span: tuple[int, int], closed: bool, to_offsets: dict[int, int]) -> SegmentDelta:
        chunks = segment.chunks[span[0] : span[1]]
        names = sorted({name for chunk in chunks for name in chunk.partials})
        partials = {name: self._partial(segment.epoch, span, name, chunks) for name in names}
        return SegmentDelta(
            epoch=segment.epoch,
            first_chunk=span[0],
            next_chunk=span[1],
            closed=closed,
            from_offsets=segment.from_offsets,
            to_offsets=to_offsets,
            partials=partials,
            rows=sum(c.rows.num_rows for c in chunks),
            rows_ms=_rows_ms([c.rows for c in chunks if c.rows.num_rows]),
            rejected=sum(c.rejected.num_rows for c in chunks),
        )

    def _partial(self, epoch: int, span: tuple[int, int], name: str, chunks: Sequence[Increment]) -> bytes:
        key = (epoch, span[0], span[1], name)
        known = self._merged.get(key)
        if known is None:
            frames = [c.partials[name] for c in chunks if name in c.partials]
            frame = frames[0] if len(frames) == 1 else self._merge(name, frames)
            known = frame.write_ipc_stream(None).getvalue()
            if len(self._merged) > 64:
                self._merged.clear()
            self._merged[key] = known
        return known

    def rows(self, requests: Sequence[RowsRequest]) -> pa.Table:
        """Rows of one table of the asked chunks, in order; at least one chunk.

        Raises:
            NotFoundError: a segment has been let go of.
        """
        with self._lock:
            by_epoch = {s.epoch: s for s in self._segments}
            missing = [r.epoch for r in requests if r.epoch not in by_epoch]
            if missing:
                raise NotFoundError(f"hot segment of epoch {missing[0]} is no longer kept", "take a newer view")
            chunks = [(r.table, c) for r in requests for c in by_epoch[r.epoch].chunks[r.first_chunk : r.next_chunk]]
        return pa.concat_tables([c.rejected if table == REJECTED else c.rows for table, c in chunks])


def _rows_ms(tables: Sequence[pa.Table]) -> tuple[int, int] | None:
    """First and last event time of raw rows."""
    found = [pc.min_max(table.column(TIME).cast(pa.int64())) for table in tables]
    return (min(f["min"].as_py() for f in found), max(f["max"].as_py() for f in found)) if found else None
