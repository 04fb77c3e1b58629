"""What a statement can't do: reach files, the network, settings, the engine, or change anything.

Both looks at it are held to it, and the engine's settings by themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from rta.errors import InvalidQueryError, RtaError
from rta.query.sql.functions import is_allowed, is_table_function, refusal
from rta.query.sql.statement import parse_statement
from rta.query.sql.tables import tables_of
from rta.serve.sql_check import check
from rta.serve.sql_engine import Engine, TableRead
from rta.serve.sql_task import SqlTask
from rta.store.objects import LocalStore
from tests.query import wikipedia
from tests.sql.asker import Asker, run

HOSTILE = [
    # statements that are no questions
    "CREATE TABLE x AS SELECT 1",
    "CREATE OR REPLACE VIEW wikipedia AS SELECT 1",
    "CREATE MACRO f(a) AS a",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE TEMP TABLE x (a INT)",
    "INSERT INTO wikipedia VALUES (1)",
    "UPDATE wikipedia SET added = 0",
    "DELETE FROM wikipedia",
    "DELETE FROM wikipedia RETURNING *",
    "MERGE INTO wikipedia USING wikipedia u ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE wikipedia",
    "DROP VIEW wikipedia",
    "ALTER TABLE wikipedia ADD COLUMN x INT",
    "WITH x AS (INSERT INTO wikipedia VALUES (1) RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM wikipedia RETURNING *) SELECT * FROM x",
    "SELECT * INTO x FROM wikipedia",
    "COPY wikipedia TO '/tmp/x.parquet'",
    "COPY (SELECT 1) TO '/tmp/x.csv'",
    "COPY wikipedia FROM '/etc/passwd'",
    "EXPORT DATABASE '/tmp/x'",
    "IMPORT DATABASE '/tmp/x'",
    "ATTACH '/tmp/x.db' AS x",
    "ATTACH ':memory:' AS x",
    "DETACH memory",
    "USE information_schema",
    "INSTALL httpfs",
    "LOAD httpfs",
    "FORCE INSTALL spatial FROM community",
    "SET enable_external_access = true",
    "SET GLOBAL threads = 64",
    "RESET memory_limit",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "CALL pragma_version()",
    "CALL duckdb_settings()",
    "CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "BEGIN TRANSACTION",
    "COMMIT",
    "ROLLBACK",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN COPY wikipedia TO 'x'",
    "EXPLAIN DELETE FROM wikipedia",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW wikipedia",
    "SHOW DATABASES",
    "SHOW VARIABLES",
    "COMMENT ON TABLE wikipedia IS 'x'",
    "",
    "   ",
    "-- nothing",
    "SELEC 1",
    # files and the network
    "SELECT * FROM 'file.parquet'",
    "SELECT * FROM '/etc/passwd'",
    'SELECT * FROM "/etc/passwd"',
    "FROM 'data/*.csv'",
    "SELECT * FROM 'https://example.com/x.parquet'",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "SELECT * FROM read_parquet('/tmp/x.parquet')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_ndjson_objects('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/proc/self/environ')",
    "SELECT * FROM parquet_metadata('/tmp/x.parquet')",
    "SELECT * FROM parquet_schema('/tmp/x.parquet')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM python_arrow_scan()",
    "SELECT * FROM seq_scan('wikipedia')",
    "SELECT (SELECT max(content) FROM read_text('/etc/passwd'))",
    "WITH a AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM a",
    "SELECT * FROM wikipedia, LATERAL read_text(page)",
    "SELECT count(*) FROM wikipedia WHERE page IN (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT 1 ORDER BY (SELECT count(*) FROM glob('*'))",
    # statements as text
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('wikipedia')",
    "FROM json_execute_serialized_sql('{}')",
    "SELECT json_serialize_sql('SELECT 1')",
    "SELECT json_serialize_plan('SELECT * FROM wikipedia')",
    # settings, the environment, the engine's own state
    "SELECT getenv('HOME')",
    "SELECT 'HOME'.getenv()",
    "SELECT current_setting('allowed_directories')",
    "SELECT main.current_setting('threads')",
    "SELECT getvariable('x')",
    "SELECT nextval('s')",
    "SELECT setseed(0.5)",
    "SELECT pg_sleep(10)",
    "SELECT sleep_ms(10000)",
    "SELECT write_log('x')",
    "SELECT current_query()",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_views()",
    "SELECT * FROM duckdb_views",
    "SELECT sql FROM sqlite_master",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_functions()",
    "SELECT * FROM duckdb_extensions()",
    "SELECT * FROM duckdb_logs",
    "SELECT * FROM duckdb_memory()",
    "SELECT * FROM duckdb_temporary_files()",
    "SELECT * FROM duckdb_external_file_cache()",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM pragma_storage_info('wikipedia')",
    "SELECT * FROM pragma_table_info('wikipedia')",
    "SELECT * FROM pg_catalog.pg_settings",
    "SELECT * FROM pg_catalog.pg_views",
    "SELECT view_definition FROM information_schema.views",
    "SELECT * FROM system.information_schema.views",
    "SELECT * FROM system.main.duckdb_views",
    "SELECT * FROM temp.main.sqlite_master",
    "WITH sqlite_master AS (SELECT 1) SELECT * FROM sqlite_master",
    'WITH RECURSIVE "a.parquet" AS (SELECT * FROM "a.parquet") SELECT * FROM "a.parquet"',
    'WITH RECURSIVE "/tmp/a.parquet" AS (SELECT * FROM "/tmp/a.parquet") SELECT * FROM "/tmp/a.parquet"',
    "SELECT * FROM (WITH duckdb_views AS (SELECT 1) FROM duckdb_views), duckdb_views",
    "DESCRIBE read_csv('/etc/passwd')",
    "SUMMARIZE SELECT * FROM read_csv('/etc/passwd')",
    "DESCRIBE '/etc/passwd'",
    "SELECT __internal_compress_string_ubigint('a')",
    "SELECT no_such_function(1)",
    # what is too much to look at
    "SELECT " + "(" * 3_000 + "1" + ")" * 3_000,
    "SELECT " + "+".join(["1"] * 30_000),
    "SELECT '" + "x" * 70_000 + "'",
]


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    table = tables_of(wikipedia.datasource())[0]
    engine = Engine(LocalStore(tmp_path_factory.mktemp("store")), 1 << 28)
    with engine.holding((TableRead(table, (("wikipedia",),)),)) as connection:
        yield connection
    engine.close()


def test_no_hostile_statement_is_answered(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        for statement in HOSTILE:
            with pytest.raises(RtaError) as caught:
                pytest.fail(f"answered: {(await ask(statement)).body[:100]!r} to {statement[:100]}")
            assert caught.value.status in (400, 404), (statement[:100], caught.value)
            assert caught.value.hint, statement[:100]
            assert len(caught.value.message) < 600

    assert len(HOSTILE) >= 60
    run(tmp_path, scenario)


@pytest.mark.parametrize("statement", [s for s in HOSTILE if s.strip() and len(s) < 2_000])
def test_the_engines_own_reading_refuses_it_too(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    with pytest.raises((InvalidQueryError, duckdb.Error)):
        check(connection, statement, frozenset({("wikipedia",)}))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_csv('/proc/self/environ')",
        "COPY (SELECT 1) TO '/tmp/rta-sandbox.csv'",
        "ATTACH '/tmp/rta-sandbox.db' AS x",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET threads = 2",
        "SET allowed_directories = ['/']",
        "SELECT * FROM read_text('{root}/../outside')",
        "SELECT * FROM 'https://example.com/x.parquet'",
    ],
)
def test_the_engine_itself_is_shut(connection: duckdb.DuckDBPyConnection, statement: str, tmp_path: Path) -> None:
    with pytest.raises(duckdb.Error):
        connection.cursor().execute(statement.replace("{root}", str(tmp_path)))
    assert not Path("/tmp/rta-sandbox.csv").exists()


def test_every_function_of_the_engine_was_looked_at() -> None:
    """A newer engine brings new functions: each is put into one of the lists of functions.json before it may be called."""
    found = duckdb.connect().execute(
        "SELECT DISTINCT function_name, function_type FROM duckdb_functions() "
        "WHERE function_type NOT IN ('pragma', 'table', 'table_macro')"
    )
    unknown = [n for n, _ in found.fetchall() if not is_allowed(n) and refusal(n) is None]
    assert unknown == []


def test_no_function_is_allowed_that_reaches_out() -> None:
    names = duckdb.connect().execute("SELECT DISTINCT function_name FROM duckdb_functions()").fetchall()
    dangerous = re.compile(
        r"read_|scan|glob|secret|setting|getenv|pragma|query|sniff|copy|attach|install|extension|^duckdb_"
    )
    reaching = {n for (n,) in names if dangerous.search(n) and (is_allowed(n) or is_table_function(n))}
    assert reaching <= {"json_copy_strftime_if_date", "json_copy_strftime_if_timestamp"}


def test_nothing_of_a_statement_is_left_for_the_next_one(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        assert await ask.rows("SELECT count(*) AS n FROM wikipedia") == [{"n": 39_244}]
        shown = await ask.rows("SHOW TABLES")
        assert [r["name"] for r in shown] == sorted(t.name for t in tables_of(wikipedia.datasource()))
        with pytest.raises(InvalidQueryError):
            await ask("SELECT no_such_column FROM wikipedia")
        assert await ask.rows("SELECT 1 AS n") == [{"n": 1}]

    run(tmp_path, scenario)


def test_no_answer_shows_where_files_lie(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        for statement in (
            "SELECT * FROM information_schema.tables",
            "SELECT * FROM information_schema.columns",
            "SELECT * FROM information_schema.schemata",
            "SELECT t.*, (SELECT count(*) FROM wikipedia) FROM information_schema.tables t",
            "SHOW TABLES",
            "EXPLAIN SELECT * FROM wikipedia",
            "DESCRIBE wikipedia",
        ):
            assert str(tmp_path) not in (await ask(statement)).body.decode()
            assert b".parquet" not in (await ask(statement)).body

    run(tmp_path, scenario)


def test_a_task_with_a_text_that_nobody_looked_at_is_refused_in_the_worker(tmp_path: Path) -> None:
    task = SqlTask("COPY (SELECT 1) TO 'x'", (), LocalStore(tmp_path), (), (), "json", 10, 1 << 28, 10)
    with pytest.raises(InvalidQueryError, match="no question"):
        task.run()
    assert json.loads(SqlTask("SELECT 1 AS n", (), LocalStore(tmp_path), (), (), "json", 10, 1 << 28, 10).run().rows)


def test_parameters_of_both_kinds_are_refused() -> None:
    with pytest.raises(InvalidQueryError, match="both kinds"):
        parse_statement("SELECT ?, $1")
