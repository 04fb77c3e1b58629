"""Which parts of a syntax tree are understood. A part that nobody reads would change a query's meaning in silence: it is refused.

Owns the list of what each kind of node may hold. Kinds that are not in it are refused, or read whole, where they are translated.
"""

from __future__ import annotations

from sqlglot import exp

from rta.errors import InvalidQueryError

_BINARY = ("this", "expression")
_QUERY = ("with_", "limit", "offset", "order", "operation_modifiers")
_PARTS: dict[type[exp.Expr], tuple[str, ...]] = {
    exp.Select: (*_QUERY, "expressions", "from_", "joins", "where", "group", "having", "distinct", "kind"),
    **dict.fromkeys((exp.Union, exp.Except, exp.Intersect), (*_QUERY, *_BINARY, "distinct")),
    exp.Subquery: ("this", "alias"),
    exp.Values: ("expressions", "alias", "order", "limit", "offset"),
    exp.Unnest: ("expressions", "alias"),
    exp.With: ("expressions", "recursive"),
    exp.CTE: ("this", "alias"),
    exp.Table: ("this", "db", "alias", "joins"),
    exp.TableAlias: ("this", "columns"),
    exp.From: ("this",),
    exp.Join: ("this", "kind", "side", "method", "on", "using"),
    exp.Where: ("this",),
    exp.Having: ("this",),
    exp.Group: ("expressions", "grouping_sets", "cube", "rollup", "totals", "all"),
    **dict.fromkeys((exp.GroupingSets, exp.Cube, exp.Rollup, exp.Tuple, exp.Order), ("expressions",)),
    exp.Ordered: ("this", "desc", "nulls_first"),
    exp.Limit: ("expression",),
    exp.Offset: ("expression",),
    exp.Fetch: ("direction", "count", "limit_options"),
    exp.LimitOptions: ("rows",),
    exp.Distinct: ("expressions", "on"),
    exp.Star: (),
    exp.Column: ("this", "table", "db"),
    exp.Alias: ("this", "alias"),
    exp.Anonymous: ("this", "expressions"),
    exp.Filter: _BINARY,
    exp.Window: ("this", "partition_by", "order", "spec", "over", "alias"),
    exp.WindowSpec: ("kind", "start", "start_side", "end", "end_side"),
    **dict.fromkeys(
        (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.And,
         exp.Or, exp.Is, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Escape, exp.JSONKeyValue, exp.IntervalSpan), _BINARY,
    ),
    exp.Div: (*_BINARY, "typed", "safe"),
    exp.DPipe: (*_BINARY, "safe"),
    exp.Like: (*_BINARY, "negate"),
    exp.In: ("this", "expressions", "query"),
    exp.Between: ("this", "low", "high"),
    **dict.fromkeys((exp.Not, exp.Neg, exp.Paren, exp.Boolean, exp.Exists), ("this",)),
    exp.Case: ("this", "ifs", "default"),
    exp.If: ("this", "true"),
    **dict.fromkeys((exp.Cast, exp.TryCast), ("this", "to", "safe")),
    exp.Interval: ("this", "unit"),
    exp.Extract: _BINARY,
    exp.Trim: (*_BINARY, "position"),
    **dict.fromkeys((exp.Floor, exp.Ceil), ("this", "to")),
    exp.Array: ("expressions",),
    exp.Bracket: ("this", "expressions", "offset"),
    exp.JSONObject: ("expressions",),
}  # fmt: skip


def check_parts(tree: exp.Expr) -> None:
    """Raises InvalidQueryError that names the part."""
    for node in tree.walk():
        known = _PARTS.get(type(node))
        if known is None:
            continue
        for part, value in node.args.items():
            if value not in (None, False, [], "") and part not in known:
                word = part.strip("_").upper().replace("_", " ")
                shown = node.sql(dialect="druid")[:80]
                raise InvalidQueryError(f"{word} in '{shown}' is not supported", "see docs/druid-sql.md for what is")
