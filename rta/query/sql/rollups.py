"""Statements of a rollup's shape as questions of `rta.query.model`: the same question in SQL is then as fast as in JSON.

Translates one SELECT over raw events with a time range, conditions on columns, GROUP BY columns and at most one time step, and
plain aggregates. Everything else, and whatever the two might answer differently, is left to the SQL engine. Whether a rollup
really answers it is the planner's to say. They knowingly differ in NaN, which only Arrow senders can write: it is no value here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from sqlglot import exp

from rta.errors import InvalidQueryError
from rta.events.schemas import EVENTS, ColumnType, Datasource
from rta.query.answer import TIME_TYPE
from rta.query.model import ALL, Absolute, And, Condition, Granularity, Metric, Order, Query, QueryMetricType, Unit
from rta.query.sql.conditions import NotTranslatableError, condition_of, literal_of
from rta.query.sql.ranges import ALL_TIME, Constants, conjuncts, exact_bounds, is_time
from rta.query.sql.statement import Statement
from rta.query.sql.tables import SqlTable

_AGGREGATES: dict[type[exp.Expr], tuple[str, QueryMetricType]] = {
    exp.Sum: ("sum", QueryMetricType.SUM),
    exp.Avg: ("avg", QueryMetricType.AVG),
    exp.Min: ("min", QueryMetricType.MIN),
    exp.Max: ("max", QueryMetricType.MAX),
    exp.ApproxDistinct: ("approx_count_distinct", QueryMetricType.UNIQUE),
    exp.ApproxQuantile: ("approx_quantile", QueryMetricType.QUANTILE),
}
_STEPS = {
    "SECOND": Granularity(Unit.MS, 1_000),
    "MINUTE": Granularity(Unit.MS, 60_000),
    "HOUR": Granularity(Unit.MS, 3_600_000),
    "DAY": Granularity(Unit.DAY, 1),
    "WEEK": Granularity(Unit.DAY, 7),
    "MONTH": Granularity(Unit.MONTH, 1),
    "QUARTER": Granularity(Unit.MONTH, 3),
    "YEAR": Granularity(Unit.MONTH, 12),
}
_DAY_MS = 86_400_000
_GROUPED = (ColumnType.STRING, ColumnType.LONG, ColumnType.BOOLEAN)
_WHOLE = (QueryMetricType.COUNT, QueryMetricType.UNIQUE)
_ALLOWED = frozenset(
    ("expressions", "from_", "where", "group", "order", "limit", "offset", "kind", "operation_modifiers")
)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Shown:
    """A column of the answer: its name, where it is in the question's answer, and its type there."""

    name: str
    source: str
    type: Any


@dataclass(frozen=True, slots=True)
class AsQuery:
    """A statement as a question.

    Args:
        offset: The rows of the question's answer from here on are shown.
        limited: The statement says itself how many rows it wants.
    """

    query: Query
    shown: tuple[Shown, ...]
    offset: int
    limited: bool

    def frame(self, answer: pl.DataFrame) -> pl.DataFrame:
        """The question's answer as the statement's."""
        columns = [_cast(pl.col(s.source), s.type).alias(s.name) for s in self.shown]
        return answer.slice(self.offset).select(columns)

    def bounds(self, bounds: dict[str, Any]) -> dict[str, Any]:
        return {s.name: bounds[s.source] for s in self.shown if s.source in bounds}


def as_query(statement: Statement, table: SqlTable, constants: Constants, limit_max: int) -> AsQuery | None:
    """The statement as a question; None where it has another shape.

    Args:
        table: What the statement's only table is.
        limit_max: Rows that the answer may have.
    """
    tree = statement.tree
    if table.stored != EVENTS or not isinstance(tree, exp.Select) or statement.is_volatile:
        return None
    try:
        return _Translation(tree, statement, table.datasource, constants).whole(limit_max)
    except (NotTranslatableError, InvalidQueryError):
        return None


@dataclass(frozen=True, slots=True)
class _Item:
    """An expression of the SELECT list, and what it is called there."""

    tree: exp.Expr
    name: str | None


class _Translation:
    """One SELECT on its way to a question. Raises NotTranslatableError where it has no such shape."""

    def __init__(self, tree: exp.Select, statement: Statement, datasource: Datasource, constants: Constants) -> None:
        self._tree = tree
        self._datasource = datasource
        self._constants = constants
        self._alias = statement.tables[0].node.alias_or_name
        self._groups: list[str] = []
        self._step = ALL
        self._metrics: dict[exp.Expr, Metric] = {}
        _check_shape(tree, statement)
        self._items = [self._item(entry) for entry in tree.expressions]

    def whole(self, limit_max: int) -> AsQuery:
        keys = [self._key(tree) for tree in self._grouped()]
        self._groups = [key for key in keys if key != "time"]
        if len(set(keys)) != len(keys):
            raise NotTranslatableError("grouped twice by one column")
        shown = tuple(self._shown(item, keys) for item in self._items)
        if len({s.name for s in shown}) != len(shown):
            raise NotTranslatableError("two columns of one name")
        order = tuple(self._order(entry, keys) for entry in _entries(self._tree, "order"))
        limit, offset = self._whole("limit"), self._whole("offset") or 0
        rows = min(limit_max if limit is None else limit, limit_max) + offset
        if not 1 <= rows <= limit_max or len({o.name for o in order}) != len(order):
            raise NotTranslatableError("the limit")
        if not self._metrics:
            self._metrics[exp.Null()] = Metric("#count", QueryMetricType.COUNT)
        (start, end), where = self._where()
        query = Query(
            datasource=self._datasource.name,
            time_range=None if (start, end) == ALL_TIME else Absolute(start, end),
            granularity=self._step,
            metrics=tuple(self._metrics.values()),
            where=where,
            group_by=tuple(self._groups),
            order_by=order,
            limit=rows,
        )
        return AsQuery(query, shown, offset, limit is not None and limit <= limit_max)

    def _item(self, entry: exp.Expr) -> _Item:
        if isinstance(entry, exp.Alias):
            return _Item(entry.this.unnest(), entry.alias)
        return _Item(entry.unnest(), None)

    def _grouped(self) -> list[exp.Expr]:
        """What is grouped by: expressions of the SELECT list where names or numbers mean them."""
        group = self._tree.args.get("group")
        if group is None:
            return []
        if any(group.args.get(key) for key in ("grouping_sets", "cube", "rollup", "totals")):
            raise NotTranslatableError("grouping sets")
        if group.args.get("all"):
            return [item.tree for item in self._items if not _is_aggregate(item.tree)]
        return [self._meant(tree) for tree in group.expressions]

    def _meant(self, tree: exp.Expr) -> exp.Expr:
        tree = tree.unnest()
        if isinstance(tree, exp.Literal) and not tree.is_string:
            number = int(tree.name) if tree.name.isdigit() else 0
            if not 1 <= number <= len(self._items):
                raise NotTranslatableError("a number that is no column")
            return self._items[number - 1].tree
        if isinstance(tree, exp.Column) and not tree.table:
            named = [i.tree for i in self._items if i.name is not None and i.name.lower() == tree.name.lower()]
            if named and self._known(tree) and named[0] != tree:
                raise NotTranslatableError("a name that is both a column and an alias")
            if named:
                return named[0]
        return tree

    def _known(self, column: exp.Column) -> bool:
        return any(c.name.lower() == column.name.lower() for c in self._datasource.columns)

    def _key(self, tree: exp.Expr) -> str:
        """A column's name, or "time" for the time step, which becomes the question's."""
        step = _step_of(tree, self._alias)
        if step is not None:
            self._step = step
            return "time"
        name, kind = self._column(tree)
        if kind not in _GROUPED:
            raise NotTranslatableError(f"grouped by {kind}")
        return name

    def _column(self, tree: exp.Expr | None) -> tuple[str, ColumnType]:
        if not isinstance(tree, exp.Column) or len(tree.parts) > 2:
            raise NotTranslatableError("no column")
        if tree.table and tree.table.lower() != self._alias.lower():
            raise NotTranslatableError("another table's column")
        found = [c for c in self._datasource.columns if c.name.lower() == tree.name.lower()]
        exact = [c for c in found if c.name == tree.name] or found
        if len(exact) != 1:
            raise NotTranslatableError("no such column")
        return exact[0].name, exact[0].type

    def _shown(self, item: _Item, keys: Sequence[str]) -> Shown:
        tree = item.tree
        if _is_aggregate(tree):
            metric = self._metric(tree)
            return Shown(item.name or _default_name(tree), metric.name, self._type_of(metric))
        key = self._key(tree)
        if key not in keys:
            raise NotTranslatableError("neither grouped by nor an aggregate")
        if key == "time":
            if item.name is None:
                raise NotTranslatableError("a time step without a name")
            return Shown(item.name, "time", TIME_TYPE)
        return Shown(item.name or key, key, None)

    def _metric(self, tree: exp.Expr) -> Metric:
        known = self._metrics.get(tree)
        if known is None:
            known = self._metrics[tree] = self._made_metric(tree, f"#{len(self._metrics)}")
        return known

    def _made_metric(self, tree: exp.Expr, name: str) -> Metric:
        if isinstance(tree, exp.Count):
            inner = tree.this
            if isinstance(inner, exp.Star) or (isinstance(inner, exp.Literal) and not tree.expressions):
                return Metric(name, QueryMetricType.COUNT)
            if isinstance(inner, exp.Distinct):
                if len(inner.expressions) != 1 or inner.args.get("on"):
                    raise NotTranslatableError("distinct tuples")
                return Metric(name, QueryMetricType.UNIQUE, self._column(inner.expressions[0])[0], exact=True)
            return Metric(name, QueryMetricType.COUNT, self._column(inner)[0])
        _, kind = _AGGREGATES[type(tree)]
        field, column_type = self._column(tree.this)
        given = {key for key, value in tree.args.items() if value}
        if given - {"this", "quantile"} or column_type is ColumnType.TIMESTAMP:
            raise NotTranslatableError("arguments")
        if kind is not QueryMetricType.QUANTILE:
            return Metric(name, kind, field)
        rank = literal_of(tree.args.get("quantile"), self._constants.parameters)
        if isinstance(rank, bool | str) or not 0 <= rank <= 1:
            raise NotTranslatableError("a rank that is none")
        return Metric(name, kind, field, q=float(rank))

    def _type_of(self, metric: Metric) -> Any:
        """As the SQL engine types it: a quantile and an extreme as their column, counts whole."""
        if metric.type in _WHOLE:
            return pl.Int64
        column = self._datasource.column(metric.field or "")
        whole = column is not None and column.type is ColumnType.LONG and metric.type is not QueryMetricType.AVG
        return pl.Int64 if whole else pl.Float64

    def _order(self, entry: exp.Expr, keys: Sequence[str]) -> Order:
        assert isinstance(entry, exp.Ordered)
        if entry.args.get("nulls_first") or entry.args.get("with_fill"):
            raise NotTranslatableError("nulls first")
        tree = self._meant(entry.this)
        if _is_aggregate(tree):
            return Order(self._metric(tree).name, bool(entry.args.get("desc")))
        key = self._key(tree)
        if key not in keys:
            raise NotTranslatableError("ordered by what is not grouped by")
        return Order(key, bool(entry.args.get("desc")))

    def _whole(self, part: str) -> int | None:
        node = self._tree.args.get(part)
        if node is None:
            return None
        if node.args.get("expressions") or node.args.get("limit_options"):
            raise NotTranslatableError("a limit by")
        value = literal_of(node.expression, self._constants.parameters)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise NotTranslatableError("a limit that is no number")
        return value

    def _where(self) -> tuple[tuple[int, int], Condition | None]:
        node = self._tree.args.get("where")
        low, high = ALL_TIME
        parts: list[Condition] = []
        for part in conjuncts(node.this) if node is not None else ():
            times = exact_bounds(part, self._alias, self._constants)
            if times is not None:
                low, high = max(low, times[0]), min(high, times[1])
            else:
                parts.append(condition_of(part, self._column, self._constants.parameters))
        if high <= low:
            raise NotTranslatableError("an empty range")
        return (low, high), (And(tuple(parts)) if len(parts) > 1 else parts[0] if parts else None)


def _check_shape(tree: exp.Select, statement: Statement) -> None:
    present = {key for key, value in tree.args.items() if value}
    if not present <= _ALLOWED or len(statement.tables) != 1 or tree.args.get("kind"):
        raise NotTranslatableError("another shape")
    source = tree.args.get("from_")
    if not isinstance(source, exp.From) or source.this is not statement.tables[0].node:
        raise NotTranslatableError("no plain table")
    alias = source.this.args.get("alias")
    used = {key for key, value in source.this.args.items() if value}
    if used - {"this", "db", "catalog", "alias"} or (alias is not None and alias.args.get("columns")):
        raise NotTranslatableError("more than a table")
    inside = tree.find_all(exp.Subquery, exp.Window, exp.Filter, exp.Star)
    if not all(isinstance(node, exp.Star) and isinstance(node.parent, exp.Count) for node in inside):
        raise NotTranslatableError("subqueries, windows or stars")


def _entries(tree: exp.Select, part: str) -> list[exp.Expr]:
    node = tree.args.get(part)
    return [] if node is None else list(node.expressions)


def _is_aggregate(tree: exp.Expr) -> bool:
    return type(tree) in _AGGREGATES or isinstance(tree, exp.Count)


def _step_of(tree: exp.Expr, alias: str) -> Granularity | None:
    if isinstance(tree, exp.TimestampTrunc | exp.DateTrunc) and is_time(tree.this, alias) and not tree.args.get("zone"):
        unit = tree.args.get("unit")
        return None if unit is None else _STEPS.get(unit.name.upper())
    if isinstance(tree, exp.DateBin) and is_time(tree.expression, alias):
        width = tree.this.unnest()
        # A third argument, an origin or an offset, is read as one of these.
        moved = any(tree.args.get(key) for key in ("unit", "zone", "origin"))
        if moved or not isinstance(width, exp.Interval):
            return None
        unit = width.args.get("unit")
        step = None if unit is None else _STEPS.get(unit.name.upper().removesuffix("S"))
        count = width.this.name if isinstance(width.this, exp.Literal) else ""
        if step is None or not count.isdigit() or int(count) < 1:
            return None
        # Steps begin elsewhere in both where they do not divide a day.
        if step.unit is Unit.DAY and step.count == 1 and int(count) == 1:
            return step
        length = step.count * int(count)
        return Granularity(Unit.MS, length) if step.unit is Unit.MS and _DAY_MS % length == 0 else None
    return None


def _default_name(tree: exp.Expr) -> str:
    """What the SQL engine calls an aggregate that has no name."""
    if isinstance(tree, exp.Count):
        if isinstance(tree.this, exp.Star):
            return "count_star()"
        if isinstance(tree.this, exp.Distinct):
            return f"count(DISTINCT {_written(tree.this.expressions[0])})"
        return f"count({tree.this.name if isinstance(tree.this, exp.Literal) else _written(tree.this)})"
    word, kind = _AGGREGATES[type(tree)]
    rank = f", {tree.args['quantile'].name}" if kind is QueryMetricType.QUANTILE else ""
    return f"{word}({_written(tree.this)}{rank})"


def _written(column: exp.Expr) -> str:
    """A column inside a default name; the engine quotes some, which is not worth knowing."""
    parts = column.parts if isinstance(column, exp.Column) else []
    if not parts or any(part.args.get("quoted") or not _PLAIN_NAME.fullmatch(part.name) for part in parts):
        raise NotTranslatableError("a name that may be quoted")
    return ".".join(part.name for part in parts)


def _cast(column: pl.Expr, kind: Any) -> pl.Expr:
    if kind is None:
        return column
    # A quantile of whole numbers is one of them, written as a double.
    return column.round().cast(kind) if kind == pl.Int64 else column.cast(kind)
