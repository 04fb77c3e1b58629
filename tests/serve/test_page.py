from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from rta.config import Settings
from rta.serve.query import build_query_app
from tests.serve.fakes import FakeControl, FakeDefinitions, FakeService

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = build_query_app(FakeService(), FakeDefinitions(), FakeControl(), Settings.model_validate({}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rta") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/charts.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/docs", "text/html"),
        ("/docs/start.js", "text/javascript"),
        ("/docs/swagger-ui-bundle.js", "text/javascript"),
        ("/docs/swagger-ui.css", "text/css"),
        ("/openapi.json", "application/json"),
    ],
)
async def test_every_file_is_served_with_its_type(client: httpx.AsyncClient, path: str, content_type: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == content_type
    assert (await client.head(path)).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_refers_only_to_files_that_are_served(client: httpx.AsyncClient, path: str) -> None:
    text = (await client.get(path)).text
    for reference in re.findall(r'(?:src|href)="([^"#]+)"', text):
        if reference.startswith("data:image/"):
            continue
        assert "//" not in reference
        assert (await client.get("/" + reference)).status_code == 200, reference


async def test_nothing_is_loaded_from_another_host(client: httpx.AsyncClient) -> None:
    for path in ("/", "/docs"):
        policy = (await client.get(path)).headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
    for path in ("/page.js", "/charts.js", "/page.css", "/docs/start.js"):
        assert not re.search(r"https?://", (await client.get(path)).text)


async def test_the_page_is_not_sent_again_unchanged(client: httpx.AsyncClient) -> None:
    etag = (await client.get("/")).headers["etag"]
    assert (await client.get("/", headers={"If-None-Match": etag})).status_code == 304
    assert (await client.get("/", headers={"If-None-Match": '"other"'})).status_code == 200


async def test_the_script_finds_every_element_that_it_fills(client: httpx.AsyncClient) -> None:
    page, script = (await client.get("/")).text, (await client.get("/page.js")).text
    wanted = set(re.findall(r'(?:\$|text)\("([a-z-]+)"', script))
    assert len(wanted) > 12
    assert wanted <= set(re.findall(r'id="([a-z-]+)"', page))
