"""The rules that turn a question into a plan, in their order: small pure functions, each in a file of its own.

A rule takes a plan and returns one that gives the same answer; each has a file of before → after pairs under
`tests/query/rules`.
"""

from __future__ import annotations

from collections.abc import Callable

from rta.query.plan import Plan
from rta.query.rules.column_pruning import prune_columns
from rta.query.rules.filter_pushdown import push_filters
from rta.query.rules.grain_choice import choose_grains
from rta.query.rules.hot_cold_split import split_hot_from_cold
from rta.query.rules.limit_pushdown import push_limit
from rta.query.rules.rollup_choice import choose_rollups
from rta.query.rules.time_pruning import prune_time

Rule = Callable[[Plan], Plan]

RULES: tuple[tuple[str, Rule], ...] = (
    ("time pruning", prune_time),
    ("filter pushdown", push_filters),
    ("rollup choice", choose_rollups),
    ("grain choice", choose_grains),
    ("hot/cold split", split_hot_from_cold),
    ("limit pushdown", push_limit),
    ("column pruning", prune_columns),
)
