"""What a query is run with beside its text: the keys of Druid's `context` that change answers.

Unknown keys are left alone, values may be strings; a value that can't be read is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rta.errors import InvalidQueryError
from rta.query.druidsql.typed import zone_name

_TRUTHS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True, slots=True)
class Context:
    """The keys that are honoured. `timeout_ms` 0 is none; `outer_limit` is how many of the rows are sent."""

    zone: str = "UTC"
    approximate_distinct: bool = True
    stringify_arrays: bool = True
    finalize_sketches: bool = False
    timeout_ms: int | None = None
    outer_limit: int | None = None
    query_id: str | None = None


def read_context(document: Mapping[str, Any]) -> Context:
    """Raises InvalidQueryError that names the key."""
    zone = document.get("sqlTimeZone")
    if zone is not None and not isinstance(zone, str):
        raise InvalidQueryError(f"context 'sqlTimeZone' is {zone!r}", "use an IANA name such as America/Los_Angeles")
    identifier = document.get("sqlQueryId") or document.get("queryId")
    if identifier is not None and not (isinstance(identifier, str) and 0 < len(identifier) <= 256):
        raise InvalidQueryError("context 'sqlQueryId' is no text of 1 to 256 characters", "send one, or leave it out")
    return Context(
        zone="UTC" if zone is None else zone_name(zone),
        approximate_distinct=_truth(document, "useApproximateCountDistinct", default=True),
        stringify_arrays=_truth(document, "sqlStringifyArrays", default=True),
        finalize_sketches=_truth(document, "sqlFinalizeOuterSketches", default=False),
        timeout_ms=_whole(document, "timeout", "a number of milliseconds"),
        outer_limit=_whole(document, "sqlOuterLimit", "a number of rows"),
        query_id=identifier,
    )


def _truth(document: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = document.get(key)
    if value is None:
        return default
    found = value if isinstance(value, bool) else _TRUTHS.get(str(value).strip().lower())
    if found is None:
        raise InvalidQueryError(f"context '{key}' is {value!r}", "use true or false")
    return found


def _whole(document: Mapping[str, Any], key: str, wanted: str) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidQueryError(f"context '{key}' is {value!r}", f"use {wanted}")
    return int(text)
