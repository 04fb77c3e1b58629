"""Scalar functions that are one text of DuckDB each: their name, what their arguments are read as, what comes out.

Arguments are read as: `s` text, `l` long, `d` double, `n` a number as it is, `t` timestamp, `b` truth value, `a` array, `x` as it
is. The result is a type, or "n": that of the first number, or "x": that of the first argument.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from rta.query.druidsql.kinds import BIGINT, BOOLEAN, DOUBLE, JSON, MULTI, STRINGS, TIMESTAMP, VARCHAR, Kind


class Rule(NamedTuple):
    """One form of a function: an argument for each letter of `reads`."""

    reads: str
    template: str
    result: Kind | Literal["n", "x"]


def _one(reads: str, template: str, result: Kind | Literal["n", "x"]) -> tuple[Rule, ...]:
    return (Rule(reads, template, result),)


_LENGTH = _one("s", "length({0})", BIGINT)
_PAD = "(CASE WHEN {2} = '' THEN left({0}, CAST({1} AS BIGINT)) ELSE %s({0}, CAST({1} AS INTEGER), {2}) END)"
_SUBSTRING = (
    Rule("sl", "substring({0}, {1})", VARCHAR),
    Rule("sll", "substring({0}, {1}, {2})", VARCHAR),
)
_TEXT: dict[str, tuple[Rule, ...]] = {
    "LOWER": _one("s", "lower({0})", VARCHAR),
    "UPPER": _one("s", "upper({0})", VARCHAR),
    "LENGTH": _LENGTH,
    "CHAR_LENGTH": _LENGTH,
    "CHARACTER_LENGTH": _LENGTH,
    "STRLEN": _LENGTH,
    "TEXTCAT": _one("ss", "({0} || {1})", VARCHAR),
    "CONTAINS_STRING": _one("ss", "contains({0}, {1})", BOOLEAN),
    "ICONTAINS_STRING": _one("ss", "contains(lower({0}), lower({1}))", BOOLEAN),
    "LEFT": _one("sl", "left({0}, {1})", VARCHAR),
    "RIGHT": _one("sl", "right({0}, {1})", VARCHAR),
    "LPAD": (
        Rule("sl", "lpad({0}, CAST({1} AS INTEGER), ' ')", VARCHAR),
        Rule("sls", _PAD % "lpad", VARCHAR),
    ),
    "RPAD": (
        Rule("sl", "rpad({0}, CAST({1} AS INTEGER), ' ')", VARCHAR),
        Rule("sls", _PAD % "rpad", VARCHAR),
    ),
    "POSITION": (
        Rule("ss", "strpos({1}, {0})", BIGINT),
        Rule(
            "ssl",
            "(CASE WHEN strpos(substring({1}, {2}), {0}) > 0 THEN strpos(substring({1}, {2}), {0}) + {2} - 1 ELSE 0 END)",
            BIGINT,
        ),
    ),
    "STRPOS": _one("ss", "strpos({0}, {1})", BIGINT),
    "SUBSTRING": _SUBSTRING,
    "SUBSTR": _SUBSTRING,
    "REPLACE": _one("sss", "replace({0}, {1}, {2})", VARCHAR),
    "REPEAT": _one("sl", "repeat({0}, {1})", VARCHAR),
    "REVERSE": _one("s", "reverse({0})", VARCHAR),
    "BTRIM": (Rule("s", "trim({0}, ' ')", VARCHAR), Rule("ss", "trim({0}, {1})", VARCHAR)),
    "LTRIM": (Rule("s", "ltrim({0}, ' ')", VARCHAR), Rule("ss", "ltrim({0}, {1})", VARCHAR)),
    "RTRIM": (Rule("s", "rtrim({0}, ' ')", VARCHAR), Rule("ss", "rtrim({0}, {1})", VARCHAR)),
    "REGEXP_LIKE": _one("ss", "regexp_matches({0}, {1})", BOOLEAN),
    "REGEXP_EXTRACT": (
        Rule("ss", "(CASE WHEN regexp_matches({0}, {1}) THEN regexp_extract({0}, {1}) END)", VARCHAR),
        Rule("ssl", "(CASE WHEN regexp_matches({0}, {1}) THEN regexp_extract({0}, {1}, {2}) END)", VARCHAR),
    ),
    "DECODE_BASE64_UTF8": _one("s", "decode(TRY(from_base64({0})))", VARCHAR),
    "STRING_TO_MV": _one("ss", "string_split_regex({0}, {1})", MULTI),
    "STRING_TO_ARRAY": _one("ss", "string_split_regex({0}, {1})", STRINGS),
}

_RADIANS = ("SIN", "COS", "TAN", "COT", "ATAN", "DEGREES", "RADIANS", "EXP")
_NUMBERS: dict[str, tuple[Rule, ...]] = {
    **{word: _one("d", f"{word.lower()}({{0}})", DOUBLE) for word in _RADIANS},
    "ASIN": _one("d", "(CASE WHEN {0} BETWEEN -1 AND 1 THEN asin({0}) ELSE CAST('NaN' AS DOUBLE) END)", DOUBLE),
    "ACOS": _one("d", "(CASE WHEN {0} BETWEEN -1 AND 1 THEN acos({0}) ELSE CAST('NaN' AS DOUBLE) END)", DOUBLE),
    "ATAN2": _one("dd", "atan2({0}, {1})", DOUBLE),
    "PI": _one("", "pi()", DOUBLE),
    "ABS": _one("n", "abs({0})", "n"),
    "CEIL": _one("n", "ceil({0})", "n"),
    "CEILING": _one("n", "ceil({0})", "n"),
    "FLOOR": _one("n", "floor({0})", "n"),
    "SIGN": _one("n", "sign({0})", "n"),
    "LN": _one(
        "d",
        "(CASE WHEN {0} > 0 THEN ln({0}) WHEN {0} = 0 THEN CAST('-Infinity' AS DOUBLE) "
        "WHEN {0} < 0 THEN CAST('NaN' AS DOUBLE) END)",
        DOUBLE,
    ),
    "LOG10": _one(
        "d",
        "(CASE WHEN {0} > 0 THEN log10({0}) WHEN {0} = 0 THEN CAST('-Infinity' AS DOUBLE) "
        "WHEN {0} < 0 THEN CAST('NaN' AS DOUBLE) END)",
        DOUBLE,
    ),
    "POWER": _one("dd", "pow({0}, {1})", DOUBLE),
    "SQRT": _one("d", "(CASE WHEN {0} < 0 THEN CAST('NaN' AS DOUBLE) ELSE sqrt({0}) END)", DOUBLE),
    "TRUNCATE": (Rule("n", "trunc({0})", "n"), Rule("nl", "(trunc({0} * pow(10, {1})) / pow(10, {1}))", "n")),
    "TRUNC": (Rule("n", "trunc({0})", "n"), Rule("nl", "(trunc({0} * pow(10, {1})) / pow(10, {1}))", "n")),
    "ROUND": (Rule("n", "round({0})", "n"), Rule("nl", "round({0}, CAST({1} AS INTEGER))", "n")),
    "DIV": _one("nn", "(CAST(trunc({0}) AS BIGINT) // nullif(CAST(trunc({1}) AS BIGINT), 0))", BIGINT),
    "SAFE_DIVIDE": _one("dd", "({0} / nullif({1}, 0))", DOUBLE),
    "BITWISE_AND": _one("ll", "({0} & {1})", BIGINT),
    "BITWISE_OR": _one("ll", "({0} | {1})", BIGINT),
    "BITWISE_XOR": _one("ll", "xor({0}, {1})", BIGINT),
    "BITWISE_COMPLEMENT": _one("l", "(-{0} - 1)", BIGINT),
    "BITWISE_SHIFT_LEFT": _one("ll", "(({0} * (CAST(1 AS HUGEINT) << CAST({1} AS INTEGER))))", BIGINT),
    "BITWISE_SHIFT_RIGHT": _one("ll", "({0} >> {1})", BIGINT),
}
"""Truncating a long keeps it one: `rta.query.druidsql.calls` casts what comes out to the type that is said here."""

_TIMES: dict[str, tuple[Rule, ...]] = {
    "MILLIS_TO_TIMESTAMP": _one("l", "make_timestamp_ms({0})", TIMESTAMP),
    "TIMESTAMP_TO_MILLIS": _one("t", "epoch_ms({0})", BIGINT),
}

_ARRAYS: dict[str, tuple[Rule, ...]] = {
    "LENGTH": _one("a", "len({0})", BIGINT),
    "OFFSET": _one("al", "(CASE WHEN {1} >= 0 THEN list_extract({0}, {1} + 1) END)", "x"),
    "ORDINAL": _one("al", "(CASE WHEN {1} >= 1 THEN list_extract({0}, {1}) END)", "x"),
    "OVERLAP": _one("aa", "list_has_any({0}, {1})", BOOLEAN),
    "OFFSET_OF": _one("ax", "(nullif(list_position({0}, {1}), 0) - 1)", BIGINT),
    "ORDINAL_OF": _one("ax", "nullif(list_position({0}, {1}), 0)", BIGINT),
    "SLICE": _one(
        "all",
        "(CASE WHEN {1} >= 0 AND {1} <= len({0}) AND {1} <= {2} THEN list_slice({0}, {1} + 1, {2}) END)",
        "x",
    ),
    "TO_STRING": _one(
        "as", "array_to_string(list_transform({0}, lambda _e: coalesce(CAST(_e AS VARCHAR), 'null')), {1})", VARCHAR
    ),
}

_JSON: dict[str, tuple[Rule, ...]] = {
    "PARSE_JSON": _one("s", "CAST(CAST({0} AS JSON) AS VARCHAR)", JSON),
    "TRY_PARSE_JSON": _one("s", "(CASE WHEN json_valid({0}) THEN {0} END)", JSON),
}

_ADDRESS = (
    "(CASE WHEN regexp_full_match({0}, '((25[0-5]|2[0-4]\\d|1?\\d?\\d)\\.){{3}}(25[0-5]|2[0-4]\\d|1?\\d?\\d)') THEN "
    "list_reduce(list_transform(string_split({0}, '.'), lambda _p: CAST(_p AS BIGINT)), lambda _l, _r: _l * 256 + _r) "
    "WHEN regexp_full_match({0}, '\\d{{1,10}}') AND TRY_CAST({0} AS BIGINT) < 4294967296 THEN TRY_CAST({0} AS BIGINT) END)"
)
_IP: dict[str, tuple[Rule, ...]] = {
    "IPV4_PARSE": _one("s", _ADDRESS, BIGINT),
    "IPV4_STRINGIFY": _one(
        "s",
        "(CASE WHEN {0} LIKE '%.%.%.%' THEN {0} WHEN TRY_CAST({0} AS BIGINT) BETWEEN 0 AND 4294967295 THEN "
        "concat_ws('.', TRY_CAST({0} AS BIGINT) >> 24, (TRY_CAST({0} AS BIGINT) >> 16) & 255, "
        "(TRY_CAST({0} AS BIGINT) >> 8) & 255, TRY_CAST({0} AS BIGINT) & 255) END)",
        VARCHAR,
    ),
}
ADDRESS = _ADDRESS

RULES: dict[str, tuple[Rule, ...]] = {**_TEXT, **_NUMBERS, **_TIMES, **_JSON, **_IP}
LIST_RULES: dict[str, tuple[Rule, ...]] = {
    **{f"ARRAY_{word}": rule for word, rule in _ARRAYS.items()},
    **{f"MV_{word}": rule for word, rule in _ARRAYS.items()},
}
