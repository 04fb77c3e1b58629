"""Druid SQL's text → a syntax tree, with what stands around a query: `SET` statements before it, `EXPLAIN PLAN FOR`.

Owns the grammar: every function stays a name with arguments, because what it means is `rta.query.druidsql.functions`'s to
say. One query is read, nothing else is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.dialects.druid import Druid
from sqlglot.errors import SqlglotError
from sqlglot.parsers.druid import DruidParser
from sqlglot.tokenizer_core import TokenType
from sqlglot.tokens import Tokenizer as _Tokenizer

from rta.errors import InvalidQueryError

TEXT_MAX = 1 << 20
DEPTH_MAX = 200
_KEPT = ("CAST", "TRY_CAST", "CEIL", "FLOOR", "EXTRACT", "TRIM", "JSON_OBJECT")
_EXPLAIN = re.compile(
    r"\s*EXPLAIN\s+PLAN\s+(?:INCLUDING\s+\w+\s+|EXCLUDING\s+\w+\s+|WITH\s+\w+\s+)?FOR\s", re.IGNORECASE
)
_SET = re.compile(r"\s*SET\s+(\"?)([A-Za-z_][\w.]*)\1\s*=\s*", re.IGNORECASE)
_VALUE = re.compile(r"'((?:[^']|'')*)'|(TRUE|FALSE)\b|(-?\d+(?:\.\d+)?)", re.IGNORECASE)


class DruidSql(Druid):
    """sqlglot's Druid without its idea of functions."""

    class Tokenizer(_Tokenizer):
        KEYWORDS = {  # noqa: RUF012  # as sqlglot declares it
            word: token for word, token in _Tokenizer.KEYWORDS.items() if word not in ("DIV", "ANALYZE", "LOAD")
        }

    class Parser(DruidParser):
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        NO_PAREN_FUNCTION_PARSERS = {  # noqa: RUF012  # as sqlglot declares it
            key: parser for key, parser in DruidParser.NO_PAREN_FUNCTION_PARSERS.items() if key == "CASE"
        }
        FUNCTION_PARSERS = {  # noqa: RUF012  # as sqlglot declares it
            **{key: parser for key, parser in DruidParser.FUNCTION_PARSERS.items() if key in _KEPT},
            "SUBSTRING": lambda self: _substring(self),
            "POSITION": lambda self: _position(self),
            "JSON_VALUE": lambda self: _json_value(self),
        }

        def _parse_ordered(self, parse_method: Any = None) -> Any:
            """Marks what says NULLS LAST itself: descending, sqlglot's tree does not tell it from nothing."""
            found = super()._parse_ordered(parse_method)
            if found is not None and self._prev is not None and self._prev.text.upper() == "LAST":
                found.meta["nulls_last"] = True
            return found


@dataclass(frozen=True, slots=True)
class Statement:
    """A query that was read.

    Args:
        query: Its tree.
        explained: The plan is asked for, not the rows.
        settings: Of the `SET` statements before it.
    """

    query: exp.Query
    explained: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


def parse_statement(text: str) -> Statement:
    """Raises InvalidQueryError for what is no query, or more than one."""
    if len(text) > TEXT_MAX:
        raise InvalidQueryError(f"the query has {len(text):,} characters", f"use at most {TEXT_MAX:,}")
    settings, rest = _settings(text)
    explain = _EXPLAIN.match(rest)
    if explain is not None:
        rest = rest[explain.end() :]
    trees = _trees(rest)
    if len(trees) != 1:
        raise InvalidQueryError(f"{len(trees)} statements were sent", "send one query, without a ';' behind it")
    tree = trees[0]
    if not isinstance(tree, exp.Query):
        word = rest.split(maxsplit=1)[0][:32].upper() if rest.strip() else "nothing"
        raise InvalidQueryError(f"cannot run {word} here: data is only read", "send SELECT, or EXPLAIN PLAN FOR SELECT")
    return Statement(tree, explain is not None, settings)


def _trees(text: str) -> list[exp.Expr]:
    try:
        found = sqlglot.parse(text, dialect=DruidSql)
    except SqlglotError as error:
        raise InvalidQueryError(_problem(error), "see the documentation of Druid SQL") from error
    except RecursionError as error:
        raise InvalidQueryError("the query is nested too deeply", "write it with fewer brackets") from error
    trees = [tree for tree in found if isinstance(tree, exp.Expr)]
    for tree in trees:
        if any(node.depth > DEPTH_MAX for node in tree.find_all(exp.Literal, exp.Column)):
            raise InvalidQueryError("the query is nested too deeply", "write it with fewer brackets")
    return trees


def _problem(error: SqlglotError) -> str:
    first = (getattr(error, "errors", None) or [{}])[0]
    description = first.get("description") or str(error).splitlines()[0]
    if "line" not in first:
        return f"the query can't be parsed: {description}"
    near = str(first.get("highlight") or "")[:40]
    return f"the query can't be parsed: {description} near '{near}' at line {first['line']}, column {first['col']}"


def _settings(text: str) -> tuple[dict[str, Any], str]:
    settings: dict[str, Any] = {}
    while (begun := _SET.match(text)) is not None:
        value = _VALUE.match(text, begun.end())
        if value is None:
            raise InvalidQueryError(
                f"SET {begun[2]} has no literal", "write SET name = 'text';, a number, TRUE or FALSE"
            )
        rest = text[value.end() :].lstrip()
        if not rest.startswith(";"):
            raise InvalidQueryError(f"SET {begun[2]} does not end with ';'", "write SET name = value; SELECT …")
        settings[begun[2]] = _setting(value)
        text = rest[1:]
    return settings, text


def _setting(value: re.Match[str]) -> Any:
    if value[2]:
        return value[2].upper() == "TRUE"
    if value[3]:
        return float(value[3]) if "." in value[3] else int(value[3])
    return (value[1] or "").replace("''", "'")


def _substring(parser: Any) -> exp.Expr:
    found = parser._parse_substring()
    arguments = [found.this, found.args.get("start"), found.args.get("length")]
    return exp.Anonymous(this="SUBSTRING", expressions=[a for a in arguments if a is not None])


def _position(parser: Any) -> exp.Expr:
    """`POSITION(needle IN haystack [FROM index])`."""
    needle = parser._parse_bitwise()
    if not parser._match(TokenType.IN):
        parser.raise_error("Expected IN")
    arguments = [needle, parser._parse_bitwise()]
    if parser._match(TokenType.FROM):
        arguments.append(parser._parse_bitwise())
    return exp.Anonymous(this="POSITION", expressions=arguments)


def _json_value(parser: Any) -> exp.Expr:
    """`JSON_VALUE(json, path [RETURNING type])`; the path stays text."""
    arguments = [parser._parse_bitwise()]
    while parser._match(TokenType.COMMA):
        arguments.append(parser._parse_bitwise())
    if parser._match_text_seq("RETURNING"):
        arguments.append(exp.Cast(this=exp.Null(), to=parser._parse_types()))
    return exp.Anonymous(this="JSON_VALUE", expressions=arguments)
