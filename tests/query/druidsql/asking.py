"""Druid SQL over the Wikipedia rows: translated, and run by a plain DuckDB in this process."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import duckdb
import orjson
import pyarrow as pa

from rta.events.schemas import TIME, TIMESTAMP, Column, ColumnType, Datasource, Retention
from rta.query.druidsql.context import read_context
from rta.query.druidsql.dialect import parse_statement
from rta.query.druidsql.parameters import with_parameters
from rta.query.druidsql.render import Form, render
from rta.query.druidsql.scope import Catalog
from rta.query.druidsql.system import catalog
from rta.query.druidsql.tables import druid_tables
from rta.query.druidsql.translate import Translation, translate
from tests.query import wikipedia

NOW_MS = wikipedia.NOW_MS
TAGS: list[tuple[int, list[str] | None, str | None, float | None, str | None]] = [
    (0, ["a", "b"], "x", 1.5, '{"n": 1, "o": {"p": [10, 20]}, "s": "t"}'),
    (1, ["a"], "y", -2.5, '{"n": "7"}'),
    (2, [], "", None, "{}"),
    (3, None, None, 4.0, None),
    (4, ["c", "a", "c"], "7", 0.0, '{"n": 2.5, "o": null}'),
]
"""Hour of 2024-03-10, values of a multi-value string, a text, a number, JSON. On that day New York's clock skips 2:00."""
DAY_MS = 1_710_028_800_000


@lru_cache(maxsize=1)
def tagged() -> Datasource:
    columns = (
        Column("tags", ColumnType.STRINGS, ("tags",)),
        Column("word", ColumnType.STRING, ("word",)),
        Column("size", ColumnType.DOUBLE, ("measures", "size")),
        Column("doc", ColumnType.JSON, ("doc",)),
    )
    return Datasource(
        name="tagged", incarnation="1", version=1, partitions=1, time_path=("time",), keys=(), id="word",
        columns=columns, retention=Retention(rejected_ms=None),
    )  # fmt: skip


@lru_cache(maxsize=1)
def engine() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    hours = [DAY_MS + hour * 3_600_000 for hour, *_ in TAGS]
    rows = pa.table(
        {
            TIME: pa.array(hours, pa.int64()).cast(TIMESTAMP),
            "tags": pa.array([t for _, t, *_ in TAGS], pa.list_(pa.string())),
            "word": [w for _, _, w, *_ in TAGS],
            "size": [s for *_, s, _ in TAGS],
            "doc": [d for *_, d in TAGS],
            "__rest": ['{"extra": 5}'] + [None] * (len(TAGS) - 1),
        }
    )
    for name, table in (("wikipedia", wikipedia.raw_rows()), ("tagged", rows)):
        connection.register(f"{name}_rows", table)
        connection.execute(f"CREATE TABLE {name} AS FROM {name}_rows")
    return connection


@lru_cache(maxsize=1)
def tables() -> Catalog:
    return catalog(
        druid_tables([wikipedia.datasource(), tagged()]), {"servers": [{"server": "here:1", "tls_port": -1}]}
    )


def translated(query: str, parameters: list[Any] | None = None, **context: Any) -> Translation:
    statement = parse_statement(with_parameters(query, parameters or []))
    return translate(statement, tables(), read_context({**context, **statement.settings}), NOW_MS)


OBJECTS = Form()


def body(query: str, form: Form = OBJECTS, parameters: list[Any] | None = None, **context: Any) -> bytes:
    found = translated(query, parameters, **context)
    rows = engine().execute(found.sql, list(found.parameters)).to_arrow_table()
    return render(rows, found.columns, form)


def rows(query: str, parameters: list[Any] | None = None, **context: Any) -> list[list[Any]]:
    """The rows as a client reads them from the format `array`."""
    zone = read_context(context).zone
    found = orjson.loads(body(query, Form("array", zone=zone), parameters, **context))
    assert isinstance(found, list)
    return found


def value(expression: str, **context: Any) -> Any:
    """What an expression without a table comes to."""
    (row,) = rows(f"SELECT {expression}", **context)
    return row[0]
