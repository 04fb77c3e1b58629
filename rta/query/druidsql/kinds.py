"""What a value of Druid SQL is, and what the clients call it: SQL type, JDBC number, native type.

Owns the types that expressions are translated with. A multi-value string is a list that calls itself VARCHAR. A timestamp
is an instant; `tz` says how the engine holds it, which no client sees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from rta.events.schemas import ColumnType


class Base(StrEnum):
    VARCHAR = "VARCHAR"
    BIGINT = "BIGINT"
    DOUBLE = "DOUBLE"
    BOOLEAN = "BOOLEAN"
    TIMESTAMP = "TIMESTAMP"
    DATE = "DATE"
    JSON = "COMPLEX<json>"
    INTERVAL = "INTERVAL"
    QUANTILES = "COMPLEX<quantilesDoublesSketch>"
    DISTINCT = "COMPLEX<HLLSketch>"
    THETA = "COMPLEX<thetaSketch>"
    NULL = "NULL"


@dataclass(frozen=True, slots=True)
class Kind:
    """A type. `array` and `multi` are lists in the engine; `tz` is of timestamps that carry their zone there."""

    base: Base
    array: bool = False
    multi: bool = False
    tz: bool = False

    @property
    def is_list(self) -> bool:
        return self.array or self.multi

    @property
    def is_number(self) -> bool:
        return not self.is_list and self.base in (Base.BIGINT, Base.DOUBLE)

    @property
    def is_time(self) -> bool:
        return not self.is_list and self.base in (Base.TIMESTAMP, Base.DATE)

    @property
    def is_sketch(self) -> bool:
        return self.base in (Base.QUANTILES, Base.DISTINCT, Base.THETA)

    @property
    def element(self) -> Kind:
        return Kind(self.base)

    @property
    def as_array(self) -> Kind:
        return Kind(self.base, array=True)

    @property
    def naive(self) -> Kind:
        return replace(self, tz=False)


VARCHAR = Kind(Base.VARCHAR)
BIGINT = Kind(Base.BIGINT)
DOUBLE = Kind(Base.DOUBLE)
BOOLEAN = Kind(Base.BOOLEAN)
TIMESTAMP = Kind(Base.TIMESTAMP)
INSTANT = Kind(Base.TIMESTAMP, tz=True)
DATE = Kind(Base.DATE)
JSON = Kind(Base.JSON)
INTERVAL = Kind(Base.INTERVAL)
NULL = Kind(Base.NULL)
MULTI = Kind(Base.VARCHAR, multi=True)
STRINGS = Kind(Base.VARCHAR, array=True)

OF_COLUMN: dict[ColumnType, Kind] = {
    ColumnType.STRING: VARCHAR,
    ColumnType.LONG: BIGINT,
    ColumnType.DOUBLE: DOUBLE,
    ColumnType.BOOLEAN: BOOLEAN,
    ColumnType.TIMESTAMP: INSTANT,
    ColumnType.STRINGS: MULTI,
    ColumnType.JSON: JSON,
}
_NATIVE = {
    Base.VARCHAR: "STRING",
    Base.BIGINT: "LONG",
    Base.DOUBLE: "DOUBLE",
    Base.BOOLEAN: "LONG",
    Base.TIMESTAMP: "LONG",
    Base.DATE: "LONG",
    Base.NULL: "STRING",
    Base.INTERVAL: "LONG",
}
_JDBC = {
    Base.VARCHAR: 12,
    Base.BIGINT: -5,
    Base.DOUBLE: 8,
    Base.BOOLEAN: 16,
    Base.TIMESTAMP: 93,
    Base.DATE: 91,
    Base.NULL: 0,
}


def sql_type(kind: Kind) -> str:
    """As `sqlTypesHeader` has it."""
    if kind.array:
        return "ARRAY"
    return "OTHER" if kind.base.startswith("COMPLEX") else kind.base


def native_type(kind: Kind) -> str:
    """As `typesHeader` has it."""
    native = _NATIVE.get(kind.base, str(kind.base))
    return f"ARRAY<{native}>" if kind.array else native


def data_type(kind: Kind) -> str:
    """As INFORMATION_SCHEMA.COLUMNS has it."""
    return f"{kind.base} ARRAY" if kind.array else str(kind.base)


def jdbc_type(kind: Kind) -> int:
    """The number of java.sql.Types."""
    return 2003 if kind.array else _JDBC.get(kind.base, 1111)


def common(kinds: list[Kind]) -> Kind:
    """The type of a value that is one of these."""
    known = [k for k in kinds if k.base is not Base.NULL]
    if not known:
        return NULL
    first = known[0]
    if all(k == first for k in known):
        return first
    if all(k.is_time for k in known):
        base = first.base if all(k.base is first.base for k in known) else Base.TIMESTAMP
        return Kind(base, tz=any(k.tz for k in known))
    if any(k.is_list for k in known):
        return Kind(first.base, array=any(k.array for k in known), multi=not any(k.array for k in known))
    if all(k.base in (Base.BIGINT, Base.BOOLEAN) for k in known):
        return BIGINT
    if all(k.base in (Base.BIGINT, Base.DOUBLE, Base.BOOLEAN) for k in known):
        return DOUBLE
    return VARCHAR
