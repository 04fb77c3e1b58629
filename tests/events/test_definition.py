"""Documents of datasources: what they mean, what is refused and how it is said."""

from __future__ import annotations

from typing import Any

import pytest

from rta.errors import ConflictError, InvalidDatasourceError
from rta.events.definition import check_change, events_document, parse_datasource
from rta.events.schemas import ColumnType, Datasource, Grain, MetricType
from tests.events.samples import TYPED

WIKIPEDIA: dict[str, Any] = {
    "name": "wikipedia",
    "time": "time",
    "key": "user",
    "id": None,
    "columns": {
        "channel": "string",
        "page": "string",
        "added": "long",
        "isRobot": "boolean",
        "country": {"path": "countryName", "type": "string"},
    },
    "rollups": [
        {
            "name": "by_channel",
            "granularity": "minute",
            "dimensions": ["channel", "isRobot"],
            "metrics": [
                {"name": "edits", "type": "count"},
                {"name": "added", "type": "sum", "field": "added"},
                {"name": "users", "type": "unique_count", "field": "user"},
                {"name": "delta", "type": "quantile", "field": "delta"},
            ],
        }
    ],
    "retention": {"events": "365d", "rejected": "30d", "sessions": None, "rollups": {"minute": "7d", "day": "5y"}},
}


def parse(document: dict[str, Any], version: int = 1) -> Datasource:
    return parse_datasource(document, incarnation="i", version=version, partitions=8)


def test_document_of_the_interface_is_complete() -> None:
    datasource = parse(WIKIPEDIA)
    assert datasource.keys == ("user",)
    assert datasource.id is None
    types = {c.name: (c.type, c.path) for c in datasource.columns}
    assert types["country"] == (ColumnType.STRING, ("countryName",))
    assert types["user"] == (ColumnType.STRING, ("user",))
    assert types["delta"] == (ColumnType.DOUBLE, ("delta",))
    assert datasource.retention.sessions_ms is None
    assert datasource.retention.rollups_ms[Grain.MINUTE] == 7 * 86_400_000
    assert datasource.retention.rollups_ms[Grain.HOUR] == 365 * 86_400_000
    assert datasource.document == WIKIPEDIA


def test_built_in_events_is_as_the_interface_says() -> None:
    datasource = parse(events_document())
    assert datasource.keys == ("user_id", "session_id", "event_type")
    event_id = datasource.column("event_id")
    assert event_id is not None
    assert (event_id.required, event_id.length_max) == (True, 128)
    price = datasource.column("price")
    assert price is not None
    assert price.path == ("custom_properties", "price")
    (traffic,) = datasource.rollups
    assert traffic.dimensions == ("event_type", "country", "device_type", "browser", "page_path")
    assert [m.name for m in traffic.metrics] == [
        "events", "users", "sessions", "price_sum", "price_min", "price_max", "price",
    ]  # fmt: skip


def test_count_is_added_to_a_rollup_without_one() -> None:
    rollup = {"name": "r", "granularity": "day", "dimensions": ["s"], "metrics": []}
    assert parse({**TYPED, "rollups": [rollup]}).rollups[0].count.name == "count"
    taken = {**rollup, "metrics": [{"name": "count", "type": "sum", "field": "n"}]}
    (made,) = parse({**TYPED, "rollups": [taken]}).rollups
    assert made.count.name == "__count"
    assert made.count.type is MetricType.COUNT


def test_quoted_part_of_a_path_may_have_dots() -> None:
    datasource = parse({**TYPED, "columns": {"id": "string", "x": {"path": 'p."a.b".c', "type": "long"}}})
    column = datasource.column("x")
    assert column is not None
    assert column.path == ("p", "a.b", "c")


def test_document_says_partitions_limits_and_times() -> None:
    datasource = parse(
        {
            **TYPED,
            "partitions": 3,
            "limits": {"too_old": "30d", "in_the_future": "1h"},
            "allowed_lateness": "5m",
            "idle_after": "90s",
            "dedup_window": "2h",
        }
    )
    assert datasource.partitions == 3
    assert (datasource.too_old_ms, datasource.in_the_future_ms) == (30 * 86_400_000, 3_600_000)
    assert (datasource.allowed_lateness_ms, datasource.dedup_window_ms) == (300_000, 7_200_000)
    assert datasource.idle_after_ms == 90_000
    assert (parse(TYPED).partitions, parse(TYPED).idle_after_ms) == (8, 60_000)


def by_day(metric: dict[str, Any], *dimensions: str) -> dict[str, Any]:
    return {"rollups": [{"name": "r", "granularity": "day", "dimensions": dimensions, "metrics": [metric]}]}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"colums": {}}, "did you mean 'columns'"),
    ({"name": "No Spaces"}, "'name'"),
    ({"name": None}, "'name'"),
    ({"time": 3}, "'time'"),
    ({"time": "a..b"}, "without empty parts"),
    ({"columns": []}, "'columns'"),
    ({"columns": {"a": "int"}}, "one of string, long, double"),
    ({"columns": {"a": {"path": "x"}}}, "'columns.a.type'"),
    ({"columns": {"a": {"type": "long", "pth": "x"}}}, "did you mean 'path'"),
    ({"columns": {"a": {"type": "long", "max_length": 5}}}, "max_length"),
    ({"columns": {"__time": "long"}}, "reserved"),
    ({"columns": {"time": "long"}}, "reserved"),
    ({"columns": {"a b": "long"}}, "letters, digits"),
    ({"columns": {"a": "long", "A": "long"}}, "differ only in case"),
    ({"columns": {"t": "long"}}, "which 'time' has already"),
    ({"columns": {"a": "long", "b": {"path": "a", "type": "long"}}}, "which 'a' has already"),
    ({"columns": {"a": "json", "b": {"path": "a.b", "type": "long"}}}, "lies inside"),
    ({"columns": {f"c{i}": "long" for i in range(1001)}}, "1000"),
    ({"key": 5}, "'key'"),
    ({"key": ["k", "k"]}, "without repetition"),
    ({"columns": {"id": "double"}}, "must be of type string or long"),
    ({"rollups": [{"name": "r", "granularity": "week"}]}, "one of minute, hour, day"),
    ({"rollups": [{"name": "events", "granularity": "day"}]}, "rollups[0].name"),
    (by_day({"name": "m", "type": "avg"}), "metrics[0].type"),
    (by_day({"name": "m", "type": "sum"}), "'rollups[0].metrics[0].field' is required"),
    (by_day({"name": "m", "type": "sum", "field": "id"}), "which is string"),
    (by_day({"name": "m", "type": "count"}, "id", "m"), "'m' twice"),
    ({"rollups": [{"name": "r", "granularity": "day"}, {"name": "r", "granularity": "day"}]}, "'r' twice"),
    ({"retention": {"events": 5}}, "'retention.events'"),
    ({"retention": {"events": "5 lightyears"}}, "'retention.events'"),
    ({"retention": {"rollups": {"week": "5d"}}}, "'retention.rollups.week'"),
    ({"partitions": 0}, "1 to 1,024"),
    ({"limits": {"too_new": "1d"}}, "too_new"),
    ({"limits": {"in_the_future": None}}, "in_the_future"),
    ({"dedup_window": "soon"}, "'dedup_window'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_document_is_refused_with_path_and_remedy(change: dict[str, Any], message: str) -> None:
    document = {"name": "d", "time": "t", "id": "id", **change}
    with pytest.raises(InvalidDatasourceError) as error:
        parse(document)
    assert message in str(error.value)
    assert error.value.hint


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(InvalidDatasourceError, match="an object"):
        parse_datasource([], incarnation="i", version=1, partitions=8)  # type: ignore[arg-type]  # that is the point


def test_adding_columns_rollups_and_retention_is_allowed() -> None:
    rollup = {"name": "more", "granularity": "hour", "dimensions": ["channel"]}
    new = {
        **WIKIPEDIA,
        "columns": {**WIKIPEDIA["columns"], "namespace": "string"},
        "rollups": [*WIKIPEDIA["rollups"], rollup],
        "retention": {"events": "1d"},
    }
    check_change(parse(WIKIPEDIA), parse(new, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": "when"}, "'time'"),
        ({"key": "page"}, "'key'"),
        ({"id": "page"}, "'id'"),
        ({"partitions": 9}, "'partitions'"),
        ({"columns": {**WIKIPEDIA["columns"], "added": "double"}}, "type of column 'added'"),
        ({"columns": {**WIKIPEDIA["columns"], "country": "string"}}, "path of column 'country'"),
        (
            {"columns": {"channel": "string", "page": "string", "added": "long", "isRobot": "boolean"}},
            "column 'country'",
        ),
        ({"rollups": []}, "column 'delta'"),
        ({"rollups": [{**WIKIPEDIA["rollups"][0], "granularity": "hour"}]}, "rollup 'by_channel'"),
    ],
)
def test_change_that_would_make_stored_data_wrong_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConflictError) as error:
        check_change(parse(WIKIPEDIA), parse({**WIKIPEDIA, **change}, 2))
    assert message in str(error.value)


def test_raw_events_that_were_given_up_are_not_kept_again() -> None:
    without = {**WIKIPEDIA, "retention": {"events": None}}
    check_change(parse(WIKIPEDIA), parse(without, 2))
    with pytest.raises(ConflictError, match=r"'retention\.events' would go from 'None' to '30d'"):
        check_change(parse(without), parse({**WIKIPEDIA, "retention": {"events": "30d"}}, 2))
