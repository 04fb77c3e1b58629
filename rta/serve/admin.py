"""Endpoints about the system itself: datasources, status, ledger, health, metrics.

Translates between HTTP and the ports `Definitions` and `Control`; decides nothing about either.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Annotated, Any

import msgspec
import orjson
from fastapi import APIRouter, Query, Request, Response

from rta.errors import BadRequestError, InvalidDatasourceError, RtaError, UnavailableError
from rta.events.schemas import Datasource
from rta.query.model import ALL
from rta.query.periods import absolute_range, parse_time_range
from rta.serve import documents
from rta.serve.filling import ANSWER_ONLY, notes, with_filling
from rta.serve.http import ConfirmationNeededError, error_answer, wire_document
from rta.serve.metrics import CONTENT_TYPE, Family, Registry, Series, merge, read_snapshot, render, status_families
from rta.serve.ports import Control, Definitions
from rta.serve.requests import body_schema, declared, raw_answer, read_document

LOG = logging.getLogger("rta.serve")
CONTROL_TIMEOUT_S = 5.0
"""How long `/metrics` and `/readyz` wait for the coordinator's word."""


class NotReadyError(UnavailableError):
    """Not all parts can accept and answer yet."""

    code = "not_ready"


def json_answer(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document, default=str), status, headers, "application/json")


def admin_router(definitions: Definitions, control: Control, registry: Registry) -> APIRouter:
    """The endpoints, over the ports."""
    router = APIRouter()
    _add_datasources(router, definitions, control)
    _add_resume(router, control)
    _add_reports(router, control)
    _add_health(router, control)
    _add_metrics(router, control, registry)
    return router


def _add_datasources(router: APIRouter, definitions: Definitions, control: Control) -> None:
    @router.get(
        "/v1/datasources", tags=["datasources"], responses=declared(200, 403, 503, model=documents.DatasourceList)
    )
    async def list_datasources() -> Response:
        """All datasources, as their users wrote them."""
        return json_answer({"datasources": [d.document for d in await definitions.all()]})

    @router.post(
        "/v1/datasources",
        tags=["datasources"],
        status_code=201,
        responses=declared(201, 400, 403, 409, 413, 415, 503, model=documents.DatasourceDocument),
        openapi_extra=body_schema(documents.DatasourceDocument),
    )
    async def create_datasource(request: Request) -> Response:
        """Make a datasource. Answers when it takes events."""
        datasource = await definitions.create(await read_document(request))
        return _datasource_answer(datasource, 201, {"Location": f"/v1/datasources/{datasource.name}"})

    @router.get(
        "/v1/datasources/{name}",
        tags=["datasources"],
        responses=declared(200, 403, 404, 503, model=documents.DatasourceAnswer),
    )
    async def get_datasource(name: str) -> Response:
        """One datasource, as its user wrote it; `filling` says how far rollups are that are being filled from history."""
        return json_answer(await with_filling(await definitions.get(name), control))

    @router.put(
        "/v1/datasources/{name}",
        tags=["datasources"],
        responses=declared(200, 400, 403, 404, 409, 413, 415, 503, model=documents.DatasourceAnswer),
        openapi_extra=body_schema(documents.DatasourceDocument),
    )
    async def update_datasource(name: str, request: Request) -> Response:
        """Change a datasource: columns and rollups can be added, rollups removed; what is stored keeps its meaning.

        An added rollup is filled from raw events in the background and used for the times of which it is complete;
        `notes` says so, or why it can't be.
        """
        document = {key: value for key, value in (await read_document(request)).items() if key not in ANSWER_ONLY}
        if document.setdefault("name", name) != name:
            raise InvalidDatasourceError(
                f"the document's name is {str(document['name'])[:64]!r}, the path's is '{name[:64]}'",
                "a datasource can't be renamed: make the names equal",
            )
        before = await definitions.get(name)
        updated = await definitions.update(name, document)
        said = notes(before, updated)
        return json_answer({**updated.document, "notes": said} if said else updated.document)

    @router.delete(
        "/v1/datasources/{name}",
        tags=["datasources"],
        responses=declared(200, 403, 404, 409, 503, model=documents.Deleted) | _removal_response(),
    )
    async def delete_datasource(name: str, confirm: str | None = None) -> Response:
        """Remove a datasource with its tables, state and log. Without `confirm` it only says what that would remove."""
        datasource = await definitions.get(name)
        if confirm != name:
            return await _removal_answer(datasource, control)
        await definitions.delete(name)
        return json_answer({"deleted": name})


def _add_resume(router: APIRouter, control: Control) -> None:
    @router.post(
        "/v1/datasources/{name}/resume",
        tags=["datasources"],
        responses=declared(200, 400, 403, 404, 503, model=documents.Resumed) | _loss_response(),
    )
    async def resume_datasource(name: str, accept_loss: bool = False) -> Response:
        """Go on behind a gap in the log that has stopped a datasource. Without `accept_loss` it only says what is lost."""
        found = await control.resume(name, accept_loss)
        if found["resumed"] or not found["gaps"]:
            return json_answer(found)
        error = ConfirmationNeededError(
            f"the log of '{name}' has gaps in {len(found['gaps'])} partitions; going on gives up what they held",
            f"to do it: rta resume --datasource {name} --accept-loss",
        )
        return json_answer({**wire_document(error), **found}, error.status)


def _loss_response() -> dict[int | str, dict[str, Any]]:
    return {409: {"model": documents.LossDocument, "description": "Not confirmed: nothing was given up"}}


def _removal_response() -> dict[int | str, dict[str, Any]]:
    return {409: {"model": documents.RemovalDocument, "description": "Not confirmed: nothing was removed"}}


async def _removal_answer(datasource: Datasource, control: Control) -> Response:
    error = ConfirmationNeededError(
        f"deleting '{datasource.name}' removes its tables, state and log for good; nothing was removed",
        f"to do it: DELETE /v1/datasources/{datasource.name}?confirm={datasource.name}",
    )
    removes = await control.removal(datasource)
    return json_answer({**wire_document(error), "removes": removes}, error.status)


def _datasource_answer(datasource: Datasource, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return json_answer(datasource.document, status, headers)


def _add_reports(router: APIRouter, control: Control) -> None:
    @router.get("/v1/status", tags=["operation"], responses=declared(200, 403, 503, model=documents.StatusDocument))
    async def status() -> Response:
        """Lag, watermarks, rates, actors with their restarts and reasons."""
        return json_answer(await control.status())

    @router.post(
        "/v1/scale",
        tags=["operation"],
        responses=declared(200, 400, 403, 413, 415, 503, model=documents.Scaled),
        openapi_extra=body_schema(documents.ScaleRequest),
    )
    async def scale(request: Request) -> Response:
        """Let so many aggregators take part from now on, until the next start. Partitions move with their offsets and state."""
        document = await read_document(request)
        count = document.get("aggregators")
        if type(count) is not int or count < 1 or set(document) != {"aggregators"}:
            raise BadRequestError(
                f"scaling takes a whole number of aggregators, not {str(document)[:100]}", 'send {"aggregators": 4}'
            )
        return json_answer(await control.scale(count))

    @router.get(
        "/v1/ledger", tags=["operation"], responses=declared(200, 400, 403, 404, 503, model=documents.LedgerDocument)
    )
    async def ledger(
        datasource: str | None = None,
        time_range: Annotated[
            str | None, Query(description="start/end or 'last 1h'", examples=[documents.EXAMPLE_RANGE])
        ] = None,
    ) -> Response:
        """Whether anything was lost or counted twice."""
        parsed = parse_time_range(time_range)
        range_ms = None if parsed is None else absolute_range(parsed, ALL, "UTC", int(time.time() * 1000))
        return json_answer(await control.ledger(datasource, range_ms))


def _add_health(router: APIRouter, control: Control) -> None:
    async def healthz() -> Response:
        """Alive."""
        return json_answer({"alive": True})

    async def readyz() -> Response:
        """Can accept events and answer questions; `degraded` says which topics of other producers are not read meanwhile."""
        degraded: tuple[str, ...] = ()
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                reason, degraded = await control.ready()
        except TimeoutError:
            reason = f"the coordinator did not answer within {CONTROL_TIMEOUT_S:g} s"
        except RtaError as error:
            reason = str(error)
        if not reason:
            return json_answer({"ready": True, "degraded": list(degraded)})
        return raw_answer(error_answer(NotReadyError(f"not ready: {reason}", "ask again in a second")))

    for path, endpoint, model, statuses in (
        ("/healthz", healthz, documents.Alive, (200, 403)),
        ("/readyz", readyz, documents.Ready, (200, 403, 503)),
    ):
        router.get(path, tags=["operation"], responses=declared(*statuses, model=model))(endpoint)
        router.head(path, include_in_schema=False)(endpoint)


def _add_metrics(router: APIRouter, control: Control, registry: Registry) -> None:
    text = {"text/plain": {"schema": {"type": "string"}}}

    @router.get(
        "/metrics",
        tags=["operation"],
        response_class=Response,
        responses={200: {"description": "Prometheus' text format", "content": text}, **declared(403)},
    )
    async def metrics() -> Response:
        """For Prometheus: this process's counters, and the numbers of the status."""
        families = await _families(control, registry)
        return Response(render(families), media_type=None, headers={"Content-Type": CONTENT_TYPE})


async def _families(control: Control, registry: Registry) -> list[Family]:
    own = registry.families()
    status: dict[str, Any] = {}
    try:
        async with asyncio.timeout(CONTROL_TIMEOUT_S):
            status = dict(await control.status())
    except (TimeoutError, RtaError) as error:
        LOG.warning("the coordinator gave no status for /metrics: %s", error)
    up = Family(
        "rta_coordinator_up", "gauge", "Whether the coordinator gave its status.", (), [Series((), float(bool(status)))]
    )
    snapshots = [own, [up]]
    for document in status.pop("metrics", None) or []:
        try:
            snapshots.append(read_snapshot(document))
        except msgspec.ValidationError as error:
            LOG.warning("a process sent metrics that can't be read: %s", error)
    return [*merge(snapshots), *status_families(status)]
