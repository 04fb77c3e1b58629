"""Functions of the expression language about time."""

from __future__ import annotations

from typing import Any

import polars as pl

from rta.druid.expressions.calls import Arguments, Function
from rta.druid.granularity import Granularity, bucket_starts, checked
from rta.druid.patterns import time_pattern
from rta.druid.periods import (
    as_datetime,
    parse_instant,
    parse_period,
    parse_zone,
    shifted,
    stamps,
    to_local,
    to_utc,
)
from rta.druid.problems import InvalidInputError, unsupported
from rta.druid.values import Column, Type, as_long


def parsed(texts: pl.Expr, zone: str) -> pl.Expr:
    """Instants of ISO 8601 texts; null for what is none."""

    def read(values: pl.Series) -> pl.Series:
        distinct = values.unique().drop_nulls()
        frame = pl.DataFrame(
            {"t": distinct, "i": [_instant(t, zone) for t in distinct]}, schema={"t": pl.String, "i": pl.Int64}
        )
        return values.to_frame("t").join(frame, on="t", how="left", maintain_order="left").get_column("i")

    return texts.map_batches(read, return_dtype=pl.Int64, is_elementwise=True)


def _instant(text: str, zone: str) -> int | None:
    try:
        return parse_instant(text, zone)
    except InvalidInputError:
        return None


def parsed_by(texts: pl.Expr, pattern: str, zone: str) -> pl.Expr:
    """Instants of texts in a Joda pattern; null for what does not match."""
    wanted = time_pattern(pattern, parsing=True)
    if "%z" in wanted or "%:z" in wanted:
        aware = texts.str.to_datetime(wanted.replace("%:z", "%z"), time_unit="ms", time_zone="UTC", strict=False)
        return aware.dt.epoch("ms")
    # chrono refuses times without a date's or an hour's full parts: what is missing is the first there is.
    fill, rest = "", ""
    if "%H" not in wanted and "%I" not in wanted:
        fill, rest = fill + " 00:00", rest + " %H:%M"
    elif "%M" not in wanted:
        fill, rest = fill + " 00", rest + " %M"
    if not any(f in wanted for f in ("%d", "%j", "%V")):
        fill, rest = fill + " 01", rest + " %d"
    if not any(f in wanted for f in ("%m", "%b", "%B", "%j", "%V")):
        fill, rest = fill + " 01", rest + " %m"
    local = (texts + fill).str.to_datetime(wanted + rest, time_unit="ms", strict=False)
    return to_utc(local.dt.epoch("ms"), zone)


def formatted(instants: pl.Expr, pattern: str | None, zone: str) -> pl.Expr:
    if pattern is None:
        return stamps(instants, zone)
    wanted = time_pattern(pattern)
    if "%z" in wanted or "%:z" in wanted:
        return instants.cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(zone).dt.to_string(wanted)
    return as_datetime(to_local(instants, zone)).dt.to_string(wanted)


def granularity_of(period: str, origin: Any, zone: str) -> Granularity:
    if origin == "":
        origin = None
    if isinstance(origin, str):
        origin = parse_instant(origin, zone)
    return checked(Granularity(parse_period(period), zone, origin))


def ceiling(instants: pl.Expr, granularity: Granularity) -> pl.Expr:
    floor = bucket_starts(instants, granularity)
    assert granularity.period is not None
    after = shifted(floor, granularity.period, pl.lit(1, pl.Int64), granularity.zone)
    return pl.when(floor == instants).then(floor).otherwise(after)


def extracted(instants: pl.Expr, unit: str, zone: str) -> pl.Expr:
    """A part of the local time; raises UnsupportedError for parts that are not known."""
    local = to_local(instants, zone)
    date = as_datetime(local)
    year = date.dt.year().cast(pl.Int64)
    parts = {
        "EPOCH": instants // 1000,
        "MICROSECOND": (local.mod(60_000)) * 1000,
        "MILLISECOND": local.mod(60_000),
        "SECOND": date.dt.second(),
        "MINUTE": date.dt.minute(),
        "HOUR": date.dt.hour(),
        "DAY": date.dt.day(),
        "DOW": date.dt.weekday(),
        "ISODOW": date.dt.weekday(),
        "DOY": date.dt.ordinal_day(),
        "WEEK": date.dt.week(),
        "MONTH": date.dt.month(),
        "QUARTER": date.dt.quarter(),
        "YEAR": year,
        "ISOYEAR": date.dt.iso_year(),
        "DECADE": year // 10,
        "CENTURY": (year + 99) // 100,
        "MILLENNIUM": (year + 999) // 1000,
    }
    if unit.upper() not in parts:
        raise unsupported("the part of a time", unit, ", ".join(parts))
    return parts[unit.upper()].cast(pl.Int64)


def _zone(arguments: Arguments, index: int) -> str:
    return parse_zone(arguments.constant_text(index, "UTC"))


def _floor(arguments: Arguments) -> Column:
    granularity = granularity_of(arguments.constant_text(1), arguments.constant(2), _zone(arguments, 3))
    return Column(bucket_starts(arguments.long(0), granularity), Type.LONG)


def _ceil(arguments: Arguments) -> Column:
    granularity = granularity_of(arguments.constant_text(1), arguments.constant(2), _zone(arguments, 3))
    return Column(ceiling(arguments.long(0), granularity), Type.LONG)


def _shift(arguments: Arguments) -> Column:
    period = parse_period(arguments.constant_text(1))
    return Column(shifted(arguments.long(0), period, arguments.long(2), _zone(arguments, 3)), Type.LONG)


def _extract(arguments: Arguments) -> Column:
    return Column(extracted(arguments.long(0), arguments.constant_text(1), _zone(arguments, 2)), Type.LONG)


def _parse(arguments: Arguments) -> Column:
    pattern, zone = arguments.constant(1), _zone(arguments, 2)
    text = arguments.text(0)
    return Column(parsed(text, zone) if pattern is None else parsed_by(text, pattern, zone), Type.LONG)


def _format(arguments: Arguments) -> Column:
    pattern = arguments.constant(1)
    return Column(formatted(arguments.long(0), pattern, _zone(arguments, 2)), Type.STRING)


def _timestamp(arguments: Arguments) -> Column:
    if arguments[0].type is not Type.STRING:
        return Column(as_long(arguments[0]), Type.LONG)
    pattern = arguments.constant(1)
    text = arguments.text(0)
    return Column(parsed(text, "UTC") if pattern is None else parsed_by(text, pattern, "UTC"), Type.LONG)


def _unix_timestamp(arguments: Arguments) -> Column:
    return Column(_timestamp(arguments).expr // 1000, Type.LONG)


FUNCTIONS = {
    "timestamp_floor": Function(2, 4, _floor),
    "timestamp_ceil": Function(2, 4, _ceil),
    "timestamp_shift": Function(3, 4, _shift),
    "timestamp_extract": Function(2, 3, _extract),
    "timestamp_parse": Function(1, 3, _parse),
    "timestamp_format": Function(1, 3, _format),
    "timestamp": Function(1, 2, _timestamp),
    "unix_timestamp": Function(1, 2, _unix_timestamp),
}
