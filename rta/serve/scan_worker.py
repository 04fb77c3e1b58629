"""A scan worker: a process of its own that answers one question after the other from raw events.

Started by `rta.serve.scan` as `python -m rta.serve.scan_worker`; talks over its standard input and output in frames of 8
bytes of length and a pickle. Its address space is bounded, so that a question that needs too much memory ends here and
nowhere else; a question whose time is over is ended from outside, or by the kernel's alarm should the parent be gone.
"""

from __future__ import annotations

import pickle
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import polars as pl
import pyarrow as pa

from rta.errors import CorruptFileError, OutOfMemoryError, RtaError, UnavailableError
from rta.query.answer import Answer, arrow_stream, rows_json
from rta.query.planner import Plan
from rta.query.raw import run_raw
from rta.query.rows import Source, run_rows, stored_columns
from rta.store.parquet import find_corrupt, scan_files

if TYPE_CHECKING:
    from rta.store.model import FileRef
    from rta.store.objects import ObjectStore

LENGTH = struct.Struct(">Q")
ALARM_GRACE_S = 5.0
NARROWER = "ask of a shorter time range, fewer groups or fewer columns, or leave out 'exact'"


@dataclass(frozen=True, slots=True)
class ScanTask:
    """A question for a worker.

    Args:
        files: Of the raw table, in the plan's range.
        hot: Raw rows beyond the files as an Arrow IPC stream.
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
        return finish(answer_raw(task.plan, _sources(task)), task.arrow)
    except (MemoryError, pa.ArrowMemoryError) as error:
        raise OutOfMemoryError("the query needs more memory than it may have", NARROWER) from error
    except RtaError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:
        # A truncated file makes polars panic, which is no Exception; whatever it was, a broken file is named.
        broken = find_corrupt(task.store, task.plan.datasource.folder, task.files)
        if broken is not None:
            raise CorruptFileError(broken.message, broken.hint) from error
        raise UnavailableError(f"scanning the raw events of '{task.plan.datasource.name}': {error}") from error


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
    schema = plan.datasource.raw_schema()
    if plan.query.select:
        wanted = pa.schema([schema.field(name) for name in stored_columns(plan)])
        for file in task.files:
            frame = scan_files(task.store, plan.datasource.folder, [file], wanted)
            sources.append(Source(frame, file.time_min_ms, file.time_max_ms))
        return sources
    if task.files:
        wanted = pa.schema([schema.field(name) for name in plan.columns])
        frame = scan_files(task.store, plan.datasource.folder, task.files, wanted)
        sources.append(Source(frame, plan.start_ms, plan.end_ms))
    return sources


def limit_memory(extra_bytes: int) -> None:
    """Bound the address space to what the process has now plus `extra_bytes`."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + extra_bytes, now + extra_bytes))


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer tasks until the input ends."""
    while True:
        head = source.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return
        task: ScanTask = pickle.loads(source.read(LENGTH.unpack(head)[0]))
        signal.setitimer(signal.ITIMER_REAL, task.time_limit_s + ALARM_GRACE_S)
        result: Finished | RtaError
        try:
            result = run_task(task)
        except RtaError as error:
            result = error
        signal.setitimer(signal.ITIMER_REAL, 0)
        del task
        data = pickle.dumps(result)
        sink.write(LENGTH.pack(len(data)) + data)
        sink.flush()


def main() -> None:
    """Warm up, bound the memory, say that it is ready, serve."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warm_up()
    limit_memory(int(sys.argv[1]))
    sys.stdout.buffer.write(LENGTH.pack(0))
    sys.stdout.buffer.flush()
    serve(sys.stdin.buffer, sys.stdout.buffer)


def warm_up() -> None:
    """Start polars' threads and load its code before the memory is bounded."""
    frame = pl.LazyFrame({"a": [1, 2], "b": ["x", None]})
    frame.group_by("b").agg(pl.col("a").quantile(0.5)).sort("b").collect(engine="streaming").write_json()


if __name__ == "__main__":
    main()
