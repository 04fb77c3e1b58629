"""Statements of a rollup's shape: which are taken for one, and that both ways answer the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rta.query.answer import read_stream
from tests.query.world import build_world
from tests.sql.asker import Asker, run

SAME = [
    "SELECT count(*) FROM wikipedia",
    "SELECT count(*) AS n, sum(added) AS added FROM wikipedia",
    "SELECT COUNT(*), SUM(added), avg(w.deleted), MIN(delta), max(delta) FROM wikipedia w",
    "SELECT channel, count(*) AS n FROM wikipedia GROUP BY channel",
    "SELECT channel AS c, count(*) AS n FROM wikipedia GROUP BY c ORDER BY n DESC, c LIMIT 5",
    "SELECT channel, count(*) AS n FROM wikipedia GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 3 OFFSET 2",
    'SELECT "isRobot", "isNew", count(*) FROM wikipedia GROUP BY ALL',
    "SELECT CHANNEL, ISROBOT, count(*) AS n FROM wikipedia GROUP BY ALL ORDER BY n, 1, 2",
    "SELECT date_trunc('hour', __time) AS hour, count(*) AS n FROM wikipedia GROUP BY hour ORDER BY hour",
    "SELECT date_trunc('day', __time) AS day, channel, sum(added) AS s FROM wikipedia GROUP BY day, channel",
    "SELECT time_bucket(INTERVAL '5 minutes', __time) AS t, count(*) AS n FROM wikipedia GROUP BY t ORDER BY t DESC LIMIT 7",
    "SELECT time_bucket(INTERVAL 2 HOUR, __time) AS t, count(*) AS n, avg(added) AS a FROM wikipedia GROUP BY t",
    "SELECT date_trunc('week', __time) AS t, count(*) AS n FROM wikipedia GROUP BY t",
    "SELECT date_trunc('month', __time) AS t, count(*) AS n FROM wikipedia GROUP BY 1",
    "SELECT date_trunc('quarter', __time) AS t, count(*) AS n FROM wikipedia GROUP BY 1",
    "SELECT channel FROM wikipedia GROUP BY channel",
    "SELECT count(*) AS n FROM wikipedia WHERE __time >= '2015-09-12T06:00:00Z' AND __time < '2015-09-12T12:00:00Z'",
    "SELECT channel, count(*) AS n FROM wikipedia WHERE TIMESTAMP '2015-09-12 06:00:00' <= __time GROUP BY channel",
    "SELECT count(*) AS n FROM wikipedia WHERE __time BETWEEN '2015-09-12' AND '2015-09-12T11:59:59.999Z'",
    "SELECT count(*) AS n FROM wikipedia WHERE __time >= '2030-01-01'",
    "SELECT sum(added) AS s, avg(added) AS a, min(delta) AS l FROM wikipedia WHERE __time >= '2030-01-01'",
    "SELECT channel, count(*) AS n FROM wikipedia WHERE __time >= '2030-01-01' GROUP BY channel",
    "SELECT count(*) AS n FROM wikipedia WHERE channel = '#en.wikipedia'",
    "SELECT count(*) AS n FROM wikipedia WHERE channel <> '#en.wikipedia' AND \"isRobot\"",
    "SELECT count(*) AS n FROM wikipedia WHERE NOT \"isRobot\" OR channel IN ('#vi.wikipedia', '#de.wikipedia')",
    "SELECT count(*) AS n FROM wikipedia WHERE \"isRobot\" = false AND channel NOT IN ('#vi.wikipedia')",
    "SELECT count(*) AS n FROM wikipedia WHERE channel LIKE '#_e.%' AND NOT (channel LIKE '%de%')",
    "SELECT count(*) AS n FROM wikipedia WHERE channel NOT LIKE '%de%' AND \"metroCode\" NOT BETWEEN 1 AND 600",
    "SELECT count(*) AS n FROM wikipedia WHERE channel > '#d' AND '#f' >= channel",
    'SELECT "countryName", count(*) AS n FROM wikipedia GROUP BY 1 ORDER BY 1',
    'SELECT "countryName", count(*) AS n FROM wikipedia GROUP BY 1 ORDER BY 1 DESC',
    'SELECT count(*) AS n FROM wikipedia WHERE "countryName" IS NULL',
    'SELECT count(*) AS n FROM wikipedia WHERE "countryName" IS NOT NULL AND "metroCode" IS NULL',
    "SELECT count(*) AS n FROM wikipedia WHERE \"countryName\" <> 'Germany'",
    'SELECT count(*) AS n FROM wikipedia WHERE NOT ("countryName" = \'Germany\' OR "metroCode" > 600)',
    'SELECT "metroCode", count(*) AS n FROM wikipedia WHERE "metroCode" BETWEEN 500 AND 700 GROUP BY 1',
    'SELECT count(*) AS n FROM wikipedia WHERE "metroCode" >= -1',
    'SELECT count("countryName") AS n, count(DISTINCT channel) AS c FROM wikipedia',
    "SELECT count(added) AS n, count(1) AS m FROM wikipedia",
    "SELECT channel, sum(added) AS s FROM wikipedia GROUP BY channel ORDER BY sum(added) DESC, channel LIMIT 4",
    "SELECT channel FROM wikipedia GROUP BY channel ORDER BY count(*) DESC, channel LIMIT 4",
    "SELECT count(*) AS n, count(*) AS m FROM wikipedia",
    "SELECT sum(added) FROM main.wikipedia",
    "SELECT wikipedia.channel, count(*) AS n FROM wikipedia GROUP BY wikipedia.channel",
    "SELECT (channel) AS channel, (count(*)) AS n FROM wikipedia WHERE (channel = '#en.wikipedia') GROUP BY (channel)",
]
OTHERWISE = [
    "SELECT * FROM wikipedia LIMIT 1",
    "SELECT page, count(*) AS n FROM wikipedia GROUP BY page LIMIT 1",
    "SELECT count(*) AS n FROM wikipedia WHERE page = 'x'",
    'SELECT count(*) FILTER (WHERE "isRobot") AS n FROM wikipedia',
    "SELECT sum(DISTINCT added) AS n FROM wikipedia",
    "SELECT sum(added + 1) AS n FROM wikipedia",
    'SELECT count(DISTINCT "user") AS n FROM wikipedia',
    "SELECT channel, count(*) OVER () AS n FROM wikipedia GROUP BY channel LIMIT 1",
    "SELECT count(*) AS n FROM wikipedia HAVING count(*) > 1",
    "SELECT DISTINCT channel FROM wikipedia LIMIT 1",
    "SELECT count(*) AS n FROM wikipedia WHERE __time > now() - INTERVAL 1 DAY",
    "SELECT date_trunc('second', __time) AS t, count(*) AS n FROM wikipedia GROUP BY t LIMIT 1",
    "SELECT time_bucket(INTERVAL '7 minutes', __time) AS t, count(*) AS n FROM wikipedia GROUP BY t LIMIT 1",
    "SELECT time_bucket(INTERVAL 1 HOUR, __time, INTERVAL 30 MINUTE) AS t, count(*) AS n FROM wikipedia GROUP BY t LIMIT 1",
    "SELECT date_trunc('hour', __time), count(*) AS n FROM wikipedia GROUP BY 1 LIMIT 1",
    "SELECT count(*) AS n FROM wikipedia WHERE channel LIKE 'a\\%'",
    "SELECT count(*) AS n FROM wikipedia WHERE channel ILIKE '#EN%'",
    "SELECT count(*) AS n FROM wikipedia WHERE channel LIKE 'a!%' ESCAPE '!'",
    "SELECT count(*) AS n FROM wikipedia WHERE channel IS NOT DISTINCT FROM 'x'",
    'SELECT count(*) AS n FROM wikipedia WHERE "isRobot" IS NOT TRUE',
    "SELECT count(*) AS n FROM wikipedia WHERE channel = 5::VARCHAR",
    "SELECT count(*) AS n FROM wikipedia WHERE \"metroCode\" = '501'",
    "SELECT count(*) AS n FROM wikipedia WHERE \"countryName\" IN ('x', NULL)",
    "SELECT channel, count(*) AS n FROM wikipedia GROUP BY channel ORDER BY 1 NULLS FIRST LIMIT 1",
    "SELECT channel, count(*) AS n FROM wikipedia GROUP BY ROLLUP (channel) LIMIT 1",
    "SELECT channel, count(*) AS n FROM wikipedia GROUP BY CUBE (channel) LIMIT 1",
    "SELECT count(*) AS n FROM wikipedia a, wikipedia b WHERE a.__time = b.__time AND a.page = 'x'",
    "SELECT count(*) AS n FROM (SELECT * FROM wikipedia)",
    "WITH w AS (SELECT * FROM wikipedia) SELECT count(*) AS n FROM w",
    "SELECT count(*) AS n FROM wikipedia UNION ALL SELECT 1",
    "SELECT c, count(*) AS n FROM wikipedia w(a, c) GROUP BY c LIMIT 1",
    "SELECT count(*) AS n FROM wikipedia USING SAMPLE 10",
    "SELECT sum(n) AS n FROM wikipedia.edits",
    "SELECT min(__time) AS t FROM wikipedia",
    "SELECT max(channel) AS c FROM wikipedia",
    "SELECT sum(added) AS n FROM wikipedia GROUP BY delta LIMIT 1",
    "SELECT count(*) AS n FROM wikipedia LIMIT 0",
    "SELECT string_agg(channel) AS c FROM wikipedia WHERE page = 'x'",
]


def rows_of(body: bytes) -> list[dict[str, Any]]:
    found = json.loads(body)["rows"]
    assert isinstance(found, list)
    return found


def sorted_rows(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sort(frame.columns, nulls_last=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_both_ways_answer_the_same_in_names_types_and_values(folder: Path) -> None:
    async def scenario(ask: Asker) -> None:
        for statement in SAME:
            by_rollup = await ask(statement, form="arrow")
            assert by_rollup.meta["sources"][0].startswith("rollup_"), statement
            # Inside another SELECT it has no rollup's shape.
            by_engine = await ask(f"SELECT * FROM ({statement})", form="arrow")
            assert by_engine.meta["sources"][0] == "events", statement
            left, right = read_stream(by_rollup.body), read_stream(by_engine.body)
            assert left.schema == right.schema, statement
            if "ORDER BY" in statement:
                assert left.equals(right), (statement, left, right)
            assert sorted_rows(left).equals(sorted_rows(right)), (statement, left, right)

    run(folder, scenario, build_world(folder))


def test_what_has_another_shape_goes_to_the_engine(folder: Path) -> None:
    async def scenario(ask: Asker) -> None:
        for statement in OTHERWISE:
            reply = await ask(statement)
            assert not any(s.startswith("rollup_") for s in reply.meta["sources"] if "edits" not in statement), (
                statement
            )

    run(folder, scenario, build_world(folder))


def test_estimates_come_from_the_sketches_within_their_bounds(folder: Path) -> None:
    async def scenario(ask: Asker) -> None:
        statement = (
            'SELECT channel, approx_count_distinct("user") AS users, approx_quantile(delta, 0.9) AS p90 '
            "FROM wikipedia GROUP BY channel ORDER BY users DESC LIMIT 5"
        )
        reply = await ask(statement)
        assert reply.meta["sources"] == ["rollup_hourly_hour", "hot"]
        assert "p90" in reply.meta["bounds"]
        exact = await ask.rows(
            'SELECT channel, count(DISTINCT "user") AS users, quantile_disc(delta, 0.9) AS p90, '
            "quantile_disc(delta, 0.85) AS low, quantile_disc(delta, 0.95) AS high FROM wikipedia GROUP BY channel"
        )
        known = {row["channel"]: row for row in exact}
        for row in rows_of(reply.body):
            assert abs(row["users"] / known[row["channel"]]["users"] - 1) < 0.05
            assert known[row["channel"]]["low"] <= row["p90"] <= known[row["channel"]]["high"]
            assert isinstance(row["p90"], int)

    run(folder, scenario, build_world(folder))


def test_parameters_limits_and_etags_hold_on_the_way_by_a_rollup(folder: Path) -> None:
    async def scenario(ask: Asker) -> None:
        statement = "SELECT channel, count(*) AS n FROM wikipedia WHERE __time >= $1 AND channel <> $2 GROUP BY 1 ORDER BY n DESC"
        first = {"type": "TIMESTAMP", "value": "2015-09-12T12:00:00Z"}
        reply = await ask(statement, first, "#en.wikipedia", limit=3)
        assert reply.meta["sources"][0] == "rollup_hourly_hour"
        assert (reply.meta["row_limit"], reply.meta["truncated"]) == (3, True)
        engine = await ask.rows(f"SELECT * FROM ({statement}) LIMIT 3", first, "#en.wikipedia")
        assert rows_of(reply.body) == engine
        assert (await ask(statement, first, "#en.wikipedia", limit=3, etag=reply.etag)).status == 304
        assert (await ask(statement, first, "#de.wikipedia", limit=3, etag=reply.etag)).status == 200
        assert (await ask(statement, first, "#en.wikipedia", limit=3, etag=reply.etag, form="csv")).status == 200
        own = await ask(f"{statement} LIMIT 3", first, "#en.wikipedia", limit=3)
        assert own.meta["truncated"] is False
        assert own.meta["version"] == ask.world.view.version

    run(folder, scenario, build_world(folder))


def test_explain_names_the_rollup(folder: Path) -> None:
    async def scenario(ask: Asker) -> None:
        (row,) = await ask.rows("EXPLAIN SELECT channel, count(*) AS n FROM wikipedia GROUP BY channel")
        assert (row["table"], row["stored"], row["hot"]) == ("wikipedia", "rollup_daily_day", True)
        assert row["files"] == 2

    run(folder, scenario, build_world(folder))
