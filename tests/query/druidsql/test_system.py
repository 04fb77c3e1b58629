"""INFORMATION_SCHEMA and sys: what clients ask to learn which tables and columns there are."""

from __future__ import annotations

import pytest

from tests.query.druidsql.asking import rows


@pytest.mark.parametrize("schema", ["INFORMATION_SCHEMA", "information_schema", '"INFORMATION_SCHEMA"'])
@pytest.mark.parametrize("table", ["TABLES", '"TABLES"', "tables"])
def test_names_are_found_quoted_or_not_in_any_case(schema: str, table: str) -> None:
    query = f"SELECT TABLE_NAME FROM {schema}.{table} WHERE TABLE_SCHEMA = 'druid' AND \"TABLE_NAME\" NOT LIKE 'wiki%'"
    assert rows(query) == [["tagged"]]


def test_schemas_are_those_of_druid() -> None:
    assert [r[0] for r in rows("SELECT SCHEMA_NAME FROM INFORMATION_SCHEMA.SCHEMATA ORDER BY 1")] == [
        "INFORMATION_SCHEMA", "druid", "lookup", "sys", "view",
    ]  # fmt: skip
    assert rows("SELECT DISTINCT CATALOG_NAME FROM INFORMATION_SCHEMA.SCHEMATA") == [["druid"]]


def test_columns_have_their_types_in_sql_and_in_jdbc() -> None:
    query = (
        "SELECT COLUMN_NAME, ORDINAL_POSITION, IS_NULLABLE, DATA_TYPE, JDBC_TYPE, COLUMN_DEFAULT, DATETIME_PRECISION "
        "FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_NAME = 'tagged' ORDER BY ORDINAL_POSITION"
    )
    assert rows(query) == [
        ["__time", 1, "NO", "TIMESTAMP", 93, "", 3],
        ["tags", 2, "YES", "VARCHAR", 12, "", None],
        ["word", 3, "YES", "VARCHAR", 12, "", None],
        ["size", 4, "YES", "DOUBLE", 8, "", None],
        ["doc", 5, "YES", "COMPLEX<json>", 1111, "", None],
    ]
    assert rows("SELECT COUNT(*) FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_NAME = 'COLUMNS'") == [[17]]


def test_tables_of_the_system_say_so() -> None:
    query = "SELECT TABLE_NAME, TABLE_TYPE, IS_JOINABLE, IS_BROADCAST FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = 'sys'"
    found = {r[0]: r[1:] for r in rows(query)}
    assert set(found) == {"segments", "servers", "server_segments", "tasks", "supervisors"}
    assert found["segments"] == ["SYSTEM_TABLE", "NO", "NO"]


def test_functions_are_listed() -> None:
    query = "SELECT ROUTINE_NAME, IS_AGGREGATOR FROM INFORMATION_SCHEMA.ROUTINES WHERE ROUTINE_NAME IN ('COUNT', 'TIME_FLOOR')"
    assert sorted(rows(query)) == [["COUNT", "YES"], ["TIME_FLOOR", "NO"]]


def test_sys_tables_have_the_rows_they_are_given() -> None:
    assert rows("SELECT server, tls_port, tier FROM sys.servers") == [["here:1", -1, None]]
    assert rows("SELECT COUNT(*), SUM(num_rows) FROM sys.segments") == [[0, None]]


def test_a_rollup_is_a_table_of_its_own() -> None:
    query = "SELECT COLUMN_NAME FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_NAME = 'wikipedia.daily' ORDER BY ORDINAL_POSITION"
    assert [r[0] for r in rows(query)] == ["__time", "channel", "n", "added"]
