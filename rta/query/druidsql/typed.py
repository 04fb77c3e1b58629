"""An expression of DuckDB with its type, texts written so that no value can become syntax, and Druid's casts.

Every function here is pure text and type; names are resolved in `rta.query.druidsql.scope`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rta.errors import InvalidQueryError
from rta.query.druidsql.kinds import (
    BIGINT,
    BOOLEAN,
    DOUBLE,
    INSTANT,
    NULL,
    STRINGS,
    TIMESTAMP,
    VARCHAR,
    Base,
    Kind,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OFFSET = re.compile(r"([+-])(\d{1,2}):?(\d{2})?")
_ISO_START = re.compile(r"\d{4}(-\d{1,2}(-\d{1,2})?)?")


@dataclass(frozen=True, slots=True)
class Typed:
    """An expression.

    Args:
        sql: DuckDB's text; stands anywhere, is in brackets where it must be.
        ms: Of a timestamp that is known, the milliseconds since 1970 UTC.
        text: Of a string literal, the string.
        number: Of a number literal, the number.
    """

    sql: str
    kind: Kind
    ms: int | None = None
    text: str | None = None
    number: float | int | None = None

    @property
    def is_null(self) -> bool:
        return self.kind.base is Base.NULL


NULL_VALUE = Typed("NULL", NULL)


def quoted(text: str) -> str:
    """A string literal."""
    if "\0" in text:
        raise InvalidQueryError("a string of the query holds the character NUL", "leave it out")
    return "'" + text.replace("'", "''") + "'"


def name(text: str) -> str:
    """A quoted identifier."""
    return '"' + text.replace('"', '""') + '"'


def string(text: str) -> Typed:
    return Typed(quoted(text), VARCHAR, text=text)


def long(value: int) -> Typed:
    sql = str(value) if value >= 0 else f"({value})"
    return Typed(sql, BIGINT, number=value)


def double(value: float) -> Typed:
    if value != value or value in (float("inf"), float("-inf")):
        return Typed(f"CAST('{value}' AS DOUBLE)", DOUBLE, number=value)
    sql = repr(value) if "e" in repr(value) else f"{value!r}e0"
    return Typed(sql if value >= 0 else f"({sql})", DOUBLE, number=value)


def boolean(value: bool) -> Typed:
    return Typed("TRUE" if value else "FALSE", BOOLEAN)


def instant(ms: int, base: Base = Base.TIMESTAMP, *, tz: bool = False) -> Typed:
    """A known timestamp."""
    try:
        text = (EPOCH + timedelta(milliseconds=ms)).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3].rjust(23, "0")
    except OverflowError as error:
        raise InvalidQueryError(f"the time {ms} ms is outside the years 1 to 9999", "use another time") from error
    sql = f"TIMESTAMPTZ '{text}+00'" if tz else f"TIMESTAMP '{text}'"
    return Typed(sql, Kind(base, tz=tz), ms=ms)


def aware(value: Typed) -> Typed:
    """The timestamp as the tables hold it, with a zone."""
    if value.kind.tz or value.is_null:
        return value
    if value.ms is not None:
        return instant(value.ms, value.kind.base, tz=True)
    return Typed(f"timezone('UTC', {value.sql})", Kind(value.kind.base, tz=True))


def naive(value: Typed) -> Typed:
    """The timestamp on the clock of UTC without a zone: what DuckDB computes with fastest."""
    if not value.kind.tz:
        return value
    if value.ms is not None:
        return instant(value.ms, value.kind.base)
    return Typed(f"make_timestamp_ms(epoch_ms({value.sql}))", value.kind.naive)


def zone_name(text: str) -> str:
    """The zone of a name or an offset. Raises InvalidQueryError."""
    return zone_of(text).key if _OFFSET.fullmatch(text) is None else text


@lru_cache(maxsize=1024)
def zone_of(text: str) -> ZoneInfo:
    try:
        return ZoneInfo("UTC" if text in ("Z", "UTC", "GMT") else text)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidQueryError(
            f"no time zone '{text[:64]}'", "use an IANA name such as America/Los_Angeles, or an offset such as -08:00"
        ) from error


def offset_ms(text: str) -> int | None:
    """Of an offset such as -08:00; 0 of UTC; None of a zone whose clock changes."""
    if text in ("UTC", "Etc/UTC", "GMT", "Z"):
        return 0
    match = _OFFSET.fullmatch(text)
    if match is None:
        return None
    sign = -1 if match[1] == "-" else 1
    return sign * (int(match[2]) * 3_600_000 + int(match[3] or 0) * 60_000)


def to_local(value: Typed, zone: str) -> str:
    """The timestamp on the zone's clock, as a plain TIMESTAMP."""
    shift = offset_ms(zone)
    if shift == 0:
        return naive(value).sql
    if shift is not None:
        return f"make_timestamp_ms(epoch_ms({value.sql}) + {shift})"
    return f"timezone({quoted(zone)}, {aware(value).sql})"


def from_local(sql: str, zone: str) -> Typed:
    """The instant at which the zone's clock shows the plain TIMESTAMP."""
    shift = offset_ms(zone)
    if shift == 0:
        return Typed(sql, TIMESTAMP)
    if shift is not None:
        return Typed(f"make_timestamp_ms(epoch_ms({sql}) - {shift})", TIMESTAMP)
    return Typed(f"timezone({quoted(zone)}, {sql})", INSTANT)


def parse_time(text: str, zone: str) -> int | None:
    """Milliseconds of an ISO 8601 text, with `T` or a space; without an offset it is on the zone's clock. None for others."""
    text = text.strip()
    if _ISO_START.fullmatch(text):
        parts = text.split("-")
        text = "-".join((parts[0], *(p.zfill(2) for p in [*parts[1:], "01", "01"][:2])))
    if re.search(r"[T ]\d{1,2}(?=$|Z|[+-])", text):
        text = re.sub(r"([T ]\d{1,2})", r"\1:00", text, count=1)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        shift = offset_ms(zone)
        info = UTC if shift is not None else zone_of(zone)
        moment = moment.replace(tzinfo=info)
        if shift:
            moment -= timedelta(milliseconds=shift)
    return (moment - EPOCH) // timedelta(milliseconds=1)


def local_datetime(ms: int, zone: str) -> datetime:
    """On the zone's clock."""
    moment = EPOCH + timedelta(milliseconds=ms)
    shift = offset_ms(zone)
    return moment + timedelta(milliseconds=shift) if shift is not None else moment.astimezone(zone_of(zone))


def as_text(value: Typed, zone: str) -> Typed:
    if value.kind.base is Base.VARCHAR or value.is_null:
        return value
    if value.kind.is_list:
        return Typed(f"CAST(to_json({value.sql}) AS VARCHAR)", VARCHAR)
    if value.kind.is_time:
        form = "%Y-%m-%d" if value.kind.base is Base.DATE else "%Y-%m-%d %H:%M:%S"
        return Typed(f"strftime({to_local(value, zone)}, '{form}')", VARCHAR)
    if value.kind.base is Base.JSON:
        return Typed(value.sql, VARCHAR)
    return Typed(f"CAST({value.sql} AS VARCHAR)", VARCHAR)


def as_double(value: Typed, zone: str) -> Typed:
    del zone
    match value.kind.base:
        case Base.DOUBLE | Base.NULL:
            return value
        case Base.BIGINT if value.number is not None:
            return double(float(value.number))
        case Base.TIMESTAMP | Base.DATE:
            return Typed(f"CAST(epoch_ms({value.sql}) AS DOUBLE)", DOUBLE)
        case Base.BIGINT | Base.BOOLEAN:
            return Typed(f"CAST({value.sql} AS DOUBLE)", DOUBLE)
    return Typed(f"TRY_CAST({value.sql} AS DOUBLE)", DOUBLE)


def as_long(value: Typed, zone: str) -> Typed:
    del zone
    match value.kind.base:
        case Base.BIGINT | Base.NULL:
            return value
        case Base.DOUBLE:
            return Typed(f"TRY_CAST(trunc({value.sql}) AS BIGINT)", BIGINT)
        case Base.TIMESTAMP | Base.DATE:
            return Typed(f"epoch_ms({value.sql})", BIGINT)
        case Base.BOOLEAN:
            return Typed(f"CAST({value.sql} AS BIGINT)", BIGINT)
    text = value.sql
    whole = f"TRY_CAST({text} AS BIGINT)"
    return Typed(
        f"(CASE WHEN regexp_full_match({text}, '-?\\d+') THEN {whole} "
        f"ELSE TRY_CAST(trunc(TRY_CAST({text} AS DOUBLE)) AS BIGINT) END)",
        BIGINT,
    )


def as_boolean(value: Typed, zone: str) -> Typed:
    del zone
    match value.kind.base:
        case Base.BOOLEAN | Base.NULL:
            return value
        case Base.VARCHAR:
            return Typed(f"(lower({value.sql}) = 'true')", BOOLEAN)
    return Typed(f"({value.sql} <> 0)", BOOLEAN)


def as_time(value: Typed, zone: str) -> Typed:
    match value.kind.base:
        case Base.TIMESTAMP | Base.NULL:
            return value
        case Base.DATE:
            return Typed(value.sql, Kind(Base.TIMESTAMP, tz=value.kind.tz), ms=value.ms)
        case Base.BIGINT if value.number is not None:
            return instant(int(value.number))
        case Base.BIGINT | Base.DOUBLE:
            return Typed(f"make_timestamp_ms(CAST({value.sql} AS BIGINT))", TIMESTAMP)
    if value.text is not None:
        ms = parse_time(value.text, zone)
        return Typed("CAST(NULL AS TIMESTAMP)", TIMESTAMP) if ms is None else instant(ms)
    # A text with an offset of its own is an instant; without one it stands on the zone's clock.
    text = as_text(value, zone).sql
    local = from_local(f"TRY_CAST({text} AS TIMESTAMP)", zone)
    has_offset = f"regexp_matches({text}, '[T ]\\d.*(Z|[+-]\\d\\d:?\\d\\d)$')"
    return Typed(f"(CASE WHEN {has_offset} THEN TRY_CAST({text} AS TIMESTAMPTZ) ELSE {aware(local).sql} END)", INSTANT)


def as_date(value: Typed, zone: str) -> Typed:
    """Midnight on the zone's clock; DuckDB's own dates are not used."""
    if value.kind.base is Base.DATE or value.is_null:
        return value
    moment = as_time(value, zone)
    if moment.ms is not None:
        local = local_datetime(moment.ms, zone)
        ms = parse_time(local.strftime("%Y-%m-%d").rjust(10, "0"), zone)
        return instant(ms if ms is not None else moment.ms, Base.DATE)
    floored = from_local(f"date_trunc('day', {to_local(moment, zone)})", zone)
    return Typed(floored.sql, Kind(Base.DATE, tz=floored.kind.tz))


def as_array(value: Typed, zone: str) -> Typed:
    if value.kind.is_list:
        return Typed(value.sql, value.kind.as_array)
    if value.is_null:
        return Typed("CAST(NULL AS VARCHAR[])", STRINGS)
    del zone
    return Typed(f"(CASE WHEN {value.sql} IS NOT NULL THEN [{value.sql}] END)", value.kind.as_array)


_CASTS: dict[Base, Callable[[Typed, str], Typed]] = {
    Base.VARCHAR: as_text,
    Base.BIGINT: as_long,
    Base.DOUBLE: as_double,
    Base.BOOLEAN: as_boolean,
    Base.TIMESTAMP: as_time,
    Base.DATE: as_date,
}


def cast(value: Typed, kind: Kind, zone: str) -> Typed:
    """As CAST does: what can't be read is null. Raises InvalidQueryError for casts that Druid has not."""
    if value.is_null:
        return NULL_VALUE
    if kind.array:
        array = as_array(value, zone)
        if array.kind.base is kind.base:
            return array
        element = cast(Typed("_e", array.kind.element), kind.element, zone)
        return Typed(f"list_transform({array.sql}, lambda _e: {element.sql})", kind)
    if value.kind.array:
        raise InvalidQueryError(f"an array can't be cast to {kind.base}", "use ARRAY_TO_STRING or ARRAY_TO_MV")
    if value.kind.is_sketch or kind.base not in _CASTS:
        raise InvalidQueryError(f"{value.kind.base} can't be cast to {kind.base}", "use an estimate of the sketch")
    return _CASTS[kind.base](value, zone)
