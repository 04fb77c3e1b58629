"""Native queries as frozen data, read from their JSON. What they mean over tables is `rta.druid.run`'s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rta.druid import reading
from rta.druid.aggregators import Aggregator, parse_aggregator
from rta.druid.dimensions import DimensionSpec, parse_dimension
from rta.druid.filters import Filter, parse_filter
from rta.druid.granularity import ALL, Granularity, parse_granularity
from rta.druid.having import Having, parse_having
from rta.druid.limits import LimitSpec, TopNMetric, parse_limit, parse_metric
from rta.druid.periods import Interval, merged, parse_intervals
from rta.druid.postaggregators import PostAggregator, parse_postaggregator
from rta.druid.problems import InvalidInputError, unsupported
from rta.druid.searching import SearchSpec, parse_search
from rta.druid.virtual import VirtualColumn, parse_virtual

QUERY_TYPES = (
    "timeseries",
    "topN",
    "groupBy",
    "scan",
    "search",
    "timeBoundary",
    "segmentMetadata",
    "dataSourceMetadata",
)
DEPTH_MAX = 16


@dataclass(frozen=True, slots=True)
class Tables:
    """One table by its name, or the union of several."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inner:
    query: NativeQuery


@dataclass(frozen=True, slots=True)
class Inline:
    names: tuple[str, ...]
    types: tuple[str, ...] | None
    rows: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Unions:
    parts: tuple[DataSource, ...]


DataSource = Tables | Inner | Inline | Unions


@dataclass(frozen=True, slots=True)
class Context:
    """Of the context's keys those that change an answer."""

    skip_empty_buckets: bool = False
    grand_total: bool = False
    finalize: bool = True
    sort_by_dims_first: bool = False
    timeout_ms: int = 0
    query_id: str | None = None
    times_as_long: bool = False


@dataclass(frozen=True, slots=True)
class NativeQuery:
    """Any native query; `extra` holds what only scans, searches and metadata queries have, as it was read."""

    type: str
    source: DataSource
    intervals: tuple[Interval, ...]
    filter: Filter | None = None
    granularity: Granularity = ALL
    virtual: tuple[VirtualColumn, ...] = ()
    aggregators: tuple[Aggregator, ...] = ()
    postaggregators: tuple[PostAggregator, ...] = ()
    dimensions: tuple[DimensionSpec, ...] = ()
    metric: TopNMetric | None = None
    having: Having | None = None
    limit: LimitSpec = field(default_factory=LimitSpec)
    subtotals: tuple[tuple[str, ...], ...] | None = None
    descending: bool = False
    search: SearchSpec | None = None
    context: Context = field(default_factory=Context)
    extra: Mapping[str, Any] = field(default_factory=dict)


def parse_query(value: Any, depth: int = 0) -> NativeQuery:
    """Raises InvalidInputError, UnsupportedError."""
    doc = reading.document(value, "the query")
    if depth > DEPTH_MAX:
        raise InvalidInputError(f"queries are nested more than {DEPTH_MAX} deep")
    kind = reading.text(doc, "queryType", "the query")
    if kind not in QUERY_TYPES:
        raise unsupported("the query type", kind, ", ".join(QUERY_TYPES))
    posts = tuple(parse_postaggregator(p) for p in reading.items(doc, "postAggregations", "the query"))
    query = NativeQuery(
        kind,
        parse_source(doc.get("dataSource"), depth),
        _intervals(doc, kind),
        filter=parse_filter(doc.get("filter")),
        granularity=parse_granularity(doc.get("granularity")),
        virtual=tuple(parse_virtual(v) for v in reading.items(doc, "virtualColumns", "the query")),
        aggregators=tuple(parse_aggregator(a) for a in reading.items(doc, "aggregations", "the query")),
        postaggregators=posts,
        dimensions=_dimensions(doc, kind),
        metric=parse_metric(doc.get("metric")) if kind == "topN" else None,
        having=parse_having(doc.get("having")),
        limit=_limit(doc, kind),
        subtotals=_subtotals(doc),
        descending=reading.flag(doc, "descending", "the query"),
        search=parse_search(doc.get("query")) if kind == "search" else None,
        context=parse_context(doc.get("context")),
        extra=doc,
    )
    if kind == "scan" and doc.get("columns"):
        reading.texts(doc, "columns", "the query")
    _check_names(query)
    return query


def parse_source(value: Any, depth: int) -> DataSource:
    if isinstance(value, str):
        return Tables((value,))
    doc = reading.document(value, "'dataSource'")
    kind = reading.text_or(doc, "type", "table", "'dataSource'")
    match kind:
        case "table":
            return Tables((reading.text(doc, "name", "'dataSource'"),))
        case "union":
            parts = tuple(parse_source(part, depth + 1) for part in reading.items(doc, "dataSources", "'dataSource'"))
            if not parts:
                raise InvalidInputError("the union of data sources is empty")
            if all(isinstance(p, Tables) for p in parts):
                return Tables(tuple(n for p in parts if isinstance(p, Tables) for n in p.names))
            return Unions(parts)
        case "query":
            return Inner(parse_query(doc.get("query"), depth + 1))
        case "inline":
            types = doc.get("columnTypes")
            names = reading.texts(doc, "columnNames", "the inline data source")
            rows = tuple(reading.items(doc, "rows", "the inline data source"))
            return Inline(names, tuple(str(t) for t in types) if isinstance(types, list) else None, rows)
        case _:
            raise unsupported("the data source", kind, "table, union, query and inline")


def table_names(query: NativeQuery) -> tuple[str, ...]:
    """The tables that a query reads, those of inner queries too."""
    return tuple(dict.fromkeys(_names(query.source)))


def _names(source: DataSource) -> Iterator[str]:
    match source:
        case Tables(names):
            yield from names
        case Inner(query):
            yield from _names(query.source)
        case Unions(parts):
            for part in parts:
                yield from _names(part)
        case Inline():
            return


def spanned(query: NativeQuery) -> tuple[Interval, ...]:
    """The intervals in which rows of the tables are read."""
    return merged(list(_spans(query.source, query.intervals)))


def _spans(source: DataSource, intervals: tuple[Interval, ...]) -> Iterator[Interval]:
    match source:
        case Inner(query):
            yield from _spans(query.source, query.intervals)
        case Unions(parts):
            for part in parts:
                yield from _spans(part, intervals)
        case _:
            yield from intervals


def _intervals(doc: reading.Document, kind: str) -> tuple[Interval, ...]:
    if doc.get("intervals") is None and kind in ("timeseries", "topN", "groupBy", "scan", "search"):
        raise InvalidInputError("the query has no 'intervals'", "write it as in 2026-01-01/2026-01-02")
    return parse_intervals(doc.get("intervals"))


def _dimensions(doc: reading.Document, kind: str) -> tuple[DimensionSpec, ...]:
    if kind == "topN":
        if doc.get("dimension") is None:
            raise InvalidInputError("the query has no 'dimension'", "name what to rank")
        return (parse_dimension(doc["dimension"]),)
    if kind == "groupBy":
        return tuple(parse_dimension(d) for d in reading.items(doc, "dimensions", "the query"))
    if kind == "search":
        listed = doc.get("searchDimensions")
        if isinstance(listed, str | dict):
            listed = [listed]
        return tuple(parse_dimension(d) for d in listed or ())
    return ()


def _limit(doc: reading.Document, kind: str) -> LimitSpec:
    if kind == "groupBy":
        return parse_limit(doc.get("limitSpec"))
    if kind == "topN":
        threshold = reading.whole(doc, "threshold", "the query")
        if threshold <= 0:
            raise InvalidInputError(f"'threshold' is {threshold}", "write a positive number")
        return LimitSpec(limit=threshold)
    limit = None if doc.get("limit") is None else reading.whole(doc, "limit", "the query")
    offset = reading.whole(doc, "offset", "the query", 0)
    if (limit is not None and limit < 0) or offset < 0:
        raise InvalidInputError(f"'limit' is {limit} and 'offset' {offset}", "write positive numbers")
    if kind == "search":
        limit = 1000 if limit is None else limit
    return LimitSpec(limit=limit or None, offset=offset)


def _subtotals(doc: reading.Document) -> tuple[tuple[str, ...], ...] | None:
    listed = doc.get("subtotalsSpec")
    if not listed:
        return None
    return tuple(reading.texts({"subtotal": part}, "subtotal", "'subtotalsSpec'") for part in listed)


def parse_context(value: Any) -> Context:
    """Unknown keys are ignored; a timeout or flag that is none is refused."""
    doc = {} if value is None else reading.document(value, "'context'")
    what = "'context'"
    query_id = doc.get("queryId")
    timeout = reading.whole(doc, "timeout", what, 0)
    if timeout < 0:
        raise InvalidInputError(f"'timeout' of 'context' is {timeout}", "write milliseconds; 0 is the default")
    return Context(
        reading.flag(doc, "skipEmptyBuckets", what),
        reading.flag(doc, "grandTotal", what),
        reading.flag(doc, "finalize", what, default=True),
        reading.flag(doc, "sortByDimsFirst", what),
        timeout,
        None if query_id is None else str(query_id),
        reading.flag(doc, "serializeDateTimeAsLong", what),
    )


def _check_names(query: NativeQuery) -> None:
    seen: set[str] = set()
    shown = [*(d.name for d in query.dimensions if query.type != "search"), *(a.name for a in query.aggregators)]
    for name in [*shown, *(p.name for p in query.postaggregators)]:
        if name in seen:
            raise InvalidInputError(f"the query has two outputs named '{name}'", "rename one")
        seen.add(name)
    for subtotal in query.subtotals or ():
        for name in subtotal:
            if name not in {d.name for d in query.dimensions}:
                raise InvalidInputError(f"'subtotalsSpec' names '{name}', which is no dimension of the query")
