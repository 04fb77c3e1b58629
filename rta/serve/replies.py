"""A finished answer as it goes out: the body, its own quality in `meta`, the ETag.

Computes nothing: `rta.serve.service` does.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from rta.query.answer import format_time
from rta.query.plan import Plan
from rta.serve.reads import Prepared
from rta.serve.scan_task import Finished

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished answer. `meta` is inside a JSON body already; an Arrow body has no place for it."""

    status: int
    body: bytes
    content_type: str
    etag: str
    meta: dict[str, Any]


class Asked(NamedTuple):
    """What a reply needs to know of the request."""

    etag: str
    arrow: bool
    begun: float


def matches(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags or etag.strip('"') in tags


def etag_of(key: bytes, complete: bool) -> str:
    """Of an answer's key. An answer that has become complete is another one, though its rows may be the same."""
    return f'"{hashlib.blake2b(key + (b"" if complete else b"-"), digest_size=16).hexdigest()}"'


def reply_of(prepared: Prepared, finished: Finished, cached: bool, asked: Asked) -> Reply:
    meta = meta_of(prepared, finished, cached, asked.begun)
    if asked.arrow:
        following = {"next": finished.next} if finished.next else {}
        return Reply(200, finished.rows, ARROW, asked.etag, meta | following)
    return Reply(200, _body(finished, meta), JSON, asked.etag, meta)


def meta_of(prepared: Prepared, finished: Finished | None, cached: bool, begun: float) -> dict[str, Any]:
    """The quality of the answer. `time_range` is the absolute one that a relative range came to."""
    planned, view = prepared.plan, prepared.view
    return {
        "watermark": None if view.watermark_ms is None else format_time(view.watermark_ms),
        "version": view.version,
        "complete": view.complete,
        "sources": _sources(prepared),
        "time_range": f"{format_time(planned.start_ms)}/{format_time(planned.end_ms)}",
        **({"forgotten": _forgotten(planned)} if planned.forgotten else {}),
        "bounds": finished.bounds if finished else {},
        "row_limit": planned.query.limit,
        "truncated": finished.more if finished else False,
        "cached": cached,
        "elapsed_ms": round((time.perf_counter() - begun) * 1000, 3),
    }


def _forgotten(planned: Plan) -> list[str]:
    """Stretches that no table keeps as finely as they were asked for: what they held is not in the answer."""
    return [f"{format_time(start)}/{format_time(end)}" for start, end in planned.forgotten]


def _sources(prepared: Prepared) -> Sequence[str]:
    tables = dict.fromkeys(table for _, part in prepared.parts for table in part.plan.tables) or prepared.plan.tables
    return [*tables, *(["hot"] if prepared.has_hot else [])]


def _body(finished: Finished, meta: dict[str, Any]) -> bytes:
    following = b',"next":' + orjson.dumps(finished.next) if finished.next else b""
    return b"".join((b'{"rows":', finished.rows, following, b',"meta":', orjson.dumps(meta), b"}"))
