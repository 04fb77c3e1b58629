"""Counters and histograms as plain objects, their snapshots across processes, and Prometheus' text format.

A process counts into a `Registry`; `snapshot()` is plain JSON that other processes can be sent; `merge` adds
snapshots of several processes; `render` writes the text that `GET /metrics` answers. Reads no clock.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SERIES_MAX = 1_000
"""Label combinations a metric keeps; what comes beyond is counted under 'other'."""
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
OTHER = "other"

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]


class Series(msgspec.Struct):
    """One label combination. A histogram's `counts` are per bucket, the last one is beyond all bounds."""

    labels: Labels
    value: float = 0.0
    counts: list[int] = []


class Family(msgspec.Struct):
    """A metric as it is sent between processes."""

    name: str
    kind: Kind
    help: str
    label_names: Labels
    series: list[Series]
    bounds: tuple[float, ...] = ()


class Metric:
    """A counter or gauge. Not thread-safe: one event loop owns it."""

    def __init__(self, name: str, kind: Kind, text: str, label_names: Labels) -> None:
        self.name = name
        self.kind: Kind = kind
        self.text = text
        self.label_names = label_names
        self._values: dict[Labels, float] = {}

    def add(self, amount: float, *labels: str) -> None:
        key = _bounded(self._values, labels)
        self._values[key] = self._values.get(key, 0.0) + amount

    def set(self, value: float, *labels: str) -> None:
        self._values[_bounded(self._values, labels)] = value

    def value(self, *labels: str) -> float:
        return self._values.get(labels, 0.0)

    def family(self) -> Family:
        series = [Series(labels, value) for labels, value in self._values.items()]
        return Family(self.name, self.kind, self.text, self.label_names, series)


class Histogram:
    """Counts of observations per bucket, and their sum. Not thread-safe."""

    def __init__(self, name: str, text: str, label_names: Labels, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.text = text
        self.label_names = label_names
        self.bounds = bounds
        self._series: dict[Labels, Series] = {}

    def observe(self, value: float, *labels: str) -> None:
        key = _bounded(self._series, labels)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series(key, 0.0, [0] * (len(self.bounds) + 1))
        series.counts[bisect_left(self.bounds, value)] += 1
        series.value += value

    def count(self, *labels: str) -> int:
        series = self._series.get(labels)
        return sum(series.counts) if series else 0

    def family(self) -> Family:
        series = [Series(s.labels, s.value, list(s.counts)) for s in self._series.values()]
        return Family(self.name, "histogram", self.text, self.label_names, series, self.bounds)


def _bounded(known: Mapping[Labels, Any], labels: Labels) -> Labels:
    if labels in known or len(known) < SERIES_MAX:
        return labels
    return (OTHER,) * len(labels)


class Registry:
    """All metrics of a process."""

    def __init__(self) -> None:
        self._metrics: list[Metric | Histogram] = []

    def counter(self, name: str, text: str, *label_names: str) -> Metric:
        return self._keep(Metric(name, "counter", text, label_names))

    def gauge(self, name: str, text: str, *label_names: str) -> Metric:
        return self._keep(Metric(name, "gauge", text, label_names))

    def histogram(self, name: str, text: str, *label_names: str) -> Histogram:
        histogram = Histogram(name, text, label_names, LATENCY_BUCKETS_S)
        self._metrics.append(histogram)
        return histogram

    def _keep(self, metric: Metric) -> Metric:
        self._metrics.append(metric)
        return metric

    def families(self) -> list[Family]:
        return [metric.family() for metric in self._metrics]

    def snapshot(self) -> list[dict[str, Any]]:
        """Plain JSON, to be sent to the process that serves `/metrics`."""
        document: list[dict[str, Any]] = msgspec.to_builtins(self.families())
        return document


def read_snapshot(document: object) -> list[Family]:
    """What `Registry.snapshot` of another process gave. Raises msgspec.ValidationError for anything else."""
    return msgspec.convert(document, list[Family])


def merge(parts: Iterable[Sequence[Family]]) -> list[Family]:
    """Add up the families of several processes: series with equal labels are summed."""
    merged: dict[str, Family] = {}
    for families in parts:
        for family in families:
            known = merged.get(family.name)
            if known is None:
                merged[family.name] = msgspec.convert(msgspec.to_builtins(family), Family)
            elif known.bounds == family.bounds and known.label_names == family.label_names:
                _add(known, family)
    return list(merged.values())


def _add(into: Family, family: Family) -> None:
    known = {series.labels: series for series in into.series}
    for series in family.series:
        own = known.get(series.labels)
        if own is None:
            into.series.append(Series(series.labels, series.value, list(series.counts)))
        else:
            own.value += series.value
            own.counts = [a + b for a, b in zip(own.counts, series.counts, strict=True)]


def render(families: Iterable[Family]) -> str:
    """Prometheus' text format, version 0.0.4."""
    lines: list[str] = []
    for family in families:
        lines.append(f"# HELP {family.name} {_escape(family.help, quote=False)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for series in family.series:
            labels = list(zip(family.label_names, series.labels, strict=True))
            if family.kind == "histogram":
                lines += _histogram_lines(family, series, labels)
            else:
                lines.append(f"{family.name}{_label_text(labels)} {_number(series.value)}")
    return "\n".join(lines) + "\n" if lines else ""


def _histogram_lines(family: Family, series: Series, labels: list[tuple[str, str]]) -> list[str]:
    lines = []
    total = 0
    for bound, count in zip((*family.bounds, math.inf), series.counts, strict=True):
        total += count
        lines.append(f"{family.name}_bucket{_label_text([*labels, ('le', _number(bound))])} {total}")
    lines.append(f"{family.name}_sum{_label_text(labels)} {_number(series.value)}")
    lines.append(f"{family.name}_count{_label_text(labels)} {total}")
    return lines


def _label_text(labels: Sequence[tuple[str, str]]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value, quote=True)}"' for name, value in labels) + "}"


def _escape(text: str, *, quote: bool) -> str:
    text = text.encode("utf-8", "replace").decode().replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


LABELLED = {
    "datasources": "datasource",
    "actors": "actor",
    "partitions": "partition",
    "tables": "table",
    "filling": "rollup",
}
"""Keys of the status whose entries become a label instead of a part of the metric's name."""


def status_families(status: Mapping[str, Any]) -> list[Family]:
    """Every number of `/v1/status` as a gauge named after its path: `rta_status_<path>`.

    Under the keys of `LABELLED` the entry's name (or, in a list, its `name`, `actor` or `partition`) is a label, and a
    key that is a number is a partition's. Texts and nulls are left out.
    """
    found: dict[str, Family] = {}
    _walk(status, "rta_status", (), found)
    return list(found.values())


def _walk(value: object, name: str, labels: tuple[tuple[str, str], ...], found: dict[str, Family]) -> None:
    if isinstance(value, (bool, int, float)):
        _found(name, labels, float(value), found)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            label = LABELLED.get(str(key))
            if str(key).isdecimal() and "partition" not in dict(labels):
                _walk(inner, name, (*labels, ("partition", str(key))), found)
            elif label is None or label in dict(labels):
                _walk(inner, f"{name}_{_metric_part(str(key))}", labels, found)
            else:
                for entry, content in _entries(inner):
                    _walk(content, f"{name}_{label}", (*labels, (label, entry)), found)


def _found(name: str, labels: tuple[tuple[str, str], ...], value: float, found: dict[str, Family]) -> None:
    family = found.get(name)
    if family is None:
        path = name.removeprefix("rta_status_").replace("_", " ")
        label_names = tuple(key for key, _ in labels)
        family = found[name] = Family(name, "gauge", f"The number '{path}' of GET /v1/status.", label_names, [])
    if family.label_names == tuple(key for key, _ in labels) and len(family.series) < SERIES_MAX:
        family.series.append(Series(tuple(text for _, text in labels), value))


def _entries(value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [(str(key), inner) for key, inner in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [(_name_of(inner, index), inner) for index, inner in enumerate(value)]
    return []


def _name_of(value: object, index: int) -> str:
    if isinstance(value, Mapping):
        for key in ("name", "actor", "partition", "datasource"):
            if key in value:
                return str(value[key])
    return str(index)


def _metric_part(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", text).lower()
