"""Records of a topic that other producers fill, as events: the edge's two decoders, over values that lie in a buffer.

Owns what an event's place in the log is (`__id_hi`, `__id_lo`): a hash of the log's incarnation and the partition in one word,
the offset and the event's number within its record in the other. Events that are refused come out with their record, so that
they can be kept. Reads no clock: what is too old, or in the future, is measured from the records' own times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec.structs import replace

from rta.errors import RtaError
from rta.events.bodies import Limits
from rta.events.columns import Prepared, Scanned, prepare, scan_framed
from rta.events.decode import Edge, Pass, bound_times, build_rows, read_columns
from rta.events.exact import TIME_MAX_MS, TIME_MIN_MS, Judge, judge
from rta.events.hashing import Words
from rta.events.keys import place_hashes, source_id
from rta.events.schemas import ID_HI, ID_LO, REJECTED_EVENT_BYTES_MAX, Datasource, RecordFormat
from rta.events.simd import Bytes
from rta.events.tabular import read_arrow
from rta.events.verdicts import Reason, Verdict
from rta.events.wrapping import Wrapping, wrapping_of

RECORD_FIELDS = 8
OFFSET, TIME_MS, VALUE, VALUE_BYTES, KEY, KEY_BYTES, HEADERS, HEADER_COUNT = range(RECORD_FIELDS)
"""Rows of `Records.fields`. A length of -1 is a null; `HEADERS` is where the first of `HEADER_COUNT` headers begins."""
NUMBER_BITS = 20
"""Of `__id_lo`, for the event's number within its record."""
EVENTS_PER_RECORD_MAX = 1 << NUMBER_BITS


class Records(NamedTuple):
    """Records of one partition, in the order of their offsets.

    Args:
        buf: Their bytes, `PADDING` behind them; the byte behind each value is 0.
        fields: int64 of shape (RECORD_FIELDS, records).
    """

    buf: Bytes
    fields: npt.NDArray[np.int64]


class Refused(NamedTuple):
    """An event that became no row. `record` is its row in `Records.fields`, `text` the beginning of what it was, if text."""

    record: int
    number: int
    verdict: Verdict
    text: str | None


@dataclass(frozen=True, slots=True)
class DecodedRecords:
    """What became of the records.

    Args:
        rows: In the raw schema of the decoder's datasource.
        events: How many there were, `refused` ones and all.
        unworded: Refused events beyond those in `refused`, as places: shape (n, 2) of `__id_hi`, `__id_lo`.
    """

    rows: pa.Table
    events: int
    refused: list[Refused]
    unworded: Words


class RecordDecoder:
    """Makes events of one partition's records.

    Args:
        datasource: With a `source`; narrowed to what is needed (`rta.events.sources.narrowed`).
        incarnation: The partition's, in the log.
        event_bytes: What one event may have.
    """

    def __init__(self, datasource: Datasource, partition: int, incarnation: str, event_bytes: int) -> None:
        assert datasource.source is not None
        self._datasource = datasource
        self._format = datasource.source.format
        self._hi = source_id(incarnation, partition)
        self._limits = Limits(event_bytes=event_bytes)
        self._keeps_rest = datasource.retention.events_ms is not None
        self._prepared: Prepared = prepare(datasource)
        self._wrapping: Wrapping | None = wrapping_of(datasource, partition)

    def decode(self, records: Records, now_ms: int) -> DecodedRecords:
        """Rows and refusals; `now_ms` is the log's time."""
        datasource = self._datasource
        oldest = TIME_MIN_MS if datasource.too_old_ms is None else max(TIME_MIN_MS, now_ms - datasource.too_old_ms)
        newest = min(TIME_MAX_MS, now_ms + datasource.in_the_future_ms)
        rules = Judge(datasource, oldest, newest, self._limits.event_bytes)
        if self._format is RecordFormat.ARROW:
            return self._decode_arrow(records, rules)
        return self._decode_json(records, rules)

    def _decode_json(self, records: Records, rules: Judge) -> DecodedRecords:
        wrapped = records if self._wrapping is None else Records(*self._wrapping.wrap(*records))
        spans = wrapped.fields[VALUE : VALUE_BYTES + 1]
        scanned = scan_framed(self._prepared, wrapped.buf, spans, rules.event_bytes, self._keeps_rest)
        state = Pass(self._prepared, (), (), Edge(0), rules, self._limits, False, scanned=scanned)
        state = bound_times(read_columns(state))
        judged, refused = self._judge(records, scanned, rules)
        state = build_rows(replace(state, judged=judged))
        low = records.fields[OFFSET, state.numbers] << NUMBER_BITS
        return DecodedRecords(self._placed(state.table, low), scanned.rows, refused, np.zeros((0, 2), np.uint64))

    def _judge(self, records: Records, scanned: Scanned, rules: Judge) -> tuple[dict[int, list[Any]], list[Refused]]:
        """What the fast decoder did not want to decide, event by event."""
        judged: dict[int, list[Any]] = {}
        refused = []
        for row in np.flatnonzero(scanned.doubts).tolist():
            if records.fields[VALUE_BYTES, row] < 0:
                verdict: Verdict | list[Any] = Verdict(row, None, Reason.INVALID_JSON, "the record has no value")
            else:
                verdict = judge(scanned.text(row), rules, row)
            if isinstance(verdict, Verdict):
                refused.append(Refused(row, 0, verdict, _text(records, row)))
            else:
                judged[row] = verdict if self._keeps_rest else [*verdict[:-1], None]
        return judged, refused

    def _placed(self, table: pa.Table, low: npt.NDArray[np.int64]) -> pa.Table:
        high = np.full(len(low), self._hi, np.int64)
        return table.append_column(ID_HI, pa.array(high)).append_column(ID_LO, pa.array(low))

    # -- Arrow -------------------------------------------------------------------------------------------------------

    def _decode_arrow(self, records: Records, rules: Judge) -> DecodedRecords:
        tables = [self._placed(self._prepared.sent_schema.empty_table(), np.zeros(0, np.int64))]
        refused: list[Refused] = []
        unworded: list[npt.NDArray[np.int64]] = []
        events = 0
        for record, (offset, value) in enumerate(_values(records)):
            try:
                read = read_arrow(value, self._prepared.sent_schema, rules, self._limits)
            except RtaError as error:
                verdict = Verdict(0, None, Reason.INVALID_JSON, f"{error.message}; {error.hint}".strip("; "))
                refused.append(Refused(record, 0, verdict, None))
                events += 1
                continue
            events += read.total
            base = offset << NUMBER_BITS
            tables.append(self._placed(read.rows, base | read.numbers))
            worded = [Refused(record, v.index, v, None) for v in read.refusals.verdicts]
            refused += worded
            if read.total - len(read.numbers) > len(worded):
                known = np.concatenate([read.numbers, np.array([v.number for v in worded], np.int64)])
                unworded.append(base | np.setdiff1d(np.arange(read.total), known))
        low = np.concatenate([np.zeros(0, np.int64), *unworded])
        return DecodedRecords(pa.concat_tables(tables), events, refused, self._places(low))

    def _places(self, low: npt.NDArray[np.int64]) -> Words:
        places = np.empty((len(low), 2), np.uint64)
        places[:, 0] = np.uint64(np.int64(self._hi).view(np.uint64))
        places[:, 1] = low.view(np.uint64)
        return places

    def refused_hashes(self, decoded: DecodedRecords, records: Records) -> Words:
        """Identities of the refused events, shape (n, 2): the hashes of their places."""
        offsets = records.fields[OFFSET]
        low = [(int(offsets[each.record]) << NUMBER_BITS) | each.number for each in decoded.refused]
        return place_hashes(np.concatenate([self._places(np.array(low, np.int64)), decoded.unworded]))


def _values(records: Records) -> Iterator[tuple[int, bytes]]:
    offsets, starts, sizes = (records.fields[row].tolist() for row in (OFFSET, VALUE, VALUE_BYTES))
    for offset, start, size in zip(offsets, starts, sizes, strict=True):
        yield offset, records.buf[start : start + max(size, 0)].tobytes()


def _text(records: Records, row: int) -> str | None:
    start, size = records.fields[[VALUE, VALUE_BYTES], row].tolist()
    if size < 0:
        return None
    return records.buf[start : start + min(size, REJECTED_EVENT_BYTES_MAX)].tobytes().decode(errors="replace")


def texts(refused: Sequence[Refused]) -> pa.Array:
    """What the refused events were, as far as it is kept."""
    return pa.array([each.text for each in refused], pa.string())
