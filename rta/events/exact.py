"""The exact decoder: one event at a time, for those that the fast one does not want to judge.

Slow and plain on purpose. It accepts exactly what the interface promises and says why it refuses the rest; where both
decoders accept an event they agree. Numbers stay text until their column's type is known, so that nothing is rounded.

Types are strict: no string becomes a number or the other way round, also not in a key or an id. A long takes any JSON
number whose value is whole (3, 3.0, 3e2); a double takes any JSON number; null is the same as absent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from rta.events.schemas import TIME, Column, ColumnType, Datasource
from rta.events.verdicts import Reason, Verdict, shown

DEPTH_MAX = 64
TIME_MIN_MS = -62_135_596_800_000
TIME_MAX_MS = 253_402_300_799_999
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?(?:([Zz])|([+-])(\d\d)(?::?(\d\d))?)", re.ASCII
)
_UNIX_DAY = date(1970, 1, 1).toordinal()


class _Number(str):
    """The text of a JSON number."""

    __slots__ = ()


class _RefusedError(Exception):
    """Ends the reading of one event; never leaves this module."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Judge:
    """What is asked of an event besides its grammar. `ids_generated` lets an event without an id pass."""

    datasource: Datasource
    oldest_ms: int
    newest_ms: int
    event_bytes: int
    ids_generated: bool = False


def judge(text: bytes, rules: Judge, index: int) -> list[Any] | Verdict:
    """Read one event.

    Returns:
        The row, in the order of the raw schema and without the identity columns: milliseconds, strings, ints, floats,
        booleans, lists, the rest; or the verdict.
    """
    event: Any = None
    try:
        if len(text) > rules.event_bytes:
            detail = f"the event has {len(text):,} bytes, at most {rules.event_bytes:,} are allowed"
            raise _RefusedError(Reason.TOO_LARGE, detail)
        event = _parse(text)
        if not isinstance(event, dict):
            raise _RefusedError(Reason.WRONG_TYPE, f"an event must be a JSON object, not {_kind(event)}")
        return _row(event, rules)
    except _RefusedError as refusal:
        return Verdict(index, event_id(event, rules.datasource), refusal.reason, refusal.detail)


def event_id(event: Any, datasource: Datasource) -> str | None:
    """The id that a refused event had, as far as it can be read."""
    column = datasource.column(datasource.id) if datasource.id is not None else None
    if column is None:
        return None
    for key in column.path:
        event = event.get(key) if isinstance(event, dict) else None
    return event[:128] if isinstance(event, str) and event else None


def time_refusal(time_ms: int, rules: Judge, written: object) -> tuple[Reason, str] | None:
    """Why an event time is out of the datasource's bounds, or None."""
    name = ".".join(rules.datasource.time_path)
    if time_ms < rules.oldest_ms:
        limit = f"{rules.datasource.too_old_ms or 0:,} ms"
        return Reason.TOO_OLD, f"{name} {shown(written)} is older than '{rules.datasource.name}' takes ({limit})"
    if time_ms > rules.newest_ms:
        limit = f"{rules.datasource.in_the_future_ms:,} ms"
        return Reason.IN_THE_FUTURE, f"{name} {shown(written)} is more than {limit} ahead of the server's clock"
    return None


def _parse(text: bytes) -> Any:
    try:
        written = text.decode()
    except UnicodeDecodeError as error:
        raise _RefusedError(Reason.INVALID_JSON, f"byte {error.start} of the event is not UTF-8") from None
    if text.count(b"{") + text.count(b"[") > DEPTH_MAX:
        _check_depth(written)
    try:
        event = _DECODER.decode(written)
    except json.JSONDecodeError as error:
        near = shown(written[error.pos : error.pos + 24]) if error.pos < len(written) else "its end"
        detail = f"{error.msg} at character {error.pos} of the event, near {near}"
        raise _RefusedError(Reason.INVALID_JSON, detail) from None
    if "\\u" in written:
        _check_surrogates(event)
    return event


def _check_depth(written: str) -> None:
    depth = 0
    for match in _BRACKETS.finditer(written):
        if match[0] in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise _RefusedError(Reason.INVALID_JSON, f"the event is nested deeper than {DEPTH_MAX} levels")
        elif match[0] in "]}":
            depth -= 1


def _check_surrogates(event: Any) -> None:
    try:
        "".join(_written(event)).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise _RefusedError(Reason.INVALID_JSON, f"\\u{code:04x} is half of a surrogate pair") from None


def _refuse_constant(name: str) -> None:
    raise _RefusedError(Reason.INVALID_JSON, f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_Number, parse_int=_Number, parse_constant=_refuse_constant)


def _row(event: dict[str, Any], rules: Judge) -> list[Any]:
    datasource = rules.datasource
    written = _take(event, datasource.time_path)
    if written is None:
        raise _RefusedError(Reason.MISSING_FIELD, f"{'.'.join(datasource.time_path)} is required")
    row: list[Any] = [_time(".".join(datasource.time_path), written)]
    refusal = time_refusal(row[0], rules, written)
    if refusal is not None:
        raise _RefusedError(*refusal)
    for column in datasource.columns:
        value = _take(event, column.path)
        if value is None and column.required and not (rules.ids_generated and column.name == datasource.id):
            raise _RefusedError(Reason.MISSING_FIELD, f"{'.'.join(column.path)} is required")
        row.append(None if value is None else _value(column, value))
    rest = _remaining(event, datasource)
    row.append("".join(_written(rest)) if rest else None)
    return row


def _take(event: dict[str, Any], path: tuple[str, ...]) -> Any:
    """The value at a path."""
    inside: Any = event
    for key in path:
        if not isinstance(inside, dict):
            return None
        inside = inside.get(key)
    return inside


def _remaining(event: dict[str, Any], datasource: Datasource) -> dict[str, Any]:
    """What no column took, in the objects it stood in; nulls and objects that a column emptied are left out."""
    paths = [datasource.time_path, *(c.path for c in datasource.columns)]
    return _without(event, paths)


def _without(inside: dict[str, Any], paths: list[tuple[str, ...]]) -> dict[str, Any]:
    taken = {path[0] for path in paths if len(path) == 1}
    deeper: dict[str, list[tuple[str, ...]]] = {}
    for path in paths:
        if len(path) > 1:
            deeper.setdefault(path[0], []).append(path[1:])
    kept = {}
    for key, value in inside.items():
        if key in taken or value is None:
            continue
        if key in deeper and isinstance(value, dict):
            value = _without(value, deeper[key])
            if not value:
                continue
        kept[key] = value
    return kept


def _value(column: Column, value: Any) -> Any:
    name = ".".join(column.path)
    match column.type:
        case ColumnType.STRING if isinstance(value, str) and not isinstance(value, _Number):
            return _text(column, name, value)
        case ColumnType.LONG if isinstance(value, _Number):
            return _long(name, value)
        case ColumnType.DOUBLE if isinstance(value, _Number):
            return _double(name, value)
        case ColumnType.BOOLEAN if isinstance(value, bool):
            return value
        case ColumnType.TIMESTAMP:
            return _time(name, value)
        case ColumnType.STRINGS if isinstance(value, list):
            for element in value:
                if not isinstance(element, str) or isinstance(element, _Number):
                    raise _wrong_type(name, element, "a string in every element")
            return value
        case ColumnType.JSON:
            return "".join(_written(value))
    raise _wrong_type(name, value, _EXPECTED[column.type])


_EXPECTED = {
    ColumnType.STRING: "a string",
    ColumnType.LONG: "a whole number",
    ColumnType.DOUBLE: "a number",
    ColumnType.BOOLEAN: "true or false",
    ColumnType.TIMESTAMP: "a time",
    ColumnType.STRINGS: "an array of strings",
    ColumnType.JSON: "any value",
}


def _wrong_type(name: str, value: Any, expected: str) -> _RefusedError:
    return _RefusedError(Reason.WRONG_TYPE, f"{name} is {_kind(value)}, expected {expected}")


def _text(column: Column, name: str, value: str) -> str:
    if column.required and not value:
        raise _RefusedError(Reason.MISSING_FIELD, f"{name} is required and must not be empty")
    if column.length_max is not None and len(value) > column.length_max:
        detail = f"{name} {shown(value)} has {len(value):,} characters, at most {column.length_max:,} are allowed"
        raise _RefusedError(Reason.TOO_LARGE, detail)
    return value


def _double(name: str, text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _RefusedError(Reason.WRONG_TYPE, f"{name} {shown(str(text))} is too large for a double")
    return value


def _long(name: str, text: str) -> int:
    whole = _whole(text)
    if whole is None:
        raise _RefusedError(Reason.WRONG_TYPE, f"{name} is {shown(str(text))}, expected a whole number")
    if not -(1 << 63) <= whole < 1 << 63:
        raise _RefusedError(Reason.WRONG_TYPE, f"{name} {shown(str(text))} is beyond the range of a 64-bit integer")
    return whole


def _whole(text: str) -> int | None:
    """The value of a JSON number if it is whole; anything beyond 64 bits when it is larger than that."""
    digits, _, power = text.lower().partition("e")
    significant = digits.lstrip("-").replace(".", "").strip("0")
    if not significant:
        return 0
    if len(power) > 9:
        return None if power.startswith("-") else 1 << 64
    value = Decimal(text)
    if value.adjusted() > 20:
        return 1 << 64
    whole = int(value)
    return whole if whole == value else None


def _time(name: str, value: Any) -> int:
    time = None
    if isinstance(value, _Number):
        time = _whole(value)
    elif isinstance(value, str):
        time = iso_ms(value)
    if time is None or not TIME_MIN_MS <= time <= TIME_MAX_MS:
        what = _kind(value) if time is None else f"{_kind(value)}, out of range"
        expected = "expected ISO 8601 with a zone or whole milliseconds, of the years 1 to 9999"
        raise _RefusedError(Reason.INVALID_TIMESTAMP, f"{name} is {what}, {expected}")
    return time


def iso_ms(text: str) -> int | None:
    """Milliseconds since 1970 of an ISO 8601 time with a zone, or None if it is none."""
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute = (int(match[i]) for i in range(1, 6))
    second = int(match[6] or 0)
    milliseconds = int((match[7] or "0")[:3].ljust(3, "0"))
    offset_hours, offset_minutes = int(match[10] or 0), int(match[11] or 0)
    if hour > 23 or minute > 59 or second > 59 or offset_hours > 23 or offset_minutes > 59:
        return None
    try:
        days = date(year, month, day).toordinal() - _UNIX_DAY
    except ValueError:
        return None
    offset = (offset_hours * 60 + offset_minutes) * (-1 if match[9] == "-" else 1)
    return ((days * 24 + hour) * 60 + minute - offset) * 60_000 + second * 1000 + milliseconds


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case _Number():
            return f"the number {shown(str(value))}"
        case str():
            return f"the string {shown(value)}"
        case list():
            return "an array"
        case _:
            return "an object"


def _written(value: Any) -> Iterator[str]:
    """Parsed JSON as text again; numbers as they came."""
    match value:
        case _Number():
            yield str(value)
        case str():
            yield json.dumps(value, ensure_ascii=False)
        case dict():
            separator = "{"
            for key, member in value.items():
                yield f"{separator}{json.dumps(key, ensure_ascii=False)}:"
                yield from _written(member)
                separator = ","
            yield "}" if value else "{}"
        case list():
            separator = "["
            for element in value:
                yield separator
                yield from _written(element)
                separator = ","
            yield "]" if value else "[]"
        case _:
            yield json.dumps(value)


__all__ = ["DEPTH_MAX", "TIME", "Judge", "event_id", "iso_ms", "judge", "time_refusal"]
