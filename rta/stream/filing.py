"""Which rows become a file at the end of an epoch, and which wait in the saved state.

Owns the rule that late events of many dates do not make a file per date and epoch: rows of a date that no partition is
at wait until they are many, have waited long, or too much waits in all. It decides per (table, date) of an actor and
changes no answer, because rows that wait are in the state, by partition, and readers add them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rta.stream.grouping import Flags, Longs
from rta.stream.model import FoldLimits

DAY_MS = 86_400_000
_SPAN_COUNTED = 100_000


@dataclass(frozen=True, slots=True)
class DateRows:
    """Rows of one table that may be written, by date (days since the epoch of time)."""

    rows: int
    bytes: int


def count_dates(days: Longs, table: pa.Table) -> dict[int, DateRows]:
    """Rows of each date; bytes are shared out evenly."""
    if not len(days):
        return {}
    low, high = int(days.min()), int(days.max())
    row_bytes = table.nbytes / len(days)
    if high - low < _SPAN_COUNTED:
        counts = np.bincount(days - low)
        found = np.flatnonzero(counts)
        counts, found = counts[found], found + low
    else:
        found, counts = np.unique(days, return_counts=True)
    return {
        day: DateRows(count, int(count * row_bytes)) for day, count in zip(found.tolist(), counts.tolist(), strict=True)
    }


def choose_dates(
    held: Mapping[tuple[str, int], DateRows],
    current: Collection[int],
    waited: Mapping[tuple[str, int], int],
    limits: FoldLimits,
) -> set[tuple[str, int]]:
    """Which (table, date) to write now.

    Args:
        held: What could be written.
        current: The dates that partitions are at.
        waited: For how many epochs each has waited.
    """
    chosen = {key for key, it in held.items() if it.rows >= limits.file_rows_min or key[1] in current}
    rest = [key for key in held if key not in chosen]
    patient = sorted((k for k in rest if waited.get(k, 0) >= limits.wait_epochs_max), key=lambda k: (-waited[k], k))
    chosen.update(patient[: limits.waiting_files_max])
    rest = sorted((key for key in rest if key not in chosen), key=lambda k: (held[k].rows, k))
    rows, size = sum(held[k].rows for k in rest), sum(held[k].bytes for k in rest)
    while rest and (rows > limits.waiting_rows or size > limits.waiting_bytes):
        largest = rest.pop()
        rows, size = rows - held[largest].rows, size - held[largest].bytes
        chosen.add(largest)
    return chosen


def split_by_day(table: pa.Table, days: Longs, chosen: Collection[int]) -> dict[int, pa.Table]:
    """The rows of each chosen date, in their order."""
    if not chosen or not len(days):
        return {}
    if days.min() == days.max():
        return {int(days[0]): table} if int(days[0]) in chosen else {}
    order = np.argsort(days, kind="stable")
    ordered = days[order]
    out = {}
    for day in sorted(chosen):
        first, end = np.searchsorted(ordered, [day, day + 1]).tolist()
        if first < end:
            out[day] = table.take(pa.array(order[first:end]))
    return out


def is_chosen(days: Longs, chosen: Collection[int]) -> Flags:
    """Which rows are of a chosen date."""
    return np.isin(days, np.fromiter(chosen, np.int64, len(chosen)))


def date_text(day: int) -> str:
    return str(np.datetime64(day, "D"))
