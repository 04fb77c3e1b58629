"""Who comes back: users by the period of their first event of one kind, and in how many later periods they had one of
another. Exact, from raw events.

A user is in the cohort of the first `cohort` event within the question's range, and in the group that this event says.
Returning in period k means a `returning` event k periods later, in period 0 one at or after the first event. A row
stands for each cohort and each period up to the last one that has any event of the question: later ones are not over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from rta.errors import InvalidQueryError
from rta.query.answer import TIME_TYPE, Answer
from rta.query.axis import steps
from rta.query.columns import columns_of
from rta.query.journeys import USER, Journeys, Longs, read_journeys
from rta.query.model import Retention
from rta.query.order import cut
from rta.query.plan import Plan
from rta.query.raw import Frame

COHORTS_MAX = 1_000
_COHORT = "__cohort"


def run_retention(plan: Plan, frames: Sequence[Frame]) -> Answer:
    """Answer a question whose only metric is a retention: a row for each cohort, group and period.

    Raises:
        InvalidQueryError: more than `COHORTS_MAX` periods have events.
    """
    retention = plan.metrics[0].metric.journey
    assert isinstance(retention, Retention)
    journeys = read_journeys(plan, frames, [retention.cohort, retention.returning])
    starts = _periods(journeys, retention, plan.query.timezone)
    first = _first_events(journeys)
    cohort = np.searchsorted(starts, journeys.times[first], side="right") - 1
    keys = ["time", *(f.name for f in plan.group_by)]
    users = journeys.groups_at(first).with_columns(
        pl.Series("time", starts[cohort]).cast(TIME_TYPE), pl.Series(_COHORT, cohort)
    )
    returns = _returns(journeys, first, starts, cohort, retention.periods)
    sizes = users.group_by(*keys, _COHORT).agg(pl.len().cast(pl.Int64).alias("cohort_users"))
    found = returns.join(users, on=USER).group_by(*keys, "period").agg(pl.len().cast(pl.Int64).alias("users"))
    frame = _triangle(sizes, len(starts), retention.periods)
    frame = frame.join(found, on=[*keys, "period"], how="left", nulls_equal=True).with_columns(
        pl.col("users").fill_null(0)
    )
    frame = frame.with_columns((pl.col("users") / pl.col("cohort_users")).alias("share"))
    frame, more = cut(frame.select(columns_of(plan.query)), plan)
    return Answer(frame, {}, more)


def _periods(journeys: Journeys, retention: Retention, zone: str) -> Longs:
    """Starts of all periods from that of the first `cohort` event to that of the last event."""
    begun = journeys.times[(journeys.steps & 1) != 0]
    if len(begun) == 0:
        return np.zeros(0, np.int64)
    low, high = int(begun.min()), int(journeys.times.max())
    starts = steps(low, high + 1, retention.period, zone)
    if len(starts) > COHORTS_MAX:
        raise InvalidQueryError(
            f"the retention has {len(starts):,} cohorts, at most {COHORTS_MAX:,} are possible",
            "use longer periods or a shorter time range",
        )
    return starts


def _first_events(journeys: Journeys) -> Longs:
    """The first `cohort` event of each user that has one."""
    events = np.flatnonzero(journeys.steps & 1)
    user = journeys.user[events]
    new = np.ones(len(user), np.bool_)
    new[1:] = user[1:] != user[:-1]
    return events[new]


def _returns(journeys: Journeys, first: Longs, starts: Longs, cohort: Longs, periods: int) -> pl.DataFrame:
    """Each user with each period in which it returned, once."""
    events = np.flatnonzero(journeys.steps & 2)
    if len(first) == 0:
        return pl.DataFrame({USER: events[:0], "period": events[:0]})
    # Users are numbers in ascending order, here as there.
    place = np.minimum(np.searchsorted(journeys.user[first], journeys.user[events]), len(first) - 1)
    begun = first[place]
    ours = (journeys.user[begun] == journeys.user[events]) & (journeys.times[events] >= journeys.times[begun])
    events, place = events[ours], place[ours]
    period = np.searchsorted(starts, journeys.times[events], side="right") - 1 - cohort[place]
    found = pl.DataFrame({USER: journeys.user[events], "period": period.astype(np.int64)})
    return found.filter(pl.col("period") <= periods).unique()


def _triangle(sizes: pl.DataFrame, count: int, periods: int) -> pl.DataFrame:
    """A row for each cohort and each of its periods that has begun."""
    frame = sizes.join(pl.DataFrame({"period": np.arange(min(periods, max(count - 1, 0)) + 1)}), how="cross")
    return frame.filter(pl.col(_COHORT) + pl.col("period") < count).drop(_COHORT)
