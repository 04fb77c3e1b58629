"""`?` in a query and the values that stand for them: each becomes a literal of the type that the request says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import TokenType

from rta.errors import InvalidQueryError
from rta.query.druidsql.dialect import DruidSql
from rta.query.druidsql.typed import EPOCH, parse_time, quoted

PARAMETERS_MAX = 10_000
_TEXTS = ("VARCHAR", "CHAR", "STRING", "OTHER")
_LONGS = ("BIGINT", "LONG", "INTEGER", "INT", "SMALLINT", "TINYINT")
_DOUBLES = ("DOUBLE", "FLOAT", "REAL", "DECIMAL")


def with_parameters(text: str, parameters: Sequence[Any]) -> str:
    """The query with a literal for each `?`. Raises InvalidQueryError when their numbers differ, or one can't be read."""
    if len(parameters) > PARAMETERS_MAX:
        raise InvalidQueryError(f"{len(parameters):,} parameters were sent", f"send at most {PARAMETERS_MAX:,}")
    if "?" not in text:
        places = []
    else:
        try:
            places = [t.start for t in DruidSql().tokenize(text) if t.token_type is TokenType.PLACEHOLDER]
        except SqlglotError as error:
            raise InvalidQueryError(f"the query can't be read: {str(error).splitlines()[0]}") from error
    if len(places) > len(parameters):
        raise InvalidQueryError(
            f"No value bound for parameter (position {len(parameters) + 1})", "send one for each '?'"
        )
    pieces, at = [], 0
    for number, (place, parameter) in enumerate(zip(places, parameters, strict=False), 1):
        pieces += [text[at:place], _literal(number, parameter)]
        at = place + 1
    return "".join((*pieces, text[at:]))


def _literal(number: int, parameter: Any) -> str:
    if not isinstance(parameter, dict) or "type" not in parameter:
        raise InvalidQueryError(
            f"parameter {number} is {str(parameter)[:64]!r}", 'send {"type": "VARCHAR", "value": …}'
        )
    kind, value = str(parameter["type"]).upper(), parameter.get("value")
    if value is None:
        return "NULL"
    try:
        return _of_type(kind, value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidQueryError(
            f"parameter {number} is {str(value)[:64]!r}, which is no {kind[:32]}", "send a value of the type"
        ) from error


def _of_type(kind: str, value: Any) -> str:
    if kind == "ARRAY":
        return f"ARRAY[{', '.join(_bare(v) for v in value)}]"
    if kind in _LONGS:
        return str(int(value))
    if kind in _DOUBLES:
        return f"{float(value)!r}" if "e" in repr(float(value)) else f"{float(value)!r}e0"
    if kind == "BOOLEAN":
        return "TRUE" if value in (True, 1, "true", "TRUE") else "FALSE"
    if kind in ("TIMESTAMP", "DATE"):
        return f"{kind} {quoted(_time(value))}"
    if kind not in _TEXTS:
        raise InvalidQueryError(
            f"the parameter type '{kind[:32]}' is not supported", "use VARCHAR, BIGINT, DOUBLE or TIMESTAMP"
        )
    return quoted(str(value))


def _time(value: Any) -> str:
    """Milliseconds since 1970, or a text."""
    if isinstance(value, int):
        from datetime import timedelta

        return (EPOCH + timedelta(milliseconds=value)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if parse_time(str(value), "UTC") is None:
        raise ValueError(value)
    return str(value)


def _bare(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return str(value) if isinstance(value, int | float) else quoted(str(value))
