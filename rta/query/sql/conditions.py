"""Conditions of a WHERE as `rta.query.model` has them, where both mean exactly the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp

from rta.events.schemas import ColumnType
from rta.query.model import And, Compare, Condition, Not, Op, Or, Value
from rta.query.sql.ranges import is_plain

Column = Callable[[exp.Expr | None], tuple[str, ColumnType]]
_OPS: dict[type[exp.Expr], tuple[Op, Op]] = {
    exp.EQ: (Op.EQ, Op.EQ),
    exp.NEQ: (Op.NE, Op.NE),
    exp.LT: (Op.LT, Op.GT),
    exp.LTE: (Op.LTE, Op.GTE),
    exp.GT: (Op.GT, Op.LT),
    exp.GTE: (Op.GTE, Op.LTE),
}
"""The comparison, and the one that it is with its sides exchanged."""


class NotTranslatableError(Exception):
    """This part of a statement is left to the SQL engine."""


def condition_of(tree: exp.Expr, column: Column, parameters: Sequence[Any]) -> Condition:
    """A condition on columns. Raises NotTranslatableError."""
    tree = tree.unnest()
    if not is_plain(tree):
        raise NotTranslatableError("more than is understood here")
    match tree:
        case exp.And():
            return And((condition_of(tree.left, column, parameters), condition_of(tree.right, column, parameters)))
        case exp.Or():
            return Or((condition_of(tree.left, column, parameters), condition_of(tree.right, column, parameters)))
        case exp.Not():
            return Not(condition_of(tree.this, column, parameters))
        case exp.Column():
            name, kind = column(tree)
            if kind is not ColumnType.BOOLEAN:
                raise NotTranslatableError("a condition that is no truth value")
            return Compare(name, Op.EQ, (True,))
        case exp.Is() if isinstance(tree.expression, exp.Null):
            return Compare(column(tree.this)[0], Op.IS_NULL, (True,))
        case exp.In() if tree.expressions:
            name, kind = column(tree.this)
            return Compare(name, Op.IN, tuple(_value(v, kind, parameters) for v in tree.expressions))
        case exp.Between():
            name, kind = column(tree.this)
            low, high = (_value(tree.args[end], kind, parameters) for end in ("low", "high"))
            return And((Compare(name, Op.GTE, (low,)), Compare(name, Op.LTE, (high,))))
        case exp.Like():
            found = _like(tree, column, parameters)
            return Not(found) if tree.args.get("negate") else found
        case _:
            return _compared(tree, column, parameters)


def literal_of(tree: exp.Expr | None, parameters: Sequence[Any]) -> Value:
    """A constant: a literal, or the value of a parameter. Raises NotTranslatableError."""
    node = None if tree is None else tree.unnest()
    match node:
        case exp.Literal():
            if node.is_string:
                return str(node.name)
            return int(node.name) if node.name.isdigit() else float(node.name)
        case exp.Boolean():
            return bool(node.this)
        case exp.Neg():
            value = literal_of(node.this, parameters)
            if isinstance(value, bool | str):
                raise NotTranslatableError("a minus before no number")
            return -value
        case exp.Parameter() | exp.Placeholder():
            at = int(node.name) - 1 if node.name.isdigit() else -1
            found = parameters[at] if 0 <= at < len(parameters) else None
            if isinstance(found, str | int | float | bool):
                return found
    raise NotTranslatableError("no constant")


def _compared(tree: exp.Expr, column: Column, parameters: Sequence[Any]) -> Condition:
    ops = _OPS.get(type(tree))
    if ops is None:
        raise NotTranslatableError("another condition")
    left, right = tree.this.unnest(), tree.expression.unnest()
    op, named, constant = (ops[0], left, right) if isinstance(left, exp.Column) else (ops[1], right, left)
    name, kind = column(named)
    return Compare(name, op, (_value(constant, kind, parameters),))


def _like(tree: exp.Like, column: Column, parameters: Sequence[Any]) -> Condition:
    name, kind = column(tree.this)
    pattern = _value(tree.expression, kind, parameters)
    if not isinstance(pattern, str) or "\\" in pattern:
        raise NotTranslatableError("a pattern with a backslash, which escapes in one and not in the other")
    return Compare(name, Op.LIKE, (pattern,))


def _value(tree: exp.Expr, kind: ColumnType, parameters: Sequence[Any]) -> Value:
    """A constant of the column's own type: others are converted by rules of the engine's."""
    value = literal_of(tree, parameters)
    match kind:
        case ColumnType.STRING:
            fits = isinstance(value, str)
        case ColumnType.LONG:
            fits = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
        case ColumnType.BOOLEAN:
            fits = isinstance(value, bool)
        case _:
            fits = False
    if not fits:
        raise NotTranslatableError("a constant of another type")
    return value
