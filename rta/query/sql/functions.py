"""Which functions a statement may call. The list is `functions.json`; whatever is not in it is refused.

The engine knows far more: what reads files, the network, settings or its own state is left out. A newer engine's new functions
are refused until somebody has looked at them (a test compares both).
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import Any

VOLATILE = frozenset(
    (
        *("random", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "reservoir_quantile"),
        *("now", "today", "ago", "age", "transaction_timestamp", "get_current_time", "get_current_timestamp"),
        *("current_date", "current_time", "current_timestamp", "current_localtime", "current_localtimestamp"),
        *("localtime", "localtimestamp"),
    )
)
"""Functions that may say something else each time: an answer with one of them is not kept."""


@lru_cache(maxsize=1)
def _lists() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((resources.files(__package__) / "functions.json").read_text())
    return found


@lru_cache(maxsize=1)
def _scalars() -> frozenset[str]:
    return frozenset(name.lower() for name in _lists()["allowed"])


@lru_cache(maxsize=1)
def _tables() -> frozenset[str]:
    return frozenset(_lists()["table_functions"])


def is_allowed(name: str) -> bool:
    """Whether a function may be called where a value stands."""
    lower = name.lower()
    return lower in _scalars() or lower.startswith(tuple(_lists()["allowed_prefixes"]))


def is_table_function(name: str) -> bool:
    """Whether a function may be called where a table stands."""
    return name.lower() in _tables()


def refusal(name: str) -> str | None:
    """What a refused function is about, where that was decided by name; None for one that was never looked at."""
    lower = name.lower()
    if lower.startswith(tuple(_lists()["refused_prefixes"])):
        return "the engine's inner forms"
    return next((reason for reason, names in _lists()["refused"].items() if lower in names), None)
