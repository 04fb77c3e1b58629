"""Druid SQL → DuckDB SQL, in pairs: what each rule makes of its part of a query."""

from __future__ import annotations

from typing import Any

import pytest

from tests.query.druidsql.asking import translated

T = '"wikipedia"."__time"'
ZONE = {"sqlTimeZone": "America/Los_Angeles"}
EXPRESSIONS: list[tuple[str, str, dict[str, Any]]] = [
    # times that planners know again
    ("FLOOR(__time TO HOUR)", f"date_trunc('hour', {T})", {}),
    ("FLOOR(__time TO QUARTER)", f"date_trunc('quarter', {T})", {}),
    ("TIME_FLOOR(__time, 'P1D')", f"date_trunc('day', {T})", {}),
    ("TIME_FLOOR(__time, 'PT5M')", f"time_bucket(INTERVAL '5' MINUTE, {T})", {}),
    ("TIME_FLOOR(__time, 'PT6H')", f"time_bucket(INTERVAL '6' HOUR, {T})", {}),
    ("DATE_TRUNC('week', __time)", f"date_trunc('week', {T})", {}),
    # steps on the clock of a zone
    (
        "FLOOR(__time TO DAY)",
        f"timezone('America/Los_Angeles', date_trunc('day', timezone('America/Los_Angeles', {T})))",
        ZONE,
    ),
    (
        "TIME_FLOOR(__time, 'P1D', NULL, 'America/Los_Angeles')",
        f"timezone('America/Los_Angeles', date_trunc('day', timezone('America/Los_Angeles', {T})))",
        {},
    ),
    # what is known is a constant
    ("TIMESTAMP '2015-09-12 01:02:03'", "TIMESTAMP '2015-09-12 01:02:03.000'", {}),
    ("TIMESTAMP '2015-09-12'", "TIMESTAMP '2015-09-12 07:00:00.000'", ZONE),
    ("TIME_PARSE('2015-09-12T02:00:00+02:00')", "TIMESTAMP '2015-09-12 00:00:00.000'", {}),
    ("CURRENT_TIMESTAMP - INTERVAL '1' DAY", "TIMESTAMP '2015-09-12 00:00:00.000'", {}),
    ("FLOOR(CURRENT_TIMESTAMP TO YEAR)", "TIMESTAMP '2015-01-01 00:00:00.000'", {}),
    ("TIME_SHIFT(TIMESTAMP '2015-01-31 00:00:00', 'P1M', 1)", "TIMESTAMP '2015-02-28 00:00:00.000'", {}),
    ("MILLIS_TO_TIMESTAMP(0)", "TIMESTAMP '1970-01-01 00:00:00.000'", {}),
    ("CAST(TIME_PARSE('2015-09-12T05:00') AS DATE)", "TIMESTAMP '2015-09-12 00:00:00.000'", {}),
    # arithmetic by type
    ("added / 2", '("wikipedia"."added" // nullif(2, 0))', {}),
    ("added / 2.0", '(CAST("wikipedia"."added" AS DOUBLE) / 2.0e0)', {}),
    ("'3' + 1", "(TRY_CAST('3' AS DOUBLE) + 1.0e0)", {}),
    ("-added", '(-"wikipedia"."added")', {}),
    # texts
    ("page || 1", '("wikipedia"."page" || CAST(1 AS VARCHAR))', {}),
    ("CONCAT(page, channel)", '("wikipedia"."page" || "wikipedia"."channel")', {}),
    ("SUBSTRING(page FROM 2 FOR 3)", 'substring("wikipedia"."page", 2, 3)', {}),
    ("POSITION('a' IN page)", 'strpos("wikipedia"."page", \'a\')', {}),
    ("TRIM(LEADING 'x' FROM page)", 'ltrim("wikipedia"."page", \'x\')', {}),
    ("'it''s'", "'it''s'", {}),
    # aggregates
    ("COUNT(*)", "count(*)", {}),
    ("COUNT(DISTINCT page)", 'count(DISTINCT "wikipedia"."page")', {"useApproximateCountDistinct": "false"}),
    (
        "SUM(added) FILTER (WHERE isRobot)",
        'sum("wikipedia"."added") FILTER (WHERE "wikipedia"."isRobot")',
        {},
    ),
    ("LATEST(delta)", f'arg_max_null("wikipedia"."delta", epoch_ms({T}))', {}),
    ("ANY_VALUE(page, 10)", 'any_value("wikipedia"."page")', {}),
    ("STDDEV(added)", 'stddev_samp(CAST("wikipedia"."added" AS DOUBLE))', {}),
]


@pytest.mark.parametrize(("before", "after", "context"), EXPRESSIONS, ids=[e[0] for e in EXPRESSIONS])
def test_an_expression_becomes(before: str, after: str, context: dict[str, Any]) -> None:
    assert translated(f"SELECT {before} AS x FROM wikipedia", **context).sql == (
        f'SELECT {after} AS "x" FROM "wikipedia" AS "wikipedia"'
    )


CONDITIONS = [
    ("__time >= '2015-09-12T05'", f"({T} >= TIMESTAMPTZ '2015-09-12 05:00:00.000+00')"),
    (
        "TIME_IN_INTERVAL(__time, '2015-09-12/PT1H')",
        f"({T} >= TIMESTAMPTZ '2015-09-12 00:00:00.000+00' AND {T} < TIMESTAMPTZ '2015-09-12 01:00:00.000+00')",
    ),
    (
        "__time BETWEEN TIMESTAMP '2015-09-12 00:00:00' AND TIMESTAMP '2015-09-13 00:00:00'",
        f"(({T} >= TIMESTAMPTZ '2015-09-12 00:00:00.000+00') AND ({T} <= TIMESTAMPTZ '2015-09-13 00:00:00.000+00'))",
    ),
    ("isRobot = 'true'", '("wikipedia"."isRobot" = TRUE)'),
    ("isRobot = 1", '(CAST("wikipedia"."isRobot" AS BIGINT) = 1)'),
    ("page > 600", '(TRY_CAST("wikipedia"."page" AS DOUBLE) > 600)'),
    ("channel IN ('a', 'b')", "(\"wikipedia\".\"channel\" IN ('a', 'b'))"),
    ("channel LIKE 'a!_%' ESCAPE '!'", "(\"wikipedia\".\"channel\" LIKE 'a!_%' ESCAPE '!')"),
    ("NOT channel = 'a'", '(NOT ("wikipedia"."channel" = \'a\'))'),
    ("channel IS NULL", '("wikipedia"."channel" IS NULL)'),
    ("isRobot IS NOT TRUE", '(NOT ("wikipedia"."isRobot" IS TRUE))'),
    ("added BETWEEN 1 AND 2.5", '(("wikipedia"."added" >= 1) AND ("wikipedia"."added" <= 2.5e0))'),
]


@pytest.mark.parametrize(("before", "after"), CONDITIONS, ids=[c[0] for c in CONDITIONS])
def test_a_condition_becomes(before: str, after: str) -> None:
    assert translated(f"SELECT 1 AS x FROM wikipedia WHERE {before}").sql == (
        f'SELECT 1 AS "x" FROM "wikipedia" AS "wikipedia" WHERE {after}'
    )


def test_unnamed_columns_are_counted_and_names_that_come_again_get_a_number() -> None:
    found = translated("SELECT page, COUNT(*), page, page AS page, SUM(added) FROM wikipedia GROUP BY page")
    assert [c.name for c in found.columns] == ["page", "EXPR$1", "page0", "page1", "EXPR$4"]


def test_a_number_and_an_alias_in_group_by_mean_the_column_of_the_answer() -> None:
    by_number = translated("SELECT FLOOR(__time TO DAY) AS d, COUNT(*) AS n FROM wikipedia GROUP BY 1 ORDER BY 1")
    by_alias = translated("SELECT FLOOR(__time TO DAY) AS d, COUNT(*) AS n FROM wikipedia GROUP BY d ORDER BY d")
    assert by_number.sql == by_alias.sql
    assert f"GROUP BY date_trunc('day', {T}) ORDER BY 1" in by_number.sql


def test_a_multi_value_string_in_group_by_comes_value_by_value() -> None:
    assert translated("SELECT tags, COUNT(*) AS n FROM tagged GROUP BY tags ORDER BY n").sql.startswith(
        'SELECT _mv1._v AS "tags", count(*) AS "n" FROM "tagged" AS "tagged" CROSS JOIN LATERAL '
        '(SELECT unnest(CASE WHEN len("tagged"."tags") > 0 THEN "tagged"."tags" ELSE [NULL] END) AS _v) AS _mv1 '
        "GROUP BY _mv1._v"
    )


def test_tables_that_a_query_reads_are_named_and_those_of_the_system_are_not() -> None:
    query = "SELECT COUNT(*) FROM wikipedia w, INFORMATION_SCHEMA.TABLES JOIN tagged ON 1 = 1"
    assert translated(query).tables == ("wikipedia", "tagged")
