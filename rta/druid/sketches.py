"""Sketches of the answer: built from values or merged from sketches, as DataSketches bytes, and what is read out of them.

Small ones are exact or as good as exact. Texts are hashed as Druid does it where the binding allows (ASCII), so that their
estimates are Druid's too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from rta.druid import hyperunique
from rta.druid.problems import InvalidInputError
from rta.druid.values import Type
from rta.errors import CorruptFileError
from rta.stream.sketches import kll_of

_KLL_FAMILY = 15
Build = Callable[[Sequence[Any]], bytes]


def _hll_type(name: str) -> Any:
    from datasketches import HLL_4, HLL_6, HLL_8

    found = {"HLL_4": HLL_4, "HLL_6": HLL_6, "HLL_8": HLL_8}.get(name.upper())
    if found is None:
        raise InvalidInputError(f"'tgtHllType' is '{name[:20]}'", "HLL_4, HLL_6 or HLL_8")
    return found


def check_hll(lg_k: int, kind: str) -> None:
    _hll_type(kind)
    if not 7 <= lg_k <= 21:
        raise InvalidInputError(f"'lgK' is {lg_k}", "write 7 to 21")


def check_theta(size: int) -> int:
    """The power of two of a theta sketch's size."""
    if size < 16 or size > 1 << 26 or size & (size - 1):
        raise InvalidInputError(f"'size' of a theta sketch is {size}", "write a power of two from 16 to 67,108,864")
    return size.bit_length() - 1


def hll_of_values(values: Sequence[Any], lg_k: int, kind: str) -> bytes:
    from datasketches import hll_sketch

    sketch = hll_sketch(lg_k, _hll_type(kind))
    deque(map(sketch.update, map(_as_utf16, values)), 0)
    return bytes(sketch.serialize_compact())


def _as_utf16(value: Any) -> Any:
    """A text whose UTF-8 bytes are the UTF-16 units that Druid hashes; other values as they are."""
    return value.encode("utf-16-le").decode() if isinstance(value, str) and value.isascii() else value


def hll_of_sketches(parts: Sequence[bytes], lg_k: int, kind: str) -> bytes:
    from datasketches import hll_sketch, hll_union

    union = hll_union(lg_k)
    for part in parts:
        union.update(read(hll_sketch, part))
    return bytes(union.get_result(_hll_type(kind)).serialize_compact())


def theta_of_values(values: Sequence[Any], lg_k: int) -> bytes:
    from datasketches import update_theta_sketch

    sketch = update_theta_sketch(lg_k)
    deque(map(sketch.update, values), 0)
    return bytes(sketch.compact().serialize())


def theta_of_sketches(parts: Sequence[bytes], lg_k: int) -> bytes:
    from datasketches import compact_theta_sketch, theta_union

    union = theta_union(lg_k)
    for part in parts:
        union.update(read(compact_theta_sketch, part))
    return bytes(union.get_result().serialize())


def theta_set(function: str, parts: Sequence[bytes], lg_k: int) -> bytes:
    """UNION, INTERSECT or NOT of theta sketches."""
    from datasketches import compact_theta_sketch, theta_a_not_b, theta_intersection

    if function == "UNION":
        return theta_of_sketches(parts, lg_k)
    sketches = [read(compact_theta_sketch, part) for part in parts]
    if function == "INTERSECT":
        intersection = theta_intersection()
        for sketch in sketches:
            intersection.update(sketch)
        return bytes(intersection.get_result().serialize())
    result = sketches[0]
    for sketch in sketches[1:]:
        result = theta_a_not_b().compute(result, sketch)
    return bytes(result.serialize())


def quantiles_of_values(values: Sequence[Any], k: int) -> bytes:
    from datasketches import quantiles_doubles_sketch

    sketch = quantiles_doubles_sketch(k)
    numbers = np.asarray(values, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    if len(numbers):
        sketch.update(numbers)
    return bytes(sketch.serialize())


def quantiles_of_sketches(parts: Sequence[bytes], k: int) -> bytes:
    from datasketches import quantiles_doubles_sketch

    sketch = quantiles_doubles_sketch(k)
    for part in parts:
        sketch.merge(read(quantiles_doubles_sketch, part))
    return bytes(sketch.serialize())


def quantiles_of_rollup(items: Sequence[float], parts: Sequence[bytes], k: int) -> bytes:
    """Of a rollup's plain values and its sketches, which are KLL: a KLL sketch as soon as there is one of them."""
    return kll_of(np.asarray(items, np.float64), parts) if parts else quantiles_of_values(items, k)


def is_kll(data: bytes) -> bool:
    """By the family that the third byte of every DataSketches sketch names."""
    return len(data) > 2 and data[2] == _KLL_FAMILY


def read_quantiles(data: bytes) -> Any:
    """A sketch of quantiles; both kinds answer the same questions."""
    from datasketches import kll_doubles_sketch

    return read(kll_doubles_sketch if is_kll(data) else _kind(Type.QUANTILES), data)


def hyper_unique_of_values(values: Sequence[Any], text_hash: Callable[[str], bytes]) -> bytes:
    hashes = (text_hash(v) if isinstance(v, str) else hyperunique.number_hash(v) for v in values)
    return hyperunique.of_hashes(hashes).tobytes()


def hyper_unique_of_rows(rows: Sequence[Any]) -> bytes:
    return hyperunique.of_hashes(hyperunique.row_hash(tuple(row.values())) for row in rows).tobytes()


def hyper_unique_of_sketches(parts: Sequence[bytes]) -> bytes:
    return hyperunique.merged(parts).tobytes()


def read(kind: Any, data: bytes) -> Any:
    """A sketch from its bytes. Raises InvalidInputError for what is none."""
    try:
        return kind.deserialize(data)
    except Exception as error:  # the binding raises whatever C++ threw
        raise CorruptFileError(f"reading a sketch of {len(data)} bytes: {error}") from error


@lru_cache(maxsize=64)
def _kind(of: Type) -> Any:
    import datasketches

    return {
        Type.HLL: datasketches.hll_sketch,
        Type.THETA: datasketches.compact_theta_sketch,
        Type.QUANTILES: datasketches.quantiles_doubles_sketch,
    }[of]


def estimates(column: pl.Series, of: Type) -> pl.Series:
    """What a sketch finalises to: distinct values, of quantiles the number of values. Float64, of quantiles Int64."""
    if of is Type.HYPER_UNIQUE:
        found = [None if d is None else hyperunique.estimate(np.frombuffer(d, np.uint8)) for d in column]
        return pl.Series(column.name, found, pl.Float64)
    if of is Type.QUANTILES:
        return pl.Series(column.name, [None if d is None else read_quantiles(d).n for d in column], pl.Int64)
    kind = _kind(of)
    return pl.Series(column.name, [None if d is None else read(kind, d).get_estimate() for d in column], pl.Float64)


def quantiles(column: pl.Series, fractions: Sequence[float]) -> pl.Series:
    """Lists of quantiles; NaN where there are no values."""

    def one(data: bytes) -> list[float]:
        sketch = read_quantiles(data)
        if sketch.is_empty():
            return [math.nan] * len(fractions)
        return [sketch.get_quantile(f, True) for f in fractions]

    return pl.Series(column.name, [None if d is None else one(d) for d in column], pl.List(pl.Float64))


def ranks(column: pl.Series, value: float) -> pl.Series:
    def one(data: bytes) -> float:
        sketch = read_quantiles(data)
        return math.nan if sketch.is_empty() else float(sketch.get_rank(value, True))

    return pl.Series(column.name, [None if d is None else one(d) for d in column], pl.Float64)


def distribution(column: pl.Series, splits: Sequence[float] | None, bins: int, cumulative: bool) -> pl.Series:
    """Counts between split points (or equally wide bins), or the share up to each of them."""

    def one(data: bytes) -> list[float]:
        sketch = read_quantiles(data)
        if sketch.is_empty():
            return [math.nan] * (bins if splits is None else len(splits) + 1)
        points = list(splits) if splits is not None else _equal(sketch.get_min_value(), sketch.get_max_value(), bins)
        if cumulative:
            return [float(x) for x in sketch.get_cdf(points, True)]
        return [float(x) * sketch.n for x in (sketch.get_pmf(points, True) if points else [1.0])]

    return pl.Series(column.name, [None if d is None else one(d) for d in column], pl.List(pl.Float64))


def _equal(low: float, high: float, bins: int) -> list[float]:
    if low == high:
        return []
    return [low + (high - low) / bins * i for i in range(1, bins)]


def bounds(column: pl.Series, deviations: int) -> pl.Series:
    """Estimate, lower and upper bound of HLL sketches."""

    def one(data: bytes) -> list[float]:
        sketch = read(_kind(Type.HLL), data)
        return [sketch.get_estimate(), sketch.get_lower_bound(deviations), sketch.get_upper_bound(deviations)]

    return pl.Series(column.name, [None if d is None else one(d) for d in column], pl.List(pl.Float64))


def descriptions(column: pl.Series, of: Type) -> pl.Series:
    kind = _kind(of)
    return pl.Series(column.name, [None if d is None else str(read(kind, d).to_string()) for d in column], pl.String)
