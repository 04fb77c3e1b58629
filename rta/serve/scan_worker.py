"""A scan worker: a process of its own that runs one task after the other (`rta.serve.scan_protocol`).

Started by `rta.serve.scan` as `python -m rta.serve.scan_worker`; talks over its standard input and output in frames of
8 bytes of length and a pickle. Its address space is bounded, so that a question that needs too much memory ends here
and nowhere else; a question whose time is over is ended from outside, or by the kernel's alarm should the parent be
gone.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
from typing import BinaryIO

import polars as pl

from rta.errors import RtaError
from rta.serve.scan_protocol import LENGTH, Task

ALARM_GRACE_S = 5.0


class Memory:
    """The bound on the process's address space: what it has when it is idle, plus what a question may use."""

    def __init__(self, extra_bytes: int) -> None:
        self._extra_bytes = extra_bytes
        self._loaded = {""}
        _limit(extra_bytes)

    def make_room(self, task: Task[object]) -> None:
        """Load the code of a task at the first one that needs it, without counting it as the question's."""
        if task.code in self._loaded:
            return
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        task.load()
        self._loaded.add(task.code)
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
        task: Task[object] = pickle.loads(source.read(LENGTH.unpack(head)[0]))
        signal.setitimer(signal.ITIMER_REAL, task.time_limit_s + ALARM_GRACE_S)
        memory.make_room(task)
        result: object
        try:
            result = task.run()
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
    os.nice(int(sys.argv[2]))
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
