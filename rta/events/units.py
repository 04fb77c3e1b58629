"""Durations and sizes as people write them: "30d", "1h", "16MiB".

Imports nothing of rta but the errors, so that every layer may use it.
"""

from __future__ import annotations

import re

from rta.errors import BadRequestError

DURATION_UNITS_MS: dict[str, int] = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 7 * 86_400_000,
    "y": 365 * 86_400_000,
}
SIZE_UNITS_BYTES: dict[str, int] = {
    "b": 1,
    "kb": 1_000,
    "mb": 1_000_000,
    "gb": 1_000_000_000,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
DURATION_MS_MAX = 10_000 * 365 * 86_400_000
SIZE_BYTES_MAX = 1 << 60
_QUANTITY = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]{1,3})\s*", re.ASCII)


def parse_duration_ms(text: str) -> int:
    """Milliseconds of a duration such as "500ms", "30s", "2m", "1.5h", "30d", "2w", "5y" (365 days each).

    Raises:
        BadRequestError: it is none, is not a whole number of milliseconds, or is longer than 10,000 years.
    """
    value = _quantity(text, DURATION_UNITS_MS, "duration", "a number and a unit of ms, s, m, h, d, w or y, as in '30d'")
    if value > DURATION_MS_MAX:
        raise BadRequestError(f"the duration '{text}' is longer than 10,000 years", "give a shorter one")
    return value


def parse_size_bytes(text: str | int) -> int:
    """Bytes of a size such as "16MiB", "1GB", "512" or a plain number.

    Raises:
        BadRequestError: it is none, is not a whole number of bytes, or is larger than 1 EiB.
    """
    written = f"{text}b" if isinstance(text, int) or text.strip().isdecimal() else text
    value = _quantity(written, SIZE_UNITS_BYTES, "size", "a number and a unit of B, KB, MB, GB, KiB, MiB, GiB or TiB")
    if value > SIZE_BYTES_MAX:
        raise BadRequestError(f"the size '{text}' is larger than 1 EiB", "give a smaller one")
    return value


def _quantity(text: str, units: dict[str, int], what: str, form: str) -> int:
    match = _QUANTITY.fullmatch(text)
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise BadRequestError(f"'{text[:64]}' is not a {what}", f"write {form}")
    whole, _, fraction = match[1].partition(".")
    scaled = int(whole + fraction) * factor
    value, remainder = divmod(scaled, 10 ** len(fraction))
    if remainder:
        raise BadRequestError(f"the {what} '{text}' is not a whole number of its smallest unit", f"write {form}")
    return value
