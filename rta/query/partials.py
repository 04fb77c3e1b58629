"""Partial results of blocks that never change: what a question makes of a whole block, kept with the block as few rollup rows.

A partial is itself rollup rows: one per (step, groups) with the condition applied, whose metrics add as those of any rollup row
do. So the answer is run over partials instead of blocks, and only what is new or cut by the range is folded again. Kept from the
second time on that the same is asked of a block. Only for metrics that few numbers hold: counts, sums, averages, extremes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rta.query.block import EVER, Block, Piece
from rta.query.model import QueryMetricType
from rta.query.plan import Plan

ADDITIVE = (
    QueryMetricType.COUNT,
    QueryMetricType.SUM,
    QueryMetricType.AVG,
    QueryMetricType.MIN,
    QueryMetricType.MAX,
)
ROWS_MIN = 4_096
"""A smaller block is folded faster than its partial is looked up and joined."""
SHRINKS_BY = 16
"""A partial is kept if it has at most this share of the block's rows."""
Fold = Callable[[Plan, Piece], Block]


def partial_key(plan: Plan) -> tuple[object, ...] | None:
    """What a partial depends on beside the block; None where there can't be one."""
    if any(planned.spec is None or planned.metric.type not in ADDITIVE for planned in plan.metrics):
        return None
    query, columns = plan.query, tuple(dict.fromkeys(field.column for field in plan.group_by))
    if len(columns) < len(plan.group_by):
        return None
    metrics = tuple((planned.metric.type, planned.spec) for planned in plan.metrics)
    zone = query.timezone
    fields = tuple((name, field.column) for name, field in plan.fields.items())
    return plan.datasource.version, query.granularity, zone, plan.pushed, fields, columns, metrics


def with_partials(plan: Plan, pieces: Sequence[Piece], fold: Fold) -> tuple[Plan, Sequence[Piece]]:
    """The same question over partials, where some block has one or shall get one; else what was given."""
    key = partial_key(plan)
    if key is None:
        return plan, pieces
    whole = [piece for piece in pieces if is_whole(piece)]
    noted = [piece.block.note_partial(key) for piece in whole]
    if not any(noted):
        return plan, pieces
    folded = []
    for piece in pieces:
        found = piece.block.partial(key) if is_whole(piece) else None
        if found is None:
            found = fold(plan, piece)
            if is_whole(piece) and found.frame.height * SHRINKS_BY <= piece.block.frame.height:
                piece.block.keep_partial(key, found)
        folded.append(Piece(found, *EVER))
    return replace(plan, pushed=None), folded


def is_whole(piece: Piece) -> bool:
    """Whether all rows of a block that is worth it are asked for."""
    block = piece.block
    if block.frame.height < ROWS_MIN:
        return False
    return bool(piece.start_ms <= block.times[0] and block.times[-1] < piece.end_ms)
