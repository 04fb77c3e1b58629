"""Functions of sketches. Between two steps of a query a sketch is the values that it stands for, so estimates are exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqlglot import exp

from rta.errors import InvalidQueryError
from rta.query.druidsql.kinds import BIGINT, DOUBLE, VARCHAR, Base, Kind
from rta.query.druidsql.special import counted
from rta.query.druidsql.typed import Typed

if TYPE_CHECKING:
    from rta.query.druidsql.translator import Translator

Nodes = Sequence[exp.Expr]
_Handler = Callable[["Translator", Nodes], Typed]


def _sketch(translator: Translator, node: exp.Expr, base: Base, word: str) -> Typed:
    value = translator.translate(node)
    if value.kind.base is not base:
        raise InvalidQueryError(
            f"{word} takes a {base}, not a {value.kind.base}", "use DS_HLL, DS_THETA or DS_QUANTILES_SKETCH"
        )
    return value


def _fraction(translator: Translator, node: exp.Expr, word: str) -> float:
    from rta.query.druidsql.translator import literal_number

    return float(literal_number(translator, node, f"the number of {word}"))


def _estimate(word: str, base: Base) -> _Handler:
    def handler(translator: Translator, nodes: Nodes) -> Typed:
        counted(word, nodes, 1, 2)
        value = _sketch(translator, nodes[0], base, word)
        rounds = len(nodes) == 2 and translator.translate(nodes[1]).sql == "TRUE"
        return Typed(f"CAST(len({value.sql}) AS {'BIGINT' if rounds else 'DOUBLE'})", BIGINT if rounds else DOUBLE)

    return handler


def _combined(word: str, base: Base) -> _Handler:
    def handler(translator: Translator, nodes: Nodes) -> Typed:
        values = [v for v in translator.texts(nodes) if v.number is None and v.text is None]
        if len(values) < 2 or any(v.kind.base is not base for v in values):
            raise InvalidQueryError(f"{word} takes two or more of {base}", "make them with DS_HLL or DS_THETA")
        sql = values[0].sql
        for value in values[1:]:
            if word.endswith("UNION"):
                sql = f"list_distinct(list_concat({sql}, {value.sql}))"
            elif word.endswith("INTERSECT"):
                sql = f"list_intersect({sql}, {value.sql})"
            else:
                sql = _difference(sql, value.sql)
        return Typed(sql, Kind(base))

    return handler


def _difference(left: str, right: str) -> str:
    """By a map, which is looked up faster than a list."""
    marks = f"map_from_entries(list_transform({right}, lambda _e: {{'k': _e, 'v': TRUE}}))"
    return f"list_filter({left}, lambda _f: NOT map_contains({marks}, _f))"


def _quantile(translator: Translator, nodes: Nodes) -> Typed:
    counted("DS_GET_QUANTILE", nodes, 2, 2)
    value = _sketch(translator, nodes[0], Base.QUANTILES, "DS_GET_QUANTILE")
    fraction = _fraction(translator, nodes[1], "DS_GET_QUANTILE")
    return Typed(_quantile_of(value.sql, fraction), DOUBLE)


def _quantile_of(sketch: str, fraction: float) -> str:
    if not 0 <= fraction <= 1:
        raise InvalidQueryError(f"the fraction of a quantile is {fraction}", "use a number from 0 to 1")
    return f"list_aggregate({sketch}, 'quantile_disc', {fraction!r})"


def _several(word: str, one: Callable[[str, float], str]) -> _Handler:
    """A text with an array of numbers, one for each argument, and of bins one more."""

    def handler(translator: Translator, nodes: Nodes) -> Typed:
        counted(word, nodes, 2, None)
        value = _sketch(translator, nodes[0], Base.QUANTILES, word)
        points = [_fraction(translator, node, word) for node in nodes[1:]]
        parts = [one(value.sql, point) for point in points]
        if word == "DS_CDF":
            parts.append("1.0e0")
        return Typed(f"CAST(to_json([{', '.join(parts)}]) AS VARCHAR)", VARCHAR)

    return handler


def _rank_of(sketch: str, point: float) -> str:
    below = f"len(list_filter({sketch}, lambda _e: _e < {point!r}))"
    return f"(CAST({below} AS DOUBLE) / nullif(len({sketch}), 0))"


def _rank(translator: Translator, nodes: Nodes) -> Typed:
    counted("DS_RANK", nodes, 2, 2)
    value = _sketch(translator, nodes[0], Base.QUANTILES, "DS_RANK")
    return Typed(_rank_of(value.sql, _fraction(translator, nodes[1], "DS_RANK")), DOUBLE)


def _histogram(translator: Translator, nodes: Nodes) -> Typed:
    counted("DS_HISTOGRAM", nodes, 2, None)
    value = _sketch(translator, nodes[0], Base.QUANTILES, "DS_HISTOGRAM").sql
    points = [_fraction(translator, node, "DS_HISTOGRAM") for node in nodes[1:]]
    below = [f"len(list_filter({value}, lambda _e: _e < {p!r}))" for p in points]
    bins = [
        f"CAST({high} - {low} AS DOUBLE)" for low, high in zip(["0", *below], [*below, f"len({value})"], strict=True)
    ]
    return Typed(f"CAST(to_json([{', '.join(bins)}]) AS VARCHAR)", VARCHAR)


SKETCHES: dict[str, _Handler] = {
    "HLL_SKETCH_ESTIMATE": _estimate("HLL_SKETCH_ESTIMATE", Base.DISTINCT),
    "HLL_SKETCH_UNION": _combined("HLL_SKETCH_UNION", Base.DISTINCT),
    "THETA_SKETCH_ESTIMATE": _estimate("THETA_SKETCH_ESTIMATE", Base.THETA),
    "THETA_SKETCH_UNION": _combined("THETA_SKETCH_UNION", Base.THETA),
    "THETA_SKETCH_INTERSECT": _combined("THETA_SKETCH_INTERSECT", Base.THETA),
    "THETA_SKETCH_NOT": _combined("THETA_SKETCH_NOT", Base.THETA),
    "DS_GET_QUANTILE": _quantile,
    "DS_GET_QUANTILES": _several("DS_GET_QUANTILES", _quantile_of),
    "DS_CDF": _several("DS_CDF", _rank_of),
    "DS_RANK": _rank,
    "DS_HISTOGRAM": _histogram,
}
