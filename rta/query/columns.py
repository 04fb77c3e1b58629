"""What the columns of an aggregated answer are called, and in which order they stand."""

from __future__ import annotations

from rta.query.model import Query, QueryMetricType, Unit

PREVIOUS, CHANGE = "_previous", "_change"
TIME_PREVIOUS = "time_previous"
FUNNEL_KEYS = ("step", "name")
FUNNEL_VALUES = ("users", "conversion", "step_conversion", "median_ms")
RETENTION_KEYS = ("period",)
RETENTION_VALUES = ("cohort_users", "users", "share")


def journey_type(query: Query) -> QueryMetricType | None:
    """Whether the question is a funnel or a retention, which stand alone and have rows of their own."""
    return query.metrics[0].type if query.metrics and query.metrics[0].journey is not None else None


def has_time(query: Query) -> bool:
    return query.granularity.unit is not Unit.ALL or journey_type(query) is QueryMetricType.RETENTION


def keys_of(query: Query) -> list[str]:
    """What tells the answer's rows apart, in the order of the columns; rows without another order are sorted by it."""
    own: dict[QueryMetricType | None, tuple[str, ...]]
    own = {QueryMetricType.FUNNEL: FUNNEL_KEYS, QueryMetricType.RETENTION: RETENTION_KEYS}
    kind = journey_type(query)
    return [*(["time"] if has_time(query) else []), *query.group_by, *own.get(kind, ())]


def values_of(query: Query) -> list[str]:
    """What stands beside the keys, without what a comparison adds."""
    own = {QueryMetricType.FUNNEL: FUNNEL_VALUES, QueryMetricType.RETENTION: RETENTION_VALUES}
    kind = journey_type(query)
    return list(own[kind]) if kind in own else list(query.columns or (m.name for m in query.metrics))


def lists_of(query: Query) -> set[str]:
    """The columns that hold lists: nothing can be ordered by them, or be more than they are."""
    return {m.name for m in query.metrics if m.type is QueryMetricType.TOP}


def compared(query: Query, name: str) -> list[str]:
    """A metric's columns: itself, and with `compare` what it was before and by how much it has changed."""
    if query.compare is None:
        return [name]
    return [name, f"{name}{PREVIOUS}", *([] if name in lists_of(query) else [f"{name}{CHANGE}"])]


def columns_of(query: Query) -> list[str]:
    """All columns of the answer."""
    keys = keys_of(query)
    if query.compare is not None and has_time(query):
        keys.insert(1, TIME_PREVIOUS)
    return [*keys, *(column for name in values_of(query) for column in compared(query, name))]
