"""The log of one Delta table: what the table is at a version, and the next commit.

Owns reading `_delta_log` (checkpoint, then commits) and adding a commit by the store's put-if-absent, with rule 8 of
the commit protocol for answers that were lost. Every commit is built from the newest state by a function that is asked
again when somebody else was faster, so that what it checked is what it commits on: an app transaction never goes back
and a file is never removed twice. Old commits are removed by `rta.store.maintain`.

Source: the Delta transaction log protocol, reader version 1, writer version 2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from rta.errors import CorruptFileError, NotFoundError, StoreFormatError, UnavailableError
from rta.store import layout
from rta.store.chain import Chain
from rta.store.delta_checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint
from rta.store.model import FileRef
from rta.store.objects import ObjectStore

ATTEMPTS_MAX = 16
HISTORY_MAX = 512
"""Commits that can be undone to see the table at an earlier version."""
ENGINE = "rta"
READER_VERSION = 1
WRITER_VERSION = 2


class _Times(msgspec.Struct):
    time: str | None = msgspec.field(name="__time", default=None)


class _Stats(msgspec.Struct):
    rows: int = msgspec.field(name="numRecords", default=0)
    least: _Times = msgspec.field(name="minValues", default_factory=_Times)
    greatest: _Times = msgspec.field(name="maxValues", default_factory=_Times)


class _Add(msgspec.Struct):
    path: str
    size: int
    written_ms: int = msgspec.field(name="modificationTime")
    partition: dict[str, str | None] = msgspec.field(name="partitionValues", default_factory=dict)
    stats: str | None = None


class _Remove(msgspec.Struct):
    path: str


class _Txn(msgspec.Struct):
    app: str = msgspec.field(name="appId")
    version: int


class _Line(msgspec.Struct):
    add: _Add | None = None
    remove: _Remove | None = None
    txn: _Txn | None = None
    meta: dict[str, Any] | None = msgspec.field(name="metaData", default=None)
    protocol: dict[str, Any] | None = None
    info: dict[str, Any] | None = msgspec.field(name="commitInfo", default=None)


class _LastCheckpoint(msgspec.Struct):
    version: int


@dataclass(frozen=True, slots=True)
class Commit:
    """One version, as a difference to the one before."""

    version: int
    txns_before: Mapping[str, int]
    added: Mapping[str, FileRef | None]
    """What the path held before, None for a new one."""
    removed: Mapping[str, FileRef]
    info: Mapping[str, Any]


@dataclass(slots=True)
class TableState:
    """The table at a version; -1 is a table that has no log yet. `meta` and `protocol` are Delta's own actions."""

    version: int = -1
    meta: dict[str, Any] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    txns: dict[str, int] = field(default_factory=dict)
    files: dict[str, FileRef] = field(default_factory=dict)

    def columns(self) -> list[dict[str, Any]]:
        """Delta's description of each column, the partition's included."""
        return msgspec.json.decode(self.meta["schemaString"])["fields"] if self.meta else []


@dataclass(frozen=True, slots=True)
class NewCommit:
    """What is to be committed. `info` goes into Delta's commitInfo."""

    operation: str
    now_ms: int
    txns: tuple[tuple[str, int], ...] = ()
    add: tuple[FileRef, ...] = ()
    remove: tuple[FileRef, ...] = ()
    data_change: bool = True
    definition: tuple[dict[str, Any], ...] = ()
    """`protocol` and `metaData` actions, ready made."""
    info: Mapping[str, Any] = field(default_factory=dict)


class DeltaLog:
    """One table's log. Keeps the newest state it has seen and the commits since the checkpoint it began with."""

    def __init__(self, store: ObjectStore, folder: str, table: str) -> None:
        self.table = table
        self.state = TableState()
        self.history: deque[Commit] = deque(maxlen=HISTORY_MAX)
        self._store = store
        self._folder = folder
        self._prefix = layout.delta_log(folder, table)
        self._chain = Chain(store, self._prefix)

    def refresh(self) -> TableState:
        """Read what has been committed since. Cost: one failing get when nothing has, one get per commit else."""
        if self.state.version < 0:
            self._load(self._last_checkpoint())
        while self._read_next():
            pass
        return self.state

    def reload(self) -> TableState:
        """Forget and read again from the last checkpoint: after having been away for longer than commits are kept."""
        self._load(self._last_checkpoint())
        return self.refresh()

    def fell_behind(self) -> bool:
        """Whether commits that this log has not read may have been cleaned away already."""
        return self._last_checkpoint() > self.state.version

    def files_at(self, app: str, number: int) -> tuple[int, dict[str, FileRef]]:
        """The files of the newest version whose app transaction is at most `number`, and that transaction (-1: none).

        Raises:
            NotFoundError: the log does not reach back that far.
        """
        txns, files = self.at(app, number)
        return txns.get(app, -1), files

    def at(self, app: str, number: int) -> tuple[Mapping[str, int], dict[str, FileRef]]:
        """The same with all app transactions of that version. Raises NotFoundError."""
        if self.state.txns.get(app, -1) <= number:
            return self.state.txns, self.state.files
        files = dict(self.state.files)
        for commit in reversed(self.history):
            for path, before in commit.added.items():
                files.pop(path, None)
                if before is not None:
                    files[path] = before
            files.update(commit.removed)
            if commit.txns_before.get(app, -1) <= number:
                return commit.txns_before, files
        if self._load_earlier():
            return self.at(app, number)
        raise NotFoundError(
            f"table '{self.table}' of '{self._folder}' at manifest {number}: its log begins later",
            "take a newer view",
        )

    def commit(self, build: Callable[[TableState], NewCommit | None]) -> bool:
        """Add the commit that `build` makes from the newest state; None means that there is nothing (left) to do.

        Returns:
            Whether a commit of ours is there now.

        Raises:
            UnavailableError: unknown, or always somebody else was faster. Calling again is safe where `build` looks at
                the state: what was committed is then seen there.
        """
        if self.state.version >= 0 and self.fell_behind():
            self.reload()
        for _ in range(ATTEMPTS_MAX):
            new = build(self.refresh())
            if new is None:
                return False
            self._check_protocol()
            outcome = self._chain.append(self.state.version + 1, encode_commit(new))
            self._apply(outcome.number, outcome.content)
            if outcome.done:
                return True
        raise UnavailableError(
            f"committing to table '{self.table}' of '{self._folder}': {ATTEMPTS_MAX} others were faster", "try again"
        )

    def _check_protocol(self) -> None:
        needed = self.state.protocol.get("minWriterVersion", WRITER_VERSION)
        if needed > WRITER_VERSION:
            raise StoreFormatError(
                f"table '{self.table}' of '{self._folder}' needs Delta writer version {needed}, "
                f"rta writes version {WRITER_VERSION}",
                "another program has switched on a feature of the table; restore it from a backup",
            )

    def _read_next(self) -> bool:
        number = self.state.version + 1
        try:
            content = self._chain.get(number)
        except NotFoundError:
            return False
        self._apply(number, content)
        return True

    def _apply(self, version: int, content: bytes) -> None:
        state = self.state
        txns_before = dict(state.txns)
        added: dict[str, FileRef | None] = {}
        removed: dict[str, FileRef] = {}
        info: dict[str, Any] = {}
        for line in self._decode(version, content):
            if line.remove is not None:
                path = unquote(line.remove.path)
                gone = state.files.pop(path, None)
                if gone is not None:
                    removed[path] = gone
            if line.add is not None:
                path = unquote(line.add.path)
                added[path] = state.files.get(path)
                state.files[path] = _file_ref(self.table, path, line.add)
            if line.txn is not None:
                state.txns[line.txn.app] = line.txn.version
            if line.meta is not None:
                state.meta = line.meta
            if line.protocol is not None:
                state.protocol = line.protocol
            if line.info is not None:
                info = line.info
        state.version = version
        self.history.append(Commit(version, txns_before, added, removed, info))

    def _decode(self, version: int, content: bytes) -> list[_Line]:
        try:
            return [msgspec.json.decode(line, type=_Line) for line in content.splitlines() if line.strip()]
        except msgspec.DecodeError as error:
            raise CorruptFileError(
                f"reading '{layout.number_key(self._prefix, version)}': {error}", "restore it from a backup"
            ) from error

    def _last_checkpoint(self) -> int:
        try:
            return msgspec.json.decode(
                self._store.get(f"{self._prefix}/_last_checkpoint"), type=_LastCheckpoint
            ).version
        except NotFoundError:
            return -1
        except msgspec.DecodeError as error:
            raise CorruptFileError(f"reading '{self._prefix}/_last_checkpoint': {error}") from error

    def _load(self, checkpoint: int) -> None:
        self.history.clear()
        self.state = TableState() if checkpoint < 0 else self._read_checkpoint(checkpoint)

    def _load_earlier(self) -> bool:
        """Begin with an older checkpoint than now, so that more commits can be undone. False when there is none."""
        if len(self.history) == HISTORY_MAX:
            return False
        begin = self.history[0].version - 1 if self.history else self.state.version
        older = [number for number in self._checkpoints() if number < begin]
        if older:
            self._load(older[-1])
        elif begin >= 0 and self._store.exists(layout.number_key(self._prefix, 0)):
            self._load(-1)
        else:
            return False
        while self._read_next():
            pass
        return True

    def _checkpoints(self) -> list[int]:
        names = (info.key.rpartition("/")[2] for info in self._store.list(self._prefix))
        return sorted(int(name.split(".")[0]) for name in names if name.endswith(".checkpoint.parquet"))

    def _read_checkpoint(self, version: int) -> TableState:
        key = layout.delta_checkpoint(self._folder, self.table, version)
        try:
            checkpoint = decode_checkpoint(self._store.get(key))
        except (NotFoundError, OSError, ValueError) as error:
            raise CorruptFileError(f"reading the checkpoint '{key}': {error}", "restore it from a backup") from error
        files = {
            (path := unquote(add["path"])): _file_ref(
                self.table, path, _Add(path, add["size"], add["modificationTime"], add["partitionValues"], add["stats"])
            )
            for add in checkpoint.adds
        }
        return TableState(version, checkpoint.meta, checkpoint.protocol, checkpoint.txns, files)

    def checkpoint_version(self) -> int:
        """The newest checkpoint's, -1 before the first."""
        return self._last_checkpoint()

    def clean(self, before_ms: int) -> list[str]:
        """Remove commits and checkpoints that lie before a checkpoint which was written before `before_ms`.

        Opening the table needs none of them; views that old may not live any more. Returns the keys.
        """
        listed = [(info, info.key.rpartition("/")[2].split(".")) for info in self._store.list(self._prefix)]
        numbered = [(info, int(parts[0]), parts[1]) for info, parts in listed if parts[0].isdigit()]
        old = [number for info, number, kind in numbered if kind == "checkpoint" and info.modified_ms < before_ms]
        gone = [info.key for info, number, _ in numbered if number < max(old, default=-1)]
        for key in gone:
            self._store.delete(key)
        return gone

    def write_checkpoint(self, now_ms: int) -> int:
        """Write the newest state down whole, so that opening the table reads no older commit. Returns its version."""
        state = self.refresh()
        adds = [_add_action(file, now_ms, data_change=False) for file in state.files.values()]
        content = encode_checkpoint(Checkpoint(state.meta, state.protocol, state.txns, adds))
        self._store.put(layout.delta_checkpoint(self._folder, self.table, state.version), content)
        pointer = {"version": state.version, "size": len(adds) + len(state.txns) + 2}
        self._store.put(f"{self._prefix}/_last_checkpoint", msgspec.json.encode(pointer))
        return state.version


def encode_commit(new: NewCommit) -> bytes:
    """The lines of a commit file."""
    info = {"timestamp": new.now_ms, "operation": new.operation, "engineInfo": ENGINE, **new.info}
    lines: list[dict[str, Any]] = [{"commitInfo": info}, *new.definition]
    for app, version in new.txns:
        lines.append({"txn": {"appId": app, "version": version, "lastUpdated": new.now_ms}})
    for file in new.remove:
        action = {
            "path": quote(file.path, safe="/=._-"),
            "deletionTimestamp": new.now_ms,
            "dataChange": new.data_change,
            "extendedFileMetadata": True,
            "partitionValues": {"date": file.date},
            "size": file.bytes,
        }
        lines.append({"remove": action})
    lines += [{"add": _add_action(file, new.now_ms, new.data_change)} for file in new.add]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _add_action(file: FileRef, now_ms: int, data_change: bool) -> dict[str, Any]:
    stats = {
        "numRecords": file.rows,
        "minValues": {"__time": _iso(file.time_min_ms)},
        "maxValues": {"__time": _iso(file.time_max_ms)},
        "nullCount": {"__time": 0},
    }
    return {
        "path": quote(file.path, safe="/=._-"),
        "partitionValues": {"date": file.date},
        "size": file.bytes,
        "modificationTime": now_ms if file.written_ms is None else file.written_ms,
        "dataChange": data_change,
        "stats": msgspec.json.encode(stats).decode(),
    }


def _file_ref(table: str, path: str, add: _Add) -> FileRef:
    stats = msgspec.json.decode(add.stats, type=_Stats) if add.stats else _Stats()
    date = add.partition.get("date") or path.partition("date=")[2].partition("/")[0]
    day_ms = _milliseconds(f"{date}T00:00:00Z")
    least, greatest = stats.least.time, stats.greatest.time
    return FileRef(
        table=table,
        path=path,
        date=date,
        rows=stats.rows,
        bytes=add.size,
        time_min_ms=day_ms if least is None else _milliseconds(least),
        time_max_ms=day_ms + 86_399_999 if greatest is None else _milliseconds(greatest),
        written_ms=add.written_ms,
    )


def _iso(time_ms: int) -> str:
    seconds, rest = divmod(time_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()}.{rest:03d}Z"


def _milliseconds(text: str) -> int:
    found = datetime.fromisoformat(text)
    return int(found.replace(microsecond=0).timestamp()) * 1000 + found.microsecond // 1000
