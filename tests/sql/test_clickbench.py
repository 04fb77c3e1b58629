"""The 43 ClickBench queries on a table of their shape: answered from files and hot rows, equal to DuckDB's own answers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import duckdb
import polars as pl
import sqlglot
from polars.testing import assert_frame_equal
from sqlglot import exp

from rta.query.answer import read_stream
from rta.store.layout import table_file
from rta.store.objects import LocalStore
from tests.query.world import FixedView, World, write_to
from tests.sql import clickbench
from tests.sql.asker import Asker, run

ROWS = 20_000
SEED = 7


def build(folder: Path) -> tuple[World, duckdb.DuckDBPyConnection]:
    """The hits, the last part of them hot, and DuckDB over the same files and rows."""
    store, source, rows = LocalStore(folder), clickbench.datasource(), clickbench.rows(ROWS, SEED)
    cuts = [0, 7_000, 15_000, ROWS]
    pieces = [rows.slice(a, b - a) for a, b in pairwise(cuts[:-1])]
    files = [write_to(store, source, "events", piece, number) for number, piece in enumerate(pieces)]
    hot = rows.slice(cuts[-2])
    world = World(store, FixedView(source, {"events": files}, hot))
    paths = [store.uri(table_file(source.folder, f.table, f.path)) for f in files]
    oracle = duckdb.connect()
    oracle.execute("SET TimeZone = 'UTC'")
    oracle.register("beyond", hot)
    oracle.execute(
        f"CREATE VIEW hits AS SELECT * EXCLUDE (__id_hi, __id_lo) FROM "
        f"(FROM read_parquet({paths}, hive_partitioning = false) UNION ALL BY NAME FROM beyond)"
    )
    return world, oracle


def comparable(frame: pl.DataFrame) -> pl.DataFrame:
    """Without what only differs in form: sums of longs as decimals, times in microseconds."""
    numbers = [pl.col(n).cast(pl.Int64) for n, t in frame.schema.items() if isinstance(t, pl.Decimal)]
    times = [pl.col(n).cast(pl.Datetime("ms", "UTC")) for n, t in frame.schema.items() if isinstance(t, pl.Datetime)]
    return frame.with_columns([*numbers, *times])


def own(oracle: duckdb.DuckDBPyConnection, query: str) -> pl.DataFrame:
    found = pl.from_arrow(oracle.sql(query).to_arrow_table())
    assert isinstance(found, pl.DataFrame)
    return comparable(found)


def test_all_43_queries_equal_duckdbs_own_answers(tmp_path: Path) -> None:
    world, oracle = build(tmp_path)

    async def scenario(ask: Asker) -> None:
        assert len(clickbench.COLUMNS) + 1 == 106  # the 105 of the benchmark, and the event time once more
        for number, query in enumerate(clickbench.QUERIES, 1):
            limited = read_stream((await ask(query, form="arrow")).body)
            tree = sqlglot.parse_one(query, dialect="duckdb")
            assert isinstance(tree, exp.Select)
            order = tree.args.get("order")
            # Which of several rows of one rank a LIMIT keeps is anybody's choice: without it the answers are compared whole.
            whole = tree.copy()
            whole.set("limit", None)
            whole.set("offset", None)
            full = read_stream((await ask(whole.sql("duckdb"), form="arrow")).body)
            expected = own(oracle, whole.sql("duckdb"))
            assert full.schema == expected.schema, number
            keys = full.columns
            assert_frame_equal(full.sort(keys), expected.sort(keys), check_exact=False, rel_tol=1e-12)
            theirs = own(oracle, query)
            assert limited.height == theirs.height, number
            assert limited.join(full, on=keys, how="semi", nulls_equal=True).height == limited.height, number
            for entry in order.expressions if order is not None else ():
                name = entry.this.name if isinstance(entry.this, exp.Column) else "count_star()"
                if name in keys:
                    assert_frame_equal(limited.select(name), theirs.select(name), rel_tol=1e-12)

    assert len(clickbench.QUERIES) == 43
    run(tmp_path, scenario, world)
