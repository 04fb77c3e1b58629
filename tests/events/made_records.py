"""Records of a topic as the decoder takes them, and what becomes of them; the datasources that read such topics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rta.events.bodies import Limits
from rta.events.definition import parse_datasource
from rta.events.records import RecordDecoder, Records, Refused
from rta.events.schemas import Datasource
from rta.log.kafka.batches import Unpacker, read_chunks
from tests.events.samples import NOW_MS
from tests.log.made_batches import Batch, Made, packed

TOPIC = "shop"
PARTITION = 3


def reading(document: dict[str, Any], record_format: str = "json", **changes: Any) -> Datasource:
    """The datasource that reads `TOPIC` with this document."""
    source = {"kafka": {"topic": TOPIC, "format": record_format}}
    complete = {**document, "source": source, **changes}
    return parse_datasource(complete, incarnation="i", version=1, partitions=8)


@dataclass(frozen=True)
class Result:
    rows: pa.Table
    refused: list[Refused]
    events: int

    def dicts(self) -> list[dict[str, Any]]:
        table = self.rows
        for i, field in enumerate(table.schema):
            if pa.types.is_timestamp(field.type):
                table = table.set_column(i, field.name, table.column(i).cast(pa.int64()))
        found: list[dict[str, Any]] = table.to_pylist()
        return found

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.dicts()]

    def reasons(self) -> list[tuple[str, str]]:
        return [(str(each.verdict.reason), each.verdict.detail) for each in self.refused]


def unpacked(records: Sequence[Made], base: int = 0) -> Records:
    content = packed(Batch(base, tuple(records), base_ms=NOW_MS))
    [chunk] = read_chunks("made", PARTITION, base, content, (), NOW_MS)
    [(found, _)] = Unpacker.make().unpack("made", chunk)
    return found


def decoded(datasource: Datasource, records: Sequence[Made], base: int = 0, limits: Limits | None = None) -> Result:
    """Everything that becomes of the records."""
    decoder = RecordDecoder(datasource, PARTITION, "incarnation-3", (limits or Limits()).event_bytes)
    parts = list(decoder.decode(unpacked(records, base), NOW_MS))
    assert [p.end for p in parts] == sorted({p.end for p in parts})
    assert parts[-1].end == len(records)
    rows = pa.concat_tables([p.rows for p in parts])
    rows.validate(full=True)
    assert rows.schema.equals(datasource.raw_schema())
    refused = [each for p in parts for each in p.refused]
    events = sum(p.events for p in parts)
    assert events == rows.num_rows + len(refused)
    places = np.array([rows["__id_hi"].to_numpy(), rows["__id_lo"].to_numpy()])
    assert len(np.unique(places, axis=1).T) == rows.num_rows
    return Result(rows, refused, events)


def values(datasource: Datasource, *texts: bytes | str | None, **options: Any) -> Result:
    """What becomes of records with these values and nothing else."""
    made = [Made(i, t.encode() if isinstance(t, str) else t) for i, t in enumerate(texts)]
    return decoded(datasource, made, **options)
