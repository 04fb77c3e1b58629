"""Values behind paths into JSON text, as columns of a frame: four of them per path.

Owns their names; the reading of JSON is `rta.events.paths`'s. Per path there are the text of whatever stands there
(texts as they are, everything else as JSON), the number where it is a number, the truth value where it is one, and the
JSON; all null where nothing or null is.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from rta.query.fields import Field


def text_key(field: Field) -> str:
    return field.key


def number_key(field: Field) -> str:
    return f"{field.key}#number"


def truth_key(field: Field) -> str:
    return f"{field.key}#truth"


def json_key(field: Field) -> str:
    return f"{field.key}#json"


def with_paths(events: pl.LazyFrame, fields: Sequence[Field]) -> pl.LazyFrame:
    """The frame with the four columns of every path beside its own."""
    expressions = []
    for field in fields:
        names = [text_key(field), number_key(field), truth_key(field), json_key(field)]
        dtype = pl.Struct(dict(zip(names, (pl.String, pl.Float64, pl.Boolean, pl.String), strict=True)))

        def read(texts: pl.Series, path: tuple[str, ...] = field.path, names: list[str] = names) -> pl.Series:
            return pl.DataFrame(dict(zip(names, values_at(texts, path), strict=True))).to_struct()

        column = pl.col(field.column).map_batches(read, return_dtype=dtype, is_elementwise=True)
        expressions.append(column.alias(f"{field.key}#values"))
    packed = [f"{f.key}#values" for f in fields]
    return events.with_columns(expressions).unnest(packed)


def values_at(texts: pl.Series, path: tuple[str, ...]) -> tuple[pl.Series, pl.Series, pl.Series, pl.Series]:
    """Text, number, truth value and JSON at a path in each JSON text."""
    from rta.events.paths import Kind, extract

    found = extract(texts.to_arrow(compat_level=pl.CompatLevel.oldest()), path)
    strings, numbers = pl.Series(found.strings), pl.Series(found.numbers)
    kinds = pl.Series(found.kind)
    truths = pl.select(pl.when(kinds == Kind.BOOLEAN).then(strings == "true")).to_series()
    quoted = strings.to_frame("s").select(pl.struct("s").struct.json_encode().str.head(-1).str.slice(len('{"s":')))
    return strings, numbers, truths, strings.zip_with(kinds != Kind.STRING, quoted.to_series())
