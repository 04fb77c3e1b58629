"""A composed question over its parts: what it reads in all, and its answer from theirs.

Which parts there are and how their answers become one is `rta.query.compose`'s; who answers them `rta.serve.service`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rta.query.answer import Answer, read_stream
from rta.query.compose import Part, assemble
from rta.query.model import Query
from rta.query.planner import explain
from rta.serve.reads import Prepared, explained
from rta.serve.scan_task import Finished, finish


def whole_of(query: Query, parts: tuple[tuple[Part, Prepared], ...]) -> Prepared:
    """The question as a whole: its key says all that its parts' keys say, and which ranges were asked for. Rates and steps
    without events follow from these, where a condition on the time has left less of them to read."""
    first = parts[0][1]
    forgotten = dict.fromkeys(times for _, found in parts for times in found.plan.forgotten)
    planned = replace(first.plan, query=query, forgotten=tuple(sorted(forgotten)))
    digest = hashlib.blake2b(planned.key, digest_size=32)
    digest.update(repr([part.range_ms for part, _ in parts]).encode())
    for _, found in parts:
        digest.update(found.key)
    return replace(
        first,
        plan=planned,
        reads=tuple(read for _, found in parts for read in found.reads),
        has_hot=any(found.has_hot for _, found in parts),
        shared=all(found.shared for _, found in parts),
        key=digest.digest(),
        parts=parts,
    )


def put_together(prepared: Prepared, found: Sequence[Finished], arrow: bool) -> Finished:
    """The answer from those of the parts, which are Arrow streams."""
    answers = [Answer(read_stream(each.rows), each.bounds, each.more) for each in found]
    return finish(assemble(prepared.plan.query, [part for part, _ in prepared.parts], answers), arrow)


def parts_explained(prepared: Prepared) -> dict[str, Any]:
    if not prepared.parts:
        return {}
    return {"parts": [explain(part.plan) | explained(part.reads) for _, part in prepared.parts]}
