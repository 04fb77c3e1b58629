"""Running a native query over tables: the one entry for whoever has the rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import polars as pl

from rta.druid.groupby import groupby, inner_table
from rta.druid.metadata import data_source_metadata, segment_metadata, time_boundary
from rta.druid.problems import unsupported
from rta.druid.query import DataSource, Inline, Inner, NativeQuery, Tables, Unions
from rta.druid.reads import names_asked
from rta.druid.scanning import scan, search
from rta.druid.table import TIME_COLUMN, Table, inline_table, union_table
from rta.druid.timeseries import timeseries
from rta.druid.topn import topn
from rta.events.schemas import TIME


def run(query: NativeQuery, tables: Mapping[str, Table]) -> bytes:
    """The answer as JSON.

    Args:
        tables: By name; one that the query names and that is not here is empty.

    Raises:
        InvalidInputError, UnsupportedError: parts of the query do not fit the tables.
    """
    table = source_table(query.source, tables, names_asked(query))
    match query.type:
        case "timeseries":
            return timeseries(query, table)
        case "topN":
            return topn(query, table)
        case "groupBy":
            return groupby(query, table)
        case "scan":
            return scan(query, table)
        case "search":
            return search(query, table)
        case "timeBoundary":
            return time_boundary(query, table)
        case "segmentMetadata":
            return segment_metadata(query, table)
        case _:
            return data_source_metadata(table)


def source_table(source: DataSource, tables: Mapping[str, Table], wanted: frozenset[str] | None) -> Table:
    match source:
        case Tables(names):
            return union_table([tables.get(name, NOTHING) for name in names], wanted)
        case Inline(names, types, rows):
            return inline_table(names, types, rows)
        case Unions(parts):
            return union_table([source_table(part, tables, wanted) for part in parts], wanted)
        case Inner(query):
            if query.type != "groupBy":
                raise unsupported("the inner query", query.type, "groupBy")
            return inner_table(query, source_table(query.source, tables, names_asked(query)))
        case _:
            assert_never(source)


NOTHING = Table(pl.LazyFrame(schema={TIME: pl.Int64}), {TIME: TIME_COLUMN})
