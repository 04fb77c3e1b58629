"""What is said of one refused event. Errors of a single event are values, never exceptions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from rta.errors import TooLargeError

VERDICTS_MAX = 10_000
"""Verdicts of one body that are worded, the first ones; the others are counted by reason."""


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


@dataclass(slots=True)
class Refusals:
    """What is said of one body's refused events: the first ones by word, all of them by number."""

    verdicts: list[Verdict] = field(default_factory=list)
    reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def full(self) -> bool:
        """Whether further verdicts need no words."""
        return len(self.verdicts) >= VERDICTS_MAX

    def add(self, verdict: Verdict) -> None:
        self.reasons[verdict.reason] += 1
        if not self.full:
            self.verdicts.append(verdict)


def too_doubtful(events_max: int) -> TooLargeError:
    """Why a body with more than so many events for the exact decoder is refused."""
    return TooLargeError(
        f"reading the body: more than {events_max:,} of its events are wrong or written in an unusual way",
        "send it in several requests, each with fewer of them",
    )


SHOWN_CHARACTERS = 64
"""How much of a value a detail shows."""


def shown(value: object) -> str:
    """A value as a detail quotes it: shortened, on one line."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: SHOWN_CHARACTERS + 1])
    return f"'{text[:SHOWN_CHARACTERS]}…'" if len(text) > SHOWN_CHARACTERS else f"'{text}'"
