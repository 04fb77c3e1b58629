"""Ray's own processes on this machine: how they are started apart from us, and that none outlives us.

Owns two promises. A signal to our process group (Ctrl-C, `timeout`, a service manager) reaches only this process, which
ends the others in order. And when this process is killed, all that it started ends within seconds, HAProxy and Ray's
agents too, which the kernel does not end with it.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
OBJECT_STORE_BYTES = 150 << 20
NODE = frozenset({"raylet", "gcs_server"})
"""The programs of a Ray node that nothing starts again."""
_GUARD = r"""
sessions=" "
while read -r word value; do
  [ "$word" = session ] && sessions="$sessions$value "
  [ "$word" = done ] && exit
done
mark=$1
for signal in TERM KILL; do
  for folder in /proc/[0-9]*; do
    [ "$folder" = "/proc/$$" ] && continue
    stat=$(cat "$folder/stat" 2>/dev/null) || continue
    set -- ${stat##*") "}
    case "$sessions" in
      *" $4 "*) ;;
      *) grep -sqz "^$mark\$" "$folder/environ" || continue ;;
    esac
    kill -$signal "${folder#/proc/}" 2>/dev/null
  done
  sleep 2
done
"""


class Guard:
    """A shell that waits for the end of this process; then it ends everything of its run."""

    def __init__(self, mark: str) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "rta-guard", mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._node: list[subprocess.Popen[bytes]] = []

    def watch_node(self, process: subprocess.Popen[bytes]) -> None:
        """This is a part of Ray's node: without it nothing goes on."""
        self._node.append(process)

    def node_lost(self) -> str | None:
        """Which part of Ray's node has ended; None as long as all run."""
        ended = next((p for p in self._node if p.poll() is not None), None)
        return None if ended is None else f"'{_program(ended)}', process {ended.pid}, ended with {ended.returncode}"

    def end_all(self) -> None:
        """End everything of this run but this process, and return when it is gone."""
        assert self._shell.stdin is not None
        with suppress(BrokenPipeError):
            self._shell.stdin.close()
        self._shell.wait()

    def watch_session(self, pid: int) -> None:
        """What runs in the session of this process is of the run, mark or not: a changed title may hide the mark."""
        self._say(f"session {pid}\n")

    def dismiss(self) -> None:
        """After an orderly end there is nothing to do."""
        self._say("done\n")
        self._shell.communicate()

    def _say(self, line: str) -> None:
        assert self._shell.stdin is not None
        try:
            self._shell.stdin.write(line.encode())
            self._shell.stdin.flush()
        except BrokenPipeError:
            logger.warning("the guard of this run has ended; if this process is killed, others may outlive it")


def _program(process: subprocess.Popen[bytes]) -> str:
    arguments = process.args
    first = arguments if isinstance(arguments, (str, bytes, PathLike)) else next(iter(arguments), "")
    return Path(os.fsdecode(first)).name


def start_ray(namespace: str, guard: Guard) -> None:
    """A Ray of our own on this machine, whatever else runs here."""
    import ray
    from ray._private import worker

    # Ray prints what its actors died of, in colours, on standard output; /v1/status says it, and Ray's logs do.
    worker.print_to_stdstream = _note
    with _own_session(guard):
        ray.init(
            address="local",
            num_cpus=8,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            namespace=namespace,
            _node_ip_address="127.0.0.1",
        )


def _note(data: dict[str, Any], ignore_prefix: bool) -> None:
    for line in data.get("lines", ()):
        logger.info("%s: %s", data.get("pid"), line)


@contextmanager
def guarded(mark: str) -> Iterator[Guard]:
    """Whatever is started inside ends soon after this process, however it ends.

    The guard finds what belongs to the run by `mark`, the `NAME=value` that is in the environment of all of it, and by
    sessions. It needs /proc; without it, Ray's own means have to do.
    """
    guard = Guard(mark)
    try:
        yield guard
    finally:
        guard.dismiss()


@contextmanager
def _own_session(guard: Guard) -> Iterator[None]:
    """What Ray starts meanwhile is in sessions of its own. It has no setting for that."""
    from ray._private import services

    popen = services.ConsolePopen

    def start(*arguments: Any, **options: Any) -> Any:
        process = popen(*arguments, start_new_session=True, **options)
        guard.watch_session(process.pid)
        if _program(process) in NODE:
            guard.watch_node(process)
        return process

    services.ConsolePopen = start
    try:
        yield
    finally:
        services.ConsolePopen = popen
