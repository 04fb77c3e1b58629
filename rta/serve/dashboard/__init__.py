"""The live page at `/` and the documentation at `/docs`: a few static files and where they are served.

The page is plain HTML, CSS and JavaScript without a build step, and needs no other host. It asks the same endpoints as
every other client.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib import resources

from fastapi import FastAPI, Request, Response

from rta.serve.openapi import SWAGGER_ASSETS, swagger_asset
from rta.serve.requests import raw_answer

HTML = "text/html; charset=utf-8"
SCRIPT = "text/javascript; charset=utf-8"
STYLE = "text/css; charset=utf-8"
FILES = {
    "/": ("page.html", HTML),
    "/page.js": ("page.js", SCRIPT),
    "/charts.js": ("charts.js", SCRIPT),
    "/page.css": ("page.css", STYLE),
    "/docs": ("docs.html", HTML),
    "/docs/start.js": ("docs.js", SCRIPT),
}
POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Endpoint = Callable[[Request], Awaitable[Response]]


def add_page(app: FastAPI) -> None:
    """Serve the files. They are read once, here."""
    for path, (name, content_type) in FILES.items():
        app.add_route(path, _file(name, content_type), methods=["GET", "HEAD"], include_in_schema=False)
    for name in SWAGGER_ASSETS:
        app.add_route(f"/docs/{name}", _asset(name), methods=["GET", "HEAD"], include_in_schema=False)


def _file(name: str, content_type: str) -> Endpoint:
    body = (resources.files(__package__) / name).read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'

    async def endpoint(request: Request) -> Response:
        headers = {**HEADERS, "ETag": etag}
        if request.headers.get("if-none-match") == etag:
            return Response(None, 304, headers)
        return Response(body, 200, headers, content_type)

    return endpoint


def _asset(name: str) -> Endpoint:
    async def endpoint(_: Request) -> Response:
        return raw_answer(swagger_asset(name))

    return endpoint
