"""FROM and JOIN: which relation a name, a subquery, VALUES or UNNEST is, and DuckDB's text for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from rta.errors import InvalidQueryError
from rta.query.druidsql.scope import Column, Relation, Scope
from rta.query.druidsql.typed import as_array, name

if TYPE_CHECKING:
    from rta.query.druidsql.queries import Queries
    from rta.query.druidsql.translator import Translator

_SIDES = ("LEFT", "RIGHT", "FULL")


def from_clause(queries: Queries, node: exp.Select, scope: Scope, translator: Translator) -> str:
    """` FROM …` or nothing; the relations are put into the scope."""
    clause = node.args.get("from_")
    if clause is None:
        return ""
    text = f" FROM {relation(queries, clause.this, scope, translator)}"
    for join in node.args.get("joins") or []:
        text += _join(queries, join, scope, translator)
    return text


def relation(queries: Queries, node: exp.Expr, scope: Scope, translator: Translator) -> str:
    if isinstance(node, exp.Subquery):
        return _subquery(queries, node, scope)
    if isinstance(node, exp.Values):
        found = queries.values(node, scope.outer)
        alias = node.args.get("alias")
        return _derived(scope, f"({found.sql})", node.alias or "_values", found.columns(_names(alias)))
    if isinstance(node, exp.Unnest):
        return _unnest(node, scope, translator)
    if isinstance(node, exp.Table) and isinstance(node.this, exp.Anonymous):
        inner = node.this.expressions[0] if node.this.expressions else node.this
        word = str(inner.this) if isinstance(inner, exp.Anonymous) else str(node.this.this)
        raise InvalidQueryError(f"the table function {word[:64].upper()} is not supported", "name a table")
    if not isinstance(node, exp.Table):
        raise InvalidQueryError(f"'{node.sql(dialect='druid')[:64]}' is no table", "name a table or a subquery")
    return _table(queries, node, scope, translator)


def _table(queries: Queries, node: exp.Table, scope: Scope, translator: Translator) -> str:
    alias = node.alias or node.name
    common = queries.common_table(node.name) if not node.db else None
    if common is not None:
        scope.add(Relation(alias, common))
        text = f"{name(f'with {node.name}')} AS {name(alias)}"
    else:
        table = queries.catalog.table(node.name, node.db or "druid")
        queries.used.append(table)
        for key in ("sample", "pivots", "hints", "version", "when", "ordinality", "only", "partition", "changes"):
            if node.args.get(key):
                raise InvalidQueryError(
                    f"{key.upper()} behind the table '{table.name}' is not supported", "leave it out"
                )
        given = _names(node.args.get("alias"))
        if given:
            raise InvalidQueryError(f"the columns of '{table.name}' can't be renamed in FROM", "use a subquery")
        scope.add(Relation(alias, table.columns))
        text = f"{table.source(queries.parameters)} AS {name(alias)}"
    for join in node.args.get("joins") or []:
        text += _join(queries, join, scope, translator)
    return text


def _subquery(queries: Queries, node: exp.Subquery, scope: Scope) -> str:
    found = queries.query(node.this, scope.outer)
    alias = node.alias or f"_q{len(scope.relations)}"
    return _derived(scope, f"({found.sql})", alias, found.columns(_names(node.args.get("alias"))))


def _derived(scope: Scope, sql: str, alias: str, columns: tuple[Column, ...]) -> str:
    scope.add(Relation(alias, columns))
    return f"{sql} AS {name(alias)}({', '.join(name(c.name) for c in columns)})"


def _names(alias: exp.TableAlias | None) -> list[str]:
    return [] if alias is None else [c.name for c in alias.columns]


def _unnest(node: exp.Unnest, scope: Scope, translator: Translator) -> str:
    """One row per element of an array of the relations before it."""
    if len(node.expressions) != 1:
        raise InvalidQueryError("UNNEST takes one array", "use one UNNEST for each")
    array = as_array(translator.translate(node.expressions[0]), translator.zone)
    names = _names(node.args.get("alias"))
    alias = node.alias or "_unnest"
    column = names[0] if names else "EXPR$0"
    scope.add(Relation(alias, (Column(column, array.kind.element),)))
    return f"LATERAL (SELECT unnest({array.sql})) AS {name(alias)}({name(column)})"


def _join(queries: Queries, join: exp.Join, scope: Scope, translator: Translator) -> str:
    side, kind = str(join.args.get("side") or "").upper(), str(join.args.get("kind") or "").upper()
    if join.args.get("method") or kind in ("SEMI", "ANTI", "ASOF") or (side and side not in _SIDES):
        raise InvalidQueryError(
            f"'{join.sql(dialect='druid')[:64]}' is not supported", "use INNER, LEFT, RIGHT, FULL or CROSS"
        )
    before = len(scope.relations)
    right = relation(queries, join.this, scope, translator)
    on, using = join.args.get("on"), join.args.get("using")
    if using:
        scope.merged |= {c.name for c in using}
        return f" {side or 'INNER'} JOIN {right} ON {_using(using, scope, before)}"
    if on is None:
        return f" CROSS JOIN {right}"
    return f" {side or 'INNER'} JOIN {right} ON {translator.condition(on)}"


def _using(columns: list[exp.Expr], scope: Scope, before: int) -> str:
    left = Scope(scope.relations[:before])
    right = Scope(scope.relations[before:])
    return " AND ".join(f"{left.column(c.name, None).sql} = {right.column(c.name, None).sql}" for c in columns)
