"""The tables of single rows that a question can name, and what their columns are called in it.

Raw events have the columns of the datasource's definition and JSON text beside them; rejected events have the same few
columns in every datasource. Rollups are no such tables: the planner finds them by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from rta.errors import InvalidQueryError
from rta.events.schemas import EVENTS, ID_HI, ID_LO, REJECTED, REJECTED_SCHEMA, REST, Column, ColumnType, Datasource


@dataclass(frozen=True, slots=True)
class Shape:
    """A table of single rows.

    Args:
        table: Its name.
        make_schema: Of how it is stored; only who reads rows needs it.
        columns: All of them but the time, the JSON text and what is only stored for the order.
        rest: The column of JSON text that holds what has no column; None where there is none.
        identity: Columns that tell apart rows of one time.
    """

    table: str
    make_schema: Callable[[], pa.Schema]
    columns: tuple[Column, ...]
    rest: str | None
    identity: tuple[str, ...]

    @property
    def schema(self) -> pa.Schema:
        """As it is stored."""
        return self.make_schema()

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)


REJECTED_SHAPE = Shape(
    table=REJECTED,
    make_schema=lambda: REJECTED_SCHEMA,
    columns=(
        *(Column(name, ColumnType.STRING, (name,)) for name in ("reason", "detail", "event", "event_id", "topic")),
        *(Column(name, ColumnType.LONG, (name,)) for name in ("partition", "offset")),
    ),
    rest=None,
    identity=("topic", "partition", "offset", "event_id", "detail"),
)


def shape_of(datasource: Datasource, table: str) -> Shape:
    """What a table of the datasource looks like to a question.

    Raises:
        InvalidQueryError: the datasource has no such table, or keeps nothing in it.
    """
    if table == REJECTED:
        if datasource.retention.rejected_ms is None:
            hint = "set 'retention.rejected' to how long they are to be kept"
            raise InvalidQueryError(f"datasource '{datasource.name}' keeps no rejected events", hint)
        return REJECTED_SHAPE
    if table != EVENTS:
        hint = f"ask of the table '{EVENTS}' or '{REJECTED}'"
        raise InvalidQueryError(f"datasource '{datasource.name}' has no table '{table}'", hint)
    identity: tuple[str, ...] = () if datasource.id is None else (datasource.id, *datasource.keys)
    identity += (ID_HI, ID_LO) if datasource.has_places else ()
    return Shape(EVENTS, datasource.raw_schema, datasource.columns, REST, identity)
