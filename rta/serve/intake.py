"""From the bodies of one datasource to records in the log: decode → split → encode in a thread, then append.

With quotas, each body is put to its source's quota once its events are known, which is after decoding, and before anything of
it is split and appended: a body over it leaves the batch with all its rows.

Owns the bounds of that work (bytes that wait, threads, batches), the sequence numbers of this process's records and
the lookup of the log's incarnations. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from rta.errors import LogFullError, NotFoundError, QuotaExceededError, RtaError, TooLargeError, UnavailableError
from rta.events import batch
from rta.events.bodies import Body, Limits
from rta.events.decode import Decoded, Edge, Outcome, decode
from rta.events.schemas import Datasource
from rta.log.base import Header, LogWriter, Outgoing
from rta.query.position import Position
from rta.serve.coalesce import Coalescer, GatherLimits
from rta.serve.metrics import Registry
from rta.serve.ports import Definitions
from rta.serve.quotas import Quotas

LOG = logging.getLogger("rta.serve")
Incarnations = Callable[[str], Awaitable[dict[int, str]]]
"""Per partition of a topic (`Datasource.folder`), the log's incarnation."""

DIRECT_BYTES = 256 << 10
"""A body of so many bytes is a batch of its own: gathering would gain nothing and make the others wait for it."""
FOLDERS_MAX = 4_096
INCARNATIONS_MS = 2_000
Value = TypeVar("Value")


class IntakeLimits(NamedTuple):
    """Bounds of one process. `request` are those of one body and its events."""

    request: Limits = Limits()
    waiting_bytes: int = 192 << 20
    """Bytes of bodies held at once, from their first byte read to their answer; beyond: 503."""
    threads: int = max(1, min(4, os.cpu_count() or 1))
    gather: GatherLimits = GatherLimits()
    quotas: Quotas | None = None
    """Of each source; None lets in whatever comes."""


class Appended(NamedTuple):
    """What became of one body, and how far the log reaches now."""

    outcome: Outcome
    position: str


class _Part(NamedTuple):
    partition: int
    events: int
    id_sum: int
    payload: bytes


class _Sent(NamedTuple):
    body: Body
    source: str


class _Prepared(NamedTuple):
    """`refused` holds, where there are quotas, per body the error that it gets instead of its outcome."""

    outcomes: Sequence[Outcome]
    refused: Sequence[RtaError | None]
    parts: list[_Part]


class Budget:
    """Bytes that may wait in this process. What does not fit is refused, not queued."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_used = 0

    def take(self, size: int) -> None:
        """Raises UnavailableError when `size` more bytes do not fit."""
        if self.bytes_used + size > self.bytes_max:
            raise UnavailableError(
                f"accepting events: {self.bytes_used:,} bytes wait to be appended, the limit is {self.bytes_max:,}",
                "send again after the time in 'Retry-After', and fewer requests at once",
            )
        self.bytes_used += size

    def give_back(self, size: int) -> None:
        self.bytes_used -= size


class Intake:
    """The events' way into the log, of one process and one event loop."""

    def __init__(
        self,
        definitions: Definitions,
        writer: LogWriter,
        edge: Edge,
        limits: IntakeLimits,
        clock_ms: Callable[[], int],
        incarnations: Incarnations,
    ) -> None:
        self.definitions = definitions
        self.limits = limits
        self.budget = Budget(limits.waiting_bytes)
        self._writer = writer
        self._edge = edge
        self._clock_ms = clock_ms
        self._incarnations = incarnations
        self._full: Mapping[str, str] = {}
        self._known_incarnations: dict[str, tuple[dict[int, str], int]] = {}
        self._sequences: dict[str, dict[int, int]] = {}
        self._threads = ThreadPoolExecutor(limits.threads, thread_name_prefix="rta-decode")
        self._gathered: Coalescer[_Sent, Appended] = Coalescer(self._process, limits.gather)
        self.registry = Registry()
        counter = self.registry.counter
        self._batches = counter("rta_ingest_batches_total", "Batches decoded and appended.", "datasource")
        self._events = counter("rta_ingest_events_total", "Events by what became of them.", "datasource", "outcome")
        self._rejected = counter("rta_ingest_rejected_total", "Refused events by reason.", "datasource", "reason")
        self._log_bytes = counter("rta_ingest_log_bytes_total", "Bytes of records appended.", "datasource")
        self._append_s = self.registry.histogram(
            "rta_ingest_append_seconds", "Time from the append's start until it is durable.", "datasource"
        )
        self._decode_s = self.registry.histogram(
            "rta_ingest_decode_seconds", "Time from a batch's start until its records are ready.", "datasource"
        )
        self._waiting = self.registry.gauge("rta_ingest_waiting_bytes", "Bytes of bodies held in memory.")

    async def append(self, datasource: str, body: Body, size: int, source: str) -> Appended:
        """Append the body's good events durably.

        Args:
            datasource: Its name; it is looked up when the batch starts.
            body: Unpacked.
            size: Bytes of the body.
            source: Whose quota its events count against.

        Raises:
            QuotaExceededError, TooLargeError: the source's quota does not admit them now, or ever; nothing was accepted.
            NotFoundError: no such datasource, or no longer.
            UnavailableError: not acknowledged; some of it may be in the log.
        """
        if size >= DIRECT_BYTES:
            return await self._gathered.run_alone(datasource, _Sent(body, source))
        return await self._gathered.submit(datasource, _Sent(body, source), size)

    async def in_thread(self, work: Callable[[], Value]) -> Value:
        """Run something that would hold up the event loop in the decoders' threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _contained, work)

    def refuse(self, full: Mapping[str, str]) -> None:
        """Take no events of these datasources, by folder, until told otherwise: the log is too far ahead of its readers.

        For a log that does not count for itself. Whoever looks at it tells this once a second; no request waits for it.
        """
        self._full = full

    def count_waiting(self) -> None:
        self._waiting.set(self.budget.bytes_used)

    async def close(self) -> None:
        """Wait for what is under way. The writer belongs to the caller."""
        await self._gathered.close()
        self._threads.shutdown(wait=False)

    async def _process(self, name: str, bodies: list[_Sent]) -> Sequence[Appended | Exception]:
        datasource = await self.definitions.get(name)
        if (why := self._full.get(datasource.folder)) is not None:
            raise LogFullError(f"accepting events: {why}", "wait until the aggregators have caught up", 2)
        begun = time.perf_counter()
        try:
            prepared = await self._prepare(datasource, bodies)
        except Exception as error:
            if len(bodies) == 1:
                return [error]
            LOG.exception("decoding %d bodies of '%s' together failed; decoding each alone", len(bodies), name)
            return [(await self._alone(name, body)) for body in bodies]
        self._decode_s.observe(time.perf_counter() - begun, name)
        try:
            position = await self._append(datasource, prepared.parts)
        except Exception:
            self._give_back(bodies, prepared)
            raise
        self._count(name, prepared)
        pairs = zip(prepared.outcomes, prepared.refused, strict=True)
        return [refused or Appended(outcome, position) for outcome, refused in pairs]

    async def _alone(self, name: str, body: _Sent) -> Appended | Exception:
        try:
            (result,) = await self._process(name, [body])
        except Exception as error:  # noqa: BLE001  # handed to the one request that it belongs to, which reports it
            return error
        return result

    async def _prepare(self, datasource: Datasource, sent: list[_Sent]) -> _Prepared:
        """Decode in a thread. The batch gets row numbers of its own: an `Edge` is not to be shared between threads."""
        now_ms, limits = self._clock_ms(), self.limits.request
        bodies = [body for body, _ in sent]
        rows_max = sum(limits.events + len(body.data) for body in bodies)
        edge = Edge(self._edge.process, self._edge.take(rows_max))
        quotas = self.limits.quotas
        if quotas is None:
            return await self.in_thread(lambda: _prepare(datasource, bodies, edge, now_ms, limits))
        decoded = await self.in_thread(lambda: decode(datasource, bodies, edge, now_ms, limits))
        refused = await _refused(quotas, sent, decoded.outcomes)
        prepared = _Prepared(decoded.outcomes, refused, [])
        try:
            prepared.parts.extend(await self.in_thread(lambda: _split(datasource, _admitted(decoded, refused))))
        except Exception:
            self._give_back(sent, prepared)
            raise
        return prepared

    def _give_back(self, sent: list[_Sent], prepared: _Prepared) -> None:
        """What was not appended does not count; sent again, it is counted then."""
        if self.limits.quotas is not None:
            for (_, source), outcome, refused in zip(sent, prepared.outcomes, prepared.refused, strict=True):
                if refused is None:
                    self.limits.quotas.give_back(source, outcome.total)

    async def _append(self, datasource: Datasource, parts: list[_Part]) -> str:
        """Returns the position after the parts."""
        folder = datasource.folder
        if not parts:
            return Position(folder, {}).encode()
        try:
            incarnations = await self._incarnations_of(folder)
            if not {part.partition for part in parts} <= incarnations.keys():
                raise UnavailableError(f"appending to '{datasource.name}': its log is not ready", "send it again")
            records = [self._record(datasource, part) for part in parts]
            begun = time.perf_counter()
            ends = await self._writer.append(folder, records)
            self._append_s.observe(time.perf_counter() - begun, datasource.name)
            offsets = {partition: (incarnations[partition], end) for partition, end in ends.items()}
        except NotFoundError as error:
            self._known_incarnations.pop(folder, None)
            await self.definitions.get(datasource.name)
            raise UnavailableError(
                f"appending to '{datasource.name}': its log is being made or removed", "send it again"
            ) from error
        except RtaError:
            self._known_incarnations.pop(folder, None)
            raise
        return Position(folder, offsets).encode()

    async def _incarnations_of(self, folder: str) -> dict[int, str]:
        """What the positions that senders get are said in; looked up again now and then, since a log may be made anew."""
        now_ms = self._clock_ms()
        known, looked_ms = self._known_incarnations.get(folder, (None, 0))
        if known is None or now_ms - looked_ms > INCARNATIONS_MS:
            known = await self._looked_up(folder, known)
            if len(self._known_incarnations) >= FOLDERS_MAX:
                self._known_incarnations.clear()
            self._known_incarnations[folder] = (known, now_ms)
        return known

    async def _looked_up(self, folder: str, known: dict[int, str] | None) -> dict[int, str]:
        try:
            return await self._incarnations(folder)
        except UnavailableError:
            if known is None:
                raise
            return known

    def _record(self, datasource: Datasource, part: _Part) -> Outgoing:
        """Numbers are given on the event loop, in the order in which appends are handed to the writer."""
        sequences = self._sequences.setdefault(datasource.folder, {})
        sequence = sequences.get(part.partition, 0)
        sequences[part.partition] = sequence + 1
        header = Header(part.events, part.id_sum, self._edge.process, sequence, datasource.version)
        return Outgoing(part.partition, header, part.payload)

    def _count(self, name: str, prepared: _Prepared) -> None:
        self._batches.add(1, name)
        self._log_bytes.add(sum(len(part.payload) for part in prepared.parts), name)
        outcomes = [o for o, over in zip(prepared.outcomes, prepared.refused, strict=True) if over is None]
        self._events.add(sum(outcome.successful for outcome in outcomes), name, "accepted")
        refused = 0
        for outcome in outcomes:
            for reason, count in outcome.refusals.reasons.items():
                self._rejected.add(count, name, reason)
                refused += count
        if refused:
            self._events.add(refused, name, "rejected")


def _prepare(datasource: Datasource, bodies: list[Body], edge: Edge, now_ms: int, limits: Limits) -> _Prepared:
    decoded = decode(datasource, bodies, edge, now_ms, limits)
    return _Prepared(decoded.outcomes, [None] * len(bodies), _split(datasource, decoded))


def _split(datasource: Datasource, decoded: Decoded) -> list[_Part]:
    return [
        _Part(partition, rows.num_rows, id_sum, batch.encode(rows))
        for partition, rows, id_sum in batch.split(decoded, datasource.partitions)
    ]


async def _refused(quotas: Quotas, sent: list[_Sent], outcomes: Sequence[Outcome]) -> list[RtaError | None]:
    """Per body why its source's quota does not admit it; the bodies of one source in their order, sources side by side."""
    refused: list[RtaError | None] = [None] * len(sent)
    by_source: dict[str, list[int]] = {}
    for index, (_, source) in enumerate(sent):
        by_source.setdefault(source, []).append(index)

    async def ask(source: str, indices: list[int]) -> None:
        for index in indices:
            try:
                await quotas.admit(source, outcomes[index].total)
            except (QuotaExceededError, TooLargeError) as error:
                refused[index] = error

    await asyncio.gather(*(ask(source, indices) for source, indices in by_source.items()))
    return refused


def _admitted(decoded: Decoded, refused: Sequence[RtaError | None]) -> Decoded:
    """Without the rows of the refused bodies."""
    if not any(refused):
        return decoded
    kept = np.ones(decoded.rows.num_rows, np.bool_)
    for outcome, error in zip(decoded.outcomes, refused, strict=True):
        if error is not None:
            kept[outcome.first_row : outcome.first_row + outcome.successful] = False
    rows = decoded.rows.filter(pa.array(kept)).combine_chunks()
    return replace(decoded, rows=rows, partitions=decoded.partitions[kept], identities=decoded.identities[kept])


def _contained(work: Callable[[], Value]) -> Value:
    """Native kernels report their panics as BaseException; here they end one batch, not the process."""
    try:
        return work()
    except Exception:
        raise
    except BaseException as panic:
        raise RuntimeError(f"a kernel failed: {panic!r}") from panic
