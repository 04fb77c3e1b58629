"""One SQL statement, read: what kind it is, which tables it names, whether its answer may be kept.

The text is what the engine runs; the tree (sqlglot's) is what rta itself understands of it: tables, times, rollups. Refuses
whatever is no question, here by the tree and in the worker once more by the engine's own reading (`rta.serve.sql_check`).
Knows no datasource: names are texts.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import TokenType

from rta.errors import InvalidQueryError
from rta.query.sql.functions import VOLATILE, is_allowed, is_table_function, refusal

DIALECT = "duckdb"
LENGTH_MAX = 65_536
NODES_MAX = 20_000
CATALOG_SCHEMA = "information_schema"
CATALOG_TABLES = frozenset(
    ("tables", "columns", "schemata", "table_constraints", "key_column_usage", "referential_constraints")
)
ONLY_QUESTIONS = "only questions are answered here: SELECT, WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW TABLES or EXPLAIN"
_EXPLAIN = re.compile(r"\s*explain\b(?P<analyze>\s+analy[sz]e\b)?(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_FORBIDDEN: tuple[type[exp.Expr], ...] = (
    *(exp.Command, exp.Create, exp.Drop, exp.Alter, exp.Comment, exp.TruncateTable, exp.Into),
    *(exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Copy, exp.LoadData),
    *(exp.Set, exp.Pragma, exp.Use, exp.Attach, exp.Detach, exp.Install, exp.Kill, exp.Grant, exp.Revoke),
    *(exp.Transaction, exp.Commit, exp.Rollback, exp.Lock, exp.Cache, exp.Uncache, exp.Refresh, exp.Analyze),
)
_SHOWN = ("TABLES",)
_MARKS = (TokenType.PLACEHOLDER, TokenType.QDCOLON)

# It says on the log what it falls back on; here that is refused.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class TableRef:
    """A table as a statement names it: its path in lower or upper case as written, and where it stands in the tree."""

    path: tuple[str, ...]
    node: exp.Table


@dataclass(frozen=True)
class Statement:
    """A statement that is a question.

    Args:
        text: What the engine runs; parameters are numbered.
        explain: The plan is asked for, not the answer.
    """

    text: str
    tree: exp.Expr
    explain: bool = False

    @cached_property
    def tables(self) -> tuple[TableRef, ...]:
        """Every table that is no common table expression and no function."""
        return tuple(_table_refs(self.tree))

    @cached_property
    def reads_catalog(self) -> bool:
        """Whether it asks which tables there are."""
        return isinstance(self.tree, exp.Show) or any(is_catalog(t.path) for t in self.tables)

    @cached_property
    def is_volatile(self) -> bool:
        """Whether the same data may give another answer the next time."""
        return any(_function_name(f) in VOLATILE for f in self.tree.find_all(exp.Func)) or any(
            self.tree.find_all(
                exp.TableSample, exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime, exp.Rand, exp.Uuid
            )
        )

    @cached_property
    def names(self) -> frozenset[str] | None:
        """Everything that could be a column, in lower case; None where that is all of them."""
        tree = self.tree
        if any(tree.find_all(exp.Star, exp.Columns, exp.Pivot, exp.Describe, exp.Summarize)):
            return None
        if any(join.args.get("method") == "NATURAL" for join in tree.find_all(exp.Join)):
            return None
        found = frozenset(identifier.name.lower() for identifier in tree.find_all(exp.Identifier))
        columns = {column.name.lower() for column in tree.find_all(exp.Column)}
        rows = {ref.node.alias_or_name.lower() for ref in self.tables}
        return None if columns & rows else found


@lru_cache(maxsize=128)
def parse_statement(text: str) -> Statement:
    """Read a statement; the same one is read once.

    Raises:
        InvalidQueryError: it is no SQL, more than one statement, no question, or calls what may not be called.
    """
    if not text.strip():
        raise InvalidQueryError("the query is empty", "write a SELECT statement")
    if len(text) > LENGTH_MAX:
        raise InvalidQueryError(f"the query has {len(text):,} characters", f"use at most {LENGTH_MAX:,}")
    explained = _EXPLAIN.fullmatch(text)
    if explained is not None:
        if explained["analyze"]:
            raise InvalidQueryError(
                "EXPLAIN ANALYZE is not answered here", "leave out ANALYZE; 'meta' has the time taken"
            )
        return replace(parse_statement(explained["rest"]), explain=True)
    try:
        text = _numbered(text)
        trees = [tree for tree in sqlglot.parse(text, dialect=DIALECT) if tree is not None]
    except SqlglotError as error:
        raise InvalidQueryError(
            f"the query is no SQL: {_first_line(error)}", "see docs/sql.md for the dialect"
        ) from error
    except RecursionError:
        raise InvalidQueryError("the query is nested too deep", "write it flatter, or with WITH") from None
    if len(trees) != 1:
        raise InvalidQueryError(f"the query holds {len(trees)} statements", "send one statement a request")
    return checked(Statement(text, trees[0]))


def of_tree(tree: exp.Expr) -> Statement:
    """A statement that was made, not read; parameters in it are numbered. Raises as `parse_statement`."""
    return parse_statement(tree.sql(DIALECT))


def checked(statement: Statement) -> Statement:
    """The statement, if it is a question that may be asked. Raises InvalidQueryError."""
    tree = statement.tree
    if isinstance(tree, exp.Show):
        if tree.name.upper() not in _SHOWN:
            raise InvalidQueryError(f"'SHOW {tree.name[:40]}' is not answered here", "SHOW TABLES is")
        return statement
    if not isinstance(tree, exp.Query | exp.Describe | exp.Summarize | exp.Values):
        raise InvalidQueryError(f"'{_beginning(statement.text)}' is no question", ONLY_QUESTIONS)
    count = 0
    for node in tree.walk():
        count += 1
        if isinstance(node, _FORBIDDEN):
            raise InvalidQueryError(f"'{node.key.upper()}' is not possible in a question", ONLY_QUESTIONS)
        if isinstance(node, exp.Func):
            _check_function(node)
    if count > NODES_MAX:
        raise InvalidQueryError(f"the query has {count:,} parts", f"at most {NODES_MAX:,} are possible")
    return statement


def is_catalog(path: tuple[str, ...]) -> bool:
    """Whether a table is one of `information_schema`. Raises InvalidQueryError for one of it that is not shown."""
    if len(path) < 2 or path[-2].lower() != CATALOG_SCHEMA:
        return False
    if path[-1].lower() not in CATALOG_TABLES:
        raise InvalidQueryError(
            f"'{CATALOG_SCHEMA}.{path[-1][:64]}' is not shown here", f"there are: {', '.join(sorted(CATALOG_TABLES))}"
        )
    return True


def refused_function(name: str, table: bool) -> InvalidQueryError:
    """The refusal of a function that is not in the list."""
    reason = refusal(name)
    about = f": it is about {reason}" if reason else ""
    where = "where a table stands" if table else "in a query"
    return InvalidQueryError(
        f"the function '{name[:64]}' can't be called {where}{about}",
        "functions that reach files, the network or settings are refused; see docs/sql.md",
    )


def _check_function(node: exp.Func) -> None:
    name = _function_name(node)
    stands_as_table = isinstance(node.parent, exp.Table)
    if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        if stands_as_table and not is_table_function(name):
            raise refused_function(name, True)
        if not is_allowed(name) and not is_table_function(name):
            raise refused_function(name, False)
    elif refusal(name):
        raise refused_function(name, stands_as_table)


def _function_name(node: exp.Func) -> str:
    name = node.name if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc) else node.sql_name()
    return str(name).lower()


def _numbered(text: str) -> str:
    """The text with `?` numbered from the left, as `$1`, `$2`: so that everybody counts them alike."""
    tokens = sqlglot.tokenize(text, dialect=DIALECT)
    # `?::` is one token of the reader's: a parameter and the cast behind it.
    marks = [t for t in tokens if t.text in ("?", "?::") and t.token_type in _MARKS]
    if marks and any(t.token_type is TokenType.PARAMETER for t in tokens):
        raise InvalidQueryError("the query has parameters of both kinds, '?' and '$1'", "use one kind")
    pieces, at = [], 0
    for number, token in enumerate(marks, 1):
        pieces += [text[at : token.start], f"${number}{token.text[1:]}"]
        at = token.end + 1
    return "".join(pieces) + text[at:]


def _table_refs(tree: exp.Expr) -> Iterator[TableRef]:
    for node in tree.find_all(exp.Table):
        if not isinstance(node.this, exp.Identifier | exp.Dot):
            continue
        path = tuple(part.name for part in node.parts)
        if len(path) == 1 and _is_common(node):
            continue
        yield TableRef(path, node)


def _is_common(table: exp.Table) -> bool:
    """Whether the name is that of a common table expression that is visible where it stands."""
    name = table.name.lower()
    inside: exp.Expr = table
    node = table.parent
    while node is not None:
        if isinstance(node, exp.With):
            before = node.expressions if node.args.get("recursive") else node.expressions[: _index(node, inside)]
            if any(cte.alias.lower() == name for cte in before):
                return True
        else:
            with_ = node.args.get("with_")
            if with_ is not None and with_ is not inside and any(c.alias.lower() == name for c in with_.expressions):
                return True
        inside, node = node, node.parent
    return False


def _index(with_: exp.With, inside: exp.Expr) -> int:
    return next((i for i, cte in enumerate(with_.expressions) if cte is inside), 0)


def _beginning(text: str) -> str:
    words = text.split()
    return " ".join(words[:2])[:40].upper()


def _first_line(error: Exception) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return " ".join(text.split())[:300]
