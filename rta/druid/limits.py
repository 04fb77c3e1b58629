"""What an answer is ordered by and how much of it is given: `limitSpec` of a groupBy, `metric` of a topN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rta.druid import reading
from rta.druid.ordering import Ordering, parse_ordering
from rta.druid.problems import InvalidInputError, unsupported


@dataclass(frozen=True, slots=True)
class OrderBy:
    name: str
    descending: bool = False
    ordering: Ordering = Ordering.LEXICOGRAPHIC


@dataclass(frozen=True, slots=True)
class LimitSpec:
    """None for no limit."""

    limit: int | None = None
    offset: int = 0
    columns: tuple[OrderBy, ...] = ()


@dataclass(frozen=True, slots=True)
class TopNMetric:
    """Ranked by a metric, or (`name` is None) by the dimension in an order, from `previous` on."""

    name: str | None
    ordering: Ordering = Ordering.LEXICOGRAPHIC
    inverted: bool = False
    previous: str | None = None


def parse_limit(value: Any) -> LimitSpec:
    """Raises InvalidInputError, UnsupportedError."""
    if value is None:
        return LimitSpec()
    doc = reading.document(value, "'limitSpec'")
    kind = reading.text_or(doc, "type", "default", "'limitSpec'")
    if kind == "NoopLimitSpec":
        return LimitSpec()
    if kind != "default":
        raise unsupported("the limitSpec", kind, "default")
    limit = None if doc.get("limit") is None else reading.whole(doc, "limit", "'limitSpec'")
    offset = reading.whole(doc, "offset", "'limitSpec'", 0)
    if (limit is not None and limit <= 0) or offset < 0:
        raise InvalidInputError(f"'limit' of 'limitSpec' is {limit} and 'offset' {offset}", "write positive numbers")
    return LimitSpec(limit, offset, tuple(_order_by(c) for c in reading.items(doc, "columns", "'limitSpec'")))


def _order_by(value: Any) -> OrderBy:
    if isinstance(value, str):
        return OrderBy(value)
    doc = reading.document(value, "a column of 'limitSpec'")
    direction = reading.text_or(doc, "direction", "ascending", "a column of 'limitSpec'").lower()
    if not direction or not ("ascending".startswith(direction) or "descending".startswith(direction)):
        raise InvalidInputError(f"'direction' in 'limitSpec' is '{direction[:20]}'", "ascending or descending")
    name = reading.text(doc, "dimension", "a column of 'limitSpec'")
    return OrderBy(name, direction.startswith("d"), parse_ordering(doc.get("dimensionOrder")))


def parse_metric(value: Any) -> TopNMetric:
    """Raises InvalidInputError, UnsupportedError."""
    if isinstance(value, str):
        return TopNMetric(value)
    doc = reading.document(value, "'metric'")
    kind = reading.kind(doc, "'metric'")
    previous = reading.scalar_text(doc.get("previousStop"), "'previousStop'")
    match kind:
        case "numeric":
            return TopNMetric(reading.text(doc, "metric", "'metric'"))
        case "inverted":
            inner = parse_metric(doc.get("metric"))
            return TopNMetric(inner.name, inner.ordering, not inner.inverted, inner.previous)
        case "dimension":
            return TopNMetric(None, parse_ordering(doc.get("ordering")), previous=previous)
        case "lexicographic" | "alphaNumeric":
            return TopNMetric(None, parse_ordering(kind), previous=previous)
        case _:
            raise unsupported("the metric", kind)
