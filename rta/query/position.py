"""Positions: how far a log reaches, as an opaque text that goes out with an acknowledgement and comes back in `after`.

Source: design.md, point 7 ("you can read your own writes"). A position names one incarnation of one datasource and, per
partition, the log's incarnation and the offset after the last record that it covers.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from rta.errors import BadRequestError


@dataclass(frozen=True, slots=True)
class Position:
    """`folder` is `Datasource.folder`; `offsets` maps a partition to (log incarnation, offset)."""

    folder: str
    offsets: Mapping[int, tuple[str, int]]

    def encode(self) -> str:
        rows = [(p, inc, off) for p, (inc, off) in sorted(self.offsets.items())]
        return base64.urlsafe_b64encode(msgspec.msgpack.encode((self.folder, rows))).rstrip(b"=").decode()

    def merge(self, other: Position) -> Position:
        """The later of both in every partition; both must be of one datasource."""
        offsets = dict(self.offsets)
        for partition, (incarnation, offset) in other.offsets.items():
            known = offsets.get(partition)
            if known is None or known[0] != incarnation or known[1] < offset:
                offsets[partition] = (incarnation, offset)
        return Position(self.folder, offsets)


def decode_position(text: str) -> Position:
    """Read a position back. Raises BadRequestError for a text that is none."""
    try:
        raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        folder, rows = msgspec.msgpack.decode(raw, type=tuple[str, list[tuple[int, str, int]]])
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise BadRequestError(
            f"'after' is not a position: '{text[:40]}'",
            "pass the 'position' of an acknowledgement, unchanged",
        ) from error
    return Position(folder, {p: (inc, off) for p, inc, off in rows})
