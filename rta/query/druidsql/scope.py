"""What names mean in a query: the tables a client sees, and the columns that are in sight of an expression.

Owns finding a column by name, and the errors that say what there is instead. Names keep their case; one that differs in case
alone from a single column means it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rta.errors import InvalidQueryError
from rta.query.druidsql.kinds import Kind
from rta.query.druidsql.typed import Typed, name


@dataclass(frozen=True, slots=True)
class Column:
    """A column in sight. `hidden` ones answer to their name and are not in `*`; `sql` is DuckDB's text for it."""

    name: str
    kind: Kind
    hidden: bool = False
    path: str = ""
    """Another name that it answers to: the dotted path of its value in an event."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a schema. `source` gives DuckDB's text for it in FROM; values that it needs go to the list of parameters."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    source: Callable[[list[str]], str]
    system: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """What stands in FROM under an alias."""

    alias: str
    columns: tuple[Column, ...]


@dataclass(slots=True)
class Scope:
    """The relations of one SELECT, within the scope that it stands in."""

    relations: list[Relation] = field(default_factory=list)
    outer: Scope | None = None
    merged: set[str] = field(default_factory=set)
    """Columns of USING: alone they mean the left one."""

    def add(self, relation: Relation) -> None:
        if any(r.alias == relation.alias for r in self.relations):
            raise InvalidQueryError(f"the name '{relation.alias}' stands for two tables", "give one of them an alias")
        self.relations.append(relation)

    def column(self, column: str, table: str | None) -> Typed:
        """Raises InvalidQueryError when there is none, or more than one."""
        scope: Scope | None = self
        while scope is not None:
            found = scope._matches(column, table)
            if len(found) > 1 and not (table is None and column in scope.merged):
                raise InvalidQueryError(f"Column '{column}' is ambiguous", "write table.column")
            if found:
                relation, match = found[0]
                return Typed(f"{name(relation.alias)}.{name(match.name)}", match.kind)
            scope = scope.outer
        raise self._unknown(column, table)

    def star(self, table: str | None) -> list[tuple[str, Typed]]:
        """What `*` or `table.*` stands for."""
        chosen = [r for r in self.relations if table is None or _same(r.alias, table)]
        if not chosen:
            raise InvalidQueryError(f"Table '{table}' not found" if table else "SELECT * requires a FROM clause")
        return [
            (c.name, Typed(f"{name(r.alias)}.{name(c.name)}", c.kind))
            for r in chosen
            for c in r.columns
            if not c.hidden
        ]

    def _matches(self, column: str, table: str | None) -> list[tuple[Relation, Column]]:
        within = [r for r in self.relations if table is None or _same(r.alias, table)]
        for fits in (_exact, _by_path, _any_case):
            found = [(r, c) for r in within for c in r.columns if fits(c, column)]
            if found:
                return found
        return []

    def _unknown(self, column: str, table: str | None) -> InvalidQueryError:
        names = [c.name for r in self.relations for c in r.columns]
        near = difflib.get_close_matches(column, names, 1)
        hint = f"did you mean '{near[0]}'?" if near else "see INFORMATION_SCHEMA.COLUMNS for what there is"
        if table is not None and not any(_same(r.alias, table) for r in self.relations):
            return InvalidQueryError(f"Table '{table}' not found", hint)
        where = f"table '{table}'" if table is not None else "any table"
        return InvalidQueryError(f"Column '{column}' not found in {where}", hint)


class Catalog:
    """The tables that a client sees."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = {(t.schema.lower(), t.name): t for t in tables}

    def tables(self) -> list[Table]:
        return list(self._tables.values())

    def table(self, table: str, schema: str) -> Table:
        """Raises InvalidQueryError that names the nearest one."""
        if schema.lower() == "lookup":
            raise InvalidQueryError(f"there is no lookup '{table}': lookups are not supported", "join a table instead")
        found = self._tables.get((schema.lower(), table))
        if found is not None:
            return found
        alike = [t for (s, n), t in self._tables.items() if s == schema.lower() and n.lower() == table.lower()]
        if len(alike) == 1:
            return alike[0]
        names = [n for s, n in self._tables if s == schema.lower()]
        if not names:
            raise InvalidQueryError(f"Object '{schema}' not found", "use druid, sys or INFORMATION_SCHEMA")
        near = difflib.get_close_matches(table, names, 1)
        hint = f"did you mean '{near[0]}'?" if near else "see INFORMATION_SCHEMA.TABLES for what there is"
        raise InvalidQueryError(f"Object '{table}' not found within '{schema}'", hint)


def _same(left: str, right: str) -> bool:
    return left == right or left.lower() == right.lower()


def _exact(column: Column, wanted: str) -> bool:
    return column.name == wanted


def _by_path(column: Column, wanted: str) -> bool:
    return column.path == wanted


def _any_case(column: Column, wanted: str) -> bool:
    return column.name.lower() == wanted.lower()
