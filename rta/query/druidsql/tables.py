"""The tables of datasources as Druid SQL shows them: in the schema `druid`, under the names that `/v1/sql` has for them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from rta.events.schemas import REST, TIME, Datasource
from rta.query.druidsql.kinds import BIGINT, BOOLEAN, DOUBLE, INSTANT, JSON, MULTI, OF_COLUMN, VARCHAR, Kind
from rta.query.druidsql.scope import Column, Table
from rta.query.druidsql.typed import name
from rta.query.sql.tables import SqlTable, tables_of

DRUID = "druid"
_OF_ARROW: dict[pa.DataType, Kind] = {
    pa.string(): VARCHAR,
    pa.int64(): BIGINT,
    pa.int32(): BIGINT,
    pa.float64(): DOUBLE,
    pa.bool_(): BOOLEAN,
    pa.timestamp("ms", tz="UTC"): INSTANT,
    pa.list_(pa.string()): MULTI,
}


def druid_tables(datasources: Sequence[Datasource]) -> list[Table]:
    """All tables, by name; the time first, then the columns of the definition. What has no column is behind `__rest`."""
    tables = [_table(table) for datasource in datasources for table in tables_of(datasource)]
    return sorted(tables, key=lambda table: table.name)


def _table(table: SqlTable) -> Table:
    columns = [_column(table, c.name, c.type) for c in table.columns]
    columns.sort(key=lambda c: c.name != TIME)
    return Table(DRUID, table.name, tuple(columns), lambda _: name(table.name))


def _column(table: SqlTable, column: str, kind: pa.DataType) -> Column:
    if column == REST:
        return Column(column, JSON, hidden=True)
    defined = (
        None if table.rollup is not None or table.name != table.datasource.name else table.datasource.column(column)
    )
    if defined is None:
        return Column(column, _OF_ARROW[kind])
    return Column(column, OF_COLUMN[defined.type], path=".".join(defined.path))
