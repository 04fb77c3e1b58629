"""What is said of one refused event. Errors of a single event are values, never exceptions."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Reason(StrEnum):
    INVALID_JSON = "invalid_json"
    MISSING_FIELD = "missing_field"
    INVALID_TIMESTAMP = "invalid_timestamp"
    TOO_OLD = "too_old"
    IN_THE_FUTURE = "in_the_future"
    WRONG_TYPE = "wrong_type"
    SCHEMA_VIOLATION = "schema_violation"
    TOO_LARGE = "too_large"


class Verdict(msgspec.Struct, frozen=True):
    """Why the event at `index` of its request was refused. `event_id` is None when it had none that could be read."""

    index: int
    event_id: str | None
    reason: Reason
    detail: str


SHOWN_CHARACTERS = 64
"""How much of a value a detail shows."""


def shown(value: object) -> str:
    """A value as a detail quotes it: shortened, on one line."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: SHOWN_CHARACTERS + 1])
    return f"'{text[:SHOWN_CHARACTERS]}…'" if len(text) > SHOWN_CHARACTERS else f"'{text}'"
