"""Window functions: the call, its partition, its order and its frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from rta.errors import InvalidQueryError
from rta.query.druidsql.aggregates import AGGREGATES
from rta.query.druidsql.kinds import BIGINT, DOUBLE, Kind
from rta.query.druidsql.special import counted
from rta.query.druidsql.typed import Typed

if TYPE_CHECKING:
    from rta.query.druidsql.translator import Translator

_RANKS: dict[str, Kind] = {
    "ROW_NUMBER": BIGINT, "RANK": BIGINT, "DENSE_RANK": BIGINT, "PERCENT_RANK": DOUBLE, "CUME_DIST": DOUBLE,
}  # fmt: skip
_VALUES = ("LAG", "LEAD", "FIRST_VALUE", "LAST_VALUE", "NTILE")


def window(translator: Translator, node: exp.Window) -> Typed:
    """Raises InvalidQueryError for what is no window function."""
    if node.args.get("alias") is not None and node.args.get("spec") is None and not node.args.get("order"):
        raise InvalidQueryError(f"the named window '{node.alias}' is not supported", "write what it means behind OVER")
    inner = node.this
    function = inner.this if isinstance(inner, exp.Filter) else inner
    word = str(function.this).upper() if isinstance(function, exp.Anonymous) else ""
    if word in AGGREGATES:
        translator.windowed = True
        value = translator.translate(inner)
        translator.windowed = False
    elif word in _RANKS:
        counted(word, function.expressions, 0, 0)
        value = Typed(f"{word.lower()}()", _RANKS[word])
    elif word in _VALUES:
        value = _positioned(translator, word, function.expressions)
    else:
        raise InvalidQueryError(
            f"'{inner.sql(dialect='druid')[:64]}' is no window function", "use an aggregate, RANK or LAG"
        )
    return Typed(f"({value.sql} OVER ({_over(translator, node)}))", value.kind)


def _positioned(translator: Translator, word: str, nodes: list[exp.Expr]) -> Typed:
    counted(word, nodes, 1, 3 if word in ("LAG", "LEAD") else 1)
    values = translator.texts(nodes)
    kind = BIGINT if word == "NTILE" else values[0].kind
    return Typed(f"{word.lower()}({', '.join(v.sql for v in values)})", kind)


def _over(translator: Translator, node: exp.Window) -> str:
    parts = []
    partition = node.args.get("partition_by") or []
    if partition:
        parts.append("PARTITION BY " + ", ".join(translator.translate(p).sql for p in partition))
    order = node.args.get("order")
    if order is not None:
        parts.append("ORDER BY " + ", ".join(ordered(translator.translate(o.this).sql, o) for o in order.expressions))
    spec = node.args.get("spec")
    if spec is not None:
        start, end = (_bound(spec, side) for side in ("start", "end"))
        parts.append(f"{spec.args['kind']} BETWEEN {start} AND {end or 'CURRENT ROW'}")
    return " ".join(parts)


def ordered(sql: str, node: exp.Ordered) -> str:
    """Nulls come first, ascending and descending, where nothing else is said."""
    last = bool(node.meta.get("nulls_last"))
    return f"{sql} {'DESC' if node.args.get('desc') else 'ASC'} NULLS {'LAST' if last else 'FIRST'}"


def _bound(spec: exp.WindowSpec, side: str) -> str:
    value = spec.args.get(side)
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value.this)
    if not (text in ("UNBOUNDED", "CURRENT ROW") or text.isdigit()):
        raise InvalidQueryError(
            f"the frame's bound '{text[:32]}' is no number", "use 1 PRECEDING or UNBOUNDED PRECEDING"
        )
    return f"{text} {spec.args.get(f'{side}_side') or ''}".strip()
