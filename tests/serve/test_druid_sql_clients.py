"""Real clients against `POST /druid/v2/sql`: pydruid's DB-API, SQLAlchemy with its dialect as Superset uses it, and the requests
of Grafana's plug-in, Cube and Druid's own console as they were recorded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import polars as pl
import pytest
import sqlalchemy
from pydruid.db import connect
from pydruid.db.exceptions import ProgrammingError
from sqlalchemy import MetaData, Table, column, func, inspect, literal_column, select, text

from tests.query import wikipedia
from tests.serve.druid_sql_site import served

COUNT = "SELECT COUNT(*) AS n FROM wikipedia"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with served(tmp_path_factory.mktemp("druid-clients")) as port:
        yield port


@pytest.fixture(scope="module")
def engine(port: int) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(f"druid://127.0.0.1:{port}/druid/v2/sql?header=true")
    yield engine
    engine.dispose()


def cursor(port: int, **options: Any) -> Any:
    return connect(host="127.0.0.1", port=port, path="/druid/v2/sql/", scheme="http", **options).cursor()


def test_pydruid_reads_rows_by_name(port: int) -> None:
    asking = cursor(port)
    asking.execute("SELECT channel, COUNT(*) AS n FROM wikipedia GROUP BY channel ORDER BY n DESC LIMIT 2")
    assert [d[0] for d in asking.description] == ["channel", "n"]
    rows = asking.fetchall()
    assert [(r.channel, r.n) for r in rows] == [("#en.wikipedia", 11549), ("#vi.wikipedia", 9747)]


def test_pydruid_puts_parameters_in_and_gets_odd_texts_back(port: int) -> None:
    asking = cursor(port)
    name = 'it\'s 100% "odd", [a]'
    asking.execute(
        "SELECT %(name)s AS v, COUNT(*) AS n FROM wikipedia WHERE isRobot = %(robot)s", {"name": name, "robot": True}
    )
    assert [tuple(r) for r in asking] == [(name, 15420)]


def test_pydruid_knows_the_columns_of_an_empty_answer_by_its_header(port: int) -> None:
    asking = cursor(port, header=True)
    asking.execute("SELECT page, added FROM wikipedia WHERE 1 = 0")
    assert [d[0] for d in asking.description] == ["page", "added"]
    assert asking.fetchall() == []


def test_pydruid_reads_lists_and_json_as_texts(port: int) -> None:
    asking = cursor(port)
    asking.execute(
        "SELECT ARRAY['a', 'b'] AS a, JSON_QUERY(__rest, '$.extra') AS j FROM wikipedia WHERE __rest IS NOT NULL LIMIT 1"
    )
    assert [tuple(r) for r in asking] == [('["a","b"]', '{"price":1.5,"a.b":"x1"}')]


def test_pydruid_raises_what_the_server_refused(port: int) -> None:
    with pytest.raises(ProgrammingError, match="Column 'nothing' not found"):
        cursor(port).execute("SELECT nothing FROM wikipedia")
    with pytest.raises(ProgrammingError, match="can't be parsed"):
        cursor(port).execute("SELECT FROM")


def test_pydruid_sends_its_context(port: int) -> None:
    asking = cursor(port, context={"sqlTimeZone": "America/Los_Angeles", "timeout": 60_000})
    asking.execute("SELECT FLOOR(MIN(__time) TO DAY) AS t FROM wikipedia")
    assert [r.t for r in asking] == ["2015-09-11T00:00:00.000-07:00"]


def test_sqlalchemy_reflects_schemas_tables_and_columns(engine: Any) -> None:
    inspector = inspect(engine)
    assert "druid" in inspector.get_schema_names()
    assert {"wikipedia", "wikipedia.edits"} <= set(inspector.get_table_names(schema="druid"))
    assert inspector.has_table("wikipedia")
    assert not inspector.has_table("nothing")
    columns = {c["name"]: (str(c["type"]), c["nullable"]) for c in inspector.get_columns("wikipedia", schema="druid")}
    assert next(iter(columns)) == "__time"
    assert columns["__time"] == ("TIMESTAMP", False)
    assert columns["added"] == ("BIGINT", True)
    assert columns["isRobot"] == ("BOOLEAN", True)
    assert columns["page"][1]
    reflected = Table("wikipedia", MetaData(), autoload_with=engine)
    assert reflected.c.added.nullable


def run(engine: Any, statement: Any) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(statement)]


GRAINS = (
    "FLOOR({} TO SECOND)", "FLOOR({} TO MINUTE)", "FLOOR({} TO HOUR)", "FLOOR({} TO DAY)", "FLOOR({} TO WEEK)",
    "FLOOR({} TO MONTH)", "FLOOR({} TO QUARTER)", "FLOOR({} TO YEAR)",
    *(f"TIME_FLOOR({{}}, '{p}')" for p in ("PT5S", "PT30S", "PT5M", "PT10M", "PT15M", "PT30M", "PT1H", "PT6H", "P1W", "P3M")),
    "TIMESTAMPADD(DAY,5,FLOOR(TIMESTAMPADD(DAY,1,{}) TO WEEK))",
)  # fmt: skip


@pytest.mark.parametrize("grain", GRAINS)
def test_superset_charts_of_every_grain_count_every_row_once(engine: Any, grain: str) -> None:
    """A chart is limited to its top groups by a join with a subquery, and has the column `__timestamp`."""
    source = sqlalchemy.table("wikipedia", column("channel"), column("added"), column("__time"), schema="druid")
    step = literal_column(grain.format("CAST(__time AS TIMESTAMP)")).label("__timestamp")
    count = func.count().label("count")
    when = [
        text("__time >= TIME_PARSE('2015-09-12T22:00:00')"),
        text("__time < TIME_PARSE('2015-09-12T22:01:00')"),
    ]
    statement = select([step, count]).select_from(source).where(sqlalchemy.and_(*when)).group_by(step).order_by(
        sqlalchemy.desc("count")
    ).limit(1000)  # fmt: skip
    rows = run(engine, statement)
    start = 1_442_095_200_000
    within = wikipedia.oracle().filter(pl.col("time").is_between(start, start + 59_999)).height
    assert sum(r[1] for r in rows) == within > 0
    assert all(datetime.fromisoformat(r[0]) for r in rows)


def test_superset_top_n_chart_with_its_subquery(engine: Any) -> None:
    source = sqlalchemy.table("wikipedia", column("channel"), column("added"), column("__time"), schema="druid")
    total = func.sum(source.c.added).label("SUM(added)")
    inner = (
        select([source.c.channel.label("channel__"), func.sum(source.c.added).label("mme_inner__")])
        .select_from(source)
        .where(text("__time >= TIME_PARSE('2015-09-12T00:00:00')"))
        .group_by(source.c.channel)
        .order_by(sqlalchemy.desc("mme_inner__"))
        .limit(3)
        .alias("anon_1")
    )
    step = literal_column("FLOOR(__time TO DAY)").label("__timestamp")
    statement = (
        select([step, source.c.channel.label("channel"), total])
        .select_from(source.join(inner, source.c.channel == inner.c.channel__))
        .group_by(source.c.channel, step)
        .order_by(sqlalchemy.desc("SUM(added)"))
        .limit(100)
    )
    frame = wikipedia.oracle().group_by("channel").agg(added=pl.col("added").sum())
    top = frame.sort("added", descending=True).head(3)
    assert run(engine, statement) == [
        ("2015-09-12T00:00:00.000Z", channel, added) for channel, added in top.iter_rows()
    ]


def test_superset_filters_of_every_kind(engine: Any) -> None:
    source = sqlalchemy.table("wikipedia", column("channel"), column("page"), column("added"), column("isRobot"))
    c = source.c
    conditions = [
        c.channel.in_(["#be.wikipedia", "#bg.wikipedia"]),
        ~c.channel.in_(["#en.wikipedia"]),
        c.page.like("%Talk%"),
        c.page.is_(None),
        c.page.isnot(None),
        c.added.between(5, 10),
        c.isRobot == sqlalchemy.true(),
        sqlalchemy.or_(c.added > 1000, sqlalchemy.and_(c.added == 0, c.channel != "#en.wikipedia")),
    ]
    frame = wikipedia.oracle()
    expected = [
        pl.col("channel").is_in(["#be.wikipedia", "#bg.wikipedia"]),
        ~pl.col("channel").is_in(["#en.wikipedia"]),
        pl.col("page").str.contains("Talk", literal=True),
        pl.col("page").is_null(),
        pl.col("page").is_not_null(),
        pl.col("added").is_between(5, 10),
        pl.col("isRobot"),
        (pl.col("added") > 1000) | ((pl.col("added") == 0) & (pl.col("channel") != "#en.wikipedia")),
    ]
    for condition, oracle in zip(conditions, expected, strict=True):
        statement = select([func.count().label("n")]).select_from(source).where(condition)
        assert run(engine, statement) == [(frame.filter(oracle).height,)]


def test_an_empty_chart_is_no_error(engine: Any) -> None:
    assert run(engine, text("SELECT page FROM wikipedia WHERE 1 = 0")) == []
    with engine.connect() as connection:
        assert engine.dialect.do_ping(connection.connection.dbapi_connection.cursor())


def post(port: int, document: dict[str, Any]) -> httpx.Response:
    answer = httpx.post(f"http://127.0.0.1:{port}/druid/v2/sql", json=document)
    assert answer.status_code == 200, answer.text
    return answer


def test_grafana_asks_for_arrays_with_a_header(port: int) -> None:
    query = (
        'SELECT FLOOR(__time TO HOUR) AS "time", channel, SUM("added") AS added FROM wikipedia '
        "WHERE __time >= MILLIS_TO_TIMESTAMP(1442016000000) AND __time < MILLIS_TO_TIMESTAMP(1442023200000) "
        "AND channel IN ('#en.wikipedia') GROUP BY 1, 2 ORDER BY 1"
    )
    found = post(port, {"query": query, "resultFormat": "array", "header": True, "context": {"sqlQueryId": "g"}}).json()
    assert found[0] == ["time", "channel", "added"]
    assert [row[0] for row in found[1:]] == ["2015-09-12T00:00:00.000Z", "2015-09-12T01:00:00.000Z"]
    variable = post(
        port, {"query": "SELECT DISTINCT channel FROM wikipedia LIMIT 2", "resultFormat": "array", "header": True}
    )
    assert len(variable.json()) == 3


def test_cube_learns_tables_columns_and_types(port: int) -> None:
    form = {"header": True, "sqlTypesHeader": True, "resultFormat": "object"}
    tables = post(
        port,
        {
            "query": "SELECT TABLE_NAME FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = ?",
            "parameters": [{"value": "druid", "type": "VARCHAR"}],
            **form,
        },
    )
    assert tables.headers["x-druid-sql-header-included"] == "yes"
    assert tables.json()[:2] == [{"TABLE_NAME": {"sqlType": "VARCHAR"}}, {"TABLE_NAME": "wikipedia"}]
    columns = post(
        port,
        {
            "query": 'SELECT COLUMN_NAME as "column_name", TABLE_NAME as "table_name", TABLE_SCHEMA as "table_schema", '
            'DATA_TYPE as "data_type" FROM INFORMATION_SCHEMA.COLUMNS '
            "WHERE TABLE_SCHEMA NOT IN ('INFORMATION_SCHEMA', 'sys')",
            **form,
        },
    ).json()
    assert columns[1] == {
        "column_name": "__time", "table_name": "wikipedia", "table_schema": "druid", "data_type": "TIMESTAMP",
    }  # fmt: skip
    day = post(
        port,
        {
            "query": 'SELECT TIME_FLOOR("w".__time, \'P1D\', NULL, ?) "day", count(*) "n" FROM druid.wikipedia AS "w" '
            'WHERE ("w".__time >= TIME_PARSE(?) AND "w".__time <= TIME_PARSE(?)) GROUP BY 1 ORDER BY 1 ASC LIMIT 10000',
            "parameters": [
                {"value": "UTC", "type": "VARCHAR"},
                {"value": "2015-09-12T00:00:00.000Z", "type": "VARCHAR"},
                {"value": "2015-09-12T23:59:59.999Z", "type": "VARCHAR"},
            ],
            **form,
        },
    ).json()
    assert day == [
        {"day": {"sqlType": "TIMESTAMP"}, "n": {"sqlType": "BIGINT"}},
        {"day": "2015-09-12T00:00:00.000Z", "n": 39244},
    ]


def test_the_console_learns_what_there_is(port: int) -> None:
    def rows(query: str) -> list[dict[str, Any]]:
        found = post(port, {"query": query}).json()
        assert isinstance(found, list)
        return found

    assert {"TABLE_NAME": "wikipedia"} in rows("SELECT TABLE_NAME FROM INFORMATION_SCHEMA.TABLES")
    known = rows(
        "SELECT COLUMN_NAME, ORDINAL_POSITION, IS_NULLABLE, DATA_TYPE FROM INFORMATION_SCHEMA.COLUMNS "
        "WHERE TABLE_NAME = 'wikipedia' ORDER BY ORDINAL_POSITION"
    )
    assert known[0] == {"COLUMN_NAME": "__time", "ORDINAL_POSITION": 1, "IS_NULLABLE": "NO", "DATA_TYPE": "TIMESTAMP"}
    assert [k["ORDINAL_POSITION"] for k in known] == list(range(1, 21))
    sizes = rows(
        'SELECT datasource, COUNT(*) FILTER (WHERE is_active = 1) AS num_segments, SUM("num_rows") AS total_rows, '
        'AVG("size") AS avg_size FROM sys.segments GROUP BY 1'
    )
    assert {"datasource": "wikipedia", "num_segments": 2, "total_rows": 30_000}.items() <= sizes[0].items()
    assert rows("SELECT server_type, is_leader FROM sys.servers") == [{"server_type": "broker", "is_leader": None}]
    assert rows("SELECT state, healthy FROM sys.supervisors") == [{"state": "RUNNING", "healthy": 1}]
    assert rows("SELECT COUNT(*) AS n FROM sys.tasks WHERE status = 'RUNNING'") == [{"n": 1}]
    plan = rows("EXPLAIN PLAN FOR SELECT COUNT(*) FROM wikipedia")[0]
    assert set(plan) == {"PLAN", "RESOURCES", "ATTRIBUTES"}
    assert plan["RESOURCES"] == '[{"name":"wikipedia","type":"DATASOURCE"}]'


def test_the_published_answers_about_wikipedia(port: int) -> None:
    """The first query of Druid's tutorial, as its documents print the answer."""
    query = (
        "SELECT page, COUNT(*) AS Edits FROM wikipedia WHERE \"__time\" BETWEEN TIMESTAMP '2015-09-12 00:00:00' "
        "AND TIMESTAMP '2015-09-13 00:00:00' GROUP BY page ORDER BY Edits DESC LIMIT 10"
    )
    found = post(port, {"query": query}).json()
    assert [r["Edits"] for r in found] == [n for _, n in PUBLISHED]
    assert {(r["page"], r["Edits"]) for r in found if r["Edits"] > 17} == {(p, n) for p, n in PUBLISHED if n > 17}


PUBLISHED = [
    ("Wikipedia:Vandalismusmeldung", 33),
    ("User:Cyde/List of candidates for speedy deletion/Subpage", 28),
    ("Jeremy Corbyn", 27),
    ("Wikipedia:Administrators' noticeboard/Incidents", 21),
    ("Flavia Pennetta", 20),
    ("Total Drama Presents: The Ridonculous Race", 18),
    ("User talk:Dudeperson176123", 18),
    ("Wikipédia:Le Bistro/12 septembre 2015", 18),
    ("Wikipedia:In the news/Candidates", 17),
    ("Wikipedia:Requests for page protection", 17),
]
