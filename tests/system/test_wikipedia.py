"""Real input, right answers: the Wikipedia edits of one day, against the published answers and polars on the file."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rta.demo
from tests.system.running import Running

DEMO = Path(rta.demo.__file__).parent
SAMPLE = DEMO / "wikiticker-2015-09-12-sampled.json.gz"
DAY = "2015-09-12T00:00:00Z/2015-09-13T00:00:00Z"
DIMENSIONS = ["channel", "isRobot", "namespace", "countryName", "page", "user", "isNew"]


@pytest.fixture(scope="session")
def oracle() -> pl.DataFrame:
    frame = pl.read_ndjson(io.BytesIO(gzip.decompress(SAMPLE.read_bytes())), infer_schema_length=None)
    return frame.with_columns(pl.col("time").str.to_datetime(time_unit="ms", time_zone="UTC"))


@pytest.fixture(scope="session")
def wikipedia(system: Running) -> Running:
    document = json.loads((DEMO / "wikipedia.json").read_text())
    answer = system.http.post("/v1/datasources", json=document)
    assert answer.status_code in (200, 201), answer.text
    for _ in range(2):  # the second time counts nothing twice
        command = system.command("send", str(SAMPLE), "--datasource", "wikipedia", "--url", system.url, "--wait")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    return system


def test_all_rows_are_there_once(wikipedia: Running) -> None:
    rows = wikipedia.rows(datasource="wikipedia", time_range=DAY, metrics=[{"name": "n", "type": "count"}])
    assert rows == [{"n": 39_244}]


def test_the_published_top_ten_pages(wikipedia: Running) -> None:
    published = json.loads((DEMO / "wikipedia_published.jsonl").read_text().splitlines()[0])
    expected = dict(map(tuple, published["expected_pages"]))
    rows = wikipedia.rows(
        datasource="wikipedia",
        time_range=DAY,
        metrics=[{"name": "edits", "type": "count"}],
        group_by=["page"],
        order_by="-edits",
        limit=10,
    )
    assert {row["page"]: row["edits"] for row in rows} == expected


def test_sums_of_added_and_deleted(wikipedia: Running, oracle: pl.DataFrame) -> None:
    metrics = [{"name": name, "type": "sum", "field": name} for name in ("added", "deleted")]
    rows = wikipedia.rows(datasource="wikipedia", time_range=DAY, metrics=metrics)
    assert rows == [{"added": oracle["added"].sum(), "deleted": oracle["deleted"].sum()}]


def test_sql_answers_from_raw_events_and_by_the_rollup(wikipedia: Running, oracle: pl.DataFrame) -> None:
    pages = wikipedia.http.post(
        "/v1/sql",
        json={
            "query": "SELECT page, count(*) AS edits FROM wikipedia WHERE __time >= $1 AND __time < $2 "
            "GROUP BY page ORDER BY edits DESC, page LIMIT 10",
            "parameters": [{"type": "TIMESTAMP", "value": moment} for moment in DAY.split("/")],
        },
    )
    assert pages.status_code == 200, pages.text
    expected = oracle.group_by("page").len("edits").sort(["edits", "page"], descending=[True, False]).head(10)
    assert pages.json()["rows"] == expected.to_dicts()
    assert pages.json()["meta"]["sources"][0] in ("events", "hot")
    channels = "SELECT channel, count(*) AS edits FROM wikipedia GROUP BY channel ORDER BY edits DESC LIMIT 1"
    by_rollup = wikipedia.http.post("/v1/sql", json={"query": channels}).json()
    assert by_rollup["rows"] == [{"channel": "#en.wikipedia", "edits": 11_549}]
    assert by_rollup["meta"]["sources"][0].startswith("rollup_")
    shown = wikipedia.http.post("/v1/sql", json={"query": "SHOW TABLES"}, headers={"Accept": "text/csv"})
    assert "wikipedia.rejected" in shown.text.split()
    refused = wikipedia.http.post("/v1/sql", json={"query": "SELECT * FROM read_text('/etc/passwd')"})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_query")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hours=st.tuples(st.integers(0, 23), st.integers(1, 24)).filter(lambda h: h[0] < h[1]),
    grain=st.sampled_from(["all", "hour", "minute"]),
    group=st.lists(st.sampled_from(DIMENSIONS), max_size=2, unique=True),
    channel=st.sampled_from([None, "#en.wikipedia", "#vi.wikipedia", "#de.wikipedia"]),
    robot=st.sampled_from([None, True, False]),
)
def test_drawn_questions_equal_polars_on_the_file(  # noqa: PLR0913 - two fixtures and what is drawn
    wikipedia: Running,
    oracle: pl.DataFrame,
    hours: tuple[int, int],
    grain: str,
    group: list[str],
    channel: str | None,
    robot: bool | None,
) -> None:
    filters = {k: v for k, v in {"channel": channel, "isRobot": robot}.items() if v is not None}
    end = "2015-09-13T00:00:00Z" if hours[1] == 24 else f"2015-09-12T{hours[1]:02}:00:00Z"
    rows = wikipedia.rows(
        datasource="wikipedia",
        time_range=f"2015-09-12T{hours[0]:02}:00:00Z/{end}",
        granularity=grain,
        group_by=group,
        filters=filters,
        metrics=[
            {"name": "edits", "type": "count"},
            {"name": "added_sum", "type": "sum", "field": "added"},
            {"name": "delta_max", "type": "max", "field": "delta"},
            {"name": "users", "type": "unique_count", "field": "user", "exact": True},
        ],
    )
    hour = pl.col("time").dt.hour()
    chosen = oracle.filter((hour >= hours[0]) & (hour < hours[1]))
    for name, value in filters.items():
        chosen = chosen.filter(pl.col(name) == value)
    keys = list(group)
    if grain != "all":
        every = {"hour": "1h", "minute": "1m"}[grain]
        chosen = chosen.with_columns(pl.col("time").dt.truncate(every).dt.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
        keys.insert(0, "time")
    aggregates = [
        pl.len().alias("edits"),
        pl.col("added").sum().alias("added_sum"),
        pl.col("delta").max().alias("delta_max"),
        pl.col("user").n_unique().alias("users"),
    ]
    if not keys:
        expected = chosen.select(aggregates).to_dicts()
        if not chosen.height:
            expected = [{"edits": 0, "added_sum": None, "delta_max": None, "users": 0}]
    else:
        expected = chosen.group_by(keys).agg(aggregates).to_dicts()
    assert sorted(map(repr_row, rows)) == sorted(map(repr_row, expected))


def repr_row(row: dict[str, object]) -> str:
    return json.dumps(row, sort_keys=True)
