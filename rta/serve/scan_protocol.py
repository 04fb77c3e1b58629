"""What a scan worker can be asked: a task of any kind, and how its failures get their names.

Owns the frames on the pipe, the interface of a task and the naming of what goes wrong inside one. Knows no kind of task: raw
questions are `rta.serve.scan_task`'s. Runs on both sides of the pipe.
"""

from __future__ import annotations

import re
import resource
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import polars as pl
import pyarrow as pa

from rta.errors import OutOfMemoryError, RtaError, UnavailableError
from rta.store.parquet import find_corrupt

if TYPE_CHECKING:
    from rta.store.model import FileRef
    from rta.store.objects import ObjectStore

LENGTH = struct.Struct(">Q")
NARROWER = "ask of a shorter time range, fewer groups or fewer columns, or leave out 'exact'"
_OF_MEMORY = re.compile("memory|allocat|os error 12", re.IGNORECASE)
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Task(Protocol[Result_co]):
    """Work for a worker process. It travels there as a pickle, and so does what `run` returns or the RtaError that it raises."""

    @property
    def time_limit_s(self) -> float:
        """After so long the worker is killed."""
        ...

    @property
    def cells(self) -> int:
        """Values that are read at most, by what the files say of themselves: who reads much has a lane of its own."""
        ...

    @property
    def code(self) -> str:
        """Names what `load` loads, so that a worker does it once; empty where nothing is needed."""
        ...

    def load(self) -> None:
        """Load libraries and start their threads. What that takes is not counted as the question's memory."""
        ...

    def run(self) -> Result_co:
        """Do it. Raises RtaError and nothing else (`named_failures`)."""
        ...


@dataclass(frozen=True, slots=True)
class Reads:
    """Files of one datasource that a task reads. `folder` is `Datasource.folder`."""

    folder: str
    files: tuple[FileRef, ...]


def named_failures(store: ObjectStore, reads: Sequence[Reads], doing: str, work: Callable[[], Result]) -> Result:
    """What `work` returns; whatever it raises gets the name of its reason.

    Args:
        doing: For the message of what is nothing else, such as "scanning the raw events of 'wikipedia'".

    Raises:
        CorruptFileError: a file can't be read; it is named.
        OutOfMemoryError: noticed before the process had to end.
        UnavailableError: anything else that is no RtaError.
    """
    try:
        return work()
    except (MemoryError, pa.ArrowMemoryError) as error:
        raise OutOfMemoryError("the query needs more memory than it may have", NARROWER) from error
    except RtaError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:
        # A truncated file makes polars panic, which is no Exception; whatever it was, a broken file is named. Looking
        # for one must not fail for want of memory itself: the pool ends this process afterwards.
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for read in reads:
            broken = find_corrupt(store, read.folder, read.files)
            if broken is not None:
                raise type(broken)(broken.message, broken.hint) from error
        if _OF_MEMORY.search(str(error)):
            raise OutOfMemoryError("the query needs more memory than it may have", NARROWER) from error
        # The lines behind the first are the plan, with the paths of files.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnavailableError(f"{doing}: {reason}") from error
