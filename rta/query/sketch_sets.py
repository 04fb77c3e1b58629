"""Sizes of sets from rollup rows: exactly where all rows hold plain hashes, by theta sketches where one does not.

Hashes of a group's rows are one set; two of 64 bits are taken as the same value. What is estimated from sketches is off
by what the sketches say of themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rta.query.combine import Bound, Parts
from rta.query.model import Members, SetOp, SetTerm
from rta.query.sets import fold_sets, members_of
from rta.stream import sketches as sk
from rta.stream.grouping import ALL_VALID, Lists, count_by_group, group_rows

Flags = npt.NDArray[np.bool_]
Found = tuple[Lists, Parts]
"""Per group the plain hashes of a set, and the sketches that belong to it too."""
CONFIDENCE = 0.95
_DEVIATIONS = 2


def sizes(term: SetTerm, source: Callable[[Members], Found], groups: int) -> tuple[pl.Series, Bound]:
    """How many values the term's set has in each group, and how far estimates are off (None: nothing is estimated)."""
    found = [source(members) for members in members_of(term)]
    counts = _exact(term, [lists for lists, _ in found], groups)
    error, estimated = 0.0, False
    for group in sorted({group for _, parts in found for group in parts}):
        result = fold_sets(term, (_sketch(lists, parts, group) for lists, parts in found), _combined)
        estimate = result.get_estimate()
        counts[group] = round(estimate)
        above, below = result.get_upper_bound(_DEVIATIONS), result.get_lower_bound(_DEVIATIONS)
        error = max(error, above - estimate, estimate - below)
        estimated |= bool(result.is_estimation_mode())
    return pl.Series(counts), _bound(term, error) if estimated else None


def _bound(term: SetTerm, error: float) -> Bound:
    if isinstance(term, Members):
        return {"relative_error": round(_DEVIATIONS * sk.THETA_RELATIVE_ERROR, 4), "confidence": CONFIDENCE}
    return {"absolute_error": float(np.ceil(error)), "confidence": CONFIDENCE}


def _exact(term: SetTerm, lists: Sequence[Lists], groups: int) -> npt.NDArray[np.int64]:
    lengths = [len(each.values) for each in lists]
    of_item = np.concatenate([np.repeat(np.arange(groups), np.diff(each.offsets)) for each in lists])
    values = np.concatenate([each.values for each in lists]).astype(np.int64, copy=False)
    pairs = group_rows([of_item, values], len(values))
    ends = np.cumsum(lengths)
    inside: list[Flags] = []
    for end, length in zip(ends.tolist(), lengths, strict=True):
        flags = np.zeros(pairs.number, np.bool_)
        flags[pairs.of_row[end - length : end]] = True
        inside.append(flags)
    taken = fold_sets(term, iter(inside), _flags_combined)
    of_pair = of_item[pairs.first_row[taken]].astype(np.int32)
    return np.asarray(count_by_group(ALL_VALID, of_pair, groups))


def _flags_combined(op: SetOp, left: Flags, right: Flags) -> Flags:
    match op:
        case SetOp.UNION:
            return left | right
        case SetOp.INTERSECT:
            return left & right
        case SetOp.NOT:
            return left & ~right


def _sketch(lists: Lists, parts: Parts, group: int) -> Any:
    items = lists.values[lists.offsets[group] : lists.offsets[group + 1]]
    return sk.read_theta(sk.theta_of(np.unique(items), parts.get(group, ())))


def _combined(op: SetOp, left: Any, right: Any) -> Any:
    from datasketches import theta_a_not_b, theta_intersection, theta_union

    if op is SetOp.NOT:
        return theta_a_not_b().compute(left, right)
    operation = theta_union(sk.THETA_LG_K) if op is SetOp.UNION else theta_intersection()
    operation.update(left)
    operation.update(right)
    return operation.get_result()
