"""How long a question over rollup rows will take, before it runs: from the rows in its range and what is decoded of them.

Decides nothing: who runs it where is `rta.serve.service`'s. An estimate of the CPU time, right within a factor of about two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rta.query.block import Piece
from rta.query.conditions import compares, conditions
from rta.query.model import QueryMetricType
from rta.query.plan import Plan

FIXED_US = 150
ROW_NS = 2
"""Of each row and column that is grouped by, compared or added up."""
ITEM_NS = 8
"""Of each plain item of a quantile or of distinct values."""
SKETCH_NS = 6_000
UNDECODED_NS = 150
"""Of each row and column that was never asked for yet."""
_LISTED = (QueryMetricType.QUANTILE, QueryMetricType.UNIQUE, QueryMetricType.THETA)


def estimate_us(plan: Plan, pieces: Sequence[Piece]) -> float:
    """CPU time of `rta.query.execute.run_rollup` for this plan and pieces, in microseconds."""
    passes = (
        len(plan.group_by)
        + 2 * len(plan.metrics)
        + sum(1 for condition in conditions(plan.query) for _ in compares(condition))
    )
    ns = 0
    for block, start_ms, end_ms in pieces:
        first_time, end_time = np.searchsorted(block.times, (start_ms, end_ms)).tolist()
        first, end = int(block.begins[first_time]), int(block.begins[end_time])
        if end == first:
            continue
        ns += (end - first) * passes * ROW_NS
        if not block.asked(plan.columns):
            ns += block.frame.height * len(plan.columns) * UNDECODED_NS
            continue
        for planned in plan.metrics:
            if planned.spec is None or planned.metric.type not in _LISTED:
                continue
            offsets = block.lists(planned.spec.items).offsets
            low, high = np.searchsorted(block.sketches(planned.spec.sketch)[0], (first, end)).tolist()
            ns += int(offsets[end] - offsets[first]) * ITEM_NS + (high - low) * SKETCH_NS
    return FIXED_US + ns / 1000
