"""The section `source` of a definition: what it means, and what is refused by name, value and remedy."""

from __future__ import annotations

from typing import Any

import pytest

from rta.errors import ConflictError, InvalidDatasourceError
from rta.events.definition import check_change, parse_datasource
from rta.events.schemas import Datasource, RecordFormat, Source

BASE: dict[str, Any] = {"name": "shop", "time": "t"}


def parse(source: Any, **changes: Any) -> Datasource:
    document = {**BASE, "source": source, **changes}
    return parse_datasource(document, incarnation="i", version=1, partitions=3)


def kafka(**members: Any) -> dict[str, Any]:
    return {"kafka": {"topic": "orders", **members}}


def test_topic_alone_is_json_from_the_earliest() -> None:
    assert parse(kafka()).source == Source("orders", RecordFormat.JSON, "earliest")
    assert parse(None).source is None


def test_datasource_has_the_partitions_and_the_name_of_its_topic() -> None:
    datasource = parse(kafka())
    assert (datasource.partitions, datasource.topic, datasource.folder) == (3, "orders", "shop.i")


@pytest.mark.parametrize(
    ("start", "meant"),
    [
        (None, "earliest"),
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("2026-01-01T00:00:00Z", 1_767_225_600_000),
        ("2026-01-01T01:00:00.5+01:00", 1_767_225_600_500),
        (0, 0),
        (1_767_225_600_000, 1_767_225_600_000),
    ],
)
def test_start_is_a_name_or_a_time(start: Any, meant: str | int) -> None:
    source = parse(kafka(start=start)).source
    assert source is not None
    assert source.start == meant


@pytest.mark.parametrize("name", list(RecordFormat))
def test_formats_are_named(name: str) -> None:
    source = parse(kafka(format=name)).source
    assert source is not None
    assert source.format == name


@pytest.mark.parametrize(
    ("source", "path", "value", "remedy"),
    [
        ("orders", "'source'", "orders", "give an object"),
        ([], "'source'", "[]", "give an object"),
        ({}, "'source.kafka'", "is required", "name the topic"),
        ({"kafka": None}, "'source.kafka'", "is required", "name the topic"),
        ({"kafka": "orders"}, "'source.kafka'", "orders", "give an object"),
        ({"kinesis": {}}, "'source.kinesis'", "is not known", "kafka"),
        ({"kafka": {}}, "'source.kafka.topic'", "is required", "add it"),
        ({"kafka": {"topic": ""}}, "'source.kafka.topic'", "''", "a non-empty string"),
        ({"kafka": {"topic": 7}}, "'source.kafka.topic'", "7", "a non-empty string"),
        ({"kafka": {"topic": None}}, "'source.kafka.topic'", "None", "a non-empty string"),
        (kafka(topic="a b"), "'source.kafka.topic'", "a b", "letters, digits"),
        (kafka(topic="a/../b"), "'source.kafka.topic'", "a/../b", "letters, digits"),
        (kafka(topic=".."), "'source.kafka.topic'", "..", "letters, digits"),
        (kafka(topic="orders\n"), "'source.kafka.topic'", "orders", "letters, digits"),
        (kafka(topic="x" * 250), "'source.kafka.topic'", "xxx", "1-249"),
        (kafka(format="avro"), "'source.kafka.format'", "avro", "json, arrow, cloudevents"),
        (kafka(format=None), "'source.kafka.format'", "None", "a non-empty string"),
        (kafka(format=["json"]), "'source.kafka.format'", "json", "a non-empty string"),
        (kafka(start="yesterday"), "'source.kafka.start'", "yesterday", "earliest, latest"),
        (kafka(start="2026-01-01T00:00:00"), "'source.kafka.start'", "2026-01-01T00:00:00", "with a zone"),
        (kafka(start="1960-01-01T00:00:00Z"), "'source.kafka.start'", "1960", "since 1970"),
        (kafka(start=True), "'source.kafka.start'", "True", "earliest, latest"),
        (kafka(start=-1), "'source.kafka.start'", "-1", "since 1970"),
        (kafka(start=1.5), "'source.kafka.start'", "1.5", "earliest, latest"),
        (kafka(start=10**30), "'source.kafka.start'", "1000000", "since 1970"),
        (kafka(start=""), "'source.kafka.start'", "''", "earliest, latest"),
        (kafka(start={}), "'source.kafka.start'", "{}", "earliest, latest"),
        (kafka(group="g"), "'source.kafka.group'", "is not known", "known here: topic, format, start"),
    ],
)
def test_wrong_source_is_refused_with_path_value_and_remedy(source: Any, path: str, value: str, remedy: str) -> None:
    with pytest.raises(InvalidDatasourceError) as caught:
        parse(source)
    assert path in caught.value.message
    assert value in caught.value.message
    assert remedy in str(caught.value.hint)


def test_partitions_beside_a_source_are_refused() -> None:
    with pytest.raises(InvalidDatasourceError, match="'partitions' is '4'") as caught:
        parse(kafka(), partitions=4)
    assert "the topic in 'source' has its own" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("path", "kind", "remedy"),
    [
        ("__kafka", "json", "__kafka.<one of partition, offset, timestamp, key>"),
        ("__kafka.topic", "string", "__kafka.<one of"),
        ("__kafka.key.x", "string", "__kafka.<one of"),
        ("__kafka.headers", "json", "__kafka.headers.<name>"),
        ("__kafka.headers.a.b", "string", "in double quotes"),
        ("__kafka.key", "long", "string"),
        ("__kafka.headers.n", "double", "string"),
        ("__kafka.headers.n", "string[]", "string"),
        ("__kafka.offset", "string", "long"),
        ("__kafka.partition", "boolean", "long"),
    ],
)
def test_column_of_what_a_record_has_not_is_refused(path: str, kind: str, remedy: str) -> None:
    with pytest.raises(InvalidDatasourceError, match=r"columns\.c") as caught:
        parse(kafka(), columns={"c": {"path": path, "type": kind}})
    assert remedy in str(caught.value.hint)


@pytest.mark.parametrize("path", ["__kafka.offset.x", "__kafka.headers"])
def test_time_of_what_a_record_has_not_is_refused(path: str) -> None:
    with pytest.raises(InvalidDatasourceError, match="'time'"):
        parse(kafka(), time=path)


def test_record_columns_without_a_source_are_refused() -> None:
    for changes in ({"columns": {"c": {"path": "__kafka.key", "type": "string"}}}, {"time": "__kafka.timestamp"}):
        with pytest.raises(InvalidDatasourceError) as caught:
            parse(None, **changes)
        assert "only with a 'source'" in str(caught.value.hint)


def test_record_columns_of_arrow_are_refused() -> None:
    with pytest.raises(InvalidDatasourceError) as caught:
        parse(kafka(format="arrow"), columns={"c": {"path": "__kafka.key", "type": "string"}})
    assert "many events each" in str(caught.value.hint)


@pytest.mark.parametrize("other", [None, kafka(topic="more"), kafka(format="cloudevents"), kafka(start="latest")])
def test_source_can_not_be_changed(other: Any) -> None:
    for before, after in ((kafka(), other), (other, kafka())):
        with pytest.raises(ConflictError, match="'source' would go from"):
            check_change(parse(before), parse(after))


def test_same_source_written_otherwise_is_no_change() -> None:
    check_change(parse(kafka(start="2026-01-01T00:00:00Z")), parse(kafka(start=1_767_225_600_000, format="json")))
    check_change(parse(kafka()), parse(kafka(), columns={"more": "string"}))
