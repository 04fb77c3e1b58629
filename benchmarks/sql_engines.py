"""DuckDB, by itself and through Arrow, and DataFusion on Parquet files of rta's own: CPU time of the questions D1-D5 in SQL.

The input is that of `benchmarks.questions`, written by `rta.store.parquet` as an aggregator writes it. One thread, files in the
page cache, the least of five runs. Run: `python -m benchmarks.sql_engines [--events N]`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import datafusion
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from rta.events.schemas import TIME, TIMESTAMP
from rta.store.objects import LocalStore
from rta.store.parquet import write_table_file
from rta.stream.model import TableWrite

EVENTS = 2_000_000
FILES = 8
RUNS = 5
START_MS = 1_767_225_600_000
_T = "TIMESTAMPTZ '2026-01-01 00:{}:00+00'"
QUESTIONS = {
    "D1": f"SELECT date_trunc('minute', __time) AS m, count(*), sum(price) FROM events WHERE country = 'C3' "
    f"AND __time >= {_T.format(10)} AND __time < {_T.format(25)} GROUP BY 1 ORDER BY 1",
    "D2": "SELECT country, sum(price) AS s FROM events GROUP BY country ORDER BY s DESC LIMIT 10",
    "D3": f"SELECT device, approx_quantile(price, 0.95), approx_count_distinct(user_id) FROM events "
    f"WHERE __time >= {_T.format(10)} AND __time < {_T.format(15)} GROUP BY device",
    "D4": "SELECT date_trunc('hour', __time) AS h, country, device, count(*) FROM events "
    "WHERE event_type IN ('E1', 'E2') GROUP BY 1, 2, 3",
    "D5": "SELECT * FROM events WHERE user_id = 'user_77' ORDER BY __time DESC LIMIT 100",
}
_DATAFUSION = {"approx_quantile(": "approx_percentile_cont(", "approx_count_distinct(": "approx_distinct("}


def rows(first: int, count: int) -> pa.Table:
    draw = np.random.default_rng(first)

    def text(prefix: str, kinds: int) -> pa.Array:
        return pa.array(np.array([f"{prefix}{k}" for k in range(kinds)], object)[draw.integers(0, kinds, count)])

    return pa.table(
        {
            TIME: pa.array(START_MS + first + np.arange(count)).cast(TIMESTAMP),
            "event_id": pa.array([f"{first + k:032x}" for k in range(count)]),
            "event_type": text("E", 8),
            "user_id": text("user_", 200_000),
            "country": text("C", 20),
            "device": text("D", 3),
            "category": text("K", 4),
            "price": pa.array(draw.integers(100, 50_000, count) / 100),
        }
    )


def written(folder: Path, events: int) -> list[str]:
    store = LocalStore(folder)
    each = events // FILES
    for number in range(FILES):
        piece = rows(number * each, each)
        first = START_MS + number * each
        write = TableWrite("events", "2026-01-01", piece, first, first + each - 1)
        write_table_file(store, "events.1", write, f"bench-1-{number}-0.parquet")
    return sorted(str(path) for path in folder.rglob("*.parquet"))


def engines(paths: list[str]) -> dict[str, Callable[[str], object]]:
    """By name, what runs a statement to its end."""
    native, arrow = (duckdb.connect(config={"threads": "1", "python_enable_replacements": "false"}) for _ in range(2))
    for connection in (native, arrow):
        connection.execute("SET TimeZone = 'UTC'")
    native.execute(f"CREATE VIEW events AS FROM read_parquet({paths}, union_by_name = true, hive_partitioning = false)")
    dataset = ds.dataset(paths, format="parquet")
    arrow.register("events", dataset)
    context = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(1))
    context.register_parquet("events", str(Path(paths[0]).parent))

    def by_datafusion(statement: str) -> object:
        for ours, theirs in _DATAFUSION.items():
            statement = statement.replace(ours, theirs)
        return context.sql(statement).collect()

    return {
        "DuckDB, read_parquet": lambda statement: native.sql(statement).to_arrow_table(),
        "DuckDB, Arrow dataset": lambda statement: arrow.sql(statement).to_arrow_table(),
        "DataFusion": by_datafusion,
    }


def cpu_ms(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(RUNS):
        begun = time.process_time()
        work()
        best = min(best, time.process_time() - begun)
    return best * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of SQL engines on rta's files.")
    parser.add_argument("--events", type=int, default=EVENTS)
    events = parser.parse_args().events
    with tempfile.TemporaryDirectory() as folder:
        paths = written(Path(folder), events)
        size = sum(os.path.getsize(path) for path in paths)
        print(f"{events:,} events, {len(paths)} files, {size / 1e6:.1f} MB; CPU ms, one thread")
        print(f"{'':<24}" + "".join(f"{name:>9}" for name in QUESTIONS))
        for name, run in engines(paths).items():
            found = [cpu_ms(partial(run, statement)) for statement in QUESTIONS.values()]
            print(f"{name:<24}" + "".join(f"{ms:>9.1f}" for ms in found), flush=True)


if __name__ == "__main__":
    main()
