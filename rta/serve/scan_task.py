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
from rta.query.columns import journey_type
from rta.query.fields import FieldKind
from rta.query.funnels import run_funnel
from rta.query.model import QueryMetricType
from rta.query.paths import values_at
from rta.query.plan import Plan
from rta.query.raw import fields_read, raw_columns, run_raw
from rta.query.retention import run_retention
from rta.query.rows import Source, run_rows, stored_columns
from rta.serve.scan_protocol import Reads, named_failures
from rta.store.parquet import check_files, scan_files

if TYPE_CHECKING:
    from rta.store.model import FileRef
    from rta.store.objects import ObjectStore


@dataclass(frozen=True, slots=True)
class ScanTask:
    """A question for a worker, or, with a rollup, the raw ends of one: they come back as rollup rows. A
    `rta.serve.scan_protocol.Task`.

    Args:
        files: Of the table of single rows that the plan reads, in its range.
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
    def cells(self) -> int:
        """A page of rows without a condition reads few of its files."""
        if self.plan.query.select and self.plan.pushed is None and self.plan.where is None:
            return 0
        return sum(file.rows for file in self.files) * len(self.plan.columns)

    @property
    def code(self) -> str:
        """The reader of JSON paths, and the fold, for questions that need them."""
        paths = any(f.kind is FieldKind.PATH for f in fields_read(self.plan))
        return ("paths" if paths else "") + ("fold" if self.plan.rollup is not None else "")

    def load(self) -> None:
        values_at(pl.Series(['{"a":{"b":1}}']), ("a", "b"))
        if self.plan.rollup is not None:
            folded(self.plan, [hot_source(self.plan.shape.schema.empty_table())])

    def run(self) -> Finished:
        """Answer from files and hot rows. Raises CorruptFileError, OutOfMemoryError, UnavailableError."""
        datasource = self.plan.datasource
        return named_failures(
            self.store,
            (Reads(datasource.folder, self.files),),
            f"scanning the raw events of '{datasource.name}'",
            self._answered,
        )

    def _answered(self) -> Finished:
        if self.plan.rollup is not None:
            return Finished(folded(self.plan, _sources(self)), {}, False, None, 0)
        return finish(answer_raw(self.plan, _sources(self)), self.arrow)


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


def folded(plan: Plan, sources: list[Source]) -> bytes:
    """The raw ends of a rollup's question as rollup rows, an Arrow IPC stream."""
    from rta.query.ends import fold_ends  # brings numba, which other scans do without

    return rows_stream(fold_ends(plan, [s.frame for s in sources]))


def answer_raw(plan: Plan, sources: list[Source]) -> Answer:
    if plan.query.select:
        return run_rows(plan, sources)
    frames = [s.frame for s in sources]
    match journey_type(plan.query):
        case QueryMetricType.FUNNEL:
            return run_funnel(plan, frames)
        case QueryMetricType.RETENTION:
            return run_retention(plan, frames)
        case _:
            return run_raw(plan, frames)


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
        columns = plan.columns if plan.rollup is None else raw_columns(plan)
        wanted = pa.schema([schema.field(name) for name in columns])
        check_files(task.store, plan.datasource.folder, task.files, wanted.names)
        frame = scan_files(task.store, plan.datasource.folder, task.files, wanted)
        sources.append(Source(frame, plan.start_ms, plan.end_ms))
    return sources
