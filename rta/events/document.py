"""Reading a user's document: each value is asked for by path and type, what nobody asked for is refused.

Knows JSON shapes and error texts, not datasources.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from rta.errors import BadRequestError, InvalidDatasourceError
from rta.events.units import parse_duration_ms
from rta.events.verdicts import shown


class Section:
    """One object of the document at `path`. `names` are all the keys it may have.

    Raises:
        InvalidDatasourceError: from every method, naming path, value and remedy.
    """

    def __init__(self, document: Any, path: str, names: Iterable[str]) -> None:
        if not isinstance(document, Mapping):
            raise wrong(path, document, "an object")
        self.path = path
        self._values: Mapping[str, Any] = document
        valid = list(names)
        for key in document:
            if not isinstance(key, str) or key not in valid:
                raise InvalidDatasourceError(f"{self.at(str(key))} is not known", _nearest(str(key), valid))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def at(self, name: str) -> str:
        return f"'{self.path}.{name}'" if self.path else f"'{name}'"

    def get(self, name: str) -> Any:
        return self._values.get(name)

    def text(self, name: str) -> str:
        """A required, non-empty string."""
        if name not in self._values:
            raise InvalidDatasourceError(f"{self.at(name)} is required", "add it")
        value = self._values[name]
        if not isinstance(value, str) or not value:
            raise wrong(self.at(name), value, "a non-empty string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A string or a list of them; absent or null is none."""
        value = self._values.get(name)
        if value is None:
            return ()
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list | tuple) or not all(isinstance(v, str) and v for v in values):
            raise wrong(self.at(name), value, "a name or a list of names")
        if len(set(values)) < len(values):
            raise wrong(self.at(name), value, "a list without repetition")
        return tuple(values)

    def items(self, name: str) -> list[Any]:
        value = self._values.get(name, [])
        if not isinstance(value, list | tuple):
            raise wrong(self.at(name), value, "a list")
        return list(value)

    def flag(self, name: str) -> bool:
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise wrong(self.at(name), value, "true or false")
        return value

    def whole(self, name: str, default: int | None, most: int) -> int | None:
        """A whole number from 1 to `most`; absent or null is the default."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise wrong(self.at(name), value, f"a whole number from 1 to {most:,}")
        return value

    def duration_ms(self, name: str, default: int | None) -> int | None:
        """A duration; absent is the default, null is None."""
        if name not in self._values:
            return default
        value = self._values[name]
        return None if value is None else self._duration(name, value)

    def required_duration_ms(self, name: str, default: int) -> int:
        """A duration that may be left out, but not be null."""
        return self._duration(name, self._values[name]) if name in self._values else default

    def _duration(self, name: str, value: Any) -> int:
        if not isinstance(value, str):
            raise wrong(self.at(name), value, "a duration such as '30d'")
        try:
            return parse_duration_ms(value)
        except BadRequestError as error:
            raise InvalidDatasourceError(f"{self.at(name)}: {error.message}", error.hint) from error


def wrong(path: str, value: Any, expected: str) -> InvalidDatasourceError:
    """A value of the wrong type or form."""
    where = path if path.startswith("'") else f"'{path}'" if path else "the document"
    return InvalidDatasourceError(f"{where} is {shown(value)}", f"give {expected}")


def _nearest(key: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(valid)}"
