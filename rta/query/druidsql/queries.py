"""Whole queries: FROM, WHERE, GROUP BY, HAVING, ORDER BY, LIMIT, WITH and UNION, around the expressions of `translator`.

Owns what names the answer's columns have, what GROUP BY and ORDER BY mean by a number or an alias, that a grouping by a
multi-value string takes its values one by one, and the order of groups where the query names none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from rta.errors import InvalidQueryError
from rta.query.druidsql.calls import is_aggregate
from rta.query.druidsql.context import Context
from rta.query.druidsql.kinds import VARCHAR, Kind, common
from rta.query.druidsql.scope import Catalog, Column, Scope, Table
from rta.query.druidsql.sources import from_clause
from rta.query.druidsql.translator import Translator
from rta.query.druidsql.typed import Typed, name
from rta.query.druidsql.windows import ordered

_SET_WORDS: dict[type[exp.Expr], str] = {exp.Union: "UNION", exp.Except: "EXCEPT", exp.Intersect: "INTERSECT"}


@dataclass(frozen=True, slots=True)
class Translated:
    """A query in DuckDB's words, and the columns of its answer."""

    sql: str
    names: tuple[str, ...]
    kinds: tuple[Kind, ...]

    def columns(self, given: Sequence[str] = ()) -> tuple[Column, ...]:
        names = [*given, *self.names[len(given) :]]
        return tuple(Column(n, k) for n, k in zip(names, self.kinds, strict=True))


@dataclass
class Queries:
    """Translates the queries of one statement.

    Args:
        used: The tables that the statement read so far.
        parameters: Values that the statement names as `$1`, `$2`, ….
    """

    catalog: Catalog
    context: Context
    now_ms: int
    used: list[Table] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    _common: list[dict[str, tuple[Column, ...]]] = field(default_factory=list)
    _lateral: int = 0

    def subquery(self, query: exp.Expr, outer: Scope) -> tuple[str, list[Kind]]:
        found = self.query(query, outer)
        return found.sql, list(found.kinds)

    def query(self, node: exp.Expr, outer: Scope | None = None, *, last: bool = False) -> Translated:
        """Raises InvalidQueryError. `last` is the outermost query, whose groups come in order."""
        while isinstance(node, exp.Subquery) and not node.args.get("limit"):
            node = node.this
        frame: dict[str, tuple[Column, ...]] = {}
        self._common.append(frame)
        try:
            head = self._with(node, frame, outer)
            if isinstance(node, exp.SetOperation):
                found = self._set_operation(node, outer)
            elif isinstance(node, exp.Select):
                found = _Select(self, node, outer).translate(last=last)
            elif isinstance(node, exp.Values):
                found = self.values(node, outer)
            else:
                raise InvalidQueryError(f"'{node.sql(dialect='druid')[:64]}' is no query", "send SELECT")
        finally:
            self._common.pop()
        return Translated(head + found.sql, found.names, found.kinds)

    def common_table(self, table: str) -> tuple[Column, ...] | None:
        """The columns of a query that WITH named."""
        return next((frame[table] for frame in reversed(self._common) if table in frame), None)

    def next_lateral(self) -> str:
        self._lateral += 1
        return f"_mv{self._lateral}"

    def values(self, node: exp.Values, outer: Scope | None) -> Translated:
        translator = Translator(Scope(outer=outer), self.context, self.now_ms, self)
        rows = [translator.texts(row.expressions if isinstance(row, exp.Tuple) else [row]) for row in node.expressions]
        if len({len(row) for row in rows}) != 1:
            raise InvalidQueryError("the rows of VALUES differ in their number of values", "give each as many")
        kinds = tuple(common([row[i].kind for row in rows]) for i in range(len(rows[0])))
        sql = ", ".join("(" + ", ".join(v.sql for v in row) + ")" for row in rows)
        names = tuple(f"EXPR${i}" for i in range(len(kinds)))
        columns = ", ".join(name(n) for n in names)
        return Translated(f"SELECT * FROM (VALUES {sql}) AS _v({columns})", names, kinds)

    def _with(self, node: exp.Expr, frame: dict[str, tuple[Column, ...]], outer: Scope | None) -> str:
        clause = node.args.get("with_")
        if clause is None:
            return ""
        if clause.args.get("recursive"):
            raise InvalidQueryError("WITH RECURSIVE is not supported", "use a plain WITH")
        parts = []
        for entry in clause.expressions:
            found = self.query(entry.this, outer)
            given = [c.name for c in entry.args["alias"].columns]
            columns = found.columns(given)
            frame[entry.alias] = columns
            heads = ", ".join(name(c.name) for c in columns)
            parts.append(f"{name(_common_name(entry.alias))}({heads}) AS ({found.sql})")
        return f"WITH {', '.join(parts)} "

    def _set_operation(self, node: exp.SetOperation, outer: Scope | None) -> Translated:
        left, right = self.query(node.left, outer), self.query(node.right, outer)
        if len(left.kinds) != len(right.kinds):
            raise InvalidQueryError("Column count mismatch in UNION", "select as many columns on both sides")
        kinds = tuple(common([a, b]) for a, b in zip(left.kinds, right.kinds, strict=True))
        word = _SET_WORDS[type(node)] + ("" if node.args.get("distinct") else " ALL")
        heads = ", ".join(name(n) for n in left.names)
        sql = f"SELECT {heads} FROM (({left.sql}) {word} ({right.sql})) AS _u({heads})"
        order = node.args.get("order")
        if order is not None:
            terms = [self._output_column(o, left.names) for o in order.expressions]
            sql += f" ORDER BY {', '.join(terms)}"
        return Translated(sql + limit_clause(node), left.names, kinds)

    def _output_column(self, node: exp.Ordered, names: Sequence[str]) -> str:
        wanted = node.this
        if isinstance(wanted, exp.Literal) and not wanted.is_string and 1 <= int(wanted.this) <= len(names):
            return ordered(str(int(wanted.this)), node)
        if isinstance(wanted, exp.Column) and wanted.name in names:
            return ordered(str(names.index(wanted.name) + 1), node)
        raise InvalidQueryError(f"Column '{wanted.sql()[:64]}' not found in any table", "order a UNION by its columns")


@dataclass(frozen=True, slots=True)
class _Item:
    """A column of the answer; `node` is None for what `*` stands for."""

    name: str
    value: Typed
    node: exp.Expr | None = None


class _Select:
    """One SELECT."""

    def __init__(self, queries: Queries, node: exp.Select, outer: Scope | None) -> None:
        self._queries = queries
        self._node = node
        self._scope = Scope(outer=outer)
        self._translator = Translator(self._scope, queries.context, queries.now_ms, queries)
        self._from = from_clause(queries, node, self._scope, self._translator)

    def translate(self, *, last: bool) -> Translated:
        _refuse(self._node)
        where = self._node.args.get("where")
        condition = "" if where is None else f" WHERE {self._translator.condition(where.this)}"
        group = self._group()
        items = self._items()
        chosen = ", ".join(f"{item.value.sql} AS {name(item.name)}" for item in items)
        having = self._having(items)
        order = self._order(items) or (self._group_order(items) if last else "")
        distinct = "DISTINCT " if self._node.args.get("distinct") is not None else ""
        sql = f"SELECT {distinct}{chosen}{self._from}{condition}{group}{having}{order}{limit_clause(self._node)}"
        return Translated(sql, tuple(i.name for i in items), tuple(i.value.kind for i in items))

    def _group(self) -> str:
        clause = self._node.args.get("group")
        if clause is None:
            return ""
        for key in ("cube", "rollup", "grouping_sets", "totals", "all"):
            if clause.args.get(key):
                return self._group_modifiers(clause)
        return " GROUP BY " + ", ".join(self._group_term(term) for term in clause.expressions)

    def _group_modifiers(self, clause: exp.Group) -> str:
        terms = [self._group_term(term) for term in clause.expressions]
        for key in ("grouping_sets", "cube", "rollup"):
            terms += [self._group_term(term) for term in clause.args.get(key) or []]
        if clause.args.get("all") or clause.args.get("totals"):
            raise InvalidQueryError("GROUP BY ALL is not supported", "name the columns")
        return " GROUP BY " + ", ".join(terms)

    def _group_term(self, term: exp.Expr) -> str:
        for kind, word in ((exp.GroupingSets, "GROUPING SETS"), (exp.Cube, "CUBE"), (exp.Rollup, "ROLLUP")):
            if isinstance(term, kind):
                return f"{word} ({', '.join(self._group_term(t) for t in term.expressions)})"
        if isinstance(term, exp.Tuple):
            return f"({', '.join(self._group_term(t) for t in term.expressions)})"
        value = self._translator.translate(self._meant(term))
        if value.kind.multi:
            value = self._explode(value)
        return value.sql

    def _meant(self, term: exp.Expr) -> exp.Expr:
        """The expression behind a number or an alias."""
        if isinstance(term, exp.Paren):
            return self._meant(term.this)
        chosen = self._node.expressions
        if isinstance(term, exp.Literal) and not term.is_string and str(term.this).isdigit():
            index = int(term.this)
            if not 1 <= index <= len(chosen):
                raise InvalidQueryError(f"Ordinal {index} is out of range", f"the query has {len(chosen)} columns")
            return _unaliased(chosen[index - 1])
        if isinstance(term, exp.Column) and not term.table:
            aliased = [c for c in chosen if isinstance(c, exp.Alias) and c.alias == term.name]
            if len(aliased) == 1 and not _aggregates(aliased[0].this):
                return aliased[0].this
        return term

    def _explode(self, value: Typed) -> Typed:
        """One row per value of a multi-value string; none is one row of null."""
        known = self._translator.exploded.get(value.sql)
        if known is not None:
            return known
        alias = self._queries.next_lateral()
        values = f"CASE WHEN len({value.sql}) > 0 THEN {value.sql} ELSE [NULL] END"
        self._from += f" CROSS JOIN LATERAL (SELECT unnest({values}) AS _v) AS {alias}"
        one = Typed(f"{alias}._v", VARCHAR)
        self._translator.exploded[value.sql] = one
        return one

    def _items(self) -> list[_Item]:
        items: list[_Item] = []
        for node in self._node.expressions:
            if isinstance(node, exp.Star):
                items += [_Item(n, self._translator.exploded.get(v.sql, v)) for n, v in self._scope.star(None)]
            elif isinstance(node, exp.Column) and isinstance(node.this, exp.Star):
                items += [_Item(n, self._translator.exploded.get(v.sql, v)) for n, v in self._scope.star(node.table)]
            else:
                inner = _unaliased(node)
                value = self._translator.translate(inner)
                items.append(_Item(_shown(node, inner, len(items)), value, inner))
        return _distinct_names(items)

    def _having(self, items: list[_Item]) -> str:
        clause = self._node.args.get("having")
        if clause is None:
            return ""
        self._translator.names = {item.name: item.value for item in items}
        try:
            return f" HAVING {self._translator.condition(clause.this)}"
        finally:
            self._translator.names = {}

    def _order(self, items: list[_Item]) -> str:
        clause = self._node.args.get("order")
        if clause is None:
            return ""
        self._translator.names = {item.name: item.value for item in items}
        positions = {item.value.sql: i for i, item in reversed(list(enumerate(items, 1)))}
        terms = []
        try:
            for term in clause.expressions:
                wanted = term.this
                if isinstance(wanted, exp.Literal) and not wanted.is_string:
                    if not 1 <= int(wanted.this) <= len(items):
                        raise InvalidQueryError(
                            f"Ordinal {wanted.this} is out of range", f"there are {len(items)} columns"
                        )
                    terms.append(ordered(str(int(wanted.this)), term))
                    continue
                sql = self._translator.translate(wanted).sql
                terms.append(ordered(str(positions.get(sql, sql)), term))
        finally:
            self._translator.names = {}
        return f" ORDER BY {', '.join(terms)}"

    def _group_order(self, items: list[_Item]) -> str:
        """Groups come by their keys, as they do from Druid."""
        clause = self._node.args.get("group")
        if clause is None or self._node.args.get("distinct") is not None:
            return ""
        keys = {self._translator.translate(self._meant(t)).sql for t in clause.expressions if not _is_set(t)}
        positions = [i for i, item in enumerate(items, 1) if item.value.sql in keys]
        return f" ORDER BY {', '.join(f'{i} ASC NULLS FIRST' for i in positions)}" if positions else ""


def limit_clause(node: exp.Expr) -> str:
    """LIMIT, OFFSET and FETCH FIRST."""
    limit, offset = node.args.get("limit"), node.args.get("offset")
    count = None
    if limit is not None:
        count = limit.args.get("count") if isinstance(limit, exp.Fetch) else limit.expression
    parts = [
        (word, _whole(value)) for word, value in (("LIMIT", count), ("OFFSET", offset and offset.expression)) if value
    ]
    return "".join(f" {word} {number}" for word, number in parts if number is not None)


def _whole(node: exp.Expr) -> int | None:
    """A number of rows; None for ALL."""
    if isinstance(node, exp.Column | exp.Var) and node.name.upper() == "ALL":
        return None
    if isinstance(node, exp.Literal) and str(node.this).isdigit():
        return int(node.this)
    raise InvalidQueryError(f"'{node.sql()[:64]}' is no number of rows", "use a whole number")


def _refuse(node: exp.Select) -> None:
    for key in (
        "qualify",
        "laterals",
        "pivots",
        "sort",
        "cluster",
        "distribute",
        "windows",
        "into",
        "sample",
        "prewhere",
    ):
        if node.args.get(key):
            raise InvalidQueryError(f"{key.upper()} is not supported", "see docs/druid-sql.md")
    distinct = node.args.get("distinct")
    if distinct is not None and distinct.args.get("on") is not None:
        raise InvalidQueryError("DISTINCT ON is not supported", "use LATEST or EARLIEST")


def _is_set(term: exp.Expr) -> bool:
    return isinstance(term, exp.GroupingSets | exp.Cube | exp.Rollup | exp.Tuple)


def _unaliased(node: exp.Expr) -> exp.Expr:
    return node.this if isinstance(node, exp.Alias) else node


def _aggregates(node: exp.Expr) -> bool:
    return any(is_aggregate(str(call.this).upper()) for call in node.find_all(exp.Anonymous))


def _shown(node: exp.Expr, inner: exp.Expr, position: int) -> str:
    if isinstance(node, exp.Alias):
        return str(node.alias)
    return inner.name if isinstance(inner, exp.Column) else f"EXPR${position}"


def _distinct_names(items: list[_Item]) -> list[_Item]:
    """A name that was there before gets a number."""
    taken: set[str] = set()
    named = []
    for item in items:
        shown, number = item.name, 0
        while shown in taken:
            shown, number = f"{item.name}{number}", number + 1
        taken.add(shown)
        named.append(_Item(shown, item.value, item.node))
    return named


def _common_name(alias: str) -> str:
    """What a query of WITH is called in DuckDB: a name that no table has."""
    return f"with {alias}"
