"""The Python client: events out, questions in, over HTTP.

Owns what a sender must get right: the same bytes with the same `Idempotency-Key` again when a request was not
acknowledged, a pause that grows, errors of the server as the same exceptions that the server raised. Knows nothing of
how rta works inside; it is the only module that the command line, the generator and the demo talk to a server through.
"""

from __future__ import annotations

import gzip
import ipaddress
import random
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import orjson

from rta.errors import NotFoundError, RtaError, TimeLimitError, UnavailableError
from rta.query.position import Position, decode_position

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

Event = Mapping[str, Any]
ARROW = "application/vnd.apache.arrow.stream"
NDJSON = "application/x-ndjson"
BATCH_EVENTS = 2_000
BATCH_BYTES = 4 << 20
COMPRESS_BYTES = 16 << 10
"""Bodies from here on are compressed, unless the server is on this machine, where it costs more than it saves."""
ERRORS_KEPT = 1_000
"""Refused events that a receipt lists one by one; beyond that they are only counted."""
PAUSE_S_FIRST = 0.1
PAUSE_S_MAX = 5.0
RESEND_STATUS = frozenset({429, 500, 502, 503, 504})
"""Not acknowledged: the same bytes with the same key may be sent again."""
ASK_AGAIN_STATUS = frozenset({429, 502, 503})
"""A question that ran into its time limit (504) or an error (500) would do so again."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that was refused. `index` counts from 0 within what was sent."""

    index: int
    reason: str
    detail: str
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the server said of the events: all `successful` ones are durable, `refused` lists the first of the rest."""

    total: int
    successful: int
    failed: int
    refused: tuple[Refused, ...]
    position: str | None
    """How far the log reached; pass it on as `after` to read your own writes. None when nothing was accepted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of `Client.query`: rows as they came, and what the answer says of itself."""

    rows: list[dict[str, Any]]
    meta: dict[str, Any]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_polars(self) -> pl.DataFrame:
        """A frame whose `time` is a UTC timestamp."""
        import polars as pl

        frame = pl.DataFrame(self.rows, infer_schema_length=None)
        if frame.schema.get("time") == pl.String:
            frame = frame.with_columns(pl.col("time").str.to_datetime(time_unit="ms", time_zone="UTC"))
        return frame

    def to_arrow(self) -> pa.Table:
        return self.to_polars().to_arrow()

    def to_pandas(self) -> Any:
        return self.to_polars().to_pandas()


@dataclass(frozen=True, slots=True)
class SqlAnswer:
    """An answer of `Client.sql`: a table in the types of the statement, and what the answer says of itself."""

    table: pa.Table
    meta: dict[str, Any]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def to_arrow(self) -> pa.Table:
        return self.table

    def to_polars(self) -> pl.DataFrame:
        import polars as pl

        frame = pl.from_arrow(self.table)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def to_pandas(self) -> Any:
        return self.table.to_pandas()


class Client:
    """Talks to one rta. May be used from several threads; a context manager.

    Args:
        url: Where it listens, such as "http://127.0.0.1:8000".
        key: The key to send as a bearer token, where the server wants one.
        retry_s: For how long a request that was not acknowledged is tried again before the error is raised.
        timeout_s: How long one try may take.
        on_pause: Told of each failure that is waited out.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        retry_s: float = 60.0,
        timeout_s: float = 30.0,
        on_pause: Callable[[RtaError], None] | None = None,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RtaError(f"'{url}' is no address of an rta", "write it as http://127.0.0.1:8000")
        self.url = url.rstrip("/")
        self._retry_s = retry_s
        self._on_pause = on_pause
        self._closed = threading.Event()
        self._compress = not _on_this_machine(parts.hostname)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=self._compress)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Pauses of other threads end at once, with the error that they were waiting out."""
        self._closed.set()
        self._http.close()

    def send(
        self,
        events: Sequence[Event] | Event | bytes,
        datasource: str = "events",
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Send events and return when every accepted one is durable.

        Args:
            events: Objects, one object, or NDJSON bytes. Objects are cut into requests of about 2,000; bytes are sent
                as one request.
            datasource: Where they go.
            idempotency_key: Names these events for datasources without an id: sending the same events with the same
                key again counts them once. By default each call has a key of its own, shared by its own retries.

        Raises:
            NotFoundError: there is no such datasource.
            UnavailableError: not acknowledged within `retry_s`. Sending the same again, with the same key, is safe.
            RtaError: the server refused the request as a whole.
        """
        key = idempotency_key or uuid.uuid4().hex
        if isinstance(events, bytes):
            return self._send_body(events, datasource, key)
        rows = [events] if isinstance(events, Mapping) else events
        receipts: list[Receipt] = []
        firsts: list[int] = []
        for number, (first, body) in enumerate(_bodies(rows)):
            receipts.append(self._send_body(body, datasource, f"{key}:{number}"))
            firsts.append(first)
        return merge_receipts(receipts, firsts)

    def query(self, document: Mapping[str, Any] | None = None, /, **fields: Any) -> Answer:
        """Ask a question in the form of `POST /v1/query`; keyword arguments are added to the document.

        Raises:
            InvalidQueryError, NotFoundError, TimeLimitError: as the server said.
        """
        answer = self._document("POST", "/v1/query", {**(document or {}), **fields})
        return Answer(answer["rows"], answer["meta"])

    def sql(self, query: str, parameters: Sequence[Any] = (), **fields: Any) -> SqlAnswer:
        """Ask in SQL; parameters are those of `?` or of `$1`, `$2`, … in the statement.

        Raises:
            InvalidQueryError, NotFoundError, TimeLimitError: as the server said.
        """
        import pyarrow as pa

        body = orjson.dumps({"query": query, "parameters": list(parameters), **fields})
        headers = {"Content-Type": "application/json", "Accept": ARROW}
        request = self._http.build_request("POST", "/v1/sql", content=body, headers=headers)
        response = self._exchange(request, ASK_AGAIN_STATUS, "POST /v1/sql")
        if response.is_error:
            raise error_of(response, "POST /v1/sql")
        return SqlAnswer(pa.ipc.open_stream(response.content).read_all(), orjson.loads(response.headers["RTA-Meta"]))

    def sql_rows(self, query: str, parameters: Sequence[Any] = (), **fields: Any) -> Answer:
        """The same as rows of JSON."""
        answer = self._document("POST", "/v1/sql", {"query": query, "parameters": list(parameters), **fields})
        return Answer(answer["rows"], answer["meta"])

    def wait(self, datasource: str, position: str, timeout_s: float = 60.0) -> None:
        """Return when every answer contains what was acknowledged with this position.

        Raises:
            TimeLimitError: it was not reached in time.
        """
        deadline = time.monotonic() + timeout_s
        nothing = {
            "datasource": datasource,
            "time_range": "1970-01-01T00:00:00Z/1970-01-01T00:01:00Z",
            "granularity": "all",
            "metrics": [{"name": "events", "type": "count"}],
        }
        while True:
            try:
                self.query(nothing, after=position)
                return
            except TimeLimitError:
                if time.monotonic() >= deadline:
                    raise

    def status(self) -> dict[str, Any]:
        return self._document("GET", "/v1/status")

    def advise(self, datasource: str | None = None) -> dict[str, Any]:
        """Which rollups the last questions would have wanted."""
        return self._document("GET", "/v1/advise", params=None if datasource is None else {"datasource": datasource})

    def resume(self, datasource: str, accept_loss: bool = False) -> dict[str, Any]:
        """Go on behind a gap in the log that has stopped a datasource. Raises an error that says what is lost unless accepted."""
        params = {"accept_loss": "true"} if accept_loss else None
        return self._document("POST", f"/v1/datasources/{datasource}/resume", params=params)

    def scale(self, aggregators: int) -> dict[str, Any]:
        """Let so many aggregators take part from now on; who does, and who did before."""
        return self._document("POST", "/v1/scale", {"aggregators": aggregators})

    def ledger(self, datasource: str | None = None, time_range: str | None = None) -> dict[str, Any]:
        given = {"datasource": datasource, "time_range": time_range}
        return self._document("GET", "/v1/ledger", params={k: v for k, v in given.items() if v is not None})

    def datasources(self) -> list[str]:
        """The names of all datasources."""
        answer = self._document("GET", "/v1/datasources")
        return [str(row["name"]) for row in answer["datasources"]]

    def create_datasource(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Returns when it takes events. Raises ConflictError where the name is taken."""
        return self._document("POST", "/v1/datasources", document)

    def _send_body(self, body: bytes, datasource: str, key: str) -> Receipt:
        headers = {"Content-Type": NDJSON, "Idempotency-Key": key}
        if self._compress and len(body) >= COMPRESS_BYTES:
            body = gzip.compress(body, compresslevel=1)
            headers["Content-Encoding"] = "gzip"
        path = f"/v1/events/{urllib.parse.quote(datasource, safe='')}"
        request = self._http.build_request("POST", path, content=body, headers=headers)
        response = self._exchange(request, RESEND_STATUS, f"sending to datasource '{datasource}'")
        if response.status_code not in (200, 422):
            error = error_of(response, f"sending to datasource '{datasource}'")
            raise self._with_names(error) if isinstance(error, NotFoundError) else error
        return _receipt(orjson.loads(response.content))

    def _with_names(self, error: NotFoundError) -> NotFoundError:
        """Say which datasources there are, if the server can."""
        try:
            names = ", ".join(f"'{name}'" for name in sorted(self.datasources()))
        except RtaError:
            return error
        known = f"there are: {names}" if names else "there are none yet"
        return NotFoundError(error.message, f"{known}; POST /v1/datasources makes one")

    def _document(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, params: dict[str, str] | None = None
    ) -> Any:
        content = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = self._http.build_request(method, path, content=content, headers=headers, params=params)
        response = self._exchange(request, ASK_AGAIN_STATUS, f"{method} {path}")
        if response.is_error:
            raise error_of(response, f"{method} {path}")
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            text = response.text[:80]
            raise RtaError(f"{method} {path}: answer is no JSON: '{text}'", f"is {self.url} an rta?") from error

    def _exchange(self, request: httpx.Request, again: frozenset[int], doing: str) -> httpx.Response:
        """Send until an answer comes that another try would not change, or the time is over."""
        deadline = time.monotonic() + self._retry_s
        pause_s = PAUSE_S_FIRST
        while True:
            asked_s: float | None = None
            try:
                response = self._http.send(request)
                if response.status_code not in again:
                    return response
                asked_s = _retry_after_s(response)
                failure: RtaError = error_of(response, doing)
            except httpx.TransportError as error:
                failure = self._unreachable(doing, error)
            wait_s = pause_s * random.uniform(0.5, 1.0) if asked_s is None else min(asked_s, PAUSE_S_MAX)
            if time.monotonic() + wait_s > deadline or self._closed.is_set():
                raise failure
            if self._on_pause is not None:
                self._on_pause(failure)
            if self._closed.wait(wait_s):
                raise failure
            pause_s = min(pause_s * 2, PAUSE_S_MAX)

    def _unreachable(self, doing: str, error: httpx.TransportError) -> UnavailableError:
        what = "nothing listens there" if isinstance(error, httpx.ConnectError) else str(error) or type(error).__name__
        return UnavailableError(f"{doing}: no answer from {self.url}: {what}", "is it running? 'rta up' starts it")


def merge_receipts(receipts: Sequence[Receipt], firsts: Sequence[int]) -> Receipt:
    """One receipt for several requests; `firsts` are the indices of their first events among all that were sent."""
    refused = [
        Refused(first + row.index, row.reason, row.detail, row.event_id)
        for receipt, first in zip(receipts, firsts, strict=True)
        for row in receipt.refused
    ]
    return Receipt(
        total=sum(receipt.total for receipt in receipts),
        successful=sum(receipt.successful for receipt in receipts),
        failed=sum(receipt.failed for receipt in receipts),
        refused=tuple(refused[:ERRORS_KEPT]),
        position=merge_positions(receipt.position for receipt in receipts),
    )


def merge_positions(positions: Iterable[str | None]) -> str | None:
    """One position that covers all of them; those of a datasource that has been made again since are dropped."""
    merged: Position | None = None
    for text in positions:
        if text is None:
            continue
        position = decode_position(text)
        merged = merged.merge(position) if merged is not None and merged.folder == position.folder else position
    return None if merged is None else merged.encode()


def error_of(response: httpx.Response, doing: str) -> RtaError:
    """The exception that the server meant: its class by the document's code, else by the status."""
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or "error" not in document:
        document = {"error": "", "message": f"{doing}: status {response.status_code}", "hint": response.text[:200]}
    kinds = {kind.code: kind for kind in _error_classes(RtaError)}
    kind = kinds.get(str(document["error"]))
    if kind is None:
        kind = UnavailableError if response.status_code in (502, 503) else RtaError
    asked_s = _retry_after_s(response)
    retry_after_s = None if asked_s is None else round(asked_s)
    return kind(str(document.get("message", doing)), str(document.get("hint", "")), retry_after_s)


def _error_classes(kind: type[RtaError]) -> Iterator[type[RtaError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _error_classes(below)


def _retry_after_s(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def _receipt(document: Mapping[str, Any]) -> Receipt:
    refused = tuple(
        Refused(int(row["index"]), str(row["reason"]), str(row.get("detail", "")), row.get("event_id"))
        for row in document.get("errors", [])[:ERRORS_KEPT]
    )
    position = document.get("position") or None
    return Receipt(document["total"], document["successful"], document["failed"], refused, position)


def _bodies(events: Sequence[Event]) -> Iterator[tuple[int, bytes]]:
    """NDJSON bodies of at most `BATCH_EVENTS` events and about `BATCH_BYTES`, each with its first event's index."""
    lines: list[bytes] = []
    first = held_bytes = 0
    for index, event in enumerate(events):
        line = orjson.dumps(event)
        if lines and (len(lines) == BATCH_EVENTS or held_bytes + len(line) > BATCH_BYTES):
            yield first, b"\n".join(lines)
            lines, first, held_bytes = [], index, 0
        lines.append(line)
        held_bytes += len(line) + 1
    if lines:
        yield first, b"\n".join(lines)


def _on_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
