"""Jobs that rewrite tables register their outputs before they write them (rule 16).

Owns the lease: until it ends the outputs count as named, whether they exist or not. A job that dies leaves its
document; when the lease is over the sweep may take what it wrote.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import msgspec

from rta.errors import CorruptFileError, NotFoundError
from rta.store import layout
from rta.store.objects import ObjectStore

LEASE_MS = 300_000


class Job(msgspec.Struct, frozen=True):
    """`outputs` are keys of the store."""

    name: str
    outputs: tuple[str, ...]
    lease_until_ms: int


def register(store: ObjectStore, folder: str, outputs: tuple[str, ...], now_ms: int, lease_ms: int = LEASE_MS) -> Job:
    """Name outputs that are about to be written. The job must commit them before its lease ends, or not at all."""
    job = Job(uuid.uuid4().hex, outputs, now_ms + lease_ms)
    store.put(layout.job(folder, job.name), msgspec.json.encode(job))
    return job


def finish(store: ObjectStore, folder: str, job: Job) -> None:
    """The outputs have been committed: a Delta version names them now."""
    store.delete(layout.job(folder, job.name))


def registered(store: ObjectStore, folder: str) -> Iterator[Job]:
    """All jobs that have not finished, those whose lease is over included."""
    for info in store.list(layout.jobs(folder)):
        try:
            yield msgspec.json.decode(store.get(info.key), type=Job)
        except NotFoundError:
            continue
        except msgspec.DecodeError as error:
            raise CorruptFileError(f"reading the job '{info.key}': {error}", "restore it from a backup") from error


def discard_dead(store: ObjectStore, folder: str, before_ms: int) -> int:
    """Remove the documents of jobs whose lease was over before `before_ms`. Returns how many."""
    dead = [job for job in registered(store, folder) if job.lease_until_ms < before_ms]
    for job in dead:
        finish(store, folder, job)
    return len(dead)
