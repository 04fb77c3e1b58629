"""The exception tree.

Every error that ends an operation is an `RtaError`: it knows its code, its HTTP status and whether trying again makes
sense, and it survives pickling, because Ray sends it across processes. Errors of a single event are values, not
exceptions (`rta.events.verdicts`).
"""

from __future__ import annotations

from typing import ClassVar


class RtaError(Exception):
    """Base of all errors of rta.

    Args:
        message: What was being done and what was wrong, with names in quotes and numbers with units.
        hint: What to do about it; empty when there is nothing to say.
        retry_after_s: When trying again makes sense, after how many seconds; None otherwise.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str, hint: str = "", retry_after_s: int | None = None) -> None:
        super().__init__(message, hint, retry_after_s)
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def document(self) -> dict[str, str]:
        """The error as the interface shows it."""
        return {"error": self.code, "message": self.message, "hint": self.hint}


class InvariantError(RtaError):
    """Cannot happen. The process that meets it dies and restarts from its committed offset."""

    code = "invariant"


class ConfigError(RtaError):
    """A setting is unknown, of the wrong type or impossible here."""

    code = "invalid_config"
    status = 400


class BadRequestError(RtaError):
    """The request as a whole can't be read; nothing of it took effect."""

    code = "bad_request"
    status = 400


class InvalidQueryError(BadRequestError):
    """The question is malformed or asks for what the datasource does not have."""

    code = "invalid_query"


class InvalidDatasourceError(BadRequestError):
    """The definition of a datasource is malformed or contradicts itself."""

    code = "invalid_datasource"


class NotFoundError(RtaError):
    """No such datasource, table, document."""

    code = "not_found"
    status = 404


class ConflictError(RtaError):
    """Somebody else changed it first, or it exists already."""

    code = "conflict"
    status = 409


class TooLargeError(RtaError):
    """Larger than a stated limit."""

    code = "too_large"
    status = 413


class UnsupportedMediaError(RtaError):
    """Unknown content type or encoding."""

    code = "unsupported_media_type"
    status = 415


class QuotaExceededError(RtaError):
    """A source sends more than it may. Nothing of the request was accepted; later it will be."""

    code = "quota_exceeded"
    status = 429


class OutOfMemoryError(RtaError):
    """A query needs more memory than it may have."""

    code = "query_memory"
    status = 413


class UnavailableError(RtaError):
    """Not acknowledged, or not answerable now. Trying again later is safe."""

    code = "unavailable"
    status = 503

    def __init__(self, message: str, hint: str = "", retry_after_s: int | None = 1) -> None:
        super().__init__(message, hint, retry_after_s)


class LogFullError(UnavailableError):
    """The disk under the log has no room, or the log is too far ahead of its readers."""

    code = "log_full"


class AccessError(UnavailableError):
    """The brokers are there and do not let us in: a setting has to be mended. The hint names it."""


class TimeLimitError(RtaError):
    """A query took longer than it may."""

    code = "query_timeout"
    status = 504


class FencedError(RtaError):
    """Somebody with a newer generation owns what this process was about to change. It stands down."""

    code = "fenced"
    status = 409


class PartRefusedError(RtaError):
    """The part does not continue what the newest manifest holds; its aggregator loads that manifest."""

    code = "part_refused"
    status = 409


class LogGapError(RtaError):
    """The log no longer holds, or never held, the offsets that come next. The partition stops with an alarm."""

    code = "log_gap"
    status = 500


class StoreFormatError(RtaError):
    """The folder or bucket was written by a newer rta."""

    code = "store_format"
    status = 500


class CorruptFileError(RtaError):
    """A file of the store can't be read. The message names it."""

    code = "corrupt_file"
    status = 500


class FileGoneError(CorruptFileError):
    """A file that a view names is not there: swept since, or lost. A newer view tells."""


class ViewGoneError(UnavailableError):
    """What a view names beyond the files has been let go of. A newer view has it elsewhere."""
