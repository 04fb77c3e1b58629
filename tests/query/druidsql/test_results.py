"""What Druid SQL comes to when it is run: semantics that are easily got wrong, on a plain DuckDB."""

from __future__ import annotations

from typing import Any

import pytest

from tests.query import wikipedia
from tests.query.druidsql.asking import rows, value

LA = "America/Los_Angeles"
VALUES: list[tuple[str, Any]] = [
    # numbers
    ("-7 / 2", -3),
    ("MOD(-7, 2)", -1),
    ("7 / 2.0", 3.5),
    ("ROUND(2.5)", 3.0),
    ("ROUND(-2.5)", -3.0),
    ("ROUND(123.456, 2)", 123.46),
    ("ROUND(155, -1)", 160),
    ("TRUNC(-1.29, 1)", -1.2),
    ("TRUNCATE(129, -1)", 120),
    ("DIV(-7, 2)", -3),
    ("SAFE_DIVIDE(1, 0)", None),
    ("1 / 0.0", "Infinity"),
    ("GREATEST(1, 2.5, NULL)", 2.5),
    ("LEAST('b', 'a')", "a"),
    ("BITWISE_XOR(6, 3)", 5),
    ("BITWISE_COMPLEMENT(5)", -6),
    ("BITWISE_SHIFT_LEFT(1, 10)", 1024),
    ("CEIL(1.2)", 2.0),
    ("FLOOR(-1.2)", -2.0),
    ("FLOOR(5)", 5),
    ("POWER(2, 10)", 1024.0),
    ("LN(0)", "-Infinity"),
    ("SQRT(-1)", "NaN"),
    ("CAST('1.7' AS BIGINT)", 1),
    ("CAST(-1.7 AS BIGINT)", -1),
    ("CAST('x' AS BIGINT)", None),
    ("CAST('9007199254740993' AS BIGINT)", 9007199254740993),
    ("CAST(5 AS VARCHAR)", "5"),
    ("CAST(1.0 AS VARCHAR)", "1.0"),
    ("PARSE_LONG('ff', 16)", 255),
    ("PARSE_LONG('-0x1F', 16)", -31),
    ("PARSE_LONG('12x')", None),
    # texts
    ("'' IS NULL", False),
    ("'a' || NULL", None),
    ("CONCAT('a', NULL)", None),
    ("COALESCE(NULL, 'b')", "b"),
    ("NVL(NULL, 5)", 5),
    ("NULLIF('a', 'a')", None),
    ("CHAR_LENGTH('héé')", 3),
    ("STRPOS('abc', 'c')", 3),
    ("POSITION('b' IN 'abcb' FROM 3)", 4),
    ("POSITION('x' IN 'abc')", 0),
    ("SUBSTRING('abcdef', 2, 3)", "bcd"),
    ("LEFT('abc', 2) || RIGHT('abc', 1)", "abc"),
    ("LPAD('7', 3, '0')", "007"),
    ("RPAD('abc', 2, '.')", "ab"),
    ("LPAD('abc', 5, '')", "abc"),
    ("REGEXP_EXTRACT('foo 42 bar', '([0-9]+) (b.)', 2)", "ba"),
    ("REGEXP_EXTRACT('foo', '[0-9]+')", None),
    ("REGEXP_REPLACE('a1b2', '([0-9])', '<$1>')", "a<1>b<2>"),
    ("REGEXP_LIKE('xay', 'a')", True),
    ("REPLACE('aXbX', 'X', '-')", "a-b-"),
    ("REPEAT('ab', 2) || REVERSE('cd')", "ababdc"),
    ("CONTAINS_STRING('abc', 'B')", False),
    ("ICONTAINS_STRING('abc', 'B')", True),
    ("BTRIM('xxaxx', 'x')", "a"),
    ("TRIM('  a ')", "a"),
    ("STRING_FORMAT('%s-%03d %.1f %s', 'a', 7, 2.25, NULL)", "a-007 2.2 null"),
    ("DECODE_BASE64_UTF8('aMOp')", "hé"),
    ("'50%' LIKE '50!%' ESCAPE '!'", True),
    ("CASE WHEN 1 > 2 THEN 'a' WHEN TRUE THEN 'b' END", "b"),
    ("CASE 2 WHEN 1 THEN 1 ELSE 2.5 END", 2.5),
    # times
    ("TIMESTAMP '2015-09-12 01:02:03'", "2015-09-12T01:02:03.000Z"),
    ("DATE '2015-09-12'", "2015-09-12T00:00:00.000Z"),
    ("TIME_PARSE('12/09/2015 05', 'dd/MM/yyyy HH')", "2015-09-12T05:00:00.000Z"),
    ("TIME_PARSE('12/09/2015', 'dd/MM/yyyy', 'America/Los_Angeles')", "2015-09-12T07:00:00.000Z"),
    ("TIME_PARSE('2015-09-12T10:00+02:00', 'yyyy-MM-dd''T''HH:mmZZ')", "2015-09-12T08:00:00.000Z"),
    ("TIME_PARSE('nonsense')", None),
    ("TIME_FORMAT(TIMESTAMP '2015-09-12 01:02:03')", "2015-09-12T01:02:03.000+00:00"),
    ("TIME_FORMAT(TIMESTAMP '2015-09-12 13:02:03', 'EEE, d MMM yyyy h:mm a')", "Sat, 12 Sep 2015 1:02 PM"),
    ("TIME_FORMAT(TIMESTAMP '2015-09-12 01:02:03', 'HH:mmZ', 'Asia/Kolkata')", "06:32+0530"),
    ("TIME_FORMAT(TIMESTAMP '2015-09-12 01:02:03', 'HH:mmZZ', '-08:00')", "17:02-08:00"),
    ("CAST(TIMESTAMP '2015-09-12 01:02:03.456' AS VARCHAR)", "2015-09-12 01:02:03"),
    ("CAST(DATE '2015-09-12' AS VARCHAR)", "2015-09-12"),
    ("CAST(TIMESTAMP '1970-01-01 00:00:01' AS BIGINT)", 1000),
    ("TIMESTAMP_TO_MILLIS(TIMESTAMP '1970-01-02 00:00:00')", 86_400_000),
    ("TIME_EXTRACT(TIMESTAMP '2015-09-12 01:02:03', 'HOUR', 'America/Los_Angeles')", 18),
    ("EXTRACT(DOW FROM TIMESTAMP '2015-09-13 00:00:00')", 7),
    ("EXTRACT(EPOCH FROM TIMESTAMP '1970-01-01 00:01:00')", 60),
    ("EXTRACT(WEEK FROM TIMESTAMP '2015-01-01 00:00:00')", 1),
    ("TIMESTAMPADD(MONTH, 1, TIMESTAMP '2015-01-31 00:00:00')", "2015-02-28T00:00:00.000Z"),
    ("TIMESTAMPDIFF(MONTH, TIMESTAMP '2015-01-31 00:00:00', TIMESTAMP '2015-03-30 00:00:00')", 1),
    ("TIMESTAMPDIFF(HOUR, TIMESTAMP '2015-01-01 00:00:00', TIMESTAMP '2014-12-31 22:30:00')", -1),
    ("TIME_SHIFT(TIMESTAMP '2015-03-08 09:00:00', 'P1D', 1, 'America/Los_Angeles')", "2015-03-09T08:00:00.000Z"),
    ("TIME_CEIL(TIMESTAMP '2015-09-12 00:00:01', 'PT1H')", "2015-09-12T01:00:00.000Z"),
    ("TIME_CEIL(TIMESTAMP '2015-09-12 01:00:00', 'PT1H')", "2015-09-12T01:00:00.000Z"),
    (
        "TIME_FLOOR(TIMESTAMP '2015-09-12 01:10:00', 'PT1H', TIMESTAMP '2015-09-12 00:30:00')",
        "2015-09-12T00:30:00.000Z",
    ),
    ("TIMESTAMP '2015-09-12 00:00:00' - INTERVAL '1-2' YEAR TO MONTH", "2014-07-12T00:00:00.000Z"),
    ("TIMESTAMP '2015-09-12 00:00:00' + INTERVAL '1 02:03:04' DAY TO SECOND", "2015-09-13T02:03:04.000Z"),
    ("CURRENT_DATE", "2015-09-13T00:00:00.000Z"),
    # lists
    ("ARRAY[1, 2]", "[1,2]"),
    ("ARRAY['a', NULL]", '["a",null]'),
    ("ARRAY_LENGTH(ARRAY[1, 2])", 2),
    ("ARRAY_OFFSET(ARRAY['a', 'b'], 1)", "b"),
    ("ARRAY_OFFSET(ARRAY['a'], 5)", None),
    ("ARRAY_ORDINAL_OF(ARRAY['a', 'b'], 'b')", 2),
    ("ARRAY_OFFSET_OF(ARRAY['a'], 'z')", None),
    ("ARRAY_CONTAINS(ARRAY[1, 2], ARRAY[2])", True),
    ("ARRAY_OVERLAP(ARRAY[1], ARRAY[2])", False),
    ("ARRAY_SLICE(ARRAY[1, 2, 3], 1, 3)", "[2,3]"),
    ("ARRAY_SLICE(ARRAY[1], 5, 6)", None),
    ("ARRAY_TO_STRING(ARRAY[1, 2], '-')", "1-2"),
    ("ARRAY_PREPEND(1, ARRAY[2])", "[1,2]"),
    ("ARRAY_CONCAT(ARRAY[1], ARRAY[2])", "[1,2]"),
    ("STRING_TO_MV('a,b', ',')", '["a","b"]'),
    ("STRING_TO_MV('a', ',')", "a"),
    ("MV_LENGTH(STRING_TO_MV('a,b', ','))", 2),
    ("MV_FILTER_ONLY(STRING_TO_MV('a,b', ','), ARRAY['b'])", "b"),
    ("MV_FILTER_NONE(STRING_TO_MV('a,b,c', ','), ARRAY['b'])", '["a","c"]'),
    ("MV_APPEND(STRING_TO_MV('a', ','), 'z')", '["a","z"]'),
    ("UPPER(STRING_TO_MV('a,b', ','))", '["A","B"]'),
    # addresses and JSON
    ("IPV4_MATCH('10.1.2.3', '10.0.0.0/8')", True),
    ("IPV4_MATCH('no address', '10.0.0.0/8')", False),
    ("IPV4_PARSE('1.2.3.4')", 16_909_060),
    ("IPV4_STRINGIFY(16909060)", "1.2.3.4"),
    ("JSON_VALUE(PARSE_JSON('{\"a\": {\"b\": [1, 2]}}'), '$.a.b[1]' RETURNING BIGINT)", 2),
    ("JSON_QUERY(PARSE_JSON('{\"a\": {\"b\": 1}}'), '$.a')", '{"b":1}'),
    ("JSON_OBJECT('a': 1, 'b': 'x')", '{"a":1,"b":"x"}'),
    ("JSON_KEYS(PARSE_JSON('{\"a\": {\"b\": 1}}'), '$.a')", '["b"]'),
]


@pytest.mark.parametrize(("expression", "expected"), VALUES, ids=[v[0] for v in VALUES])
def test_an_expression_comes_to(expression: str, expected: Any) -> None:
    found = value(expression)
    assert found == expected
    assert type(found) is type(expected)


def test_texts_of_a_column_compare_with_numbers_and_truth_values() -> None:
    assert rows("SELECT word FROM tagged WHERE word > 6") == [["7"]]
    assert rows("SELECT COUNT(*) FROM wikipedia WHERE isRobot = 'true'") == rows(
        "SELECT COUNT(*) FROM wikipedia WHERE isRobot"
    )


def test_a_comparison_with_a_multi_value_string_is_true_for_any_of_its_values() -> None:
    assert rows("SELECT COUNT(*) FROM tagged WHERE tags = 'a'") == [[3]]
    assert rows("SELECT COUNT(*) FROM tagged WHERE tags IN ('b', 'c')") == [[2]]
    assert rows("SELECT COUNT(*) FROM tagged WHERE tags LIKE 'c%'") == [[1]]
    assert rows("SELECT COUNT(*) FROM tagged WHERE tags <> 'a'") == [[1]]  # the empty one; null is neither
    assert rows("SELECT COUNT(*) FROM tagged WHERE tags IS NULL") == [[2]]
    assert rows("SELECT COUNT(*) FROM tagged WHERE MV_CONTAINS(tags, ARRAY['a', 'c'])") == [[1]]
    assert rows("SELECT COUNT(*) FROM tagged WHERE MV_OVERLAP(tags, ARRAY['b', 'c'])") == [[2]]


def test_a_multi_value_string_is_grouped_by_its_values() -> None:
    assert rows("SELECT tags, COUNT(*) FROM tagged GROUP BY tags") == [[None, 2], ["a", 3], ["b", 1], ["c", 2]]
    assert rows("SELECT UPPER(tags) AS t, COUNT(*) FROM tagged GROUP BY 1 HAVING COUNT(*) > 1 ORDER BY 2 DESC, t") == [
        ["A", 3],
        [None, 2],
        ["C", 2],
    ]
    assert rows("SELECT COUNT(DISTINCT tags), COUNT(tags) FROM tagged") == [[3, 3]]
    assert rows("SELECT MV_TO_ARRAY(tags) AS t, COUNT(*) FROM tagged WHERE tags = 'a' GROUP BY 1") == [
        ['["a"]', 1],
        ['["a","b"]', 1],
        ['["c","a","c"]', 1],
    ]


def test_rows_show_one_value_alone_and_many_as_json() -> None:
    assert [r[0] for r in rows("SELECT tags FROM tagged ORDER BY __time")] == [
        '["a","b"]',
        "a",
        None,
        None,
        '["c","a","c"]',
    ]
    assert rows("SELECT tags FROM tagged ORDER BY __time LIMIT 1", sqlStringifyArrays="false") == [[["a", "b"]]]


def test_json_columns_and_what_was_not_declared_can_be_looked_into() -> None:
    assert rows("SELECT JSON_VALUE(doc, '$.n' RETURNING DOUBLE) FROM tagged ORDER BY __time") == [
        [1.0], [7.0], [None], [None], [2.5],
    ]  # fmt: skip
    assert rows("SELECT JSON_VALUE(doc, '$.o'), JSON_QUERY(doc, '$.o.p[-1]') FROM tagged ORDER BY __time LIMIT 1") == [
        [None, "20"]
    ]
    assert rows("SELECT JSON_VALUE(__rest, '$.extra') FROM tagged ORDER BY __time LIMIT 1") == [["5"]]
    assert rows('SELECT MAX("measures.size") FROM tagged') == [[4.0]]


def test_sums_averages_and_extremes_of_nothing_are_null_and_counts_zero() -> None:
    query = (
        "SELECT COUNT(*), SUM(size), AVG(size), MIN(size), MAX(size), COUNT(DISTINCT word) FROM tagged WHERE word = '?'"
    )
    assert rows(query) == [[0, None, None, None, None, 0]]
    assert rows(query.replace("size", "CHAR_LENGTH(word)")) == [[0, None, None, None, None, 0]]


def test_nulls_come_first_in_both_directions_unless_the_query_says_last() -> None:
    for direction, expected in (("", None), ("DESC", None), ("DESC NULLS LAST", "y"), ("ASC NULLS LAST", "")):
        assert rows(f"SELECT word FROM tagged GROUP BY word ORDER BY word {direction} LIMIT 1") == [[expected]]


def test_a_count_of_distinct_values_is_right_for_small_sets() -> None:
    query = "SELECT COUNT(DISTINCT channel), APPROX_COUNT_DISTINCT_DS_HLL(channel) FROM wikipedia"
    assert rows(query) == [[51, 51]]
    assert rows(query, useApproximateCountDistinct=False)[0][0] == 51


def test_earliest_and_latest_go_by_time_and_take_null() -> None:
    assert rows("SELECT EARLIEST(word, 10), LATEST(word, 10), LATEST_BY(size, __time) FROM tagged") == [["x", "7", 0.0]]
    assert rows("SELECT LATEST(word, 10) FROM tagged WHERE JSON_VALUE(doc, '$.n') IS NULL") == [[None]]
    assert rows("SELECT LATEST(size) FILTER (WHERE tags = 'b') FROM tagged") == [[1.5]]


def test_quantiles_and_sketches() -> None:
    assert rows("SELECT APPROX_QUANTILE_DS(size, 0.5), APPROX_QUANTILE(size, 1) FROM tagged") == [[0.0, 4.0]]
    assert rows(
        "SELECT DS_GET_QUANTILE(s, 0.5), DS_RANK(s, 1.0) FROM (SELECT DS_QUANTILES_SKETCH(size) AS s FROM tagged)"
    ) == [[0.0, 0.5]]
    theta = "DS_THETA(channel) FILTER (WHERE isRobot = {})"
    sets = f"{theta.format('true')}, {theta.format('false')}"
    robots = set(wikipedia.oracle().filter(isRobot=True)["channel"])
    others = set(wikipedia.oracle().filter(isRobot=False)["channel"])
    for function, expected in (("UNION", robots | others), ("INTERSECT", robots & others), ("NOT", robots - others)):
        query = f"SELECT THETA_SKETCH_ESTIMATE(THETA_SKETCH_{function}({sets})) FROM wikipedia"
        assert rows(query) == [[float(len(expected))]]
    merged = "SELECT HLL_SKETCH_ESTIMATE(DS_HLL(s), TRUE) FROM (SELECT isRobot, DS_HLL(channel) AS s FROM wikipedia GROUP BY 1)"
    assert rows(merged) == [[51]]


def test_grouping_sets_number_what_is_left_out() -> None:
    query = "SELECT word, GROUPING(word), COUNT(*) FROM tagged WHERE word <> '' GROUP BY ROLLUP (word) ORDER BY 2, 1"
    assert rows(query) == [["7", 0, 1], ["x", 0, 1], ["y", 0, 1], [None, 1, 3]]
    cube = "SELECT COUNT(*) FROM (SELECT isRobot, isNew, COUNT(*) FROM wikipedia GROUP BY CUBE (isRobot, isNew))"
    assert rows(cube) == [[9]]
    assert rows("SELECT COUNT(*) FROM tagged GROUP BY ()") == [[5]]


def test_subqueries_joins_unions_and_with() -> None:
    assert rows("SELECT AVG(n) FROM (SELECT channel, COUNT(*) AS n FROM wikipedia GROUP BY 1)")[0][0] == pytest.approx(
        39_244 / 51
    )
    assert rows(
        "SELECT x.a, y.b FROM (VALUES (1), (2)) AS x(a) LEFT JOIN (VALUES (1, 'q')) AS y(a, b) ON x.a = y.a"
    ) == [
        [1, "q"],
        [2, None],
    ]
    assert rows(
        "SELECT word FROM tagged WHERE word = 'x' UNION ALL SELECT word FROM tagged WHERE word = 'y' ORDER BY 1 DESC"
    ) == [
        ["y"],
        ["x"],
    ]
    assert rows("WITH w AS (SELECT word FROM tagged) SELECT COUNT(*) FROM w WHERE word IN (SELECT word FROM w)") == [
        [4]
    ]
    assert rows("SELECT v, COUNT(*) FROM tagged CROSS JOIN UNNEST(MV_TO_ARRAY(tags)) AS u(v) GROUP BY 1") == [
        ["a", 3],
        ["b", 1],
        ["c", 2],
    ]
    assert rows("SELECT (SELECT MAX(size) FROM tagged t WHERE t.word = o.word) FROM tagged o WHERE o.word = 'x'") == [
        [1.5]
    ]


def test_windows() -> None:
    query = "SELECT word, SUM(size) OVER (ORDER BY __time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM tagged WHERE size <> 0"
    assert rows(f"SELECT * FROM ({query}) ORDER BY 2, 1") == [["y", -1.0], [None, 1.5], ["x", 1.5]]
    ranks = (
        "SELECT word, RANK() OVER (ORDER BY size DESC), LAG(word, 1) OVER (ORDER BY __time) FROM tagged WHERE size > 0"
    )
    assert sorted(rows(ranks), key=lambda r: r[1]) == [[None, 1, "x"], ["x", 2, None]]
    (found,) = rows("SELECT SUM(COUNT(*)) OVER (), COUNT(*) FROM tagged WHERE word = 'x' GROUP BY word")
    assert found[0] == found[1]


def test_the_zone_of_the_query_moves_literals_steps_and_what_is_shown() -> None:
    day = "SELECT FLOOR(__time TO DAY) AS d, COUNT(*) FROM tagged WHERE __time >= TIMESTAMP '2024-03-10 00:00:00' GROUP BY 1"
    assert rows(day, sqlTimeZone="-02:00") == [["2024-03-10T00:00:00.000-02:00", 3]]
    assert rows("SELECT MIN(__time) FROM tagged", sqlTimeZone=LA) == [["2024-03-09T16:00:00.000-08:00"]]
    shown = rows(f"SELECT TIME_FLOOR(__time, 'P1D', NULL, '{LA}') FROM tagged LIMIT 1")
    assert shown == [["2024-03-09T08:00:00.000Z"]]


def test_steps_below_a_day_follow_the_clock_through_its_change() -> None:
    """On 2024-11-03 the hour from 1:00 comes twice in New York: 5:00Z and 6:00Z."""
    times = ", ".join(f"(TIMESTAMP '2024-11-03 0{h}:30:00')" for h in (4, 5, 6, 7))
    query = f"SELECT TIME_FLOOR(t, 'PT1H', NULL, 'America/New_York'), COUNT(*) FROM (VALUES {times}) AS v(t) GROUP BY 1"
    assert [r[0][11:16] for r in rows(query)] == ["04:00", "05:00", "06:00", "07:00"]
    days = query.replace("PT1H", "P1D")
    assert rows(days) == [["2024-11-03T04:00:00.000Z", 4]]


def test_star_has_the_time_first_and_only_what_was_declared() -> None:
    from tests.query.druidsql.asking import translated

    assert [c.name for c in translated("SELECT * FROM tagged").columns] == ["__time", "tags", "word", "size", "doc"]
    assert [c.name for c in translated("SELECT t.*, 1 FROM tagged t").columns][-1] == "EXPR$5"
