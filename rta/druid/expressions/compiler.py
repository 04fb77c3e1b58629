"""From a syntax tree to a column: what its names and functions mean, and of which type each part is.

A column with several values per row is worked on value by value, as long as it is the only column of the expression;
the functions about arrays take it as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import assert_never

import polars as pl

from rta.druid.expressions import arrays, logic, numbers, texts, times
from rta.druid.expressions.calls import Arguments, Function, checked
from rta.druid.expressions.syntax import Binary, Call, Constant, Identifier, Lambda, Node, Unary, parse_expression
from rta.druid.problems import InvalidInputError, unsupported
from rta.druid.values import ARRAY_OF, ARRAYS, Column, Type, as_truth, from_truth, literal

Resolve = Callable[[str], Column]
FUNCTIONS: dict[str, Function] = {
    **numbers.FUNCTIONS,
    **texts.FUNCTIONS,
    **times.FUNCTIONS,
    **logic.FUNCTIONS,
    **arrays.FUNCTIONS,
}
_OF_WHOLE_ARRAYS = frozenset(arrays.FUNCTIONS) - {"scalar_in_array"}
_WITH_LAMBDA = frozenset({"map", "filter", "any", "all"})
_OTHERS = "functions that are known: "


def expression(text: str, resolve: Resolve) -> Column:
    """The value of an expression over columns.

    Raises:
        InvalidInputError: it can't be read, or its parts do not fit together.
        UnsupportedError: it uses a function that is not there.
    """
    try:
        return compile_node(parse_expression(text), resolve)
    except RecursionError as error:
        raise InvalidInputError(f"the expression '{text[:100]}' has too many parts", "use 'in' filters") from error


def identifiers(text: str) -> set[str]:
    """The columns that an expression names."""
    try:
        return set(_names(parse_expression(text)))
    except RecursionError as error:
        raise InvalidInputError(f"the expression '{text[:100]}' has too many parts", "use 'in' filters") from error


def _names(node: Node) -> Iterator[str]:
    match node:
        case Identifier(name):
            yield name
        case Unary(_, operand):
            yield from _names(operand)
        case Binary(_, left, right):
            yield from _names(left)
            yield from _names(right)
        case Call(_, arguments):
            for argument in arguments:
                yield from _names(argument)
        case Lambda(names, body):
            yield from (n for n in _names(body) if n not in names)
        case Constant():
            return
        case _:
            assert_never(node)


def compile_node(node: Node, resolve: Resolve) -> Column:
    several = [n for n in dict.fromkeys(_scalar_names(node)) if resolve(n).multi]
    if not several or isinstance(node, Identifier):
        return _compiled(node, resolve)
    if len(set(_names(node))) > 1:
        raise unsupported("an expression over several columns, of which one has several values per row,", several[0])
    return _mapped(node, resolve, several[0])


def _scalar_names(node: Node) -> Iterator[str]:
    """Names that are used as single values: outside of the functions that take whole arrays."""
    match node:
        case Call(name, _) if name.lower() in _OF_WHOLE_ARRAYS or name.lower() in _WITH_LAMBDA:
            return
        case Call(_, arguments):
            for argument in arguments:
                yield from _scalar_names(argument)
        case Binary(_, left, right):
            yield from _scalar_names(left)
            yield from _scalar_names(right)
        case Unary(_, operand):
            yield from _scalar_names(operand)
        case Identifier(name):
            yield name
        case _:
            return


def _mapped(node: Node, resolve: Resolve, name: str) -> Column:
    """The expression of each single value; texts stay several values, all else becomes an array."""
    whole = resolve(name)
    one = _compiled(node, lambda n: Column(pl.element(), Type.STRING) if n == name else resolve(n))
    values = whole.expr.list.eval(one.expr)
    if one.type is Type.STRING:
        return Column(values, Type.STRING, multi=True)
    return Column(values, ARRAY_OF[one.type])


def _compiled(node: Node, resolve: Resolve) -> Column:
    match node:
        case Constant(value):
            return literal(value)
        case Identifier(name):
            return resolve(name)
        case Unary("-", operand):
            return numbers.negated(compile_node(operand, resolve))
        case Unary(_, operand):
            return logic.inverted(compile_node(operand, resolve))
        case Binary(operator, left, right):
            return _binary(operator, compile_node(left, resolve), compile_node(right, resolve))
        case Call(name, arguments):
            return _call(name, arguments, resolve)
        case Lambda():
            raise InvalidInputError("a lambda stands where a value was expected")
        case _:
            assert_never(node)


def _binary(operator: str, left: Column, right: Column) -> Column:
    if operator == "&&":
        return logic.both(left, right)
    if operator == "||":
        return logic.either(left, right)
    if operator in logic.COMPARISONS:
        return logic.compared(operator, left, right)
    return numbers.arithmetic(operator, left, right)


def _call(name: str, arguments: tuple[Node, ...], resolve: Resolve) -> Column:
    if name.lower() in _WITH_LAMBDA:
        return _lambda_call(name.lower(), arguments, resolve)
    function = FUNCTIONS.get(name.lower())
    if function is None:
        raise unsupported("the function", name, _OTHERS + ", ".join(sorted(FUNCTIONS)))
    return checked(function, Arguments(name, tuple(compile_node(a, resolve) for a in arguments)))


def _lambda_call(name: str, arguments: tuple[Node, ...], resolve: Resolve) -> Column:
    """`map`, `filter`, `any` and `all` over one array, with a lambda that looks at nothing else."""
    if len(arguments) != 2 or not isinstance(arguments[0], Lambda):
        raise InvalidInputError(f"'{name}' takes a lambda and an array")
    body = arguments[0]
    array = arrays.as_array(compile_node(arguments[1], resolve))
    if len(body.names) != 1 or set(_names(body.body)) - set(body.names):
        raise unsupported("a lambda that looks at more than its own value in", name)
    element = Column(pl.element(), ARRAYS[array.type])
    one = _compiled(body.body, partial(_own, element))
    if name == "map":
        return Column(array.expr.list.eval(one.expr), ARRAY_OF[one.type])
    truth = as_truth(one).fill_null(value=False)
    if name == "filter":
        return Column(array.expr.list.eval(pl.element().filter(truth)), array.type)
    found = array.expr.list.eval(truth)
    return from_truth(found.list.any() if name == "any" else found.list.all())


def _own(element: Column, _: str) -> Column:
    return element
