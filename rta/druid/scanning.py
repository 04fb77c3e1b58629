"""scan: rows as they are, and search: values of dimensions that hold a text."""

from __future__ import annotations

from typing import Any

import orjson
import polars as pl

from rta.druid import reading
from rta.druid.dimensions import DimensionSpec, dimension_column
from rta.druid.engine import aggregated, has_rows, rows_of
from rta.druid.ordering import Ordering, parse_ordering, sort_keys
from rta.druid.periods import stamp
from rta.druid.problems import InvalidInputError, unsupported
from rta.druid.query import NativeQuery
from rta.druid.searching import found
from rta.druid.table import Table
from rta.druid.values import NUMBERS, SKETCHES, Column, Type, as_text
from rta.druid.wire import lists_json, rows_json, shown
from rta.events.schemas import TIME

BATCH_ROWS = 20_480


def scan(query: NativeQuery, table: Table) -> bytes:
    """Rows in the order of time, up to so many a part."""
    doc, rows = query.extra, rows_of(query, table)
    names = reading.texts(doc, "columns", "the query") if doc.get("columns") else _all_columns(query, table)
    result_format = reading.text_or(doc, "resultFormat", "list", "the query")
    if result_format not in ("list", "compactedList"):
        raise unsupported("the resultFormat", result_format, "list and compactedList")
    outputs = [(name, rows.resolve(name)) for name in dict.fromkeys(names)]
    wanted = {f"\0c{i}": column for i, (_, column) in enumerate(outputs)}
    frame = rows.matching.sort(TIME, descending=_descending(doc), maintain_order=True)
    if query.limit.limit is not None or query.limit.offset:
        frame = frame.slice(query.limit.offset, query.limit.limit)
    picked = [_scanned(column).alias(key) for key, column in wanted.items()]
    page = frame.select(TIME, *picked).collect(engine="streaming").select(list(wanted))
    signature = [_signature(name, column, page[key]) for (name, column), key in zip(outputs, wanted, strict=True)]
    step = max(1, min(reading.whole(doc, "batchSize", "the query", BATCH_ROWS), BATCH_ROWS))
    columns = [(name, Column(pl.col(key), c.type)) for (name, c), key in zip(outputs, wanted, strict=True)]
    parts = [_part(shown(p, columns), signature, result_format) for p in page.iter_slices(step) if p.height]
    return b"[" + b",".join(parts) + b"]"


def _all_columns(query: NativeQuery, table: Table) -> tuple[str, ...]:
    return (*table.columns, *(v.name for v in query.virtual))


def _descending(doc: reading.Document) -> bool:
    order = reading.text_or(doc, "order", "none", "the query").lower()
    if order not in ("none", "ascending", "descending"):
        raise InvalidInputError(f"'order' is '{order[:20]}'", "none, ascending or descending")
    by = reading.items(doc, "orderBy", "the query")
    if not by:
        return order == "descending"
    first = reading.document(by[0], "'orderBy'")
    if len(by) > 1 or first.get("columnName") != TIME:
        raise unsupported("'orderBy'", first.get("columnName"), TIME)
    return str(first.get("order", "ascending")).lower() == "descending"


def _scanned(column: Column) -> pl.Expr:
    """Several values stay a list; a sketch is its bytes."""
    if column.items is not None:
        raise unsupported("the column of sketches in a scan", column.type, "aggregate it")
    return column.expr


def _signature(name: str, column: Column, values: pl.Series) -> dict[str, str]:
    """What is nowhere has no type."""
    unknown = column.missing or (column.type is Type.STRING and not column.multi and values.null_count() == len(values))
    return {"name": name} if unknown else {"name": name, "type": column.type.value}


def _part(page: pl.DataFrame, signature: list[dict[str, str]], result_format: str) -> bytes:
    lists = any(isinstance(dtype, pl.List) for dtype in page.dtypes)
    if result_format == "list":
        events = orjson.dumps([_unwrapped(r) for r in page.iter_rows(named=True)]) if lists else rows_json(page)
    else:
        events = orjson.dumps([_unwrapped_list(r) for r in page.iter_rows()]) if lists else lists_json(page)
    columns = orjson.dumps([entry["name"] for entry in signature])
    head = b'{"segmentId":null,"columns":' + columns + b',"events":'
    return head + events + b',"rowSignature":' + orjson.dumps(signature) + b"}"


def _unwrapped(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _one(value) for name, value in row.items()}


def _unwrapped_list(row: tuple[Any, ...]) -> list[Any]:
    return [_one(value) for value in row]


def _one(value: Any) -> Any:
    """A list of one is its value, an empty one null."""
    if not isinstance(value, list):
        return value
    return value if len(value) > 1 else value[0] if value else None


def search(query: NativeQuery, table: Table) -> bytes:
    """Values of the dimensions that hold what is looked for, with how many rows have them."""
    rows, doc = rows_of(query, table), query.extra
    if not has_rows(rows.inside):
        return b"[]"
    specs = query.dimensions or tuple(
        DimensionSpec(name, name) for name, c in table.columns.items() if name != TIME and c.type is Type.STRING
    )
    assert query.search is not None
    hits = []
    for spec in specs:
        column = dimension_column(spec, rows.resolve)
        if column.type in SKETCHES or column.missing:
            continue
        counted = aggregated(rows.matching, [("value", column)], (), rows.resolve)
        text = as_text(Column(pl.col("value"), column.type if column.type in NUMBERS else Type.STRING))
        hits.append(
            counted.filter(found(query.search, text)).select(
                pl.lit(spec.name).alias("dimension"),
                text.alias("value"),
                pl.col("\0matched").cast(pl.Int64).alias("count"),
            )
        )
    start = query.intervals[0][0]
    result = _first(pl.concat(hits), doc, query.limit.limit) if hits else b"[]"
    return b'[{"timestamp":' + orjson.dumps(stamp(start)) + b',"result":' + result + b"}]"


def _first(hits: pl.DataFrame, doc: reading.Document, limit: int | None) -> bytes:
    ordering = parse_ordering(doc.get("sort"), Ordering.LEXICOGRAPHIC)
    keys = [*sort_keys(Column(pl.col("value"), Type.STRING), ordering), pl.col("dimension")]
    return rows_json(hits.sort(keys, maintain_order=True).head(limit or hits.height))
