"""Extraction functions: texts into other texts, before they are grouped or compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from rta.druid import reading
from rta.druid.expressions.times import formatted, parsed, parsed_by
from rta.druid.granularity import Granularity, bucket_starts, parse_granularity
from rta.druid.patterns import regex
from rta.druid.periods import parse_zone
from rta.druid.problems import InvalidInputError, unsupported
from rta.druid.searching import SearchSpec, found, parse_search
from rta.druid.values import Column, Type, as_long, as_text


@dataclass(frozen=True, slots=True)
class Extraction:
    """A function by its type, with its other members as read.

    Args:
        text: Pattern, format, or what replaces a missing value, by type.
        parts: Of a cascade.
        mapping: Of a lookup.
    """

    type: str
    pattern: str | None = None
    zone: str = "UTC"
    index: int = 0
    length: int = -1
    size: float = 1.0
    offset: float = 0.0
    retain: bool = False
    flag: bool = False
    replacement: str | None = None
    granularity: Granularity | None = None
    search: SearchSpec | None = None
    mapping: tuple[tuple[str, str | None], ...] = ()
    parts: tuple[Extraction, ...] = ()


def parse_extraction(value: Any) -> Extraction | None:
    """Raises InvalidInputError, UnsupportedError."""
    if value is None:
        return None
    doc = reading.document(value, "the extractionFn")
    kind, what = reading.kind(doc, "the extractionFn"), "the extractionFn"
    match kind:
        case "regex":
            return Extraction(
                kind,
                regex(reading.text(doc, "expr", what)),
                index=reading.whole(doc, "index", what, 1),
                retain=not reading.flag(doc, "replaceMissingValue", what),
                replacement=reading.scalar_text(doc.get("replaceMissingValueWith"), what),
            )
        case "partial":
            return Extraction(kind, regex(reading.text(doc, "expr", what)))
        case "searchQuery":
            return Extraction(kind, search=parse_search(doc.get("query")))
        case "substring":
            index = reading.whole(doc, "index", what)
            return Extraction(kind, index=index, length=reading.whole(doc, "length", what, -1))
        case "timeFormat":
            return _time_format(doc)
        case "time":
            pattern, result = reading.text(doc, "timeFormat", what), reading.text(doc, "resultFormat", what)
            return Extraction(kind, pattern, replacement=result)
        case "lookup":
            return _lookup(doc)
        case "cascade":
            parts = [parse_extraction(part) for part in reading.items(doc, "extractionFns", what)]
            return Extraction(kind, parts=tuple(p for p in parts if p is not None))
        case "stringFormat":
            handling = reading.text_or(doc, "nullHandling", "nullString", what)
            return Extraction(kind, reading.text(doc, "format", what), replacement=handling.lower())
        case "bucket":
            size, offset = reading.number(doc, "size", what, 1.0), reading.number(doc, "offset", what, 0.0)
            return Extraction(kind, size=size, offset=offset)
        case "upper" | "lower" | "strlen" | "identity":
            return Extraction(kind)
        case _:
            raise unsupported("the extractionFn", kind)


def _time_format(doc: reading.Document) -> Extraction:
    what = "the extractionFn 'timeFormat'"
    granularity = doc.get("granularity")
    locale = reading.text_or(doc, "locale", "en", what)
    if not locale.lower().startswith("en"):
        raise unsupported("the locale", locale, "en")
    return Extraction(
        "timeFormat",
        None if doc.get("format") is None else reading.text(doc, "format", what),
        parse_zone(reading.text_or(doc, "timeZone", "UTC", what)),
        flag=reading.flag(doc, "asMillis", what),
        granularity=None if granularity is None else parse_granularity(granularity),
    )


def _lookup(doc: reading.Document) -> Extraction:
    what = "the extractionFn 'lookup'"
    lookup = reading.document(doc.get("lookup"), "'lookup' of the extractionFn")
    if lookup.get("type") != "map":
        raise unsupported("the lookup", lookup.get("type"), "map")
    entries = reading.document(lookup.get("map"), "'map' of the lookup")
    return Extraction(
        "lookup",
        retain=reading.flag(doc, "retainMissingValue", what),
        replacement=reading.scalar_text(doc.get("replaceMissingValueWith"), what),
        mapping=tuple((str(key), reading.scalar_text(value, what)) for key, value in entries.items()),
    )


def extract(extraction: Extraction, column: Column) -> Column:
    """The column's texts (its numbers' texts) after the function; of several values each."""
    if column.multi:
        one = extract(extraction, Column(pl.element(), Type.STRING))
        return Column(column.expr.list.eval(one.expr), Type.STRING, multi=True)
    if extraction.type == "cascade":
        for part in extraction.parts:
            column = extract(part, column)
        return column
    if extraction.type == "timeFormat":
        return Column(_formatted(extraction, column), Type.STRING)
    return Column(_of_text(extraction, as_text(column)), Type.STRING)


def _formatted(extraction: Extraction, column: Column) -> pl.Expr:
    instants = parsed(column.expr, "UTC") if column.type is Type.STRING else as_long(column)
    if column.type is Type.STRING:
        instants = column.expr.cast(pl.Int64, strict=False).fill_null(instants)
    if extraction.granularity is not None and not extraction.granularity.all:
        instants = bucket_starts(instants, extraction.granularity)
    if extraction.flag:
        return instants.cast(pl.String)
    return formatted(instants, extraction.pattern, extraction.zone)


def _of_text(e: Extraction, text: pl.Expr) -> pl.Expr:
    match e.type:
        case "identity":
            return text
        case "upper":
            return text.str.to_uppercase()
        case "lower":
            return text.str.to_lowercase()
        case "strlen":
            return text.str.len_chars().cast(pl.String)
        case "partial":
            return pl.when(text.str.contains(e.pattern or "")).then(text)
        case "regex":
            missing = text if e.retain else pl.lit(e.replacement, pl.String)
            matches = text.str.contains(e.pattern or "").fill_null(value=False)
            return pl.when(matches).then(text.str.extract(e.pattern or "", e.index)).otherwise(missing)
        case "searchQuery":
            assert e.search is not None
            return pl.when(found(e.search, text)).then(text)
        case "substring":
            return _substring(e, text)
        case "time":
            return formatted(parsed_by(text, e.pattern or "", "UTC"), e.replacement, "UTC")
        case "lookup":
            keys, values = [k for k, _ in e.mapping], [v for _, v in e.mapping]
            default = text if e.retain else pl.lit(e.replacement, pl.String)
            return text.replace_strict(keys, values, default=default, return_dtype=pl.String)
        case "stringFormat":
            return _string_format(e, text)
        case _:
            return _bucket(e, text)


def _substring(e: Extraction, text: pl.Expr) -> pl.Expr:
    """Null for what is too short, unlike the function of expressions."""
    if e.index < 0:
        raise InvalidInputError(f"the extractionFn 'substring' begins at {e.index}", "positions count from 0")
    cut = text.str.slice(e.index, None if e.length < 0 else e.length)
    return pl.when(text.str.len_chars() > e.index).then(cut)


def _string_format(e: Extraction, text: pl.Expr) -> pl.Expr:
    before, mark, after = (e.pattern or "").partition("%s")
    if not mark or "%" in before.replace("%%", "") + after.replace("%%", ""):
        raise unsupported("the stringFormat", e.pattern, "one %s and %%")
    filled = (
        text.fill_null({"nullstring": "null", "emptystring": ""}.get(e.replacement or ""))
        if e.replacement != "returnnull"
        else text
    )
    return pl.concat_str([pl.lit(before.replace("%%", "%")), filled, pl.lit(after.replace("%%", "%"))])


def _bucket(e: Extraction, text: pl.Expr) -> pl.Expr:
    value = text.cast(pl.Float64, strict=False)
    start = ((value - e.offset) / e.size).floor() * e.size + e.offset
    whole = start == start.floor()
    return pl.when(whole).then(start.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(start.cast(pl.String))
