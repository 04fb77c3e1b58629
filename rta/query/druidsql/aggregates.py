"""Aggregate functions, with FILTER, DISTINCT and the time that EARLIEST and LATEST go by.

What may be estimated is written in two ways: as an estimate for rollups, which hold sketches, and exactly for everything
else. The engine's own estimates err on small sets, where those of Druid do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlglot import exp

from rta.errors import InvalidQueryError
from rta.query.druidsql.kinds import BIGINT, DOUBLE, VARCHAR, Base, Kind
from rta.query.druidsql.typed import Typed, as_array, as_double, as_long, as_text, as_time, quoted

if TYPE_CHECKING:
    from rta.query.druidsql.translator import Translator

TIME = "__time"


@dataclass(frozen=True, slots=True)
class Call:
    """An aggregate's arguments. `where` is the condition of FILTER, `suffix` the clause; either may be empty."""

    word: str
    nodes: Sequence[exp.Expr]
    distinct: bool
    where: str
    translator: Translator

    @property
    def suffix(self) -> str:
        return f" FILTER (WHERE {self.where})" if self.where else ""

    def argument(self, index: int = 0) -> Typed:
        return self.translator.translate(self.nodes[index])

    def number(self, index: int) -> float | int:
        from rta.query.druidsql.translator import literal_number

        return literal_number(self.translator, self.nodes[index], f"argument {index + 1} of {self.word}")

    def count(self, low: int, high: int) -> None:
        if not low <= len(self.nodes) <= high:
            some = str(low) if low == high else f"{low} to {high}"
            raise InvalidQueryError(f"{self.word} has {len(self.nodes)} arguments", f"it takes {some}")


def filtered(translator: Translator, node: exp.Expr) -> Typed:
    """`aggregate(…) FILTER (WHERE …)`."""
    if not isinstance(node.this, exp.Anonymous) or str(node.this.this).upper() not in AGGREGATES:
        raise InvalidQueryError("FILTER stands behind an aggregate function only", "use CASE WHEN")
    return aggregate(translator, str(node.this.this).upper(), node.this.expressions, node.expression.this)


def aggregate(translator: Translator, word: str, nodes: Sequence[exp.Expr], where: exp.Expr | None) -> Typed:
    """Raises InvalidQueryError for arguments that the function does not take."""
    inside, windowed = translator.in_aggregate, translator.windowed
    if inside and not windowed:
        raise InvalidQueryError("Aggregate expressions cannot be nested", f"compute {word} in a subquery")
    translator.in_aggregate, translator.windowed = True, windowed and not inside
    try:
        condition = "" if where is None else translator.condition(where)
        distinct = len(nodes) > 0 and isinstance(nodes[0], exp.Distinct)
        if distinct:
            nodes = [*nodes[0].expressions, *nodes[1:]]
        return AGGREGATES[word](Call(word, nodes, distinct, condition, translator))
    finally:
        translator.in_aggregate, translator.windowed = inside, windowed


def _count(call: Call) -> Typed:
    if call.distinct:
        call.count(1, 1)
        return distinct_count(call, approximate=call.translator.context.approximate_distinct)
    call.count(0, 1)
    if not call.nodes or isinstance(call.nodes[0], exp.Star):
        return Typed(f"count(*){call.suffix}", BIGINT)
    value = call.argument()
    sql = f"nullif(len({value.sql}), 0)" if value.kind.multi else value.sql
    return Typed(f"count({sql}){call.suffix}", BIGINT)


def distinct_count(call: Call, *, approximate: bool) -> Typed:
    """Of a multi-value string each value counts."""
    value = call.argument()
    if value.kind.is_sketch:
        raise InvalidQueryError(
            "a sketch is counted by its own estimate", "use HLL_SKETCH_ESTIMATE or THETA_SKETCH_ESTIMATE"
        )
    if value.kind.multi:
        whole = f"list({value.sql}){call.suffix}"
        return Typed(f"coalesce(len(list_distinct(flatten({whole}))), 0)", BIGINT)
    if value.kind.is_time:
        value = Typed(f"epoch_ms({value.sql})", BIGINT)
    function = "approx_count_distinct(" if approximate and _estimates(call) else "count(DISTINCT "
    return Typed(f"{function}{value.sql}){call.suffix}", BIGINT)


def _estimates(call: Call) -> bool:
    """Notes that there is something to estimate, and says whether it shall be."""
    call.translator.queries.estimated = True
    return call.translator.queries.estimates


def _approximate(call: Call) -> Typed:
    call.count(1, 3)
    return distinct_count(call, approximate=True)


def _numeric(value: Typed, zone: str) -> Typed:
    if value.kind.is_number:
        return value
    return as_long(value, zone) if value.kind.base is Base.BOOLEAN else as_double(value, zone)


def _sum(call: Call) -> Typed:
    call.count(1, 1)
    value = _numeric(call.argument(), call.translator.zone)
    return Typed(f"sum({'DISTINCT ' if call.distinct else ''}{value.sql}){call.suffix}", value.kind)


def _average(call: Call) -> Typed:
    call.count(1, 1)
    value = _numeric(call.argument(), call.translator.zone)
    return Typed(f"avg({'DISTINCT ' if call.distinct else ''}{value.sql}){call.suffix}", DOUBLE)


def _extreme(call: Call) -> Typed:
    call.count(1, 1)
    value = call.argument()
    return Typed(f"{call.word.lower()}({value.sql}){call.suffix}", value.kind)


def _statistic(function: str) -> _Aggregate:
    def aggregated(call: Call) -> Typed:
        call.count(1, 1)
        return Typed(f"{function}({as_double(call.argument(), call.translator.zone).sql}){call.suffix}", DOUBLE)

    return aggregated


def _by_time(function: str, *, explicit: bool) -> _Aggregate:
    """EARLIEST and LATEST: the value, null too, of the row whose time is first or last."""

    def aggregated(call: Call) -> Typed:
        call.count(2 if explicit else 1, 3 if explicit else 2)
        value, zone = call.argument(), call.translator.zone
        at = as_time(call.argument(1), zone) if explicit else call.translator.scope.column(TIME, None)
        size = 2 if explicit else 1
        if len(call.nodes) > size:
            limit = int(call.number(size))
            value = Typed(f"left({as_text(value, zone).sql}, {limit})", VARCHAR)
        return Typed(f"{function}({value.sql}, epoch_ms({at.sql})){call.suffix}", value.kind)

    return aggregated


def _any_value(call: Call) -> Typed:
    call.count(1, 2)
    value = call.argument()
    return Typed(f"any_value({value.sql}){call.suffix}", value.kind)


def _collected(call: Call) -> Typed:
    call.count(1, 2)
    value = call.argument()
    order = f" ORDER BY {value.sql}" if call.distinct else ""
    word = "DISTINCT " if call.distinct else ""
    kind = value.kind.as_array if not value.kind.is_list else value.kind
    return Typed(f"list({word}{value.sql}{order}){call.suffix}", kind)


def _concatenated(call: Call) -> Typed:
    call.count(1, 2)
    value = as_array(call.argument(), call.translator.zone)
    whole = f"flatten(list({value.sql}){call.suffix})"
    return Typed(f"list_sort(list_distinct({whole}))" if call.distinct else whole, value.kind)


def _joined(call: Call) -> Typed:
    call.count(1, 3)
    separator = as_text(call.argument(1), call.translator.zone).text if len(call.nodes) > 1 else ""
    if separator is None:
        raise InvalidQueryError(f"the separator of {call.word} is no text in quotes")
    value = as_text(call.argument(), call.translator.zone)
    word = "DISTINCT " if call.distinct else ""
    return Typed(f"string_agg({word}{value.sql}, {quoted(separator)}){call.suffix}", VARCHAR)


def _quantile(call: Call) -> Typed:
    call.count(2, 3)
    fraction = call.number(1)
    if not 0 <= fraction <= 1:
        raise InvalidQueryError(f"the fraction of {call.word} is {fraction}", "use a number from 0 to 1")
    value = _numeric(call.argument(), call.translator.zone)
    function = "approx_quantile" if _estimates(call) else "quantile_disc"
    return Typed(f"{function}({value.sql}, {float(fraction)!r}){call.suffix}", DOUBLE)


def _bits(function: str) -> _Aggregate:
    def aggregated(call: Call) -> Typed:
        call.count(1, 1)
        return Typed(f"{function}({as_long(call.argument(), call.translator.zone).sql}){call.suffix}", BIGINT)

    return aggregated


def _grouping(call: Call) -> Typed:
    call.count(1, 63)
    values = [call.argument(i).sql for i in range(len(call.nodes))]
    return Typed(f"grouping({', '.join(values)})", BIGINT)


def _sketch(base: Base) -> _Aggregate:
    """Sketches between two steps of a query are the values that they stand for."""

    def aggregated(call: Call) -> Typed:
        call.count(1, 3)
        value, zone = call.argument(), call.translator.zone
        if value.kind.base is base:
            whole = f"flatten(list({value.sql}){call.suffix})"
            return Typed(whole if base is Base.QUANTILES else f"list_distinct({whole})", value.kind)
        if base is Base.QUANTILES:
            number = as_double(value, zone).sql
            there = " AND ".join(part for part in (f"{number} IS NOT NULL", call.where) if part)
            return Typed(f"coalesce(list({number}) FILTER (WHERE {there}), [])", Kind(base))
        text = as_text(value, zone).sql
        return Typed(f"coalesce(list_distinct(list({text}){call.suffix}), [])", Kind(base))

    return aggregated


_Aggregate = Callable[[Call], Typed]
AGGREGATES: dict[str, _Aggregate] = {
    "COUNT": _count,
    "SUM": _sum,
    "AVG": _average,
    "MIN": _extreme,
    "MAX": _extreme,
    **dict.fromkeys(
        (
            "APPROX_COUNT_DISTINCT",
            "APPROX_COUNT_DISTINCT_BUILTIN",
            "APPROX_COUNT_DISTINCT_DS_HLL",
            "APPROX_COUNT_DISTINCT_DS_THETA",
        ),
        _approximate,
    ),
    "APPROX_QUANTILE": _quantile,
    "APPROX_QUANTILE_DS": _quantile,
    **{
        word: _statistic(function)
        for word, function in (
            ("VAR_POP", "var_pop"),
            ("VAR_SAMP", "var_samp"),
            ("VARIANCE", "var_samp"),
            ("STDDEV_POP", "stddev_pop"),
            ("STDDEV_SAMP", "stddev_samp"),
            ("STDDEV", "stddev_samp"),
        )
    },
    "EARLIEST": _by_time("arg_min_null", explicit=False),
    "LATEST": _by_time("arg_max_null", explicit=False),
    "EARLIEST_BY": _by_time("arg_min_null", explicit=True),
    "LATEST_BY": _by_time("arg_max_null", explicit=True),
    "ANY_VALUE": _any_value,
    "ARRAY_AGG": _collected,
    "ARRAY_CONCAT_AGG": _concatenated,
    "STRING_AGG": _joined,
    "LISTAGG": _joined,
    "BIT_AND": _bits("bit_and"),
    "BIT_OR": _bits("bit_or"),
    "BIT_XOR": _bits("bit_xor"),
    "GROUPING": _grouping,
    "DS_QUANTILES_SKETCH": _sketch(Base.QUANTILES),
    "DS_HLL": _sketch(Base.DISTINCT),
    "DS_THETA": _sketch(Base.THETA),
}
