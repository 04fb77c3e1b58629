"""The topics behind datasources, for the coordinator: rta's own, which it makes, and other producers', which it only looks at."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from rta.errors import InvariantError, NotFoundError, RtaError
from rta.events.schemas import Datasource
from rta.log.base import LogAdmin, LogReader, PartitionState

logger = logging.getLogger(__name__)
LOOK_S = 5.0
"""How often topics of other producers are asked whether they have grown."""


class SourceLog(LogReader, Protocol):
    """A reader of other producers' topics."""

    def starts(self, topic: str, start: str | int) -> dict[int, PartitionState]:
        """The partitions, each with the offset from which a datasource reads that begins at `start` now."""
        ...


def check_all_there(datasource: Datasource, states: Mapping[int, PartitionState]) -> None:
    """Raises NotFoundError: the topic was made again meanwhile, with fewer partitions."""
    if len(states) < datasource.partitions:
        raise NotFoundError(
            f"topic '{datasource.topic}' has {len(states)} partitions, '{datasource.name}' reads {datasource.partitions}",
            "make it with as many again, or delete the datasource",
        )


class Topics:
    """See the module. For one thread at a time.

    Args:
        log: Makes rta's own topics.
        open_source: Opens a reader of other producers' ones, when it is needed first.
    """

    def __init__(self, log: LogAdmin, open_source: Callable[[], SourceLog] | None) -> None:
        self._log = log
        self._open_source = open_source
        self._source: SourceLog | None = None
        self._looked_at = 0.0

    def begin(self, datasource: Datasource) -> dict[int, PartitionState]:
        """Partitions of a datasource that is new, each with the offset that it begins at; its topic is made if it is ours.

        Raises NotFoundError where another producer's topic, or a partition of it, is not there.
        """
        if datasource.source is None:
            return self._log.create(datasource.folder, datasource.partitions)
        states = self._sources().starts(datasource.source.topic, datasource.source.start)
        check_all_there(datasource, states)
        return {number: state for number, state in states.items() if number < datasource.partitions}

    def now(self, datasource: Datasource) -> dict[int, PartitionState]:
        """Its partitions as they are; a topic of ours that is gone is made again. Raises NotFoundError."""
        if datasource.source is None:
            return self._log.create(datasource.folder, datasource.partitions)
        return self._sources().partitions(datasource.source.topic)

    def grown(self, datasources: Iterable[Datasource]) -> Iterator[tuple[Datasource, int]]:
        """Now and then: the datasources whose topic has more partitions than they know of, and how many."""
        reading = [d for d in datasources if d.source is not None]
        if not reading or time.monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = time.monotonic()
        for datasource in reading:
            try:
                found = len(self.now(datasource))
            except RtaError as error:
                # Its aggregators say the same, as an alarm or by waiting.
                logger.info("looking at the topic of %s: %s", datasource.name, error)
                continue
            if found > datasource.partitions:
                yield datasource, found

    def _sources(self) -> SourceLog:
        if self._source is None:
            if self._open_source is None:
                raise InvariantError("this coordinator was given no way to read topics of other producers")
            self._source = self._open_source()
        return self._source
