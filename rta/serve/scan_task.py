"""A question about single rows as a task for a scan worker: files and hot rows in, the answer's bytes out.

Runs in `rta.serve.scan_worker`'s process, small questions without files in the replica itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from rta.query.answer import Answer, arrow_stream, rows_json
from rta.query.fields import FieldKind
from rta.query.paths import values_at
from rta.query.planner import Plan
from rta.query.raw import fields_read, run_raw
from rta.query.rows import Source, run_rows, stored_columns
from rta.serve.scan_protocol import Reads, named_failures
from rta.store.parquet import check_files, scan_files

if TYPE_CHECKING:
    from rta.store.model import FileRef
    from rta.store.objects import ObjectStore


@dataclass(frozen=True, slots=True)
class ScanTask:
    """A question for a worker; a `rta.serve.scan_protocol.Task`.

    Args:
        files: Of the plan's table, in its range.
        hot: Rows of it beyond the files as an Arrow IPC stream.
        arrow: The rows as an Arrow stream instead of JSON.
    """

    plan: Plan
    store: ObjectStore
    files: tuple[FileRef, ...]
    hot: bytes
    arrow: bool
    time_limit_s: float

    @property
    def code(self) -> str:
        """The reader of JSON paths, for questions that need it."""
        return "paths" if any(f.kind is FieldKind.PATH for f in fields_read(self.plan)) else ""

    def load(self) -> None:
        values_at(pl.Series(['{"a":{"b":1}}']), ("a", "b"))

    def run(self) -> Finished:
        """Answer from files and hot rows. Raises CorruptFileError, OutOfMemoryError, UnavailableError."""
        datasource = self.plan.datasource
        return named_failures(
            self.store,
            (Reads(datasource.folder, self.files),),
            f"scanning the raw events of '{datasource.name}'",
            lambda: finish(answer_raw(self.plan, _sources(self)), self.arrow),
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """An answer as it goes out."""

    rows: bytes
    bounds: dict[str, dict[str, float]]
    more: bool
    next: str | None
    height: int


def finish(answer: Answer, arrow: bool) -> Finished:
    rows = arrow_stream(answer) if arrow else rows_json(answer)
    return Finished(rows, answer.bounds, answer.more, answer.next, answer.frame.height)


def answer_raw(plan: Plan, sources: list[Source]) -> Answer:
    if plan.query.select:
        return run_rows(plan, sources)
    return run_raw(plan, [s.frame for s in sources])


def hot_source(rows: pa.Table) -> Source:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return Source(frame, -(2**62), 2**62)


def rows_stream(rows: pa.Table) -> bytes:
    """Rows as they travel to a worker."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def _sources(task: ScanTask) -> list[Source]:
    """Files newest first; of aggregated questions all files as one frame."""
    plan = task.plan
    hot = hot_source(pa.ipc.open_stream(task.hot).read_all())
    sources = [hot] if isinstance(hot.frame, pl.DataFrame) and hot.frame.height else []
    schema = plan.shape.schema
    if plan.query.select:
        wanted = pa.schema([schema.field(name) for name in stored_columns(plan)])
        for file in task.files:
            frame = scan_files(task.store, plan.datasource.folder, [file], wanted)
            check = partial(check_files, task.store, plan.datasource.folder, [file], wanted.names)
            sources.append(Source(frame, file.time_min_ms, file.time_max_ms, check))
        return sources
    if task.files:
        wanted = pa.schema([schema.field(name) for name in plan.columns])
        check_files(task.store, plan.datasource.folder, task.files, wanted.names)
        frame = scan_files(task.store, plan.datasource.folder, task.files, wanted)
        sources.append(Source(frame, plan.start_ms, plan.end_ms))
    return sources
