"""Functions of the expression language about texts. Positions count from 0."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import polars as pl

from rta.druid.expressions.calls import MANY, Arguments, Function
from rta.druid.patterns import like, regex, replacement
from rta.druid.problems import InvalidInputError, unsupported
from rta.druid.values import Column, Type, from_truth

_FORMAT = re.compile(r"%(?:(%)|(n)|(s)|(0\d+)?d)")


def _text(make: Callable[[pl.Expr], pl.Expr], arguments: Arguments) -> Column:
    return Column(make(arguments.text(0)), Type.STRING)


def _concat(arguments: Arguments) -> Column:
    return Column(pl.concat_str([arguments.text(i) for i in range(len(arguments))]), Type.STRING)


def _format(arguments: Arguments) -> Column:
    pattern = arguments.constant_text(0)
    parts: list[pl.Expr] = []
    at, index = 0, 1
    for match in _FORMAT.finditer(pattern):
        parts.append(pl.lit(pattern[at : match.start()]))
        at = match.end()
        if match[1] or match[2]:
            parts.append(pl.lit("%" if match[1] else "\n"))
            continue
        if index >= len(arguments):
            raise InvalidInputError(f"the format '{pattern}' takes more arguments than there are")
        if match[3]:
            parts.append(arguments.text(index).fill_null("null"))
        else:
            digits = arguments.long(index).cast(pl.String)
            parts.append(digits.str.zfill(int(match[4])) if match[4] else digits)
        index += 1
    parts.append(pl.lit(pattern[at:]))
    if "%" in _FORMAT.sub("", pattern):
        raise unsupported("the format", pattern, "%s, %d, %0nd and %%")
    return Column(pl.concat_str(parts), Type.STRING)


def _like(arguments: Arguments) -> Column:
    pattern = like(arguments.constant_text(1), arguments.constant(2))
    return from_truth(arguments.text(0).str.contains(pattern))


def substring(text: pl.Expr, begin: int, length: int) -> pl.Expr:
    """Up to `length` letters from `begin` on; -1 for all."""
    if begin < 0:
        raise InvalidInputError(f"a substring begins at {begin}", "positions count from 0")
    return text.str.slice(begin, None if length < 0 else length)


def _substring(arguments: Arguments) -> Column:
    if arguments[1].constant and (len(arguments) < 3 or arguments[2].constant):
        begin, length = arguments.constant_long(1), arguments.constant_long(2, -1)
        return Column(substring(arguments.text(0), begin, length), Type.STRING)
    length_of = arguments.long(2) if len(arguments) > 2 else pl.lit(-1, pl.Int64)
    length_there = pl.when(length_of < 0).then(pl.lit(1 << 40)).otherwise(length_of)
    return Column(arguments.text(0).str.slice(arguments.long(1), length_there), Type.STRING)


def position(text: pl.Expr, needle: pl.Expr) -> pl.Expr:
    """Where the needle begins, in letters; -1 where it is not there."""
    found = text.str.contains(needle, literal=True)
    prefix = text.cast(pl.Binary).bin.slice(0, text.str.find(needle, literal=True)).cast(pl.String)
    return pl.when(found).then(prefix.str.len_chars().cast(pl.Int64)).when(found.is_not_null()).then(pl.lit(-1))


def _strpos(arguments: Arguments) -> Column:
    begin = arguments.constant_long(2, 0)
    if begin == 0:
        return Column(position(arguments.text(0), arguments.text(1)), Type.LONG)
    found = position(arguments.text(0).str.slice(begin), arguments.text(1))
    return Column(pl.when(found >= 0).then(found + begin).otherwise(found), Type.LONG)


def _left(arguments: Arguments) -> Column:
    return Column(arguments.text(0).str.head(_size(arguments)), Type.STRING)


def _right(arguments: Arguments) -> Column:
    return Column(arguments.text(0).str.tail(_size(arguments)), Type.STRING)


def _size(arguments: Arguments) -> pl.Expr:
    return pl.max_horizontal(arguments.long(1), pl.lit(0, pl.Int64))


def _pad(arguments: Arguments, before: bool) -> Column:
    text, length, letters = arguments.text(0), arguments.constant_long(1), arguments.constant_text(2, " ")
    if not 0 <= length <= 1_000_000:
        raise InvalidInputError(f"'{arguments.name}' to {length} letters", "write 0 to 1,000,000")
    if not letters:
        return Column(text.str.head(length), Type.STRING)
    room = pl.max_horizontal(length - text.str.len_chars().cast(pl.Int64), pl.lit(0, pl.Int64))
    padding = pl.lit((letters * (length // len(letters) + 1))[:length]).str.head(room)
    kept = text.str.head(length)
    return Column(pl.concat_str([padding, kept] if before else [kept, padding]), Type.STRING)


def _trim(arguments: Arguments, strip: Callable[[pl.Expr, str], pl.Expr]) -> Column:
    return Column(strip(arguments.text(0), arguments.constant_text(1, " ")), Type.STRING)


def _repeat(arguments: Arguments) -> Column:
    count = arguments.constant_long(1)
    if count > 10_000:
        raise InvalidInputError(f"'repeat' of {count:,} times", "at most 10,000 are possible")
    text = arguments.text(0)
    return Column(pl.concat_str([text] * count) if count > 0 else pl.lit(None, pl.String), Type.STRING)


def _replace(arguments: Arguments) -> Column:
    return Column(arguments.text(0).str.replace_all(arguments.text(1), arguments.text(2), literal=True), Type.STRING)


def _regexp_replace(arguments: Arguments) -> Column:
    pattern, by = regex(arguments.constant_text(1)), replacement(arguments.constant_text(2))
    return Column(arguments.text(0).str.replace_all(pattern, by), Type.STRING)


def _regexp_extract(arguments: Arguments) -> Column:
    pattern = regex(arguments.constant_text(1))
    return Column(arguments.text(0).str.extract(pattern, arguments.constant_long(2, 0)), Type.STRING)


def _regexp_like(arguments: Arguments) -> Column:
    return from_truth(arguments.text(0).str.contains(regex(arguments.constant_text(1))))


def _contains(arguments: Arguments, ignoring_case: bool) -> Column:
    text, needle = arguments.text(0), arguments.text(1)
    if ignoring_case:
        text, needle = text.str.to_lowercase(), needle.str.to_lowercase()
    return from_truth(text.str.contains(needle, literal=True))


def _length(arguments: Arguments) -> Column:
    return Column(arguments.text(0).str.len_chars().cast(pl.Int64), Type.LONG)


def _parse_long(arguments: Arguments) -> Column:
    base = arguments.constant_long(1, 10)
    text = arguments.text(0)
    if base == 16:
        text = text.str.strip_prefix("0x").str.strip_prefix("0X")
    return Column(text.str.to_integer(base=base, strict=False), Type.LONG)


FUNCTIONS = {
    "concat": Function(1, MANY, _concat),
    "format": Function(1, MANY, _format),
    "like": Function(2, 3, _like),
    "substring": Function(2, 3, _substring),
    "strpos": Function(2, 3, _strpos),
    "left": Function(2, 2, _left),
    "right": Function(2, 2, _right),
    "lpad": Function(2, 3, partial(_pad, before=True)),
    "rpad": Function(2, 3, partial(_pad, before=False)),
    "trim": Function(1, 2, partial(_trim, strip=lambda t, c: t.str.strip_chars(c))),
    "ltrim": Function(1, 2, partial(_trim, strip=lambda t, c: t.str.strip_chars_start(c))),
    "rtrim": Function(1, 2, partial(_trim, strip=lambda t, c: t.str.strip_chars_end(c))),
    "lower": Function(1, 1, partial(_text, lambda t: t.str.to_lowercase())),
    "upper": Function(1, 1, partial(_text, lambda t: t.str.to_uppercase())),
    "reverse": Function(1, 1, partial(_text, lambda t: t.str.reverse())),
    "repeat": Function(2, 2, _repeat),
    "replace": Function(3, 3, _replace),
    "regexp_replace": Function(3, 3, _regexp_replace),
    "regexp_extract": Function(2, 3, _regexp_extract),
    "regexp_like": Function(2, 2, _regexp_like),
    "contains_string": Function(2, 2, partial(_contains, ignoring_case=False)),
    "icontains_string": Function(2, 2, partial(_contains, ignoring_case=True)),
    "strlen": Function(1, 1, _length),
    "parse_long": Function(1, 2, _parse_long),
}
