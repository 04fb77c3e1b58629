"""Expressions of Druid SQL → DuckDB's text with a type: columns, literals, operators, CASE and CAST; calls by their registers.

Owns what operators mean for each pair of types: whole numbers divide to whole numbers, texts compare with numbers as numbers
and with times as times, and a multi-value string is true where any of its values is. Aggregates are in
`rta.query.druidsql.aggregates`, other functions in `rules` and `special`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sqlglot import exp

from rta.errors import InvalidQueryError
from rta.query.druidsql import periods
from rta.query.druidsql.compare import compared, contains_any, equal_type
from rta.query.druidsql.context import Context
from rta.query.druidsql.kinds import BIGINT, BOOLEAN, DOUBLE, JSON, VARCHAR, Base, Kind, common
from rta.query.druidsql.scope import Scope
from rta.query.druidsql.typed import (
    NULL_VALUE,
    Typed,
    as_boolean,
    as_double,
    as_long,
    as_text,
    as_time,
    boolean,
    cast,
    double,
    instant,
    long,
    string,
)

if TYPE_CHECKING:
    from sqlglot.expressions import DataType

LONG_MAX = 2**63 - 1
_TYPES = {
    "VARCHAR": Base.VARCHAR, "CHAR": Base.VARCHAR, "TEXT": Base.VARCHAR, "NCHAR": Base.VARCHAR, "NVARCHAR": Base.VARCHAR,
    "BIGINT": Base.BIGINT, "INT": Base.BIGINT, "SMALLINT": Base.BIGINT, "TINYINT": Base.BIGINT,
    "DOUBLE": Base.DOUBLE, "FLOAT": Base.DOUBLE, "DECIMAL": Base.DOUBLE,
    "BOOLEAN": Base.BOOLEAN, "TIMESTAMP": Base.TIMESTAMP, "DATE": Base.DATE,
}  # fmt: skip


class Subqueries(Protocol):
    """Translates a query that stands inside an expression."""

    estimates: bool
    estimated: bool

    def subquery(self, query: exp.Expr, outer: Scope) -> tuple[str, list[Kind]]: ...


class Translator:
    """Expressions of one SELECT.

    Args:
        names: Expressions that a plain name means before a column does: the aliases of HAVING and ORDER BY.
        exploded: Expressions that stand for one value of a multi-value string each, by DuckDB's text of the whole.
    """

    def __init__(self, scope: Scope, context: Context, now_ms: int, queries: Subqueries) -> None:
        self.scope = scope
        self.context = context
        self.now_ms = now_ms
        self.queries = queries
        self.names: dict[str, Typed] = {}
        self.exploded: dict[str, Typed] = {}
        self.in_aggregate = False
        # An aggregate with OVER is about groups: its argument may be an aggregate of their rows.
        self.windowed = False

    @property
    def zone(self) -> str:
        return self.context.zone

    def translate(self, node: exp.Expr) -> Typed:
        """Raises InvalidQueryError that names what has no meaning here."""
        found = self._translated(node)
        return self.exploded.get(found.sql, found) if self.exploded else found

    def _translated(self, node: exp.Expr) -> Typed:
        handler = _NODES.get(type(node))
        if handler is None:
            raise InvalidQueryError(f"'{node.sql(dialect='druid')[:100]}' is not supported", "write it in another way")
        return handler(self, node)

    def condition(self, node: exp.Expr) -> str:
        return as_boolean(self.translate(node), self.zone).sql

    def texts(self, nodes: Sequence[exp.Expr]) -> list[Typed]:
        return [self.translate(node) for node in nodes]


def literal_text(node: exp.Expr, what: str) -> str:
    """The string that a literal holds. Raises InvalidQueryError for anything else."""
    if isinstance(node, exp.Literal) and node.is_string:
        return str(node.this)
    raise InvalidQueryError(f"{what} has to be a text in quotes, not '{node.sql(dialect='druid')[:64]}'")


def literal_number(translator: Translator, node: exp.Expr, what: str) -> float | int:
    found = translator.translate(node)
    if found.number is None:
        raise InvalidQueryError(f"{what} has to be a number, not '{node.sql(dialect='druid')[:64]}'")
    return found.number


def type_of(data_type: DataType) -> Kind:
    """Of a type's name in CAST."""
    name = data_type.this.name
    if name == "ARRAY" and data_type.expressions:
        return type_of(data_type.expressions[0]).as_array
    if name not in _TYPES:
        raise InvalidQueryError(
            f"no type '{data_type.sql()[:64]}'", "use VARCHAR, BIGINT, DOUBLE, BOOLEAN, TIMESTAMP or DATE"
        )
    return Kind(_TYPES[name])


def _literal(translator: Translator, node: exp.Literal) -> Typed:
    del translator
    if node.is_string:
        return string(node.this)
    text = str(node.this)
    if text.isdigit():
        value = int(text)
        return long(value) if value <= LONG_MAX else double(float(value))
    return double(float(text))


def _column(translator: Translator, node: exp.Column) -> Typed:
    table = node.table or None
    if table is None and not translator.in_aggregate and node.name in translator.names:
        return translator.names[node.name]
    if table is None and not node.this.quoted and node.name.upper() in ("LOCALTIMESTAMP", "PI"):
        return Typed("pi()", DOUBLE) if node.name.upper() == "PI" else instant(translator.now_ms)
    return translator.scope.column(node.name, table)


def _interval(translator: Translator, node: exp.Interval) -> Typed:
    from rta.query.druidsql.intervals import interval_period

    return periods.interval(interval_period(translator, node))


def _negated(translator: Translator, node: exp.Neg) -> Typed:
    value = translator.translate(node.this)
    if value.number is not None:
        return long(-value.number) if isinstance(value.number, int) else double(-value.number)
    if value.kind.base is Base.INTERVAL:
        return periods.interval(periods.period_of(value).times(-1))
    value = _number(value, translator.zone)
    return Typed(f"(-{value.sql})", value.kind)


def _number(value: Typed, zone: str) -> Typed:
    """As arithmetic reads it: texts as doubles, truth values as longs."""
    if value.kind.is_number or value.is_null:
        return value
    if value.kind.base is Base.BOOLEAN:
        return as_long(value, zone)
    if value.kind.is_time or value.kind.is_list or value.kind.is_sketch:
        raise InvalidQueryError(
            f"cannot calculate with a {value.kind.base}", "use TIMESTAMPDIFF, TIME_SHIFT or an estimate"
        )
    return as_double(value, zone)


def _arithmetic(translator: Translator, node: exp.Binary) -> Typed:
    left, right = translator.translate(node.this), translator.translate(node.expression)
    if right.kind.base is Base.INTERVAL or left.kind.base is Base.INTERVAL:
        return _moved(translator, node, left, right)
    left, right = _number(left, translator.zone), _number(right, translator.zone)
    if left.is_null or right.is_null:
        return NULL_VALUE
    kind = BIGINT if left.kind.base is right.kind.base is Base.BIGINT else DOUBLE
    whole = kind is BIGINT
    match node:
        case exp.Div() if whole:
            return Typed(f"({left.sql} // nullif({right.sql}, 0))", kind)
        case exp.Mod():
            return Typed(f"({left.sql} % nullif({right.sql}, 0))", kind)
    sign = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/"}[type(node)]
    if not whole:
        left, right = as_double(left, translator.zone), as_double(right, translator.zone)
    return Typed(f"({left.sql} {sign} {right.sql})", kind)


def _moved(translator: Translator, node: exp.Binary, left: Typed, right: Typed) -> Typed:
    """A time and an interval."""
    if left.kind.base is Base.INTERVAL:
        left, right = right, left
    if (right.kind.base is Base.INTERVAL and left.kind.base is Base.INTERVAL) or isinstance(node, exp.Div | exp.Mod):
        raise InvalidQueryError("intervals can only be added to times and multiplied", "use TIMESTAMPADD")
    period = periods.period_of(right)
    if isinstance(node, exp.Mul):
        if left.number is None or not isinstance(left.number, int):
            raise InvalidQueryError("an interval can only be multiplied with a whole number", "use TIMESTAMPADD")
        return periods.interval(period.times(left.number))
    return periods.shift(left, period, -1 if isinstance(node, exp.Sub) else 1, translator.zone)


def _concatenated(translator: Translator, node: exp.DPipe) -> Typed:
    parts = [as_text(translator.translate(n), translator.zone) for n in (node.this, node.expression)]
    return Typed(f"({parts[0].sql} || {parts[1].sql})", VARCHAR)


_SIGNS = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM", exp.NullSafeNEQ: "IS DISTINCT FROM",
}  # fmt: skip


def _comparison(translator: Translator, node: exp.Binary) -> Typed:
    left, right = translator.translate(node.this), translator.translate(node.expression)
    return compared(_SIGNS[type(node)], left, right, translator.zone)


def _between(translator: Translator, node: exp.Between) -> Typed:
    value, low, high = translator.texts([node.this, node.args["low"], node.args["high"]])
    if value.kind.multi:
        both = [compared(sign, Typed("_e", VARCHAR), b, translator.zone).sql for sign, b in ((">=", low), ("<=", high))]
        return contains_any(value, f"{both[0]} AND {both[1]}")
    first = compared(">=", value, low, translator.zone)
    return Typed(f"({first.sql} AND {compared('<=', value, high, translator.zone).sql})", BOOLEAN)


def _in(translator: Translator, node: exp.In) -> Typed:
    if isinstance(node.this, exp.Tuple):
        return _in_rows(translator, node)
    value = translator.translate(node.this)
    query = node.args.get("query")
    if query is not None:
        text, kinds = translator.queries.subquery(query, translator.scope)
        if len(kinds) != 1:
            raise InvalidQueryError(f"the subquery of IN has {len(kinds)} columns", "select one")
        if value.kind.multi:
            return contains_any(value, f"_e IN ({text})")
        fitting = equal_type(value, Typed("", kinds[0]), translator.zone)[0]
        return Typed(f"({fitting.sql} IN ({text}))", BOOLEAN)
    choices = translator.texts(node.expressions)
    if value.kind.multi:
        texts = [as_text(c, translator.zone).sql for c in choices if not c.is_null]
        return contains_any(value, f"_e IN ({', '.join(texts)})") if texts else boolean(False)
    pairs = [equal_type(value, choice, translator.zone) for choice in choices]
    if len({p[0].sql for p in pairs}) == 1:
        return Typed(f"({pairs[0][0].sql} IN ({', '.join(p[1].sql for p in pairs)}))", BOOLEAN)
    return Typed("(" + " OR ".join(f"{p[0].sql} = {p[1].sql}" for p in pairs) + ")", BOOLEAN)


def _in_rows(translator: Translator, node: exp.In) -> Typed:
    """`(a, b) IN ((1, 2), …)`."""
    rows = [row for row in node.expressions if isinstance(row, exp.Tuple)]
    if len(rows) != len(node.expressions) or any(len(r.expressions) != len(node.this.expressions) for r in rows):
        raise InvalidQueryError(
            "the rows of IN differ in their number of values", "give each row as many as the left side"
        )
    either = []
    for row in rows:
        pairs = zip(node.this.expressions, row.expressions, strict=True)
        either.append(" AND ".join(_comparison(translator, exp.EQ(this=a, expression=b)).sql for a, b in pairs))
    return Typed("(" + " OR ".join(f"({e})" for e in either) + ")", BOOLEAN)


def _like(translator: Translator, node: exp.Expr) -> Typed:
    escape = ""
    if isinstance(node, exp.Escape):
        escape = f" ESCAPE {as_text(translator.translate(node.expression), translator.zone).sql}"
        node = node.this
    if not isinstance(node, exp.Like):
        raise InvalidQueryError("ESCAPE stands behind LIKE only")
    value, pattern = translator.translate(node.this), as_text(translator.translate(node.expression), translator.zone)
    if value.kind.multi:
        found = contains_any(value, f"_e LIKE {pattern.sql}{escape}")
    else:
        found = Typed(f"({as_text(value, translator.zone).sql} LIKE {pattern.sql}{escape})", BOOLEAN)
    return Typed(f"(NOT {found.sql})", BOOLEAN) if node.args.get("negate") else found


def _is(translator: Translator, node: exp.Is) -> Typed:
    value = translator.translate(node.this)
    wanted = node.expression
    if isinstance(wanted, exp.Boolean):
        return Typed(f"({as_boolean(value, translator.zone).sql} IS {'TRUE' if wanted.this else 'FALSE'})", BOOLEAN)
    if not isinstance(wanted, exp.Null):
        raise InvalidQueryError(f"IS {wanted.sql()[:32]} is not supported", "use IS NULL, IS TRUE or IS FALSE")
    if value.kind.multi:
        return Typed(f"(coalesce(len({value.sql}), 0) = 0)", BOOLEAN)
    return Typed(f"({value.sql} IS NULL)", BOOLEAN)


def _not(translator: Translator, node: exp.Not) -> Typed:
    return Typed(f"(NOT {translator.condition(node.this)})", BOOLEAN)


def _connected(translator: Translator, node: exp.Connector) -> Typed:
    """Chains are flattened: they may be long."""
    sign = " AND " if isinstance(node, exp.And) else " OR "
    parts = [translator.condition(part) for part in node.flatten()]
    return Typed(f"({sign.join(parts)})", BOOLEAN)


def _case(translator: Translator, node: exp.Case) -> Typed:
    subject = None if node.this is None else translator.translate(node.this)
    branches: list[tuple[str, Typed]] = []
    for branch in node.args["ifs"]:
        if subject is None:
            when = translator.condition(branch.this)
        else:
            when = compared("=", subject, translator.translate(branch.this), translator.zone).sql
        branches.append((when, translator.translate(branch.args["true"])))
    default = node.args.get("default")
    otherwise = NULL_VALUE if default is None else translator.translate(default)
    values, kind = unified([*(b[1] for b in branches), otherwise], translator.zone)
    whens = " ".join(f"WHEN {w} THEN {v.sql}" for (w, _), v in zip(branches, values, strict=False))
    return Typed(f"(CASE {whens} ELSE {values[-1].sql} END)", kind)


def unified(values: list[Typed], zone: str) -> tuple[list[Typed], Kind]:
    """The values in the type that they have in common."""
    kind = common([v.kind for v in values])
    if kind.base is Base.VARCHAR and not kind.is_list:
        return [as_text(v, zone) for v in values], kind
    if kind.base is Base.DOUBLE:
        return [v if v.is_null else as_double(v, zone) for v in values], kind
    if kind.base is Base.BIGINT and not kind.is_list:
        return [v if v.is_null else as_long(v, zone) for v in values], kind
    return values, kind


def _cast(translator: Translator, node: exp.Cast) -> Typed:
    kind = type_of(node.to)
    if isinstance(node.this, exp.Literal) and node.this.is_string and kind.is_time:
        value = string(node.this.this)
        found = cast(value, kind, translator.zone)
        if found.ms is None:
            raise InvalidQueryError(f"'{node.this.this[:64]}' is not a {kind.base}", "write it as 2000-01-31 00:00:00")
        return found
    value = translator.translate(node.this)
    if value.kind.multi and kind.base is Base.VARCHAR and not kind.array:
        return value
    return cast(value, kind, translator.zone)


def _scalar_query(translator: Translator, node: exp.Subquery) -> Typed:
    text, kinds = translator.queries.subquery(node.this, translator.scope)
    if len(kinds) != 1:
        raise InvalidQueryError(f"a subquery that stands for a value has {len(kinds)} columns", "select one")
    return Typed(f"({text})", kinds[0])


def _exists(translator: Translator, node: exp.Exists) -> Typed:
    text, _ = translator.queries.subquery(node.this, translator.scope)
    return Typed(f"EXISTS ({text})", BOOLEAN)


def _array(translator: Translator, node: exp.Array) -> Typed:
    values, kind = unified(translator.texts(node.expressions), translator.zone)
    element = Kind(Base.VARCHAR) if kind.base is Base.NULL else kind
    return Typed(f"[{', '.join(v.sql for v in values)}]", element.as_array)


def _bracket(translator: Translator, node: exp.Bracket) -> Typed:
    value = translator.translate(node.this)
    if not value.kind.is_list or len(node.expressions) != 1:
        raise InvalidQueryError("only arrays have elements", "use ARRAY_ORDINAL")
    index = as_long(translator.translate(node.expressions[0]), translator.zone)
    offset = node.args.get("offset") or 0
    at = f"({index.sql} + {1 - offset})" if offset != 1 else index.sql
    return Typed(f"list_extract({value.sql}, {at})", value.kind.element)


def _call(translator: Translator, node: exp.Anonymous) -> Typed:
    from rta.query.druidsql.calls import call

    return call(translator, str(node.this), node.expressions)


def _rounded(translator: Translator, node: exp.Expr) -> Typed:
    from rta.query.druidsql.calls import call

    word = "FLOOR" if isinstance(node, exp.Floor) else "CEIL"
    unit = node.args.get("to")
    if unit is None:
        return call(translator, word, [node.this])
    rounding = periods.floor if word == "FLOOR" else periods.ceil
    value = as_time(translator.translate(node.this), translator.zone)
    return rounding(value, periods.unit_period(unit.name), None, translator.zone)


def _extract(translator: Translator, node: exp.Extract) -> Typed:
    from rta.query.druidsql.special import extracted

    return extracted(as_time(translator.translate(node.expression), translator.zone), node.this.name, translator.zone)


def _trim(translator: Translator, node: exp.Trim) -> Typed:
    from rta.query.druidsql.calls import call

    word = {"LEADING": "LTRIM", "TRAILING": "RTRIM"}.get(str(node.args.get("position") or "").upper(), "BTRIM")
    return call(translator, word, [n for n in (node.this, node.expression) if n is not None])


def _json_object(translator: Translator, node: exp.JSONObject) -> Typed:
    pairs = []
    for pair in node.expressions:
        key, value = as_text(translator.translate(pair.this), translator.zone), translator.translate(pair.expression)
        pairs += [key.sql, f"CAST({value.sql} AS JSON)" if value.kind.base is Base.JSON else value.sql]
    return Typed(f"CAST(json_object({', '.join(pairs)}) AS VARCHAR)", JSON)


def _aggregate(translator: Translator, node: exp.Expr) -> Typed:
    from rta.query.druidsql.aggregates import filtered

    return filtered(translator, node)


def _window(translator: Translator, node: exp.Window) -> Typed:
    from rta.query.druidsql.windows import window

    return window(translator, node)


def _date(translator: Translator, node: exp.Expr) -> Typed:
    del node
    return cast(instant(translator.now_ms), Kind(Base.DATE), translator.zone)


_NODES: dict[type, Callable[[Translator, Any], Typed]] = {
    exp.Literal: _literal,
    exp.Column: _column,
    exp.Null: lambda _, __: NULL_VALUE,
    exp.Boolean: lambda _, node: boolean(bool(node.this)),
    exp.Paren: lambda translator, node: translator.translate(node.this),
    exp.Interval: _interval,
    exp.Neg: _negated,
    **dict.fromkeys((exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod), _arithmetic),
    exp.DPipe: _concatenated,
    **dict.fromkeys(_SIGNS, _comparison),
    exp.Between: _between,
    exp.In: _in,
    exp.Like: _like,
    exp.Escape: _like,
    exp.Is: _is,
    exp.Not: _not,
    exp.And: _connected,
    exp.Or: _connected,
    exp.Case: _case,
    exp.Cast: _cast,
    exp.TryCast: _cast,
    exp.Subquery: _scalar_query,
    exp.Exists: _exists,
    exp.Array: _array,
    exp.Bracket: _bracket,
    exp.Anonymous: _call,
    exp.Floor: _rounded,
    exp.Ceil: _rounded,
    exp.Extract: _extract,
    exp.Trim: _trim,
    exp.JSONObject: _json_object,
    exp.Filter: _aggregate,
    exp.Window: _window,
    exp.CurrentTimestamp: lambda translator, _: instant(translator.now_ms),
    exp.CurrentDate: _date,
}
