"""Plain objects behind the ports that the HTTP apps are written against."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from rta.errors import BadRequestError, ConflictError, NotFoundError
from rta.events.builtin import events_document
from rta.events.definition import check_change, parse_datasource
from rta.events.schemas import Datasource
from rta.log.base import Outgoing
from rta.query.parse import parse_query
from rta.query.sql.document import parse_sql_document
from rta.query.sql.statement import parse_statement
from rta.serve.sql import CONTENT_TYPES
from rta.serve.sql_answer import Form

NOW_MS = 1_767_261_600_000
"""2026-01-01T10:00:00Z."""
KEYLESS = {"name": "clicks", "time": "at", "key": "who", "columns": {"who": "string", "price": "double"}}


class FakeDefinitions:
    """The catalog, in memory."""

    def __init__(self) -> None:
        self.known: dict[str, Datasource] = {}
        self.made = 0
        for document in (events_document(), KEYLESS):
            self.put(document)

    def put(self, document: Mapping[str, Any]) -> Datasource:
        self.made += 1
        made = parse_datasource(document, incarnation=f"life{self.made}", version=self.made, partitions=4)
        self.known[made.name] = made
        return made

    async def get(self, name: str) -> Datasource:
        found = self.known.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self.known, n=1)
            raise NotFoundError(f"no datasource '{name}'", f"did you mean '{near[0]}'?" if near else "")
        return found

    def at_hand(self, name: str) -> Datasource | None:
        return self.known.get(name)

    async def all(self) -> list[Datasource]:
        return list(self.known.values())

    async def create(self, document: Mapping[str, Any]) -> Datasource:
        made = parse_datasource(document, incarnation="new", version=self.made, partitions=4)
        if made.name in self.known:
            raise ConflictError(f"datasource '{made.name}' exists already", "use PUT to change it")
        return self.put(document)

    async def update(self, name: str, document: Mapping[str, Any]) -> Datasource:
        old = await self.get(name)
        new = parse_datasource(document, incarnation=old.incarnation, version=old.version, partitions=old.partitions)
        check_change(old, new)
        return self.put(document)

    async def delete(self, name: str) -> None:
        await self.get(name)
        del self.known[name]


@dataclass
class FakeWriter:
    """A log in memory. `gate` holds appends back, `failures` are raised one per append."""

    appended: list[tuple[str, list[Outgoing]]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    failures: list[BaseException] = field(default_factory=list)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    under_way: int = 0

    async def append(self, topic: str, records: Sequence[Outgoing]) -> dict[int, int]:
        self.under_way += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.failures:
                raise self.failures.pop(0)
            self.appended.append((topic, list(records)))
            for record in records:
                key = (topic, record.partition)
                self.ends[key] = self.ends.get(key, 0) + 1
            return {r.partition: self.ends[topic, r.partition] for r in records}
        finally:
            self.under_way -= 1

    async def close(self) -> None:
        return None

    @property
    def records(self) -> list[Outgoing]:
        return [record for _, records in self.appended for record in records]

    @property
    def events(self) -> int:
        return sum(record.header.events for record in self.records)


async def incarnations(folder: str) -> dict[int, str]:
    """As `rta.serve.intake.Incarnations`."""
    return {partition: f"{folder}/{partition}" for partition in range(4)}


@dataclass(frozen=True)
class FakeReply:
    status: int
    body: bytes
    content_type: str = "application/json"
    etag: str | None = "v1"
    meta: dict[str, Any] | None = None


class FakeAdviser:
    """Has no advice."""

    async def advise(self, name: str | None) -> dict[str, Any]:
        if name not in (None, "events"):
            raise NotFoundError(f"no datasource '{name}'")
        return {"datasources": [{"datasource": "events", "questions": 0, "proposals": [], "put": None}]}


@dataclass
class FakeService:
    """Reads questions with the real parser and answers every one alike; at once when it is `quick`."""

    quick: bool = False
    failure: BaseException | None = None
    gate: asyncio.Event | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    cancelled: int = 0

    def answer_again(
        self, body: bytes, *, after_header: str | None, if_none_match: str | None, accept_arrow: bool
    ) -> FakeReply | None:
        return None

    def answer_now(
        self,
        document: dict[str, Any],
        *,
        body: bytes,
        after_header: str | None,
        if_none_match: str | None,
        accept_arrow: bool,
    ) -> FakeReply | None:
        if not self.quick:
            return None
        self._note(document, after_header, accept_arrow)
        return self._reply(if_none_match, accept_arrow)

    async def answer(
        self, document: dict[str, Any], *, after_header: str | None, if_none_match: str | None, accept_arrow: bool
    ) -> FakeReply:
        self._note(document, after_header, accept_arrow)
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self._reply(if_none_match, accept_arrow)

    def _note(self, document: dict[str, Any], after_header: str | None, accept_arrow: bool) -> None:
        parse_query(document)
        self.asked.append({"document": document, "after": after_header, "arrow": accept_arrow})

    def _reply(self, if_none_match: str | None, accept_arrow: bool) -> FakeReply:
        if self.failure is not None:
            raise self.failure
        if if_none_match == '"v1"':
            return FakeReply(304, b"")
        meta = {"version": "v1", "complete": True, "sources": ["hot"], "note": "naïve\n"}
        if accept_arrow:
            return FakeReply(200, b"ARROW", "application/vnd.apache.arrow.stream", meta=meta)
        return FakeReply(200, orjson.dumps({"rows": [{"n": 1}], "meta": meta}))

    async def explain(self, document: dict[str, Any]) -> dict[str, Any]:
        query = parse_query(document)
        return {"plan": {"datasource": query.datasource}}

    @property
    def adviser(self) -> FakeAdviser:
        return FakeAdviser()


@dataclass
class FakeSql:
    """Reads statements with the real parser and answers every one alike."""

    asked: list[dict[str, Any]] = field(default_factory=list)

    async def answer(
        self, document: dict[str, Any], *, after_header: str | None, if_none_match: str | None, form: Form
    ) -> FakeReply:
        question = parse_sql_document(document, limit_max=1_000)
        parse_statement(question.query)
        self.asked.append({"question": question, "after": after_header, "form": form})
        if if_none_match == '"v1"':
            return FakeReply(304, b"")
        meta = {"version": "v1", "complete": True, "sources": ["events"]}
        if form == "json":
            return FakeReply(200, orjson.dumps({"rows": [{"n": 1}], "meta": meta}), meta=meta)
        return FakeReply(200, b"n\n1\n", CONTENT_TYPES[form], meta=meta)


@dataclass
class FakeControl:
    """The coordinator's word. `failure` is raised by every call."""

    reason: str = ""
    degraded: tuple[str, ...] = ()
    failure: Exception | None = None
    gate: asyncio.Event | None = None
    metrics: list[Any] = field(default_factory=list)
    ledgers: list[tuple[str | None, tuple[int, int] | None]] = field(default_factory=list)

    async def status(self) -> dict[str, Any]:
        await self._meet()
        shard = {"lag_ms": 38, "caught_up": True, "watermarks_ms": {"0": 5, "1": 7}, "folder": "events.life1"}
        return {"assignment": 3, "datasources": {"events": shard}, "metrics": self.metrics}

    async def ledger(self, datasource: str | None, time_range_ms: tuple[int, int] | None) -> dict[str, Any]:
        await self._meet()
        self.ledgers.append((datasource, time_range_ms))
        if datasource not in (None, "events"):
            raise NotFoundError(f"no datasource '{datasource}'")
        return {"lost": 0, "duplicated": 0, "stages": {}, "mismatches": []}

    async def ready(self) -> tuple[str, tuple[str, ...]]:
        await self._meet()
        return self.reason, self.degraded

    async def scale(self, aggregators: int) -> dict[str, Any]:
        await self._meet()
        if aggregators > 8:
            raise BadRequestError(f"{aggregators} aggregators are asked for; there can be 1 to 8")
        return {"aggregators": [f"aggregator-{k}" for k in range(aggregators)], "before": [], "assignment": 3}

    async def resume(self, datasource: str, accept_loss: bool) -> dict[str, Any]:
        await self._meet()
        return {"datasource": datasource, "gaps": [{"partition": 1, "records": 7}], "resumed": accept_loss}

    async def removal(self, datasource: Datasource) -> dict[str, Any]:
        await self._meet()
        return {"events": {"rows": 5, "files": 1, "bytes": 900}, "log": {"bytes": 77}}

    async def _meet(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
