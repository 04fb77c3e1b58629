"""From a JSON document to a `Query`. Validates everything that can be known without the datasource.

Owns the limits on a question's size and the texts of its refusals; each names the value and the remedy. The parts have
rooms of their own: metrics in `rta.query.parse_metrics`, conditions in `rta.query.conditions`, times in
`rta.query.periods`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rta.errors import InvalidQueryError
from rta.query.columns import PREVIOUS, columns_of, journey_type, lists_of
from rta.query.compare import check_compare
from rta.query.conditions import parse_where
from rta.query.derive import OVER_TIME
from rta.query.fields import parse_path
from rta.query.model import ALL, Granularity, Order, Query, QueryMetricType, Unit
from rta.query.parse_metrics import Metrics, parse_metrics
from rta.query.periods import parse_compare, parse_granularity, parse_time_range, parse_timezone
from rta.query.wording import nearest as nearest
from rta.query.wording import optional_text, shown

GROUP_BY_MAX = 32
SELECT_MAX = 1_000
ORDER_BY_MAX = 32
LIMIT_MAX = 100_000
STALENESS_MS_MAX = 3_600_000
TABLES = ("events", "rejected", "sessions")
_SHARED = ("datasource", "table", "time_range", "timezone", "filters", "where", "order_by", "limit")
_SHARED_LAST = ("max_staleness_ms", "after")
_METRIC_KEYS = ("metrics", "granularity", "group_by", "compare")
_SELECT_KEYS = ("select", "next", "page")
_KEYS = (*_SHARED, *_METRIC_KEYS, *_SELECT_KEYS, *_SHARED_LAST)


def parse_query(document: Mapping[str, Any], *, limit_max: int = LIMIT_MAX) -> Query:
    """Read a question.

    Args:
        document: As in `POST /v1/query`.
        limit_max: The most rows that an answer may have, also the default of `limit`.

    Raises:
        InvalidQueryError: an unknown key, a wrong type or value, or a limit passed.
    """
    if not isinstance(document, Mapping):
        raise InvalidQueryError(f"a query is a JSON object, not {shown(document)}", 'write {"datasource": …, …}')
    _only_known_keys(document)
    timezone = parse_timezone(document.get("timezone"))
    select = _parse_select(document)
    metrics = Metrics() if select else parse_metrics(document.get("metrics"))
    query = Query(
        datasource=_required_text(document, "datasource"),
        table=_parse_table(document.get("table")),
        time_range=parse_time_range(document.get("time_range")),
        granularity=_parse_granularity(document),
        timezone=timezone,
        metrics=metrics.base,
        derived=metrics.derived,
        columns=metrics.columns,
        compare=parse_compare(document.get("compare")),
        where=parse_where(document.get("filters"), document.get("where")),
        group_by=_parse_group_by(document),
        select=select,
        order_by=_parse_order_by(document.get("order_by"), select),
        limit=_parse_whole(document, "limit", limit_max, 1, limit_max),
        cursor=_parse_cursor(document),
        max_staleness_ms=_parse_whole(document, "max_staleness_ms", 10, 0, STALENESS_MS_MAX),
        after=optional_text(document, "after"),
    )
    _check_axis(query)
    return query


def check_names(query: Query) -> None:
    """Refuse two columns of an answer with one name, and an order by what is not in the answer or is no number."""
    names = columns_of(query)
    made = [*(m.name for m in query.metrics), *(d.name for d in query.derived)]
    hidden = [name for name in made if query.columns and name not in query.columns]
    seen: set[str] = set()
    for name in (*names, *hidden):
        if name in seen or (name == "time" and name != names[0]):
            raise InvalidQueryError(f"two columns of the answer are called '{name}'", "give the metric another 'name'")
        seen.add(name)
    lists = lists_of(query)
    for order in query.order_by:
        if order.name in lists or order.name.removesuffix(PREVIOUS) in lists:
            raise InvalidQueryError(f"'order_by' names '{order.name}', a list of values", "order by a number")
        if order.name not in names:
            raise InvalidQueryError(
                f"'order_by' names '{order.name}', which is not in the answer", nearest(order.name, names)
            )


def _check_axis(query: Query) -> None:
    """Refuse metrics over time where the question has no steps, and steps beside those of a retention."""
    over_time = next((d for d in query.derived if d.type in OVER_TIME), None)
    if over_time is not None and query.granularity.unit is Unit.ALL:
        raise InvalidQueryError(
            f"metric '{over_time.name}' is a {over_time.type} over time, and the query has no steps",
            "give a 'granularity' such as hour",
        )
    retention = journey_type(query) is QueryMetricType.RETENTION
    if retention and query.granularity.unit is not Unit.ALL:
        raise InvalidQueryError("a retention has its steps in 'period'", "leave 'granularity' out")
    check_compare(query.compare, retention)


def _only_known_keys(document: Mapping[str, Any]) -> None:
    for key in document:
        if key not in _KEYS:
            raise InvalidQueryError(f"unknown key {shown(key)} in the query", nearest(str(key), _KEYS))
    if "metrics" in document and "select" in document:
        raise InvalidQueryError("the query has both 'metrics' and 'select'", "ask for one of them")
    others = _METRIC_KEYS if "select" in document else _SELECT_KEYS
    for key in others:
        if document.get(key) is not None:
            needed = "metrics" if key in _METRIC_KEYS else "select"
            raise InvalidQueryError(
                f"'{key}' has a meaning only with '{needed}'", f"leave it out or ask for '{needed}'"
            )


def _required_text(document: Mapping[str, Any], key: str) -> str:
    text = optional_text(document, key)
    if text is None:
        raise InvalidQueryError(f"the query has no '{key}'", f"add '{key}'")
    return text


def _parse_table(value: object) -> str:
    if value is None:
        return "events"
    if not isinstance(value, str) or value not in TABLES:
        raise InvalidQueryError(f"'table' is {shown(value)}", nearest(str(value), TABLES))
    return value


def _parse_granularity(document: Mapping[str, Any]) -> Granularity:
    value = document.get("granularity")
    return ALL if value is None else parse_granularity(value)


def _parse_whole(document: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = document.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidQueryError(f"'{key}' is {shown(value)}", f"write a whole number from {low:,} to {high:,}")
    if not low <= value <= high:
        raise InvalidQueryError(f"'{key}' is {value}", f"it can be {low:,} to {high:,}")
    return value


def _parse_select(document: Mapping[str, Any]) -> tuple[str, ...]:
    value = document.get("select")
    if value is None:
        return ()
    names = _texts(value, "select", SELECT_MAX)
    if not names:
        raise InvalidQueryError("'select' is empty", 'write ["*"] for all fields')
    for name in names:
        if name != "*":
            parse_path(name)
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InvalidQueryError(f"'select' names '{twice}' twice", "name each field once")
    return names


def _parse_group_by(document: Mapping[str, Any]) -> tuple[str, ...]:
    value = document.get("group_by")
    if value is None:
        return ()
    names = _texts(value, "group_by", GROUP_BY_MAX)
    for name in names:
        parse_path(name)
    return names


def _texts(value: object, key: str, count_max: int) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        raise InvalidQueryError(f"'{key}' is {shown(value)}", "write a list of field names")
    if len(values) > count_max:
        raise InvalidQueryError(f"'{key}' has {len(values):,} entries", f"at most {count_max:,} are possible")
    for entry in values:
        if not isinstance(entry, str) or not entry:
            raise InvalidQueryError(f"'{key}' contains {shown(entry)}", "write field names as texts")
    return tuple(values)


def _parse_cursor(document: Mapping[str, Any]) -> str | None:
    if document.get("next") is not None and document.get("page") is not None:
        raise InvalidQueryError(
            "the query has both 'next' and 'page'", "pass the 'next' of the answer before as 'next'"
        )
    return optional_text(document, "next") or optional_text(document, "page")


def _parse_order_by(value: object, select: tuple[str, ...]) -> tuple[Order, ...]:
    if value is None:
        return (Order("time", descending=True),) if select else ()
    names = _texts(value, "order_by", ORDER_BY_MAX)
    orders = tuple(Order(n.removeprefix("-"), n.startswith("-")) for n in names)
    for order in orders:
        if not order.name:
            raise InvalidQueryError("'order_by' contains '-'", "write a name behind the sign, as in '-time'")
    if len({o.name for o in orders}) != len(orders):
        raise InvalidQueryError(f"'order_by' {list(names)} names a column twice", "name each once")
    return orders
