"""The one seam where the errors of botocore and aiohttp become ours, with their cause chained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
)

from .base import ObjectChanged, OriginDenied, OriginError, OriginUnreachable

__all__ = ["NO_UPLOAD", "NoBucket", "code_of", "status_of", "translated"]

# What S3 says of an upload in parts that has ended or was aborted.
NO_UPLOAD = "NoSuchUpload"
# 400s that are about who asks, not about what is asked.
_DENIED_CODES = frozenset(
    (
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "TokenRefreshRequired",
    )
)
_TRANSIENT_CODES = frozenset(("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"))


class NoBucket(OriginUnreachable):
    """The bucket is not there: "cannot", for nobody knows what is missing, and trying again does not help."""


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
        return OriginUnreachable(origin, doing, reason)
    if status in (401, 403) or code in _DENIED_CODES:
        if code in ("403", "AccessDenied"):
            # S3 answers so for a missing object too, to whoever may not list.
            reason += " (a right to the object is missing, or s3:ListBucket to learn that it is not there)"
        return OriginDenied(origin, doing, reason)
    if status in (404, 412, 416):
        return ObjectChanged(origin, doing, reason)
    return OriginError(origin, doing, reason)
