"""An Arrow IPC stream as events: columns found by name or path, cast where that is exact, the rest as JSON text.

A declared column is the table's column of its name, else of its dotted path, else the struct member that the path
leads to. Where a whole column can't be cast, its rows are written as JSON and the exact decoder judges them, so that
verdicts do not depend on how an event came.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rta.errors import BadRequestError, TooLargeError
from rta.events.bodies import Limits
from rta.events.exact import Judge, judge
from rta.events.ipc_sizes import unpacked_bytes
from rta.events.schemas import TIME, TIMESTAMP, ColumnType, Datasource
from rta.events.verdicts import Refusals, Verdict, too_doubtful

_ESCAPES = r'[\x00-\x1f"\\]'


@dataclass(frozen=True, slots=True)
class TabularRead:
    """`rows` (without identity columns) are the events `numbers` of `total`; the others are refused."""

    rows: pa.Table
    numbers: npt.NDArray[np.int64]
    refusals: Refusals
    total: int


def read_arrow(data: bytes, schema: pa.Schema, rules: Judge, limits: Limits, keeps_rest: bool = True) -> TabularRead:
    """Read one body. Where what has no column is not kept, its columns are not even unpacked.

    Raises:
        BadRequestError: no Arrow IPC stream, or a damaged one.
        TooLargeError: more bytes or rows than allowed, or more rows for the exact decoder.
    """
    try:
        wanted = None if keeps_rest else _wanted(rules.datasource)
        return _rows(_read_stream(data, limits, wanted), schema, rules, limits, keeps_rest)
    except (pa.ArrowException, ValueError, ArithmeticError, OSError) as error:
        text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise BadRequestError(f"reading the Arrow body: {text}", "send a complete Arrow IPC stream") from error


def _wanted(datasource: Datasource) -> frozenset[str]:
    """Names of the columns that may hold something declared."""
    names = {TIME, *(column.name for column in datasource.columns)}
    for path in (datasource.time_path, *(column.path for column in datasource.columns)):
        names |= {".".join(path), path[0]}
    return frozenset(names)


def _rows(table: pa.Table, schema: pa.Schema, rules: Judge, limits: Limits, keeps_rest: bool) -> TabularRead:
    datasource = rules.datasource
    sources = _Sources(table, datasource, limits.unpacked_bytes)
    doubtful = np.zeros(table.num_rows, np.bool_)
    arrays = [_time_column(sources.time, rules, doubtful)]
    for column, source in zip(datasource.columns, sources.columns, strict=True):
        array = _cast(source, column.type, doubtful)
        if column.required:
            optional = rules.ids_generated and column.name == datasource.id
            doubtful |= _to_numpy(pc.equal(pc.binary_length(array), 0) if _is_text(array) else None, len(array))
            doubtful |= np.zeros(len(array), np.bool_) if optional else _to_numpy(array.is_null(), len(array))
        if column.length_max is not None:
            doubtful |= _to_numpy(pc.greater(pc.utf8_length(array), column.length_max), len(array))
        arrays.append(array)
    arrays.append(_rest(sources) if keeps_rest else pa.nulls(table.num_rows, pa.string()))
    rows = pa.Table.from_arrays(arrays, schema=schema)
    numbers = np.nonzero(~doubtful)[0]
    if len(numbers) == table.num_rows:
        return TabularRead(rows, numbers, Refusals(), table.num_rows)
    if table.num_rows - len(numbers) > limits.exact_events:
        raise too_doubtful(limits.exact_events)
    judged, refusals = _judge(sources, np.nonzero(doubtful)[0], rules)
    if not keeps_rest:
        judged = {number: [*row[:-1], None] for number, row in judged.items()}
    rows = rows.take(pa.array(numbers))
    if judged:
        values = zip(*judged.values(), strict=True)
        extra = [pa.array(list(column), f.type) for column, f in zip(values, schema, strict=True)]
        numbers = np.concatenate([numbers, np.fromiter(judged, np.int64)])
        order = np.argsort(numbers, kind="stable")
        rows = pa.concat_tables([rows, pa.Table.from_arrays(extra, schema=schema)]).take(pa.array(order))
        numbers = numbers[order]
    return TabularRead(rows.combine_chunks(), numbers, refusals, table.num_rows)


def _read_stream(data: bytes, limits: Limits, wanted: frozenset[str] | None) -> pa.Table:
    """The stream's batches as one table, its offsets and UTF-8 checked: they come from outside. None wants all columns."""
    batches: list[pa.RecordBatch] = []
    rows = 0
    size = unpacked_bytes(data)
    if size > limits.unpacked_bytes:
        raise TooLargeError(
            f"reading the Arrow body: it has {size:,} bytes unpacked, at most {limits.unpacked_bytes:,} are taken",
            "send it in several requests",
        )
    options = pa.ipc.IpcReadOptions()
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        _check_names(reader.schema)
        if wanted is not None:
            options.included_fields = [i for i, name in enumerate(reader.schema.names) if name in wanted]
    with pa.ipc.open_stream(pa.py_buffer(data), options=options) as reader:
        for batch in reader:
            batch.validate(full=True)
            rows += batch.num_rows
            if rows > limits.events:
                raise TooLargeError(
                    f"reading the Arrow body: more than {limits.events:,} rows", "send it in several requests"
                )
            batches.append(batch)
        return pa.Table.from_batches(batches, reader.schema).combine_chunks()


def _check_names(fields: Iterable[pa.Field]) -> None:
    """Raise ValueError for a name at any depth that is not UTF-8 (when it is read) or stands beside its equal."""
    seen: set[str] = set()
    for field in fields:
        if field.name in seen:
            raise ValueError(f"two columns or members have the name '{field.name[:64]}'")
        seen.add(field.name)
        _check_names(field.type.field(i) for i in range(field.type.num_fields))


class _Sources:
    """Which of a table's columns are which declared ones, and what is left."""

    def __init__(self, table: pa.Table, datasource: Datasource, bytes_max: int) -> None:
        self.datasource = datasource
        plain = [_flat(name, column, bytes_max) for name, column in zip(table.column_names, table.columns, strict=True)]
        self.table = pa.Table.from_arrays(plain, table.column_names) if plain else table
        self.left: dict[str, Any] = dict(zip(table.column_names, plain, strict=True))
        names = {column.name for column in datasource.columns}
        self.paths: dict[str, tuple[str, ...]] = {}
        self.time = self._find(datasource.time_path, None if TIME in names else TIME)
        self.columns = [self._find(column.path, column.name) for column in datasource.columns]

    def _find(self, path: tuple[str, ...], name: str | None) -> Any:
        for candidate in (name, ".".join(path)):
            if candidate is not None and candidate in self.left:
                self.paths[candidate] = path
                return self.left.pop(candidate)
        return self._take(self.left, path)

    def _take(self, inside: dict[str, Any], path: tuple[str, ...]) -> Any:
        found = inside.get(path[0])
        if len(path) == 1:
            return inside.pop(path[0], None)
        if isinstance(found, dict):
            return self._take(found, path[1:])
        if found is None or not pa.types.is_struct(found.type):
            return None
        members = dict(zip((f.name for f in found.type), found.flatten(), strict=True))
        inside[path[0]] = members
        return self._take(members, path[1:])


def _flat_chunks(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _flat(name: str, column: pa.ChunkedArray, bytes_max: int) -> pa.Array:
    """A column as one plain array. Values that are stored once and meant often must not add up beyond the limit."""
    flat = _flat_chunks(column)
    kind = flat.type.value_type if pa.types.is_dictionary(flat.type) else flat.type
    _check_plain(name, kind)
    if not pa.types.is_dictionary(flat.type) and not pa.types.is_string_view(kind):
        return flat
    if _is_text_type(kind):
        size = _text_bytes(flat)
        if size > bytes_max:
            raise TooLargeError(
                f"reading the Arrow body: '{name}' has {size:,} bytes of text, at most {bytes_max:,} are taken",
                "send it in several requests",
            )
    plain = flat.dictionary_decode() if pa.types.is_dictionary(flat.type) else flat
    return pc.cast(_without_hidden(plain), pa.string()) if pa.types.is_string_view(kind) else plain


def _without_hidden(texts: pa.Array) -> pa.Array:
    """Views with nothing behind their nulls: Arrow does not check what stands there, and a length below 0 ends the process
    in a cast."""
    if not texts.null_count:
        return texts
    validity, views, *data = texts.buffers()
    checked = np.frombuffer(views, np.int32).reshape(-1, 4).copy()
    checked[texts.offset : texts.offset + len(texts)][texts.is_null().to_numpy(zero_copy_only=False)] = 0
    buffers = [validity, pa.py_buffer(checked), *data]
    return pa.Array.from_buffers(texts.type, len(texts), buffers, offset=texts.offset)


def _text_bytes(flat: pa.Array) -> int:
    """Bytes of all its texts, each as often as it is meant."""
    if pa.types.is_dictionary(flat.type):
        lengths = _text_lengths(flat.dictionary)
        meant = flat.indices.drop_null().to_numpy()
        return int(lengths[meant].sum())
    return int(_text_lengths(flat).sum())


def _text_lengths(texts: pa.Array) -> npt.NDArray[np.int64]:
    if not pa.types.is_string_view(texts.type):
        return pc.fill_null(pc.binary_length(texts), 0).to_numpy().astype(np.int64)
    # A view is 16 bytes, the first 4 of them the length; Arrow would copy the texts to measure them.
    views = np.frombuffer(texts.buffers()[1], np.int32).reshape(-1, 4)[texts.offset : texts.offset + len(texts), 0]
    return np.where(texts.is_valid().to_numpy(zero_copy_only=False), views, 0).astype(np.int64)


def _check_plain(name: str, kind: pa.DataType) -> None:
    """Numbers, times, texts, and structs, lists and maps of them; nothing else is taken from outside."""
    types = pa.types
    if types.is_struct(kind) or types.is_map(kind) or types.is_list(kind) or types.is_large_list(kind):
        for i in range(kind.num_fields):
            inside = kind.field(i).type
            if types.is_string_view(inside):
                raise _unknown_type(name, inside)
            _check_plain(name, inside)
        return
    known = types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind) or _is_text_type(kind)
    if not known and not types.is_binary(kind) and not types.is_large_binary(kind):
        raise _unknown_type(name, kind)


def _unknown_type(name: str, kind: pa.DataType) -> BadRequestError:
    return BadRequestError(f"reading the Arrow body: column '{name}' is {kind}", "send it as a plain column")


def _is_text_type(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_text(array: pa.Array) -> bool:
    return _is_text_type(array.type)


def _to_numpy(mask: pa.Array | None, count: int) -> npt.NDArray[np.bool_]:
    if mask is None:
        return np.zeros(count, np.bool_)
    return mask.fill_null(False).to_numpy(zero_copy_only=False)


_ARROW = {
    ColumnType.STRING: pa.string(),
    ColumnType.LONG: pa.int64(),
    ColumnType.DOUBLE: pa.float64(),
    ColumnType.BOOLEAN: pa.bool_(),
    ColumnType.TIMESTAMP: TIMESTAMP,
    ColumnType.STRINGS: pa.list_(pa.string()),
    ColumnType.JSON: pa.string(),
}


def _cast(source: pa.Array | None, kind: ColumnType, doubtful: npt.NDArray[np.bool_]) -> pa.Array:
    """The column in its declared type; where that is not exact, all its values are left to the exact decoder."""
    wanted = _ARROW[kind]
    if source is None:
        return pa.nulls(len(doubtful), wanted)
    if _fits(source.type, kind):
        try:
            array = _convert(source, kind)
        except pa.ArrowInvalid:
            array = None
        if array is not None:
            if kind is ColumnType.DOUBLE:
                doubtful |= _to_numpy(pc.invert(pc.is_finite(array)), len(array))
            return array
    doubtful |= source.is_valid().to_numpy(zero_copy_only=False)
    return pa.nulls(len(doubtful), wanted)


def _fits(given: pa.DataType, kind: ColumnType) -> bool:
    """Whether values of that Arrow type can be values of that column at all."""
    match kind:
        case ColumnType.STRING:
            return _is_text_type(given)
        case ColumnType.LONG | ColumnType.DOUBLE:
            return bool(pa.types.is_integer(given) or pa.types.is_floating(given) or pa.types.is_decimal(given))
        case ColumnType.BOOLEAN:
            return bool(pa.types.is_boolean(given))
        case ColumnType.TIMESTAMP:
            return bool(pa.types.is_timestamp(given) or pa.types.is_integer(given) or pa.types.is_date(given))
        case ColumnType.STRINGS:
            lists = pa.types.is_list(given) or pa.types.is_large_list(given)
            return bool(lists and (pa.types.is_string(given.value_type) or pa.types.is_large_string(given.value_type)))
        case ColumnType.JSON:
            return False


def _convert(source: pa.Array, kind: ColumnType) -> pa.Array:
    if kind is ColumnType.TIMESTAMP:
        if pa.types.is_integer(source.type):
            return pc.cast(source, pa.int64()).view(TIMESTAMP)
        if pa.types.is_timestamp(source.type):
            return pc.cast(source, pa.timestamp("ms", source.type.tz), safe=False).view(TIMESTAMP)
        return pc.cast(source, pa.timestamp("ms")).view(TIMESTAMP)
    if kind is ColumnType.STRINGS and pc.any(pc.is_null(pc.list_flatten(source))).as_py():
        raise pa.ArrowInvalid("a list with nulls")
    return pc.cast(source, _ARROW[kind])


def _time_column(source: pa.Array | None, rules: Judge, doubtful: npt.NDArray[np.bool_]) -> pa.Array:
    """The event time; what is missing, no time or out of bounds is left to the exact decoder."""
    if source is not None and _is_text(source):
        source = _parsed_times(source, doubtful)
    array = _cast(source, ColumnType.TIMESTAMP, doubtful)
    times = array.view(pa.int64()).fill_null(0).to_numpy()
    doubtful |= (times < rules.oldest_ms) | (times > rules.newest_ms) | _to_numpy(array.is_null(), len(array))
    return array.view(pa.int64()).fill_null(0).view(TIMESTAMP)


def _parsed_times(source: pa.Array, doubtful: npt.NDArray[np.bool_]) -> pa.Array:
    """ISO texts as milliseconds."""
    from rta.events.simd import padded
    from rta.events.times import parse_times

    flat = pc.cast(source, pa.string())
    _, offset_buffer, data_buffer = flat.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[flat.offset : flat.offset + len(flat) + 1]
    times = np.zeros(len(flat), np.int64)
    wrong = np.zeros(len(flat), np.uint8)
    parse_times(padded(memoryview(data_buffer if data_buffer is not None else b"")), offsets, times, wrong)
    present = flat.is_valid().to_numpy(zero_copy_only=False)
    doubtful |= present & wrong.view(np.bool_)
    return pa.array(times, mask=~present)


def _rest(sources: _Sources) -> pa.Array:
    """Everything that has no column, as one JSON object a row; null where there is nothing."""
    count = sources.table.num_rows
    members = [piece for name, value in sources.left.items() if (piece := _member(name, value)) is not None]
    return _object(members) if members else pa.nulls(count, pa.string())


def _object(members: Sequence[pa.Array]) -> pa.Array:
    """An object of the members that are there; null where none is."""
    # Arrow's own skipping of nulls in a join drops rows where nothing is left, so each member brings its comma.
    pieces = [pc.fill_null(pc.binary_join_element_wise(",", member, ""), "") for member in members]
    joined = pc.binary_join_element_wise(*pieces, "")
    text = pc.binary_join_element_wise("{", pc.utf8_slice_codeunits(joined, 1), "}", "")
    return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), text)


def _member(name: str, value: pa.Array | dict[str, Any]) -> pa.Array | None:
    """`"name":value` per row, null where there is no value."""
    if isinstance(value, dict):
        inside = [piece for key, member in value.items() if (piece := _member(key, member)) is not None]
        text = _object(inside) if inside else None
    else:
        text = None if pa.types.is_null(value.type) else _json_texts(value)
    return None if text is None else pc.binary_join_element_wise(json.dumps(name, ensure_ascii=False), text, ":")


def _json_texts(array: pa.Array) -> pa.Array:
    kind = array.type
    if _is_text(array):
        flat = pc.cast(array, pa.string())
        if not pc.any(pc.match_substring_regex(flat, _ESCAPES)).as_py():
            return pc.binary_join_element_wise('"', flat, '"', "")
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pc.cast(array, pa.string())
    elif pa.types.is_floating(kind):
        wide = pc.cast(array, pa.float64())
        return pc.cast(pc.if_else(pc.is_finite(wide), wide, None), pa.string())
    texts = [
        None if value is None else json.dumps(value, ensure_ascii=False, default=_plain) for value in array.to_pylist()
    ]
    return pa.array(texts, pa.string())


def _plain(value: object) -> object:
    """A value that JSON does not have, as one that it has."""
    match value:
        case datetime():
            return value.isoformat(timespec="milliseconds") + ("Z" if value.tzinfo is None else "")
        case date() | time():
            return value.isoformat()
        case Decimal():
            return float(value)
        case bytes():
            return value.decode(errors="replace")
        case _:
            return str(value)


def _judge(sources: _Sources, numbers: npt.NDArray[np.int64], rules: Judge) -> tuple[dict[int, list[Any]], Refusals]:
    """What the exact decoder says of rows, by row."""
    judged: dict[int, list[Any]] = {}
    refusals = Refusals()
    for number, event in zip(numbers.tolist(), _events(sources, numbers), strict=True):
        text = json.dumps(event, ensure_ascii=False, default=_plain).encode()
        found = judge(text, rules, number)
        if isinstance(found, Verdict):
            refusals.add(found)
        else:
            judged[number] = found
    return judged, refusals


def _events(sources: _Sources, numbers: npt.NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    table = sources.table.take(pa.array(numbers))
    for i, field in enumerate(table.schema):
        if field.name in sources.paths and pa.types.is_timestamp(field.type):
            # Milliseconds: Python has no datetime beyond the year 9999.
            table = table.set_column(
                i, field.name, _convert(_flat_chunks(table.column(i)), ColumnType.TIMESTAMP).view(pa.int64())
            )
    for row in table.to_pylist():
        event: dict[str, Any] = {}
        for name, value in row.items():
            _put(event, sources.paths.get(name, (name,)), value)
        yield event


def _put(event: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    inside = event
    for key in path[:-1]:
        step = inside.get(key)
        if not isinstance(step, Mapping):
            step = inside[key] = {}
        inside = step  # type: ignore[assignment]  # made above, or a struct's own dict
    inside[path[-1]] = value
