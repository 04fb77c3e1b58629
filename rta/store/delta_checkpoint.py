"""A Delta checkpoint: the state of a table in one Parquet object.

Owns its columns, both ways. Written through the store like everything else, so that it is whole or not there. Leaves
out tombstones: only Delta's own vacuum reads them, and removing files is `rta.store.sweep`'s business.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_TEXTS = pa.map_(pa.string(), pa.string())
_SCHEMA = pa.schema(
    [
        pa.field(
            "protocol", pa.struct([pa.field("minReaderVersion", pa.int32()), pa.field("minWriterVersion", pa.int32())])
        ),
        pa.field(
            "metaData",
            pa.struct(
                [
                    pa.field("id", pa.string()),
                    pa.field("name", pa.string()),
                    pa.field("description", pa.string()),
                    pa.field("format", pa.struct([pa.field("provider", pa.string()), pa.field("options", _TEXTS)])),
                    pa.field("schemaString", pa.string()),
                    pa.field("partitionColumns", pa.list_(pa.string())),
                    pa.field("configuration", _TEXTS),
                    pa.field("createdTime", pa.int64()),
                ]
            ),
        ),
        pa.field(
            "txn",
            pa.struct(
                [pa.field("appId", pa.string()), pa.field("version", pa.int64()), pa.field("lastUpdated", pa.int64())]
            ),
        ),
        pa.field(
            "add",
            pa.struct(
                [
                    pa.field("path", pa.string()),
                    pa.field("partitionValues", _TEXTS),
                    pa.field("size", pa.int64()),
                    pa.field("modificationTime", pa.int64()),
                    pa.field("dataChange", pa.bool_()),
                    pa.field("stats", pa.string()),
                ]
            ),
        ),
        pa.field(
            "remove",
            pa.struct(
                [
                    pa.field("path", pa.string()),
                    pa.field("deletionTimestamp", pa.int64()),
                    pa.field("dataChange", pa.bool_()),
                ]
            ),
        ),
    ]
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Delta's actions as in a commit file; `txns` maps an app id to its version."""

    meta: dict[str, Any]
    protocol: dict[str, Any]
    txns: dict[str, int]
    adds: list[dict[str, Any]]


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """One row per action, as the Delta protocol has it."""
    shape = checkpoint.meta.get("format", {})
    meta = {
        **checkpoint.meta,
        "format": {"provider": shape.get("provider", "parquet"), "options": list(shape.get("options", {}).items())},
        "configuration": list(checkpoint.meta.get("configuration", {}).items()),
    }
    rows: list[dict[str, Any]] = [{"protocol": checkpoint.protocol}, {"metaData": meta}]
    rows += [{"txn": {"appId": app, "version": version}} for app, version in sorted(checkpoint.txns.items())]
    rows += [{"add": {**add, "partitionValues": list(add["partitionValues"].items())}} for add in checkpoint.adds]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


def decode_checkpoint(content: bytes) -> Checkpoint:
    """Also what other programs of Delta have written, as long as it is one file. Raises ValueError, OSError."""
    table = pq.read_table(io.BytesIO(content), columns=["protocol", "metaData", "txn", "add"])
    metas = _rows(table, "metaData", "schemaString")
    protocols = _rows(table, "protocol", "minReaderVersion")
    if not metas or not protocols:
        raise ValueError("it has no protocol or metaData action")
    meta = metas[-1]
    meta["format"]["options"] = dict(meta["format"]["options"] or [])
    meta["configuration"] = dict(meta["configuration"] or [])
    return Checkpoint(
        meta={name: value for name, value in meta.items() if value is not None},
        protocol={name: value for name, value in protocols[-1].items() if value is not None},
        txns={row["appId"]: row["version"] for row in _rows(table, "txn", "appId")},
        adds=_adds(table),
    )


def _rows(table: pa.Table, name: str, needed: str) -> list[dict[str, Any]]:
    """The rows in which an action stands; some programs write a struct of nulls for the others."""
    action = table.column(name).combine_chunks()
    return action.filter(pc.is_valid(pc.struct_field(action, needed))).to_pylist()


def _adds(table: pa.Table) -> list[dict[str, Any]]:
    """Column by column: 10,000 files row by row take seconds."""
    action = table.column("add").combine_chunks()
    action = action.filter(pc.is_valid(pc.struct_field(action, "path")))
    dates = pc.map_lookup(pc.struct_field(action, "partitionValues"), "date", "first").to_pylist()
    names = ("path", "size", "modificationTime", "stats")
    columns = [pc.struct_field(action, name).to_pylist() for name in names]
    return [
        {**dict(zip(names, values, strict=True)), "partitionValues": {"date": date}}
        for *values, date in zip(*columns, dates, strict=True)
    ]
