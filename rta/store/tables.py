"""The Delta tables: the manifests' open-format projection, rolled forward in order.

Owns which tables a datasource has, their Delta schemas, and `DeltaProjection`, which brings every table's app
transaction `(<datasource's folder>, n)` up to the newest manifest: many manifests in one commit when behind, safe to
repeat, to crash and to run twice at once. A table that gets no files gets no commits; `projection.json` says up to
which manifest all tables have been looked after, as a lower bound that may be stale.

Does not decide what a view reads (`rta.store.versions`) and rewrites nothing (`rta.store.maintain`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pyarrow as pa

from rta.errors import CorruptFileError, InvariantError, NotFoundError
from rta.events.schemas import EVENTS, REJECTED, REJECTED_SCHEMA, Datasource
from rta.store import layout
from rta.store.delta_log import READER_VERSION, WRITER_VERSION, DeltaLog, NewCommit, TableState
from rta.store.manifests import ManifestLog
from rta.store.model import FileRef
from rta.store.objects import ObjectStore
from rta.store.parquet import file_schema

BATCH_MANIFESTS = 500
"""Manifests that go into one Delta commit at most."""
FLOOR_EVERY = 32
"""Manifests after which the lower bound is written down again."""
CONFIGURATION = {
    "delta.logRetentionDuration": "interval 1 days",
    "delta.enableExpiredLogCleanup": "false",
    "delta.checkpointInterval": "64",
}


class _Floor(msgspec.Struct, frozen=True):
    through: int


def table_schemas(datasource: Datasource) -> dict[str, pa.Schema]:
    """The tables of a datasource: the raw one and the one of rejected events, if they are kept, and the rollups."""
    schemas = {} if datasource.retention.events_ms is None else {EVENTS: datasource.raw_schema()}
    if datasource.retention.rejected_ms is not None:
        schemas[REJECTED] = REJECTED_SCHEMA
    return schemas | {rollup.table: datasource.rollup_schema(rollup) for rollup in datasource.rollups}


def read_floor(store: ObjectStore, folder: str) -> int:
    """A manifest through which every table has its files; -1 when nobody has said so yet. May be stale, never wrong."""
    try:
        return msgspec.json.decode(store.get(layout.document(folder, "projection")), type=_Floor).through
    except NotFoundError:
        return -1
    except msgspec.DecodeError as error:
        raise CorruptFileError(f"reading '{layout.document(folder, 'projection')}': {error}") from error


class DeltaProjection:
    """Rolls one datasource's tables forward. Any number may run at once; they do the work once between them."""

    def __init__(self, store: ObjectStore, folder: str, datasource: Datasource) -> None:
        self.folder = folder
        self._store = store
        self._schemas = table_schemas(datasource)
        self._logs: dict[str, DeltaLog] = {}
        self._floor: int | None = None
        self._through: int | None = None

    def redefine(self, datasource: Datasource) -> None:
        """The definition has a new version: columns and rollups that came are made with the next commit."""
        self._schemas = table_schemas(datasource)

    def log(self, table: str) -> DeltaLog:
        """The table's log as this projection keeps it, for maintenance in the same thread."""
        return self._logs.setdefault(table, DeltaLog(self._store, self.folder, table))

    def tables(self) -> list[str]:
        """Every table that has a log or is about to get one."""
        return sorted(self._logs.keys() | self._schemas.keys())

    def advance(self, manifests: ManifestLog, through: int, now_ms: int) -> int:
        """Bring every table up to manifest `through`. Returns the number of Delta commits that were made.

        Raises:
            CorruptFileError: a file that a manifest names is not there, or not as long as it says; nothing is committed
                to its table, which stays readable as it is; the other tables go on to the end of this batch.
            UnavailableError: the store; calling again is safe.
        """
        done = self._first_unprojected() - 1
        commits = 0
        while done < through:
            last = min(through, done + BATCH_MANIFESTS)
            commits += self._advance_to(manifests, done + 1, last, now_ms)
            done = last
        self._through = max(done, through)
        self._note_floor(self._through)
        return commits

    def _first_unprojected(self) -> int:
        """After a start: from the written lower bound on, whatever single tables have reached beyond it."""
        if self._through is None:
            self._floor = read_floor(self._store, self.folder)
            self._through = self._floor
        return self._through + 1

    def _advance_to(self, manifests: ManifestLog, first: int, last: int, now_ms: int) -> int:
        by_table: dict[str, list[tuple[int, FileRef]]] = {}
        for manifest in manifests.read(first, last):
            for file in manifest.files:
                dated = msgspec.structs.replace(file, written_ms=manifest.created_ms)
                by_table.setdefault(file.table, []).append((manifest.number, dated))
        commits, broken = 0, None
        for table, files in sorted(by_table.items()):
            try:
                commits += self._commit_table(table, files, last, now_ms)
            except CorruptFileError as error:
                broken = broken or error
        if broken is not None:
            raise broken
        return commits

    def _commit_table(self, table: str, files: Sequence[tuple[int, FileRef]], last: int, now_ms: int) -> int:
        log = self.log(table)
        schema: pa.Schema | None = None
        checked: set[str] = set()

        def build(state: TableState) -> NewCommit | None:
            nonlocal schema
            done = state.txns.get(self.folder, -1)
            new = tuple(file for number, file in files if number > done)
            if not new:
                return None
            self._check_files(new, checked)
            schema = schema or self._schema_of(table, new)
            commit = NewCommit("WRITE", now_ms, txns=((self.folder, last),), add=new)
            return replace(commit, definition=definition(state, schema, layout.table(self.folder, table), now_ms))

        return 1 if log.commit(build) else 0

    def _check_files(self, files: Iterable[FileRef], checked: set[str]) -> None:
        """A Delta log takes the name of a missing file without a word and can then not be read any more."""
        for file in files:
            if file.path in checked:
                continue
            key = layout.table_file(self.folder, file.table, file.path)
            try:
                found = self._store.size(key)
            except NotFoundError as error:
                raise CorruptFileError(
                    f"projecting table '{file.table}' of '{self.folder}': the file '{key}' of a manifest is gone",
                    "restore it from a backup",
                ) from error
            if found != file.bytes:
                raise CorruptFileError(
                    f"projecting table '{file.table}' of '{self.folder}': the file '{key}' has {found} bytes, "
                    f"its manifest says {file.bytes}",
                    "restore it from a backup",
                )
            checked.add(file.path)

    def _schema_of(self, table: str, files: Sequence[FileRef]) -> pa.Schema:
        """By the definition where it knows the table, else by what the files themselves have."""
        known = self._schemas.get(table)
        if known is not None:
            return known
        found: dict[str, pa.Field] = {}
        for file in files:
            for field in file_schema(self._store, self.folder, file):
                found.setdefault(field.name, field)
        return pa.schema(list(found.values()))

    def _note_floor(self, through: int) -> None:
        known = -1 if self._floor is None else self._floor
        if through - known >= FLOOR_EVERY:
            self._store.put(layout.document(self.folder, "projection"), msgspec.json.encode(_Floor(through)))
            self._floor = through


def definition(state: TableState, schema: pa.Schema, name: str, now_ms: int) -> tuple[dict[str, Any], ...]:
    """The actions that make the table, or that add the columns which it lacks; none when it has them all.

    Raises:
        InvariantError: a column would get another type.
    """
    fields = [*(field_document(field) for field in schema), {**_DATE, "metadata": {}}]
    there = {entry["name"]: entry for entry in state.columns()}
    for field in fields:
        old = there.get(field["name"])
        if old is not None and old["type"] != field["type"]:
            raise InvariantError(
                f"column '{field['name']}' of '{name}' is {old['type']}, it can't become {field['type']}"
            )
    fresh = [{**field, "nullable": True} for field in fields if field["name"] not in there]
    if there and not fresh:
        return ()
    merged = [*there.values(), *fresh] if there else fields
    meta: Mapping[str, Any] = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": msgspec.json.encode({"type": "struct", "fields": merged}).decode(),
        "partitionColumns": ["date"],
        "configuration": CONFIGURATION,
        "createdTime": now_ms,
    }
    protocol = {"minReaderVersion": READER_VERSION, "minWriterVersion": WRITER_VERSION}
    return ({"metaData": meta},) if there else ({"protocol": protocol}, {"metaData": meta})


_DATE = {"name": "date", "type": "date", "nullable": True}
_PRIMITIVE = {
    pa.string(): "string",
    pa.large_string(): "string",
    pa.int64(): "long",
    pa.int32(): "integer",
    pa.float64(): "double",
    pa.bool_(): "boolean",
    pa.binary(): "binary",
    pa.large_binary(): "binary",
    pa.date32(): "date",
}


def field_document(field: pa.Field) -> dict[str, Any]:
    """A column in Delta's JSON schema."""
    return {"name": field.name, "type": _type_document(field.type), "nullable": field.nullable, "metadata": {}}


def _type_document(kind: pa.DataType) -> Any:
    if pa.types.is_timestamp(kind):
        return "timestamp"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return {"type": "array", "elementType": _type_document(kind.value_type), "containsNull": True}
    if pa.types.is_struct(kind):
        return {"type": "struct", "fields": [field_document(field) for field in kind]}
    found = _PRIMITIVE.get(kind)
    if found is None:
        raise InvariantError(f"the Arrow type '{kind}' has no Delta type")
    return found
