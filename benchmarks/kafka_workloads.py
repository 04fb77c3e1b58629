"""What rta is asked to do with the topic: the datasources of W1, W2, W3 and of raw events with W2's rollup.

W1: by minute, country and device type: count, sum, average, minimum, maximum of price. W2: W1, distinct users and the 95th
percentile of price. W3: count by minute and user. Sessions (W4) are not built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.kafka_answers import Check, check_prices, check_raw, check_sketches, check_users
from benchmarks.kafka_input import FLAT

FOREVER = "100y"
_PRICE: list[dict[str, Any]] = [
    {"name": "n", "type": "count"},
    {"name": "price_sum", "type": "sum", "field": "price"},
    {"name": "price_min", "type": "min", "field": "price"},
    {"name": "price_max", "type": "max", "field": "price"},
]
_SKETCHED: list[dict[str, Any]] = [
    {"name": "users", "type": "unique_count", "field": "user_id"},
    {"name": "price_q", "type": "quantile", "field": "price"},
]
KIND = ("country", "device_type")


@dataclass(frozen=True, slots=True)
class Workload:
    """A datasource and what its answers are compared with. `peers` are events/s, in brackets per CPU-second."""

    name: str
    columns: tuple[str, ...]
    dimensions: tuple[str, ...]
    metrics: tuple[dict[str, Any], ...]
    check: Check
    keeps_raw: bool = False
    peers: str = ""

    def document(self, name: str, source: dict[str, Any] | None) -> dict[str, Any]:
        """`source` of None is rta's own topic."""
        rollup = {
            "name": "by_minute",
            "granularity": "minute",
            "dimensions": list(self.dimensions),
            "metrics": list(self.metrics),
        }
        kept = dict.fromkeys(("minute", "hour", "day"), FOREVER)
        document = {
            "name": name,
            "time": "timestamp",
            "id": None,
            "columns": {column: _column(column) for column in self.columns},
            "rollups": [rollup],
            "retention": {"events": FOREVER if self.keeps_raw else None, "rollups": kept},
        }
        return document if source is None else {**document, "source": {"kafka": source}}


def _column(name: str) -> dict[str, Any]:
    return {"path": ".".join(FLAT[name]), "type": "double" if name == "price" else "string"}


W1 = Workload(
    name="w1",
    columns=(*KIND, "price"),
    dimensions=KIND,
    metrics=tuple(_PRICE),
    check=check_prices,
    peers="Flink 281-324 K (160-186 K) warm, 142-185 K (82-102 K) cold",
)
W2 = Workload(
    name="w2",
    columns=(*KIND, "price", "user_id"),
    dimensions=KIND,
    metrics=(*_PRICE, *_SKETCHED),
    check=check_sketches,
    peers="Flink 208-228 K (129 K) warm, 150 K cold",
)
W3 = Workload(
    name="w3",
    columns=("user_id",),
    dimensions=("user_id",),
    metrics=(_PRICE[0],),
    check=check_users,
    peers="Flink 212 K (118 K) warm, 128-147 K cold",
)
RAW = Workload(
    name="raw",
    columns=tuple(FLAT),
    dimensions=KIND,
    metrics=(*_PRICE, *_SKETCHED),
    check=check_raw,
    keeps_raw=True,
    peers="Druid 45-50 K (28 K), raw with 8 columns",
)
WORKLOADS = {workload.name: workload for workload in (W1, W2, W3, RAW)}
