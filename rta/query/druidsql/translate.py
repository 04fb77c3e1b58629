"""The public face: Druid SQL and its parameters → a statement for the engine, the columns of the answer, the tables it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlglot import exp

from rta.errors import InvalidQueryError
from rta.query.druidsql.context import Context
from rta.query.druidsql.dialect import Statement
from rta.query.druidsql.kinds import VARCHAR, Base, Kind, native_type
from rta.query.druidsql.queries import Queries
from rta.query.druidsql.scope import Catalog
from rta.query.druidsql.typed import name, quoted


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """A column of the answer. `as_json` is of lists that stay lists."""

    name: str
    kind: Kind
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Translation:
    """A statement in DuckDB's words.

    Args:
        tables: The tables of datasources that it reads.
        parameters: What stands for `$1`, `$2`, … in it.
    """

    sql: str
    columns: tuple[OutputColumn, ...]
    tables: tuple[str, ...]
    parameters: tuple[str, ...] = ()


def translate(statement: Statement, catalog: Catalog, context: Context, now_ms: int) -> Translation:
    """Raises InvalidQueryError that names what is not understood or not supported."""
    queries = Queries(catalog, context, now_ms)
    try:
        found = queries.query(statement.query, last=True)
    except RecursionError as error:
        raise InvalidQueryError("the query is nested too deeply", "write it with fewer brackets") from error
    tables = tuple(dict.fromkeys(t.name for t in queries.used if not t.system))
    if statement.explained:
        return _explained(found.sql, found.names, found.kinds, tables)
    columns = [OutputColumn(n, k) for n, k in zip(found.names, found.kinds, strict=True)]
    for column in columns:
        if column.kind.is_sketch and not context.finalize_sketches:
            raise InvalidQueryError(
                f"the column '{column.name}' is a {column.kind.base}: sketches can't be sent",
                "use HLL_SKETCH_ESTIMATE, THETA_SKETCH_ESTIMATE or DS_GET_QUANTILE",
            )
    if any(c.kind.is_list or c.kind.is_sketch for c in columns):
        sent = tuple(_sent(c, context) for c in columns)
        return Translation(_flattened(found.sql, columns, context), sent, tables, tuple(queries.parameters))
    return Translation(found.sql, tuple(columns), tables, tuple(queries.parameters))


def _flattened(sql: str, columns: Sequence[OutputColumn], context: Context) -> str:
    """Lists as the client gets them: a multi-value string with one value is that value."""
    chosen = []
    for column in columns:
        text = f"_r.{name(column.name)}"
        if column.kind.is_sketch:
            text = f"len({text})"
        elif column.kind.multi and context.stringify_arrays:
            many = f"CAST(to_json({text}) AS VARCHAR)"
            text = f"CASE len({text}) WHEN 0 THEN NULL WHEN 1 THEN list_extract({text}, 1) ELSE {many} END"
        elif (column.kind.is_list and column.kind.is_time) or (
            column.kind.array and column.kind.base is Base.TIMESTAMP
        ):
            text = f"list_transform({text}, lambda _e: epoch_ms(_e))"
        if column.kind.array and context.stringify_arrays:
            text = f"CAST(to_json({text}) AS VARCHAR)"
        chosen.append(f"{text} AS {name(column.name)}")
    return f"SELECT {', '.join(chosen)} FROM ({sql}) AS _r"


def _sent(column: OutputColumn, context: Context) -> OutputColumn:
    if column.kind.is_sketch:
        return OutputColumn(column.name, Kind(Base.BIGINT))
    return OutputColumn(column.name, column.kind, column.kind.is_list and not context.stringify_arrays)


def _explained(sql: str, names: Sequence[str], kinds: Sequence[Kind], tables: Sequence[str]) -> Translation:
    """One row with the plan, what it reads, and what kind of statement it is, each as JSON."""
    signature = [{"name": n, "type": native_type(k)} for n, k in zip(names, kinds, strict=True)]
    mappings = [{"queryColumn": n, "outputColumn": n} for n in names]
    plan = [
        {
            "query": {"queryType": "sql", "dialect": "duckdb", "sql": sql},
            "signature": signature,
            "columnMappings": mappings,
        }
    ]
    resources = [{"name": table, "type": "DATASOURCE"} for table in tables]
    texts = {"PLAN": plan, "RESOURCES": resources, "ATTRIBUTES": {"statementType": "SELECT"}}
    chosen = ", ".join(f"{quoted(orjson.dumps(value).decode())} AS {name(key)}" for key, value in texts.items())
    return Translation(f"SELECT {chosen}", tuple(OutputColumn(key, VARCHAR) for key in texts), ())


def sys_tables_of(statement: Statement) -> set[str]:
    """Which tables of `sys` the statement names, so that their rows can be fetched."""
    return {t.name.lower() for t in statement.query.find_all(exp.Table) if t.db.lower() == "sys"}
