"""Problems as S3 puts them: clients go by the code in the XML, and retry by status and code."""

from __future__ import annotations

from collections.abc import Mapping

from hotstart_proxy.server.problems import Form, Problem

from .documents import XML, error

__all__ = ["s3_form"]

# Where S3 has a code of its own; all others are by status.
_CODES: Mapping[str, str] = {
    "not-found": "NoSuchKey",
    "no-such-bucket": "NoSuchBucket",
    "malformed-key": "InvalidURI",
    "invalid-query": "InvalidArgument",
    "invalid-tier": "InvalidArgument",
    "access-denied": "AccessDenied",
    "unauthorized": "AccessDenied",
    "unknown-access-key": "InvalidAccessKeyId",
    "signature-mismatch": "SignatureDoesNotMatch",
    "time-too-skewed": "RequestTimeTooSkewed",
    "malformed-authorization": "AuthorizationHeaderMalformed",
    "method-not-allowed": "MethodNotAllowed",
    "not-implemented": "NotImplemented",
    "precondition-failed": "PreconditionFailed",
    "range-not-satisfiable": "InvalidRange",
    "batch-full": "SlowDown",
}
_UNAVAILABLE = "ServiceUnavailable"
_INTERNAL = "InternalError"
# What S3 itself answers with, where that is another one: clients retry 503 SlowDown, and know 403.
_STATUSES: Mapping[str, int] = {"batch-full": 503, "unauthorized": 403}


def s3_form(problem: Problem, resource: str) -> Form:
    """Put a problem into S3's form.

    Args:
        problem: what went wrong.
        resource: the raw path that was asked for.
    """
    status = _STATUSES.get(problem.code, problem.status)
    code = _CODES.get(problem.code) or (_UNAVAILABLE if status in (502, 503, 504) else _INTERNAL)
    members = {"Resource": resource}
    content_range = problem.headers.get("Content-Range")
    if content_range is not None:
        members["ActualObjectSize"] = content_range.rpartition("/")[2]
    headers = {name: value for name, value in problem.headers.items() if name != "WWW-Authenticate"}
    body = error(code, problem.detail, members)
    return Form(status, {"Content-Type": XML, "Cache-Control": "no-store", **headers}, body)
