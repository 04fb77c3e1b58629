"""Errors as Druid's clients read them: both of its forms in one document, and the status that belongs to each."""

from __future__ import annotations

from typing import Any, NamedTuple

from rta.errors import BadRequestError, NotFoundError, OutOfMemoryError, RtaError, TimeLimitError, TooLargeError
from rta.serve.http import ForbiddenError, wire_document

_QUERY = "org.apache.druid.query"


class _Form(NamedTuple):
    """`error` is what older clients look at, `category` newer ones."""

    status: int
    error: str
    code: str
    category: str
    persona: str
    error_class: str


_INVALID = _Form(
    400, "druidException", "invalidInput", "INVALID_INPUT", "USER", "org.apache.druid.error.DruidException"
)
_FORMS: tuple[tuple[type[RtaError], _Form], ...] = (
    (TimeLimitError, _Form(504, "Query timeout", "timeout", "TIMEOUT", "OPERATOR", f"{_QUERY}.QueryTimeoutException")),
    (
        OutOfMemoryError,
        _Form(400, "Resource limit exceeded", "capacityExceeded", "CAPACITY_EXCEEDED", "USER",
              f"{_QUERY}.ResourceLimitExceededException"),
    ),
    (
        TooLargeError,
        _Form(400, "Resource limit exceeded", "capacityExceeded", "CAPACITY_EXCEEDED", "USER",
              f"{_QUERY}.ResourceLimitExceededException"),
    ),
    (
        ForbiddenError,
        _Form(403, "Forbidden", "forbidden", "FORBIDDEN", "USER",
              "org.apache.druid.server.security.ForbiddenException"),
    ),
    (NotFoundError, _INVALID),
    (BadRequestError, _INVALID),
)  # fmt: skip
_UNKNOWN = _Form(500, "Unknown exception", "general", "UNCATEGORIZED", "OPERATOR", "java.lang.RuntimeException")
_UNAVAILABLE = _Form(
    503, "Service unavailable", "general", "SERVICE_UNAVAILABLE", "OPERATOR", f"{_QUERY}.QueryException"
)
_CANCELLED = _Form(500, "Query cancelled", "canceled", "CANCELED", "USER", f"{_QUERY}.QueryInterruptedException")


def druid_error(error: RtaError, source: str = "sql") -> tuple[int, dict[str, Any]]:
    """The status and the document of an error."""
    form = next((form for kind, form in _FORMS if isinstance(error, kind)), None)
    if form is None:
        form = _UNAVAILABLE if error.retry_after_s is not None else _UNKNOWN
    wire = wire_document(error)
    text = f"{wire['message']} ({wire['hint']})" if wire["hint"] else wire["message"]
    return form.status, _document(form, text, source)


def cancelled_error(query_id: str, source: str = "sql") -> tuple[int, dict[str, Any]]:
    return _CANCELLED.status, _document(_CANCELLED, f"Query [{query_id}] was canceled", source)


def _document(form: _Form, text: str, source: str) -> dict[str, Any]:
    return {
        "error": form.error,
        "errorCode": form.code,
        "persona": form.persona,
        "category": form.category,
        "errorMessage": text,
        "errorClass": form.error_class,
        "host": None,
        "context": {"sourceType": source},
    }
