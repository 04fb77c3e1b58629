"""What a function of the expression language gets to see: its arguments as columns, checked as it takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from rta.druid.problems import InvalidInputError
from rta.druid.values import Column, as_double, as_long, as_text

MANY = 1 << 20


@dataclass(frozen=True, slots=True)
class Arguments:
    """Of one call.

    Args:
        name: The function's.
    """

    name: str
    columns: tuple[Column, ...]

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, index: int) -> Column:
        return self.columns[index]

    def text(self, index: int) -> pl.Expr:
        column = self._one(index)
        return as_text(column)

    def long(self, index: int) -> pl.Expr:
        return as_long(self._one(index))

    def double(self, index: int) -> pl.Expr:
        return as_double(self._one(index))

    def constant(self, index: int, default: Any = None) -> Any:
        """The value of an argument that has to be a literal."""
        if index >= len(self.columns):
            return default
        column = self.columns[index]
        if not column.constant:
            raise InvalidInputError(f"argument {index + 1} of '{self.name}' has to be a constant")
        return column.value if column.value is not None else default

    def constant_text(self, index: int, default: str | None = None) -> str:
        value = self.constant(index, default)
        if not isinstance(value, str):
            raise InvalidInputError(f"argument {index + 1} of '{self.name}' is {value!r}", "write a string")
        return value

    def constant_long(self, index: int, default: int | None = None) -> int:
        value = self.constant(index, default)
        if not isinstance(value, int):
            raise InvalidInputError(f"argument {index + 1} of '{self.name}' is {value!r}", "write a whole number")
        return value

    def _one(self, index: int) -> Column:
        column = self.columns[index]
        if column.multi:
            raise InvalidInputError(
                f"argument {index + 1} of '{self.name}' has several values per row", "use an array function"
            )
        return column


@dataclass(frozen=True, slots=True)
class Function:
    """How many arguments a function takes, and what it makes of them."""

    least: int
    most: int
    make: Callable[[Arguments], Column]


def checked(function: Function, arguments: Arguments) -> Column:
    if not function.least <= len(arguments) <= function.most:
        wanted = str(function.least) if function.least == function.most else f"{function.least} or more"
        raise InvalidInputError(f"function '{arguments.name}' takes {wanted} arguments and got {len(arguments)}")
    return function.make(arguments)
