"""Parquet files of the tables: how they are written, how they are read, and which one is broken.

Owns encodings and row groups, the fsync before a file is offered, null for columns that a file is too old to have, and
the naming of a corrupt file. Does not know which files belong to a table at a moment: `rta.store.versions`.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rta.errors import CorruptFileError, FileGoneError, NotFoundError
from rta.events.schemas import TIME
from rta.store import layout
from rta.store.model import FileRef
from rta.store.objects import ObjectStore
from rta.store.pages import Checked, PageError, Sealing, check_footer, check_pages
from rta.stream.model import TableWrite

if TYPE_CHECKING:
    import polars as pl

ROW_GROUP_ROWS = 131_072
ZSTD_LEVEL = 1
"""Level 3 costs a quarter more CPU and saves nothing on ids, which are most of the bytes (`benchmarks/commit.py`)."""
SAMPLE_ROWS = 4096
DISTINCT_SHARE_MAX = 0.5
"""Above this share of distinct values in a sample a dictionary only costs."""
RESTORE = "restore it from a backup, or restate its date from the source"
_CHECKED = Checked()


def write_table_file(store: ObjectStore, folder: str, write: TableWrite, name: str) -> FileRef:
    """Write rows of one table and date as one file, sorted by time, durable on return. Nothing reads it yet.

    Args:
        folder: `Datasource.folder`.
        name: From `layout.parquet_name`; must be new.
    """
    rows = sorted_by_time(write.rows)
    path = layout.dated(write.date, name)
    key = layout.table_file(folder, write.table, path)
    with store.writer(key) as file:
        write_parquet(rows, file)
    return FileRef(
        table=write.table,
        path=path,
        date=write.date,
        rows=rows.num_rows,
        bytes=store.size(key),
        time_min_ms=write.time_min_ms,
        time_max_ms=write.time_max_ms,
    )


def sorted_by_time(rows: pa.Table) -> pa.Table:
    """Rows in the order of event time; as they are when they are in it already. Stable."""
    if rows.num_rows < 2 or TIME not in rows.column_names:
        return rows
    times = rows.column(TIME).combine_chunks().cast(pa.int64())
    if pc.all(pc.less_equal(times[:-1], times[1:])).as_py():
        return rows
    return rows.take(pc.array_sort_indices(times))


def write_parquet(rows: pa.Table, file: BinaryIO) -> None:
    """Dictionaries where values repeat, deltas for sorted times, plain text with zstd for ids."""
    dictionary, encodings = _encodings(rows)
    sealing = Sealing(file)
    with pq.ParquetWriter(
        sealing,
        rows.schema,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=dictionary,
        column_encoding=encodings or None,
        write_statistics=True,
        write_page_index=True,
        write_page_checksum=True,
        data_page_version="2.0",
        store_schema=False,
    ) as writer:
        writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
        sealing.hold()
    sealing.seal()


def _encodings(rows: pa.Table) -> tuple[list[str], dict[str, str]]:
    dictionary: list[str] = []
    encodings: dict[str, str] = {}
    for field in rows.schema:
        if field.name == TIME:
            encodings[field.name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_list(field.type):
            dictionary += [] if pa.types.is_int64(field.type.value_type) else _leaves(field.name, field.type)
        elif pa.types.is_string(field.type) and _mostly_distinct(rows.column(field.name)):
            encodings[field.name] = "DELTA_LENGTH_BYTE_ARRAY"
        elif not pa.types.is_boolean(field.type) and not pa.types.is_binary(field.type):
            dictionary.append(field.name)
    return dictionary, encodings


def _leaves(name: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_list(kind):
        return _leaves(f"{name}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{name}.{field.name}", field.type)]
    return [name]


def _mostly_distinct(column: pa.ChunkedArray) -> bool:
    sample = column.slice(0, SAMPLE_ROWS).drop_null()
    return len(sample) > 0 and pc.count_distinct(sample).as_py() > DISTINCT_SHARE_MAX * len(sample)


def scan_files(
    store: ObjectStore,
    folder: str,
    files: Sequence[FileRef],
    schema: pa.Schema,
    time_range_ms: tuple[int, int] | None = None,
) -> pl.LazyFrame:
    """A lazy frame over files of one table. What a file lacks is null, what `schema` lacks is left out.

    Files outside the half-open time range are not opened. Collect it inside `named_corruption`, after `check_files`: polars does
    not compare checksums.
    """
    import polars as pl

    wanted = within_range(files, time_range_ms)
    empty = pl.from_arrow(schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    if not wanted:
        return empty.lazy()
    frame = pl.scan_parquet(
        [store.uri(layout.table_file(folder, file.table, file.path)) for file in wanted],
        schema=empty.schema,
        missing_columns="insert",
        extra_columns="ignore",
        hive_partitioning=False,
        glob=False,
        storage_options=store.storage_options() or None,
    )
    if time_range_ms is None:
        return frame
    start, end = (pl.lit(bound).cast(pl.Datetime("ms", "UTC")) for bound in time_range_ms)
    return frame.filter((pl.col(TIME) >= start) & (pl.col(TIME) < end))


def read_files(
    store: ObjectStore,
    folder: str,
    files: Sequence[FileRef],
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    time_range_ms: tuple[int, int] | None = None,
) -> pl.DataFrame:
    """As `scan_files`, read now. Raises CorruptFileError naming the file that can't be read or is not there."""
    check_files(store, folder, within_range(files, time_range_ms), schema.names if columns is None else columns)
    frame = scan_files(store, folder, files, schema, time_range_ms)
    wanted = frame if columns is None else frame.select(columns)
    return named_corruption(store, folder, files, wanted.collect)


def check_files(store: ObjectStore, folder: str, files: Sequence[FileRef], columns: Collection[str]) -> None:
    """Compare the checksums of these columns in files that this process has not seen yet. Raises CorruptFileError naming one."""
    for file in files:
        key = layout.table_file(folder, file.table, file.path)
        uri = store.uri(key)
        unknown = _CHECKED.unknown(uri, columns)
        if not unknown:
            continue
        try:
            check_pages(partial(store.part, key), store.size(key), unknown)
        except NotFoundError as error:
            raise FileGoneError(f"{_reading(store, folder, file)} is not there", RESTORE) from error
        except PageError as error:
            raise CorruptFileError(f"{_reading(store, folder, file)} can't be read: {error}", RESTORE) from error
        _CHECKED.add(uri, unknown)


def _reading(store: ObjectStore, folder: str, file: FileRef) -> str:
    key = layout.table_file(folder, file.table, file.path)
    return f"reading table '{file.table}' of '{folder}': the file '{store.uri(key)}'"


def within_range(files: Sequence[FileRef], time_range_ms: tuple[int, int] | None) -> Sequence[FileRef]:
    """Files that can hold rows of a half-open range of event time."""
    if time_range_ms is None:
        return files
    start, end = time_range_ms
    return [file for file in files if file.time_max_ms >= start and file.time_min_ms < end]


def named_corruption(
    store: ObjectStore, folder: str, files: Sequence[FileRef], read: Callable[[], pl.DataFrame]
) -> pl.DataFrame:
    """Run `read`; when it fails because of a file, raise CorruptFileError with that file's name instead.

    polars raises PanicException for a truncated file, which is no `Exception`.
    """
    import polars as pl

    try:
        return read()
    except (pl.exceptions.PanicException, pl.exceptions.PolarsError, OSError) as error:
        broken = find_corrupt(store, folder, files)
        if broken is None:
            raise
        raise broken from error


def find_corrupt(store: ObjectStore, folder: str, files: Sequence[FileRef]) -> CorruptFileError | None:
    """Read the files one by one until one fails. For the path of an error only. Raises MemoryError of its own."""
    for file in files:
        key = layout.table_file(folder, file.table, file.path)
        try:
            found = _parquet(store.get(key)).read().num_rows
        except NotFoundError:
            return FileGoneError(f"{_reading(store, folder, file)} is not there", RESTORE)
        except pa.ArrowMemoryError:
            raise  # the reader is short of memory; that says nothing of the file
        except (PageError, pa.ArrowException, OSError) as error:
            return CorruptFileError(f"{_reading(store, folder, file)} can't be read: {error}", RESTORE)
        if found != file.rows:
            return CorruptFileError(
                f"{_reading(store, folder, file)} has {found} rows, {file.rows} were committed", RESTORE
            )
    return None


def read_one(store: ObjectStore, folder: str, file: FileRef, columns: Sequence[str] | None = None) -> pa.Table:
    """One file as an Arrow table, without polars; columns that it lacks are left out. Raises CorruptFileError."""
    key = layout.table_file(folder, file.table, file.path)
    try:
        source = _parquet(store.buffer(key))
        present = None if columns is None else [name for name in columns if name in source.schema_arrow.names]
        return source.read(columns=present)
    except (NotFoundError, PageError, pa.ArrowException, OSError) as error:
        raise CorruptFileError(
            f"{_reading(store, folder, file)} can't be read: {error}", "restore it from a backup"
        ) from error


def _parquet(content: bytes | mmap.mmap) -> pq.ParquetFile:
    """A file that compares its checksums as it is read. Raises PageError for its footer."""
    _whole_footer(content)
    return pq.ParquetFile(pa.BufferReader(pa.py_buffer(content)), page_checksum_verification=True)


def _whole_footer(content: bytes | mmap.mmap) -> None:
    check_footer(lambda first, length: bytes(content[first : first + length]), len(content))


def file_schema(store: ObjectStore, folder: str, file: FileRef) -> pa.Schema:
    """The columns that a file has. Raises CorruptFileError."""
    key = layout.table_file(folder, file.table, file.path)
    try:
        content = store.buffer(key)
        _whole_footer(content)
        return pq.read_schema(pa.BufferReader(pa.py_buffer(content)))
    except (NotFoundError, PageError, pa.ArrowException, OSError) as error:
        raise CorruptFileError(
            f"reading the schema of '{store.uri(key)}': {error}", "restore it from a backup"
        ) from error
