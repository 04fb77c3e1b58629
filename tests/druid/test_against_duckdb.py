"""Random native queries over random rows, with late, null, repeated and foreign texts, against DuckDB's SQL on the same rows."""

from __future__ import annotations

import random
from typing import Any

import duckdb
import polars as pl
import pytest

from rta.druid.periods import stamp
from rta.events.schemas import TIME
from tests.druid.tables import ask, table_of

TEXTS = ["a", "b", "B", "", "10", "9", "é", "日本", "a b", "x%y", None]
START_MS = 1_774_738_800_000
"""2026-03-28T23:00Z: the night before Europe's clocks change."""
QUERIES = 30


def rows(random_: random.Random) -> pl.DataFrame:
    count = 400
    return pl.DataFrame(
        {
            TIME: sorted(START_MS + random_.randrange(0, 3 * 86_400_000) for _ in range(count)),
            "s": [random_.choice(TEXTS) for _ in range(count)],
            "r": [random_.choice(TEXTS[:4]) for _ in range(count)],
            "n": [random_.choice([None, *range(-5, 20)]) for _ in range(count)],
            "d": [random_.choice([None, 0.0, -1.5, 2.25, 1e6]) for _ in range(count)],
        }
    )


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def condition(random_: random.Random, depth: int = 0) -> tuple[dict[str, Any], str]:
    """A filter, and the same in SQL."""
    kind = random_.choice(
        ["selector", "in", "bound", "number", "null", "like", *(["and", "or", "not"] if depth < 2 else [])]
    )
    column = random_.choice(["s", "r"])
    some = [t for t in random_.sample(TEXTS, 3) if t is not None]
    if kind == "selector":
        return {"type": "selector", "dimension": column, "value": some[0]}, f"{column} = {quoted(some[0])}"
    if kind == "in":
        return {"type": "in", "dimension": column, "values": some}, f"{column} IN ({', '.join(map(quoted, some))})"
    if kind == "bound":
        spec = {"type": "bound", "dimension": column, "lower": some[0], "lowerStrict": True}
        return spec, f"{column} > {quoted(some[0])}"
    if kind == "number":
        low = random_.randrange(-5, 20)
        spec = {
            "type": "range",
            "column": "n",
            "matchValueType": "LONG",
            "lower": low,
            "upper": low + 7,
            "upperOpen": True,
        }
        return spec, f"(n >= {low} AND n < {low + 7})"
    if kind == "null":
        return {"type": "null", "column": column}, f"{column} IS NULL"
    if kind == "like":
        return {"type": "like", "dimension": column, "pattern": "%a%"}, f"{column} LIKE '%a%'"
    if kind == "not":
        inner, sql = condition(random_, depth + 1)
        return {"type": "not", "field": inner}, f"NOT ({sql})"
    parts = [condition(random_, depth + 1) for _ in range(2)]
    joined = f" {kind.upper()} ".join(f"({sql})" for _, sql in parts)
    return {"type": kind, "fields": [spec for spec, _ in parts]}, joined


STEPS: list[tuple[Any, str, str]] = [
    ("all", "NULL", "UTC"),
    ("hour", "date_trunc('hour', t)", "UTC"),
    ("day", "date_trunc('day', t)", "UTC"),
    (
        {"type": "period", "period": "P1D", "timeZone": "Europe/Berlin"},
        "date_trunc('day', t AT TIME ZONE 'UTC' AT TIME ZONE 'Europe/Berlin') AT TIME ZONE 'Europe/Berlin' AT TIME ZONE 'UTC'",
        "Europe/Berlin",
    ),
]
AGGREGATORS: list[dict[str, Any]] = [
    {"type": "count", "name": "c"},
    {"type": "longSum", "name": "ls", "fieldName": "n"},
    {"type": "doubleSum", "name": "ds", "fieldName": "d"},
    {"type": "longSum", "name": "cut", "fieldName": "d"},
    {"type": "longMin", "name": "low", "fieldName": "n"},
    {"type": "doubleMax", "name": "high", "fieldName": "d"},
    {
        "type": "filtered",
        "filter": {"type": "selector", "dimension": "r", "value": "a"},
        "aggregator": {"type": "count", "name": "as"},
    },
    {"type": "longFirst", "name": "first", "fieldName": "n"},
]
NAMES = ["c", "ls", "ds", "cut", "low", "high", "as", "first"]
SQL = "count(*), sum(n), sum(d), sum(trunc(d)::BIGINT), min(n), max(d), count(*) FILTER (r = 'a'), arg_min_null(n, t)"


@pytest.mark.parametrize("seed", range(2))
def test_groups_equal_those_of_sql(seed: int) -> None:
    random_ = random.Random(seed)
    frame = rows(random_)
    table = table_of(frame)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("rows", frame.to_arrow())
        for _ in range(QUERIES):
            spec, where = condition(random_)
            granularity, bucket, zone = random_.choice(STEPS)
            dimensions = random_.sample(["s", "r"], random_.randrange(2))
            found = ask(
                table,
                queryType="groupBy",
                granularity=granularity,
                dimensions=dimensions,
                aggregations=AGGREGATORS,
                filter=spec,
                intervals="2026-03-01/2026-04-30",
            )
            keys = [f"epoch_ms({bucket})" if granularity != "all" else "NULL", *dimensions]
            source = "(SELECT *, make_timestamp(__time * 1000) AS t FROM rows)"
            sql = f"SELECT {', '.join(keys)}, {SQL} FROM {source} WHERE {where} GROUP BY ALL"
            expected = [r for r in connection.execute(sql).fetchall() if r[len(keys)]]
            assert len(found) == len(expected), (seed, spec, sql)
            answers = {(row["timestamp"], *(row["event"][d] for d in dimensions)): row["event"] for row in found}
            for row in expected:
                start = "2026-03-01T00:00:00.000Z" if granularity == "all" else stamp(row[0], zone)
                event = answers[(start, *row[1 : len(keys)])]
                values = [event[name] for name in NAMES]
                assert values == pytest.approx(list(row[len(keys) :])), (seed, spec, granularity)
