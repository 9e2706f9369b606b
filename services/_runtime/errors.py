"""Catalogue of errors: gRPC and HTTP status of each reason, and the words that may leave the process.

Every error answer carries ``google.rpc.ErrorInfo`` (domain ``eoforge``, the reason, the request id), and one about a
bad argument ``google.rpc.BadRequest`` with the field, where :func:`argument` named it. Messages written
for callers pass; those that may name hosts, paths or secrets are replaced by a fixed sentence with the request id, and
the log holds the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from eoforge.errors import EoforgeError

DOMAIN = "eoforge"
DETAILS_KEY = "grpc-status-details-bin"

log = structlog.get_logger("access")


class Unauthenticated(EoforgeError):
    """Missing or invalid credentials."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(EoforgeError):
    """Call that the caller is not allowed to make."""

    reason = "PERMISSION_DENIED"


class Retriable(EoforgeError):
    """Refusal that asks to try again after ``retry_after`` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QuotaExceeded(Retriable):
    """Calls beyond the quota of the caller."""

    reason = "QUOTA_EXCEEDED"


class Overloaded(Retriable):
    """Full queue or exhausted limit."""

    reason = "OVERLOADED"


class NotReady(Retriable):
    """Call before the service has the data that it serves."""

    reason = "NOT_READY"


class IndexChanged(EoforgeError):
    """Page token of an index version that is not served any more."""

    reason = "INDEX_CHANGED"


class OtherBundle(EoforgeError):
    """Code of another bundle than that of the index: distances would mean nothing."""

    reason = "OTHER_BUNDLE"


class DeadlineExceeded(EoforgeError):
    """Deadline that passed before the work was done."""

    reason = "DEADLINE_EXCEEDED"


class Unimplemented(EoforgeError):
    """Call of the protocol that this service does not offer."""

    reason = "UNIMPLEMENTED"


@dataclass(frozen=True, slots=True)
class Entry:
    """Status of one reason; ``fixed`` replaces the words of the error where set."""

    status: grpc.StatusCode
    http: int
    fixed: str | None = None


CATALOGUE: dict[str, Entry] = {
    "INVALID_ARGUMENT": Entry(grpc.StatusCode.INVALID_ARGUMENT, 400),
    "DATA_REFUSED": Entry(grpc.StatusCode.INVALID_ARGUMENT, 422),
    "LIMIT_EXCEEDED": Entry(grpc.StatusCode.INVALID_ARGUMENT, 413),
    "NOT_FOUND": Entry(grpc.StatusCode.NOT_FOUND, 404),
    "UNAUTHENTICATED": Entry(grpc.StatusCode.UNAUTHENTICATED, 401),
    "PERMISSION_DENIED": Entry(grpc.StatusCode.PERMISSION_DENIED, 403),
    "QUOTA_EXCEEDED": Entry(grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    "OVERLOADED": Entry(grpc.StatusCode.RESOURCE_EXHAUSTED, 503),
    "NOT_READY": Entry(grpc.StatusCode.UNAVAILABLE, 503),
    "INDEX_CHANGED": Entry(grpc.StatusCode.FAILED_PRECONDITION, 409),
    "OTHER_BUNDLE": Entry(grpc.StatusCode.FAILED_PRECONDITION, 409),
    "CONFLICT": Entry(grpc.StatusCode.ABORTED, 409),
    "NOT_LEADER": Entry(grpc.StatusCode.UNAVAILABLE, 503),
    "WRONG_STATE": Entry(grpc.StatusCode.FAILED_PRECONDITION, 409),
    "DEADLINE_EXCEEDED": Entry(grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    "UNIMPLEMENTED": Entry(grpc.StatusCode.UNIMPLEMENTED, 501),
    "STORE_UNAVAILABLE": Entry(
        grpc.StatusCode.UNAVAILABLE, 503, "the service cannot reach its store at the moment; try again later"
    ),
    "BUNDLE_REFUSED": Entry(
        grpc.StatusCode.FAILED_PRECONDITION, 500, "the service's model is damaged or does not fit; tell its operator"
    ),
    "INTERNAL": Entry(grpc.StatusCode.INTERNAL, 500, "the service failed; tell its operator the request id"),
}


_FOREIGN: dict[str, tuple[str, str | None]] = {
    "kserve.errors.InvalidInput": ("INVALID_ARGUMENT", "expected an inference request of Open Inference Protocol V2"),
    "kserve.errors.ModelNotFound": ("NOT_FOUND", "there is no such model; GET /v2/models lists the models"),
    "kserve.errors.ModelNotReady": ("OVERLOADED", "the model is not ready; try again later"),
    "kserve.errors.ServerNotReady": ("OVERLOADED", "the service is not ready; try again later"),
    "fastapi.exceptions.RequestValidationError": ("INVALID_ARGUMENT", "the path, query or body has another form"),
    "google.protobuf.message.DecodeError": ("INVALID_ARGUMENT", "the bytes are no message of this call"),
    "obstore.exceptions.BaseError": ("STORE_UNAVAILABLE", None),
    "builtins.OSError": ("STORE_UNAVAILABLE", None),
}
"""Class names of other packages -> reason and words, because their own words quote requests.

Only stores read and write files while a call is answered, and Lance raises OSError.
"""
MAX_MESSAGE_CHARS = 1000
"""Longest message of an answer; gRPC sends messages as headers, whose size is limited."""
MAX_VIOLATION_CHARS = 200
"""Longest description of a field: it repeats the message, in the same headers."""


@contextmanager
def argument(field: str) -> Iterator[None]:
    """Names the field of the request that an error of the block is about.

    Args:
        field: Path from the request, such as ``spec``; blocks within put theirs behind it.
    """
    try:
        yield
    except EoforgeError as error:
        error.field = f"{field}.{error.field}" if error.field else field
        raise


@dataclass(frozen=True, slots=True)
class Problem:
    """Error in the form that the caller sees."""

    reason: str
    entry: Entry
    message: str
    request_id: str
    retry_after: float | None = None
    field: str = ""

    @property
    def hides(self) -> bool:
        """Whether the log must hold what the answer does not say."""
        return self.entry.fixed is not None

    def rich_status(self) -> status_pb2.Status:
        """The status with its ErrorInfo and, where they help, BadRequest and RetryInfo."""
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata={"request_id": self.request_id})
        details: list[Message] = [info]
        if self.entry.status is grpc.StatusCode.INVALID_ARGUMENT:
            about = self.message[:MAX_VIOLATION_CHARS]
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=about, reason=self.reason
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after is not None:
            details.append(error_details_pb2.RetryInfo(retry_delay=duration(self.retry_after)))
        packed = []
        for detail in details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        return status_pb2.Status(code=self.entry.status.value[0], message=self.message, details=packed)


def duration(seconds: float) -> duration_pb2.Duration:
    """Seconds as a Duration, rounded up to whole milliseconds so that a client never comes back too early."""
    out = duration_pb2.Duration()
    out.FromMilliseconds(math.ceil(seconds * 1000))
    return out


def describe(error: BaseException, request_id: str) -> Problem:
    """Problem for ``error``; errors outside the catalogue are INTERNAL."""
    if isinstance(error, TimeoutError):
        error = DeadlineExceeded("the deadline passed before the work was done; allow more time or ask for less")
    elif isinstance(error, NotImplementedError):
        error = Unimplemented("this service does not offer that call")
    reason, words = _foreign(error) or (error.reason if isinstance(error, EoforgeError) else "INTERNAL", None)
    if reason not in CATALOGUE:
        reason = "INTERNAL"
    entry = CATALOGUE[reason]
    message = _printable(words or str(error)) if entry.fixed is None else f"{entry.fixed} (request id {request_id})"
    waiting, field = getattr(error, "retry_after", None), getattr(error, "field", "")
    return Problem(reason, entry, message, request_id, waiting, field)


def _foreign(error: BaseException) -> tuple[str, str | None] | None:
    """Reason and words of an error of another package; by class name, because a service need not have loaded it."""
    names = (f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__)
    return next((_FOREIGN[name] for name in names if name in _FOREIGN), None)


def _printable(message: str) -> str:
    """A message of bounded length without control characters."""
    shown = "".join(char if char.isprintable() else " " for char in message[:MAX_MESSAGE_CHARS])
    return shown if len(message) <= MAX_MESSAGE_CHARS else f"{shown} ..."


def report(problem: Problem, error: BaseException) -> None:
    """Log line with what the answer does not say."""
    if problem.hides:
        log.error("failed", reason=problem.reason, request_id=problem.request_id, exc_info=error)


def forget(error: BaseException) -> None:
    """Drops the tracebacks of a reported error: frames hold the message, and errors hold frames in reference cycles."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__


async def abort(context: grpc.aio.ServicerContext[Any, Any], problem: Problem) -> NoReturn:
    """Ends the call with the problem's status and details.

    Raises:
        grpc.aio.AbortError: Always; that is how gRPC ends a handler.
    """
    trailers = ((DETAILS_KEY, problem.rich_status().SerializeToString()), ("x-request-id", problem.request_id))
    await context.abort(problem.entry.status, problem.message, trailers)
    raise RuntimeError("gRPC's abort returned")
