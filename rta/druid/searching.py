"""What a search looks for in texts: `contains`, `insensitive_contains`, `fragment`, `regex`, `all`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import polars as pl

from rta.druid import reading
from rta.druid.patterns import regex
from rta.druid.problems import unsupported


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """All of `values` have to be there; of a regex there is one."""

    type: str
    values: tuple[str, ...] = ()
    case_sensitive: bool = False


def parse_search(value: Any) -> SearchSpec:
    """Raises InvalidInputError, UnsupportedError."""
    if value is None:
        return SearchSpec("all")
    doc, what = reading.document(value, "the search query"), "the search query"
    kind = reading.kind(doc, what)
    match kind:
        case "insensitive_contains":
            return SearchSpec("contains", (reading.text(doc, "value", what),))
        case "contains":
            return SearchSpec(kind, (reading.text(doc, "value", what),), reading.flag(doc, "caseSensitive", what))
        case "fragment":
            return SearchSpec("contains", reading.texts(doc, "values", what), reading.flag(doc, "caseSensitive", what))
        case "regex":
            return SearchSpec(kind, (regex(reading.text(doc, "pattern", what)),))
        case "all":
            return SearchSpec("all")
        case _:
            raise unsupported("the search query", kind)


def found(search: SearchSpec, text: pl.Expr) -> pl.Expr:
    """Whether the text has what is looked for; null for null."""
    if search.type == "all":
        return pl.when(text.is_not_null()).then(pl.lit(value=True))
    if search.type == "regex":
        return text.str.contains(search.values[0])
    values = search.values
    if not search.case_sensitive:
        text, values = text.str.to_lowercase(), tuple(v.lower() for v in values)
    hits = [text.str.contains(v, literal=True) for v in values]
    return reduce(lambda a, b: a & b, hits) if hits else pl.when(text.is_not_null()).then(pl.lit(value=True))
