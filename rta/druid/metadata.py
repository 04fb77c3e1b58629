"""timeBoundary, segmentMetadata and dataSourceMetadata: what data there is."""

from __future__ import annotations

from typing import Any

import orjson
import polars as pl

from rta.druid import reading
from rta.druid.engine import rows_of
from rta.druid.periods import ETERNITY, stamp
from rta.druid.problems import InvalidInputError
from rta.druid.query import NativeQuery, Tables
from rta.druid.table import Table
from rta.druid.values import Column, Type
from rta.events.schemas import TIME

_ANALYSES = ("cardinality", "interval", "minmax")
_WITH_VALUES = (Type.STRING, Type.LONG, Type.DOUBLE, Type.FLOAT)


def time_boundary(query: NativeQuery, table: Table) -> bytes:
    """First and last time of the rows."""
    if query.filter is None and query.intervals == (ETERNITY,):
        bounds = table.known_bounds()
    else:
        time = pl.col(TIME)
        low, high = rows_of(query, table).matching.select(time.min().alias("a"), time.max().alias("b")).collect().row(0)
        bounds = None if low is None else (low, high)
    if bounds is None:
        return b"[]"
    result = {"minTime": stamp(bounds[0]), "maxTime": stamp(bounds[1])}
    bound = query.extra.get("bound")
    if bound:
        if bound not in result:
            raise InvalidInputError(f"'bound' is '{bound}'", "minTime or maxTime")
        result = {str(bound): result[str(bound)]}
    at = result.get("minTime") or result["maxTime"]
    return orjson.dumps([{"timestamp": at, "result": result}])


def data_source_metadata(table: Table) -> bytes:
    bounds = table.known_bounds()
    if bounds is None:
        return b"[]"
    last = stamp(bounds[1])
    return orjson.dumps([{"timestamp": last, "result": {"maxIngestedEventTime": last}}])


def segment_metadata(query: NativeQuery, table: Table) -> bytes:
    """The columns, with what the analyses ask for; one segment stands for all."""
    doc = query.extra
    bounds = table.known_bounds()
    if bounds is None:
        return b"[]"
    listed = doc.get("analysisTypes")
    analyses = _ANALYSES if listed is None else tuple(str(a).lower() for a in listed)
    names = _included(doc, table)
    rows = rows_of(query, table).matching
    found = _analysed(rows, {n: table.columns[n] for n in names}, analyses)
    count = int(found.get_column("\0rows").item())
    if not count:
        return b"[]"
    merge = reading.flag(doc, "merge", "the query")
    name = query.source.names[0] if isinstance(query.source, Tables) else "inline"
    interval = f"{stamp(bounds[0])}/{stamp(bounds[1] + 1)}"
    entry = {
        "id": "merged" if merge else f"{name}_{interval.replace('/', '_')}_v1",
        "intervals": [interval] if "interval" in analyses else None,
        "columns": {n: _column(n, table.columns[n], found, analyses) for n in names},
        "size": 0,
        "numRows": count,
        "aggregators": _aggregators(table) if "aggregators" in analyses else None,
        "projections": {} if "projections" in analyses else None,
        "timestampSpec": _timestamp_spec() if "timestampspec" in analyses else None,
        "queryGranularity": _granularity(table) if "querygranularity" in analyses else None,
        "rollup": (table.rollup is not None) if "rollup" in analyses else None,
    }
    return orjson.dumps([entry])


def _included(doc: reading.Document, table: Table) -> list[str]:
    include = doc.get("toInclude")
    kind = include.get("type") if isinstance(include, dict) else None
    if kind == "none":
        return []
    if kind == "list":
        assert isinstance(include, dict)
        wanted = set(reading.texts(include, "columns", "'toInclude'"))
        return [n for n in table.columns if n in wanted]
    return list(table.columns)


def _analysed(rows: pl.LazyFrame, columns: dict[str, Column], analyses: tuple[str, ...]) -> pl.DataFrame:
    wanted = [pl.len().alias("\0rows")]
    for name, column in columns.items():
        wanted.append(column.expr.is_null().any().alias(f"{name}\0nulls"))
        if column.type not in _WITH_VALUES:
            continue
        value = column.expr.explode() if column.multi else column.expr
        if column.multi:
            wanted.append((column.expr.list.len() > 1).any().alias(f"{name}\0several"))
        if "cardinality" in analyses and column.type is Type.STRING:
            wanted.append(value.n_unique().alias(f"{name}\0cardinality"))
        if "minmax" in analyses:
            wanted += [value.min().alias(f"{name}\0min"), value.max().alias(f"{name}\0max")]
    return rows.select(wanted).collect(engine="streaming")


def _column(name: str, column: Column, found: pl.DataFrame, analyses: tuple[str, ...]) -> dict[str, Any]:
    def value(what: str) -> Any:
        key = f"{name}\0{what}"
        return found.get_column(key).item() if key in found.columns else None

    signature = column.type.value
    bare = signature.removeprefix("COMPLEX<").removesuffix(">") if signature.startswith("COMPLEX") else signature
    return {
        "typeSignature": signature,
        "type": bare,
        "hasMultipleValues": bool(value("several")),
        "hasNulls": bool(value("nulls")),
        "size": 0,
        "cardinality": value("cardinality"),
        "minValue": value("min"),
        "maxValue": value("max"),
        "errorMessage": None,
    }


def _aggregators(table: Table) -> dict[str, Any]:
    """How a rollup's metrics are put together again."""
    if table.rollup is None:
        return {}
    out: dict[str, Any] = {}
    kinds = {"count": "longSum", "unique_count": "HLLSketchMerge", "quantile": "quantilesDoublesSketch"}
    for metric in table.rollup.metrics:
        column = table.columns.get(metric.name)
        if column is None:
            continue
        number = "long" if column.type is Type.LONG else "double"
        kind = kinds.get(metric.type.value) or f"{number}{metric.type.value.capitalize()}"
        out[metric.name] = {"type": kind, "name": metric.name, "fieldName": metric.name}
    return out


def _timestamp_spec() -> dict[str, Any]:
    return {"column": TIME, "format": "millis", "missingValue": None}


def _granularity(table: Table) -> Any:
    """Rows of a rollup have the start of their bucket for a time."""
    if table.rollup is None:
        return {"type": "none"}
    period = {"minute": "PT1M", "hour": "PT1H", "day": "P1D"}[table.rollup.granularity.value]
    return {"type": "period", "period": period, "timeZone": "UTC", "origin": None}
