"""What a native query can be refused for. How the refusal looks on the wire is `rta.serve.druid`'s."""

from __future__ import annotations

from typing import ClassVar

from rta.errors import BadRequestError, RtaError


class InvalidInputError(BadRequestError):
    """The query is malformed, or names what there is not."""

    code: ClassVar[str] = "invalid_input"


class UnsupportedError(RtaError):
    """Druid knows it, rta does not: refused by name, never answered wrongly."""

    code: ClassVar[str] = "unsupported"
    status: ClassVar[int] = 501


def unsupported(what: str, name: object, known: str = "") -> UnsupportedError:
    """`what` is the kind of thing, `name` its name in the query."""
    return UnsupportedError(f"{what} '{name}' is not supported", known)
