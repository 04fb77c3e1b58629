"""The control side of the embedded log: `EmbeddedAdmin`. Blocking; everything goes through the server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rta.errors import InvariantError
from rta.log.base import PartitionState
from rta.log.embedded import wire
from rta.log.embedded.channel import Channel


class EmbeddedAdmin:
    """A `LogAdmin`, with figures. One per thread. Every method raises UnavailableError when no server answers."""

    def __init__(self, socket_path: Path, *, timeout_s: float = 30.0) -> None:
        self._channel = Channel(socket_path)
        self._timeout_s = timeout_s

    def create(self, topic: str, partitions: int) -> dict[int, PartitionState]:
        """See `LogAdmin`. Raises BadRequestError for an impossible name or number."""
        answer = self._call(wire.Create(self._channel.next_id(), topic, partitions))
        if not isinstance(answer, wire.Created):
            raise _unexpected("create", answer)
        return {number: PartitionState(*state) for number, state in answer.states.items()}

    def drop(self, topic: str) -> None:
        self._call(wire.Drop(self._channel.next_id(), topic))

    def topics(self) -> list[str]:
        answer = self._call(wire.Topics(self._channel.next_id()))
        if not isinstance(answer, wire.Named):
            raise _unexpected("topics", answer)
        return answer.topics

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        """See `LogAdmin`. Raises LogGapError for an offset beyond a partition's end, NotFoundError."""
        self._call(wire.Trim(self._channel.next_id(), topic, dict(offsets)))

    def stats(self) -> wire.LogStats:
        answer = self._call(wire.Stats(self._channel.next_id()))
        if not isinstance(answer, wire.Measured):
            raise _unexpected("stats", answer)
        return answer.stats

    def close(self) -> None:
        self._channel.close()

    def _call(self, request: wire.Request) -> wire.Answer:
        return self._channel.call(request, self._timeout_s)


def _unexpected(what: str, answer: wire.Answer) -> InvariantError:
    return InvariantError(f"'{what}' was answered by the log with '{type(answer).__name__}'")
