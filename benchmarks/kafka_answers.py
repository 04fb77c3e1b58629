"""Whether the answers about the events of `benchmarks.kafka_input` are right: compared with polars on the same columns.

Counts, sums to the cent, minima, maxima and averages have to be equal. Estimates have to be as near as the answer itself
says they are: a share of the groups may lie outside, the one that the stated confidence leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from benchmarks.input import START_MS
from rta.client import Client

MINUTE_MS = 60_000
ALL_TIME = "2000-01-01T00:00:00Z/2100-01-01T00:00:00Z"
COUNT = {"name": "n", "type": "count"}
PRICE: list[dict[str, Any]] = [
    COUNT,
    {"name": "total", "type": "sum", "field": "price"},
    {"name": "mean", "type": "avg", "field": "price"},
    {"name": "low", "type": "min", "field": "price"},
    {"name": "high", "type": "max", "field": "price"},
]
SKETCHED: list[dict[str, Any]] = [
    {"name": "users", "type": "unique_count", "field": "user_id"},
    {"name": "p95", "type": "quantile", "field": "price", "q": 0.95},
]
GROUP = ["time", "country", "device_type"]
USER_MINUTES = 3
OUTSIDE = 2.0
"""So much more than the confidence leaves may lie outside: there are few groups."""
Check = Callable[[Client, str, pl.DataFrame], str]


def check_prices(client: Client, name: str, events: pl.DataFrame) -> str:
    """W1: by minute, country and device type."""
    found = _by_kind(client, name, PRICE)
    expected = _minutes(events).group_by(GROUP).agg(*_price_columns()).sort(GROUP)
    _equal(found.select(expected.columns), expected)
    return f"{expected.height:,} groups equal"


def check_sketches(client: Client, name: str, events: pl.DataFrame) -> str:
    """W2: W1, distinct users and the 95th percentile of price."""
    said = check_prices(client, name, events)
    answer = client.query(_question(name, SKETCHED, ["country", "device_type"]))
    found = _timed(answer.to_polars()).sort(GROUP)
    truth = _minutes(events).group_by(GROUP).agg(pl.col("user_id").n_unique().alias("users"), "price").sort(GROUP)
    off_users = np.abs(found["users"].to_numpy() - truth["users"].to_numpy()) / truth["users"].to_numpy()
    ranks = [_rank_error(each.to_numpy(), p95) for each, p95 in zip(truth["price"], found["p95"], strict=True)]
    said += _within("distinct users", off_users, answer.meta.get("bounds", {}).get("users"), "relative_error")
    return said + _within("ranks of p95", np.array(ranks), answer.meta.get("bounds", {}).get("p95"), "rank_error")


def check_users(client: Client, name: str, events: pl.DataFrame) -> str:
    """W3: every minute's count, and the counts of all users in some of the minutes."""
    minutes = _minutes(events)
    expected = minutes.group_by("time").agg(pl.len().cast(pl.Int64).alias("n")).sort("time")
    found = _timed(client.query(_question(name, [COUNT], [])).to_polars()).sort("time")
    _equal(found.select("time", "n"), expected)
    starts = expected["time"].to_list()
    users = 0
    for start in {starts[0], starts[len(starts) // 2], starts[-1]}:
        mine = minutes.filter(pl.col("time") == start)
        counts = mine.group_by("user_id").agg(pl.len().cast(pl.Int64).alias("n")).sort("user_id")
        begin_ms = int(start.timestamp() * 1000)
        question = _question(name, [COUNT], ["user_id"]) | {
            "time_range": f"{np.datetime64(begin_ms, 'ms')}Z/{np.datetime64(begin_ms + MINUTE_MS, 'ms')}Z"
        }
        _equal(client.query(question).to_polars().select("user_id", "n").sort("user_id"), counts)
        users += counts.height
    return f"{expected.height:,} minutes and {users:,} counts of users equal"


def check_raw(client: Client, name: str, events: pl.DataFrame) -> str:
    """The rollup as W2, and from the raw events what no rollup knows."""
    said = check_sketches(client, name, events)
    question = {"datasource": name, "time_range": ALL_TIME, "metrics": PRICE, "group_by": ["event_type", "category"]}
    kinds = ["event_type", "category"]
    expected = events.group_by(kinds).agg(*_price_columns()).sort(kinds)
    answer = client.query(question)
    assert not any("rollup" in source for source in answer.meta["sources"]), answer.meta
    _equal(answer.to_polars().sort(kinds).select(expected.columns), expected)
    return f"{said}; {expected.height} groups of raw events equal"


def check_count(client: Client, name: str, events: int) -> None:
    answer = client.query({"datasource": name, "time_range": ALL_TIME, "metrics": [COUNT]})
    assert answer.rows[0]["n"] == events, f"'{name}' counts {answer.rows[0]['n']:,}, not {events:,}"


def _question(name: str, metrics: list[dict[str, Any]], group_by: list[str]) -> dict[str, Any]:
    return {
        "datasource": name,
        "time_range": ALL_TIME,
        "granularity": "minute",
        "metrics": metrics,
        "group_by": group_by,
    }


def _by_kind(client: Client, name: str, metrics: list[dict[str, Any]]) -> pl.DataFrame:
    return _timed(client.query(_question(name, metrics, ["country", "device_type"])).to_polars()).sort(GROUP)


def _timed(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("time").cast(pl.Datetime("ms", "UTC")))


def _minutes(events: pl.DataFrame) -> pl.DataFrame:
    return events.with_columns(pl.col("timestamp").dt.truncate("1m").alias("time"))


def _price_columns() -> list[pl.Expr]:
    price = pl.col("price")
    return [
        pl.len().cast(pl.Int64).alias("n"),
        price.sum().alias("total"),
        price.mean().alias("mean"),
        price.min().alias("low"),
        price.max().alias("high"),
    ]


def _equal(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """Numbers that are no whole ones have to be equal to a thousandth of a cent: sums of cents differ by one or not at all."""
    assert found.height == expected.height, f"{found.height:,} rows, expected {expected.height:,}"
    for name in expected.columns:
        mine, theirs = found[name], expected[name]
        same = (mine - theirs).abs() < 1e-5 if theirs.dtype.is_float() else mine == theirs
        if not same.all():
            at = int((~same).arg_max() or 0)
            raise AssertionError(f"column '{name}' differs first in {found.row(at)}, expected {expected.row(at)}")


def _rank_error(values: np.ndarray[Any, Any], p95: float) -> float:
    """How far the wanted rank lies outside the ranks that the value has."""
    below, through = float(np.mean(values < p95)), float(np.mean(values <= p95))
    return max(0.0, below - 0.95, 0.95 - through)


def _within(what: str, errors: np.ndarray[Any, Any], bound: Mapping[str, float] | None, name: str) -> str:
    if bound is None:
        assert errors.max() == 0.0, f"{what}: off by {errors.max()}, and the answer does not say that it estimates"
        return f", {what} exact"
    limit, left = bound[name], 1 - bound["confidence"]
    outside = float(np.mean(errors > limit))
    assert outside <= OUTSIDE * left, f"{what}: {outside:.1%} of the groups are off by more than {limit}"
    return f", {what} off by {errors.max():.4f} at most (said {limit} with {bound['confidence']:.0%})"


__all__ = [
    "ALL_TIME",
    "COUNT",
    "START_MS",
    "Check",
    "check_count",
    "check_prices",
    "check_raw",
    "check_sketches",
    "check_users",
]
