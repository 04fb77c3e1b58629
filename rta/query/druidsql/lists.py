"""Functions of arrays, multi-value strings and JSON documents whose form depends on their arguments' types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqlglot import exp

from rta.query.druidsql.kinds import BOOLEAN, JSON, MULTI, STRINGS, VARCHAR, Base, Kind
from rta.query.druidsql.special import counted, json_path, text_of
from rta.query.druidsql.typed import Typed, as_array, as_text, cast, quoted

if TYPE_CHECKING:
    from rta.query.druidsql.translator import Translator

Nodes = Sequence[exp.Expr]
_Handler = Callable[["Translator", Nodes], Typed]


def _kept(word: str, negation: str) -> _Handler:
    def handler(translator: Translator, nodes: Nodes) -> Typed:
        counted(word, nodes, 2, 2)
        value, allowed = (as_array(v, translator.zone) for v in translator.texts(nodes))
        return Typed(f"list_filter({value.sql}, lambda _e: {negation}list_contains({allowed.sql}, _e))", MULTI)

    return handler


def _contains(word: str) -> _Handler:
    def handler(translator: Translator, nodes: Nodes) -> Typed:
        counted(word, nodes, 2, 2)
        value, wanted = translator.texts(nodes)
        function = "list_has_all" if wanted.kind.is_list else "list_contains"
        array = as_array(value, translator.zone)
        if function == "list_contains" and not wanted.is_null:
            wanted = cast(wanted, array.kind.element, translator.zone)
        return Typed(f"{function}({array.sql}, {wanted.sql})", BOOLEAN)

    return handler


def _joined(word: str, function: str, *, multi: bool) -> _Handler:
    """Append, prepend and concatenate; the type is that of the array."""

    def handler(translator: Translator, nodes: Nodes) -> Typed:
        counted(word, nodes, 2, 2)
        left, right = translator.texts(nodes)
        whole = as_array(right if function == "list_prepend" else left, translator.zone)
        if function == "list_concat":
            other = as_array(right, translator.zone)
            sql = f"list_concat({whole.sql}, {other.sql})"
        elif function == "list_append":
            sql = f"list_append({whole.sql}, {right.sql})"
        else:
            sql = f"list_prepend({left.sql}, {whole.sql})"
        return Typed(sql, Kind(whole.kind.base, array=not multi, multi=multi))

    return handler


def _to_array(translator: Translator, nodes: Nodes) -> Typed:
    counted("MV_TO_ARRAY", nodes, 1, 1)
    return as_array(translator.translate(nodes[0]), translator.zone)


def _to_multi(translator: Translator, nodes: Nodes) -> Typed:
    counted("ARRAY_TO_MV", nodes, 1, 1)
    array = cast(translator.translate(nodes[0]), STRINGS, translator.zone)
    return Typed(array.sql, MULTI)


def _query(translator: Translator, nodes: Nodes) -> Typed:
    counted("JSON_QUERY", nodes, 2, 2)
    document, path = _document(translator, nodes[0]), json_path(text_of(nodes[1], "the path"))
    return Typed(f"CAST(json_extract({document}, {quoted(path)}) AS VARCHAR)", JSON)


def _query_array(translator: Translator, nodes: Nodes) -> Typed:
    counted("JSON_QUERY_ARRAY", nodes, 2, 2)
    document, path = _document(translator, nodes[0]), json_path(text_of(nodes[1], "the path"))
    found = f"json_extract({document}, {quoted(path)})"
    listed = f"(CASE WHEN json_type({found}) = 'ARRAY' THEN CAST({found} AS JSON[]) ELSE [{found}] END)"
    return Typed(f"list_transform({listed}, lambda _e: CAST(_e AS VARCHAR))", Kind(Base.JSON, array=True))


def _keys(translator: Translator, nodes: Nodes) -> Typed:
    counted("JSON_KEYS", nodes, 2, 2)
    document, path = _document(translator, nodes[0]), json_path(text_of(nodes[1], "the path"))
    return Typed(f"json_keys({document}, {quoted(path)})", STRINGS)


def _merge(translator: Translator, nodes: Nodes) -> Typed:
    counted("JSON_MERGE", nodes, 2, None)
    merged = ", ".join(f"CAST({_document(translator, node)} AS JSON)" for node in nodes)
    return Typed(f"CAST(json_merge_patch({merged}) AS VARCHAR)", JSON)


def _to_json(translator: Translator, nodes: Nodes) -> Typed:
    counted("TO_JSON_STRING", nodes, 1, 1)
    value = translator.translate(nodes[0])
    if value.kind.base is Base.JSON and not value.kind.array:
        return Typed(value.sql, VARCHAR)
    if value.kind.is_time:
        value = Typed(f"epoch_ms({value.sql})", value.kind)
    return Typed(f"CAST(to_json({value.sql}) AS VARCHAR)", VARCHAR)


def _document(translator: Translator, node: exp.Expr) -> str:
    return as_text(translator.translate(node), translator.zone).sql


LISTS: dict[str, _Handler] = {
    "MV_FILTER_ONLY": _kept("MV_FILTER_ONLY", ""),
    "MV_FILTER_NONE": _kept("MV_FILTER_NONE", "NOT "),
    "MV_TO_ARRAY": _to_array,
    "ARRAY_TO_MV": _to_multi,
    **{
        f"{family}_{word}": handler(f"{family}_{word}")
        for family in ("MV", "ARRAY")
        for word, handler in (("CONTAINS", _contains),)
    },
    **{
        f"{family}_{word}": _joined(f"{family}_{word}", function, multi=family == "MV")
        for family in ("MV", "ARRAY")
        for word, function in (("APPEND", "list_append"), ("PREPEND", "list_prepend"), ("CONCAT", "list_concat"))
    },
    "JSON_QUERY": _query,
    "JSON_QUERY_ARRAY": _query_array,
    "JSON_KEYS": _keys,
    "JSON_MERGE": _merge,
    "TO_JSON_STRING": _to_json,
}
