"""Sets, funnels and retentions of a question: what is nested in a metric. Owns their limits and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rta.errors import BadRequestError, InvalidQueryError
from rta.events.units import parse_duration_ms
from rta.query.conditions import parse_where
from rta.query.model import (
    ALL,
    Combined,
    Condition,
    Funnel,
    FunnelStep,
    Members,
    Metric,
    Retention,
    SetOp,
    SetTerm,
    Unit,
)
from rta.query.periods import parse_granularity
from rta.query.time import DAY_MS
from rta.query.wording import nearest, optional_text, shown, whole_number

SETS_MAX = 32
SET_DEPTH_MAX = 8
STEPS_MIN, STEPS_MAX = 2, 32
STEP_NAME_LENGTH_MAX = 256
WINDOW_MS_MAX = 10 * 366 * DAY_MS
PERIODS_MAX = 366
_SET_KEYS = ("field", "filters", "where", "op", "of")
_STEP_KEYS = ("name", "filters", "where")
_FILTER_KEYS = ("filters", "where")


def parse_sets(entry: Mapping[str, Any], metric: Metric) -> Metric:
    """The metric with its sets. All are of one field, which may stand at any of them."""
    where = f"metric '{metric.name}'"
    reader = _Sets(where, {metric.field} if metric.field else set())
    if entry.get("op") is None and entry.get("of") is None:
        return replace(metric, sets=Members())
    sets = reader.combined(entry, 1)
    if len(reader.fields) > 1:
        first, second = sorted(reader.fields)[:2]
        raise InvalidQueryError(f"{where} has sets of '{first}' and of '{second}'", "sets are of one field")
    return replace(metric, field=next(iter(reader.fields), None), sets=sets)


class _Sets:
    """Counts the sets of one metric and gathers their fields while it walks down."""

    def __init__(self, where: str, fields: set[str]) -> None:
        self.fields = fields
        self._where = where
        self._count = 0

    def combined(self, node: Mapping[str, Any], depth: int) -> SetTerm:
        op, parts = node.get("op"), node.get("of")
        if not isinstance(op, str) or op not in tuple(SetOp):
            raise InvalidQueryError(f"{self._where} has the 'op' {shown(op)}", nearest(str(op), tuple(SetOp)))
        least = 1 if op == SetOp.NOT else 2
        if not isinstance(parts, list | tuple) or len(parts) < least:
            hint = f"'{op}' takes a list of at least {least} set{'s' if least > 1 else ''} such as " + '{"filters": …}'
            raise InvalidQueryError(f"{self._where} has 'of' {shown(parts)}", hint)
        terms = tuple(self._term(part, depth + 1) for part in parts)
        # What is taken from nothing named is taken from everybody.
        return Combined(SetOp(op), (Members(), *terms) if len(terms) == 1 else terms)

    def _term(self, node: object, depth: int) -> SetTerm:
        self._count += 1
        if self._count > SETS_MAX or depth > SET_DEPTH_MAX:
            limits = f"at most {SETS_MAX} sets, {SET_DEPTH_MAX} levels deep"
            raise InvalidQueryError(f"{self._where} has too many sets", f"{limits} are possible")
        if not isinstance(node, Mapping):
            raise InvalidQueryError(f"a set of {self._where} is {shown(node)}", 'write {"filters": {…}}')
        _only(node, _SET_KEYS, f"a set of {self._where}")
        field = optional_text(node, "field")
        if field is not None:
            self.fields.add(field)
        if node.get("op") is None and node.get("of") is None:
            return Members(parse_where(node.get("filters"), node.get("where")))
        if node.get("filters") is not None or node.get("where") is not None:
            raise InvalidQueryError(
                f"a set of {self._where} has 'op' and a filter", "filter the sets that it is made of"
            )
        return self.combined(node, depth)


def parse_funnel(entry: Mapping[str, Any], where: str) -> Funnel:
    steps = entry.get("steps")
    if not isinstance(steps, list | tuple):
        raise InvalidQueryError(f"{where} has the 'steps' {shown(steps)}", 'write [{"name": …, "filters": {…}}, …]')
    if not STEPS_MIN <= len(steps) <= STEPS_MAX:
        raise InvalidQueryError(f"{where} has {len(steps)} steps", f"it can have {STEPS_MIN} to {STEPS_MAX}")
    parsed = tuple(_parse_step(step, i, where) for i, step in enumerate(steps))
    names = [step.name for step in parsed]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InvalidQueryError(f"{where} has two steps called '{twice}'", "give each its own 'name'")
    return Funnel(parsed, _parse_window(entry.get("window"), where))


def _parse_step(step: object, index: int, where: str) -> FunnelStep:
    what = f"step {index + 1} of {where}"
    if not isinstance(step, Mapping):
        raise InvalidQueryError(f"{what} is {shown(step)}", 'write {"name": …, "filters": {…}}')
    _only(step, _STEP_KEYS, what)
    name = optional_text(step, "name") or f"step {index + 1}"
    if len(name) > STEP_NAME_LENGTH_MAX:
        raise InvalidQueryError(f"the name of {what} has {len(name)} characters", f"at most {STEP_NAME_LENGTH_MAX}")
    return FunnelStep(name, parse_where(step.get("filters"), step.get("where")))


def _parse_window(value: object, where: str) -> int:
    hint = "it is the time from the first step to the last one, such as 30m, 1h, 7d or PT1H"
    if not isinstance(value, str):
        raise InvalidQueryError(f"{where} has the 'window' {shown(value)}", hint)
    try:
        window = parse_duration_ms(value)
    except BadRequestError:
        step = parse_granularity(value) if value.strip().upper().startswith("P") else ALL
        window = {Unit.MS: step.count, Unit.DAY: step.count * DAY_MS}.get(step.unit, 0)
    if not 0 < window <= WINDOW_MS_MAX:
        raise InvalidQueryError(f"{where} has the 'window' {shown(value)}", f"{hint}, and at most 10 years")
    return window


def parse_retention(entry: Mapping[str, Any], where: str) -> Retention:
    period = parse_granularity(entry.get("period", "day"))
    if period == ALL:
        raise InvalidQueryError(f"{where} has the 'period' 'all'", "use day, week, month or an ISO period")
    periods = entry.get("periods", 10)
    whole_number(periods, f"{where} has 'periods'", 1, PERIODS_MAX)
    cohort = _filtered(entry.get("cohort"), f"'cohort' of {where}")
    returning = cohort if entry.get("returning") is None else _filtered(entry["returning"], f"'returning' of {where}")
    return Retention(cohort, returning, period, periods)


def _filtered(value: object, what: str) -> Condition | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidQueryError(f"{what} is {shown(value)}", 'write {"filters": {…}}')
    _only(value, _FILTER_KEYS, what)
    return parse_where(value.get("filters"), value.get("where"))


def _only(node: Mapping[str, Any], keys: tuple[str, ...], what: str) -> None:
    for key in node:
        if key not in keys:
            raise InvalidQueryError(f"{what} has the unknown key {shown(key)}", nearest(str(key), keys))
