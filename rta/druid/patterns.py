"""Patterns of texts and times as Druid's clients write them (Java), translated to what polars understands (Rust, chrono)."""

from __future__ import annotations

import re
from functools import lru_cache

import polars as pl

from rta.druid.problems import InvalidInputError, unsupported

_LETTERS = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+", re.DOTALL)
_JAVA_GROUP = re.compile(r"\\(.)|\$(\d+)|\$\{(\w+)\}")


@lru_cache(maxsize=512)
def regex(pattern: str) -> str:
    """The pattern, if Rust's regular expressions know all that it uses. Raises InvalidInputError, UnsupportedError."""
    pattern = pattern.replace("(?<", "(?P<") if re.search(r"\(\?<[A-Za-z]", pattern) else pattern
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError as error:
        detail = str(error).strip().splitlines()[-1]
        if "look-around" in str(error) or "backreferences" in str(error):
            raise unsupported("the regular expression", pattern, detail) from error
        raise InvalidInputError(f"the regular expression '{pattern[:100]}' is malformed: {detail}") from error
    return pattern


def replacement(text: str) -> str:
    """Java's `$1` and `\\$` in a replacement."""

    def rewrite(match: re.Match[str]) -> str:
        if match[1]:
            return "$$" if match[1] == "$" else match[1]
        return f"${{{match[2] or match[3]}}}"

    return _JAVA_GROUP.sub(rewrite, text)


@lru_cache(maxsize=512)
def like(pattern: str, escape: str | None) -> str:
    """A LIKE pattern as a regular expression; without an escape character there is none."""
    if escape is not None and len(escape) > 1:
        raise InvalidInputError(f"the escape of a like pattern is '{escape[:20]}'", "write one character")
    out = []
    escaped = False
    for letter in pattern:
        if escaped:
            out.append(re.escape(letter))
            escaped = False
        elif escape and letter == escape:
            escaped = True
        else:
            out.append({"%": ".*", "_": "."}.get(letter) or _literal(letter))
    return f"(?s)^{''.join(out)}$"


def _literal(letter: str) -> str:
    return re.escape(letter)


@lru_cache(maxsize=512)
def time_pattern(joda: str, parsing: bool = False) -> str:
    """A Joda time pattern in chrono's notation. Raises UnsupportedError for letters that have no equal."""
    out = []
    for match in _LETTERS.finditer(joda):
        text = match[0]
        if text.startswith("'"):
            out.append((match[1].replace("''", "'") or "'").replace("%", "%%"))
        elif match[2]:
            out.append(_field(match[2], len(text), joda, parsing))
        else:
            out.append(text.replace("%", "%%"))
    return "".join(out)


def _field(letter: str, count: int, joda: str, parsing: bool) -> str:
    two = count >= 2 or parsing
    match letter:
        case "y" | "Y":
            return "%y" if count == 2 else "%Y"
        case "x":
            return "%g" if count == 2 else "%G"
        case "M":
            return "%B" if count > 3 else "%b" if count == 3 else "%m" if two else "%-m"
        case "E":
            return "%A" if count > 3 else "%a"
        case "S":
            if count in (3, 6, 9):
                return f"%{count}f"
        case "Z":
            return "%z" if count == 1 else "%:z"
        case "D":
            return "%j" if count >= 3 or parsing else "%-j"
        case "e":
            return "%u"
        case "a":
            return "%p"
        case "d" | "H" | "h" | "m" | "s" | "w":
            name = {"d": "d", "H": "H", "h": "I", "m": "M", "s": "S", "w": "V"}[letter]
            return f"%{name}" if two else f"%-{name}"
    raise unsupported("the time pattern", joda, f"'{letter * count}' in it has no equal here")
