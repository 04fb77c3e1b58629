"""What SQL answers: from files and hot rows of one view, in every type and form, with parameters; what of it is read."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from rta.config import LimitSettings, Settings
from rta.errors import (
    BadRequestError,
    CorruptFileError,
    InvalidQueryError,
    NotFoundError,
    OutOfMemoryError,
    TimeLimitError,
)
from rta.events.schemas import ID_HI, ID_LO, REST, TIME, Column, ColumnType, Datasource, Retention
from rta.query.answer import read_stream
from rta.query.position import Position
from rta.query.sql.statement import parse_statement
from rta.serve.scan import ScanPool
from rta.serve.sql import SqlOptions
from rta.serve.sql_task import SqlTask
from rta.store.layout import table_file
from rta.store.objects import LocalStore
from tests.query import wikipedia
from tests.query.world import FixedView, World, build_world, write_to
from tests.sql.asker import Asker, InProcess, run

HOUR = 3_600_000
BEGIN_MS = 1_767_225_600_000
"""2026-01-01T00:00Z."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("store"))


@pytest.fixture
def world(built: World) -> World:
    """The Wikipedia rows, to be changed as a test likes; the files stay."""
    return World(built.store, dataclasses.replace(built.view, by_table=dict(built.view.by_table)))


FIELDS = {
    "text": ColumnType.STRING,
    "whole": ColumnType.LONG,
    "real": ColumnType.DOUBLE,
    "truth": ColumnType.BOOLEAN,
    "moment": ColumnType.TIMESTAMP,
    "tags": ColumnType.STRINGS,
    "props": ColumnType.JSON,
}
VALUES: list[dict[str, Any]] = [
    {
        "text": "zwölf \"a\"\n'b' 😀",
        "whole": 2**63 - 1,
        "real": 0.1,
        "truth": True,
        "moment": "2026-02-03T04:05:06.007Z",
        "tags": ["a", 'b"c', ""],
        "props": '{"a":{"b":[1,2.5]},"k":"v"}',
        "rest": '{"custom":{"price":9.5,"a.b":"x"},"odd":null}',
    },
    {
        "text": "",
        "whole": -(2**63),
        "real": -1e300,
        "truth": False,
        "moment": "1969-12-31T23:59:59.999Z",
        "tags": [],
        "props": "[]",
    },
    {},
]


def typed_rows(values: Sequence[dict[str, Any]], first_ms: int) -> pa.Table:
    """One row an hour; what a value lacks is null."""
    schema = typed().raw_schema()
    columns: dict[str, Any] = {name: [v.get(name) for v in values] for name in FIELDS if name != "moment"}
    columns["moment"] = [None if "moment" not in v else datetime.fromisoformat(v["moment"]) for v in values]
    columns[TIME] = [datetime.fromtimestamp((first_ms + k * HOUR) / 1000, UTC) for k in range(len(values))]
    columns[REST] = [v.get("rest") for v in values]
    columns[ID_HI] = columns[ID_LO] = list(range(len(values)))
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def typed() -> Datasource:
    return Datasource(
        name="typed",
        incarnation="1",
        version=1,
        partitions=1,
        time_path=("time",),
        keys=("text",),
        id=None,
        columns=tuple(Column(n, t, (n,)) for n, t in FIELDS.items()),
        retention=Retention(events_ms=10**14),
    )


def typed_world(folder: Path) -> World:
    """Two rows in a file that is too old to have "truth" and "tags", all three in another, and two beyond them."""
    store, source = LocalStore(folder), typed()
    old = typed_rows(VALUES[:2], BEGIN_MS).drop_columns(["truth", "tags"])
    files = [
        write_to(store, source, "events", old, 1),
        write_to(store, source, "events", typed_rows(VALUES, BEGIN_MS + 24 * HOUR), 2),
    ]
    return World(store, FixedView(source, {"events": files}, typed_rows(VALUES[:2], BEGIN_MS + 48 * HOUR)))


def test_every_type_comes_back_as_it_was_from_files_and_beyond_them(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        names = ", ".join(FIELDS)
        for start in (24, 48):
            found = await ask.rows(
                f"SELECT {names}, __rest FROM typed WHERE __time >= $1 AND __time < $2 ORDER BY __time",
                {"type": "TIMESTAMP", "value": BEGIN_MS + start * HOUR},
                {"type": "TIMESTAMP", "value": BEGIN_MS + (start + 24) * HOUR},
            )
            values = VALUES if start == 24 else VALUES[:2]
            assert found == [{**{n: v.get(n) for n in FIELDS}, "__rest": v.get("rest")} for v in values]
        old = await ask.rows(
            "SELECT truth, tags, whole FROM typed WHERE __time < '2026-01-01T12:00:00Z' ORDER BY __time"
        )
        assert old == [{"truth": None, "tags": None, "whole": v["whole"]} for v in VALUES[:2]]
        frame = read_stream((await ask("SELECT * FROM typed ORDER BY __time", form="arrow")).body)
        assert frame.columns == [TIME, *FIELDS, REST]
        assert [str(t) for t in frame.dtypes] == [
            "Datetime(time_unit='ms', time_zone='UTC')",
            *("String", "Int64", "Float64", "Boolean", "Datetime(time_unit='ms', time_zone='UTC')", "List(String)"),
            *("String", "String"),
        ]

    run(tmp_path, scenario, typed_world(tmp_path))


def test_columns_that_no_file_has_are_null(tmp_path: Path) -> None:
    world = typed_world(tmp_path)
    world.view.by_table["events"] = world.view.by_table["events"][:1]
    world.view.hot = world.view.hot.slice(0, 0)

    async def scenario(ask: Asker) -> None:
        assert await ask.rows("SELECT count(truth) AS t, count(tags) AS g, count(*) AS n FROM typed") == [
            {"t": 0, "g": 0, "n": 2}
        ]
        assert await ask.rows("SELECT whole FROM typed WHERE truth OR list_contains(tags, 'a')") == []

    run(tmp_path, scenario, world)


def test_undeclared_fields_are_reached_by_json_functions(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        (row,) = await ask.rows(
            """SELECT __rest->>'$.custom.price' AS price, (__rest->>'$.custom.price')::DOUBLE AS number,
            __rest->'$.custom' AS custom, json_extract_string(__rest, '$.custom."a.b"') AS dotted,
            props->'$.a.b' AS inside, props->>'k' AS k
            FROM typed WHERE __rest IS NOT NULL AND __time >= '2026-01-03'"""
        )
        assert row == {
            "price": "9.5",
            "number": 9.5,
            "custom": {"price": 9.5, "a.b": "x"},
            "dotted": "x",
            "inside": [1, 2.5],
            "k": "v",
        }

    run(tmp_path, scenario, typed_world(tmp_path))


def test_types_that_json_lacks_have_one_text_in_every_form(tmp_path: Path) -> None:
    text_of_names = "day,local,span,decimal,huge,total,s,m,u,clock,nothing,text,list,endless"
    statement = (
        "SELECT DATE '2026-01-02' AS day, TIMESTAMP '2026-01-02 03:04:05.678' AS local, INTERVAL 90 MINUTE AS span, "
        "1.50 AS decimal, 170141183460469231731687303715884105727 AS huge, sum(whole) AS total, {'a': [1, NULL]} AS s, "
        "MAP {'k': 1} AS m, '4ac7a9e9-607c-4c8a-84f3-843f0191e3fd'::UUID AS u, TIME '01:02:03' AS clock, NULL AS nothing, "
        "'a,\"b\"' AS text, [1.5, 2.5]::DOUBLE[] AS list, 'Infinity'::DOUBLE AS endless FROM typed WHERE whole > 0"
    )

    async def scenario(ask: Asker) -> None:
        (row,) = await ask.rows(statement)
        assert list(row) == [
            "day",
            "local",
            "span",
            "decimal",
            "huge",
            "total",
            "s",
            "m",
            "u",
            "clock",
            "nothing",
            "text",
            "list",
            "endless",
        ]
        assert row == {
            "day": "2026-01-02",
            "local": "2026-01-02T03:04:05.678",
            "span": "01:30:00",
            "decimal": 1.5,
            "huge": 2**127 - 1,
            "total": 3 * (2**63 - 1),
            "s": {"a": [1, None]},
            "m": {"k": 1},
            "u": "4ac7a9e9-607c-4c8a-84f3-843f0191e3fd",
            "clock": "01:02:03",
            "nothing": None,
            "text": 'a,"b"',
            "list": [1.5, 2.5],
            "endless": None,
        }
        text = (await ask(statement, form="csv")).body.decode().splitlines()
        assert text[0] == text_of_names
        assert text[1].startswith(f"2026-01-02,2026-01-02T03:04:05.678,01:30:00,1.50,{2**127 - 1},{3 * (2**63 - 1)},")
        assert '"a,""b""","[1.5,2.5]"' in text[1]
        frame = read_stream((await ask(statement, form="arrow")).body)
        assert frame.schema["day"] == pl.Date()
        assert frame.schema["local"] == pl.Datetime("ms")
        assert frame["total"].dtype == pl.Decimal(38, 0)
        small = read_stream((await ask("SELECT sum(1) AS n FROM typed", form="arrow")).body)
        assert small.schema["n"] == pl.Int64()

    run(tmp_path, scenario, typed_world(tmp_path))


def test_two_columns_of_one_name_are_told_apart(tmp_path: Path, world: World) -> None:
    async def scenario(ask: Asker) -> None:
        assert await ask.rows("SELECT 1 AS a, 2 AS a, 3 AS a_1") == [{"a": 1, "a_1": 2, "a_1_1": 3}]

    run(tmp_path, scenario, world)


def test_parameters_have_types(tmp_path: Path, world: World) -> None:
    typed_values: list[Any] = [
        {"type": "timestamp", "value": "2026-01-01T00:00:00Z"},
        {"type": "DATE", "value": "2026-01-01"},
        {"type": "DECIMAL", "value": "1.25"},
        {"type": "BIGINT", "value": "7"},
        {"type": "DOUBLE", "value": 2},
        {"type": "BOOLEAN", "value": "true"},
        {"type": "VARCHAR", "value": 5},
        {"type": "VARCHAR", "value": None},
    ]

    async def scenario(ask: Asker) -> None:
        (row,) = await ask.rows("SELECT ? AS a, ? AS b, ? AS c, ? AS d", "x", 7, 1.5, True)
        assert row == {"a": "x", "b": 7, "c": 1.5, "d": True}
        (row,) = await ask.rows("SELECT ?::VARCHAR AS a, '?::' AS b, ?::BIGINT AS c", 1, "3")
        assert row == {"a": "1", "b": "?::", "c": 3}
        assert await ask.rows("SELECT $2 - $1 AS a, '?' AS b", 1, 5) == [{"a": 4, "b": "?"}]
        (row,) = await ask.rows("SELECT " + ", ".join(f"typeof(${k + 1}) AS t{k}" for k in range(8)), *typed_values)
        assert list(row.values())[:6] == [
            "TIMESTAMP WITH TIME ZONE",
            "DATE",
            "DECIMAL(3,2)",
            "INTEGER",
            "DOUBLE",
            "BOOLEAN",
        ]
        text = "'; DROP TABLE wikipedia; --"
        assert await ask.rows("SELECT count(*) AS n FROM wikipedia WHERE page = ?", text) == [{"n": 0}]
        wrong: list[tuple[str, list[Any]]] = [
            ("SELECT ?", []),
            ("SELECT ?", [1, 2]),
            ("SELECT ?", [{"type": "BIGINT", "value": "x"}]),
            ("SELECT ?", [{"type": "BLOB", "value": "x"}]),
            ("SELECT ?", [{"type": "DATE"}]),
            ("SELECT ?", [[1]]),
            ("SELECT ?", [2**70]),
        ]
        for statement, parameters in wrong:
            with pytest.raises(InvalidQueryError) as caught:
                await ask(statement, *parameters)
            assert caught.value.hint

    run(tmp_path, scenario, world)


@pytest.mark.parametrize(
    ("where", "files", "hot"),
    [
        ("__time < '2015-09-12T06:00:00Z'", 1, False),
        ("w.__time >= $1 AND __time <= $2", 1, False),
        (
            "__time BETWEEN TIMESTAMP '2015-09-12 00:00:00' AND TIMESTAMPTZ '2015-09-12 05:00:00Z' AND page = 'x'",
            1,
            False,
        ),
        ("__time >= '2015-09-12' AND (__time < '2015-09-12T06:00:00Z' OR page = 'x')", 2, True),
        ("__time >= '2015-09-12T22:00:00Z'", 0, True),
        ("__time > DATE '2015-09-13' - INTERVAL 1 HOUR OR page = 'x'", 2, True),
        ("__time > DATE '2015-09-13' - INTERVAL '1 hour'", 0, True),
        ("__time >= now() - INTERVAL 1 DAY", 0, False),
        ("page = 'x'", 2, True),
        ("__time >= '2016-01-01' AND __time < '2015-01-01'", 0, False),
    ],
)
def test_only_files_in_the_time_range_are_read(tmp_path: Path, world: World, where: str, files: int, hot: bool) -> None:
    pool = InProcess()

    async def scenario(ask: Asker) -> None:
        parameters = [
            {"type": "TIMESTAMP", "value": "2015-09-12T01:00:00Z"},
            {"type": "TIMESTAMP", "value": "2015-09-12T02:00:00Z"},
        ][: 2 * ("$1" in where)]
        found = await ask.rows(f'SELECT count(*) AS n, count("user") AS u FROM wikipedia w WHERE {where}', *parameters)
        (task,) = pool.tasks
        assert isinstance(task, SqlTask)
        (read,) = task.reads
        assert (len(read.files), bool(read.hot)) == (files, hot)
        whole = await ask.rows(f"SELECT count(*) AS n FROM (SELECT * FROM wikipedia) w WHERE {where}", *parameters)
        assert found[0]["n"] == whole[0]["n"]

    run(tmp_path, scenario, world, pool)


def test_the_range_of_a_table_named_twice_holds_both(tmp_path: Path, world: World) -> None:
    async def scenario(ask: Asker) -> None:
        statement = (
            "SELECT (SELECT count(*) FROM wikipedia WHERE __time < '2015-09-12T03:00:00Z' AND page > '') AS early, "
            "(SELECT count(*) FROM wikipedia WHERE __time >= '2015-09-12T22:00:00Z' AND page > '') AS late"
        )
        oracle = wikipedia.oracle()["time"]
        day = 1_442_016_000_000
        assert await ask.rows(statement) == [
            {"early": int((oracle < day + 3 * HOUR).sum()), "late": int((oracle >= day + 22 * HOUR).sum())}
        ]

    run(tmp_path, scenario, world)


def test_only_the_columns_that_are_named_are_looked_at() -> None:
    assert parse_statement("SELECT a FROM t WHERE b = 1").names == frozenset({"a", "b", "t"})
    for statement in (
        "SELECT * FROM t",
        "SELECT t FROM t",
        "FROM t",
        "SELECT COLUMNS('x') FROM t",
        "SELECT a FROM t NATURAL JOIN u",
    ):
        assert parse_statement(statement).names is None, statement


def test_hot_rows_are_in_the_answer_and_in_its_key(tmp_path: Path, world: World) -> None:
    statement = "SELECT count(*) AS n, max(page) AS p FROM wikipedia"

    async def scenario(ask: Asker) -> None:
        first = await ask(statement)
        assert json.loads(first.body)["rows"][0]["n"] == 39_244
        assert first.meta["sources"] == ["events", "hot"]
        again = await ask(statement)
        assert (again.meta["cached"], again.etag) == (True, first.etag)
        assert (await ask(statement, etag=first.etag)).status == 304
        ask.world.view = dataclasses.replace(ask.world.view, hot=ask.world.view.hot.slice(0, 10), position=2)
        later = await ask(statement, etag=first.etag)
        assert (later.status, later.meta["cached"]) == (200, False)
        assert json.loads(later.body)["rows"][0]["n"] == 30_010
        old = "SELECT count(*) AS n, max(page) AS p FROM wikipedia WHERE __time < '2015-09-12T06:00:00Z'"
        before = await ask(old)
        ask.world.view = dataclasses.replace(ask.world.view, position=3)
        assert (await ask(old, etag=before.etag)).status == 304

    run(tmp_path, scenario, world)


def test_what_may_differ_each_time_is_not_kept(tmp_path: Path, world: World) -> None:
    async def scenario(ask: Asker) -> None:
        for statement in ("SELECT random() AS r", "SELECT uuid() AS r", "SELECT now()::VARCHAR AS r"):
            first = await ask(statement)
            second = await ask(statement, etag=first.etag)
            assert (second.status, second.meta["cached"]) == (200, False)
            assert first.body.partition(b'"meta"')[0] != second.body.partition(b'"meta"')[0]

    run(tmp_path, scenario, world)


def test_positions_and_staleness_reach_the_view(tmp_path: Path, world: World) -> None:
    mine = Position("wikipedia.1", {0: ("log", 5)})

    async def scenario(ask: Asker) -> None:
        await ask("SELECT max(page) AS p FROM wikipedia", after=mine.encode(), max_staleness_ms=0)
        assert ask.world.asked[-1] == (0, mine)
        with pytest.raises(BadRequestError, match="does not read"):
            await ask("SELECT 1", after=mine.encode())

    run(tmp_path, scenario, world)


def test_a_rollup_is_a_table_with_one_row_per_bucket_and_dimensions(tmp_path: Path, world: World) -> None:
    async def scenario(ask: Asker) -> None:
        (row,) = await ask.rows(
            'SELECT sum(n) AS n, sum(added) AS added, min(low) AS low, max(high) AS high, count(*) AS "rows", '
            'count(DISTINCT (__time, channel, "isRobot")) AS keys FROM "wikipedia.hourly"'
        )
        oracle = wikipedia.oracle()
        assert row["n"] == 39_244
        assert (row["added"], row["low"], row["high"]) == (
            oracle["added"].sum(),
            oracle["delta"].min(),
            oracle["delta"].max(),
        )
        assert row["rows"] == row["keys"]
        (shown,) = await ask.rows("SELECT * FROM wikipedia.hourly ORDER BY n DESC LIMIT 1")
        assert list(shown) == ["__time", "channel", "isRobot", "n", "added", "deleted", "low", "high"]
        assert await ask.rows("SELECT count(*) AS n FROM wikipedia.HOURLY") == [{"n": row["rows"]}]
        (past,) = await ask.rows("SELECT sum(n) AS n FROM wikipedia.hourly WHERE __time < '2015-09-12T06:00:00Z'")
        assert past["n"] == int((oracle["time"] < 1_442_016_000_000 + 6 * HOUR).sum())

    run(tmp_path, scenario, world)


def test_the_catalog_shows_every_table_with_its_columns(tmp_path: Path, world: World) -> None:
    async def scenario(ask: Asker) -> None:
        shown = await ask.rows(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main' ORDER BY 1"
        )
        names = ["wikipedia", "wikipedia.daily", "wikipedia.edits", "wikipedia.hourly", "wikipedia.rejected"]
        assert [row["table_name"] for row in shown] == names
        assert [row["name"] for row in await ask.rows("SHOW TABLES")] == names
        columns = await ask.rows(
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_name = 'wikipedia.daily' ORDER BY ordinal_position"
        )
        assert {row["column_name"]: row["data_type"] for row in columns} == {
            "__time": "TIMESTAMP WITH TIME ZONE",
            "channel": "VARCHAR",
            "n": "BIGINT",
            "added": "BIGINT",
        }
        described = await ask.rows('DESCRIBE "wikipedia.daily"')
        assert [row["column_name"] for row in described] == ["__time", "channel", "n", "added"]
        schemas = await ask.rows("SELECT schema_name FROM information_schema.schemata WHERE catalog_name = 'memory'")
        assert schemas == [{"schema_name": "main"}]
        both = await ask.rows(
            "SELECT t.table_name, (SELECT count(*) FROM wikipedia WHERE page > '') AS n FROM information_schema.tables t "
            "WHERE t.table_name = 'wikipedia'"
        )
        assert both == [{"table_name": "wikipedia", "n": 39_244}]

    run(tmp_path, scenario, world)


@pytest.mark.parametrize(
    "statement",
    [
        "WITH c AS (SELECT channel, count(*) AS n FROM wikipedia GROUP BY 1) SELECT max(n) AS n FROM c",
        "WITH wikipedia AS (SELECT channel, count(*) AS n FROM wikipedia GROUP BY 1) SELECT max(n) AS n FROM wikipedia",
        "SELECT max(n) AS n FROM (SELECT count(*) AS n FROM wikipedia GROUP BY channel)",
        "SELECT count(*) AS n FROM wikipedia GROUP BY channel QUALIFY row_number() OVER (ORDER BY count(*) DESC) = 1",
        "SELECT count(*) AS n FROM wikipedia a WHERE channel = (SELECT mode(channel) FROM wikipedia)",
        "SELECT len(list_filter(list(channel), lambda c: c = '#en.wikipedia')) AS n FROM wikipedia",
        "WITH RECURSIVE r AS (SELECT 1 AS k UNION ALL SELECT k + 1 FROM r WHERE k < 11549) SELECT max(k) AS n FROM r",
        "SELECT count(*) AS n FROM range(11549) AS t(k)",
        "SELECT unnest([11549]) AS n",
        "FROM (VALUES (11549)) AS v(n)",
        "SELECT 11549 AS n -- the end",
        "SELECT /* ; */ 11549 AS n;",
    ],
)
def test_standard_sql_is_understood(tmp_path: Path, world: World, statement: str) -> None:
    async def scenario(ask: Asker) -> None:
        assert await ask.rows(statement) == [{"n": 11_549}]

    run(tmp_path, scenario, world)


def test_the_row_limit_is_said(tmp_path: Path, world: World) -> None:
    async def scenario(ask: Asker) -> None:
        reply = await ask("SELECT page FROM wikipedia ORDER BY __time, page")
        assert len(json.loads(reply.body)["rows"]) == 7
        assert (reply.meta["row_limit"], reply.meta["truncated"]) == (7, True)
        reply = await ask("SELECT page FROM wikipedia LIMIT 7")
        assert reply.meta["truncated"] is False
        assert (await ask("SELECT page FROM wikipedia", limit=2)).meta["row_limit"] == 2
        with pytest.raises(InvalidQueryError, match="'limit' is 8"):
            await ask("SELECT 1", limit=8)

    run(tmp_path, scenario, world, query_rows=7)


def test_what_is_wrong_is_said(tmp_path: Path, world: World) -> None:
    async def scenario(ask: Asker) -> None:
        for statement, error, said in (
            ("SELECT * FROM wiki", NotFoundError, "no datasource 'wiki'"),
            ("SELECT * FROM wikipedia.hourli", NotFoundError, "no table 'wikipedia.hourli'"),
            ("SELECT pag FROM wikipedia", InvalidQueryError, "pag"),
            ("SELECT channel FROM wikipedia WHERE", InvalidQueryError, "no SQL"),
            ("SELECT 'x'::INTEGER", InvalidQueryError, "Could not convert"),
            ("SELECT sum(page) FROM wikipedia", InvalidQueryError, "sum"),
        ):
            with pytest.raises(error, match=said):
                await ask(statement)

    run(tmp_path, scenario, world)


def test_a_broken_file_is_named_and_the_next_statement_is_answered(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        file = ask.world.view.by_table["events"][1]
        path = Path(ask.world.store.uri(table_file(wikipedia.datasource().folder, "events", file.path)))
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(CorruptFileError, match=file.path):
            await ask("SELECT max(page) AS p FROM wikipedia")
        assert await ask.rows("SELECT 1 AS n") == [{"n": 1}]
        path.unlink()
        with pytest.raises(CorruptFileError, match="is not there"):
            await ask("SELECT max(page) AS p FROM wikipedia")
        assert ask.world.renewed

    run(tmp_path, scenario)


def test_a_tree_is_answered_as_a_text_is(tmp_path: Path, world: World) -> None:
    async def scenario(ask: Asker) -> None:
        tree = parse_statement(
            'SELECT "user", count(*) AS n FROM wikipedia WHERE channel = $1 GROUP BY 1 ORDER BY 2 DESC'
        ).tree
        found = await ask.service.rows(tree, ("#en.wikipedia",), SqlOptions(limit=2))
        assert read_stream(found.stream).columns == ["user", "n"]
        assert (read_stream(found.stream).height, found.more, found.unchanged) == (2, True, False)
        again = await ask.service.rows(tree, ("#en.wikipedia",), SqlOptions(limit=2, if_none_match=found.etag))
        assert (again.stream, again.unchanged) == (b"", True)

    run(tmp_path, scenario, world)


def test_limits_really_end_a_statement_in_a_worker(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        assert await ask.rows("SELECT max(added) AS n FROM wikipedia WHERE page > ''") == [{"n": 199_818}]
        (pid,) = ask.scans.pids
        endless = "WITH RECURSIVE r AS (SELECT 1 AS k UNION ALL SELECT (k + 1) % 7 FROM r) SELECT count(*) AS n FROM r"
        tree = parse_statement(endless).tree
        with pytest.raises(TimeLimitError):
            await ask.service.rows(tree, (), SqlOptions(time_limit_s=1.0))
        while pid in ask.scans.pids:
            await asyncio.sleep(0.005)
        large = "SELECT list(a.page || b.page || a.comment) AS l FROM wikipedia a, wikipedia b WHERE a.page > ''"
        with pytest.raises(OutOfMemoryError) as caught:
            await ask(large)
        assert "shorter time range" in caught.value.hint
        assert await ask.rows("SELECT 1 AS n") == [{"n": 1}]

    async def whole() -> None:
        settings = Settings(limits=LimitSettings(query_time=120_000, query_memory=256 << 20))
        ask = Asker(build_world(tmp_path), settings, ScanPool(256 << 20, threads=1))
        try:
            await scenario(ask)
        finally:
            await ask.close()

    asyncio.run(whole())
