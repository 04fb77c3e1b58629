"""`/openapi.json` and `/docs`: the whole interface in one document, also what another app serves.

The page is Swagger UI with its assets from the `fastapi-offline` package: it needs no other host.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from rta.config import LimitSettings
from rta.serve.documents import REQUESTS, Acknowledgement
from rta.serve.http import Answer

TITLE = "rta"
DESCRIPTION = """Real-time analytics: events in, answers within a second, exactly once.

Errors are `{{"error", "message", "hint"}}`. Times are ISO 8601 UTC with milliseconds, ranges are `start/end`,
half open.

Limits here: a request for events {body:,} bytes as sent and {unpacked:,} unpacked, one event {event:,} bytes; a
question {query_time:,} ms, {query_rows:,} rows."""
INGEST_STATUSES = {
    400: "The body as a whole can't be read; nothing was accepted",
    403: "The caller may not write here",
    404: "No such datasource",
    413: "Too large, or more events than the quota can ever admit at once",
    415: "Unknown content type or encoding",
    429: "The source is over its quota; nothing of the request was accepted",
    500: "A defect; the log has the details. Sending again is safe",
    503: "Not acknowledged: the log is unreachable, full or too far behind; part of the request may be stored, "
    "sending it again is safe",
}
SWAGGER_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}


def describe(app: FastAPI, limits: LimitSettings) -> dict[str, Any]:
    """The OpenAPI document of the app's routes, completed by the paths for events."""
    text = DESCRIPTION.format_map(limits.model_dump())
    document = get_openapi(title=TITLE, version=app.version, description=text, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    _, own = models_json_schema(
        [(model, "validation") for model in REQUESTS], ref_template="#/components/schemas/{model}"
    )
    for name, schema in own["$defs"].items():
        schemas.setdefault(name, schema)
    for path in document["paths"].values():
        for operation in path.values():
            _drop_default_validation(operation)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    document["paths"] = _ingest_paths() | document["paths"]
    document["tags"] = [{"name": name} for name in ("events", "query", "druid", "datasources", "operation")]
    return document


def _drop_default_validation(operation: dict[str, Any]) -> None:
    """What FastAPI declares for its own 422, which this interface answers with 400."""
    described = operation["responses"].get("422", {})
    if "HTTPValidationError" in str(described.get("content")):
        del operation["responses"]["422"]


def _ingest_paths() -> dict[str, Any]:
    datasource = {
        "name": "datasource",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        "examples": {"events": {"value": "events"}},
    }
    return {
        "/v1/events": {"post": _ingest_operation("send_events", "Send events to the datasource `events`", [])},
        "/v1/events/{datasource}": {
            "post": _ingest_operation("send_events_to_datasource", "Send events to a datasource", [datasource])
        },
    }


def _ingest_operation(identifier: str, summary: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    acknowledged = {"schema": {"$ref": f"#/components/schemas/{Acknowledgement.__name__}"}}
    responses: dict[str, Any] = {
        "200": {
            "description": "Every accepted event is durable; one bad event never fails the others",
            "content": {"application/json": acknowledged},
        },
        "422": {"description": "As 200, but no event was accepted", "content": {"application/json": acknowledged}},
    }
    for status, description in INGEST_STATUSES.items():
        error = {"schema": {"$ref": "#/components/schemas/ErrorDocument"}}
        responses[str(status)] = {"description": description, "content": {"application/json": error}}
    for again in ("429", "503"):
        responses[again]["headers"] = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds"}}
    return {
        "tags": ["events"],
        "summary": summary,
        "operationId": identifier,
        "description": 'One event, an array, `{"events": […]}`, NDJSON or an Arrow IPC stream; gzip or zstd. '
        "Sending the same `event_id` again is always safe.",
        "parameters": parameters + _ingest_parameters(),
        "requestBody": {"required": True, "content": _ingest_bodies()},
        "responses": responses,
    }


def _ingest_parameters() -> list[dict[str, Any]]:
    return [
        {
            "name": "ids",
            "in": "query",
            "description": "Fill missing ids; sending again is then not safe",
            "schema": {"type": "string", "enum": ["generate"]},
        },
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "For datasources without an id: makes sending the same request again safe",
            "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$"},
        },
        {
            "name": "Content-Encoding",
            "in": "header",
            "schema": {"type": "string", "enum": ["identity", "gzip", "zstd"]},
        },
    ]


def _ingest_bodies() -> dict[str, Any]:
    example = {
        "event_id": "3f0e9a52-1",
        "timestamp": "2026-01-01T10:00:00.000Z",
        "event_type": "page_view",
        "user_id": "user_123",
        "properties": {"page_url": "https://example.com/product/123", "country": "US"},
        "custom_properties": {"price": 99.99},
    }
    event = {"$ref": "#/components/schemas/Event"}
    one_or_many = {"anyOf": [event, {"type": "array", "items": event}, {"$ref": "#/components/schemas/EventList"}]}
    text = {"schema": {"type": "string"}}
    return {
        "application/json": {"schema": one_or_many, "example": example},
        "application/x-ndjson": text,
        "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
    }


def swagger_asset(name: str) -> Answer:
    """One file of Swagger UI. `name` is a key of `SWAGGER_ASSETS`."""
    body = (resources.files("fastapi_offline") / "static" / name).read_bytes()
    return Answer(200, body, SWAGGER_ASSETS[name].encode(), ((b"cache-control", b"max-age=86400"),))
