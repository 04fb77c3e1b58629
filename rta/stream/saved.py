"""The saved state of an actor's partitions as bytes: what is folded but in no file yet.

Layout: magic, format, header length and CRC (little endian), a msgpack header, then sections. A section is one Arrow
IPC stream (LZ4) of one partition: `rows` holds raw rows that wait, `rejected` rejected ones, `open/<rollup table>`
rollup rows of open buckets and buffered late rows. Sections that this version does not know are carried along as they
are; missing ones are empty. Columns follow the definition of their time; fitting them to the present one is the
reader's business.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import polars as pl
import pyarrow as pa

from rta.errors import CorruptFileError, StoreFormatError
from rta.events.schemas import REJECTED_SCHEMA, Datasource
from rta.stream.columns import fit
from rta.stream.model import SavedPartition
from rta.stream.rollups import merge_tables, to_polars

MAGIC = b"rtaState"
FORMAT = 1
_PREFIX = struct.Struct("<8sIII")
_OPEN = "open/"
_ROWS = "rows"
_REJECTED = "rejected"
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


class _Section(msgspec.Struct, frozen=True, array_like=True):
    first: int
    length: int
    crc: int


class _Waited(msgspec.Struct, frozen=True, array_like=True):
    table: str
    date: str
    epochs: int


class _PartitionHeader(msgspec.Struct, frozen=True, kw_only=True):
    sections: dict[str, _Section]
    event_time_max_ms: int | None = None
    waited: tuple[_Waited, ...] = ()


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    partitions: dict[int, _PartitionHeader]


@dataclass(frozen=True, slots=True)
class StateTables:
    """One partition's part of a state that is to be written: `SavedPartition` with Arrow tables, of which some may be None."""

    open: Mapping[str, pa.Table]
    rows: pa.Table | None = None
    extra: Mapping[str, bytes] = field(default_factory=dict)
    event_time_max_ms: int | None = None
    waited: Mapping[tuple[str, str], int] = field(default_factory=dict)
    rejected: pa.Table | None = None


class StateRows(NamedTuple):
    """What readers add to the files: per rollup name its open buckets and late rows, raw rows and rejected rows that wait."""

    partials: dict[str, pl.DataFrame]
    rows: pa.Table
    rejected: pa.Table


def encode_state(partitions: Mapping[int, StateTables]) -> bytes:
    """The bytes of a state. Empty tables take no room."""
    body: list[bytes] = []
    at = 0
    headers: dict[int, _PartitionHeader] = {}
    for partition, state in partitions.items():
        tables = {_OPEN + table: rows for table, rows in state.open.items()}
        if state.rows is not None:
            tables[_ROWS] = state.rows
        if state.rejected is not None:
            tables[_REJECTED] = state.rejected
        contents = {**state.extra, **{name: _write(rows) for name, rows in tables.items() if rows.num_rows}}
        sections = {}
        for name, content in contents.items():
            sections[name] = _Section(at, len(content), zlib.crc32(content))
            body.append(content)
            at += len(content)
        waited = tuple(_Waited(table, date, epochs) for (table, date), epochs in sorted(state.waited.items()))
        headers[partition] = _PartitionHeader(
            sections=sections, event_time_max_ms=state.event_time_max_ms, waited=waited
        )
    header = msgspec.msgpack.encode(_Header(partitions=headers))
    prefix = _PREFIX.pack(MAGIC, FORMAT, len(header), zlib.crc32(header))
    return b"".join([prefix, header, *body])


def decode_state(data: bytes) -> dict[int, SavedPartition]:
    """Every partition of a state.

    Raises:
        CorruptFileError: the bytes are not the ones that were written.
        StoreFormatError: a newer rta wrote them in another layout.
    """
    header, body = _read_header(data)
    return {partition: _saved(entry, body) for partition, entry in header.partitions.items()}


def state_rows(data: bytes, partitions: Collection[int] | None, datasource: Datasource) -> StateRows:
    """What readers add to the files: rows of open buckets and rows that wait.

    Args:
        partitions: Which ones of the state; None for all. One that the state does not have adds nothing.
        datasource: The definition to fit the rows to. Rollups and columns that it lacks are left out.

    Returns:
        Frames in their rollup's schema, merged over the partitions; rows in the raw schema and in `REJECTED_SCHEMA`.

    Raises:
        CorruptFileError, StoreFormatError: as `decode_state`.
    """
    header, body = _read_header(data)
    wanted = [e for p, e in header.partitions.items() if partitions is None or p in partitions]
    frames = {}
    for rollup in datasource.rollups:
        schema = datasource.rollup_schema(rollup)
        tables = [
            fit(_read(e.sections[name], body), schema) for e in wanted if (name := _OPEN + rollup.table) in e.sections
        ]
        frames[rollup.name] = to_polars(merge_tables([*tables, schema.empty_table()], rollup, datasource))
    rows = _waiting(wanted, _ROWS, datasource.raw_schema(), body)
    return StateRows(frames, rows, _waiting(wanted, _REJECTED, REJECTED_SCHEMA, body))


def _waiting(entries: Sequence[_PartitionHeader], name: str, schema: pa.Schema, body: memoryview) -> pa.Table:
    tables = [fit(_read(e.sections[name], body), schema) for e in entries if name in e.sections]
    return pa.concat_tables([schema.empty_table(), *tables])


def _saved(entry: _PartitionHeader, body: memoryview) -> SavedPartition:
    known = {name: s for name, s in entry.sections.items() if name in (_ROWS, _REJECTED) or name.startswith(_OPEN)}
    return SavedPartition(
        open={n.removeprefix(_OPEN): to_polars(_read(s, body)) for n, s in known.items() if n.startswith(_OPEN)},
        rows=_read(known[_ROWS], body) if _ROWS in known else pa.table({}),
        extra={name: bytes(_bytes(s, body)) for name, s in entry.sections.items() if name not in known},
        event_time_max_ms=entry.event_time_max_ms,
        waited={(w.table, w.date): w.epochs for w in entry.waited},
        rejected=_read(known[_REJECTED], body) if _REJECTED in known else REJECTED_SCHEMA.empty_table(),
    )


def _read_header(data: bytes) -> tuple[_Header, memoryview]:
    if len(data) < _PREFIX.size or data[: len(MAGIC)] != MAGIC:
        raise CorruptFileError(f"reading a saved state of {len(data)} bytes: it does not begin as one")
    _, version, length, crc = _PREFIX.unpack_from(data)
    if version > FORMAT:
        raise StoreFormatError(
            f"saved state has format {version}, this rta reads up to {FORMAT}", "start the version of rta that wrote it"
        )
    end = _PREFIX.size + length
    header = memoryview(data)[_PREFIX.size : end]
    if len(header) != length or zlib.crc32(header) != crc:
        raise CorruptFileError(f"reading the header of a saved state of {len(data)} bytes: its checksum differs")
    try:
        return msgspec.msgpack.decode(header, type=_Header), memoryview(data)[end:]
    except msgspec.MsgspecError as error:
        raise CorruptFileError(f"reading the header of a saved state of {len(data)} bytes: {error}") from error


def _bytes(section: _Section, body: memoryview) -> memoryview:
    content = body[section.first : section.first + section.length]
    if len(content) != section.length or zlib.crc32(content) != section.crc:
        raise CorruptFileError(
            f"reading {section.length} bytes at {section.first} of a saved state with {len(body)}: the checksum differs"
        )
    return content


def _read(section: _Section, body: memoryview) -> pa.Table:
    return pa.ipc.open_stream(pa.py_buffer(_bytes(section, body))).read_all()


def _write(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_LZ4) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
