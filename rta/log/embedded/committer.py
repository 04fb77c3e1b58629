"""The thread that does the log's SQLite work, and how waiting appends share a transaction.

Requests are taken in the order in which they came. Appends that wait at the same moment and belong to one topic become
one transaction with one fsync; an append is answered only after it. A request that can't be served (unknown topic, no
room) is refused before that and costs no other. Sockets are not this module's business: answers go to `deliver`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rta.errors import LogFullError, NotFoundError, RtaError
from rta.log.embedded import wire
from rta.log.embedded.folder import LogFolder
from rta.log.embedded.settings import EmbeddedSettings
from rta.log.embedded.storage import Entry

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class AppendJob:
    """One append request. `origin` is whatever `deliver` needs to find its sender."""

    origin: Any
    id: int
    topic: str
    entries: Sequence[Entry]
    bytes: int


@dataclass(slots=True)
class CallJob:
    """Anything else. `work` runs in the thread and returns the answer."""

    origin: Any
    id: int
    work: Callable[[LogFolder], wire.Answer]
    topic: str | None
    """The topic whose waiting readers must look again."""


Job = AppendJob | CallJob


class Outcome(NamedTuple):
    job: Job
    answer: wire.Answer


class Counters:
    """Totals since the start; written by the thread, read by anybody."""

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0
        self.refused = 0
        self.commits = 0
        self.commit_ms_last = 0.0
        self.commit_ms_max = 0.0


class Committer:
    """Runs from `start` to `stop`. `deliver` is called in the thread with what is ready; `died` when it can't go on."""

    def __init__(
        self,
        log: LogFolder,
        settings: EmbeddedSettings,
        deliver: Callable[[list[Outcome]], None],
        died: Callable[[BaseException], None],
    ) -> None:
        self._log = log
        self._commit_bytes_max = settings.commit_bytes_max
        self._deliver = deliver
        self._died = died
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log-committer", daemon=True)
        self.counters = Counters()

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def stop(self) -> None:
        """Work off what waits, close the files, end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            going = True
            while going:
                jobs, going = self._take()
                if jobs:
                    self._work(jobs)
            self._log.close()
        except BaseException as error:
            _logger.exception("the log can't go on")
            self._died(error)

    def _take(self) -> tuple[list[Job], bool]:
        """What waits, up to one transaction's worth; blocks for the first."""
        jobs: list[Job] = []
        size = 0
        try:
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                size += job.bytes if isinstance(job, AppendJob) else 0
                if size >= self._commit_bytes_max:
                    return jobs, True
                job = self._jobs.get_nowait()
        except queue.Empty:
            return jobs, True
        return jobs, False

    def _work(self, jobs: Sequence[Job]) -> None:
        waiting: dict[str, list[AppendJob]] = {}
        for job in jobs:
            if isinstance(job, AppendJob):
                waiting.setdefault(job.topic, []).append(job)
                continue
            self._commit_all(waiting)
            waiting = {}
            self._deliver([Outcome(job, self._call(job))])
        self._commit_all(waiting)

    def _call(self, job: CallJob) -> wire.Answer:
        try:
            return job.work(self._log)
        except RtaError as error:
            return wire.failed(job.id, error)

    def _commit_all(self, waiting: dict[str, list[AppendJob]]) -> None:
        for topic, jobs in waiting.items():
            outcomes: list[Outcome] = []
            admitted = self._admit(topic, jobs, outcomes)
            if admitted:
                self._commit(topic, admitted, outcomes)
            self._deliver(outcomes)

    def _admit(self, topic: str, jobs: Sequence[AppendJob], outcomes: list[Outcome]) -> list[AppendJob]:
        """Refuse what can't be served; the rest will share a transaction."""
        admitted = []
        size = 0
        for job in jobs:
            try:
                storage = self._log.topic(topic)
                storage.document.check_partitions({entry.partition for entry in job.entries})
                storage.check_room(size + job.bytes)
            except RtaError as error:
                self._refuse(job, error, outcomes)
            else:
                admitted.append(job)
                size += job.bytes
        return admitted

    def _commit(self, topic: str, jobs: Sequence[AppendJob], outcomes: list[Outcome]) -> None:
        counters = self.counters
        begun = time.perf_counter()
        try:
            ends = self._log.topic(topic).append([job.entries for job in jobs])
        except RtaError as error:
            for job in jobs:
                self._refuse(job, error, outcomes)
            return
        counters.commit_ms_last = (time.perf_counter() - begun) * 1000
        counters.commit_ms_max = max(counters.commit_ms_max, counters.commit_ms_last)
        counters.commits += 1
        for job, touched in zip(jobs, ends, strict=True):
            counters.records += len(job.entries)
            counters.bytes += job.bytes
            outcomes.append(Outcome(job, wire.Appended(job.id, touched)))

    def _refuse(self, job: AppendJob, error: RtaError, outcomes: list[Outcome]) -> None:
        self.counters.refused += 1
        if not isinstance(error, LogFullError | NotFoundError):
            _logger.warning("append to topic '%s' failed: %s", job.topic, error)
        outcomes.append(Outcome(job, wire.failed(job.id, error)))
