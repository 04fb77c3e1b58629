"""From `filters` and `where` of a document to one condition tree. Knows no datasource: types are checked by the
planner.

`null` among a filter's values means "or has no value": nothing else in a question can equal null.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rta.errors import InvalidQueryError
from rta.query.fields import parse_path
from rta.query.model import (
    And,
    Combined,
    Compare,
    Condition,
    Funnel,
    Metric,
    Not,
    Op,
    Or,
    Query,
    Retention,
    SetTerm,
    Value,
)

VALUES_MAX = 10_000
FILTERS_MAX = 1_000
DEPTH_MAX = 64
NODES_MAX = 10_000
TEXT_LENGTH_MAX = 65_536
PATTERN_LENGTH_MAX = 1_000
TEXT_VALUES_MAX = 10
"""Values of a comparison that a plan shows."""
_LEAF_KEYS = ("field", "op", "value")
_BRANCHES = ("and", "or", "not")


def parse_where(filters: object, where: object) -> Condition | None:
    """Both together, with `and` between them; None when neither restricts anything.

    Raises:
        InvalidQueryError: anything that is not in api.md, or larger than the limits of this module.
    """
    parts = [] if filters is None else _parse_filters(filters)
    if where is not None:
        parts.append(_Parser().parse(where, 1))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def compares(condition: Condition | None) -> Iterator[Compare]:
    """Every comparison in a condition, left to right."""
    match condition:
        case Compare():
            yield condition
        case And(parts) | Or(parts):
            for part in parts:
                yield from compares(part)
        case Not(part):
            yield from compares(part)
        case None:
            return


def both(first: Condition | None, second: Condition | None) -> Condition | None:
    """What is true where both are; None takes everything."""
    return all_of([condition for condition in (first, second) if condition is not None])


def conditions(query: Query) -> Iterator[Condition]:
    """Every condition of a question: of its events, of its metrics and inside these."""
    if query.where is not None:
        yield query.where
    for metric in query.metrics:
        yield from metric_conditions(metric)


def metric_conditions(metric: Metric) -> Iterator[Condition]:
    found = [metric.where, *_set_conditions(metric.sets)]
    match metric.journey:
        case Funnel(steps):
            found += [step.where for step in steps]
        case Retention(cohort, returning):
            found += [cohort, returning]
    yield from (condition for condition in found if condition is not None)
    if metric.by is not None:
        yield from metric_conditions(metric.by)


def _set_conditions(term: SetTerm | None) -> list[Condition | None]:
    if term is None:
        return []
    if isinstance(term, Combined):
        return [condition for part in term.of for condition in _set_conditions(part)]
    return [term.where]


def conjuncts(condition: Condition | None) -> tuple[Condition, ...]:
    """The conditions that must all be true, without `and` in `and` and without `not` of `not`."""
    match condition:
        case None:
            return ()
        case And(parts):
            return tuple(inner for part in parts for inner in conjuncts(part))
        case Not(Not(part)):
            return conjuncts(part)
        case _:
            return (condition,)


def all_of(parts: Sequence[Condition]) -> Condition | None:
    """The condition that is true where all of them are; None, which is always true, for none."""
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def condition_text(condition: Condition) -> str:
    """The condition for people to read."""
    match condition:
        case And(parts) | Or(parts):
            word = " and " if isinstance(condition, And) else " or "
            return "(" + word.join(condition_text(part) for part in parts) + ")"
        case Not(part):
            return f"not {condition_text(part)}"
        case Compare(field, op, values):
            shown = ", ".join(repr(value) for value in values[:TEXT_VALUES_MAX])
            more = f", … {len(values):,} values" if len(values) > TEXT_VALUES_MAX else ""
            return f"{field} {op} {shown}{more}"


def _parse_filters(filters: object) -> list[Condition]:
    if not isinstance(filters, Mapping):
        raise InvalidQueryError(f"'filters' is {_shown(filters)}", 'write {"field": value or [values], …}')
    if len(filters) > FILTERS_MAX:
        raise InvalidQueryError(f"'filters' has {len(filters):,} entries", f"at most {FILTERS_MAX:,} are possible")
    return [_parse_filter(field, value) for field, value in filters.items()]


def _parse_filter(field: object, value: object) -> Condition:
    name = _field(field)
    if not isinstance(value, list | tuple):
        return _equals(name, value)
    if not value:
        raise InvalidQueryError(f"the filter on '{name}' has an empty list", "give at least one value, or leave it out")
    known = _values([v for v in value if v is not None], name)
    has_null = any(v is None for v in value)
    is_null = Compare(name, Op.IS_NULL, (True,))
    if not known:
        return is_null
    leaf = Compare(name, Op.IN, known)
    return Or((leaf, is_null)) if has_null else leaf


def _equals(name: str, value: object) -> Condition:
    if value is None:
        return Compare(name, Op.IS_NULL, (True,))
    return Compare(name, Op.EQ, (_value(value, name),))


class _Parser:
    """Counts the nodes of one tree while it walks down."""

    def __init__(self) -> None:
        self._nodes = 0

    def parse(self, node: object, depth: int) -> Condition:
        self._nodes += 1
        if depth > DEPTH_MAX:
            raise InvalidQueryError(f"'where' is nested deeper than {DEPTH_MAX} levels", "write it flatter")
        if self._nodes > NODES_MAX:
            raise InvalidQueryError(f"'where' has more than {NODES_MAX:,} parts", "use 'in' with a list of values")
        if not isinstance(node, Mapping):
            hint = 'write {"and": […]}, {"or": […]}, {"not": …} or {"field": …, "op": …, "value": …}'
            raise InvalidQueryError(f"a part of 'where' is {_shown(node)}", hint)
        branches = [key for key in _BRANCHES if key in node]
        if not branches:
            return _parse_leaf(node)
        if len(node) != 1:
            raise InvalidQueryError(
                f"a part of 'where' has the keys {sorted(map(str, node))}", "'and', 'or' and 'not' stand alone"
            )
        if branches[0] == "not":
            return Not(self.parse(node["not"], depth + 1))
        children = node[branches[0]]
        if not isinstance(children, list | tuple) or not children:
            raise InvalidQueryError(f"'{branches[0]}' is {_shown(children)}", "write a list of at least one condition")
        parts = tuple(self.parse(child, depth + 1) for child in children)
        return And(parts) if branches[0] == "and" else Or(parts)


def _parse_leaf(node: Mapping[str, Any]) -> Condition:
    for key in node:
        if key not in _LEAF_KEYS:
            near = difflib.get_close_matches(str(key), (*_LEAF_KEYS, *_BRANCHES), n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "valid: and, or, not; or field, op, value"
            raise InvalidQueryError(f"a part of 'where' has the unknown key {_shown(key)}", hint)
    name = _field(node.get("field"))
    text = node.get("op", "eq")
    if not isinstance(text, str) or text not in set(Op):
        near = difflib.get_close_matches(str(text), list(Op), n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(Op)}"
        raise InvalidQueryError(f"the condition on '{name}' has the op {_shown(text)}", hint)
    return _leaf(name, Op(text), node)


def _leaf(name: str, op: Op, node: Mapping[str, Any]) -> Condition:
    value = node.get("value")
    match op:
        case Op.IS_NULL:
            wanted = node.get("value", True)
            if not isinstance(wanted, bool):
                raise InvalidQueryError(f"'is_null' on '{name}' has the value {_shown(wanted)}", "it is true or false")
            return Compare(name, op, (wanted,))
        case Op.IN:
            if not isinstance(value, list | tuple):
                raise InvalidQueryError(f"'in' on '{name}' has the value {_shown(value)}", "write a list")
            return _parse_filter(name, value)
        case Op.LIKE | Op.REGEX:
            return Compare(name, op, (_pattern(value, name, op),))
        case _:
            if value is None:
                hint = 'nothing equals null: use {"op": "is_null"}'
                raise InvalidQueryError(f"the condition '{op}' on '{name}' has no value", hint)
            return Compare(name, op, (_value(value, name),))


def _pattern(value: object, name: str, op: Op) -> str:
    if not isinstance(value, str):
        raise InvalidQueryError(f"'{op}' on '{name}' has the value {_shown(value)}", "write a text")
    if len(value) > PATTERN_LENGTH_MAX:
        raise InvalidQueryError(
            f"the pattern on '{name}' has {len(value):,} characters", f"use at most {PATTERN_LENGTH_MAX:,}"
        )
    return value


def _field(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidQueryError(f"a condition has the field {_shown(value)}", "name a field")
    parse_path(value)
    return value


def _values(values: list[object], name: str) -> tuple[Value, ...]:
    if len(values) > VALUES_MAX:
        raise InvalidQueryError(
            f"the list on '{name}' has {len(values):,} values", f"at most {VALUES_MAX:,} are possible"
        )
    return tuple(_value(v, name) for v in values)


def _value(value: object, name: str) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > TEXT_LENGTH_MAX:
            raise InvalidQueryError(
                f"the value on '{name}' has {len(value):,} characters", f"use at most {TEXT_LENGTH_MAX:,}"
            )
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InvalidQueryError(
        f"the condition on '{name}' has the value {_shown(value)}", "write a text, a number or a truth value"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
