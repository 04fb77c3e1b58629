"""The expression language: operators, functions, types, nulls."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from rta.druid.expressions.compiler import expression
from rta.druid.problems import InvalidInputError, UnsupportedError
from rta.druid.values import MISSING, Column, Type

FRAME = pl.DataFrame(
    {
        "a": [1, -7, None],
        "b": [2, 2, 0],
        "s": ["Hello", "x.y", None],
        "d": [1.5, 2.5, None],
        "m": [["t1", "t2"], [], None],
        "t": [1_442_016_000_000, 1_442_102_399_999, None],
    }
)
TYPES = {"a": Type.LONG, "b": Type.LONG, "s": Type.STRING, "d": Type.DOUBLE, "t": Type.LONG}


def resolve(name: str) -> Column:
    if name == "m":
        return Column(pl.col("m"), Type.STRING, multi=True)
    return Column(pl.col(name), TYPES[name]) if name in TYPES else MISSING


def value(text: str) -> tuple[Type, list[Any]]:
    column = expression(text, resolve)
    return column.type, FRAME.with_columns(column.expr.alias("v"))["v"].to_list()


L, D, S = Type.LONG, Type.DOUBLE, Type.STRING
CASES: list[tuple[str, Type, list[Any]]] = [
    ("a + b * 2", L, [5, -3, None]),
    ("(a + b) * 2", L, [6, -10, None]),
    ("a / b", L, [0, -3, None]),
    ("a % b", L, [1, -1, None]),
    ("a / 2.0", D, [0.5, -3.5, None]),
    ("2 ^ 3 ^ 2", L, [512] * 3),
    ("-a", L, [-1, 7, None]),
    ("!(a > 0)", L, [0, 1, None]),
    ("a == 1 && s == 'Hello'", L, [1, 0, None]),
    ("a > 0 || isnull(s)", L, [1, 0, 1]),
    ("a < d", L, [1, 1, None]),
    ("s + '!'", S, ["Hello!", "x.y!", None]),
    ("missing + 1", L, [None] * 3),
    ("missing == 'x'", L, [None] * 3),
    ("1e3", D, [1000.0] * 3),
    ("'it\\'s \\u00e9'", S, ["it's é"] * 3),
    ('"a"', L, [1, -7, None]),
    ("abs(a)", L, [1, 7, None]),
    ("floor(d)", D, [1.0, 2.0, None]),
    ("round(d)", D, [2.0, 3.0, None]),
    ("round(1.005, 2)", D, [1.01] * 3),
    ("pow(a, 2)", D, [1.0, 49.0, None]),
    ("div(a, b)", L, [0, -3, None]),
    ("safe_divide(d, 0)", D, [None] * 3),
    ("max(a, b)", L, [2, 2, None]),
    ("greatest(a, d)", D, [1.5, 2.5, None]),
    ("least(s, 'a')", S, ["Hello", "a", "a"]),
    ("bitwiseAnd(b, 3)", L, [2, 2, 0]),
    ("concat(s, '-', a)", S, ["Hello-1", "x.y--7", None]),
    ("format('%s=%03d', s, b)", S, ["Hello=002", "x.y=002", "null=000"]),
    ("substring(s, 1, 2)", S, ["el", ".y", None]),
    ("substring(s, 1, -1)", S, ["ello", ".y", None]),
    ("strlen(s)", L, [5, 3, None]),
    ("strpos(s, 'l')", L, [2, -1, None]),
    ("strpos('aéb', 'b')", L, [2] * 3),
    ("upper(s)", S, ["HELLO", "X.Y", None]),
    ("lpad(s, 7, 'ab')", S, ["abHello", "ababx.y", None]),
    ("rpad(s, 4)", S, ["Hell", "x.y ", None]),
    ("trim('  x ')", S, ["x"] * 3),
    ("reverse(s)", S, ["olleH", "y.x", None]),
    ("repeat(s, 2)", S, ["HelloHello", "x.yx.y", None]),
    ("replace(s, 'l', 'L')", S, ["HeLLo", "x.y", None]),
    ("regexp_extract(s, '^(.)(.)', 2)", S, ["e", ".", None]),
    ("regexp_replace(s, '([lx])', '<$1>')", S, ["He<l><l>o", "<x>.y", None]),
    ("regexp_like(s, 'l+')", L, [1, 0, None]),
    ("like(s, 'H%')", L, [1, 0, None]),
    ("contains_string(s, '.')", L, [0, 1, None]),
    ("icontains_string(s, 'HE')", L, [1, 0, None]),
    ("parse_long('ff', 16)", L, [255] * 3),
    ("left(s, 2)", S, ["He", "x.", None]),
    ("right(s, 2)", S, ["lo", ".y", None]),
    ("if(a > 0, 'p', 'n')", S, ["p", "n", "n"]),
    ("case_searched(a == 1, 10, a < 0, 20.5)", D, [10.0, 20.5, None]),
    ("case_simple(a, 1, 'one', 'other')", S, ["one", "other", "other"]),
    ("nvl(s, 'none')", S, ["Hello", "x.y", "none"]),
    ("coalesce(missing, a, 5)", L, [1, -7, 5]),
    ("cast(a, 'STRING')", S, ["1", "-7", None]),
    ("cast(d, 'LONG')", L, [1, 2, None]),
    ("cast('12.7', 'LONG')", L, [12] * 3),
    ("cast(1.0e10, 'STRING')", S, ["1.0E10"] * 3),
    ("notnull(a)", L, [1, 1, 0]),
    ("istrue(a)", L, [1, 1, 0]),
    ("nottrue(a)", L, [0, 0, 1]),
    ("isdistinctfrom(a, missing)", L, [1, 1, 0]),
    ("timestamp_floor(t, 'PT1H')", L, [1_442_016_000_000, 1_442_098_800_000, None]),
    ("timestamp_floor(t, 'P1D', null, 'America/New_York')", L, [1_441_944_000_000, 1_442_030_400_000, None]),
    ("timestamp_floor(t, 'P1D', '', 'America/New_York')", L, [1_441_944_000_000, 1_442_030_400_000, None]),
    ("timestamp_ceil(t, 'P1D')", L, [1_442_016_000_000, 1_442_102_400_000, None]),
    ("timestamp_shift(t, 'P1M', -1)", L, [1_439_337_600_000, 1_439_423_999_999, None]),
    ("timestamp_extract(t, 'DOW')", L, [6, 6, None]),
    ("timestamp_extract(t, 'HOUR', 'Asia/Kolkata')", L, [5, 5, None]),
    ("timestamp_format(t, 'yyyy-MM-dd HH:mm')", S, ["2015-09-12 00:00", "2015-09-12 23:59", None]),
    ("timestamp_format(t)", S, ["2015-09-12T00:00:00.000Z", "2015-09-12T23:59:59.999Z", None]),
    ("timestamp_parse('2015-09-12T02:00:00')", L, [1_442_023_200_000] * 3),
    ("timestamp_parse('12/09/2015', 'dd/MM/yyyy')", L, [1_442_016_000_000] * 3),
    ("timestamp_parse('nonsense')", L, [None] * 3),
    ("unix_timestamp('1970-01-01T00:01:00')", L, [60] * 3),
    ("array_length(m)", L, [2, 0, None]),
    ("array_contains(m, 't1')", L, [1, 0, None]),
    ("array_overlap(m, ['t2', 'z'])", L, [1, 0, None]),
    ("array_offset(m, 1)", S, ["t2", None, None]),
    ("array_ordinal(m, 1)", S, ["t1", None, None]),
    ("array_to_string(m, ',')", S, ["t1,t2", "", None]),
    ("string_to_array(s, '.')", Type.STRINGS, [["Hello"], ["x", "y"], None]),
    ("array(a, b)", Type.LONGS, [[1, 2], [-7, 2], [None, 0]]),
    ("array_append([1, 2], 3)", Type.LONGS, [[1, 2, 3]] * 3),
    ("array_slice([1, 2, 3], 1)", Type.LONGS, [[2, 3]] * 3),
    ("upper(m)", S, [["T1", "T2"], [], None]),
    ("mv_filter_only(m, ['t1'])", S, [["t1"], [], None]),
    ("mv_filter_none(m, ['t1'])", S, [["t2"], [], None]),
    ("map(x -> concat(x, '!'), m)", Type.STRINGS, [["t1!", "t2!"], [], None]),
    ("filter((x) -> x == 't1', m)", Type.STRINGS, [["t1"], [], None]),
    ("any(x -> x == 't1', m)", L, [1, 0, None]),
    ("scalar_in_array(a, [1, 5])", L, [1, 0, None]),
]


@pytest.mark.parametrize(("text", "of", "values"), CASES, ids=[text for text, _, _ in CASES])
def test_an_expression(text: str, of: Type, values: list[Any]) -> None:
    found_type, found = value(text)
    assert found == values
    assert found_type is of


@pytest.mark.parametrize(
    ("text", "error", "names"),
    [
        ("a +", InvalidInputError, "the end"),
        ("a b", InvalidInputError, "'b'"),
        ("a # b", InvalidInputError, "#"),
        ("strlen()", InvalidInputError, "strlen"),
        ("no_such(a)", UnsupportedError, "no_such"),
        ("lookup(s, 'x')", UnsupportedError, "lookup"),
        ("fold((x, y) -> x + y, [1], 0)", UnsupportedError, "fold"),
        ("map(x -> x + a, [1])", UnsupportedError, "map"),
        ("concat(m, s)", UnsupportedError, "m"),
        ("timestamp_floor(t, 'P1X')", InvalidInputError, "P1X"),
        ("timestamp_floor(t, 'P1D', null, 'Mars')", InvalidInputError, "Mars"),
        ("timestamp_extract(t, 'FORTNIGHT')", UnsupportedError, "FORTNIGHT"),
        ("regexp_like(s, '(')", InvalidInputError, "regular expression"),
        ("cast(a, 'BLOB')", UnsupportedError, "BLOB"),
        ("(" * 500 + "a" + ")" * 500, InvalidInputError, "deep"),
    ],
)
def test_what_is_no_expression_is_refused(text: str, error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        value(text)
