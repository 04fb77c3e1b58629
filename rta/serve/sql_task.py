"""A SQL statement as a task for a scan worker: tables in, the answer's bytes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rta.errors import InvalidQueryError, OutOfMemoryError
from rta.query.sql.tables import SqlTable
from rta.serve.scan_protocol import NARROWER, Reads, named_failures
from rta.serve.scan_task import Finished
from rta.serve.sql_answer import Answered, Form, found, rendered
from rta.serve.sql_check import check
from rta.serve.sql_engine import Engine, TableRead
from rta.store.parquet import check_files

if TYPE_CHECKING:
    import duckdb

    from rta.store.objects import ObjectStore

ERROR_LENGTH_MAX = 1_000


@dataclass(frozen=True, slots=True)
class SqlTask:
    """A statement for a worker; a `rta.serve.scan_protocol.Task`.

    Args:
        text: With parameters `$1`, `$2`, ….
        reads: The tables that it names.
        catalog: All tables, where it asks which there are.
        limit: Rows of the answer at most.
        memory_bytes: What it may use beyond what an idle worker has.
    """

    text: str
    parameters: tuple[Any, ...]
    store: ObjectStore
    reads: tuple[TableRead, ...]
    catalog: tuple[SqlTable, ...]
    form: Form
    limit: int
    memory_bytes: int
    time_limit_s: float

    @property
    def cells(self) -> int:
        return sum(file.rows * len(read.wanted) for read in self.reads for file in read.files)

    @property
    def code(self) -> str:
        return "sql"

    def load(self) -> None:
        with _engine(self.store, self.memory_bytes).holding(()) as connection:
            check(connection, "SELECT 1", frozenset())
            found(connection.sql("SELECT count(*) AS n, to_json([1]) AS j FROM range(100000) GROUP BY range % 10"), 1)

    def run(self) -> Finished:
        """The answer. Raises InvalidQueryError, CorruptFileError, OutOfMemoryError, UnavailableError."""
        reads = [Reads(read.table.datasource.folder, read.files) for read in self.reads]
        return named_failures(self.store, reads, "answering the SQL query", self._finished)

    def _finished(self) -> Finished:
        for read in self.reads:
            check_files(self.store, read.table.datasource.folder, read.files, read.wanted)
        answer = answered(self)
        return Finished(rendered(answer, self.form), {}, answer.more, None, answer.rows.num_rows)


def answered(task: SqlTask) -> Answered:
    """What the engine says, in this process. Raises InvalidQueryError, OutOfMemoryError, and what a broken file brings."""
    paths = frozenset(tuple(part.lower() for part in path) for read in task.reads for path in read.paths)
    if task.catalog:
        paths |= {(table.name.lower(),) for table in task.catalog}

    engine = _engine(task.store, task.memory_bytes)
    try:
        with engine.holding(task.reads, task.catalog) as connection:
            return _asked(connection, task, paths)
    except InvalidQueryError:
        raise
    except BaseException:
        _forget_engine()
        raise


_engines: dict[tuple[str, int], Engine] = {}
"""The engine of this process, by the store that it reads and its memory."""


def _engine(store: ObjectStore, memory_bytes: int) -> Engine:
    key = (store.uri("format.json"), memory_bytes)
    if key not in _engines:
        _forget_engine()
        _engines[key] = Engine(store, memory_bytes)
    return _engines[key]


def _forget_engine() -> None:
    while _engines:
        _engines.popitem()[1].close()


def _asked(connection: duckdb.DuckDBPyConnection, task: SqlTask, paths: frozenset[tuple[str, ...]]) -> Answered:
    """The answer; what the statement has wrong is told apart from what went wrong inside."""
    import duckdb

    inside = (duckdb.IOException, duckdb.InternalError, duckdb.FatalException, duckdb.SerializationException)
    try:
        check(connection, task.text, paths)
        return found(connection.sql(task.text, params=list(task.parameters) or None), task.limit)
    except duckdb.OutOfMemoryException as error:
        raise OutOfMemoryError("the query needs more memory than it may have", NARROWER) from error
    except inside:
        raise
    except duckdb.Error as error:
        text = str(error).strip()
        if ".parquet" in text:  # a file that is none gets the class of bad input
            raise
        raise InvalidQueryError(f"the query can't be answered: {text[:ERROR_LENGTH_MAX]}", "see docs/sql.md") from error
