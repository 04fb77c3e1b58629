"""The second look at a statement, through the engine's own eyes: what it would call and read, before it does.

The first look (`rta.query.sql.statement`) is at another parser's tree; where the two read a text differently, this one holds.
Everything is refused that is not known to be harmless, also what a newer engine may bring.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rta.errors import InvalidQueryError
from rta.query.sql.functions import is_allowed, is_table_function
from rta.query.sql.statement import CATALOG_SCHEMA, ONLY_QUESTIONS, is_catalog, refused_function
from rta.query.sql.tables import unqualified

if TYPE_CHECKING:
    import duckdb

_NODES = frozenset(("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"))
_TABLES = frozenset(
    ("BASE_TABLE", "TABLE_FUNCTION", "SUBQUERY", "JOIN", "EXPRESSION_LIST", "EMPTY", "EMPTY_FROM", "SHOW_REF", "PIVOT")
)
_MODIFIERS = frozenset(("ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"))
_ORDERS = frozenset(("ORDER_DEFAULT", "ASCENDING", "DESCENDING"))
_KNOWN = _NODES | _TABLES | _MODIFIERS | _ORDERS
_LIKE_A_FILE = re.compile(r"[./\\\\:*?\[]")
_SHOWN = frozenset(("DESCRIBE", "SUMMARY"))


def check(connection: duckdb.DuckDBPyConnection, text: str, tables: frozenset[tuple[str, ...]]) -> None:
    """Refuse a statement that is more than a question about these tables.

    Args:
        tables: Paths in lower case, `("wikipedia",)` or `("wikipedia", "rejected")`.

    Raises:
        InvalidQueryError: what it is, or names, is not possible here.
    """
    document = _parsed(connection, text)
    statements = document.get("statements", [])
    if document.get("error") or len(statements) != 1:
        raise InvalidQueryError(f"the query is no question: {document.get('error_message')}", ONLY_QUESTIONS)
    common: set[str] = set()
    nodes = list(_nodes(statements[0]["node"]))
    for node in nodes:
        common |= {str(entry["key"]).lower() for entry in (node.get("cte_map") or {}).get("map", [])}
        if node.get("type") == "RECURSIVE_CTE_NODE":
            common.add(str(node.get("cte_name")).lower())
    # In a WITH that refers to itself without being recursive, the engine looks for a file of that name.
    hidden = common & _system_names(connection) | {name for name in common if _LIKE_A_FILE.search(name)}
    if hidden:
        raise InvalidQueryError(f"'{min(hidden)}' can't be the name of a WITH", "give it another name")
    for node in nodes:
        _check_node(node, tables, common)


def _parsed(connection: duckdb.DuckDBPyConnection, text: str) -> dict[str, Any]:
    row = connection.execute("SELECT json_serialize_sql(?)", [text]).fetchall()[0]
    found: dict[str, Any] = json.loads(row[0])
    return found


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    pending = [tree]
    while pending:
        at = pending.pop()
        if isinstance(at, dict):
            yield at
            pending += at.values()
        elif isinstance(at, list):
            pending += at


def _check_node(node: dict[str, Any], tables: frozenset[tuple[str, ...]], common: set[str]) -> None:
    kind = node.get("type")
    if "class" in node:
        if node["class"] in ("FUNCTION", "WINDOW") and not node.get("is_operator"):
            name = str(node.get("function_name", ""))
            if name and not is_allowed(name):
                raise refused_function(name, False)
        return
    if not isinstance(kind, str):
        return
    if kind not in _KNOWN:
        raise InvalidQueryError(f"'{kind.replace('_QUERY_NODE', '')}' is not possible in a question", ONLY_QUESTIONS)
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", ""))
        if not is_table_function(name):
            raise refused_function(name, True)
    elif kind == "BASE_TABLE":
        path = tuple(str(part) for part in node["qualified_name"]["path"])
        _check_table(path, tables, common)
    elif kind == "SHOW_REF" and node.get("show_type") not in _SHOWN and node.get("table_name") != '"tables"':
        raise InvalidQueryError("this SHOW is not answered here", "SHOW TABLES is")


def _check_table(path: tuple[str, ...], tables: frozenset[tuple[str, ...]], common: set[str]) -> None:
    lower = tuple(part.lower() for part in path)
    if unqualified(lower) in tables or (len(lower) == 1 and lower[0] in common):
        return
    if CATALOG_SCHEMA in lower and is_catalog(lower):
        return
    raise InvalidQueryError(f"'{'.'.join(path)[:100]}' is no table here", "SHOW TABLES lists all of them")


def _system_names(connection: duckdb.DuckDBPyConnection) -> set[str]:
    return {
        row[0].lower() for row in connection.execute("SELECT view_name FROM duckdb_views() WHERE internal").fetchall()
    }
