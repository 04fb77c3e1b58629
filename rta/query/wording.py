"""What refusals of a question say: the value that was given, and the name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from rta.errors import InvalidQueryError


def nearest(name: str, valid: list[str] | tuple[str, ...]) -> str:
    """A hint: the valid name that was probably meant, else all of them."""
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(valid[:50])}"


def shown(value: object) -> str:
    """A value of any kind and size, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def optional_text(document: Mapping[str, Any], key: str) -> str | None:
    """The text under a key; None where there is none. Raises InvalidQueryError for anything else."""
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise InvalidQueryError(f"'{key}' is {shown(value)}", "write a text")
    return value


def whole_number(value: object, what: str, low: int, high: int) -> int:
    """Raises InvalidQueryError for what is not a whole number from `low` to `high`; `what` names it."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidQueryError(f"{what} {shown(value)}", f"it can be {low:,} to {high:,}")
    return value
