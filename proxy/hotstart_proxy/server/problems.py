"""One table from errors to HTTP statuses, and the problem documents (RFC 9457) that tell of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from hotstart.wire import documents
from hotstart.wire.errors import FormatError, HotstartError, IntegrityError, InvalidReference
from hotstart.wire.ranges import RangeNotSatisfiable
from hotstart_proxy.cache.answers import CacheClosed, NotFound, NotKept, Pinned, PinRefused
from hotstart_proxy.origins.base import (
    ObjectChanged,
    OriginDenied,
    OriginError,
    OriginLoop,
    OriginPaused,
    OriginUnreachable,
)
from hotstart_proxy.stores.base import NeverFits, NoSpaceNow, StoreError

from .s3 import errors as s3_errors
from .selection import PreconditionFailed
from .tiers import BatchFull, InvalidTier

__all__ = [
    "PROBLEM_MEDIA_TYPE",
    "STATUSES",
    "Form",
    "InvalidQuery",
    "LoopDetected",
    "MethodNotAllowed",
    "Moved",
    "NoSuchRoute",
    "NotTheCdn",
    "Problem",
    "Unauthorized",
    "WorkersSilent",
    "native_form",
    "problem_of",
]

PROBLEM_MEDIA_TYPE = "application/problem+json"


class NoSuchRoute(HotstartError):
    """The path is none that this listener serves."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__("this listener serves no such path; GET / lists what there is")


class MethodNotAllowed(HotstartError):
    """The path is served, but not by this method.

    Attributes:
        allowed: the methods that it is served by.
    """

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        self.method = method
        self.allowed = allowed
        super().__init__(f"expected {' or '.join(allowed)}")


class Moved(HotstartError):
    """The path is valid but not in its canonical spelling.

    Attributes:
        location: the canonical path and query.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        super().__init__("write @ literally")


class Unauthorized(HotstartError):
    """A bearer token is needed, and none or a wrong one came.

    Attributes:
        given: some token came.
    """

    def __init__(self, *, given: bool) -> None:
        self.given = given
        super().__init__(
            "the bearer token is not one of this proxy's"
            if given
            else "send the header Authorization: Bearer TOKEN (the client takes it from HOTSTART_TOKEN)"
        )


class NotTheCdn(HotstartError):
    """The origin's secret is needed, and none or a wrong one came.

    Attributes:
        given: some secret came.
    """

    def __init__(self, *, given: bool) -> None:
        self.given = given
        super().__init__(
            "the origin's secret is not one of this proxy's, or came twice"
            if given
            else "this listener is for a CDN, which sends the header X-Hotstart-Origin-Secret"
        )


class InvalidQuery(HotstartError):
    """A query parameter has a value that it cannot have."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(f"query parameter {name}: {reason}")


class LoopDetected(HotstartError):
    """A request has come through this very proxy before, or through more of them than any chain has.

    Attributes:
        names: the proxies that it came through.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        super().__init__(
            f"the request has come through {len(names)} proxies and leads back to this one, or on without"
            " end: see which --origin each of them has"
        )


class WorkersSilent(HotstartError):
    """The parent of the workers does not say what they counted together."""

    def __init__(self) -> None:
        super().__init__(
            "the process that gathers the metrics of all workers does not answer; it may be gone"
        )


# Looked up along an error's classes, the most special first. "Cannot" is never "missing": whatever goes wrong
# at the origin is 502 or 504, and 404 is only what the origin itself says is not there.
STATUSES: Mapping[type[HotstartError], tuple[int, str]] = {
    Moved: (308, "not-canonical"),
    InvalidReference: (400, "invalid-reference"),
    InvalidQuery: (400, "invalid-query"),
    InvalidTier: (400, "invalid-tier"),
    s3_errors.MalformedKey: (400, "malformed-key"),
    s3_errors.MalformedAuthorization: (400, "malformed-authorization"),
    Unauthorized: (401, "unauthorized"),
    s3_errors.AccessDenied: (403, "access-denied"),
    s3_errors.UnknownAccessKey: (403, "unknown-access-key"),
    s3_errors.SignatureMismatch: (403, "signature-mismatch"),
    s3_errors.TooSkewed: (403, "time-too-skewed"),
    NotTheCdn: (403, "not-the-cdn"),
    NoSuchRoute: (404, "no-such-route"),
    NotFound: (404, "not-found"),
    s3_errors.NoSuchBucket: (404, "no-such-bucket"),
    MethodNotAllowed: (405, "method-not-allowed"),
    NotKept: (409, "not-kept"),
    Pinned: (409, "pinned"),
    PreconditionFailed: (412, "precondition-failed"),
    RangeNotSatisfiable: (416, "range-not-satisfiable"),
    BatchFull: (429, "batch-full"),
    s3_errors.NotImplementedHere: (501, "not-implemented"),
    FormatError: (502, "origin-malformed"),
    IntegrityError: (502, "origin-damaged"),
    OriginError: (502, "origin-failed"),
    OriginUnreachable: (502, "origin-unreachable"),
    OriginDenied: (502, "origin-denied"),
    OriginPaused: (503, "origin-paused"),
    ObjectChanged: (502, "origin-changed"),
    OriginLoop: (508, "loop"),
    LoopDetected: (508, "loop"),
    StoreError: (503, "store-failed"),
    NeverFits: (503, "store-full"),
    NoSpaceNow: (503, "store-full"),
    CacheClosed: (503, "draining"),
    PinRefused: (507, "pin-refused"),
    WorkersSilent: (503, "workers-silent"),
    HotstartError: (500, "internal"),
}
_TIMED_OUT = (504, "origin-timed-out")


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document before it is written.

    Attributes:
        status: HTTP status.
        code: the member by which programs tell problems apart.
        detail: one sentence for people.
        members: more facts.
        headers: more response headers.
    """

    status: int
    code: str
    detail: str
    members: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def dump(self) -> bytes:
        """Serialize (RFC 9457); the type is about:blank, so the title is the status's own phrase."""
        return documents.dump_json(
            {
                "type": "about:blank",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "detail": self.detail,
                "code": self.code,
                **self.members,
            }
        )


@dataclass(frozen=True, slots=True)
class Form:
    """A problem as a protocol puts it; headers besides those that every answer has."""

    status: int
    headers: dict[str, str]
    body: bytes


def native_form(problem: Problem) -> Form:
    """Put a problem as the native API does, as a problem document."""
    headers = {"Content-Type": PROBLEM_MEDIA_TYPE, "Cache-Control": "no-store", **problem.headers}
    return Form(problem.status, headers, problem.dump())


def problem_of(error: HotstartError) -> Problem:
    """Choose status and code for an error, and gather what its answer must carry besides."""
    kind = next(kind for kind in type(error).__mro__ if kind in STATUSES)
    status, code = STATUSES[kind]
    if isinstance(error, OriginError) and not isinstance(error, OriginPaused) and _timed_out(error):
        status, code = _TIMED_OUT
    detail = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
    return Problem(status, code, detail, _members(error), _headers(error))


def _timed_out(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return True
        # Libraries often raise their own error while handling the time-out, without saying from what.
        cause = cause.__cause__ or cause.__context__
    return False


def _members(error: HotstartError) -> dict[str, object]:
    if isinstance(error, NotFound):
        return {"what": error.what, "name": error.name, "known": list(error.known)}
    if isinstance(error, PinRefused):
        return {
            "needed_bytes": error.needed_bytes,
            "pinned_bytes": error.pinned_bytes,
            "budget_bytes": error.budget_bytes,
        }
    return {}


def _headers(error: HotstartError) -> dict[str, str]:
    if isinstance(error, Moved):
        return {"Location": error.location}
    if isinstance(error, MethodNotAllowed):
        return {"Allow": ", ".join(error.allowed)}
    if isinstance(error, RangeNotSatisfiable):
        return {"Content-Range": f"bytes */{error.size}", "Accept-Ranges": "bytes"}
    if isinstance(error, OriginUnreachable) and error.retry_after_seconds is not None:
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_seconds)))}
    if isinstance(error, BatchFull):
        return {"Retry-After": str(error.retry_after_seconds)}
    if isinstance(error, PreconditionFailed):
        return {"ETag": error.etag}
    if isinstance(error, Unauthorized):
        # RFC 6750, 3: the error code only where a token came.
        fault = ', error="invalid_token"' if error.given else ""
        return {"WWW-Authenticate": f'Bearer realm="hotstart"{fault}'}
    return {}
