"""What Druid SQL has and rta has not, and what makes no sense, is refused by name with a remedy."""

from __future__ import annotations

import pytest

from rta.errors import InvalidQueryError
from tests.query.druidsql.asking import translated

W = "FROM wikipedia"
REFUSED = [
    ("SELECT LOOKUP(page, 'names') " + W, "LOOKUP"),
    ("SELECT BLOOM_FILTER(page, 10) " + W, "BLOOM_FILTER"),
    ("SELECT DS_TUPLE_DOUBLES(page, 10) " + W, "DS_TUPLE_DOUBLES"),
    ("SELECT UPER(page) " + W, "UPPER"),
    ("SELECT UPPER(page, 1) " + W, "UPPER has 2 arguments"),
    ("SELECT TIME_FLOOR(__time) " + W, "TIME_FLOOR has 1 arguments"),
    ("SELECT TIME_FLOOR(__time, 'an hour') " + W, "'an hour' is not a period"),
    ("SELECT TIME_FLOOR(__time, 'P1M1D') " + W, "months and days"),
    ("SELECT TIME_FLOOR(__time, page) " + W, "the period has to be a text in quotes"),
    ("SELECT TIME_FLOOR(__time, 'P1D', NULL, 'Mars') " + W, "no time zone 'Mars'"),
    ("SELECT FLOOR(__time TO FORTNIGHT) " + W, "no unit 'FORTNIGHT'"),
    ("SELECT TIME_FORMAT(__time, 'QQQ') " + W, "'QQQ' in the pattern"),
    ("SELECT TIME_FORMAT(__time, '''x') " + W, "quote that never ends"),
    ("SELECT TIME_IN_INTERVAL(__time, 'yesterday') " + W, "'yesterday' is not an interval"),
    ("SELECT TIMESTAMP 'noon' " + W, "'noon' is not a TIMESTAMP"),
    ("SELECT EXTRACT(MOOD FROM __time) " + W, "no time part 'MOOD'"),
    ("SELECT __time - __time " + W, "cannot calculate with a TIMESTAMP"),
    ("SELECT CAST(page AS UUID) " + W, "no type 'UUID'"),
    ("SELECT STRING_FORMAT('%s %s', page) " + W, "no value for '%s'"),
    ("SELECT IPV4_MATCH(page, 'home') " + W, "'home' is no IPv4 subnet"),
    ("SELECT JSON_VALUE(__rest, 'a.b') " + W, "'a.b' is not a JSON path"),
    ("SELECT APPROX_QUANTILE_DS(delta, 95) " + W, "is 95"),
    ("SELECT DS_GET_QUANTILE(delta, 0.5) " + W, "takes a COMPLEX<quantilesDoublesSketch>"),
    ("SELECT DS_HLL(page) " + W, "sketches can't be sent"),
    ("SELECT SUM(added) + 1 FILTER (WHERE isRobot) " + W, "can't be parsed"),
    ("SELECT page " + W + " FETCH FIRST 1 ROWS WITH TIES", "WITH TIES"),
    ("SELECT page " + W + " LIMIT 10 PERCENT", "PERCENT"),
    ("SELECT page FROM (SELECT page FROM wikipedia) TABLESAMPLE (10)", "SAMPLE"),
    ("SELECT FIRST_VALUE(page IGNORE NULLS) OVER (ORDER BY added) " + W, "not supported|can't be parsed|window"),
    ("SELECT ARRAY_AGG(page ORDER BY page) " + W, "not supported"),
    ("SELECT UPPER(page) FILTER (WHERE isRobot) " + W, "FILTER stands behind an aggregate"),
    ("SELECT MAX(SUM(added)) " + W, "cannot be nested"),
    ("SELECT page " + W + " GROUP BY 2", "Ordinal 2 is out of range"),
    ("SELECT page " + W + " ORDER BY 0", "Ordinal 0 is out of range"),
    ("SELECT a.page FROM wikipedia w", "Table 'a' not found"),
    ("SELECT page FROM wikipedia a, wikipedia b", "'page' is ambiguous"),
    ("SELECT 1 FROM wikipedia, wikipedia", "stands for two tables"),
    ("SELECT 1 FROM wikipedia TABLESAMPLE (10)", "SAMPLE"),
    ("SELECT DISTINCT ON (page) page " + W, "DISTINCT ON"),
    ("SELECT page " + W + " QUALIFY 1 = 1", "QUALIFY"),
    ("SELECT 1 FROM wikipedia NATURAL JOIN tagged", "not supported"),
    ("SELECT 1 UNION SELECT 1, 2", "Column count mismatch"),
    ("WITH RECURSIVE x AS (SELECT 1) SELECT * FROM x", "WITH RECURSIVE"),
    ("SELECT ROW_NUMBER() OVER w " + W + " WINDOW w AS (ORDER BY page)", "WINDOW"),
    ("SELECT COUNT(*) LIMIT -1", "LIMIT|number of rows|-1"),
    ("SELECT * FROM INFORMATION_SCHEMA.NOTHING", "Object 'NOTHING' not found"),
    ("SELECT * FROM other.wikipedia", "Object 'other' not found"),
    ("SELECT * FROM lookup.names", "lookups are not supported"),
    ("SELECT * FROM TABLE(APPEND('a', 'b'))", "APPEND"),
    ("SELECT *", "requires a FROM clause"),
    ("UPDATE wikipedia SET page = 1", "cannot run UPDATE"),
    ("SET x = page; SELECT 1", "SET x has no literal"),
    ("", "0 statements"),
    ("SELECT " + "a" * 70_000, "70,007 characters"),
]


@pytest.mark.parametrize(("query", "said"), REFUSED, ids=[q[:60] for q, _ in REFUSED])
def test_it_is_refused_by_name(query: str, said: str) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        translated(query)
    assert any(part in str(caught.value) for part in said.split("|")), caught.value


@pytest.mark.parametrize("name", ['we"ird', 'x" FROM secrets --', "é"])
def test_names_and_texts_never_become_syntax(name: str) -> None:
    quoted = name.replace('"', '""')
    text = translated(f"SELECT 'it''s; --' AS \"{quoted}\" FROM (VALUES (1)) AS \"{quoted}\"(a)").sql
    assert f"SELECT 'it''s; --' AS \"{quoted}\" FROM" in text
