"""The query types: stamps, zero-filling, order, limits, nulls, several values per row, nesting."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from rta.druid.problems import InvalidInputError, UnsupportedError
from rta.druid.table import TIME_COLUMN, Table, inline_table
from rta.druid.values import Column, Type
from rta.events.schemas import TIME
from tests.druid.tables import COUNT, TINY, ask, events, table_of, wiki

TABLE = table_of(wiki(*TINY))
ADDED = {"type": "longSum", "name": "added", "fieldName": "added"}
FIRST, SECOND = "2013-08-31T00:00:00.000Z", "2013-09-01T00:00:00.000Z"
COYOTE = {"type": "selector", "dimension": "page", "value": "Coyote Tango"}


def series(**query: Any) -> list[Any]:
    found = ask(TABLE, **{"queryType": "timeseries", "granularity": "day", "aggregations": [COUNT], **query})
    return [(row["timestamp"], row["result"]) for row in found]


def top(**query: Any) -> Any:
    defaults: dict[str, Any] = {"dimension": "page", "metric": "rows", "threshold": 2, "aggregations": [COUNT]}
    return ask(TABLE, **{"queryType": "topN", **defaults, **query})


def groups(**query: Any) -> list[dict[str, Any]]:
    found = ask(TABLE, **{"queryType": "groupBy", "aggregations": [COUNT], **query})
    assert all(row["version"] == "v1" for row in found)
    return events(found)


def test_all_is_stamped_with_the_first_time_of_the_data_whatever_the_filter() -> None:
    assert series(granularity="all", filter=COYOTE) == [("2013-08-31T01:02:33.000Z", {"rows": 2})]
    later = series(granularity="all", intervals="2013-08-31T12/2014")
    assert later == [("2013-08-31T12:00:00.000Z", {"rows": 6})]


def test_without_data_all_is_one_row_of_1970_and_buckets_are_none() -> None:
    nothing = series(granularity="all", intervals="2001/2002", aggregations=[COUNT, ADDED])
    assert nothing == [("1970-01-01T00:00:00.000Z", {"rows": 0, "added": None})]
    assert series(intervals="2001/2002") == []
    assert series(granularity="all", intervals="2001/2002", context={"skipEmptyBuckets": "true"}) == []


def test_empty_buckets_between_the_first_and_the_last_are_filled() -> None:
    found = series(granularity="hour", filter=COYOTE, aggregations=[COUNT, ADDED])
    assert (found[0][0], found[-1][0]) == ("2013-08-31T01:00:00.000Z", "2013-09-01T12:00:00.000Z")
    assert len(found) == 36
    assert found[0][1] == {"rows": 0, "added": None}
    assert found[-1][1] == {"rows": 1, "added": 1}
    assert len(series(granularity="hour", filter=COYOTE, context={"skipEmptyBuckets": "true"})) == 2


def test_a_series_may_descend_be_cut_off_and_end_with_a_total() -> None:
    found = series(descending=True, limit=1, context={"grandTotal": "true"})
    assert found == [(SECOND, {"rows": 5}), (None, {"rows": 10})]


def test_post_aggregators_are_computed_in_empty_buckets_too() -> None:
    ratio = {
        "type": "arithmetic",
        "name": "x",
        "fn": "*",
        "fields": [{"type": "fieldAccess", "fieldName": "added"}, {"type": "constant", "value": 2}],
    }
    found = series(granularity="hour", filter=COYOTE, aggregations=[ADDED], postAggregations=[ratio])
    assert (found[0][1], found[-1][1]) == ({"added": None, "x": None}, {"added": 1, "x": 2.0})


def test_ties_of_a_top_n_are_in_the_order_of_the_values() -> None:
    (found,) = top(threshold=3)
    assert found["timestamp"] == "2013-08-31T01:02:33.000Z"
    assert [r["page"] for r in found["result"]] == ["Cherno Alpha", "Coyote Tango", "Crimson Typhoon"]


def test_a_top_n_ranks_in_each_bucket_and_keeps_empty_ones() -> None:
    found = top(granularity="day", metric="added", aggregations=[COUNT, ADDED], threshold=1)
    assert [(r["timestamp"], [x["page"] for x in r["result"]]) for r in found] == [
        (FIRST, ["Crimson Typhoon"]),
        (SECOND, ["Crimson Typhoon"]),
    ]
    assert [len(r["result"]) for r in top(granularity={"type": "period", "period": "PT12H"}, filter=COYOTE)] == [
        0,
        1,
        0,
        1,
    ]
    assert top(intervals="2001/2002") == []


@pytest.mark.parametrize(
    ("metric", "pages"),
    [
        ({"type": "numeric", "metric": "added"}, ["Crimson Typhoon", "Striker Eureka"]),
        ({"type": "inverted", "metric": "added"}, ["Coyote Tango", "Gypsy Danger"]),
        ({"type": "dimension", "ordering": "lexicographic"}, ["Cherno Alpha", "Coyote Tango"]),
        ({"type": "dimension", "ordering": "strlen"}, ["Cherno Alpha", "Coyote Tango"]),
        ({"type": "dimension", "previousStop": "Coyote Tango"}, ["Crimson Typhoon", "Gypsy Danger"]),
        ({"type": "lexicographic", "previousStop": "Gypsy Danger"}, ["Striker Eureka"]),
        ({"type": "inverted", "metric": {"type": "dimension"}}, ["Striker Eureka", "Gypsy Danger"]),
        (
            {"type": "inverted", "metric": {"type": "lexicographic", "previousStop": "Gypsy Danger"}},
            ["Crimson Typhoon", "Coyote Tango"],
        ),
    ],
    ids=str,
)
def test_a_top_n_ranks_by(metric: Any, pages: list[str]) -> None:
    (found,) = top(metric=metric, aggregations=[COUNT, ADDED])
    assert [row["page"] for row in found["result"]] == pages


def test_a_row_with_several_values_counts_for_each_of_them() -> None:
    (found,) = top(dimension="tags", threshold=3)
    assert found["result"] == [{"tags": "t1", "rows": 4}, {"tags": "t2", "rows": 4}, {"tags": None, "rows": 2}]
    assert groups(dimensions=["tags"], filter={"type": "selector", "dimension": "tags", "value": "t3"}) == [
        {"tags": "t3", "rows": 2},
        {"tags": "t4", "rows": 2},
        {"tags": "t5", "rows": 2},
    ]


def test_values_that_are_not_kept_are_null_in_groups_and_gone_in_a_top_n() -> None:
    for only in (
        {"type": "listFiltered", "delegate": "language", "values": ["ja"]},
        {"type": "regexFiltered", "delegate": "language", "pattern": "^j"},
        {"type": "prefixFiltered", "delegate": "language", "prefix": "j"},
    ):
        assert groups(dimensions=[only]) == [{"language": None, "rows": 8}, {"language": "ja", "rows": 2}]
        (found,) = top(dimension=only)
        assert found["result"] == [{"language": "ja", "rows": 2}]
    listed = {"type": "listFiltered", "delegate": "tags", "values": ["t1"], "isWhitelist": False}
    assert [row["tags"] for row in groups(dimensions=[listed])] == [None, "t2", "t3", "t4", "t5", "t6"]


def test_groups_are_in_the_order_of_time_then_of_the_dimensions() -> None:
    found = ask(TABLE, queryType="groupBy", granularity="day", dimensions=["robot", "language"], aggregations=[COUNT])
    assert [(r["timestamp"], r["event"]["robot"], r["event"]["language"]) for r in found][:4] == [
        (FIRST, "false", "en"),
        (FIRST, "true", "en"),
        (FIRST, "true", "ja"),
        (FIRST, "true", "ru"),
    ]
    assert groups(dimensions=["nothing"]) == [{"nothing": None, "rows": 10}]
    assert groups(dimensions=["page"], filter={"type": "false"}) == []
    assert groups(dimensions=[], filter={"type": "false"}) == []


def test_all_of_a_group_by_is_stamped_with_the_start_of_the_interval() -> None:
    (row,) = ask(TABLE, queryType="groupBy", dimensions=[], aggregations=[COUNT], intervals="2013-08-01/2014")
    assert row["timestamp"] == "2013-08-01T00:00:00.000Z"


def test_numbers_are_texts_unless_their_type_is_asked_for() -> None:
    limit = {"type": "default", "limit": 2, "columns": [{"dimension": "added", "direction": "descending"}]}
    assert [r["added"] for r in groups(dimensions=["added"], limitSpec=limit)] == ["905.0", "57.0"]
    numeric = {**limit, "columns": [{"dimension": "added", "direction": "DESC", "dimensionOrder": "numeric"}]}
    assert [r["added"] for r in groups(dimensions=["added"], limitSpec=numeric)] == ["905.0", "459.0"]
    long = {"type": "default", "dimension": "added", "outputType": "LONG"}
    assert [r["added"] for r in groups(dimensions=[long])] == [1, 57, 123, 459, 905]


def test_a_limit_still_puts_time_first() -> None:
    limit = {"type": "default", "limit": 6, "offset": 1, "columns": [{"dimension": "added", "direction": "descending"}]}
    found = ask(
        TABLE, queryType="groupBy", granularity="day", dimensions=["page"], aggregations=[ADDED], limitSpec=limit
    )
    assert [(r["timestamp"], r["event"]["added"]) for r in found] == [
        (FIRST, 459),
        (FIRST, 123),
        (FIRST, 57),
        (FIRST, 1),
        (SECOND, 905),
        (SECOND, 459),
    ]


@pytest.mark.parametrize(
    ("having", "languages"),
    [
        ({"type": "greaterThan", "aggregation": "rows", "value": 2}, ["en"]),
        ({"type": "lessThan", "aggregation": "added", "value": 100}, ["ja"]),
        ({"type": "equalTo", "aggregation": "added", "value": 2}, ["ja"]),
        ({"type": "not", "havingSpec": {"type": "equalTo", "aggregation": "rows", "value": 2}}, ["en"]),
        ({"type": "dimSelector", "dimension": "language", "value": "zh"}, ["zh"]),
        (
            {"type": "filter", "filter": {"type": "bound", "dimension": "rows", "lower": "4", "ordering": "numeric"}},
            ["en"],
        ),
        (
            {
                "type": "or",
                "havingSpecs": [
                    {"type": "dimSelector", "dimension": "language", "value": "ja"},
                    {"type": "and", "havingSpecs": [{"type": "greaterThan", "aggregation": "rows", "value": 3}]},
                ],
            },
            ["en", "ja"],
        ),
        ({"type": "never"}, []),
    ],
    ids=str,
)
def test_having(having: dict[str, Any], languages: list[str]) -> None:
    found = groups(dimensions=["language"], aggregations=[COUNT, ADDED], having=having)
    assert [row["language"] for row in found] == languages


def test_subtotals_leave_the_other_dimensions_null() -> None:
    aggregators = [COUNT, {"type": "grouping", "name": "g", "groupings": ["robot", "language"]}]
    found = groups(
        dimensions=["robot", "language"], aggregations=aggregators, subtotalsSpec=[["robot"], ["language"], []]
    )
    assert found[0] == {"robot": "false", "language": None, "rows": 2, "g": 1}
    assert found[2] == {"robot": None, "language": "en", "rows": 4, "g": 2}
    assert found[-1] == {"robot": None, "language": None, "rows": 10, "g": 3}


def test_a_group_by_is_a_data_source() -> None:
    inner = {
        "queryType": "groupBy",
        "dataSource": "t",
        "intervals": "2013/2014",
        "granularity": "day",
        "dimensions": ["page"],
        "aggregations": [ADDED, {"type": "hyperUnique", "name": "users", "fieldName": "user"}],
        "postAggregations": [{"type": "expression", "name": "half", "expression": "added / 2.0"}],
    }
    outer = [
        {"type": "longMax", "name": "most", "fieldName": "added"},
        {"type": "doubleSum", "name": "half", "fieldName": "half"},
        {"type": "hyperUnique", "name": "users", "fieldName": "users", "round": True},
    ]
    source = {"type": "query", "query": inner}
    assert groups(dataSource=source, dimensions=[], aggregations=outer) == [{"most": 905, "half": 1545.0, "users": 5}]
    days = ask(
        TABLE,
        queryType="timeseries",
        dataSource=source,
        granularity="day",
        aggregations=[COUNT],
        intervals="2013-08-31/P2D",
    )
    assert [(row["timestamp"], row["result"]["rows"]) for row in days] == [(FIRST, 5), (SECOND, 5)]


def test_a_query_brings_its_own_rows_and_tables_are_joined_end_to_end() -> None:
    inline = {
        "type": "inline",
        "columnNames": ["k", "v"],
        "columnTypes": ["string", "long"],
        "rows": [["a", 1], ["b", None], ["a", 4]],
    }
    total = [{"type": "longSum", "name": "v", "fieldName": "v"}]
    assert groups(dataSource=inline, dimensions=["k"], aggregations=total) == [
        {"k": "a", "v": 5},
        {"k": "b", "v": None},
    ]
    (found,) = top(dataSource={"type": "union", "dataSources": ["t", "t", "nowhere"]}, threshold=1)
    assert found["result"] == [{"page": "Cherno Alpha", "rows": 4}]
    with pytest.raises(InvalidInputError, match="v"):
        inline_table(["v"], ["long"], [["x"]])


@pytest.mark.parametrize("kind", ["timeseries", "topN", "groupBy"])
def test_times_are_milliseconds_where_the_context_asks_for_them(kind: str) -> None:
    query: dict[str, Any] = {
        "queryType": kind,
        "granularity": "day",
        "aggregations": [COUNT],
        **({"dimension": "page", "metric": "rows", "threshold": 1} if kind == "topN" else {}),
        "context": {"serializeDateTimeAsLong": "true"},
    }
    assert [row["timestamp"] for row in ask(TABLE, **query)] == [1377907200000, 1377993600000]


def test_no_subtotals_are_none() -> None:
    assert groups(dimensions=["page"], subtotalsSpec=[]) == groups(dimensions=["page"])


def test_one_column_is_scanned_without_a_list() -> None:
    (part,) = ask(TABLE, queryType="scan", columns="page", limit=1)
    assert part["columns"] == ["page"]
    with pytest.raises(InvalidInputError, match="columns"):
        ask(TABLE, queryType="scan", columns=[1])


def test_the_outer_name_of_a_filtered_aggregator_counts() -> None:
    only = {"type": "filtered", "name": "outer", "filter": {"type": "true"}, "aggregator": COUNT}
    assert list(groups(dimensions=[], aggregations=[only])[0]) == ["outer"]


def test_scanned_rows_hold_their_values_and_say_their_types() -> None:
    (part,) = ask(TABLE, queryType="scan", columns=[TIME, "page", "tags", "none", "added"], limit=2, offset=3)
    assert part["events"] == [
        {TIME: 1377950319000, "page": "Crimson Typhoon", "tags": "t6", "none": None, "added": 905.0},
        {TIME: 1377952887000, "page": "Coyote Tango", "tags": None, "none": None, "added": 1.0},
    ]
    assert part["rowSignature"] == [
        {"name": TIME, "type": "LONG"},
        {"name": "page", "type": "STRING"},
        {"name": "tags", "type": "STRING"},
        {"name": "none"},
        {"name": "added", "type": "DOUBLE"},
    ]
    compact = ask(TABLE, queryType="scan", columns=["page"], limit=2, order="descending", resultFormat="compactedList")
    assert compact[0]["events"] == [["Coyote Tango"], ["Crimson Typhoon"]]
    assert ask(TABLE, queryType="scan", columns=["page"], filter={"type": "false"}) == []
    assert [len(p["events"]) for p in ask(TABLE, queryType="scan", columns=["page"], batchSize=4)] == [4, 4, 2]


def test_json_is_scanned_as_json() -> None:
    frame = pl.DataFrame({TIME: [0, 1], "j": ['{"a":{"b":1}}', None]}).lazy()
    table = Table(frame, {TIME: TIME_COLUMN, "j": Column(pl.col("j"), Type.JSON)})
    (part,) = ask(table, queryType="scan", columns=["j"], resultFormat="compactedList")
    assert part["events"] == [[{"a": {"b": 1}}], [None]]
    assert part["rowSignature"] == [{"name": "j", "type": "COMPLEX<json>"}]
    nested = {"type": "nested-field", "columnName": "j", "outputName": "v", "path": "$.a.b", "expectedType": "LONG"}
    assert ask(table, queryType="scan", columns=["v"], virtualColumns=[nested])[0]["events"] == [{"v": 1}, {"v": None}]


def test_a_search_counts_the_values_that_hold_a_text() -> None:
    (found,) = ask(
        TABLE,
        queryType="search",
        intervals="2013-08-01/2014",
        searchDimensions=["page", "country"],
        query={"type": "insensitive_contains", "value": "CH"},
    )
    assert found["timestamp"] == "2013-08-01T00:00:00.000Z"
    assert found["result"] == [
        {"dimension": "page", "value": "Cherno Alpha", "count": 2},
        {"dimension": "country", "value": "China", "count": 2},
    ]
    (every,) = ask(TABLE, queryType="search", query={"type": "contains", "value": "t1"}, limit=1)
    assert every["result"] == [{"dimension": "tags", "value": "t1", "count": 4}]


def test_the_bounds_of_time() -> None:
    (both,) = ask(TABLE, queryType="timeBoundary", filter={"type": "selector", "dimension": "language", "value": "ja"})
    assert both["result"] == {"minTime": "2013-08-31T12:41:27.000Z", "maxTime": "2013-09-01T12:41:27.000Z"}
    (last,) = ask(TABLE, queryType="timeBoundary", bound="maxTime")
    assert last == {"timestamp": "2013-09-01T12:41:27.000Z", "result": {"maxTime": "2013-09-01T12:41:27.000Z"}}
    assert ask(TABLE, queryType="timeBoundary", dataSource="nowhere") == []
    (fresh,) = ask(TABLE, queryType="dataSourceMetadata")
    assert fresh["result"] == {"maxIngestedEventTime": "2013-09-01T12:41:27.000Z"}


def test_columns_are_described() -> None:
    (found,) = ask(
        TABLE, queryType="segmentMetadata", toInclude={"type": "list", "columns": ["tags", "added"]}, merge=True
    )
    assert (found["id"], found["numRows"], found["rollup"]) == ("merged", 10, None)
    assert found["columns"]["tags"]["hasMultipleValues"] is True
    assert found["columns"]["tags"]["cardinality"] == 7
    assert (found["columns"]["added"]["minValue"], found["columns"]["added"]["maxValue"]) == (1.0, 905.0)


@pytest.mark.parametrize(
    ("query", "error", "names"),
    [
        ({"queryType": "select"}, UnsupportedError, "select"),
        ({"queryType": None}, InvalidInputError, "queryType"),
        ({"intervals": None}, InvalidInputError, "intervals"),
        ({"intervals": "2014/2013"}, InvalidInputError, "before"),
        ({"granularity": "fortnight"}, InvalidInputError, "fortnight"),
        ({"dataSource": {"type": "lookup", "lookup": "x"}}, UnsupportedError, "lookup"),
        ({"aggregations": [COUNT, COUNT]}, InvalidInputError, "rows"),
        (
            {
                "virtualColumns": [
                    {"type": "expression", "name": "v", "expression": "w"},
                    {"type": "expression", "name": "w", "expression": "v"},
                ],
                "aggregations": [{"type": "longSum", "name": "x", "fieldName": "v"}],
            },
            InvalidInputError,
            "itself",
        ),
        ({"queryType": "topN", "dimension": "page", "threshold": 1, "metric": "other"}, InvalidInputError, "other"),
        ({"queryType": "topN", "dimension": "page", "metric": "rows"}, InvalidInputError, "threshold"),
        (
            {
                "queryType": "groupBy",
                "dimensions": [{"type": "lookup", "dimension": "page", "outputName": "x", "name": "n"}],
            },
            UnsupportedError,
            "n",
        ),
        ({"queryType": "scan", "resultFormat": "valueVector"}, UnsupportedError, "valueVector"),
    ],
)
def test_what_is_no_query_is_refused_by_name(query: dict[str, Any], error: type[Exception], names: str) -> None:
    whole: dict[str, Any] = {"queryType": "timeseries", "aggregations": [COUNT], "intervals": "2013/2014", **query}
    with pytest.raises(error, match=names):
        ask(TABLE, **whole)


def test_unknown_members_are_ignored() -> None:
    assert series(granularity="all", surprise={"x": 1}, context={"surprise": True})[0][1] == {"rows": 10}


def test_infinite_and_undefined_numbers_are_texts_in_json() -> None:
    rows = table_of(pl.DataFrame({TIME: [0], "v": [1.0]}))
    posts = [
        {"type": "expression", "name": "x", "expression": "v / 0.0"},
        {"type": "expression", "name": "y", "expression": "0.0 / 0.0"},
    ]
    total = [{"type": "doubleSum", "name": "v", "fieldName": "v"}]
    (row,) = ask(rows, queryType="timeseries", aggregations=total, postAggregations=posts)
    assert row["result"] == {"v": 1.0, "x": "Infinity", "y": "NaN"}
