"""INFORMATION_SCHEMA and `sys`: what clients ask to find out which tables, columns and functions there are.

Owns these tables' columns, and the rows of INFORMATION_SCHEMA. They reach the engine as JSON beside the statement, so it needs no
tables of its own. Rows of `sys` come from whoever knows the system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from rta.query.druidsql.calls import function_names, is_aggregate
from rta.query.druidsql.kinds import BIGINT, TIMESTAMP, VARCHAR, Base, Kind, data_type, jdbc_type
from rta.query.druidsql.scope import Catalog, Column, Table
from rta.query.druidsql.tables import DRUID
from rta.query.druidsql.typed import quoted

SCHEMA = "INFORMATION_SCHEMA"
SYS = "sys"
Rows = Sequence[Mapping[str, Any]]
_V, _L = VARCHAR, BIGINT
_SCHEMATA = {
    "CATALOG_NAME": _V, "SCHEMA_NAME": _V, "SCHEMA_OWNER": _V, "DEFAULT_CHARACTER_SET_CATALOG": _V,
    "DEFAULT_CHARACTER_SET_SCHEMA": _V, "DEFAULT_CHARACTER_SET_NAME": _V, "SQL_PATH": _V,
}  # fmt: skip
_TABLES = {
    "TABLE_CATALOG": _V, "TABLE_SCHEMA": _V, "TABLE_NAME": _V, "TABLE_TYPE": _V, "IS_JOINABLE": _V, "IS_BROADCAST": _V,
}  # fmt: skip
_COLUMNS = {
    "TABLE_CATALOG": _V, "TABLE_SCHEMA": _V, "TABLE_NAME": _V, "COLUMN_NAME": _V, "ORDINAL_POSITION": _L,
    "COLUMN_DEFAULT": _V, "IS_NULLABLE": _V, "DATA_TYPE": _V, "CHARACTER_MAXIMUM_LENGTH": _L,
    "CHARACTER_OCTET_LENGTH": _L, "NUMERIC_PRECISION": _L, "NUMERIC_PRECISION_RADIX": _L, "NUMERIC_SCALE": _L,
    "DATETIME_PRECISION": _L, "CHARACTER_SET_NAME": _V, "COLLATION_NAME": _V, "JDBC_TYPE": _L,
}  # fmt: skip
_ROUTINES = {
    "ROUTINE_CATALOG": _V, "ROUTINE_SCHEMA": _V, "ROUTINE_NAME": _V, "ROUTINE_TYPE": _V, "IS_AGGREGATOR": _V,
    "SIGNATURES": _V,
}  # fmt: skip
SYS_TABLES: dict[str, dict[str, Kind]] = {
    "segments": {
        "segment_id": _V, "datasource": _V, "start": _V, "end": _V, "size": _L, "version": _V, "partition_num": _L,
        "num_replicas": _L, "num_rows": _L, "is_active": _L, "is_published": _L, "is_available": _L, "is_realtime": _L,
        "is_overshadowed": _L, "shard_spec": _V, "dimensions": _V, "metrics": _V, "last_compaction_state": _V,
        "replication_factor": _L,
    },
    "servers": {
        "server": _V, "host": _V, "plaintext_port": _L, "tls_port": _L, "server_type": _V, "tier": _V,
        "current_size": _L, "max_size": _L, "is_leader": _L, "start_time": _V, "version": _V, "labels": _V,
    },
    "server_segments": {"server": _V, "segment_id": _V},
    "tasks": {
        "task_id": _V, "group_id": _V, "type": _V, "datasource": _V, "created_time": _V, "queue_insertion_time": _V,
        "status": _V, "runner_status": _V, "duration": _L, "location": _V, "host": _V, "plaintext_port": _L,
        "tls_port": _L, "error_msg": _V,
    },
    "supervisors": {
        "supervisor_id": _V, "datasource": _V, "state": _V, "detailed_state": _V, "healthy": _L, "type": _V,
        "source": _V, "suspended": _L, "spec": _V,
    },
}  # fmt: skip
_PRECISIONS: dict[Base, tuple[int, int]] = {Base.BIGINT: (19, 0), Base.DOUBLE: (15, 0)}


def catalog(tables: Sequence[Table], sys_rows: Mapping[str, Rows]) -> Catalog:
    """The tables of datasources with those that describe them.

    Args:
        sys_rows: By table of `sys`; those that are not given are empty.
    """
    system = [_table(SYS, name, columns, partial(_given, sys_rows, name)) for name, columns in SYS_TABLES.items()]
    described: list[Table] = []
    shown = partial(_described, [*tables, *system], described)
    described += [
        _table(SCHEMA, "SCHEMATA", _SCHEMATA, _schemata),
        _table(SCHEMA, "TABLES", _TABLES, lambda: [_shown_table(t) for t in shown()]),
        _table(SCHEMA, "COLUMNS", _COLUMNS, lambda: [row for t in shown() for row in _shown_columns(t)]),
        _table(SCHEMA, "ROUTINES", _ROUTINES, _routines),
    ]
    return Catalog([*tables, *system, *described])


def _given(sys_rows: Mapping[str, Rows], name: str) -> Rows:
    return sys_rows.get(name, ())


def _described(tables: Iterable[Table], own: Iterable[Table]) -> list[Table]:
    return [*tables, *own]


def _table(schema: str, name: str, columns: Mapping[str, Kind], rows: Callable[[], Rows]) -> Table:
    return Table(
        schema, name, tuple(Column(c, k) for c, k in columns.items()), partial(_source, columns, rows), system=True
    )


def _source(columns: Mapping[str, Kind], rows: Callable[[], Rows], parameters: list[str]) -> str:
    shape = orjson.dumps([{name: str(kind.base) for name, kind in columns.items()}]).decode()
    data = orjson.dumps([{name: row.get(name) for name in columns} for row in rows()]).decode()
    parameters.append(data)
    return f"(SELECT unnest(from_json(${len(parameters)}, {quoted(shape)}), recursive := TRUE))"


def _schemata() -> Rows:
    return [{"CATALOG_NAME": DRUID, "SCHEMA_NAME": name} for name in (SCHEMA, DRUID, "lookup", SYS, "view")]


def _shown_table(table: Table) -> dict[str, Any]:
    return {
        "TABLE_CATALOG": DRUID,
        "TABLE_SCHEMA": table.schema,
        "TABLE_NAME": table.name,
        "TABLE_TYPE": "SYSTEM_TABLE" if table.system else "TABLE",
        "IS_JOINABLE": "NO",
        "IS_BROADCAST": "NO",
    }


def _shown_columns(table: Table) -> list[dict[str, Any]]:
    shown = [c for c in table.columns if not c.hidden]
    return [_shown_column(table, column, number) for number, column in enumerate(shown, 1)]


def _shown_column(table: Table, column: Column, number: int) -> dict[str, Any]:
    base = column.kind.base
    precision = None if column.kind.is_list else _PRECISIONS.get(base)
    text = base is Base.VARCHAR
    return {
        "TABLE_CATALOG": DRUID,
        "TABLE_SCHEMA": table.schema,
        "TABLE_NAME": table.name,
        "COLUMN_NAME": column.name,
        "ORDINAL_POSITION": number,
        "COLUMN_DEFAULT": "",
        "IS_NULLABLE": "NO" if column.name == "__time" else "YES",
        "DATA_TYPE": data_type(column.kind),
        "NUMERIC_PRECISION": precision and precision[0],
        "NUMERIC_PRECISION_RADIX": precision and 10,
        "NUMERIC_SCALE": precision and precision[1],
        "DATETIME_PRECISION": 3 if column.kind in (TIMESTAMP, Kind(Base.TIMESTAMP, tz=True)) else None,
        "CHARACTER_SET_NAME": "UTF-16LE" if text else None,
        "COLLATION_NAME": "UTF-16LE$en_US$primary" if text else None,
        "JDBC_TYPE": jdbc_type(column.kind),
    }


def _routines() -> Rows:
    return [
        {
            "ROUTINE_CATALOG": DRUID,
            "ROUTINE_SCHEMA": SCHEMA,
            "ROUTINE_NAME": name,
            "ROUTINE_TYPE": "FUNCTION",
            "IS_AGGREGATOR": "YES" if is_aggregate(name) else "NO",
        }
        for name in function_names()
    ]
