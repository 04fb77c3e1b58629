"""pydruid's native client against the endpoints, over a real socket."""

from __future__ import annotations

import asyncio
import urllib.request  # pydruid uses `urllib.error` and imports only `urllib`
from collections.abc import AsyncIterator, Callable
from typing import Any

import polars as pl
import pytest
import uvicorn
from pydruid.client import PyDruid
from pydruid.utils.aggregators import cardinality, count, doublesum, filtered, hyperunique, longmax, longsum
from pydruid.utils.dimensions import DimensionSpec, RegexExtraction
from pydruid.utils.filters import Bound, Dimension, Filter
from pydruid.utils.having import Aggregation
from pydruid.utils.postaggregator import Const, Field, HyperUniqueCardinality

from tests.query.wikipedia import raw_rows
from tests.query.world import build_world
from tests.serve.druid_world import druid_over

pytestmark = pytest.mark.anyio
DAY = "2015-09-12/P1D"
assert urllib.request


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PyDruid]:
    async with druid_over(build_world(tmp_path_factory.mktemp("pydruid"))) as druid:
        server = uvicorn.Server(uvicorn.Config(druid.app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
        serving = asyncio.create_task(server.serve())
        async with asyncio.timeout(30):
            while not server.started:
                await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield PyDruid(f"http://127.0.0.1:{port}", "druid/v2/")
        server.should_exit = True
        await serving


async def asked(method: Callable[..., Any], **query: Any) -> Any:
    found = await asyncio.to_thread(method, **({"datasource": "wikipedia"} | query))
    return found.result


async def test_a_series_with_filters_and_post_aggregators(client: PyDruid) -> None:
    found = await asked(
        client.timeseries,
        granularity="day",
        intervals=DAY,
        aggregations={"rows": count("rows"), "added": longsum("added"), "users": hyperunique("user")},
        post_aggregations={"mean": Field("added") / Field("rows"), "twice": Field("added") * Const(2)},
        filter=(Dimension("channel") == "#en.wikipedia") & ~(Dimension("isRobot") == "true"),
    )
    (day,) = found
    assert day["timestamp"] == "2015-09-12T00:00:00.000Z"
    result = day["result"]
    assert result["mean"] == pytest.approx(result["added"] / result["rows"])
    assert result["twice"] == result["added"] * 2.0
    edits = pl.DataFrame(raw_rows()).filter(channel="#en.wikipedia", isRobot=False)
    assert result["rows"] == edits.height
    assert result["users"] == pytest.approx(edits["user"].n_unique(), rel=4 * 1.04 / 2_048**0.5)


async def test_the_top_pages(client: PyDruid) -> None:
    found = await asked(
        client.topn,
        granularity="all",
        intervals=DAY,
        aggregations={"count": count("count")},
        dimension="page",
        metric="count",
        threshold=2,
    )
    assert found[0]["result"][0] == {"page": "Wikipedia:Vandalismusmeldung", "count": 33}


async def test_groups_with_having_limit_and_extraction(client: PyDruid) -> None:
    language = DimensionSpec("channel", "language", extraction_function=RegexExtraction("#(\\w+)\\."))
    found = await asked(
        client.groupby,
        granularity="all",
        intervals=DAY,
        dimensions=[language],
        aggregations={
            "rows": count("rows"),
            "high": longmax("delta"),
            "new": filtered(Filter(dimension="isNew", value="true"), doublesum("added")),
            "pages": cardinality("page"),
        },
        having=Aggregation("rows") > 1_000,
        limit_spec={"type": "default", "limit": 3, "columns": [{"dimension": "rows", "direction": "descending"}]},
    )
    assert [row["event"]["language"] for row in found] == ["en", "vi", "de"]
    assert found[0]["version"] == "v1"


async def test_rows_times_columns_and_subqueries(client: PyDruid) -> None:
    scanned = await asked(client.scan, granularity="all", intervals=DAY, limit=2, columns=["__time", "page"])
    assert [len(part["events"]) for part in scanned] == [2]
    (boundary,) = await asked(client.time_boundary)
    assert boundary["result"]["maxTime"].startswith("2015-09-12T23:59")
    (segment,) = await asked(client.segment_metadata, intervals=DAY)
    assert segment["columns"]["added"]["type"] == "LONG"
    inner = client.sub_query(
        datasource="wikipedia",
        granularity="all",
        intervals=DAY,
        dimensions=["channel"],
        aggregations={"rows": count("rows")},
    )
    outer = await asked(
        client.groupby,
        datasource=inner,
        granularity="all",
        intervals=DAY,
        dimensions=[],
        aggregations={"most": longmax("rows"), "n": count("n")},
    )
    assert outer[0]["event"] == {"most": 11_549, "n": 51}


async def test_bounds_and_estimates(client: PyDruid) -> None:
    found = await asked(
        client.timeseries,
        granularity="all",
        intervals=DAY,
        aggregations={"rows": count("rows"), "users": hyperunique("user")},
        post_aggregations={"estimate": HyperUniqueCardinality("users")},
        filter=Bound("channel", "#a", "#b", lowerStrict=True, upperStrict=True),
    )
    assert found[0]["result"]["estimate"] == found[0]["result"]["users"]


async def test_a_refusal_reaches_the_caller_with_its_reason(client: PyDruid) -> None:
    with pytest.raises(OSError, match="javascript"):
        await asked(
            client.timeseries,
            granularity="all",
            intervals=DAY,
            aggregations={"rows": {"type": "javascript", "name": "rows", "fieldNames": []}},
        )
