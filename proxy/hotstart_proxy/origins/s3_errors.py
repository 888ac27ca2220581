"""The one seam where the errors of botocore and aiohttp become ours, with their cause chained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime

import aiohttp
from botocore.compat import get_current_datetime
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
)

from .base import ObjectChanged, OriginDenied, OriginError, OriginUnreachable

__all__ = [
    "NO_UPLOAD",
    "ClockSkewed",
    "CredentialsRefused",
    "NoBucket",
    "code_of",
    "retry_reason",
    "status_of",
    "translated",
]

# What S3 says of an upload in parts that has ended or was aborted.
NO_UPLOAD = "NoSuchUpload"
# What is said of credentials that were replaced by others, and what to do where there are no others.
_RENEW = "renew what the environment, profile or role gives"
_REFUSED_CREDENTIALS = {
    "ExpiredToken": f"the credentials' session has ended: {_RENEW}",
    "InvalidAccessKeyId": f"the access key was deleted, or is another service's: {_RENEW}",
    "InvalidToken": f"the session token is not one of this access key's: {_RENEW}",
    "TokenRefreshRequired": f"the session token must be renewed: {_RENEW}",
}
# Answers to HEAD have no body to say more. S3 answers 403 for a missing object too, to whoever may not list.
_BODYLESS_REFUSALS = frozenset(("400", "403"))
_MISSING_RIGHT = "a right to the object is missing, or s3:ListBucket to learn that it is not there"
_THROTTLING_CODES = frozenset(("SlowDown", "Throttling", "ThrottlingException"))
_TRANSIENT_CODES = _THROTTLING_CODES | {"RequestTimeout"}
_SKEWED_CODE = "RequestTimeTooSkewed"


class NoBucket(OriginUnreachable):
    """The bucket is not there: "cannot", for nobody knows what is missing, and trying again does not help."""


class CredentialsRefused(OriginDenied):
    """The origin does not take these credentials, or no longer: others may do."""


class ClockSkewed(OriginDenied):
    """The origin's clock and this host's differ by more than a signature allows.

    Attributes:
        ahead_seconds: by how much this host's clock is ahead; negative where it is behind, None where the
            answer had no date.
    """

    def __init__(self, origin: str, doing: str, ahead_seconds: float | None) -> None:
        self.ahead_seconds = ahead_seconds
        by = "differs too much from"
        if ahead_seconds is not None:
            by = f"is {abs(ahead_seconds) / 60:.0f} minutes {'ahead of' if ahead_seconds > 0 else 'behind'}"
        reason = f"this host's clock {by} the origin's, which allows 15 minutes: set it right (NTP)"
        super().__init__(origin, doing, reason)


def status_of(error: ClientError) -> int:
    """Return the HTTP status that came back."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: ClientError) -> str:
    """Return the S3 error code that came back; the status as text where an answer has no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def translated(origin: str, doing: str) -> Iterator[None]:
    """Turn what goes wrong inside into an ``OriginError``.

    Args:
        origin: its URL.
        doing: what is attempted.
    """
    try:
        yield
    except ClientError as error:
        raise _of_answer(origin, doing, error) from error
    except (
        NoCredentialsError,
        PartialCredentialsError,
        CredentialRetrievalError,
        TokenRetrievalError,
    ) as error:
        reason = f"{error}: give AWS credentials in one of the ordinary ways (environment, profile, role)"
        raise OriginDenied(origin, doing, reason) from error
    except RuntimeError as error:
        # botocore's word for credentials that are over and cannot be renewed; nothing else is caught here.
        if "expired" not in str(error):
            raise
        raise OriginDenied(origin, doing, f"{error} Renew the session that they come from.") from error
    except TimeoutError as error:
        raise OriginUnreachable(origin, doing, str(error) or "no answer in time") from error
    except (BotoCoreError, aiohttp.ClientError, OSError) as error:
        raise OriginUnreachable(origin, doing, str(error) or type(error).__name__) from error


def _of_answer(origin: str, doing: str, error: ClientError) -> OriginError:
    status, code = status_of(error), code_of(error)
    message = str(error.response.get("Error", {}).get("Message", ""))
    reason = f"{status} {code}: {message}" if code != str(status) else f"{status} {message}"
    if code == "NoSuchBucket":
        return NoBucket(origin, doing, f"{reason} (create the bucket, or correct the URL)")
    if code in _TRANSIENT_CODES or status >= 500 or status == 429:
        return OriginUnreachable(origin, doing, reason, retry_after_seconds=_retry_after(error))
    if code == _SKEWED_CODE:
        return ClockSkewed(origin, doing, _ahead_seconds(error))
    if code in _REFUSED_CREDENTIALS:
        return CredentialsRefused(origin, doing, f"{reason} ({_REFUSED_CREDENTIALS[code]})")
    if code in _BODYLESS_REFUSALS:
        return CredentialsRefused(origin, doing, f"{reason} ({_MISSING_RIGHT})")
    if status in (401, 403) or code == "AuthorizationHeaderMalformed":
        return OriginDenied(
            origin, doing, f"{reason} ({_MISSING_RIGHT})" if code == "AccessDenied" else reason
        )
    if status in (404, 412, 416):
        return ObjectChanged(origin, doing, reason)
    return OriginError(origin, doing, reason)


def _header(error: ClientError, name: str) -> str:
    return str(error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(name, ""))


def _retry_after(error: ClientError) -> float | None:
    # RFC 9110, 10.2.3; S3 and its kin send seconds, never a date.
    value = _header(error, "retry-after")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


def _ahead_seconds(error: ClientError) -> float | None:
    try:
        theirs = parsedate_to_datetime(_header(error, "date"))
    except ValueError:
        return None
    # The clock that the request was signed by.
    return float((get_current_datetime().replace(tzinfo=UTC) - theirs).total_seconds())


def retry_reason(error: OriginUnreachable) -> str:
    """Return the word under which another attempt is counted.

    It is ``timeout``, ``throttled``, ``server-error``, ``connection`` or ``broken-answer``.
    """
    match error.__cause__:
        case TimeoutError():
            return "timeout"
        case ClientError() as answer if code_of(answer) in _THROTTLING_CODES or status_of(answer) == 429:
            return "throttled"
        case ClientError():
            return "server-error"
        case None:
            return "broken-answer"
        case _:
            return "connection"
