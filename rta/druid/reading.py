"""Reading members of a query's JSON as the type they have to be, the way Druid coerces scalars.

Unknown members are no concern of anybody: Druid ignores them, and so does rta. What is missing or of a wrong type is an
`InvalidInputError` that names the member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rta.druid.problems import InvalidInputError

Document = Mapping[str, Any]


def document(value: Any, what: str) -> Document:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{what} is {_shown(value)}", "write a JSON object")
    return value


def kind(value: Document, what: str) -> str:
    """The member 'type'."""
    return text(value, "type", what)


def text(value: Document, name: str, what: str) -> str:
    found = value.get(name)
    if isinstance(found, str):
        return found
    raise InvalidInputError(f"'{name}' of {what} is {_shown(found)}", "write a string")


def text_or(value: Document, name: str, default: str, what: str) -> str:
    return default if value.get(name) is None else text(value, name, what)


def texts(value: Document, name: str, what: str) -> tuple[str, ...]:
    found = value.get(name)
    if isinstance(found, str):
        return (found,)
    if isinstance(found, Sequence) and all(isinstance(f, str) for f in found):
        return tuple(found)
    raise InvalidInputError(f"'{name}' of {what} is {_shown(found)}", "write a list of strings")


def items(value: Document, name: str, what: str) -> Sequence[Any]:
    """A list, which may be missing."""
    found = value.get(name)
    if found is None:
        return ()
    if isinstance(found, Sequence) and not isinstance(found, str):
        return found
    raise InvalidInputError(f"'{name}' of {what} is {_shown(found)}", "write a list")


def flag(value: Document, name: str, what: str, default: bool = False) -> bool:
    """A truth value, which may be written as a string."""
    found = value.get(name)
    if found is None:
        return default
    if isinstance(found, bool):
        return found
    if isinstance(found, str) and found.lower() in ("true", "false"):
        return found.lower() == "true"
    raise InvalidInputError(f"'{name}' of {what} is {_shown(found)}", "write true or false")


def whole(value: Document, name: str, what: str, default: int | None = None) -> int:
    """A whole number, which may be written as a string."""
    found = value.get(name)
    if found is None and default is not None:
        return default
    if isinstance(found, int) and not isinstance(found, bool):
        return found
    if isinstance(found, float) and found.is_integer():
        return int(found)
    if isinstance(found, str) and found.lstrip("-").isascii() and found.lstrip("-").isdigit() and len(found) < 19:
        return int(found)
    raise InvalidInputError(f"'{name}' of {what} is {_shown(found)}", "write a whole number")


def number(value: Document, name: str, what: str, default: float | None = None) -> float:
    found = value.get(name)
    if found is None and default is not None:
        return default
    return as_number(found, f"'{name}' of {what}")


def as_number(value: Any, what: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    raise InvalidInputError(f"{what} is {_shown(value)}", "write a number")


def scalar_text(value: Any, what: str) -> str | None:
    """A value to compare with, as text: Druid turns every scalar into a string where a string is expected."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    raise InvalidInputError(f"{what} is {_shown(value)}", "write a string, a number or null")


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:80]
