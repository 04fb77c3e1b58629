"""Functions that need to see their arguments' text: units, periods, zones, patterns, and those with any number of arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqlglot import exp

from rta.errors import InvalidQueryError
from rta.query.druidsql import periods
from rta.query.druidsql.joda import format_time, parse_pattern
from rta.query.druidsql.kinds import BIGINT, BOOLEAN, INSTANT, VARCHAR, Base
from rta.query.druidsql.rules import ADDRESS
from rta.query.druidsql.typed import (
    NULL_VALUE,
    Typed,
    as_double,
    as_long,
    as_text,
    as_time,
    from_local,
    instant,
    parse_time,
    quoted,
    to_local,
    zone_name,
)

if TYPE_CHECKING:
    from rta.query.druidsql.translator import Translator

Nodes = Sequence[exp.Expr]
PARTS = {
    "MILLISECOND": "CAST(millisecond({0}) % 1000 AS BIGINT)",
    "SECOND": "CAST(second({0}) AS BIGINT)",
    "MINUTE": "minute({0})",
    "HOUR": "hour({0})",
    "DAY": "day({0})",
    "DOW": "isodow({0})",
    "ISODOW": "isodow({0})",
    "DOY": "dayofyear({0})",
    "WEEK": "weekofyear({0})",
    "MONTH": "month({0})",
    "QUARTER": "quarter({0})",
    "YEAR": "year({0})",
    "ISOYEAR": "isoyear({0})",
    "DECADE": "decade({0})",
    "CENTURY": "century({0})",
    "MILLENNIUM": "millennium({0})",
}


def extracted(value: Typed, unit: str, zone: str) -> Typed:
    """A part of a time on the zone's clock. Days of the week are 1 (Monday) to 7."""
    word = unit.upper()
    if word == "EPOCH":
        return Typed(f"(epoch_ms({value.sql}) // 1000)", BIGINT)
    if word not in PARTS:
        raise InvalidQueryError(f"no time part '{unit[:64]}'", f"use EPOCH, {', '.join(PARTS)}")
    return Typed(PARTS[word].format(to_local(value, zone)), BIGINT)


def counted(word: str, nodes: Nodes, low: int, high: int | None) -> None:
    """Raises InvalidQueryError when there are fewer or more arguments."""
    if len(nodes) < low or (high is not None and len(nodes) > high):
        some = f"{low} or more" if high is None else str(low) if low == high else f"{low} to {high}"
        raise InvalidQueryError(f"{word} has {len(nodes)} arguments", f"it takes {some}")


def text_of(node: exp.Expr, what: str) -> str:
    if isinstance(node, exp.Literal) and node.is_string:
        return str(node.this)
    raise InvalidQueryError(f"{what} has to be a text in quotes, not '{node.sql(dialect='druid')[:64]}'")


def _optional(nodes: Nodes, index: int) -> exp.Expr | None:
    return nodes[index] if len(nodes) > index and not isinstance(nodes[index], exp.Null) else None


def _zone(translator: Translator, nodes: Nodes, index: int) -> str:
    node = _optional(nodes, index)
    return translator.zone if node is None else zone_name(text_of(node, "the time zone"))


def _time(translator: Translator, node: exp.Expr) -> Typed:
    return as_time(translator.translate(node), translator.zone)


def _unit(node: exp.Expr) -> str:
    return node.name if isinstance(node, exp.Column | exp.Var | exp.Literal) else node.sql()


def _rounding(word: str, rounded: Callable[[Typed, periods.Period, int | None, str], Typed]) -> _Special:
    def handler(translator: Translator, nodes: Nodes) -> Typed:
        counted(word, nodes, 2, 4)
        origin, zone = _optional(nodes, 2), _zone(translator, nodes, 3)
        origin_ms = None
        if origin is not None:
            at = as_time(translator.translate(origin), zone)
            if at.ms is None:
                raise InvalidQueryError(
                    f"the origin of {word} is no constant", "write it as TIMESTAMP '2000-01-01 00:00:00'"
                )
            origin_ms = at.ms
        return rounded(
            _time(translator, nodes[0]), periods.parse_period(text_of(nodes[1], "the period")), origin_ms, zone
        )

    return handler


def _shift(translator: Translator, nodes: Nodes) -> Typed:
    counted("TIME_SHIFT", nodes, 3, 4)
    period, step = periods.parse_period(text_of(nodes[1], "the period")), translator.translate(nodes[2])
    count: int | str = int(step.number) if step.number is not None else as_long(step, translator.zone).sql
    return periods.shift(_time(translator, nodes[0]), period, count, _zone(translator, nodes, 3))


def _timestamp_add(translator: Translator, nodes: Nodes) -> Typed:
    counted("TIMESTAMPADD", nodes, 3, 3)
    step = translator.translate(nodes[1])
    count: int | str = int(step.number) if step.number is not None else as_long(step, translator.zone).sql
    return periods.shift(_time(translator, nodes[2]), periods.unit_period(_unit(nodes[0])), count, translator.zone)


def _timestamp_diff(translator: Translator, nodes: Nodes) -> Typed:
    """Whole units that have passed; months on the zone's clock."""
    counted("TIMESTAMPDIFF", nodes, 3, 3)
    period = periods.unit_period(_unit(nodes[0]))
    first, last = _time(translator, nodes[1]), _time(translator, nodes[2])
    if period.months:
        ends = f"{to_local(first, translator.zone)}, {to_local(last, translator.zone)}"
        return Typed(f"(datesub('month', {ends}) // {period.months})", BIGINT)
    length = period.whole_days * periods.DAY_MS + period.ms
    return Typed(f"((epoch_ms({last.sql}) - epoch_ms({first.sql})) // {length})", BIGINT)


def _extract(translator: Translator, nodes: Nodes) -> Typed:
    counted("TIME_EXTRACT", nodes, 2, 3)
    return extracted(_time(translator, nodes[0]), text_of(nodes[1], "the unit"), _zone(translator, nodes, 2))


def _parse(translator: Translator, nodes: Nodes) -> Typed:
    counted("TIME_PARSE", nodes, 1, 3)
    zone, pattern = _zone(translator, nodes, 2), _optional(nodes, 1)
    value = translator.translate(nodes[0])
    if value.is_null:
        return value
    text = as_text(value, zone)
    if pattern is None:
        return as_time(Typed(text.sql, VARCHAR, text=value.text), zone)
    form, has_offset = parse_pattern(text_of(pattern, "the pattern"))
    parsed = f"try_strptime({text.sql}, {quoted(form)})"
    return Typed(parsed, INSTANT) if has_offset else from_local(parsed, zone)


def _format(translator: Translator, nodes: Nodes) -> Typed:
    counted("TIME_FORMAT", nodes, 1, 3)
    zone, pattern = _zone(translator, nodes, 2), _optional(nodes, 1)
    return format_time(_time(translator, nodes[0]), None if pattern is None else text_of(pattern, "the pattern"), zone)


def _in_interval(translator: Translator, nodes: Nodes) -> Typed:
    counted("TIME_IN_INTERVAL", nodes, 2, 2)
    value, zone = _time(translator, nodes[0]), translator.zone
    start, end = interval_bounds(text_of(nodes[1], "the interval"), zone)
    low, high = (instant(ms, tz=value.kind.tz).sql for ms in (start, end))
    return Typed(f"({value.sql} >= {low} AND {value.sql} < {high})", BOOLEAN)


def interval_bounds(text: str, zone: str) -> tuple[int, int]:
    """Milliseconds of `start/end`, `start/period` or `period/end`. Raises InvalidQueryError."""
    left, slash, right = (part.strip() for part in text.partition("/"))
    if not slash or not (left and right) or (left[0] == "P" and right[0] == "P"):
        raise InvalidQueryError(f"'{text[:100]}' is not an interval", "use 2000-01-01/P1D or 2000-01-01/2000-01-02")
    start = None if left[0] == "P" else parse_time(left, zone)
    end = None if right[0] == "P" else parse_time(right, zone)
    if start is None and end is not None and left[0] == "P":
        start = periods.shift(instant(end), periods.parse_period(left), -1, zone).ms
    if end is None and start is not None and right[0] == "P":
        end = periods.shift(instant(start), periods.parse_period(right), 1, zone).ms
    if start is None or end is None:
        raise InvalidQueryError(f"'{text[:100]}' is not an interval", "use 2000-01-01/P1D or 2000-01-01/2000-01-02")
    return start, end


def _truncate(translator: Translator, nodes: Nodes) -> Typed:
    counted("DATE_TRUNC", nodes, 2, 2)
    unit = text_of(nodes[0], "the unit")
    return periods.floor(_time(translator, nodes[1]), periods.unit_period(unit), None, translator.zone)


def _concat(translator: Translator, nodes: Nodes) -> Typed:
    counted("CONCAT", nodes, 1, None)
    parts = [as_text(translator.translate(node), translator.zone).sql for node in nodes]
    return Typed(f"({' || '.join(parts)})", VARCHAR)


def _first(word: str) -> _Special:
    def handler(translator: Translator, nodes: Nodes) -> Typed:
        from rta.query.druidsql.translator import unified

        counted(word, nodes, 1, None)
        values, kind = unified(translator.texts(nodes), translator.zone)
        return Typed(f"coalesce({', '.join(v.sql for v in values)})", kind)

    return handler


def _null_if(translator: Translator, nodes: Nodes) -> Typed:
    from rta.query.druidsql.compare import compared

    counted("NULLIF", nodes, 2, 2)
    left, right = translator.texts(nodes)
    equal = compared("=", left, right, translator.zone)
    return Typed(f"(CASE WHEN {equal.sql} THEN NULL ELSE {left.sql} END)", left.kind)


def _extreme(word: str) -> _Special:
    def handler(translator: Translator, nodes: Nodes) -> Typed:
        from rta.query.druidsql.translator import unified

        if not nodes:
            return NULL_VALUE
        values, kind = unified(translator.texts(nodes), translator.zone)
        return Typed(f"{word.lower()}({', '.join(v.sql for v in values)})", kind)

    return handler


def _modulo(translator: Translator, nodes: Nodes) -> Typed:
    counted("MOD", nodes, 2, 2)
    return translator.translate(exp.Mod(this=nodes[0], expression=nodes[1]))


def _replace_pattern(translator: Translator, nodes: Nodes) -> Typed:
    """Groups are `$1` in Druid and `\\1` in DuckDB."""
    counted("REGEXP_REPLACE", nodes, 3, 3)
    text, pattern, new = (as_text(v, translator.zone) for v in translator.texts(nodes))
    if new.text is not None:
        converted = re.sub(r"\$(\d)", r"\\\1", new.text.replace("\\", "\\\\"))
        new = Typed(quoted(converted), VARCHAR)
    else:
        new = Typed(f"regexp_replace({new.sql}, '\\$(\\d)', '\\\\\\1', 'g')", VARCHAR)
    return Typed(f"regexp_replace({text.sql}, {pattern.sql}, {new.sql}, 'g')", VARCHAR)


_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def _parse_long(translator: Translator, nodes: Nodes) -> Typed:
    counted("PARSE_LONG", nodes, 1, 2)
    text = as_text(translator.translate(nodes[0]), translator.zone).sql
    radix = translator.translate(nodes[1]).number if len(nodes) == 2 else 10
    if not isinstance(radix, int) or not 2 <= radix <= 36:
        raise InvalidQueryError("the radix of PARSE_LONG is no number from 2 to 36", "leave it out for decimal numbers")
    if radix == 10:
        return Typed(f"(CASE WHEN regexp_full_match({text}, '-?\\d+') THEN TRY_CAST({text} AS BIGINT) END)", BIGINT)
    prefix = "(0x)?" if radix == 16 else ""
    digits = f"regexp_replace(lower({text}), '^-?{prefix}', '')"
    values = f"list_transform(string_split({digits}, ''), lambda _c: CAST(strpos('{_DIGITS}', _c) - 1 AS HUGEINT))"
    size = f"TRY_CAST(list_reduce({values}, lambda _l, _r: _l * {radix} + _r) AS BIGINT)"
    fits = f"regexp_full_match(lower({text}), '-?{prefix}[{_DIGITS[:radix]}]+') AND length({digits}) <= 24"
    return Typed(f"(CASE WHEN {fits} THEN CASE WHEN {text} LIKE '-%' THEN -{size} ELSE {size} END END)", BIGINT)


_SPEC = re.compile(r"%([-+ 0#,]*)(\d*)((?:\.\d+)?)([a-zA-Z%])")


def _string_format(translator: Translator, nodes: Nodes) -> Typed:
    counted("STRING_FORMAT", nodes, 1, None)
    pattern = text_of(nodes[0], "the pattern of STRING_FORMAT")
    values = translator.texts(nodes[1:])
    arguments: list[str] = []
    for match in _SPEC.finditer(pattern):
        letter = match[4]
        if letter in "%n":
            continue
        if len(arguments) == len(values):
            raise InvalidQueryError(f"STRING_FORMAT has no value for '{match[0]}'", "give one for each place")
        value = values[len(arguments)]
        if letter == "s":
            arguments.append(f"coalesce({as_text(value, translator.zone).sql}, 'null')")
        elif letter in "dxXo":
            arguments.append(as_long(value, translator.zone).sql)
        elif letter in "feEgG":
            arguments.append(as_double(value, translator.zone).sql)
        else:
            raise InvalidQueryError(f"STRING_FORMAT does not support '{match[0]}'", "use %s, %d, %f, %e, %g, %x or %o")
    return Typed(f"printf({', '.join((quoted(pattern.replace('%n', chr(10))), *arguments))})", VARCHAR)


def _ip_match(translator: Translator, nodes: Nodes) -> Typed:
    counted("IPV4_MATCH", nodes, 2, 2)
    subnet = text_of(nodes[1], "the subnet")
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:/(\d{1,2}))?", subnet)
    numbers = [int(n) for n in match.groups()[:4]] if match else [256]
    bits = int(match[5] or 32) if match else 33
    if max(numbers) > 255 or bits > 32:
        raise InvalidQueryError(f"'{subnet[:64]}' is no IPv4 subnet", "write it as 192.168.0.0/16")
    low = sum(n << shift for n, shift in zip(numbers, (24, 16, 8, 0), strict=True)) >> (32 - bits) << (32 - bits)
    address = ADDRESS.format(as_text(translator.translate(nodes[0]), translator.zone).sql)
    return Typed(f"coalesce({address} BETWEEN {low} AND {low + (1 << (32 - bits)) - 1}, FALSE)", BOOLEAN)


def _json_value(translator: Translator, nodes: Nodes) -> Typed:
    """A scalar in the JSON; objects and arrays are null."""
    from rta.query.druidsql.translator import type_of

    counted("JSON_VALUE", nodes, 2, 3)
    path = json_path(text_of(nodes[1], "the path"))
    document = as_text(translator.translate(nodes[0]), translator.zone).sql
    kind = type_of(nodes[2].to) if len(nodes) == 3 and isinstance(nodes[2], exp.Cast) else VARCHAR
    at = f"{document}, {quoted(path)}"
    if kind.array:
        element = {Base.BIGINT: "BIGINT", Base.DOUBLE: "DOUBLE", Base.BOOLEAN: "BOOLEAN"}.get(kind.base, "VARCHAR")
        listed = f"TRY_CAST(json_extract({at}) AS {element}[])"
        return Typed(f"(CASE WHEN json_type({at}) = 'ARRAY' THEN {listed} END)", kind)
    scalar = Typed(
        f"(CASE WHEN json_type({at}) NOT IN ('OBJECT', 'ARRAY', 'NULL') THEN json_extract_string({at}) END)", VARCHAR
    )
    from rta.query.druidsql.typed import cast

    return scalar if kind == VARCHAR else cast(scalar, kind, translator.zone)


def json_path(path: str) -> str:
    """Druid's `$.a['b'][0]` as DuckDB writes it. Raises InvalidQueryError."""
    steps = re.findall(r"""\.([^.\[\]'"]+)|\['([^']*)'\]|\["([^"]*)"\]|\[(-?\d+)\]""", path[1:])
    read = "".join(f".{a}" if a else f"['{b}']" if b else f'["{c}"]' if c else f"[{d}]" for a, b, c, d in steps)
    if not path.startswith("$") or read != path[1:]:
        raise InvalidQueryError(f"'{path[:100]}' is not a JSON path", "write it as $.a.b, $['a.b'] or $.a[0]")
    return "$" + "".join(
        f"[{d if int(d) >= 0 else '#' + d}]" if d else '."' + (a or b or c).replace('"', '\\"') + '"'
        for a, b, c, d in steps
    )


_Special = Callable[["Translator", Nodes], Typed]
SPECIAL: dict[str, _Special] = {
    "TIME_FLOOR": _rounding("TIME_FLOOR", periods.floor),
    "TIME_CEIL": _rounding("TIME_CEIL", periods.ceil),
    "TIME_SHIFT": _shift,
    "TIMESTAMPADD": _timestamp_add,
    "TIMESTAMPDIFF": _timestamp_diff,
    "TIME_EXTRACT": _extract,
    "TIME_PARSE": _parse,
    "TIME_FORMAT": _format,
    "TIME_IN_INTERVAL": _in_interval,
    "DATE_TRUNC": _truncate,
    "CURRENT_TIMESTAMP": lambda translator, _: instant(translator.now_ms),
    "CONCAT": _concat,
    "COALESCE": _first("COALESCE"),
    "NVL": _first("NVL"),
    "NULLIF": _null_if,
    "GREATEST": _extreme("GREATEST"),
    "LEAST": _extreme("LEAST"),
    "MOD": _modulo,
    "REGEXP_REPLACE": _replace_pattern,
    "PARSE_LONG": _parse_long,
    "STRING_FORMAT": _string_format,
    "IPV4_MATCH": _ip_match,
    "JSON_VALUE": _json_value,
}
