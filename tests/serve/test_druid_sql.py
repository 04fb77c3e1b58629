"""`POST /druid/v2/sql`: bodies, result formats, headers, parameters, errors and cancelling, as Druid's clients see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rta.errors import OutOfMemoryError, TimeLimitError, UnavailableError
from rta.serve.sql import SqlRows
from tests.serve.druid_sql_site import Site, build_site

pytestmark = pytest.mark.anyio
PATH = "/druid/v2/sql"
COUNT = "SELECT COUNT(*) AS n FROM wikipedia"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    built = build_site(Path(tmp_path_factory.mktemp("druid-sql")))
    yield built
    await built.asker.close()


@pytest.fixture
async def client(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site.app), base_url="http://rta") as client:
        yield client


async def ask(client: httpx.AsyncClient, query: str, **others: Any) -> httpx.Response:
    return await client.post(PATH, json={"query": query, **others})


@pytest.mark.parametrize("path", [PATH, PATH + "/"])
async def test_both_paths_answer_without_a_redirect(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json={"query": COUNT})
    assert (answer.status_code, answer.content) == (200, b'[{"n":39244}]')
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", COUNT),
        ("text/plain; charset=utf-8", COUNT),
        ("application/x-www-form-urlencoded", "SELECT+COUNT%28%2A%29+AS+n+FROM+wikipedia"),
        ("application/json;charset=UTF-8", json.dumps({"query": COUNT})),
    ],
)
async def test_bare_sql_is_read_under_its_content_types(
    client: httpx.AsyncClient, content_type: str, body: str
) -> None:
    answer = await client.post(PATH, content=body, headers={"Content-Type": content_type})
    assert answer.json() == [{"n": 39244}]


QUERY = "SELECT channel, COUNT(*) AS n, MAX(__time) AS t FROM wikipedia WHERE channel = '#be.wikipedia' GROUP BY 1"
ROW = ["#be.wikipedia", 33, "2015-09-12T23:56:25.159Z"]
NAMES, NATIVE, SQL = ["channel", "n", "t"], ["STRING", "LONG", "LONG"], ["VARCHAR", "BIGINT", "TIMESTAMP"]
TYPED = {n: {"type": a, "sqlType": b} for n, a, b in zip(NAMES, NATIVE, SQL, strict=True)}
ALL = {"header": True, "typesHeader": True, "sqlTypesHeader": True}


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows) + "\n"


@pytest.mark.parametrize(
    ("form", "asked", "expected"),
    [
        ("object", {}, json.dumps([dict(zip(NAMES, ROW, strict=True))], separators=(",", ":"))),
        (
            "object",
            {"header": True},
            json.dumps([dict.fromkeys(NAMES), dict(zip(NAMES, ROW, strict=True))], separators=(",", ":")),
        ),
        ("object", ALL, json.dumps([TYPED, dict(zip(NAMES, ROW, strict=True))], separators=(",", ":"))),
        ("array", {}, json.dumps([ROW], separators=(",", ":"))),
        ("array", ALL, json.dumps([NAMES, NATIVE, SQL, ROW], separators=(",", ":"))),
        ("objectLines", ALL, lines(TYPED, dict(zip(NAMES, ROW, strict=True)))),
        ("arrayLines", {"header": True}, lines(NAMES, ROW)),
        ("arrayLines", {}, lines(ROW)),
        ("csv", ALL, "\n".join((",".join(NAMES), ",".join(NATIVE), ",".join(SQL), ",".join(map(str, ROW)), "", ""))),
    ],
)
async def test_the_result_formats(client: httpx.AsyncClient, form: str, asked: dict[str, Any], expected: str) -> None:
    answer = await ask(client, QUERY, resultFormat=form, **asked)
    assert answer.text == expected
    assert answer.headers.get("x-druid-sql-header-included") == ("yes" if asked else None)


async def test_csv_quotes_what_needs_it(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "SELECT 'a,\"b\"' AS x, TRUE AS y, NULL AS z, 1.5 AS d", resultFormat="csv")
    assert answer.text == '"a,""b""",true,,1.5\n\n'


async def test_an_empty_answer_with_a_header_has_the_header(client: httpx.AsyncClient) -> None:
    assert (await ask(client, "SELECT page FROM wikipedia WHERE 1 = 0", header=True)).json() == [{"page": None}]
    assert (await ask(client, "SELECT page FROM wikipedia WHERE 1 = 0")).json() == []


async def test_the_query_has_an_id_its_own_or_a_new_one(client: httpx.AsyncClient) -> None:
    answer = await ask(client, COUNT, context={"sqlQueryId": "mine", "unknown": 1})
    assert answer.headers["x-druid-sql-query-id"] == answer.headers["x-druid-query-id"] == "mine"
    assert answer.headers["x-druid-response-context"] == "{}"
    assert len((await ask(client, COUNT)).headers["x-druid-sql-query-id"]) == 36


async def test_an_answer_that_one_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    etag = (await ask(client, COUNT)).headers["etag"]
    again = await client.post(PATH, json={"query": COUNT}, headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


async def test_parameters_stand_for_question_marks(client: httpx.AsyncClient) -> None:
    query = "SELECT COUNT(*) AS n FROM wikipedia WHERE channel = ? AND added > ? AND __time < ? AND page <> '?' LIMIT ?"
    parameters = [
        {"type": "VARCHAR", "value": "#be.wikipedia"},
        {"type": "INTEGER", "value": "10"},
        {"type": "TIMESTAMP", "value": "2015-09-12 12:00:00"},
        {"type": "BIGINT", "value": 5},
    ]
    written = "channel = '#be.wikipedia' AND added > 10 AND __time < TIMESTAMP '2015-09-12 12:00:00'"
    expected = await ask(client, f"SELECT COUNT(*) AS n FROM wikipedia WHERE {written}")
    assert (await ask(client, query, parameters=parameters)).json() == expected.json() != [{"n": 0}]
    missing = await ask(client, query, parameters=parameters[:1])
    assert is_refused(missing, "No value bound for parameter (position 2)")
    assert is_refused(await ask(client, "SELECT ?", parameters=[{"type": "BIGINT", "value": "x"}]), "no BIGINT")


async def test_a_parameter_is_a_value_and_never_syntax(client: httpx.AsyncClient) -> None:
    value = "x' OR '1' = '1"
    answer = await ask(client, "SELECT ? AS v", parameters=[{"type": "VARCHAR", "value": value}])
    assert answer.json() == [{"v": value}]


async def test_settings_before_the_query_go_into_its_context(client: httpx.AsyncClient) -> None:
    query = "SET sqlTimeZone = 'America/Los_Angeles'; SET x = 1;\nSELECT TIMESTAMP '2015-09-12 00:00:00' AS t"
    assert (await ask(client, query)).json() == [{"t": "2015-09-12T00:00:00.000-07:00"}]


async def test_the_outer_limit_is_kept(client: httpx.AsyncClient) -> None:
    query = "SELECT channel FROM wikipedia GROUP BY channel ORDER BY COUNT(*) DESC"
    every = (await ask(client, query)).json()
    assert (await ask(client, query, context={"sqlOuterLimit": "2"})).json() == every[:2]
    assert len((await ask(client, "SELECT page FROM wikipedia", context={"sqlOuterLimit": 3})).json()) == 3


async def test_values_of_the_context_may_be_texts(client: httpx.AsyncClient) -> None:
    query = "SELECT ARRAY[1, 2] AS a"
    assert (await ask(client, query)).json() == [{"a": "[1,2]"}]
    assert (await ask(client, query, context={"sqlStringifyArrays": "false", "timeout": "60000"})).json() == [
        {"a": [1, 2]}
    ]


def is_refused(answer: httpx.Response, text: str, status: int = 400, error: str = "druidException") -> bool:
    document = answer.json()
    assert set(document) >= {"error", "errorMessage", "errorClass", "category", "persona", "errorCode", "host"}
    assert (answer.status_code, document["error"]) == (status, error), answer.text
    assert answer.headers["content-type"] == "application/json"
    return text in document["errorMessage"]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "no 'query'"),
        ({"query": ""}, "no 'query'"),
        ({"query": "SELECT 1", "resultFormat": "xml"}, "'resultFormat' is 'xml'"),
        ({"query": "SELECT 1", "context": []}, None),
        ({"query": "SELECT 1", "context": {"sqlTimeZone": "Mars/Base"}}, "no time zone 'Mars/Base'"),
        ({"query": "SELECT 1", "context": {"timeout": "soon"}}, "context 'timeout' is 'soon'"),
        ({"query": "SELEC 1"}, "can't be parsed"),
        ({"query": "SELECT (1"}, "can't be parsed"),
        ({"query": "SELECT 1; SELECT 2"}, "2 statements"),
        ({"query": "DROP TABLE wikipedia"}, "cannot run DROP here"),
        ({"query": "INSERT INTO wikipedia SELECT 1"}, "cannot run INSERT here"),
        ({"query": "SELECT nothing FROM wikipedia"}, "Column 'nothing' not found in any table"),
        ({"query": "SELECT pge FROM wikipedia"}, "did you mean 'page'?"),
        ({"query": "SELECT 1 FROM wikpedia"}, "Object 'wikpedia' not found within 'druid' (did you mean 'wikipedia'?)"),
        ({"query": "SELECT page, COUNT(*) FROM wikipedia"}, "page"),
        ({"query": "SELECT LOOKUP(page, 'x') FROM wikipedia"}, "LOOKUP of Druid is not supported"),
        ({"query": "SELECT FROBNICATE(page) FROM wikipedia"}, "FROBNICATE"),
        ({"query": "SELECT read_text('/etc/passwd')"}, "READ_TEXT"),
        ({"query": "SELECT * FROM read_csv('/etc/passwd')"}, "READ_CSV"),
        ({"query": 'SELECT * FROM "/etc/passwd"'}, "not found"),
        ({"query": "SELECT * FROM TABLE(EXTERN('a', 'b', 'c'))"}, "EXTERN"),
        ({"query": "SELECT * FROM lookup.names"}, "lookups are not supported"),
        ({"query": "SELECT SUM(COUNT(*)) FROM wikipedia"}, "cannot be nested"),
        ({"query": "SELECT " + "(" * 500 + "1" + ")" * 500}, "nested too deeply"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    client: httpx.AsyncClient, document: dict[str, Any], text: str | None
) -> None:
    answer = await client.post(PATH, json=document)
    if text is None:
        assert answer.status_code == 200
    else:
        assert is_refused(answer, text), answer.text


@pytest.mark.parametrize("body", [b"{", b"[]", b"", b"\xff"])
async def test_a_body_that_is_no_json_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    assert is_refused(await client.post(PATH, content=body, headers={"Content-Type": "application/json"}), "JSON")


async def test_an_answer_beyond_the_row_limit_is_refused_instead_of_cut(client: httpx.AsyncClient) -> None:
    assert is_refused(
        await ask(client, "SELECT page FROM wikipedia"), "more than 1,000 rows", 400, "Resource limit exceeded"
    )
    assert len((await ask(client, "SELECT page FROM wikipedia LIMIT 1000")).json()) == 1000


class _Slow:
    """A SQL service that fails, or never ends."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.asked = asyncio.Event()

    async def rows(self, statement: Any, parameters: Any, options: Any) -> SqlRows:
        self.asked.set()
        if self.failure is not None:
            raise self.failure
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize(
    ("failure", "status", "error"),
    [
        (TimeLimitError("took 1 s"), 504, "Query timeout"),
        (OutOfMemoryError("needs 2 GiB"), 400, "Resource limit exceeded"),
        (UnavailableError("no owner"), 503, "Service unavailable"),
    ],
)
async def test_failures_have_the_names_that_clients_look_for(
    client: httpx.AsyncClient, site: Site, monkeypatch: pytest.MonkeyPatch, failure: Exception, status: int, error: str
) -> None:
    monkeypatch.setattr(site.service, "_sql", _Slow(failure))
    assert is_refused(await ask(client, COUNT), "", status, error)


async def test_a_query_is_cancelled_by_its_id(
    client: httpx.AsyncClient, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = _Slow()
    monkeypatch.setattr(site.service, "_sql", slow)
    asking = asyncio.ensure_future(ask(client, COUNT, context={"sqlQueryId": "long one"}))
    async with asyncio.timeout(20):
        await slow.asked.wait()
        assert (await client.delete(f"{PATH}/long one")).status_code == 202
        assert is_refused(await asking, "long one", 500, "Query cancelled")
    gone = await client.delete(f"{PATH}/long one")
    assert gone.status_code == 404
    assert gone.json()["category"] == "NOT_FOUND"


async def test_the_same_rows_in_another_form_are_another_answer(client: httpx.AsyncClient) -> None:
    objects = await ask(client, COUNT)
    again = await client.post(
        PATH, json={"query": COUNT, "resultFormat": "array"}, headers={"If-None-Match": objects.headers["etag"]}
    )
    assert (again.status_code, again.json()) == (200, [[39244]])


async def sources_of(client: httpx.AsyncClient, site: Site, query: str, **context: Any) -> tuple[list[Any], list[str]]:
    """The rows, and which tables they were made of."""
    metas: list[list[str]] = []
    rows = site.asker.service.rows

    async def noted(*arguments: Any) -> SqlRows:
        found = await rows(*arguments)
        metas.append(found.meta["sources"])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.asker.service, "rows", noted)
        answer = await ask(client, query, resultFormat="array", context=context)
    assert answer.status_code == 200, answer.text
    return answer.json(), metas[0]


ROLLED_UP = [
    "SELECT TIME_FLOOR(__time, 'PT5M') AS t, COUNT(*) AS n FROM wikipedia WHERE __time >= TIMESTAMP '2015-09-12 10:00:00' "
    "AND __time < TIMESTAMP '2015-09-12 11:00:00' AND channel = '#en.wikipedia' GROUP BY 1 ORDER BY 1",
    "SELECT FLOOR(__time TO HOUR), SUM(added), MAX(delta) FROM wikipedia GROUP BY 1",
    "SELECT countryName, SUM(added) AS a FROM wikipedia WHERE isRobot = false GROUP BY 1 ORDER BY a DESC LIMIT 4",
    "SELECT countryName, COUNT(*) AS n FROM wikipedia GROUP BY countryName",
    "SELECT metroCode, COUNT(*) AS n FROM wikipedia GROUP BY 1 ORDER BY 1 DESC LIMIT 3",
    'SELECT COUNT(*) AS n, COUNT(DISTINCT "user") AS u, APPROX_QUANTILE_DS(delta, 0.9) AS q FROM wikipedia '
    "WHERE TIME_IN_INTERVAL(__time, '2015-09-12T05:00:00Z/PT2H') AND channel IN ('#be.wikipedia', '#bg.wikipedia')",
]


@pytest.mark.parametrize("query", ROLLED_UP)
async def test_what_has_a_rollups_shape_is_answered_by_it_and_equals_the_raw_events(
    client: httpx.AsyncClient, site: Site, query: str
) -> None:
    rows, sources = await sources_of(client, site, query)
    assert sources[0].startswith("rollup_")
    raw, sources = await sources_of(
        client, site, query.replace("FROM wikipedia", "FROM (SELECT * FROM wikipedia) AS w")
    )
    assert sources[0] == "events"
    assert rows == raw
    assert rows != []


async def test_a_distinct_count_without_a_rollup_is_exact(client: httpx.AsyncClient, site: Site) -> None:
    query = "SELECT COUNT(DISTINCT page), APPROX_COUNT_DISTINCT(page) FROM wikipedia"
    assert await sources_of(client, site, query) == ([[35143, 35143]], ["events", "hot"])
