"""Which columns of a table a query looks at, so that no others are read."""

from __future__ import annotations

from collections.abc import Iterator

from rta.druid import reading
from rta.druid.aggregators import columns_read
from rta.druid.filters import columns_of
from rta.druid.query import DataSource, Inline, Inner, NativeQuery, Tables, Unions
from rta.druid.table import Table
from rta.events.schemas import TIME


def names_read(query: NativeQuery) -> frozenset[str] | None:
    """The names that a query's tables are asked for; None for all that there are."""
    found = _of_source(query.source, query)
    return None if None in found else frozenset(name for name in found if name is not None)


def names_asked(query: NativeQuery) -> frozenset[str] | None:
    """The names that a query itself looks for in its data source, whatever that is; None for all that there are."""
    found = set(_own(query))
    return None if None in found else frozenset(name for name in found if name is not None)


def _of_source(source: DataSource, query: NativeQuery) -> set[str | None]:
    match source:
        case Tables():
            return set(_own(query))
        case Inner(inner):
            return _of_source(inner.source, inner)
        case Unions(parts):
            return {name for part in parts for name in _of_source(part, query)}
        case Inline():
            return set()


def _own(query: NativeQuery) -> Iterator[str | None]:
    yield TIME
    everything = {
        "scan": not query.extra.get("columns"),
        "search": not query.dimensions,
        "segmentMetadata": True,
    }
    if everything.get(query.type):
        yield None
    yield from (d.dimension for d in query.dimensions)
    yield from columns_of(query.filter)
    for aggregator in query.aggregators:
        yield from columns_read(aggregator)
    for virtual in query.virtual:
        yield from virtual.reads
    if query.type == "scan" and query.extra.get("columns"):
        yield from reading.texts(query.extra, "columns", "the query")


def stored_columns(table: Table, names: frozenset[str] | None) -> list[str]:
    """The columns of the table's frame that hold what is under the names."""
    found = {TIME: None}
    for name in table.columns if names is None else sorted(names):
        column = table.column(name)
        for expr in (column.expr, column.items):
            if expr is not None:
                found |= dict.fromkeys(expr.meta.root_names())
    return list(found)
