"""A question for a scan worker, what comes back, and how it is answered there: files and hot rows in, bytes out.

Everything that crosses the pipe is defined here, so that both sides know it by one name. Runs in
`rta.serve.scan_worker`'s process, small questions without files in the replica itself.
"""

from __future__ import annotations

import re
import resource
import struct
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from rta.errors import OutOfMemoryError, RtaError, UnavailableError
from rta.query.answer import Answer, arrow_stream, rows_json
from rta.query.plan import Plan
from rta.query.raw import raw_columns, run_raw
from rta.query.rows import Source, run_rows, stored_columns
from rta.store.parquet import check_files, find_corrupt, scan_files

if TYPE_CHECKING:
    from rta.store.model import FileRef
    from rta.store.objects import ObjectStore

_OF_MEMORY = re.compile("memory|allocat|os error 12", re.IGNORECASE)
LENGTH = struct.Struct(">Q")
NARROWER = "ask of a shorter time range, fewer groups or fewer columns, or leave out 'exact'"


@dataclass(frozen=True, slots=True)
class ScanTask:
    """A question for a worker, or, with a rollup, the raw ends of one: they come back as rollup rows.

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


def run_task(task: ScanTask) -> Finished:
    """Answer from files and hot rows.

    Raises:
        CorruptFileError: a file can't be read; it is named.
        OutOfMemoryError: noticed before the process had to end.
    """
    try:
        if task.plan.rollup is not None:
            return Finished(folded(task.plan, _sources(task)), {}, False, None, 0)
        return finish(answer_raw(task.plan, _sources(task)), task.arrow)
    except (MemoryError, pa.ArrowMemoryError) as error:
        raise OutOfMemoryError("the query needs more memory than it may have", NARROWER) from error
    except RtaError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:
        # A truncated file makes polars panic, which is no Exception; whatever it was, a broken file is named. Looking
        # for one must not fail for want of memory itself: the pool ends this process afterwards.
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        broken = find_corrupt(task.store, task.plan.datasource.folder, task.files)
        if broken is not None:
            raise type(broken)(broken.message, broken.hint) from error
        if _OF_MEMORY.search(str(error)):
            raise OutOfMemoryError("the query needs more memory than it may have", NARROWER) from error
        raise UnavailableError(f"scanning the raw events of '{task.plan.datasource.name}': {error}") from error


def folded(plan: Plan, sources: list[Source]) -> bytes:
    """The raw ends of a rollup's question as rollup rows, an Arrow IPC stream."""
    from rta.query.ends import fold_ends  # brings numba, which other scans do without

    sink = pa.BufferOutputStream()
    rows = fold_ends(plan, [s.frame for s in sources])
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def answer_raw(plan: Plan, sources: list[Source]) -> Answer:
    if plan.query.select:
        return run_rows(plan, sources)
    return run_raw(plan, [s.frame for s in sources])


def hot_source(rows: pa.Table) -> Source:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return Source(frame, -(2**62), 2**62)


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
