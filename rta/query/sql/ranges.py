"""Which event times a statement reads of a table, as far as its WHERE says so: a range that is never too small.

Looks at comparisons of `__time` with what is constant in the SELECT that names the table, joined by AND. A bound that is only
known roughly (months, the moment of asking) is taken wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sqlglot import exp

from rta.events.schemas import TIME
from rta.query.time import TIME_MS_MAX, TIME_MS_MIN

DAY_US = 86_400_000_000
NOW_SLACK_US = 60_000_000
"""The engine asks the clock later than the planner does."""
ALL_TIME = (TIME_MS_MIN, TIME_MS_MAX)
_UNITS_US: dict[str, tuple[int, int]] = {
    "MICROSECOND": (1, 1),
    "MILLISECOND": (1_000, 1_000),
    "SECOND": (1_000_000, 1_000_000),
    "MINUTE": (60_000_000, 60_000_000),
    "HOUR": (3_600_000_000, 3_600_000_000),
    "DAY": (DAY_US, DAY_US),
    "WEEK": (7 * DAY_US, 7 * DAY_US),
    "MONTH": (28 * DAY_US, 31 * DAY_US),
    "QUARTER": (89 * DAY_US, 92 * DAY_US),
    "YEAR": (365 * DAY_US, 366 * DAY_US),
}
_MIRRORED: dict[type[exp.Expr], type[exp.Expr]] = {
    exp.GT: exp.LT,
    exp.GTE: exp.LTE,
    exp.LT: exp.GT,
    exp.LTE: exp.GTE,
    exp.EQ: exp.EQ,
}
_TIMES = frozenset(
    ("TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMPNTZ", "DATETIME", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP_S")
)
_OF_TWO = frozenset(("this", "expression"))
_ARGUMENTS: dict[type[exp.Expr], frozenset[str]] = {
    exp.Like: frozenset(("this", "expression", "negate")),
    exp.Between: frozenset(("this", "low", "high")),
    exp.In: frozenset(("this", "expressions")),
    exp.Cast: frozenset(("this", "to")),
    exp.Literal: frozenset(("this", "is_string")),
    exp.Column: frozenset(("this", "table")),
    exp.Interval: frozenset(("this", "unit")),
    exp.TimestampTrunc: frozenset(("this", "unit")),
    exp.DateTrunc: frozenset(("this", "unit")),
    exp.Anonymous: frozenset(("this", "expressions")),
}
Instants = tuple[int, int]
"""Earliest and latest that a value can be, microseconds since 1970 UTC."""


@dataclass(frozen=True, slots=True)
class Constants:
    """What stands for what in a statement: the moment of asking, and the values of `$1`, `$2`, …."""

    now_ms: int
    parameters: Sequence[Any] = ()


def time_range(table: exp.Table, constants: Constants) -> tuple[int, int]:
    """The half-open range of event times, in ms, that a table's rows must be in to matter to the statement."""
    select = _select_of(table)
    where = None if select is None else select.args.get("where")
    low, high = ALL_TIME
    if where is None:
        return low, high
    for part in conjuncts(where.this):
        start, end = bounds(part, table.alias_or_name, constants)
        low, high = max(low, start), min(high, end)
    return low, max(low, high)


def conjuncts(condition: exp.Expr) -> Iterator[exp.Expr]:
    """The parts of a condition that must all be true."""
    inner = condition.unnest()
    if isinstance(inner, exp.And):
        yield from conjuncts(inner.left)
        yield from conjuncts(inner.right)
    else:
        yield inner


def bounds(part: exp.Expr, alias: str, constants: Constants) -> tuple[int, int]:
    """What one comparison says of a table's time, as a half-open range in ms; all of it where it says nothing."""
    if not is_plain(part):
        return ALL_TIME
    if isinstance(part, exp.Between) and is_time(part.this, alias):
        low, high = instants(part.args["low"], constants), instants(part.args["high"], constants)
        start = ALL_TIME[0] if low is None else _floor_ms(low[0])
        return start, ALL_TIME[1] if high is None else _floor_ms(high[1]) + 1
    kind = next((k for k in _MIRRORED if type(part) is k), None)
    if kind is None:
        return ALL_TIME
    time, value = part.this, part.expression
    if is_time(value, alias):
        time, value, kind = value, time, _MIRRORED[kind]
    found = instants(value, constants) if is_time(time, alias) else None
    if found is None:
        return ALL_TIME
    start, end = ALL_TIME
    if kind in (exp.GT, exp.GTE, exp.EQ):
        start = _floor_ms(found[0]) + (1 if kind is exp.GT and found[0] == found[1] else 0)
    if kind is exp.LT:
        end = -_floor_ms(-found[1])
    elif kind in (exp.LTE, exp.EQ):
        end = _floor_ms(found[1]) + 1
    return start, end


def exact_bounds(part: exp.Expr, alias: str, constants: Constants) -> tuple[int, int] | None:
    """As `bounds`, where the comparison is of the time alone and with moments that are known to the microsecond; else None."""
    if not is_plain(part):
        return None
    if isinstance(part, exp.Between):
        sides = [part.args["low"], part.args["high"]] if is_time(part.this, alias) else []
    elif type(part) in _MIRRORED:
        times = [is_time(side, alias) for side in (part.this, part.expression)]
        sides = [part.expression if times[0] else part.this] if times[0] != times[1] else []
    else:
        sides = []
    moments = [instants(side, constants) for side in sides]
    if not moments or any(moment is None or moment[0] != moment[1] for moment in moments):
        return None
    return bounds(part, alias, constants)


def is_plain(node: exp.Expr) -> bool:
    """Whether a node says no more than is understood here of its kind: the NOT of a LIKE, for one, is an argument of it."""
    known = _ARGUMENTS.get(type(node), _OF_TWO)
    return all(key in known for key, value in node.args.items() if value)


def is_time(node: exp.Expr, alias: str) -> bool:
    """Whether an expression is the event time of the table of this name."""
    column = node.unnest()
    return (
        isinstance(column, exp.Column)
        and column.name.lower() == TIME
        and len(column.parts) <= 2
        and (not column.table or column.table.lower() == alias.lower())
    )


def instants(node: exp.Expr, constants: Constants) -> Instants | None:
    """The moment that a constant expression means; None for what is not understood, or no constant."""
    node = node.unnest()
    if not is_plain(node):
        return None
    match node:
        case exp.Literal():
            return _of_text(node.name) if node.is_string else None
        case exp.Cast():
            return _cast(node, constants)
        case exp.Parameter() | exp.Placeholder():
            return _of_parameter(node, constants)
        case exp.Add() | exp.Sub():
            return _moved(node, constants)
        case exp.CurrentTimestamp():
            return constants.now_ms * 1000, constants.now_ms * 1000 + NOW_SLACK_US
        case exp.CurrentDate():
            now = constants.now_ms * 1000
            return now // DAY_US * DAY_US, (now + NOW_SLACK_US) // DAY_US * DAY_US
        case exp.Anonymous() if node.name.lower() in ("now", "get_current_timestamp") and not node.expressions:
            return constants.now_ms * 1000, constants.now_ms * 1000 + NOW_SLACK_US
        case exp.TimestampTrunc() | exp.DateTrunc():
            return _truncated(node, constants)
        case _:
            return None


def _select_of(table: exp.Table) -> exp.Select | None:
    parent = table.parent
    if not isinstance(parent, exp.From | exp.Join):
        return None
    return parent.parent if isinstance(parent.parent, exp.Select) else None


def _cast(node: exp.Cast, constants: Constants) -> Instants | None:
    inner = instants(node.this, constants)
    if inner is None:
        return None
    kind = node.to.this.name.upper() if isinstance(node.to.this, exp.DataType.Type) else ""
    if kind == "DATE":
        return inner[0] // DAY_US * DAY_US, inner[1] // DAY_US * DAY_US
    return inner if kind in _TIMES else None


def _truncated(node: exp.TimestampTrunc | exp.DateTrunc, constants: Constants) -> Instants | None:
    inner = instants(node.this, constants)
    unit = node.args.get("unit")
    length = None if unit is None else _UNITS_US.get(unit.name.upper())
    if inner is None or length is None:
        return None
    return inner[0] - length[1], inner[1]


def _moved(node: exp.Add | exp.Sub, constants: Constants) -> Instants | None:
    interval = node.expression.unnest()
    if not isinstance(interval, exp.Interval):
        return None
    base = instants(node.this, constants)
    size, unit = interval.this, interval.args.get("unit")
    length = None if unit is None else _UNITS_US.get(unit.name.upper().removesuffix("S"))
    if base is None or length is None or not isinstance(size, exp.Literal):
        return None
    try:
        count = float(size.name)
    except ValueError:
        return None
    steps = sorted((int(count * length[0]), int(count * length[1])))
    if isinstance(node, exp.Add):
        return base[0] + steps[0], base[1] + steps[1]
    return base[0] - steps[1], base[1] - steps[0]


def _of_parameter(node: exp.Parameter | exp.Placeholder, constants: Constants) -> Instants | None:
    name = node.name
    if not name.isdigit() or not 1 <= int(name) <= len(constants.parameters):
        return None
    value = constants.parameters[int(name) - 1]
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, datetime):
        return _of_datetime(value)
    return _of_datetime(datetime(value.year, value.month, value.day)) if isinstance(value, date) else None


def _of_text(text: str) -> Instants | None:
    try:
        return _of_datetime(datetime.fromisoformat(text.strip()))
    except ValueError:
        return None


def _of_datetime(moment: datetime) -> Instants:
    """Without a zone it is UTC, as the session of the engine is."""
    known = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since = known - datetime(1970, 1, 1, tzinfo=UTC)
    instant = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return instant, instant


def _floor_ms(instant_us: int) -> int:
    return instant_us // 1000
