from __future__ import annotations

import json
import math
import re

import pytest

from rta.serve.metrics import SERIES_MAX, Registry, merge, read_snapshot, render, status_families

LINE = re.compile(r'^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-z_]+="([^"\\]|\\.)*",?)*\})? (-?[0-9.e+-]+|\+Inf|NaN)$')


def test_counters_gauges_and_histograms_are_rendered_as_prometheus_reads_them() -> None:
    registry = Registry()
    registry.counter("rta_x_total", 'Things "so far".', "kind").add(3, 'a"b\\c\nd')
    registry.gauge("rta_level", "Level.").set(0.5)
    registry.histogram("rta_seconds", "Time.").observe(0.002)
    text = render(registry.families())
    assert (
        '# HELP rta_x_total Things "so far".\n# TYPE rta_x_total counter\nrta_x_total{kind="a\\"b\\\\c\\nd"} 3\n'
        in text
    )
    assert "# TYPE rta_level gauge\nrta_level 0.5\n" in text
    assert 'rta_seconds_bucket{le="0.001"} 0\nrta_seconds_bucket{le="0.0025"} 1\n' in text
    assert 'rta_seconds_bucket{le="+Inf"} 1\nrta_seconds_sum 0.002\nrta_seconds_count 1\n' in text
    assert all(LINE.match(line) for line in text.splitlines() if not line.startswith("#"))


def test_an_observation_on_a_bound_belongs_to_its_bucket() -> None:
    registry = Registry()
    histogram = registry.histogram("rta_seconds", "Time.")
    for value in (0.001, 0.0011, 99.0):
        histogram.observe(value)
    counts = histogram.family().series[0].counts
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (1, 1, 1, 3)


def test_snapshots_of_processes_add_up() -> None:
    snapshots = []
    for amount in (1, 2):
        registry = Registry()
        registry.counter("rta_x_total", "X.", "kind").add(amount, "a")
        registry.counter("rta_x_total2", "X.", "kind").add(amount, str(amount))
        registry.histogram("rta_seconds", "Time.").observe(0.002 * amount)
        snapshots.append(read_snapshot(json.loads(json.dumps(registry.snapshot()))))
    text = render(merge(snapshots))
    assert 'rta_x_total{kind="a"} 3' in text
    assert 'rta_x_total2{kind="1"} 1\nrta_x_total2{kind="2"} 2' in text
    assert "rta_seconds_count 2" in text
    assert text.count("# TYPE rta_seconds ") == 1


def test_merging_does_not_change_the_parts() -> None:
    registry = Registry()
    registry.histogram("rta_seconds", "Time.").observe(1)
    families = registry.families()
    merge([families, families])
    assert families == registry.families()


def test_labels_beyond_the_limit_are_counted_together() -> None:
    counter = Registry().counter("rta_x_total", "X.", "kind")
    for i in range(SERIES_MAX + 50):
        counter.add(1, str(i))
    series = counter.family().series
    assert len(series) == SERIES_MAX + 1
    assert counter.value("other") == 50


def test_numbers_of_the_status_become_gauges_with_labels() -> None:
    status = {
        "assignment": 3,
        "note": "text",
        "nothing": None,
        "actors": {"agg-0": {"restarts": 2, "alive": True}},
        "datasources": [{"name": "events", "lag_ms": 38.5, "offsets": {"0": 7, "1": 9}}],
    }
    text = render(status_families(status))
    assert "rta_status_assignment 3" in text
    assert 'rta_status_actor_restarts{actor="agg-0"} 2' in text
    assert 'rta_status_actor_alive{actor="agg-0"} 1' in text
    assert 'rta_status_datasource_lag_ms{datasource="events"} 38.5' in text
    assert 'rta_status_datasource_offsets{datasource="events",partition="1"} 9' in text
    assert "note" not in text


def test_a_name_is_described_once_even_if_the_status_uses_it_with_and_without_labels() -> None:
    text = render(status_families({"lag": {"0": 1, "ms": 2}, "lag_ms": 3}))
    assert text.count("# TYPE rta_status_lag_ms ") == 1


@pytest.mark.parametrize(("value", "shown"), [(math.inf, "+Inf"), (math.nan, "NaN"), (1e20, "1e+20"), (-3.0, "-3")])
def test_odd_numbers_have_a_text(value: float, shown: str) -> None:
    registry = Registry()
    registry.gauge("rta_level", "Level.").set(value)
    assert render(registry.families()).endswith(f"rta_level {shown}\n")
