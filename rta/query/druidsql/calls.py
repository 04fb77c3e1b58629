"""A call by name: which register has the function, what its arguments are read as, and values of a multi-value string one by one.

A name that no register has is refused, with the nearest that one has.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from sqlglot import exp

from rta.errors import InvalidQueryError
from rta.query.druidsql.aggregates import AGGREGATES, aggregate
from rta.query.druidsql.kinds import BIGINT, DOUBLE, NULL, VARCHAR, Base, Kind
from rta.query.druidsql.lists import LISTS
from rta.query.druidsql.rules import LIST_RULES, RULES, Rule
from rta.query.druidsql.sketches import SKETCHES
from rta.query.druidsql.special import SPECIAL
from rta.query.druidsql.typed import Typed, as_array, as_boolean, as_double, as_long, as_text, as_time, instant

if TYPE_CHECKING:
    from rta.query.druidsql.translator import Translator

Handler = Callable[["Translator", Sequence[exp.Expr]], Typed]
_HANDLERS: dict[str, Handler] = {**SPECIAL, **LISTS, **SKETCHES}
_KNOWN_UNSUPPORTED = (
    "LOOKUP", "BLOOM_FILTER", "BLOOM_FILTER_TEST", "DECODE_BASE64_COMPLEX", "IPV6_MATCH", "TDIGEST_QUANTILE",
    "APPROX_QUANTILE_FIXED_BUCKETS", "DS_TUPLE_DOUBLES", "DS_QUANTILE_SUMMARY", "JSON_PATHS", "EXTERN",
    "HUMAN_READABLE_BINARY_BYTE_FORMAT", "HUMAN_READABLE_DECIMAL_BYTE_FORMAT", "HUMAN_READABLE_DECIMAL_FORMAT",
)  # fmt: skip
_AS_IS_FOR_LONGS = ("CEIL", "CEILING", "FLOOR", "TRUNC", "TRUNCATE", "ROUND")


def call(translator: Translator, name: str, nodes: Sequence[exp.Expr]) -> Typed:
    """Raises InvalidQueryError for an unknown function or a wrong number of arguments."""
    word = name.upper()
    if word in AGGREGATES:
        return aggregate(translator, word, nodes, None)
    handler = _HANDLERS.get(word)
    if handler is not None:
        return handler(translator, nodes)
    rules = RULES.get(word) or LIST_RULES.get(word)
    if rules is None:
        raise _unknown(word)
    rule = next((r for r in rules if len(r.reads) == len(nodes)), None)
    if rule is None:
        counts = " or ".join(str(len(r.reads)) for r in rules)
        raise InvalidQueryError(f"{word} has {len(nodes)} arguments", f"it takes {counts}")
    return _applied(word, rule, translator.texts(nodes), translator.zone)


def function_names() -> list[str]:
    """Every function there is, for INFORMATION_SCHEMA.ROUTINES."""
    return sorted({*AGGREGATES, *_HANDLERS, *RULES, *LIST_RULES})


def is_aggregate(name: str) -> bool:
    return name in AGGREGATES


def _applied(word: str, rule: Rule, values: list[Typed], zone: str) -> Typed:
    lists = [i for i, (v, r) in enumerate(zip(values, rule.reads, strict=True)) if v.kind.multi and r != "a"]
    if len(lists) > 1:
        raise InvalidQueryError(
            f"{word} has two multi-value arguments", "use MV_TO_STRING or MV_OFFSET for one of them"
        )
    if lists:
        whole = values[lists[0]]
        values = [Typed("_e", VARCHAR) if i == lists[0] else v for i, v in enumerate(values)]
        one = _applied(word, rule, values, zone)
        return Typed(f"list_transform({whole.sql}, lambda _e: {one.sql})", Kind(one.kind.base, multi=True))
    read = [read_as(v, r, zone) for v, r in zip(values, rule.reads, strict=True)]
    if word in _AS_IS_FOR_LONGS and len(read) == 1 and read[0].kind == BIGINT:
        return read[0]
    sql = rule.template.format(*(v.sql for v in read))
    kind = _result(rule, read)
    if word == "MILLIS_TO_TIMESTAMP" and read[0].number is not None:
        return instant(int(read[0].number))
    if rule.result == "n" and kind == BIGINT:
        return Typed(f"CAST({sql} AS BIGINT)", kind)
    return Typed(sql, kind)


def _result(rule: Rule, read: list[Typed]) -> Kind:
    if isinstance(rule.result, Kind):
        return rule.result
    if rule.result == "n":
        return BIGINT if all(v.kind.base is Base.BIGINT for v in read) else DOUBLE
    first = read[0].kind
    return first.element if "list_extract" in rule.template else first


def read_as(value: Typed, letter: str, zone: str) -> Typed:
    """As a rule's letter says."""
    if value.kind.base is Base.NULL and letter != "a":
        return Typed(f"CAST(NULL AS {_NULLS.get(letter, 'VARCHAR')})", _NULL_KINDS.get(letter, NULL))
    match letter:
        case "s":
            return as_text(value, zone)
        case "l":
            return as_long(value, zone)
        case "d":
            return as_double(value, zone)
        case "n":
            return value if value.kind.is_number else _number(value, zone)
        case "t":
            return as_time(value, zone)
        case "b":
            return as_boolean(value, zone)
        case "a":
            return as_array(value, zone)
    return value


_NULLS = {"l": "BIGINT", "d": "DOUBLE", "n": "DOUBLE", "t": "TIMESTAMP", "b": "BOOLEAN"}
_NULL_KINDS = {"s": VARCHAR, "l": BIGINT, "d": DOUBLE, "n": DOUBLE}


def _number(value: Typed, zone: str) -> Typed:
    return as_long(value, zone) if value.kind.base in (Base.BOOLEAN, Base.TIMESTAMP) else as_double(value, zone)


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    return tuple(function_names())


def _unknown(word: str) -> InvalidQueryError:
    if any(word.startswith(known) for known in _KNOWN_UNSUPPORTED):
        return InvalidQueryError(f"the function {word} of Druid is not supported here", "see docs/druid-sql.md")
    near = difflib.get_close_matches(word, _names(), 1)
    hint = f"did you mean {near[0]}?" if near else "see INFORMATION_SCHEMA.ROUTINES for what there is"
    return InvalidQueryError(f"No match found for function signature {word[:64]}", hint)
