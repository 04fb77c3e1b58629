"""What `/openapi.json` says is what the apps do: schemathesis draws requests from it, good ones and bad ones."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    missing_required_header,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from rta.config import Settings
from rta.events.decode import Edge
from rta.serve.http import Receive, Scope, Send
from rta.serve.ingest import IngestApp
from rta.serve.intake import Intake, IntakeLimits
from rta.serve.metrics import Registry
from rta.serve.query import build_query_app
from rta.serve.sql_http import sql_router
from tests.serve.fakes import NOW_MS, FakeControl, FakeDefinitions, FakeService, FakeSql, FakeWriter, incarnations

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    missing_required_header,
    unsupported_method,
]


class Site:
    """Both apps behind one port, as in production."""

    def __init__(self) -> None:
        definitions = FakeDefinitions()
        intake = Intake(definitions, FakeWriter(), Edge(1), IntakeLimits(threads=1), lambda: NOW_MS, incarnations)
        self.ingest = IngestApp(intake)
        registry = Registry()
        self.query = build_query_app(
            FakeService(),
            definitions,
            FakeControl(),
            Settings.model_validate({}),
            registry,
            [sql_router(FakeSql(), registry)],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        scope["client"] = ("127.0.0.1", 1)
        await (self.ingest if path.startswith("/v1/events") else self.query)(scope, receive, send)


schema = schemathesis.openapi.from_asgi("/openapi.json", Site())


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_documented_request_gets_a_documented_answer(case: Any) -> None:
    case.call_and_validate(checks=CHECKS)


@pytest.mark.parametrize(
    "path", ["/v1/events", "/v1/events/{datasource}", "/v1/query", "/v1/sql", "/v1/datasources/{name}"]
)
def test_the_document_holds_the_whole_interface(path: str) -> None:
    document = schema.raw_schema
    assert path in document["paths"]
    for operation in document["paths"][path].values():
        for status, response in operation["responses"].items():
            assert response["description"]
            assert "HTTPValidationError" not in str(response), status


def test_every_reference_of_the_document_leads_somewhere() -> None:
    document = schema.raw_schema
    references: list[str] = []

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            references.extend(v for k, v in node.items() if k == "$ref" and isinstance(v, str))
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(document)
    assert len(references) > 20
    for reference in references:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"], reference
