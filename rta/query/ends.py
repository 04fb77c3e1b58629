"""The ragged ends of a range as rollup rows: raw events that no whole step of a rollup covers, folded as it folds.

So everything after is `rta.query.execute`'s, whatever the metrics are: what adds up over rollup rows adds up over these.
No I/O: frames in, rows out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl
import pyarrow as pa

from rta.errors import InvariantError
from rta.events.schemas import GRAIN_MS, TIME, Rollup
from rta.query.answer import TIME_TYPE
from rta.query.plan import Plan
from rta.query.raw import Frame, matching, raw_columns
from rta.stream.rollups import finest_partials, from_polars


def fold_ends(plan: Plan, frames: Sequence[Frame]) -> pa.Table:
    """Rollup rows of the raw events in the plan's ends for which its condition is true.

    Args:
        plan: With a rollup and raw ends.
        frames: Raw rows, in files and beyond them, of any time.

    Returns:
        In the rollup's schema, as far as the plan reads it. A row's bucket may begin before the end that it is of.
    """
    columns = raw_columns(plan)
    single = replace(plan, rollup=None, columns=columns)
    events = matching(single, frames).filter(
        pl.any_horizontal(_within(part.start_ms, part.end_ms) for part in plan.ends)
    )
    found = events.select(columns).collect(engine="streaming")
    return from_polars(finest_partials(from_polars(found), needed(plan), plan.datasource))


def ends_ms(plan: Plan) -> tuple[int, int]:
    """The time that the rows of `fold_ends` may have; half open."""
    assert plan.rollup is not None
    grain = GRAIN_MS[plan.rollup.granularity]
    return plan.start_ms // grain * grain, plan.end_ms


def needed(plan: Plan) -> Rollup:
    """The plan's rollup with only those dimensions and metrics that the plan reads."""
    if plan.rollup is None:
        raise InvariantError("only the ends of a rollup's question are folded")
    counted = [m.field for m in plan.metrics if m.spec is None and m.field is not None]
    fields = {field.column for field in (*plan.group_by, *plan.fields.values(), *counted)}
    specs = {plan.rollup.count.name, *(m.spec.name for m in plan.metrics if m.spec is not None)}
    return Rollup(
        plan.rollup.name,
        plan.rollup.granularity,
        tuple(name for name in plan.rollup.dimensions if name in fields),
        tuple(metric for metric in plan.rollup.metrics if metric.name in specs),
    )


def _within(start_ms: int, end_ms: int) -> pl.Expr:
    low, high = (pl.lit(bound).cast(TIME_TYPE) for bound in (start_ms, end_ms))
    return (pl.col(TIME) >= low) & (pl.col(TIME) < high)
