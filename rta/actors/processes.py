"""Ray's own processes on this machine: how they are started apart from us, and that none outlives us.

Owns two promises. A signal to our process group (Ctrl-C, `timeout`, a service manager) reaches only this process, which
ends the others in order. And when this process is killed, all that it started ends within seconds, HAProxy and Ray's
agents too, which the kernel does not end with it.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)
OBJECT_STORE_BYTES = 150 << 20
MARK = "_RTA_RUN"
"""In the environment of everything that a run starts."""
_GUARD = r"""
read -r _ && exit
for signal in TERM KILL; do
  for file in $(grep -slz "^$1\$" /proc/[0-9]*/environ); do
    process=${file#/proc/}
    kill -$signal "${process%/environ}" 2>/dev/null
  done
  sleep 2
done
"""


def start_ray(namespace: str) -> None:
    """A Ray of our own on this machine, whatever else runs here."""
    import ray
    from ray._private import worker

    # Ray prints what its actors died of, in colours, on standard output; /v1/status says it, and Ray's logs do.
    worker.print_to_stdstream = _note
    with _own_session():
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
def guarded() -> Iterator[None]:
    """Whatever is started inside ends soon after this process, however it ends.

    A shell waits for the end of a pipe that only this process holds, and then ends every process that carries this run's
    mark in its environment; after an orderly end it has nothing to do. Needs /proc; without it, Ray's own means have to do.
    """
    mark = f"{MARK}={secrets.token_hex(8)}"
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "rta-guard", mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    name, _, value = mark.partition("=")
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        guard.communicate(b"done\n")


@contextmanager
def _own_session() -> Iterator[None]:
    """What Ray starts meanwhile is in sessions of its own. It has no setting for that."""
    from ray._private import services

    popen = services.ConsolePopen
    services.ConsolePopen = functools.partial(popen, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = popen
