"""From the bodies of many requests to one batch of rows and one outcome per request.

Owns the order of the steps (`STEPS`), each a function from `Pass` to `Pass`; a further check or an enrichment is one
more entry. The fast decoder reads everything in one walk; what it does not want to judge the exact one decides, event
by event. No clock and no randomness: `now_ms` and the numbers of an `Edge` come from the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec.structs import replace

from rta.errors import BadRequestError, RtaError, TooLargeError
from rta.events.bodies import Body, Format, Limits, format_of, unpack
from rta.events.columns import Prepared, Scanned, build_table, prepare, read_values, scan, sure_rows
from rta.events.exact import TIME_MAX_MS, TIME_MIN_MS, Judge, judge
from rta.events.frames import EMPTY, MISSING, READ, SURE, TOO_MANY, UNSURE
from rta.events.keys import hash_text, placed
from rta.events.schemas import ID_HI, ID_LO, ColumnType, Datasource
from rta.events.tabular import read_arrow
from rta.events.verdicts import Reason, Refusals, Verdict, shown, too_doubtful

__all__ = ["STEPS", "Body", "Decoded", "Edge", "Limits", "Outcome", "Pass", "decode", "prepared", "unpack", "warm_up"]

_WORD = 1 << 64
_NO_SPANS = np.zeros((0, 2), np.int64)
_NO_NUMBERS = np.zeros(0, np.int64)
_NO_IDENTITIES = np.zeros((0, 2), np.uint64)
_NO_PARTITIONS = np.zeros(0, np.int32)


@dataclass(slots=True)
class Edge:
    """One ingest process: its id and how many events it has numbered. Ids of a datasource without ids come from it."""

    process: int
    next_row: int = 0

    def take(self, count: int) -> int:
        """The first of `count` numbers that nobody else in this process gets."""
        first = self.next_row
        self.next_row += count
        return first


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Args:
        error: Why the body as a whole could not be read; then nothing of it was accepted.
        total: Events that it had; `successful` of them became rows.
        first_row: Where its accepted events begin in `Decoded.rows`.
        generated_ids: The ids that were made for it, in the order of its events; None if it did not ask for that.
    """

    error: RtaError | None
    total: int = 0
    successful: int = 0
    refusals: Refusals = field(default_factory=Refusals)
    first_row: int = 0
    generated_ids: list[str] | None = None

    @property
    def verdicts(self) -> list[Verdict]:
        """Of the first refused events; `refusals.reasons` counts all of them."""
        return self.refusals.verdicts


@dataclass(frozen=True, slots=True)
class Decoded:
    """The accepted events of all bodies, in the bodies' order.

    Args:
        rows: In the raw schema.
        partitions: Per row, int32.
        identities: Per row, uint64 of shape (n, 2): high and low half.
        outcomes: One per body.
    """

    rows: pa.Table
    partitions: npt.NDArray[np.int32]
    identities: npt.NDArray[np.uint64]
    outcomes: list[Outcome]


class Pass(msgspec.Struct, frozen=True):
    """One run of the steps over bodies of one reader. A msgspec struct: a changed copy costs 1 µs, of a dataclass 16.

    `spans` holds per readable body its first event and the one behind its last; `numbers` says which event each of
    `rows` is. Events without a row are among the `refused` of their body.
    """

    prepared: Prepared
    bodies: Sequence[Body]
    data: Sequence[tuple[bytes, Format]]
    edge: Edge
    rules: Judge
    limits: Limits
    generates: bool
    """Whether any of the bodies asks for ids to be made."""
    spans: npt.NDArray[np.int64] = _NO_SPANS
    errors: dict[int, RtaError] = {}
    scanned: Scanned | None = None
    refused: dict[int, Refusals] = {}
    judged: dict[int, list[Any]] = {}
    rows: pa.Table | None = None
    numbers: npt.NDArray[np.int64] = _NO_NUMBERS
    generated: dict[int, str] = {}
    identities: npt.NDArray[np.uint64] = _NO_IDENTITIES
    partitions: npt.NDArray[np.int32] = _NO_PARTITIONS

    def body_of(self, event: int) -> int:
        """Which body an event came from."""
        return int(np.searchsorted(self.spans[:, 1], event, side="right"))

    def generates_for(self, event: int) -> bool:
        return self.generates and self.bodies[self.body_of(event)].generate_ids

    @property
    def table(self) -> pa.Table:
        assert self.rows is not None
        return self.rows


@lru_cache(maxsize=256)
def _prepared(key: tuple[str, int], holder: _Held) -> Prepared:
    return prepare(holder.datasource)


class _Held:
    """A datasource as an argument that any other of the same folder and version equals."""

    def __init__(self, datasource: Datasource) -> None:
        self.datasource = datasource

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

    def __hash__(self) -> int:
        return 0


def prepared(datasource: Datasource) -> Prepared:
    """The compiled form of a datasource, kept per folder and version."""
    found = _prepared((datasource.folder, datasource.version), _Held(datasource))
    return found if found.datasource is datasource or found.datasource == datasource else prepare(datasource)


def scan_text(state: Pass) -> Pass:
    """Find events and values in the JSON bodies; a body that is no JSON gets its error."""
    texts = [(data, kind is Format.LINES) for data, kind in state.data]
    scanned = scan(state.prepared, texts, state.rules.event_bytes, state.limits.events)
    ends = scanned.outcomes[:, 0]
    spans = np.zeros((len(ends), 2), np.int64)
    spans[1:, 0], spans[:, 1] = ends[:-1], ends
    errors = dict(state.errors)
    for i in np.nonzero(scanned.outcomes[:, 1] != READ)[0].tolist():
        errors[i] = _unreadable(state, scanned, i)
    return replace(state, scanned=scanned, spans=spans, errors=errors)


def read_columns(state: Pass) -> Pass:
    """Read typed values; what is missing, or is not its column's type, is left to the exact decoder."""
    assert state.scanned is not None
    rules = state.prepared.rules_without_id() if state.generates else state.prepared.rules
    read_values(state.scanned, rules)
    return state


def bound_times(state: Pass) -> Pass:
    """Events too old or in the future are left to the exact decoder, which says so."""
    assert state.scanned is not None
    times = state.scanned.numbers[state.prepared.rules.numbers[0]]
    outside = (times < state.rules.oldest_ms) | (times > state.rules.newest_ms)
    if outside.any():
        doubts = state.scanned.doubts
        doubts[outside & ((doubts == SURE) | (doubts == MISSING) & ~state.scanned.absent(0))] = UNSURE
    return state


def require_ids(state: Pass) -> Pass:
    """Where some bodies ask for ids to be made, the others' events still need theirs."""
    scanned, slot = state.scanned, state.prepared.id_slot
    if scanned is None or slot is None or not state.generates:
        return state
    for event in np.nonzero(scanned.absent(slot) & (scanned.doubts == 0))[0].tolist():
        if not state.generates_for(event):
            scanned.doubts[event] = UNSURE
    return state


def judge_doubtful(state: Pass) -> Pass:
    """The exact decoder decides what the fast one did not want to, body by body, as far as a body may ask for that."""
    assert state.scanned is not None
    doubtful = np.nonzero(state.scanned.doubts)[0]
    if not len(doubtful):
        return state
    refused, judged, errors = dict(state.refused), dict(state.judged), dict(state.errors)
    owners = np.searchsorted(state.spans[:, 1], doubtful, side="right")
    for events in np.split(doubtful, np.flatnonzero(np.diff(owners)) + 1):
        body = state.body_of(int(events[0]))
        try:
            refused[body] = _judge_body(state, state.scanned, body, events, judged)
        except TooLargeError as error:
            errors[body] = error
            first, end = state.spans[body].tolist()
            state.scanned.doubts[first:end] = UNSURE
            judged = {event: row for event, row in judged.items() if not first <= event < end}
    return replace(state, refused=refused, judged=judged, errors=errors)


def _judge_body(
    state: Pass, scanned: Scanned, body: int, events: npt.NDArray[np.int64], judged: dict[int, list[Any]]
) -> Refusals:
    """Once its verdicts need no words, what only lacks a field is just counted. Raises TooLargeError."""
    rules = changed(state.rules, ids_generated=state.bodies[body].generate_ids)
    first = int(state.spans[body, 0])
    found = Refusals()
    room = state.limits.exact_events
    missing = scanned.doubts[events] == MISSING
    for at, event in enumerate(events.tolist()):
        if found.full and missing[at]:
            found.reasons[Reason.MISSING_FIELD] += 1
            continue
        if not room:
            raise too_doubtful(state.limits.exact_events)
        room -= 1
        verdict = judge(scanned.text(event), rules, event - first)
        if isinstance(verdict, Verdict):
            found.add(verdict)
        else:
            judged[event] = verdict
    return found


def build_rows(state: Pass) -> Pass:
    """Columns of what both decoders accepted, in the order of the events."""
    scanned = state.scanned
    assert scanned is not None
    numbers = sure_rows(scanned)
    schema = state.prepared.sent_schema
    table = pa.Table.from_arrays(build_table(state.prepared, scanned, numbers), schema=schema)
    if state.judged:
        events = sorted(state.judged)
        columns = zip(*(state.judged[event] for event in events), strict=True)
        arrays = [pa.array(list(values), f.type) for values, f in zip(columns, schema, strict=True)]
        numbers = np.concatenate([numbers, np.array(events, np.int64)])
        order = np.argsort(numbers, kind="stable")
        table = pa.concat_tables([table, pa.Table.from_arrays(arrays, schema=schema)]).take(pa.array(order))
        table, numbers = table.combine_chunks(), numbers[order]
    return replace(state, rows=table, numbers=numbers)


def make_ids(state: Pass) -> Pass:
    """Ids for the events that have none, where the request asked for them: process and row number, as text."""
    slot = state.prepared.id_slot
    if slot is None or not state.generates:
        return state
    table = state.table
    column = table.column(slot)
    missing = np.nonzero(column.is_null().to_numpy())[0]
    if not len(missing):
        return state
    first = state.edge.take(len(missing))
    made = [f"{state.edge.process:016x}{first + i:016x}" for i in range(len(missing))]
    values = column.to_pylist()
    for row, made_id in zip(missing.tolist(), made, strict=True):
        values[row] = made_id
    table = table.set_column(slot, table.schema.field(slot), pa.array(values, pa.string()))
    return replace(state, rows=table, generated=dict(zip(state.numbers[missing].tolist(), made, strict=True)))


def number_events(state: Pass) -> Pass:
    """Two identity columns for a datasource without ids: from the Idempotency-Key, or from the edge's own numbers."""
    if state.prepared.id_slot is not None:
        return state
    count = len(state.numbers)
    high = np.full(count, state.edge.process % _WORD, np.uint64)
    low = np.uint64(state.edge.take(count)) + np.arange(count, dtype=np.uint64)
    for i, body in enumerate(state.bodies):
        if body.idempotency_key is None:
            continue
        begin, end = np.searchsorted(state.numbers, state.spans[i]).tolist()
        hi, lo = hash_text(body.idempotency_key)
        indices = (state.numbers[begin:end] - state.spans[i, 0]).astype(np.uint64)
        high[begin:end] = hi
        low[begin:end] = np.uint64(lo) + indices
    table = state.table.append_column(ID_HI, pa.array(high.view(np.int64)))
    return replace(state, rows=table.append_column(ID_LO, pa.array(low.view(np.int64))))


def place(state: Pass) -> Pass:
    """Identity and partition of every row; they depend on nothing but fields that the sender sent."""
    identities, partitions = placed(state.table, state.prepared.datasource)
    return replace(state, identities=identities, partitions=partitions)


Step = Callable[[Pass], Pass]
STEPS: tuple[Step, ...] = (
    scan_text,
    read_columns,
    bound_times,
    require_ids,
    judge_doubtful,
    build_rows,
    make_ids,
    number_events,
    place,
)
"""The way of JSON bodies."""
ARROW_STEPS: tuple[Step, ...] = (make_ids, number_events, place)
"""The way of an Arrow body, once `read_arrow` has made rows of it."""


def decode(
    datasource: Datasource, bodies: Sequence[Body], edge: Edge, now_ms: int, limits: Limits | None = None
) -> Decoded:
    """Decode several requests of one datasource at once.

    Args:
        bodies: One per request; each costs only itself when it can't be read.
        edge: Numbers the events of a datasource without ids; its counter moves on.
        now_ms: What `too_old` and `in_the_future` are measured from.
        limits: Bounds of one body and one event.
    """
    limits = limits or Limits()
    compiled = prepared(datasource)
    oldest = TIME_MIN_MS if datasource.too_old_ms is None else max(TIME_MIN_MS, now_ms - datasource.too_old_ms)
    newest = min(TIME_MAX_MS, now_ms + datasource.in_the_future_ms)
    rules = Judge(datasource, oldest, newest, limits.event_bytes)
    outcomes: list[Outcome] = [Outcome(None)] * len(bodies)
    passes: list[Pass] = []
    first_row = 0
    for members, data in _runs(datasource, bodies, limits, outcomes):
        taken = [bodies[i] for i in members]
        generates = compiled.id_slot is not None and any(body.generate_ids for body in taken)
        state = Pass(compiled, taken, data, edge, rules, limits, generates)
        state = _run(state)
        for i, outcome in zip(members, _outcomes(state, first_row), strict=True):
            outcomes[i] = outcome
        first_row += state.table.num_rows
        passes.append(state)
    return _joined(compiled, passes, outcomes)


def _run(state: Pass) -> Pass:
    steps = STEPS
    if state.data[0][1] is Format.ARROW:
        state, steps = _read_arrow(state), ARROW_STEPS
    for step in steps:
        state = step(state)
    return state


def _read_arrow(state: Pass) -> Pass:
    """One Arrow body as rows; a body that is no Arrow stream gets its error."""
    rules = changed(state.rules, ids_generated=state.bodies[0].generate_ids)
    schema = state.prepared.sent_schema
    try:
        read = read_arrow(state.data[0][0], schema, rules, state.limits)
    except RtaError as error:
        return replace(state, rows=schema.empty_table(), spans=np.zeros((1, 2), np.int64), errors={0: error})
    return replace(
        state,
        rows=read.rows,
        numbers=read.numbers,
        refused={0: read.refusals},
        spans=np.array([[0, read.total]], np.int64),
    )


def _runs(
    datasource: Datasource, bodies: Sequence[Body], limits: Limits, outcomes: list[Outcome]
) -> list[tuple[list[int], list[tuple[bytes, Format]]]]:
    """Bodies that are read together: neighbours in JSON; each Arrow stream for itself. Unreadable ones get an error."""
    runs: list[tuple[list[int], list[tuple[bytes, Format]]]] = []
    together = False
    for i, body in enumerate(bodies):
        try:
            kind = format_of(body)
            data = unpack(body, limits)
            if body.generate_ids:
                _check_generated(datasource)
        except RtaError as error:
            outcomes[i] = Outcome(error)
            continue
        if kind is Format.ARROW or not together:
            runs.append(([], []))
        together = kind is not Format.ARROW
        runs[-1][0].append(i)
        runs[-1][1].append((data, kind))
    return runs


def _check_generated(datasource: Datasource) -> None:
    column = datasource.column(datasource.id) if datasource.id is not None else None
    if column is not None and column.type is not ColumnType.STRING:
        raise BadRequestError(
            f"making ids for '{datasource.name}': its id '{column.name}' is {column.type}",
            "send ids, or make it a string",
        )


def _unreadable(state: Pass, scanned: Scanned, body: int) -> RtaError:
    data = state.data[body][0]
    outcome = int(scanned.outcomes[body, 1])
    if outcome == EMPTY:
        return BadRequestError("reading the body: it is empty", "send one event, an array of events or lines of them")
    if outcome == TOO_MANY:
        most = f"{state.limits.events:,}"
        return TooLargeError(f"reading the body: it has more than {most} events", "send it in several requests")
    position = ~outcome - scanned.starts[body]
    near = data[position : position + 24].decode(errors="replace")
    return BadRequestError(
        f"reading the body: invalid JSON at byte {position:,} of {len(data):,}, near {shown(near)}",
        'send one event, an array of events, {"events": […]} or one event a line',
    )


def _outcomes(state: Pass, first_row: int) -> list[Outcome]:
    made: dict[int, list[str]] = {}
    for event in sorted(state.generated):
        made.setdefault(state.body_of(event), []).append(state.generated[event])
    begins = np.searchsorted(state.numbers, state.spans).tolist()
    outcomes = []
    for i, (body, (begin, end)) in enumerate(zip(state.bodies, begins, strict=True)):
        if i in state.errors:
            outcomes.append(Outcome(state.errors[i]))
            continue
        total = int(state.spans[i, 1] - state.spans[i, 0])
        ids = made.get(i, []) if body.generate_ids else None
        outcomes.append(Outcome(None, total, end - begin, state.refused.get(i, Refusals()), first_row + begin, ids))
    return outcomes


def _joined(compiled: Prepared, passes: Sequence[Pass], outcomes: list[Outcome]) -> Decoded:
    if len(passes) == 1:
        state = passes[0]
        return Decoded(state.table, state.partitions, state.identities, outcomes)
    tables = [state.table for state in passes]
    rows = pa.concat_tables(tables).combine_chunks() if tables else compiled.schema.empty_table()
    partitions = np.concatenate([np.zeros(0, np.int32), *(state.partitions for state in passes)])
    identities = np.concatenate([np.zeros((0, 2), np.uint64), *(state.identities for state in passes)])
    return Decoded(rows, partitions, identities, outcomes)


def warm_up() -> None:
    """Compile or load every loop on a tiny input, so that the first request does not wait for it."""
    from rta.events.batch import encode, read, split
    from rta.events.definition import events_document, parse_datasource

    document = events_document()
    document["columns"] |= {"warm_list": "string[]", "warm_long": "long", "warm_json": "json"}
    datasource = parse_datasource(document, incarnation="warm", version=0, partitions=2)
    text = (
        b'{"event_id":"a","timestamp":"2026-01-01T00:00:00Z","event_type":"x","user_id":"\\u00e9","warm_long":1,'
        b'"warm_list":["a"],"warm_json":{},"other":1,"custom_properties":{"price":1.5}}'
    )
    bodies = [Body(text), Body(b"[" + text + b",{}]")]
    decoded = decode(datasource, bodies, Edge(0), 1_767_225_600_000)
    for _, rows, _ in split(decoded, datasource.partitions):
        read(encode(rows), datasource)
