"""A datasource with aggregators and a coordinator, in a few lines: writes files, offers parts, puts manifests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import pyarrow as pa

from rta.events.definition import parse_datasource
from rta.events.keys import id_sum, placed
from rta.events.schemas import Datasource
from rta.log.base import PartitionState
from rta.store import layout
from rta.store.commit import choose, genesis, next_manifest, sealed
from rta.store.manifests import ManifestLog
from rta.store.model import ActorAssignment, Assignment, FileRef, LedgerLine, Manifest, Part, PartitionPart
from rta.store.objects import ObjectStore
from rta.store.parquet import write_table_file
from rta.store.runs import write_state
from rta.stream.model import TableWrite

DAY_MS = 86_400_000
START_MS = 1_767_225_600_000
"""2026-01-01."""
DOCUMENT = {
    "name": "shop",
    "time": "time",
    "key": "user",
    "id": "id",
    "columns": {"user": "string", "id": "string", "page": "string", "price": "double"},
    "rollups": [
        {
            "name": "traffic",
            "granularity": "minute",
            "dimensions": ["page"],
            "metrics": [{"name": "views", "type": "count"}, {"name": "revenue", "type": "sum", "field": "price"}],
        }
    ],
    "retention": {"events": "10d"},
}


def shop(version: int = 0, partitions: int = 2, **changes: object) -> Datasource:
    return parse_datasource({**DOCUMENT, **changes}, incarnation="life1", version=version, partitions=partitions)


def date_of(time_ms: int) -> str:
    return f"2026-01-{1 + (time_ms - START_MS) // DAY_MS:02d}"


class World:
    """One datasource in a store. `actor` names who writes; ids count up, so that every event is new."""

    def __init__(self, store: ObjectStore, datasource: Datasource | None = None, generation: int = 1) -> None:
        self.store = store
        self.datasource = datasource or shop()
        self.folder = self.datasource.folder
        self.generation = generation
        self.manifests = ManifestLog(store, self.folder)
        self.epoch = 0
        self.ids = 0
        self.now_ms = START_MS
        self.files: dict[int, list[FileRef]] = {}
        first = genesis(self.datasource, self.log_partitions(), generation, self.now_ms)
        assert self.manifests.put(first).done

    def log_partitions(self) -> dict[int, PartitionState]:
        return {number: PartitionState(f"log{number}", 0, 0) for number in range(self.datasource.partitions)}

    @property
    def newest(self) -> Manifest:
        newest = self.manifests.newest()
        assert newest is not None
        return newest

    def assignment(self, generation: int = 1, actor: str = "agg-0") -> Assignment:
        owned = {self.folder: tuple(range(self.datasource.partitions))}
        return Assignment(
            number=0,
            coordinator=self.generation,
            actors={actor: ActorAssignment(generation, owned)},
            created_ms=self.now_ms,
        )

    def rows(self, count: int, day: int = 0) -> pa.Table:
        begin = self.ids
        self.ids += count
        schema = self.datasource.raw_schema()
        values: dict[str, list[object]] = {
            "__time": [START_MS + day * DAY_MS + (begin + i) % 3_600_000 for i in range(count)],
            "user": [f"user{(begin + i) % 7}" for i in range(count)],
            "id": [f"id{begin + i}" for i in range(count)],
            "page": [f"/page/{(begin + i) % 3}" for i in range(count)],
            "price": [float(i) for i in range(count)],
        }
        columns = [pa.array(values.get(field.name, [None] * count), field.type) for field in schema]
        return pa.table(columns, schema=schema)

    def rollup_rows(self, rows: pa.Table) -> pa.Table:
        from rta.stream.rollups import finest_partials

        frame = finest_partials(rows, self.datasource.rollups[0], self.datasource)
        return frame.to_arrow().cast(self.datasource.rollup_schema(self.datasource.rollups[0]))

    def write(self, table: str, rows: pa.Table, day: int, k: int, who: tuple[str, int] = ("agg-0", 1)) -> FileRef:
        times = rows.column("__time").cast(pa.int64()).to_pylist()
        write = TableWrite(table, date_of(START_MS + day * DAY_MS), rows, min(times), max(times))
        name = layout.parquet_name(who[0], who[1], self.epoch, k)
        return write_table_file(self.store, self.folder, write, name)

    def part(
        self,
        count: int,
        days: Sequence[int] = (0,),
        partitions: Sequence[int] | None = None,
        who: tuple[str, int] = ("agg-0", 1),
        previous: Manifest | None = None,
    ) -> Part:
        """Fold `count` events of each day: their raw and rollup files, the state and the ledger, all true."""
        self.epoch += 1
        previous = previous or self.newest
        files: list[FileRef] = []
        rows = [self.rows(count, day) for day in days] if count else []
        for k, (day, table) in enumerate(zip(days, rows, strict=False)):
            files.append(self.write("events", table, day, 2 * k, who))
            rollup = self.datasource.rollups[0].table
            files.append(self.write(rollup, self.rollup_rows(table), day, 2 * k + 1, who))
        state = layout.state_path(*who, self.epoch)
        write_state(self.store, self.folder, state, b"state")
        numbers = list(range(self.datasource.partitions)) if partitions is None else list(partitions)
        return sealed(
            Part(
                id="",
                datasource=self.folder,
                actor=who[0],
                generation=who[1],
                epoch=self.epoch,
                definition_version=self.datasource.version,
                partitions=tuple(self._piece(number, previous) for number in numbers),
                files=tuple(files),
                state=state,
                ledger=self._ledger(rows, numbers),
            )
        )

    def _piece(self, number: int, previous: Manifest) -> PartitionPart:
        entry = previous.partitions[number]
        return PartitionPart(
            partition=number,
            log_incarnation=entry.log_incarnation,
            from_offset=entry.to_offset,
            to_offset=entry.to_offset + 10,
            based_on=entry.part,
            watermark_ms=None,
            append_time_ms=self.now_ms,
            runs=(),
            buffered=0,
            buffered_sum=0,
        )

    def _ledger(self, tables: Sequence[pa.Table], numbers: Sequence[int]) -> tuple[LedgerLine, ...]:
        lines = []
        for number in numbers:
            count, total = 0, 0
            for rows in tables:
                identities, partitions = placed(rows.combine_chunks(), self.datasource)
                count += int((partitions == number).sum())
                total += id_sum(identities[partitions == number])
            minute_ms = self.now_ms // 60_000 * 60_000
            lines.append(LedgerLine(number, minute_ms, count, total % (1 << 64), count, total % (1 << 64), 0, 0))
        return tuple(lines)

    def commit(self, *parts: Part, generation: int | None = None) -> Manifest:
        """Put the next manifest, which takes these parts; all of them must be acceptable."""
        choice = choose(parts, self.newest, self.assignment(max([part.generation for part in parts], default=1)))
        assert not choice.refused, choice.refused
        manifest = next_manifest(self.newest, choice.taken, generation or self.generation, self.now_ms)
        assert self.manifests.put(manifest).done
        self.now_ms += 1000
        return manifest

    def epochs(self, count: int, rows: int = 20, days: Sequence[int] = (0,)) -> None:
        for _ in range(count):
            self.commit(self.part(rows, days))

    def expected(self, table: str, number: int) -> list[FileRef]:
        """What the manifests alone say: every file of a table through one of them."""
        return [file for manifest in self.manifests.read(0, number) for file in manifest.files if file.table == table]


def as_named(files: Iterable[FileRef]) -> list[FileRef]:
    """Files as a manifest names them: when they were written is what their table adds."""
    return [msgspec.structs.replace(file, written_ms=None) for file in files]


def altered(part: Part, **changes: object) -> Part:
    """The part with other content, under its own id again."""
    return sealed(msgspec.structs.replace(part, **changes))


def altered_piece(part: Part, **changes: object) -> Part:
    """The part with another first partition."""
    piece = msgspec.structs.replace(part.partitions[0], **changes)
    return altered(part, partitions=(piece, *part.partitions[1:]))
