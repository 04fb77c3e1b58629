"""The rollup rows that one metric counts: those of its groups for which its own condition is true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from rta.events.schemas import MetricType
from rta.query.combine import Bound, Parts, Selected, joined
from rta.query.conditions import both, compares
from rta.query.fields import Field
from rta.query.model import Condition, Members
from rta.query.plan import PlannedMetric
from rta.query.sketch_sets import Found, sizes
from rta.query.where import Dimensions
from rta.stream.grouping import ALL_VALID, Groups, gather_values
from rta.stream.sketches import theta_of

if TYPE_CHECKING:
    from rta.query.execute import Rows

Longs = npt.NDArray[np.int64]


class Chosen:
    """The rows of a question with their groups, and those of them that a metric's condition takes."""

    def __init__(self, rows: Rows, selected: Longs | None, groups: Groups, fields: Mapping[str, Field]) -> None:
        self.rows = rows
        self.selected = selected
        self.groups = groups
        self.fields = fields

    def by(self, condition: Condition | None) -> Chosen:
        if condition is None or self.rows.count == 0:
            return self
        for compare in compares(condition):
            self.rows.codes(self.fields[compare.field].column)
        mask = Dimensions(self.rows.codes, self.rows.dictionaries(), self.fields).mask(condition)
        taken = np.flatnonzero(mask if self.selected is None else mask[self.selected])
        selected = taken if self.selected is None else self.selected[taken]
        return Chosen(self.rows, selected, Groups(self.groups.of_row[taken], self.groups.first_row), self.fields)


def set_sizes(planned: PlannedMetric, chosen: Chosen) -> tuple[pl.Series, Bound]:
    """The sizes of a metric's sets, from a theta metric of the rollup or from a dimension."""
    metric, spec, field = planned.metric, planned.spec, planned.field
    assert field is not None

    def source(members: Members) -> Found:
        part = chosen.by(both(metric.where, members.where))
        if spec is not None:
            slices = [(s.block, s.first, s.end) for s in part.rows.slices]
            return joined(Selected(slices, spec.items, spec.sketch, part.selected, part.groups), theta_of)
        codes = part.rows.codes(field.column)
        codes = (codes if part.selected is None else codes[part.selected]).astype(np.int64)
        nothing: Parts = {}
        return gather_values(codes, codes != 0 if len(codes) else ALL_VALID, part.groups), nothing

    return sizes(metric.sets or Members(), source, chosen.groups.number)


def is_set(planned: PlannedMetric) -> bool:
    """Whether the metric is answered by `set_sizes`."""
    of_theta = planned.spec is not None and planned.spec.type is MetricType.THETA
    return planned.metric.sets is not None or of_theta
