"""A scan worker: a process of its own that answers one question after the other from raw events.

Started by `rta.serve.scan` as `python -m rta.serve.scan_worker`; talks over its standard input and output in frames of
8 bytes of length and a pickle. Its address space is bounded, so that a question that needs too much memory ends here
and nowhere else; a question whose time is over is ended from outside, or by the kernel's alarm should the parent be
gone.
"""

from __future__ import annotations

import pickle
import resource
import signal
import sys
from typing import BinaryIO

import polars as pl

from rta.errors import RtaError
from rta.query.fields import FieldKind
from rta.query.paths import values_at
from rta.query.raw import fields_read
from rta.serve.scan_task import LENGTH, Finished, ScanTask, folded, hot_source, run_task

ALARM_GRACE_S = 5.0


class Memory:
    """The bound on the process's address space: what it has when it is idle, plus what a question may use."""

    def __init__(self, extra_bytes: int) -> None:
        self._extra_bytes = extra_bytes
        self._knows_paths = False
        self._knows_folds = False
        _limit(extra_bytes)

    def make_room(self, task: ScanTask) -> None:
        """Load what reads JSON paths or folds rows at the first question that needs it, and don't count it as its own."""
        paths = not self._knows_paths and any(f.kind is FieldKind.PATH for f in fields_read(task.plan))
        folds = not self._knows_folds and task.plan.rollup is not None
        if not paths and not folds:
            return
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if paths:
            values_at(pl.Series(['{"a":{"b":1}}']), ("a", "b"))
            self._knows_paths = True
        if folds:
            folded(task.plan, [hot_source(task.plan.shape.schema.empty_table())])
            self._knows_folds = True
        _limit(self._extra_bytes)


def _limit(extra_bytes: int) -> None:
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + extra_bytes, resource.RLIM_INFINITY))


def serve(source: BinaryIO, sink: BinaryIO, memory: Memory) -> None:
    """Answer tasks until the input ends."""
    while True:
        head = source.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return
        task: ScanTask = pickle.loads(source.read(LENGTH.unpack(head)[0]))
        signal.setitimer(signal.ITIMER_REAL, task.time_limit_s + ALARM_GRACE_S)
        memory.make_room(task)
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
    memory = Memory(int(sys.argv[1]))
    sys.stdout.buffer.write(LENGTH.pack(0))
    sys.stdout.buffer.flush()
    serve(sys.stdin.buffer, sys.stdout.buffer, memory)


def warm_up() -> None:
    """Start polars' threads and load its code before the memory is bounded."""
    frame = pl.LazyFrame({"a": [1, 2], "b": ["x", None]})
    frame.group_by("b").agg(pl.col("a").quantile(0.5)).sort("b").collect(engine="streaming").write_json()


if __name__ == "__main__":
    main()
