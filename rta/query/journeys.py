"""What users do one after the other: the events of a funnel or a retention, by user and time. Frames in, arrays out.

Events of one user at one moment are in no order of their own: they are taken in the order of the steps that they match,
so that an answer does not depend on where events are stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from rta.events.schemas import TIME
from rta.query.conditions import both
from rta.query.fields import FieldKind
from rta.query.model import Condition
from rta.query.paths import text_key
from rta.query.plan import Plan
from rta.query.raw import Frame, group_key, matching
from rta.query.where import where_expression

Longs = npt.NDArray[np.int64]
USER = "__user"
_TIME, _STEPS, _ORDER = "__at", "__steps", "__order"


class Journeys:
    """The events that match a step, ordered by user, time and step.

    Args:
        frame: With the grouped fields under the names of the question.
        user: Which user each event is of; equal numbers stand together.
        times: Milliseconds.
        steps: Bit k says that the event matches step k.
    """

    def __init__(self, frame: pl.DataFrame, groups: Sequence[str]) -> None:
        self._groups = frame.select(USER, *groups)
        self.user: Longs = frame.get_column(USER).to_numpy()
        self.times: Longs = frame.get_column(_TIME).to_numpy()
        self.steps: Longs = frame.get_column(_STEPS).to_numpy()

    def groups_at(self, events: Longs) -> pl.DataFrame:
        """The grouped fields of some events, and beside them the users as `USER`."""
        return self._groups[events]


def read_journeys(plan: Plan, frames: Sequence[Frame], steps: Sequence[Condition | None]) -> Journeys:
    """The plan's events that match a step and have a user. At most 62 steps."""
    planned = plan.metrics[0]
    field = planned.field
    assert field is not None
    user = pl.col(text_key(field) if field.kind is FieldKind.PATH else field.key)
    matched = [_bit(both(planned.metric.where, step), plan, k) for k, step in enumerate(steps)]
    names = [f.name for f in plan.group_by]
    chosen = matching(plan, frames).select(
        user.alias(USER),
        pl.col(TIME).dt.epoch("ms").alias(_TIME),
        pl.sum_horizontal(matched).alias(_STEPS),
        *(group_key(f).alias(f"group:{i}") for i, f in enumerate(plan.group_by)),
    )
    found = chosen.filter((pl.col(_STEPS) != 0) & pl.col(USER).is_not_null()).collect(engine="streaming")
    found = found.with_columns(_numbered(found.get_column(USER)))
    # The lowest step that an event matches, then the others: -x & x is the lowest bit of x.
    order = (pl.col(_STEPS) & -pl.col(_STEPS)).alias(_ORDER)
    found = found.rename({f"group:{i}": name for i, name in enumerate(names)})
    found = found.with_columns(order).sort(USER, _TIME, _ORDER, _STEPS, *names, nulls_last=True)
    return Journeys(found, names)


def _bit(condition: Condition | None, plan: Plan, step: int) -> pl.Expr:
    bit = pl.lit(1 << step, pl.Int64)
    if condition is None:
        return bit
    return pl.when(where_expression(condition, plan.fields)).then(bit).otherwise(pl.lit(0, pl.Int64))


def _numbered(users: pl.Series) -> pl.Series:
    """A number for each value, by a table of the values: sorting numbers is much cheaper than sorting texts."""
    array = users.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    codes = array.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return pl.Series(USER, codes.astype(np.int64))
