"""One partition of a fold: where it stands in its log and in time. Its identities are `rta.stream.dedup`'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rta.errors import InvariantError
from rta.stream.model import BatchArrived, PartitionLoaded
from rta.stream.watermark import Watermark


@dataclass(slots=True)
class Partition:
    """Offsets of the epoch under way, and the watermark. `extra` is carried from state to state."""

    partition: int
    from_offset: int
    to_offset: int
    watermark: Watermark
    extra: Mapping[str, bytes]

    @classmethod
    def load(cls, loaded: PartitionLoaded, lateness_ms: int) -> Partition:
        """As a manifest left it."""
        state = loaded.state
        watermark = Watermark(
            lateness_ms=lateness_ms,
            event_time_max_ms=state.event_time_max_ms if state else None,
            append_time_ms=loaded.append_time_ms,
            now_ms=loaded.watermark_ms,
        )
        return cls(loaded.partition, loaded.offset, loaded.offset, watermark, state.extra if state else {})

    def take(self, batch: BatchArrived) -> int:
        """Move on past a record; returns its append time, which never goes back."""
        if batch.offset < self.to_offset:
            raise InvariantError(
                f"partition {self.partition} was given offset {batch.offset} after everything below {self.to_offset}"
            )
        self.to_offset = batch.offset + 1
        return self.watermark.appended(batch.append_time_ms)

    def next_epoch(self) -> None:
        self.from_offset = self.to_offset
