"""AWS Signature Version 4 as its verifier sees it, sans-IO: from a request's parts to the key that signed it.

Signed in the header ``Authorization`` or in the query (pre-signed). Requests that are served here have no
body, so the digest of none and UNSIGNED-PAYLOAD are all that may stand for one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote_to_bytes

from .errors import (
    AccessDenied,
    MalformedAuthorization,
    NotImplementedHere,
    SignatureMismatch,
    TooSkewed,
    UnknownAccessKey,
)

__all__ = ["SignedRequest", "is_signed", "verify"]

_ALGORITHM = "AWS4-HMAC-SHA256"
_EMPTY = hashlib.sha256(b"").hexdigest()
_UNSIGNED = "UNSIGNED-PAYLOAD"
# What AWS allows, both ways.
_SKEW_SECONDS = 15 * 60
_MOST_EXPIRES_SECONDS = 7 * 86400
_FIELD = re.compile(r"(Credential|SignedHeaders|Signature)=([^,\s]+)")
_MOMENT = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_SIGNATURE = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What of a request a signature covers.

    Attributes:
        method: upper case.
        path: raw, as it was sent, with every prefix.
        query: raw, without the question mark.
        headers: names in lower case, each with all its values in their order.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, Sequence[str]]

    def header(self, name: str) -> str | None:
        """Return the one value of a header, or None."""
        values = self.headers.get(name)
        return ",".join(values) if values else None


@dataclass(frozen=True, slots=True)
class _Signature:
    access_key: str
    date: str
    region: str
    moment: str
    signed_headers: tuple[str, ...]
    signature: str
    payload: str
    expires_seconds: int | None

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/s3/aws4_request"


def is_signed(request: SignedRequest) -> bool:
    """Tell whether a request claims any signature at all, of whichever version."""
    if (request.header("authorization") or "").startswith("AWS"):
        return True
    names = {name for name, _ in _pairs(request.query)}
    return bool(names & {"X-Amz-Algorithm", "X-Amz-Signature", "AWSAccessKeyId"})


def verify(request: SignedRequest, secret_of: Callable[[str], str | None], now: float) -> str:
    """Check the signature of a request; return the id of the key that made it.

    Args:
        request: what was sent.
        secret_of: gives the secret of a key id, None for an unknown one.
        now: seconds since the epoch.

    Raises:
        AccessDenied, MalformedAuthorization, NotImplementedHere, SignatureMismatch, TooSkewed,
        UnknownAccessKey: it is not admitted.
    """
    found = _read(request)
    _check_time(found, now)
    if "host" not in found.signed_headers:
        raise AccessDenied("the header Host must be signed")
    for name in request.headers:
        if name.startswith("x-amz-") and name not in found.signed_headers:
            raise AccessDenied(f"the header {name} is not signed")
    secret = secret_of(found.access_key)
    if secret is None:
        raise UnknownAccessKey
    if not hmac.compare_digest(_sign(request, found, secret), found.signature):
        raise SignatureMismatch
    return found.access_key


def _read(request: SignedRequest) -> _Signature:
    authorization = request.header("authorization")
    parameters = dict(_pairs(request.query))
    in_query = "X-Amz-Algorithm" in parameters or "X-Amz-Signature" in parameters
    if in_query and authorization is not None:
        raise MalformedAuthorization("one stands in the header Authorization and another in the query")
    if in_query:
        return _from_query(request, parameters)
    if authorization is None:
        raise AccessDenied("requests must be signed with one of the keys that this proxy knows (--s3-keys)")
    return _from_header(request, authorization)


def _from_header(request: SignedRequest, authorization: str) -> _Signature:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != _ALGORITHM:
        raise MalformedAuthorization(f"Authorization begins {algorithm[:40]!r}")
    fields = dict(_FIELD.findall(rest))
    if set(fields) != {"Credential", "SignedHeaders", "Signature"}:
        raise MalformedAuthorization("expected Credential, SignedHeaders and Signature")
    moment = request.header("x-amz-date")
    if moment is None:
        raise AccessDenied("a signature needs the header X-Amz-Date")
    payload = request.header("x-amz-content-sha256") or _EMPTY
    return _signature(fields, moment, payload, None)


def _from_query(request: SignedRequest, parameters: Mapping[str, str]) -> _Signature:
    if parameters.get("X-Amz-Algorithm") != _ALGORITHM:
        raise MalformedAuthorization(f"X-Amz-Algorithm: expected {_ALGORITHM}")
    try:
        fields = {name: parameters[f"X-Amz-{name}"] for name in ("Credential", "SignedHeaders", "Signature")}
        moment, expires = parameters["X-Amz-Date"], parameters["X-Amz-Expires"]
    except KeyError as error:
        raise MalformedAuthorization(f"{error.args[0]} is missing in the query") from error
    if not (expires.isascii() and expires.isdigit() and len(expires) < 8):
        raise MalformedAuthorization("X-Amz-Expires: expected whole seconds")
    if not 1 <= int(expires) <= _MOST_EXPIRES_SECONDS:
        raise MalformedAuthorization(f"X-Amz-Expires: expected 1 to {_MOST_EXPIRES_SECONDS} seconds")
    payload = request.header("x-amz-content-sha256") or _UNSIGNED
    return _signature(fields, moment, payload, int(expires))


def _signature(fields: Mapping[str, str], moment: str, payload: str, expires: int | None) -> _Signature:
    access_key, _, scope = fields["Credential"].partition("/")
    parts = scope.split("/")
    if len(parts) != 4 or parts[2:] != ["s3", "aws4_request"] or not access_key:
        raise MalformedAuthorization("Credential: expected KEY/DATE/REGION/s3/aws4_request")
    if not _MOMENT.fullmatch(moment) or moment[:8] != parts[0]:
        raise MalformedAuthorization("X-Amz-Date: expected YYYYMMDDTHHMMSSZ of the credential's day")
    if not _SIGNATURE.fullmatch(fields["Signature"]):
        raise MalformedAuthorization("Signature: expected 64 lower-case hex digits")
    if payload.startswith("STREAMING-"):
        raise NotImplementedHere(payload)
    if payload not in (_EMPTY, _UNSIGNED):
        raise MalformedAuthorization("X-Amz-Content-Sha256: a request without a body has another digest")
    names = tuple(fields["SignedHeaders"].split(";"))
    return _Signature(access_key, parts[0], parts[1], moment, names, fields["Signature"], payload, expires)


def _check_time(found: _Signature, now: float) -> None:
    try:
        then = datetime.strptime(found.moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise MalformedAuthorization(f"X-Amz-Date: {found.moment} is no time") from error
    ahead = then - now
    if found.expires_seconds is None:
        if abs(ahead) > _SKEW_SECONDS:
            raise TooSkewed(ahead)
    elif ahead > _SKEW_SECONDS:
        raise AccessDenied("the URL is not valid yet")
    elif -ahead > found.expires_seconds:
        raise AccessDenied("the URL has expired")


def _sign(request: SignedRequest, found: _Signature, secret: str) -> str:
    canonical = "\n".join(
        (
            request.method,
            _encode(unquote_to_bytes(request.path), safe="/"),
            _canonical_query(request.query),
            *(f"{name}:{_header_value(request, name)}" for name in found.signed_headers),
            "",
            ";".join(found.signed_headers),
            found.payload,
        )
    )
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    key = f"AWS4{secret}".encode()
    for part in found.scope.split("/"):
        key = hmac.digest(key, part.encode("utf-8", "surrogateescape"), "sha256")
    to_sign = "\n".join((_ALGORITHM, found.moment, found.scope, digest))
    return hmac.digest(key, to_sign.encode("utf-8", "surrogateescape"), "sha256").hex()


def _header_value(request: SignedRequest, name: str) -> str:
    return ",".join(" ".join(value.split()) for value in request.headers.get(name, ()))


def _canonical_query(query: str) -> str:
    pairs = [
        (_encode(unquote_to_bytes(name)), _encode(unquote_to_bytes(value)))
        for name, value in _raw_pairs(query)
        if name != "X-Amz-Signature"
    ]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _pairs(query: str) -> list[tuple[str, str]]:
    return [(_decode(name), _decode(value)) for name, value in _raw_pairs(query)]


def _raw_pairs(query: str) -> list[tuple[str, str]]:
    parts = [part.partition("=") for part in query.split("&") if part]
    return [(name, value) for name, _, value in parts]


def _decode(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "replace")


def _encode(data: bytes, safe: str = "") -> str:
    return quote(data, safe=f"~{safe}")
