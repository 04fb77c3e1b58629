"""The expression language's syntax: text in, a tree out. What names mean is `rta.druid.expressions.compiler`'s.

Operators from the tightest: unary `-` and `!`, `^` (to the right), `* / %`, `+ -`, comparisons, `&&` and `||` (alike).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rta.druid.problems import InvalidInputError

LENGTH_MAX = 20_000
DEPTH_MAX = 100


@dataclass(frozen=True, slots=True)
class Constant:
    """A long, a double, a string, null, or a list of them."""

    value: Any


@dataclass(frozen=True, slots=True)
class Identifier:
    name: str


@dataclass(frozen=True, slots=True)
class Unary:
    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Lambda:
    names: tuple[str, ...]
    body: Node


Node = Constant | Identifier | Unary | Binary | Call | Lambda

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+)
  | (?P<string>'(?:[^'\\]|\\.)*')
  | (?P<quoted>"(?:[^"\\]|\\.)*")
  | (?P<array>ARRAY\s*<\s*(?:LONG|DOUBLE|STRING)\s*>|<\s*(?:LONG|DOUBLE|STRING)\s*>(?=\s*\[))
  | (?P<name>[_$A-Za-z][_$A-Za-z0-9]*)
  | (?P<operator>->|<=|>=|==|!=|&&|\|\||[-+*/%^!<>(),\[\]])
    )""",
    re.VERBOSE | re.DOTALL,
)
_LEVELS = (("&&", "||"), ("<", "<=", ">", ">=", "==", "!="), ("+", "-"), ("*", "/", "%"))
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


@lru_cache(maxsize=512)
def parse_expression(text: str) -> Node:
    """Raises InvalidInputError for what is no expression."""
    if len(text) > LENGTH_MAX:
        raise InvalidInputError(f"an expression has {len(text):,} characters", f"at most {LENGTH_MAX:,} are possible")
    parser = _Parser(text, _tokens(text))
    node = parser.expression(0)
    if parser.kind is not None:
        raise parser.wrong("an operator")
    return node


Token = tuple[str, str]


def _tokens(text: str) -> list[Token]:
    out: list[Token] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise InvalidInputError(f"the expression '{text[:100]}' can't be read at '{text[at : at + 20].strip()}'")
        kind = match.lastgroup
        assert kind is not None
        out.append((kind, match[kind]))
        at = match.end()
    return out


class _Parser:
    """Recursive descent with a limit of depth."""

    def __init__(self, text: str, tokens: list[Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    @property
    def kind(self) -> str | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    @property
    def word(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def wrong(self, expected: str) -> InvalidInputError:
        found = f"'{self.word}'" if self.kind else "the end"
        return InvalidInputError(f"the expression '{self._text[:100]}' has {found} where {expected} was expected")

    def expression(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._nested(self._power)
        left = self.expression(level + 1)
        while self.kind == "operator" and self.word in _LEVELS[level]:
            operator = self._next()
            left = Binary(operator, left, self.expression(level + 1))
        return left

    def _nested(self, rule: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise InvalidInputError(f"the expression '{self._text[:100]}' is nested more than {DEPTH_MAX} deep")
        node = rule()
        self._depth -= 1
        return node

    def _power(self) -> Node:
        left = self._unary()
        if self._is("^"):
            self._next()
            return Binary("^", left, self._nested(self._power))
        return left

    def _unary(self) -> Node:
        if self._is("-") or self._is("!"):
            operator = self._next()
            operand = self._nested(self._unary)
            if operator == "-" and isinstance(operand, Constant) and isinstance(operand.value, int | float):
                return Constant(-operand.value)
            return Unary(operator, operand)
        return self._primary()

    def _primary(self) -> Node:
        kind, word = self.kind, self.word
        if kind == "number":
            self._next()
            return Constant(int(word) if word.isdigit() else float(word))
        if kind == "string":
            self._next()
            return Constant(_unescaped(word[1:-1]))
        if kind == "quoted":
            self._next()
            return self._named(_unescaped(word[1:-1]))
        if kind == "name":
            self._next()
            return self._after_name(word)
        if kind == "array":
            self._next()
            return self._list(word.strip("ARY<> ").strip())
        if self._is("["):
            return self._list("")
        if self._is("("):
            return self._parenthesis()
        raise self.wrong("a value")

    def _named(self, name: str) -> Node:
        return self._lambda((name,)) if self._is("->") else Identifier(name)

    def _after_name(self, word: str) -> Node:
        if word.lower() == "null":
            return Constant(None)
        if self._is("->"):
            return self._lambda((word,))
        if not self._is("("):
            return Identifier(word)
        self._next()
        arguments: list[Node] = []
        while not self._is(")"):
            arguments.append(self.expression(0))
            if not self._is(")"):
                self._expect(",")
        self._next()
        return Call(word, tuple(arguments))

    def _lambda(self, names: tuple[str, ...]) -> Lambda:
        self._expect("->")
        return Lambda(names, self.expression(0))

    def _parenthesis(self) -> Node:
        names = self._lambda_names()
        if names is not None:
            return self._lambda(names)
        self._next()
        node = self._nested(lambda: self.expression(0))
        self._expect(")")
        return node

    def _lambda_names(self) -> tuple[str, ...] | None:
        """`(x, y) ->`, consumed up to the arrow; None for anything else."""
        at = self._at + 1
        names: list[str] = []
        while at + 1 < len(self._tokens) and self._tokens[at][0] in ("name", "quoted"):
            names.append(self._tokens[at][1].strip('"'))
            at += 1
            if self._tokens[at][1] != ",":
                break
            at += 1
        follows = [word for _, word in self._tokens[at : at + 2]]
        if follows != [")", "->"]:
            return None
        self._at = at + 1
        return tuple(names)

    def _list(self, of: str) -> Constant:
        self._expect("[")
        values: list[Any] = []
        while not self._is("]"):
            element = self.expression(0)
            if not isinstance(element, Constant):
                raise self.wrong("a constant (use array(…) for a list of columns)")
            values.append(element.value)
            if not self._is("]"):
                self._expect(",")
        self._next()
        make = {"LONG": int, "DOUBLE": float, "STRING": str}.get(of)
        return Constant([None if v is None else make(v) if make else v for v in values])

    def _is(self, operator: str) -> bool:
        return self.kind == "operator" and self.word == operator

    def _next(self) -> str:
        word = self.word
        self._at += 1
        return word

    def _expect(self, operator: str) -> None:
        if not self._is(operator):
            raise self.wrong(f"'{operator}'")
        self._next()


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text

    def replace(match: re.Match[str]) -> str:
        found = match[1]
        if found.startswith("u") and len(found) == 5:
            return chr(int(found[1:], 16))
        return _ESCAPES.get(found, found)

    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", replace, text, flags=re.DOTALL)
