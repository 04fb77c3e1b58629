"""What a field's name means in a table: the event time, a column, or a path into JSON text.

A name is, in this order: `time` (or `__time`), a column's name, a column's dotted path, a path into a column of type
`json`, else a path into `__rest`, where every key exists and is null where an event lacks it. A table without such a
column has no other names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rta.errors import InvalidQueryError
from rta.events.schemas import TIME, ColumnType
from rta.query.shape import Shape

PATH_LENGTH_MAX = 1_024
PATH_KEYS_MAX = 32
TIME_NAMES = ("time", TIME)


class FieldKind(StrEnum):
    TIME = "time"
    COLUMN = "column"
    PATH = "path"


@dataclass(frozen=True, slots=True)
class Field:
    """A resolved name.

    Args:
        name: As the question writes it.
        column: The stored column that is read: of a path the one with the JSON text.
        type: The column's; of a path `JSON`.
        path: The keys inside the JSON text; empty for a column.
    """

    name: str
    kind: FieldKind
    column: str
    type: ColumnType
    path: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name of the field's values in a frame: the stored column, or one that no column can have."""
        return self.column if self.kind is not FieldKind.PATH else f"path:{self.column}:{join_path(self.path)}"


def parse_path(name: str) -> tuple[str, ...]:
    """The keys of a dotted path; a key with a dot stands in double quotes, and `""` there is a quote.

    Raises:
        InvalidQueryError: an empty key, a quote that never ends, or a path that is too long.
    """
    if len(name) > PATH_LENGTH_MAX:
        raise InvalidQueryError(f"a field's name has {len(name):,} characters", f"use at most {PATH_LENGTH_MAX:,}")
    keys: list[str] = []
    at = 0
    while True:
        key, at = _quoted(name, at) if name[at : at + 1] == '"' else _plain(name, at)
        keys.append(key)
        if at == len(name):
            break
        if name[at] != ".":
            raise InvalidQueryError(f"the field '{name}' goes on behind a quote", 'write it as in custom."a.b".c')
        at += 1
    if len(keys) > PATH_KEYS_MAX:
        raise InvalidQueryError(f"the field '{name}' has {len(keys)} keys", f"at most {PATH_KEYS_MAX} are possible")
    return tuple(keys)


def join_path(path: tuple[str, ...]) -> str:
    """The text that `parse_path` reads back as these keys."""
    return ".".join('"' + k.replace('"', '""') + '"' if "." in k or '"' in k else k for k in path)


def resolve(name: str, shape: Shape) -> Field:
    """Find what a name means. Raises InvalidQueryError for one that the table can't have."""
    if name in TIME_NAMES:
        return Field(name, FieldKind.TIME, TIME, ColumnType.TIMESTAMP)
    column = shape.column(name)
    if column is not None:
        return Field(name, FieldKind.COLUMN, column.name, column.type)
    path = parse_path(name)
    for column in shape.columns:
        if column.path == path:
            return Field(name, FieldKind.COLUMN, column.name, column.type)
    for column in shape.columns:
        inside = _inside(path, column.path) or _inside(path, (column.name,))
        if inside and column.type is ColumnType.JSON:
            return Field(name, FieldKind.PATH, column.name, ColumnType.JSON, inside)
    if shape.rest is None:
        valid = ", ".join(("time", *(c.name for c in shape.columns)))
        raise InvalidQueryError(f"the table '{shape.table}' has no column '{name}'", f"valid: {valid}")
    return Field(name, FieldKind.PATH, shape.rest, ColumnType.JSON, path)


def _inside(path: tuple[str, ...], outer: tuple[str, ...]) -> tuple[str, ...]:
    return path[len(outer) :] if len(path) > len(outer) and path[: len(outer)] == outer else ()


def _plain(name: str, at: int) -> tuple[str, int]:
    end = name.find(".", at)
    end = len(name) if end < 0 else end
    key = name[at:end]
    if not key:
        raise InvalidQueryError(f"the field '{name}' has an empty key", 'write a key between the dots, or ""')
    return key, end


def _quoted(name: str, at: int) -> tuple[str, int]:
    key = ""
    at += 1
    while True:
        end = name.find('"', at)
        if end < 0:
            raise InvalidQueryError(f"the field '{name}' has a quote that never ends", 'write it as in custom."a.b"')
        key += name[at:end]
        if name[end + 1 : end + 2] != '"':
            return key, end + 1
        key += '"'
        at = end + 2
