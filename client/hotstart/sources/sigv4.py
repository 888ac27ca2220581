"""AWS Signature Version 4 for requests with headers: a pure function of credentials, time and request."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote

__all__ = ["EMPTY_SHA256", "Credentials", "canonical_query", "encode_path", "sign"]

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What requests are signed with. All but the key id is secret and not in the repr.

    Attributes:
        access_key: the key id.
        secret_key: the key.
        session_token: of temporary credentials; None for lasting ones.
        expires_at: seconds since the epoch; None for lasting ones.
    """

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None


def encode_path(path: str) -> str:
    """Return a path percent-encoded as S3 signs it: once, all but unreserved characters and ``/``."""
    return quote(path, safe="/~")


def canonical_query(parameters: Sequence[tuple[str, str]]) -> str:
    """Return a query string that is its own canonical form: encoded, and sorted by its encoded names."""
    pairs = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in parameters)
    return "&".join(f"{name}={value}" for name, value in pairs)


def sign(
    credentials: Credentials,
    *,
    region: str,
    service: str,
    now: float,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    payload_sha256: str = EMPTY_SHA256,
) -> dict[str, str]:
    """Return the headers to send: those given and the signature's own.

    Args:
        credentials: to sign with.
        region: of the bucket or service.
        service: ``s3`` or ``sts``.
        now: seconds since the epoch.
        method: upper case.
        path: encoded, as it is sent (``encode_path``).
        query: encoded and sorted, as it is sent (``canonical_query``).
        headers: all are signed, so none may be changed on the way; ``Host`` must be there.
        payload_sha256: hex.
    """
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    sent = {**headers, "X-Amz-Date": moment, "X-Amz-Content-Sha256": payload_sha256}
    if credentials.session_token is not None:
        sent["X-Amz-Security-Token"] = credentials.session_token
    canonical = sorted((name.lower(), " ".join(value.split())) for name, value in sent.items())
    names = ";".join(name for name, _ in canonical)
    request = "\n".join(
        (method, path, query, *(f"{name}:{value}" for name, value in canonical), "", names, payload_sha256)
    )
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join((_ALGORITHM, moment, scope, hashlib.sha256(request.encode("utf-8")).hexdigest()))
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    signature = _hmac(key, to_sign).hex()
    sent["Authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return sent


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode("utf-8"), "sha256")
