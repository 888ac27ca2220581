"""What stands behind the question mark of a request for a bucket or an object."""

from __future__ import annotations

from urllib.parse import unquote

from hotstart_proxy.server.problems import InvalidQuery

from .documents import ListingParameters
from .errors import NotImplementedHere
from .listings import MOST_KEYS, ListingQuery, parse_token

__all__ = ["check_object_query", "parse_listing", "parse_query"]

# Sub-resources and overrides of S3 that would mean another answer: better said than passed over.
_NOT_SERVED = frozenset(
    (
        *("accelerate", "acl", "analytics", "attributes", "cors", "encryption", "intelligent-tiering"),
        *("inventory", "legal-hold", "lifecycle", "logging", "metadataTable", "metrics", "notification"),
        *("object-lock", "ownershipControls", "policy", "policyStatus", "publicAccessBlock", "replication"),
        *("requestPayment", "retention", "select", "session", "tagging", "torrent", "uploadId", "uploads"),
        *("versions", "website", "response-cache-control", "response-content-disposition"),
        *("response-content-encoding", "response-content-language", "response-content-type"),
        "response-expires",
    )
)


def parse_query(query: str) -> dict[str, str]:
    """Return the parameters of a raw query, the last of each name.

    Raises:
        NotImplementedHere: one of them asks for what is not served here.
    """
    parts = [part.partition("=") for part in query.split("&") if part]
    # A plus is a plus: S3's clients write a space as %20.
    parameters = {unquote(name): unquote(value) for name, _, value in parts}
    for name in parameters:
        if name in _NOT_SERVED:
            raise NotImplementedHere(f"the query parameter {name}")
    return parameters


def check_object_query(parameters: dict[str, str]) -> bool:
    """Check what GetObject and HeadObject may ask for; return whether it is by part (``partNumber=1``).

    Raises:
        InvalidQuery: a version of the object, or a part that there is not.
    """
    if parameters.get("versionId", "null") != "null":
        raise InvalidQuery("versionId", "objects have no versions of S3's kind; the key says the version")
    part = parameters.get("partNumber")
    if part not in (None, "1"):
        raise InvalidQuery("partNumber", "every object has one part")
    return part is not None


def parse_listing(parameters: dict[str, str]) -> tuple[ListingParameters, ListingQuery]:
    """Read the parameters of ListObjects, either version.

    Raises:
        InvalidQuery: one of them has a value that it cannot have.
    """
    version = 2 if parameters.get("list-type") == "2" else 1
    if parameters.get("list-type", "2") != "2":
        raise InvalidQuery("list-type", "expected 2, or nothing for version 1")
    encoding = parameters.get("encoding-type")
    if encoding not in (None, "", "url"):
        raise InvalidQuery("encoding-type", "expected url")
    most = min(_most(parameters.get("max-keys")), MOST_KEYS)
    continuation = parameters.get("continuation-token") if version == 2 else None
    position = parameters.get("start-after" if version == 2 else "marker")
    after = position or ""
    if continuation is not None:
        found = parse_token(continuation)
        if found is None:
            raise InvalidQuery("continuation-token", "it is none of those that a listing here has given")
        after = found
    prefix, delimiter = parameters.get("prefix", ""), parameters.get("delimiter", "")
    asked = ListingParameters(
        version=version,
        prefix=prefix,
        delimiter=delimiter,
        most=most,
        position=position,
        continuation=continuation,
        url_encoded=encoding == "url",
        with_owner=version == 1 or parameters.get("fetch-owner") == "true",
    )
    return asked, ListingQuery(prefix, delimiter, after, most)


def _most(text: str | None) -> int:
    if not text:
        return MOST_KEYS
    if not (text.isascii() and text.isdigit() and len(text) < 11):
        raise InvalidQuery("max-keys", "expected a whole number from 0")
    return int(text)
