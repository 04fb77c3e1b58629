"""What became of every event, per partition and minute of append time.

`logged` is what the record's header says, `folded`, `dropped` and `rejected` are counted from the rows themselves: when
they disagree, the lines show it. Holds the counts of one epoch.
"""

from __future__ import annotations

from rta.stream.model import BatchArrived, MinuteCounts

MINUTE_MS = 60_000
_MASK = 2**64 - 1


class EpochLedger:
    """Counts and sums (modulo 2^64) of one epoch."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, int], list[int]] = {}

    def record(self, batch: BatchArrived, append_time_ms: int, counts: tuple[int, int, int, int]) -> None:
        """One record of the log: `counts` are folded, their sum, dropped, their sum."""
        line = self._lines.setdefault((batch.partition, append_time_ms // MINUTE_MS * MINUTE_MS), [0] * 8)
        rejected = 0 if batch.rejected is None else batch.rejected.num_rows
        for i, value in enumerate((batch.events, batch.id_sum, *counts, rejected, batch.rejected_sum)):
            line[i] += value

    def lines(self) -> tuple[MinuteCounts, ...]:
        """By partition and minute."""
        return tuple(
            MinuteCounts(
                partition=partition,
                minute_ms=minute,
                logged=v[0],
                logged_sum=v[1] & _MASK,
                folded=v[2],
                folded_sum=v[3] & _MASK,
                dropped=v[4],
                dropped_sum=v[5] & _MASK,
                rejected=v[6],
                rejected_sum=v[7] & _MASK,
            )
            for (partition, minute), v in sorted(self._lines.items())
        )
