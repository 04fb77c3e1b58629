"""The queries of Druid's embedded tests with the answers that Druid gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from rta.druid import sketches
from rta.druid.problems import UnsupportedError
from rta.druid.query import parse_query
from rta.druid.run import run
from rta.druid.table import Table
from rta.events.schemas import TIME
from tests.druid.tables import EMBEDDED, TINY, table_of, wiki

NUMBERS = ("added", "deleted", "delta")


def with_sketches(frame: pl.DataFrame, grain: str | None = None) -> Table:
    """The rows as their ingestion leaves them: times cut to the grain, equal dimensions rolled up, sketches beside sums."""
    if grain is not None:
        frame = frame.with_columns(pl.col(TIME).dt.truncate(grain))
    dimensions = [c for c in frame.columns if c not in NUMBERS]
    rolled = frame.group_by(dimensions, maintain_order=True).agg(
        *(pl.col(n).sum() for n in NUMBERS),
        pl.len().cast(pl.Int64).alias("count"),
        pl.col("delta").alias("deltas"),
    )
    users, deltas = rolled["user"], rolled["deltas"]
    made = {
        "HLLSketchBuild": [sketches.hll_of_values([u], 12, "HLL_4") for u in users],
        "thetaSketch": [sketches.theta_of_values([u], 14) for u in users],
        "quantilesDoublesSketch": [sketches.quantiles_of_values(d.to_list(), 128) for d in deltas],
    }
    out = rolled.drop("deltas").with_columns([pl.Series(n, v, pl.Binary) for n, v in made.items()])
    return table_of(out.sort(TIME, "page"))


def plain() -> Table:
    return with_sketches(wiki(*TINY))


def twice(rolled: bool) -> Table:
    rows = pl.concat([wiki(*TINY), wiki(*TINY)])
    if not rolled:
        rows = rows.with_columns(pl.int_range(pl.len()).cast(pl.String).alias("copy"))
    return with_sketches(rows)


def transformed() -> Table:
    rows = wiki(*TINY).with_columns(
        ("language-" + pl.col("language")).alias("language"),
        (pl.col("added") * 3).alias("triple-added"),
        (pl.col("added") * 3 + 1).alias("one-plus-triple-added"),
        (pl.col("deleted") * 2).alias("double-deleted"),
        pl.col("page").alias("newPage"),
    )
    return table_of(rows)


def first_day(table: Table) -> pl.DataFrame:
    """A re-ingestion of the first day alone."""
    return table.frame.filter(pl.col(TIME).dt.day() == 31).collect()


def reindexed_transformed() -> Table:
    city, delta = ("city-" + pl.col("city")).alias("city"), (pl.col("delta") / 2).alias("delta")
    return table_of(first_day(transformed()).with_columns(city, delta))


def by_continent() -> Table:
    """One row per day and continent, with the first and last values in it."""
    firsts = [pl.col("user").first().alias("first_user"), pl.col("user").last().alias("last_user")]
    for kind in ("double", "long", "float"):
        value = pl.col("delta").cast(pl.Int64) if kind == "long" else pl.col("delta")
        firsts += [value.first().alias(f"{kind}_first_delta"), value.last().alias(f"{kind}_last_delta")]
    day = pl.col(TIME).dt.truncate("1d")
    return table_of(wiki(*TINY).group_by(day, "continent", maintain_order=True).agg(firsts))


def paths() -> Table:
    """What the ingestion's JSON path functions made of five values."""
    times = wiki(*TINY)[TIME].head(1)
    return table_of(pl.DataFrame({TIME: times, "len": [5], "max": [4], "min": [0], "sum": [10]}))


Case = tuple[str, Callable[[], Table]]
CASES: list[Case] = [
    ("wikipedia_index_queries", plain),
    ("wikipedia_parallel_index_queries", plain),
    ("wikipedia_index_queries_hour_query_granularity", lambda: with_sketches(wiki(*TINY), "1h")),
    ("wikipedia_index_queries_year_query_granularity", lambda: with_sketches(wiki(*TINY), "1y")),
    ("wikipedia_index_queries_only_data3", lambda: with_sketches(wiki("tiny_wiki_3"))),
    ("wikipedia_parallel_reindex_queries", lambda: with_sketches(wiki("tiny_wiki_2"))),
    ("wikipedia_double_ingestion_non_perfect_rollup_index_queries", lambda: twice(rolled=False)),
    ("wikipedia_double_ingestion_perfect_rollup_index_queries", lambda: twice(rolled=True)),
    (
        "wikipedia_combining_input_source_index_queries",
        lambda: with_sketches(wiki(*TINY, "wikipedia_combining_index_data")),
    ),
    ("wikipedia_index_queries_with_transform", transformed),
    ("wikipedia_reindex_queries_with_transforms", reindexed_transformed),
    ("wikipedia_reindex_queries", lambda: table_of(first_day(plain()))),
    ("wikipedia_merge_index_queries", by_continent),
    ("json_path_index_queries", paths),
]


def queries(name: str, **filled: str) -> list[dict[str, Any]]:
    text = (EMBEDDED / f"{name}.json").read_text().replace("%%DATASOURCE%%", "w")
    for key, value in filled.items():
        text = text.replace(f"%%{key}%%", value)
    found = json.loads(text)
    assert isinstance(found, list)
    return found


def answer(query: dict[str, Any], table: Table) -> Any:
    return json.loads(run(parse_query(query), {"w": table}))


@pytest.mark.parametrize(("name", "table"), CASES, ids=[name for name, _ in CASES])
def test_answers_are_druids(name: str, table: Callable[[], Table]) -> None:
    rows = table()
    for case in queries(name):
        found, expected = answer(case["query"], rows), case["expectedResults"]
        assert found == expected, case["description"]


def test_rolled_up_rows_are_scanned() -> None:
    rows = with_sketches(wiki(*TINY))
    filled = {"EXPECTED_COUNT_RESULT": "2", "FIELD_TO_QUERY": '"page", "added"', "EXPECTED_SCAN_RESULT": "[]"}
    count, scanned = queries("wikipedia_index_rollup_queries", **filled)
    assert answer(count["query"], rows) == count["expectedResults"]
    (part,) = answer(scanned["query"], rows)
    assert part["events"] == [["Gypsy Danger", 57.0], ["Striker Eureka", 459.0]]


def test_rows_of_a_stream_are_counted_and_a_join_is_refused() -> None:
    text = (EMBEDDED / "wikipedia_realtime_index_data.json").read_text()
    lines = [json.loads(line.rstrip().rstrip(",")) for line in text.splitlines() if line.strip()]
    frame = (
        pl.DataFrame(lines)
        .drop("timestamp")
        .with_columns(
            pl.Series(TIME, [60_000 * i for i in range(len(lines))], pl.Int64),
            pl.lit(1, pl.Int64).alias("count"),
            pl.col("added").cast(pl.Float64),
        )
    )
    filled = {
        "TIMEBOUNDARY_RESPONSE_TIMESTAMP": "1970-01-01T00:00:00.000Z",
        "TIMEBOUNDARY_RESPONSE_MINTIME": "1970-01-01T00:00:00.000Z",
        "TIMEBOUNDARY_RESPONSE_MAXTIME": "1970-01-01T00:21:00.000Z",
        "TIMESERIES_QUERY_START": "1970",
        "TIMESERIES_QUERY_END": "1971",
        "TIMESERIES_RESPONSE_TIMESTAMP": "1970-01-01T00:00:00.000Z",
        "POST_AG_REQUEST_START": "1970",
        "POST_AG_REQUEST_END": "1971",
    }
    rows = table_of(frame)
    boundary, series, _ = queries("wikipedia_realtime_appenderator_index_queries", **filled)
    assert answer(boundary["query"], rows) == boundary["expectedResults"]
    found = answer(series["query"], rows)
    assert found[0]["result"]["edit_count"] == len(lines) == 22
    joined = queries("wikipedia_realtime_index_queries", **filled)[-1]
    with pytest.raises(UnsupportedError, match="join"):
        answer(joined["query"], rows)


def test_metadata_names_the_granularity_only_if_asked() -> None:
    filled = {"ANALYSIS_TYPE": "queryGranularity", "INTERVALS": "2013/2014", "EXPECTED_QUERY_GRANULARITY": "[]"}
    (case,) = queries("segment_metadata_query", **filled)
    (entry,) = answer(case["query"], plain())
    assert entry["queryGranularity"] == {"type": "none"}
