"""A question in SQL as `POST /v1/sql` takes it: the statement, its parameters and their types."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from rta.errors import InvalidQueryError
from rta.query.parse import STALENESS_MS_MAX, nearest

PARAMETERS_MAX = 10_000
_KEYS = ("query", "parameters", "limit", "max_staleness_ms", "after")


@dataclass(frozen=True, slots=True)
class SqlQuestion:
    """`limit` is None where the answer may have as many rows as the settings allow."""

    query: str
    parameters: tuple[Any, ...] = ()
    limit: int | None = None
    max_staleness_ms: int = 10
    after: str | None = None


def parse_sql_document(document: Mapping[str, Any], *, limit_max: int) -> SqlQuestion:
    """Read a question. Raises InvalidQueryError for an unknown key, a wrong type or value."""
    for key in document:
        if key not in _KEYS:
            raise InvalidQueryError(f"unknown key '{str(key)[:40]}' in the SQL query", nearest(str(key), _KEYS))
    query = document.get("query")
    if not isinstance(query, str):
        raise InvalidQueryError(f"'query' is {_shown(query)}", 'write {"query": "SELECT …", "parameters": […]}')
    parameters = document.get("parameters")
    if parameters is not None and not isinstance(parameters, list | tuple):
        raise InvalidQueryError(f"'parameters' is {_shown(parameters)}", "write a list, in the order of $1, $2 or of ?")
    values = tuple(parameters or ())
    if len(values) > PARAMETERS_MAX:
        raise InvalidQueryError(f"'parameters' has {len(values):,} entries", f"at most {PARAMETERS_MAX:,} are possible")
    after = document.get("after")
    if after is not None and (not isinstance(after, str) or not after):
        raise InvalidQueryError(f"'after' is {_shown(after)}", "pass the 'position' of an acknowledgement")
    return SqlQuestion(
        query,
        tuple(parameter(value, f"parameter {number}") for number, value in enumerate(values, 1)),
        _whole(document, "limit", 1, limit_max),
        _whole(document, "max_staleness_ms", 0, STALENESS_MS_MAX)
        if document.get("max_staleness_ms") is not None
        else 10,
        after,
    )


def parameter(value: object, where: str) -> Any:
    """A parameter's value: JSON's own, or `{"type": …, "value": …}`. Raises InvalidQueryError."""
    if isinstance(value, Mapping):
        if set(value) != {"type", "value"} or not isinstance(value["type"], str):
            raise InvalidQueryError(f"{where} is {_shown(value)}", 'write {"type": "TIMESTAMP", "value": "…"}')
        kind = value["type"].upper()
        if kind not in _TYPES:
            raise InvalidQueryError(f"{where} has the type '{value['type'][:40]}'", nearest(kind, tuple(_TYPES)))
        if value["value"] is None:
            return None
        try:
            return _TYPES[kind](value["value"])
        except (ValueError, TypeError, InvalidOperation, OverflowError) as error:
            raise InvalidQueryError(
                f"{where} is {_shown(value['value'])}, which is no {kind}", str(error)[:100]
            ) from error
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        raise InvalidQueryError(f"{where} is {value}", "whole numbers have at most 64 bits; write larger ones as texts")
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise InvalidQueryError(
        f"{where} is {_shown(value)}", 'write a text, a number, true, false, null or {"type", "value"}'
    )


def _whole(document: Mapping[str, Any], key: str, low: int, high: int) -> Any:
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidQueryError(f"'{key}' is {_shown(value)}", f"write a whole number from {low:,} to {high:,}")
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value)


def _integer(value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError("it is no whole number")
    found = int(value)
    if not -(2**63) <= found < 2**63:
        raise ValueError("it has more than 64 bits")
    return found


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("it is no number")
    return float(value)


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError("it is neither true nor false")


def _time(value: object) -> datetime:
    """Milliseconds since 1970, or ISO 8601, in UTC where no zone is named."""
    if isinstance(value, int) and not isinstance(value, bool):
        return datetime.fromtimestamp(value / 1000, UTC)
    found = datetime.fromisoformat(_text(value))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _date(value: object) -> date:
    return date.fromisoformat(_text(value)[:10])


_TYPES: dict[str, Callable[[object], Any]] = {
    **dict.fromkeys(("VARCHAR", "CHAR", "TEXT", "STRING", "JSON"), _text),
    **dict.fromkeys(("BIGINT", "INTEGER", "INT", "SMALLINT", "TINYINT", "LONG"), _integer),
    **dict.fromkeys(("DOUBLE", "FLOAT", "REAL"), _number),
    **dict.fromkeys(("BOOLEAN", "BOOL"), _truth),
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMPTZ", "DATETIME"), _time),
    "DATE": _date,
    "DECIMAL": lambda value: Decimal(_text(value)),
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
