"""`INTERVAL '1' DAY`, `INTERVAL '1-2' YEAR TO MONTH`, `INTERVAL '1 02:03:04' DAY TO SECOND` → a period."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlglot import exp

from rta.errors import InvalidQueryError
from rta.query.druidsql.periods import Period, unit_period

if TYPE_CHECKING:
    from rta.query.druidsql.translator import Translator

_YEARS = re.compile(r"([+-]?)(\d+)-(\d+)")
_DAYS = re.compile(r"([+-]?)(?:(\d+) )?(\d+)(?::(\d+))?(?::(\d+(?:\.\d{1,3})?))?")
_HINT = "write it as INTERVAL '1' DAY, or use TIMESTAMPADD"


def interval_period(translator: Translator, node: exp.Interval) -> Period:
    """Raises InvalidQueryError for what is no literal interval."""
    value, unit = node.this, node.args.get("unit")
    if unit is None:
        raise InvalidQueryError(f"'{node.sql()[:64]}' has no unit", _HINT)
    text = str(value.this) if isinstance(value, exp.Literal) else ""
    if isinstance(unit, exp.IntervalSpan):
        return _span(text, unit.this.name.upper(), unit.expression.name.upper())
    if isinstance(value, exp.Neg):
        text = f"-{value.this.this}"
    if not re.fullmatch(r"[+-]?\d{1,9}", text):
        del translator
        raise InvalidQueryError(f"'{node.sql()[:64]}' is no whole number of units", _HINT)
    return unit_period(unit.name).times(int(text))


def _span(text: str, first: str, last: str) -> Period:
    years = _YEARS.fullmatch(text)
    if years is not None and (first, last) == ("YEAR", "MONTH"):
        return Period(months=int(years[2]) * 12 + int(years[3])).times(-1 if years[1] == "-" else 1)
    days = _DAYS.fullmatch(text)
    if days is None or first not in ("DAY", "HOUR", "MINUTE") or last not in ("HOUR", "MINUTE", "SECOND"):
        raise InvalidQueryError(f"INTERVAL '{text[:32]}' {first} TO {last} can't be read", _HINT)
    begins = {"DAY": 0, "HOUR": 1, "MINUTE": 2}[first]
    numbers = [g for g in days.groups()[1:] if g is not None]
    fields = [0.0] * begins + [float(n) for n in numbers]
    fields += [0.0] * (4 - len(fields))
    if len(fields) > 4:
        raise InvalidQueryError(f"INTERVAL '{text[:32]}' {first} TO {last} has too many parts", _HINT)
    ms = round(fields[1] * 3_600_000 + fields[2] * 60_000 + fields[3] * 1_000)
    return Period(days=int(fields[0]), ms=ms).times(-1 if days[1] == "-" else 1)
