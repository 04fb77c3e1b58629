"""A question as a native Druid query and as Druid SQL, and their answers as rows of the oracle.

Druid estimates uniques and quantiles, so these are compared within a bound; everything else is exact.
"""

from __future__ import annotations

from typing import Any

from rta.query.periods import parse_instant_ms
from tests.differential.questions import Check, Measure, Question, Row, Tree, condition, iso, ordered

PERIODS = {"minute": "PT1M", "5m": "PT5M", "hour": "PT1H", "day": "P1D", "week": "P1W", "month": "P1M"}


def native(question: Question) -> dict[str, Any]:
    """A `groupBy`."""
    step: Any = "all"
    if question.step != "all":
        step = {"type": "period", "period": PERIODS[question.step], "timeZone": question.zone}
    found: dict[str, Any] = {
        "queryType": "groupBy",
        "dataSource": "shop",
        "intervals": [question.interval],
        "granularity": step,
        "dimensions": list(question.group_by),
        "aggregations": [_aggregator(m) for m in question.measures],
        "postAggregations": [
            {
                "type": "quantilesDoublesSketchToQuantile",
                "name": m.name,
                "fraction": m.q,
                "field": {"type": "fieldAccess", "fieldName": f"{m.name} sketch"},
            }
            for m in question.measures
            if m.kind == "quantile"
        ],
    }
    if question.where is not None:
        found["filter"] = _filter(question.where)
    return found


def _aggregator(measure: Measure) -> dict[str, Any]:
    name, field = measure.name, measure.field
    match measure.kind:
        case "count":
            return {"type": "count", "name": name}
        case "unique":
            return {"type": "cardinality", "name": name, "fields": [field], "round": True}
        case "quantile":
            return {"type": "quantilesDoublesSketch", "name": f"{name} sketch", "fieldName": field, "k": 4096}
        case "avg":
            return {"type": "doubleMean", "name": name, "fieldName": field}
        case kind:
            return {
                "type": f"{'long' if field == 'n' else 'double'}{kind.capitalize()}",
                "name": name,
                "fieldName": field,
            }


def _filter(part: Tree | Check) -> dict[str, Any]:
    if isinstance(part, Tree):
        inner = [_filter(each) for each in part.parts]
        return {"type": "not", "field": inner[0]} if part.op == "not" else {"type": part.op, "fields": inner}
    field, values = part.field, [str(v).lower() if isinstance(v, bool) else v for v in part.values]
    match part.op:
        case "null":
            return {"type": "null", "column": field}
        case "in":
            return {"type": "in", "dimension": field, "values": values}
        case "like":
            return {"type": "like", "dimension": field, "pattern": values[0]}
        case "eq":
            return {"type": "selector", "dimension": field, "value": str(values[0])}
        case op:
            # Not `bound`, to which a null lies below everything.
            edge = {"upper": values[0], "upperOpen": True} if op == "lt" else {"lower": values[0]}
            kind = "LONG" if field == "n" else "STRING"
            return {"type": "range", "column": field, "matchValueType": kind, **edge}


def rows_of_native(question: Question, answer: list[dict[str, Any]]) -> list[Row]:
    names = [*question.group_by, *(m.name for m in question.measures)]
    step = question.step != "all"
    return ordered(
        [
            ((parse_instant_ms(r["timestamp"]),) if step else ()) + tuple(_plain(r["event"][name]) for name in names)
            for r in answer
        ]
    )


def sql(question: Question) -> str:
    """In Druid's dialect."""
    keys = [f'"{name}"' for name in question.group_by]
    if question.step != "all":
        keys.insert(0, f"TIME_FLOOR(__time, '{PERIODS[question.step]}', NULL, '{question.zone}')")
    start, end = (iso(ms).replace("T", " ").removesuffix("Z") for ms in (question.start_ms, question.end_ms))
    where = f"__time >= TIMESTAMP '{start}' AND __time < TIMESTAMP '{end}'"
    where += f" AND ({condition(question.where)})" if question.where is not None else ""
    chosen = ", ".join([*keys, *(f'{_sql_measure(m)} AS "{m.name}"' for m in question.measures)])
    places = ", ".join(str(i + 1) for i in range(len(keys)))
    return f'SELECT {chosen} FROM "shop" WHERE {where}' + (f" GROUP BY {places}" if keys else "")


def _sql_measure(measure: Measure) -> str:
    match measure.kind:
        case "count":
            return "COUNT(*)"
        case "unique":
            return f'COUNT(DISTINCT "{measure.field}")'
        case "quantile":
            return f'APPROX_QUANTILE_DS("{measure.field}", {measure.q})'
        case kind:
            return f'{kind.upper()}("{measure.field}")'


def rows_of_sql(question: Question, answer: list[list[Any]]) -> list[Row]:
    """Of an answer in the format `array`, without headers."""
    step = question.step != "all"
    return ordered(
        [((parse_instant_ms(row[0]),) if step else ()) + tuple(map(_plain, row[1 if step else 0 :])) for row in answer]
    )


def _plain(value: Any) -> Any:
    """Druid knows truth values as texts, and calls the quantile of nothing no number."""
    return {"true": True, "false": False, "NaN": None}.get(value, value) if isinstance(value, str) else value
