"""From a JSON document to a `Query`. Validates everything that can be known without the datasource.

Owns the limits on a question's size and the texts of its refusals; each names the value and the remedy. The parts have
rooms of their own: conditions in `rta.query.conditions`, times in `rta.query.periods`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from rta.errors import InvalidQueryError
from rta.query.conditions import parse_where
from rta.query.fields import parse_path
from rta.query.model import ALL, Granularity, Metric, Order, Query, QueryMetricType, Unit
from rta.query.periods import parse_granularity, parse_time_range, parse_timezone

METRICS_MAX = 100
GROUP_BY_MAX = 32
SELECT_MAX = 1_000
ORDER_BY_MAX = 32
LIMIT_MAX = 100_000
TOP_MAX = 1_000
NAME_LENGTH_MAX = 256
STALENESS_MS_MAX = 3_600_000
TABLES = ("events", "rejected", "sessions")
_SHARED = ("datasource", "table", "time_range", "timezone", "filters", "where", "order_by", "limit")
_SHARED_LAST = ("max_staleness_ms", "after")
_METRIC_KEYS = ("metrics", "granularity", "group_by")
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
        raise InvalidQueryError(f"a query is a JSON object, not {_shown(document)}", 'write {"datasource": …, …}')
    _only_known_keys(document)
    timezone = parse_timezone(document.get("timezone"))
    select = _parse_select(document)
    return Query(
        datasource=_required_text(document, "datasource"),
        table=_parse_table(document.get("table")),
        time_range=parse_time_range(document.get("time_range")),
        granularity=_parse_granularity(document),
        timezone=timezone,
        metrics=_parse_metrics(document, select),
        where=parse_where(document.get("filters"), document.get("where")),
        group_by=_parse_group_by(document),
        select=select,
        order_by=_parse_order_by(document.get("order_by"), select),
        limit=_parse_whole(document, "limit", limit_max, 1, limit_max),
        cursor=_parse_cursor(document),
        max_staleness_ms=_parse_whole(document, "max_staleness_ms", 10, 0, STALENESS_MS_MAX),
        after=_optional_text(document, "after"),
    )


def check_names(query: Query) -> None:
    """Refuse two columns of an answer with one name, and an order by what is not in the answer."""
    names = ["time"] if query.granularity.unit is not Unit.ALL else []
    names += [*query.group_by, *(m.name for m in query.metrics)]
    seen: set[str] = set()
    for name in names:
        if name in seen or (name == "time" and name != names[0]):
            raise InvalidQueryError(f"two columns of the answer are called '{name}'", "give the metric another 'name'")
        seen.add(name)
    for order in query.order_by:
        if order.name not in seen:
            raise InvalidQueryError(
                f"'order_by' names '{order.name}', which is not in the answer", nearest(order.name, names)
            )


def nearest(name: str, valid: list[str] | tuple[str, ...]) -> str:
    """A hint: the valid name that was probably meant, else all of them."""
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(valid[:50])}"


def _only_known_keys(document: Mapping[str, Any]) -> None:
    for key in document:
        if key not in _KEYS:
            raise InvalidQueryError(f"unknown key {_shown(key)} in the query", nearest(str(key), _KEYS))
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
    text = _optional_text(document, key)
    if text is None:
        raise InvalidQueryError(f"the query has no '{key}'", f"add '{key}'")
    return text


def _optional_text(document: Mapping[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise InvalidQueryError(f"'{key}' is {_shown(value)}", "write a text")
    return value


def _parse_table(value: object) -> str:
    if value is None:
        return "events"
    if not isinstance(value, str) or value not in TABLES:
        raise InvalidQueryError(f"'table' is {_shown(value)}", nearest(str(value), TABLES))
    return value


def _parse_granularity(document: Mapping[str, Any]) -> Granularity:
    value = document.get("granularity")
    return ALL if value is None else parse_granularity(value)


def _parse_whole(document: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = document.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidQueryError(f"'{key}' is {_shown(value)}", f"write a whole number from {low:,} to {high:,}")
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
        raise InvalidQueryError(f"'{key}' is {_shown(value)}", "write a list of field names")
    if len(values) > count_max:
        raise InvalidQueryError(f"'{key}' has {len(values):,} entries", f"at most {count_max:,} are possible")
    for entry in values:
        if not isinstance(entry, str) or not entry:
            raise InvalidQueryError(f"'{key}' contains {_shown(entry)}", "write field names as texts")
    return tuple(values)


def _parse_cursor(document: Mapping[str, Any]) -> str | None:
    if document.get("next") is not None and document.get("page") is not None:
        raise InvalidQueryError(
            "the query has both 'next' and 'page'", "pass the 'next' of the answer before as 'next'"
        )
    return _optional_text(document, "next") or _optional_text(document, "page")


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


def _parse_metrics(document: Mapping[str, Any], select: tuple[str, ...]) -> tuple[Metric, ...]:
    if select:
        return ()
    value = document.get("metrics")
    if value is None or value == []:
        raise InvalidQueryError("the query asks for nothing", "add 'metrics', or 'select' for raw rows")
    if not isinstance(value, list | tuple):
        raise InvalidQueryError(f"'metrics' is {_shown(value)}", "write a list of objects")
    if len(value) > METRICS_MAX:
        raise InvalidQueryError(f"'metrics' has {len(value):,} entries", f"at most {METRICS_MAX} are possible")
    metrics = tuple(_parse_metric(entry, index) for index, entry in enumerate(value))
    seen: set[str] = set()
    for metric in metrics:
        if metric.name in seen:
            raise InvalidQueryError(f"two metrics are called '{metric.name}'", "give each metric its own 'name'")
        seen.add(metric.name)
    return metrics


_METRIC_FIELDS = ("name", "type", "field", "q", "percentile", "k", "exact")
_METRIC_TYPES = (*(t.value for t in QueryMetricType), "percentile")


def _parse_metric(entry: object, index: int) -> Metric:
    where = f"metric {index + 1}"
    if not isinstance(entry, Mapping):
        raise InvalidQueryError(f"{where} is {_shown(entry)}", 'write {"name": …, "type": …, "field": …}')
    for key in entry:
        if key not in _METRIC_FIELDS:
            raise InvalidQueryError(f"{where} has the unknown key {_shown(key)}", nearest(str(key), _METRIC_FIELDS))
    text = entry.get("type")
    if not isinstance(text, str) or text not in _METRIC_TYPES:
        raise InvalidQueryError(f"{where} has the type {_shown(text)}", nearest(str(text), _METRIC_TYPES))
    kind = QueryMetricType.QUANTILE if text == "percentile" else QueryMetricType(text)
    field = _optional_text(entry, "field")
    name = _optional_text(entry, "name") or (f"{text}_{field}" if field else text)
    if len(name) > NAME_LENGTH_MAX:
        raise InvalidQueryError(f"the name of {where} has {len(name)} characters", f"use at most {NAME_LENGTH_MAX}")
    where = f"metric '{name}'"
    if field is None and kind is not QueryMetricType.COUNT:
        raise InvalidQueryError(f"{where} of type '{text}' has no 'field'", "name the field to take it of")
    if field is not None:
        parse_path(field)
    _refuse_foreign_keys(entry, kind, where)
    return Metric(
        name, kind, field, _parse_rank(entry, text, where), _parse_k(entry, where), _parse_exact(entry, where)
    )


def _refuse_foreign_keys(entry: Mapping[str, Any], kind: QueryMetricType, where: str) -> None:
    owners: dict[str, tuple[QueryMetricType, ...]] = {
        "q": (QueryMetricType.QUANTILE,),
        "percentile": (QueryMetricType.QUANTILE,),
        "k": (QueryMetricType.TOP,),
    }
    for key, kinds in owners.items():
        if entry.get(key) is not None and kind not in kinds:
            raise InvalidQueryError(
                f"{where} has '{key}', but its type is '{kind}'", f"'{key}' belongs to '{kinds[0]}'"
            )


def _parse_rank(entry: Mapping[str, Any], text: str, where: str) -> float:
    if entry.get("q") is not None and entry.get("percentile") is not None:
        raise InvalidQueryError(f"{where} has both 'q' and 'percentile'", "give one of them")
    key, high = ("percentile", 100) if entry.get("percentile") is not None else ("q", 1)
    value = entry.get(key)
    if value is None:
        if text == "percentile":
            raise InvalidQueryError(f"{where} has no 'percentile'", "add it, 0 to 100")
        if text == "quantile":
            raise InvalidQueryError(f"{where} has no 'q'", "add it, 0 to 1: 0.95 for the 95th percentile")
        return 0.5
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
        raise InvalidQueryError(f"{where} has '{key}' {_shown(value)}", f"it can be 0 to {high}")
    return value / high


def _parse_k(entry: Mapping[str, Any], where: str) -> int:
    value = entry.get("k")
    if value is None:
        return 10
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= TOP_MAX:
        raise InvalidQueryError(f"{where} has 'k' {_shown(value)}", f"it can be 1 to {TOP_MAX:,}")
    return value


def _parse_exact(entry: Mapping[str, Any], where: str) -> bool:
    value = entry.get("exact", False)
    if not isinstance(value, bool):
        raise InvalidQueryError(f"{where} has 'exact' {_shown(value)}", "it is true or false")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
