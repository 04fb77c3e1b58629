"""Joda's patterns for times, as TIME_FORMAT and TIME_PARSE take them → DuckDB's strftime."""

from __future__ import annotations

import re

from rta.errors import InvalidQueryError
from rta.query.druidsql.kinds import VARCHAR
from rta.query.druidsql.typed import Typed, as_time, offset_ms, quoted, to_local

_TOKEN = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+")
_FIXED = {
    "yyyy": "%Y", "y": "%Y", "YYYY": "%Y", "Y": "%Y", "xxxx": "%G", "x": "%G", "yy": "%y", "YY": "%y",
    "MM": "%m", "M": "%-m", "MMM": "%b", "MMMM": "%B", "dd": "%d", "d": "%-d",
    "DDD": "%j", "D": "%-j", "HH": "%H", "H": "%-H", "hh": "%I", "h": "%-I", "mm": "%M", "m": "%-M",
    "ss": "%S", "s": "%-S", "SSS": "%g", "a": "%p", "E": "%a", "EE": "%a", "EEE": "%a", "EEEE": "%A", "e": "%u",
    "ww": "%V", "w": "%V",
}  # fmt: skip
_OFFSETS = ("Z", "ZZ", "X", "XX", "X" * 3)
_HINT = "use yyyy, MM, dd, HH, mm, ss, SSS, EEE, MMM, a, Z and text in quotes"


def format_time(value: Typed, pattern: str | None, zone: str) -> Typed:
    """The text of a time on the zone's clock; without a pattern ISO 8601 with the offset."""
    value = as_time(value, zone)
    if value.is_null:
        return Typed("CAST(NULL AS VARCHAR)", VARCHAR)
    local = to_local(value, zone)
    parts = [
        f"strftime({local}, {quoted(form)})" if not offset else _offset(value, local, zone, offset)
        for form, offset in _parts("yyyy-MM-dd'T'HH:mm:ss.SSSZZ" if pattern is None else pattern)
    ]
    return Typed(f"({' || '.join(parts)})" if len(parts) > 1 else parts[0], VARCHAR)


def parse_pattern(pattern: str) -> tuple[str, bool]:
    """The form for strptime, and whether the text has an offset in it."""
    parts = _parts(pattern)
    form = "".join("%z" if offset else form for form, offset in parts)
    return form, any(offset for _, offset in parts)


def _parts(pattern: str) -> list[tuple[str, str]]:
    """Forms for strftime, and between them the letters of offsets."""
    parts: list[tuple[str, str]] = []
    at = 0
    while at < len(pattern):
        match = _TOKEN.match(pattern, at)
        if match is None:
            raise InvalidQueryError(f"the pattern '{pattern[:64]}' has a quote that never ends", _HINT)
        at = match.end()
        token = match[0]
        if token in _OFFSETS:
            parts.append(("", token))
            continue
        form = _form(token, match[1], pattern)
        if parts and not parts[-1][1]:
            parts[-1] = (parts[-1][0] + form, "")
        else:
            parts.append((form, ""))
    return parts or [("", "")]


def _form(token: str, text: str | None, pattern: str) -> str:
    if text is not None:
        return (text.replace("''", "'") or "'").replace("%", "%%")
    if not token[0].isalpha():
        return token.replace("%", "%%")
    if token not in _FIXED:
        raise InvalidQueryError(f"'{token[:16]}' in the pattern '{pattern[:64]}' is not supported", _HINT)
    return _FIXED[token]


def _offset(value: Typed, local: str, zone: str, letters: str) -> str:
    """`+0530` for Z, `+05:30` for ZZ."""
    colon = "" if letters in ("Z", "X", "XX") else ":"
    fixed = offset_ms(zone)
    if fixed is not None:
        minutes = abs(fixed) // 60_000
        return quoted(f"{'-' if fixed < 0 else '+'}{minutes // 60:02d}{colon}{minutes % 60:02d}")
    minutes_sql = f"((epoch_ms({local}) - epoch_ms({value.sql})) // 60000)"
    return (
        f"printf('%s%02d{colon}%02d', CASE WHEN {minutes_sql} < 0 THEN '-' ELSE '+' END, "
        f"abs({minutes_sql}) // 60, abs({minutes_sql}) % 60)"
    )
