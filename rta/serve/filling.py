"""What the definition of a datasource says of rollups that were added when there were events already.

Owns the words of `filling` and `notes` in answers about datasources; how far a fill is, the coordinator's status knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from rta.errors import RtaError
from rta.events.schemas import Datasource
from rta.query.answer import format_time
from rta.query.time import TIME_MS_MIN
from rta.serve.ports import Control

LOG = logging.getLogger("rta.serve")
ANSWER_ONLY = ("filling", "notes")
"""Members that only answers have; a document that was asked for can be sent back as it came."""
STATUS_S = 5.0


async def with_filling(datasource: Datasource, control: Control) -> dict[str, Any]:
    """The datasource's document; with `filling` while one of its rollups is not complete."""
    if not datasource.later_rollups:
        return datasource.document
    try:
        async with asyncio.timeout(STATUS_S):
            status = await control.status()
    except (TimeoutError, RtaError) as error:
        LOG.warning("the coordinator did not say how far rollups are filled: %s", error)
        return {**datasource.document, "notes": ["how far rollups are filled is not known at the moment"]}
    known = status.get("datasources", {}).get(datasource.name, {}).get("filling", {})
    found = {name: shown(fill) for name, fill in known.items() if fill["done"] < 1 or fill["partial"]}
    return {**datasource.document, "filling": found} if found else datasource.document


def shown(fill: Mapping[str, Any]) -> dict[str, Any]:
    """How far one is: the share of history that is read, and from which event time on it is complete."""
    from_ms = fill["complete_from_ms"]
    complete = None if from_ms is None or from_ms <= TIME_MS_MIN else format_time(from_ms)
    rest = {"history": "none: no raw events are kept"} if fill["partial"] else {}
    return {"done": fill["done"], "complete_from": complete, **rest}


def notes(before: Datasource, after: Datasource) -> list[str]:
    """What becomes of rollups that a change has added or removed."""
    added = [r.name for r in after.rollups if before.rollup(r.name) is None]
    removed = [r.name for r in before.rollups if after.rollup(r.name) is None]
    found = [
        f"rollup '{name}' holds what comes from now on and can't be filled: no raw events are kept "
        "(retention.events: null). Questions are answered from it from its first whole bucket on"
        if after.retention.events_ms is None
        else f"rollup '{name}' is being filled from history, the newest days first, and used for what is complete: "
        f"see 'filling' in GET /v1/datasources/{after.name}"
        for name in added
    ]
    return found + [f"rollup '{name}' is no longer used; its rows are removed" for name in removed]
