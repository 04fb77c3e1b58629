"""Rows as JSON whose columns partly hold JSON text already: the text is put into the row as it is.

A column's text becomes the member of its name; of the column marked "*" (what an event carried beyond its columns) the
members join the row, and never overwrite one of it.
"""

from __future__ import annotations

import re

import orjson
import polars as pl


def spliced_rows(frame: pl.DataFrame, spliced: dict[str, str]) -> bytes:
    """A JSON array of the frame's rows; times are texts already. Works by columns unless names collide."""
    if frame.height == 0:
        return b"[]"
    plain = [c for c in frame.columns if c not in spliced]
    members = [c for c in frame.columns if spliced.get(c) not in (None, "*")]
    merged = next((c for c in frame.columns if spliced.get(c) == "*"), None)
    pieces: list[pl.Expr] = []
    if plain:
        pieces.append(pl.struct(plain).struct.json_encode().str.head(-1).str.tail(-1))
    for name in members:
        prefix = orjson.dumps(name).decode() + ":"
        pieces.append(pl.lit(prefix) + pl.col(name).fill_null("null"))
    shown = frame
    if merged is not None:
        names = [*plain, *members]
        shown = frame.with_columns(_without_collisions(frame.get_column(merged), names).alias("\0members"))
        pieces.append(pl.col("\0members"))
    body = pl.concat_str(pieces, separator=",", ignore_nulls=True)
    rows = shown.select(pl.lit("{") + body + pl.lit("}")).to_series()
    return ("[" + ",".join(rows.to_list()) + "]").encode()


def _without_collisions(texts: pl.Series, names: list[str]) -> pl.Series:
    """The inside of each JSON object, null where there is none, without members that the row has already."""
    inside = texts.str.strip_chars().str.head(-1).str.tail(-1)
    inside = pl.select(pl.when(inside.str.strip_chars() != "").then(inside)).to_series()
    pattern = "|".join(re.escape(orjson.dumps(n).decode()) for n in names)
    # An escaped name would hide from the search, so a text with a backslash is looked at as well.
    suspects = texts.str.contains(pattern + r"|\\").fill_null(value=False) if names else pl.Series([False] * len(texts))
    if not suspects.any():
        return inside
    taken = set(names)
    values = inside.to_list()
    for row in suspects.arg_true().to_list():
        kept = {k: v for k, v in orjson.loads(texts[row]).items() if k not in taken}
        values[row] = orjson.dumps(kept).decode()[1:-1] or None
    return pl.Series(values, dtype=pl.String)
