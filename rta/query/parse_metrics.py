"""The metrics of a question: numbers of the events, and numbers derived from those.

Owns which keys belong to which type, the limits on their values, and that a derived metric names what is there and
never itself. Sets, funnels and retentions are read in `rta.query.parse_journeys`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rta.errors import InvalidQueryError
from rta.query.conditions import parse_where
from rta.query.derive import ordered
from rta.query.fields import parse_path
from rta.query.model import Derived, DerivedType, Metric, QueryMetricType
from rta.query.parse_journeys import parse_funnel, parse_retention, parse_sets
from rta.query.wording import nearest, optional_text, shown, whole_number

METRICS_MAX = 100
TOP_MAX = 1_000
NAME_LENGTH_MAX = 256
OPERANDS_MAX = 16
WINDOW_STEPS_MAX = 10_000
PER_MS = {"second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
OPERATIONS = ("add", "subtract", "multiply", "divide")
JOURNEYS = (QueryMetricType.FUNNEL, QueryMetricType.RETENTION)
_T, _D = QueryMetricType, DerivedType
_SHARED = ("name", "type", "field", "filters", "where", "exact")
_KEYS: dict[str, tuple[str, ...]] = {
    **{t.value: _SHARED for t in QueryMetricType},
    "quantile": (*_SHARED, "q", "percentile"),
    "percentile": (*_SHARED, "q", "percentile"),
    "top": (*_SHARED, "k", "by"),
    "theta": (*_SHARED, "op", "of"),
    "funnel": (*_SHARED, "window", "steps"),
    "retention": (*_SHARED, "period", "periods", "cohort", "returning"),
    "rate": ("name", "type", "of", "per"),
    "moving_avg": ("name", "type", "of", "window"),
    "cumulative": ("name", "type", "of"),
    "delta": ("name", "type", "of"),
    "ratio": ("name", "type", "of"),
    "arithmetic": ("name", "type", "of", "op"),
}
_EVERY_KEY = tuple(dict.fromkeys(key for keys in _KEYS.values() for key in keys))


@dataclass(slots=True)
class Metrics:
    """What `metrics` of a document came to. `columns` are the names that the answer shows."""

    base: tuple[Metric, ...] = ()
    derived: tuple[Derived, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(slots=True)
class _Reading:
    """What was read so far, by name."""

    base: dict[str, Metric] = field(default_factory=dict)
    derived: dict[str, Derived] = field(default_factory=dict)

    def add(self, metric: Metric | Derived) -> None:
        if metric.name in self.base or metric.name in self.derived:
            raise InvalidQueryError(f"two metrics are called '{metric.name}'", "give each metric its own 'name'")
        if isinstance(metric, Metric):
            self.base[metric.name] = metric
        else:
            self.derived[metric.name] = metric
        if len(self.base) + len(self.derived) > METRICS_MAX:
            raise InvalidQueryError(
                f"'metrics' and what they are made of are more than {METRICS_MAX}", "ask in several questions"
            )


def parse_metrics(value: object) -> Metrics:
    """Read `metrics` of a document.

    Raises:
        InvalidQueryError: an unknown key, a wrong type or value, a limit passed, a name that is missing or made of itself.
    """
    if value is None or value == []:
        raise InvalidQueryError("the query asks for nothing", "add 'metrics', or 'select' for raw rows")
    if not isinstance(value, list | tuple):
        raise InvalidQueryError(f"'metrics' is {shown(value)}", "write a list of objects")
    if len(value) > METRICS_MAX:
        raise InvalidQueryError(f"'metrics' has {len(value):,} entries", f"at most {METRICS_MAX} are possible")
    reading = _Reading()
    columns = tuple(_parse_entry(entry, f"metric {i + 1}", reading) for i, entry in enumerate(value))
    base = tuple(reading.base.values())
    alone = next((m for m in base if m.type in JOURNEYS), None)
    if alone is not None and len(base) + len(reading.derived) > 1:
        raise InvalidQueryError(
            f"metric '{alone.name}' is a {alone.type}, which has rows of its own", "ask for it alone, without others"
        )
    derived = ordered(tuple(reading.derived.values()), base)
    return Metrics(base, derived, columns if derived else ())


def _parse_entry(entry: object, where: str, reading: _Reading) -> str:
    """Read one metric with what it is made of; its name."""
    if not isinstance(entry, Mapping):
        raise InvalidQueryError(f"{where} is {shown(entry)}", 'write {"name": …, "type": …, "field": …}')
    text = entry.get("type")
    if not isinstance(text, str) or text not in _KEYS:
        raise InvalidQueryError(f"{where} has the type {shown(text)}", nearest(str(text), tuple(_KEYS)))
    for key in entry:
        if key not in _EVERY_KEY:
            raise InvalidQueryError(f"{where} has the unknown key {shown(key)}", nearest(str(key), _KEYS[text]))
    name = _name(entry, text, where)
    _refuse_foreign_keys(entry, text, f"metric '{name}'")
    if text in tuple(DerivedType):
        reading.add(_parse_derived(entry, name, reading))
    else:
        reading.add(_parse_base(entry, name))
    return name


def _name(entry: Mapping[str, Any], text: str, where: str) -> str:
    about = optional_text(entry, "field") or (entry["of"] if isinstance(entry.get("of"), str) else None)
    name = optional_text(entry, "name") or (f"{text}_{about}" if about else text)
    if len(name) > NAME_LENGTH_MAX:
        raise InvalidQueryError(f"the name of {where} has {len(name)} characters", f"use at most {NAME_LENGTH_MAX}")
    return name


def _refuse_foreign_keys(entry: Mapping[str, Any], text: str, where: str) -> None:
    for key in entry:
        if key not in _KEYS[text] and entry[key] is not None:
            owners = [kind for kind, keys in _KEYS.items() if key in keys]
            raise InvalidQueryError(
                f"{where} has '{key}', but its type is '{text}'", f"'{key}' belongs to {', '.join(owners[:8])}"
            )


def _parse_base(entry: Mapping[str, Any], name: str) -> Metric:
    text = str(entry["type"])
    kind = QueryMetricType.QUANTILE if text == "percentile" else QueryMetricType(text)
    where = f"metric '{name}'"
    metric = Metric(
        name=name,
        type=kind,
        field=optional_text(entry, "field"),
        q=_parse_rank(entry, text, where),
        k=10 if entry.get("k") is None else whole_number(entry["k"], f"{where} has 'k'", 1, TOP_MAX),
        exact=_parse_exact(entry, where),
        where=parse_where(entry.get("filters"), entry.get("where")),
    )
    match kind:
        case QueryMetricType.THETA:
            metric = parse_sets(entry, metric)
        case QueryMetricType.FUNNEL:
            metric = replace(metric, journey=parse_funnel(entry, where))
        case QueryMetricType.RETENTION:
            metric = replace(metric, journey=parse_retention(entry, where))
        case QueryMetricType.TOP if entry.get("by") is not None:
            metric = replace(metric, by=_parse_by(entry["by"], metric))
    if metric.field is None and kind is not QueryMetricType.COUNT:
        raise InvalidQueryError(f"{where} of type '{text}' has no 'field'", "name the field to take it of")
    if metric.field is not None:
        parse_path(metric.field)
    return metric


def _parse_by(entry: object, top: Metric) -> Metric | None:
    """The metric that a `top` ranks by; its name, else its type, names the number in the answer's lists."""
    where = f"'by' of metric '{top.name}'"
    if not isinstance(entry, Mapping):
        raise InvalidQueryError(f"{where} is {shown(entry)}", 'write {"type": "sum", "field": …}')
    reading = _Reading()
    name = _parse_entry({**entry, "name": entry.get("name") or entry.get("type")}, where, reading)
    metric = reading.base.get(name)
    if metric is None or metric.type not in _RANKING:
        raise InvalidQueryError(f"{where} has the type '{entry['type']}'", f"rank by {', '.join(_RANKING)}")
    if name == "value":
        raise InvalidQueryError(f"{where} is called 'value', as the values themselves are", "give it another 'name'")
    if top.exact:
        metric = replace(metric, exact=True)
    plain = metric.type is _T.COUNT and metric.field is None and metric.where is None and name == "count"
    return None if plain else metric


_RANKING = (_T.COUNT, _T.SUM, _T.AVG, _T.MIN, _T.MAX, _T.QUANTILE, _T.UNIQUE, _T.THETA)


def _parse_derived(entry: Mapping[str, Any], name: str, reading: _Reading) -> Derived:
    kind, where = DerivedType(str(entry["type"])), f"metric '{name}'"
    given = entry.get("of")
    parts = list(given) if isinstance(given, list | tuple) else [given]
    low, high = {_D.RATIO: (2, 2), _D.ARITHMETIC: (2, OPERANDS_MAX)}.get(kind, (1, 1))
    if given is None or not low <= len(parts) <= high:
        many = "one metric" if high == 1 else "two metrics" if high == 2 else f"{low} to {high} metrics or numbers"
        raise InvalidQueryError(f"{where} of type '{kind}' has 'of' {shown(given)}", f"'of' takes {many}, by name")
    of = tuple(_operand(p, i, name, kind, reading) for i, p in enumerate(parts))
    return Derived(name, kind, of, _parse_operation(entry, kind, where), *_parse_axis(entry, kind, where))


def _operand(part: object, index: int, name: str, kind: DerivedType, reading: _Reading) -> str | float:
    where = f"'of' of metric '{name}'"
    if isinstance(part, str) and part:
        return part
    if isinstance(part, Mapping):
        return _parse_entry({**part, "name": f"{name}.of.{index}"}, where, reading)
    if kind is _D.ARITHMETIC and isinstance(part, int | float) and not isinstance(part, bool) and abs(part) < 2**63:
        return float(part)
    hint = "name a metric of the question, or write one" + (", or a number" if kind is _D.ARITHMETIC else "")
    raise InvalidQueryError(f"{where} contains {shown(part)}", hint)


def _parse_operation(entry: Mapping[str, Any], kind: DerivedType, where: str) -> str:
    if kind is not _D.ARITHMETIC:
        return ""
    op = entry.get("op")
    if not isinstance(op, str) or op not in OPERATIONS:
        raise InvalidQueryError(f"{where} has the 'op' {shown(op)}", nearest(str(op), OPERATIONS))
    return op


def _parse_axis(entry: Mapping[str, Any], kind: DerivedType, where: str) -> tuple[int, int]:
    """Steps of a moving average, and the unit of time of a rate."""
    if kind is _D.MOVING_AVG:
        return whole_number(entry.get("window"), f"{where} has the 'window'", 2, WINDOW_STEPS_MAX), 0
    if kind is not _D.RATE:
        return 0, 0
    per = entry.get("per", "second")
    if not isinstance(per, str) or per not in PER_MS:
        raise InvalidQueryError(f"{where} has 'per' {shown(per)}", nearest(str(per), tuple(PER_MS)))
    return 0, PER_MS[per]


def _parse_rank(entry: Mapping[str, Any], text: str, where: str) -> float:
    if entry.get("q") is not None and entry.get("percentile") is not None:
        raise InvalidQueryError(f"{where} has both 'q' and 'percentile'", "give one of them")
    key, high = ("percentile", 100) if entry.get("percentile") is not None else ("q", 1)
    value = entry.get(key)
    if value is None:
        if text == "percentile":
            raise InvalidQueryError(f"{where} has no 'percentile'", "add it, 0 to 100")
        if text == "quantile":
            raise InvalidQueryError(f"{where} has no 'q'", "add it, 0 to 1: 0.95 for the 95th percentile")
        return 0.5
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
        raise InvalidQueryError(f"{where} has '{key}' {shown(value)}", f"it can be 0 to {high}")
    return value / high


def _parse_exact(entry: Mapping[str, Any], where: str) -> bool:
    value = entry.get("exact")
    if value is not None and not isinstance(value, bool):
        raise InvalidQueryError(f"{where} has 'exact' {shown(value)}", "it is true or false")
    return bool(value)
